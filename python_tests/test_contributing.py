"""The method that a tutorial shows whole: it is what it says it is, without a line that is not there."""

from __future__ import annotations

import importlib.util
import inspect
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import make_blobs
from sklearn.metrics import adjusted_rand_score
from sklearn.utils.estimator_checks import check_estimator


def source(root: Path) -> str:
    """The code of the method: what stands before it is used."""
    text = (root / "docs" / "tutorials" / "method.md").read_text().partition("\n## Use it\n")[0]
    return "\n\n".join(re.findall(r"```python\n(.*?)```", text, re.DOTALL))


@pytest.fixture(scope="module")
def method(tmp_path_factory, pytestconfig):
    """The class of the example, imported from a file as any method is."""
    code = source(pytestconfig.rootpath)
    assert len(code.splitlines()) <= 110
    path = tmp_path_factory.mktemp("method") / "kmeans_on_codes.py"
    path.write_text(code)
    spec = importlib.util.spec_from_file_location("kmeans_on_codes", path)
    module = sys.modules["kmeans_on_codes"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module.KMeansOnCodes
    del sys.modules["kmeans_on_codes"]


def test_every_method_of_it_is_called(method, pytestconfig):
    text = source(pytestconfig.rootpath)
    inherited = {name for base in method.__mro__[1:] for name in vars(base)}
    own = {name for name, value in vars(method).items() if inspect.isfunction(value)}
    assert {"_build", "_terms", "stages"} <= own
    assert not [name for name in own - inherited if f"self.{name}(" not in text]


def test_it_clusters_saves_and_resumes(method, tmp_path):
    X, y = make_blobs(300, n_features=12, centers=4, random_state=0)
    model = method(4, random_state=0).fit(X)
    assert adjusted_rand_score(y, model.labels_) > 0.95
    drawn, free = (
        method(4, random_state=0, tol=0.0, clustering_weight=w).fit(X).history_[-1] for w in (10.0, 0.0)
    )
    assert drawn["clustering"] < 0.7 * free["clustering"]
    model.save(tmp_path / "model")
    np.testing.assert_array_equal(method.load(tmp_path / "model").predict(X), model.predict(X))
    short = method(4, random_state=0, max_epochs=2, tol=0.0, checkpoint=tmp_path / "c").fit(X)
    again = method(4, random_state=0, max_epochs=2, tol=0.0, checkpoint=tmp_path / "c", resume=True).fit(X)
    np.testing.assert_array_equal(again.embedding_, short.embedding_)


def test_it_keeps_the_contract_and_has_its_table(method):
    check_estimator(method(random_state=0, pretrain_epochs=2, max_epochs=2, n_init=2))
    assert re.search(r"^ +clustering_weight +0\.1 +w$", method.__doc__, re.MULTILINE)
    with pytest.raises(ValueError, match="KMeansOnCodes: latent_dim must be an integer >= 1, got 0"):
        method(latent_dim=0).fit(np.eye(5))
