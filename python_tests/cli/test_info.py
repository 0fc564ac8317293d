"""The description of the installation, against what the system itself says."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch

import desc_ext
from desc_ext.data import KNOWN
from desc_ext.info import collect_info, format_info


def test_versions_compiler_and_threads():
    info = collect_info()
    assert info["desc_ext"] == desc_ext.__version__ == version("desc-ext")
    assert info["python"] == platform.python_version()
    assert info["numpy"] == np.__version__
    assert info["torch"] == torch.__version__
    assert info["threads"] == torch.get_num_threads()
    assert Path(info["library"]).is_file()
    assert info["compiler"]
    assert info["pyarrow"] == version("pyarrow")
    assert ("gloo" in info["process_backends"]) == torch.distributed.is_gloo_available()
    assert info["cuda_devices"] == torch.cuda.device_count()
    assert set(info["data"]) == set(KNOWN)


def test_instruction_set_in_use_is_the_best_this_processor_has():
    info = collect_info()
    assert "baseline" in info["instruction_sets"]
    assert info["in_use"] in info["instruction_sets"]
    forced = os.environ.get("DESC_EXT_CPU")
    cpuinfo = Path("/proc/cpuinfo")
    if forced or not cpuinfo.is_file() or "avx2" not in info["instruction_sets"]:
        pytest.skip("needs Linux on x86 and no DESC_EXT_CPU")
    flags = set(next(line for line in cpuinfo.read_text().splitlines() if line.startswith("flags")).split())
    best = "baseline"
    if {"avx2", "fma", "f16c"} <= flags:
        best = "avx2"
        if {"avx512f", "avx512bw", "avx512dq", "avx512vl"} <= flags:
            best = "avx512"
            if {"amx_tile", "amx_bf16"} <= flags and "amx" in info["instruction_sets"]:
                best = "amx"
    assert info["in_use"] == best


def test_cuda_is_told_as_it_is(monkeypatch):
    text = format_info()
    if not collect_info()["cuda_architectures"]:
        assert "no (this build has no CUDA kernels)" in text
    else:
        assert f"yes, compiled for {', '.join(collect_info()['cuda_architectures'])}" in text
    if not torch.cuda.is_available():
        assert "none that torch can use" in text


def test_module_prints_everything(tmp_path):
    child = subprocess.run(
        [sys.executable, "-m", "desc_ext.info"], capture_output=True, text=True, cwd=tmp_path,
        env={**os.environ, "DESC_EXT_DATA": str(tmp_path / "mine")},
    )  # fmt: skip
    assert child.returncode == 0, child.stderr
    lines = {line.split("  ")[0]: line for line in child.stdout.splitlines()}
    for name in ("desc_ext", "python", "torch", "numpy", "compiler", "instruction sets", "CUDA", "threads"):
        assert name in lines
    assert lines["data: digits"].endswith("scikit-learn")
    assert str(tmp_path / "mine") in lines["data searched in"]


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [({}, "10000"), ({"GOMP_SPINCOUNT": "5"}, "5"), ({"OMP_WAIT_POLICY": "PASSIVE"}, "0")],
)
def test_waiting_threads_soon_give_their_core_back(chosen, expected, tmp_path):
    usual = {
        key: value for key, value in os.environ.items() if key not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
    }
    child = subprocess.run(
        [sys.executable, "-c", "import desc_ext.ops"], capture_output=True, text=True, cwd=tmp_path,
        env=usual | {"OMP_DISPLAY_ENV": "verbose"} | chosen,
    )  # fmt: skip
    if "GOMP_SPINCOUNT" not in child.stderr:
        pytest.skip("torch has another OpenMP library than GNU's")
    assert f"GOMP_SPINCOUNT = '{expected}'" in child.stderr  # its own word
