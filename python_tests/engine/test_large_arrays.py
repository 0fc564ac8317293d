"""The memory that is free, by files as the system and containers have them."""

from __future__ import annotations

import os

import pytest

from desc_ext.engine import large_arrays
from desc_ext.engine.large_arrays import free_memory

GIB = 2**30


@pytest.fixture
def groups(tmp_path, monkeypatch):
    """Files of both versions of control groups, which are written by name."""

    def group(version: int) -> tuple[str, str, str, str]:
        names = [str(tmp_path / f"{version}-{name}") for name in ("limit", "used", "statistics")]
        return *names, "inactive_file" if version == 2 else "total_inactive_file"

    monkeypatch.setattr(large_arrays, "_GROUPS", [group(2), group(1)])
    return lambda name, text: (tmp_path / name).write_text(text)


def pages(name: str) -> int:
    return os.sysconf(name) * os.sysconf("SC_PAGE_SIZE")


def test_it_lies_between_what_is_unused_and_all(groups):
    assert 0.5 * pages("SC_AVPHYS_PAGES") < free_memory() < pages("SC_PHYS_PAGES")


@pytest.mark.parametrize("version", [1, 2])
def test_a_container_has_what_its_limit_leaves(groups, version):
    groups(f"{version}-limit", f"{GIB}\n")
    groups(f"{version}-used", f"{GIB - 5 * 2**20}\n")
    assert free_memory() == 5 * 2**20
    name = "inactive_file" if version == 2 else "total_inactive_file"
    groups(f"{version}-statistics", f"anon 77\nactive_file 9\n{name} {2**20}\nunevictable 0\n")
    assert free_memory() == 6 * 2**20
    groups(f"{version}-used", f"{2 * GIB}\n")
    assert free_memory() == 0


def test_no_limit_is_that_of_the_machine(groups):
    groups("2-limit", "max\n")
    groups("2-used", "123\n")
    groups("1-limit", f"{2**63 - 4096}\n")  # how version 1 says so
    groups("1-used", "123\n")
    assert 0 < free_memory() < pages("SC_PHYS_PAGES")


def test_where_no_one_says(groups, monkeypatch):
    monkeypatch.setattr(large_arrays, "_free_of_machine", lambda: None)
    assert free_memory() is None
