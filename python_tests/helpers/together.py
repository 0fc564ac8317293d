"""Fits small models in float64, together with other processes where torchrun has started this, and saves what they find.

    python -m torch.distributed.run --nproc-per-node 2 python_tests/helpers/together.py FOLDER [dies]

With "dies", the last process ends itself in the second epoch of the refinement of its only model.
"""

from __future__ import annotations

import os
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from unittest import mock

import numpy as np
import torch
import torch.distributed as dist
from sklearn.datasets import load_digits

from desc_ext.data import StoredRows, stored_rows
from desc_ext.engine import Callback, chunks, inputs
from desc_ext.models import KSubspaces
from helpers.estimators import small

# rows with zeros, images that are turned, a discriminator, losses of pairs, frequencies of all rows, targets of rows
FITS = {
    "desc": {"corruption": 0.3, "anchor_weight": 1.0},
    "edesc": {"augment": "affine-flip", "anchor_weight": 1.0},
    "ncsc": {"augment": "affine", "anchor_weight": 1.0},
    "asc2d": {"adversarial_weight": 0.1},
    "idec": {},
    "ae-kmeans": {},
    "dec on disk": {"anchor_weight": 1.0},
}
ALL_IMAGES = load_digits().images
IMAGES = ALL_IMAGES[:301]
SUBSPACES = ("in memory", "on disk", "few")  # how KSubspaces is given rows


class _Dies(Callback):
    def on_epoch_end(self, model, record):
        if record["stage"] == "refine" and record["epoch"] == 2:
            os._exit(9)


@contextmanager
def _stored() -> Iterator[StoredRows]:
    """All images in a file, rows that are not read whole, of several blocks of several chunks."""
    with tempfile.TemporaryDirectory() as folder, mock.patch.multiple(chunks, _BLOCK_CHUNKS=2):
        np.save(f"{folder}/x.npy", ALL_IMAGES.reshape(len(ALL_IMAGES), -1))
        with mock.patch.multiple(inputs, READ_WHOLE=0):
            yield stored_rows(f"{folder}/x.npy")


def fit(method: str, **further) -> dict[str, np.ndarray]:
    """Labels, start, codes and the losses of all epochs."""
    name, on_disk = method.removesuffix(" on disk"), method.endswith(" on disk")
    X = IMAGES if "augment" in FITS[method] else IMAGES.reshape(len(IMAGES), -1)
    with _stored() if on_disk else nullcontext(X) as given:
        model = small(name, dtype="float64", **FITS[method], **further).fit(given)
    found = {"labels": model.labels_, "start": model.initial_labels_, "codes": model.embedding_}
    return found | {"loss": np.array([record["loss"] for record in model.history_])}


def fit_subspaces(rows: str, folder: Path, **further) -> dict[str, np.ndarray]:
    """Labels, residuals' sum, distances and bases of noisy subspaces, wider than they are clustered."""
    random = np.random.default_rng(0)
    n = 1001 if rows == "few" else 10_301  # more than the restarts see
    bases = random.normal(size=(4, 3, 30))
    X = np.einsum("ij,ijk->ik", random.normal(size=(n, 3)), bases[random.integers(4, size=n)])
    X += 0.3 * random.normal(size=X.shape)
    if rows == "on disk":
        path = folder / f"rows-{os.environ.get('RANK', 'alone')}.npy"
        np.save(path, X)
        X = stored_rows(path)
    options = {"n_init": 2, "n_components": 20, "max_iter": 8, "dtype": "float64", "random_state": 0}
    model = KSubspaces(4, **options, **further).fit(X)
    found = {"labels": model.labels_, "inertia": np.array(model.inertia_), "distances": model.embedding_}
    return found | {
        "bases": model.bases_ @ model.bases_.transpose(0, 2, 1),
        "n_iter": np.array(model.n_iter_),
    }


def read_from_disk() -> None:
    """Lets rows on disk be read from there, however few they are."""
    inputs.READ_WHOLE = 0


def main() -> None:
    folder, dies = Path(sys.argv[1]), sys.argv[2:] == ["dies"]
    warnings.simplefilter("ignore")
    dist.init_process_group("gloo")
    rank, size = dist.get_rank(), dist.get_world_size()
    if dies:
        last = [_Dies()] if rank == size - 1 else None
        fit("desc", distributed=True, checkpoint=folder / "checkpoint", callbacks=last)
    elif (folder / "checkpoint").exists():
        resumed = fit("desc", distributed=True, checkpoint=folder / "checkpoint", resume=True)
        np.savez(folder / f"resumed-{rank}.npz", **resumed)
    else:
        for method in FITS:
            np.savez(folder / f"{method}-{rank}.npz", **fit(method, distributed=True))
        read_from_disk()
        for method in ("desc", "k-subspaces"):
            try:
                small(method, distributed=True).fit(IMAGES[rank:].reshape(len(IMAGES) - rank, -1))
            except ValueError as error:
                (folder / f"refused-{method}-{rank}").write_text(str(error))
        for rows in SUBSPACES:
            np.savez(folder / f"{rows}-{rank}.npz", **fit_subspaces(rows, folder, distributed=True))
    dist.destroy_process_group()
    left = _threads_of_gloo()
    if left:  # one of them may abort the process as it ends
        raise RuntimeError(f"destroy_process_group left {left}: something keeps the group")


def _threads_of_gloo() -> list[str]:
    names = [(task / "comm").read_text().strip() for task in Path("/proc/self/task").iterdir()]
    return [name for name in names if "gloo" in name]


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
