"""A handful of fits against those on record: a change of the code that no one meant to change results changes no bit.

The record is of one kind of processor and one version of each library; elsewhere only losses are compared. After a change
that is meant: ``PYTHONPATH=python_tests python python_tests/models/test_same_bits.py``, and a line in CHANGELOG.md.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from importlib.metadata import version
from pathlib import Path

import desc_ext  # noqa: F401  isort: skip  (before torch)

import numpy as np
import pytest
import torch
from helpers.estimators import external_options, small
from sklearn.datasets import load_digits

RECORD = Path(__file__).parent / "fits.json"
IMAGES = {"image_shape": (8, 8)}
FITS = {
    "desc": {},
    "desc paper": {"preset": "paper"},
    "edesc": {"scaling": "standard"},
    "ae-kmeans": IMAGES | {"features": "scattering", "feature_dim": 20},
    "ncsc": {},
    "ncsc learned": {"self_expression": "learned", "init": "k-means"},
    "asc2d": IMAGES | {"channels": (4, 5), "kernels": (3, 3)},
    "asc2d paper": {"preset": "paper"},
    "dec": {"preset": "paper"},
    "dec robust": {},
    "idec": {"preset": "paper", "dtype": "float64"},
    "dcec": IMAGES | {"channels": (4, 5), "kernels": (3, 3)},
    "dcec paper": IMAGES | {"preset": "paper", "channels": (4, 5), "kernels": (3, 3)},
    "dsc-net": {},
    "dsc-net closed": IMAGES | {"self_expression": "closed-form"},
    "lrsc": {"external": True},
    "k-subspaces": {},
    "self-expressive": {},
}
LOSSES = ("loss", "reconstruction", "clustering", "fidelity", "positive")


def processor() -> str:
    """The kind of processor: its name and what it can do."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    found = sorted({line for line in lines if line.startswith(("model name", "flags"))})
    return hashlib.sha256("\n".join(found).encode()).hexdigest()[:16]


def machine() -> dict[str, str]:
    """What bits depend on beside the code."""
    libraries = {name: version(name) for name in ("torch", "numpy", "scipy", "scikit-learn")}
    in_use = json.loads(torch.ops.desc_ext.build_info())["in_use"]
    capability = torch.backends.cpu.get_cpu_capability()
    return libraries | {"processor": processor(), "operators": in_use, "torch's kernels": capability}


def fitted(name: str) -> dict:
    """Digest, cluster sizes and the losses of every epoch of a fit on one thread."""
    X, y = load_digits(return_X_y=True)
    X = X.astype(np.float32)
    options = dict(FITS[name])
    if options.pop("external", False):
        options |= external_options(X[300:400], y[300:400])
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = small(name.split()[0], device="cpu", **options).fit(X[:300])
    finally:
        torch.set_num_threads(threads)
    digest = hashlib.sha256(model.labels_.tobytes() + np.ascontiguousarray(model.embedding_).tobytes())
    for tensor in model.network_.state_dict().values() if hasattr(model, "network_") else ():
        digest.update(tensor.numpy().tobytes())
    losses = [[record[key] for key in LOSSES if key in record] for record in model.history_]
    return {
        "digest": digest.hexdigest()[:16],
        "sizes": np.bincount(model.labels_, minlength=3).tolist(),
        "losses": losses,
    }


@pytest.mark.parametrize("name", FITS)
def test_a_fit_is_the_one_on_record(name):
    record = json.loads(RECORD.read_text())
    found, wanted = fitted(name), record["fits"][name]
    if machine() == record["machine"]:
        assert found == wanted
        return
    assert [len(losses) for losses in found["losses"]] == [len(losses) for losses in wanted["losses"]]
    # rounding grows from step to step, and may turn the choice between two starts of k-means
    for ours, theirs in list(zip(found["losses"], wanted["losses"], strict=True))[:4]:
        assert ours == pytest.approx(theirs, rel=2e-3, abs=1e-6)


def main() -> None:
    record = {"machine": machine(), "fits": {name: fitted(name) for name in FITS}}
    RECORD.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
