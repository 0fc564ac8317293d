"""Fixtures that several test files share."""

from __future__ import annotations

import os
from pathlib import Path

import desc_ext  # noqa: F401  isort: skip  (before torch, whose threads otherwise wait in a way that slows every fit)

import pytest
import torch
from helpers import REPOSITORY
from helpers.operators import BACKENDS, in_use
from hypothesis import settings

# The same examples in every run, however long one of them takes: a test does not fail by chance.
settings.register_profile("desc_ext", deadline=None, derandomize=True, database=None)
settings.load_profile("desc_ext")


if "PYTEST_XDIST_WORKER" in os.environ:
    # The processes share the cores: more threads in all would wait for each other. Tests that need several ask for them.
    n_threads = max(1, torch.get_num_threads() // int(os.environ["PYTEST_XDIST_WORKER_COUNT"]))
    torch.set_num_threads(n_threads)
    os.environ.setdefault("OMP_NUM_THREADS", str(n_threads))  # of the processes that tests start


@pytest.fixture
def repository() -> Path:
    """The source checkout that the tests belong to."""
    return REPOSITORY


@pytest.fixture(params=BACKENDS)
def ops(request):
    """The public functions on each back end in turn; a test that takes no ``ops`` is for the CPU alone."""
    with in_use(request.param) as backend:
        yield backend


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
