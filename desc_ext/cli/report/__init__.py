"""The report of a fit: one HTML file that needs nothing else, no script, no network."""

from desc_ext.cli.report.content import Report, describe_run
from desc_ext.cli.report.render import REPORT_FILE, write_report

__all__ = ["REPORT_FILE", "Report", "describe_run", "write_report"]
