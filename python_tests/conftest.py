"""Fixtures that several test files share."""

from __future__ import annotations

from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture
def repository() -> Path:
    """The source checkout that the tests belong to."""
    return REPOSITORY


@pytest.fixture
def known_data():
    """known_data(name) loads a data set that this machine may lack, or skips, naming the folders searched."""
    from desc_ext.data import DataError, load_dataset

    def load(name: str):
        try:
            return load_dataset(name)
        except DataError as error:
            pytest.skip(str(error))

    return load
