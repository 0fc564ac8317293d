"""Run as a process with faults.c preloaded: tries every fault at every change of files, and checks what is left.

Arguments: "results", "large results" or "checkpoint", a folder to work in. It prints how many changes there were.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import os
import shutil
import signal
import sys
from pathlib import Path

import numpy as np
import torch

from desc_ext.cli.results import RESULTS, load_result, write_results
from desc_ext.cli.swap import HIDDEN
from desc_ext.data import Dataset
from desc_ext.durable import json_object
from desc_ext.engine import large_arrays
from desc_ext.engine.state_folder import read_state_folder, write_state_folder
from desc_ext.models import KSubspaces

LIBRARY = ctypes.CDLL(None)  # the preloaded one is part of the process
FAULTS = {"ENOSPC": errno.ENOSPC, "EIO": errno.EIO, "SIGKILL": 0}


def contents(folder: Path) -> dict[str, str]:
    """The files that a user sees: name → digest."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.relative_to(folder).parts[0] not in HIDDEN
    }


class Results:
    """Two results of different rows: the old one in the folder, the new one to be written over it."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.fitted = []
        for seed in (0, 1):
            X = rng.normal(size=(40, 5)).astype(np.float32)
            model = KSubspaces(2, subspace_dim=1, n_init=1, random_state=seed).fit(X)
            self.fitted.append((model, Dataset("d", X)))

    def write(self, folder: Path, new: bool) -> None:
        model, dataset = self.fitted[new]
        metrics = {"k-subspaces": {"seconds": float(new)}}
        write_results(folder, model, dataset, metrics, {"model": "k-subspaces", "new": new})
        if not new:  # what the new set has no part of has to go with the old one
            (folder / "examples.png").write_bytes(b"old")
            (folder / "report.html").write_bytes(b"old")

    def read(self, folder: Path) -> None:
        """What every later command does first; it moves a set that waits into place."""
        name, model = load_result(folder)
        assert name == "k-subspaces"
        np.testing.assert_array_equal(model.labels_, np.load(folder / "labels.npy"))

    def unfinished(self, folder: Path, old: dict, new: dict) -> None:
        """Before that: never files of both, and after an error that came before the change everything as it was."""
        seen = contents(folder).items()
        assert seen <= old.items() or seen <= new.items(), sorted(contents(folder))
        for whole in (old, new):  # where there is a config.json, nothing is missing
            assert ("config.json", whole["config.json"]) not in seen or seen == whole.items()
        assert {path.name for path in folder.iterdir()} <= {*RESULTS, *HIDDEN, ".lock"}


class LargeResults(Results):
    """The same with embeddings in files, which are moved into the results."""

    def write(self, folder: Path, new: bool) -> None:
        model, _ = self.fitted[new]
        large_arrays.LARGEST_IN_MEMORY = 0
        writer = large_arrays.RowWriter((40, 2), np.dtype("f4"), folder.parent)
        writer.append(np.full((40, 2), float(new)))
        model.embedding_, model._distances = writer.finished(), np.full(40, float(new), "f4")
        super().write(folder, new)

    def read(self, folder: Path) -> None:
        super().read(folder)
        seconds = json_object(folder / "metrics.json")["k-subspaces"]["seconds"]
        assert (np.load(folder / "embedding.npy") == seconds).all()


class Checkpoint:
    """Two states of a fit."""

    def write(self, folder: Path, new: bool) -> None:
        tensors = {"weights": torch.full((1000,), float(new))}
        write_state_folder(folder, "checkpoint", {"epoch": int(new)}, tensors)

    def read(self, folder: Path) -> None:
        config, tensors = read_state_folder(folder, "checkpoint")
        assert tensors["weights"].eq(config["epoch"]).all()
        self.epoch = config["epoch"]
        for (
            path
        ) in folder.iterdir():  # what is not part of the state is left over, and goes with the next one
            if path.name not in ("config.json", config["tensor_file"]):
                path.unlink()

    def unfinished(self, folder: Path, old: dict, new: dict) -> None:
        assert "config.json" in contents(folder)


def child(case, folder: Path, number: int, fault: int) -> int:
    """Writes the new state in a process of its own with a fault; returns how that ended."""
    process = os.fork()
    if process:
        return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    LIBRARY.arm(str(folder).encode(), number, fault)
    code = 0
    try:
        case.write(folder, new=True)
    except OSError as error:
        code = 3 if error.errno == fault else 4
    except BaseException:
        code = 5
    reached = LIBRARY.changes() >= number
    os._exit(code if code or reached else 100)


def main(what: str, work: Path) -> None:
    case = {"results": Results, "large results": LargeResults, "checkpoint": Checkpoint}[what]()
    kept, wanted, folder = work / "old", work / "new", work / "folder"
    case.write(kept, new=False)
    case.write(wanted, new=False)
    case.write(wanted, new=True)
    old, new = contents(kept), contents(wanted)
    ended: dict[int, int] = {}
    for fault in FAULTS.values():
        for number in range(1, 1000):
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(kept, folder)
            code = child(case, folder, number, fault)
            if code == 100:
                break
            assert code in ((0, 3) if fault else (-signal.SIGKILL,)), (number, fault, code)
            ended[code] = ended.get(code, 0) + 1
            case.unfinished(folder, old, new)
            case.read(folder)
            assert contents(folder) in (old, new), (number, fault, code, sorted(contents(folder)))
            if code == 0:
                assert contents(folder) == new
            case.write(folder, new=True)  # and the next attempt succeeds, with nothing left over
            assert contents(folder) == new
            assert not [path for path in folder.iterdir() if path.name in HIDDEN]
        else:
            raise AssertionError("the writing never ended")
        print(number - 1, flush=True)
    assert ended[3] > ended.get(0, 0)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]).resolve())
