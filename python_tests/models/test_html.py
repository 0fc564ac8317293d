"""scikit-learn's picture of an estimator in a notebook: options, and the link to the method's page."""

from __future__ import annotations

import importlib.metadata
import re
from email.message import Message
from pathlib import Path
from urllib.parse import unquote, urlparse

import pytest
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from desc_ext.engine import documentation
from desc_ext.models import DESC, MODELS

_LINK = re.compile(r'<a class="sk-estimator-doc-link[^"]*"[^>]*href="([^"]*)"')


@pytest.mark.parametrize("method", MODELS)
def test_every_estimator_links_to_its_page(method):
    (address,) = _LINK.findall(MODELS[method]()._repr_html_())
    page = Path(unquote(urlparse(address).path))
    assert page.read_text(encoding="utf-8").startswith(f"# {MODELS[method].__name__} ")


def test_options_are_shown_in_a_pipeline():
    html = make_pipeline(StandardScaler(), DESC(7, latent_dim=9))._repr_html_()
    assert len([address for address in _LINK.findall(html) if address.endswith("/desc.md")]) == 1
    shown = re.sub(r"<[^>]+>|\s+", " ", html)
    assert re.search(r"\bn_clusters +7\b", shown)
    assert re.search(r"\blatent_dim +9\b", shown)


def test_the_site_that_the_package_names_is_linked(monkeypatch):
    named = Message()
    named["Project-URL"] = "Source, https://example.org/code"
    monkeypatch.setattr(importlib.metadata, "metadata", lambda name: named)
    assert DESC()._get_doc_link().startswith("file:")
    named["Project-URL"] = "Documentation, https://example.org/desc/"
    assert DESC()._get_doc_link() == "https://example.org/desc/methods/desc.html"


def test_without_pages_there_is_no_link(monkeypatch, tmp_path):
    monkeypatch.setattr(documentation, "_DOCS", tmp_path)
    assert _LINK.findall(DESC()._repr_html_()) == []


def test_estimators_of_others_are_not_linked():
    class Own(DESC):
        pass

    assert Own()._get_doc_link() == ""
