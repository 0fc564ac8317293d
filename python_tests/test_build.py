"""The compiled library: what it needs from outside, how it is packaged, what is said when it is missing."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import desc_ext

PACKAGE = Path(desc_ext.ops.__file__).resolve().parents[1]


def undefined_symbols(library: Path) -> list[str]:
    listing = subprocess.run(
        ["nm", "--dynamic", "--undefined-only", str(library)], check=True, capture_output=True, text=True
    )
    return [line.split()[-1].split("@")[0] for line in listing.stdout.splitlines()]


def is_forbidden(symbol: str) -> bool:
    """Python's C API, or anything of torch's C++ namespaces at:: and c10::, also nested in templates."""
    python = re.match(r"_?Py[A-Z_]", symbol)
    torch_cxx = re.search(r"(?<![0-9])(2at|3c10)(?=[0-9A-Z])", symbol) if symbol.startswith("_Z") else None
    return bool(python or torch_cxx)


@pytest.mark.skipif(shutil.which("nm") is None, reason="nm (binutils) is not installed")
def test_library_uses_neither_python_nor_unstable_torch_symbols():
    symbols = undefined_symbols(desc_ext.library_path)
    assert any(symbol.startswith(("aoti_torch", "torch_")) for symbol in symbols)
    assert [symbol for symbol in symbols if is_forbidden(symbol)] == []


@pytest.mark.skipif(shutil.which("nm") is None, reason="nm (binutils) is not installed")
def test_the_scan_recognises_what_it_looks_for():
    import torch

    assert any(
        map(is_forbidden, undefined_symbols(Path(torch.__file__).parent / "lib" / "libtorch_python.so"))
    )
    for symbol in ("PyErr_SetString", "_Py_Dealloc", "_ZN2at4_ops3add4callE", "_ZNK3c1010TensorImpl5sizesEv"):
        assert is_forbidden(symbol)
    for symbol in ("aoti_torch_empty_strided", "_ZNSt6vectorIiE", "_ZN4desc5at_3EP", "memcpy"):
        assert not is_forbidden(symbol)


def test_one_wheel_serves_every_python():
    wheel = importlib.metadata.distribution("desc-ext").read_text("WHEEL")
    tags = re.findall(r"^Tag: (.*)$", wheel, flags=re.MULTILINE)
    assert tags
    assert all(tag.startswith("py3-none-") and not tag.endswith("-any") for tag in tags)


# Import errors. Each runs in a child process, on a copy of the package without its editable install.


@pytest.fixture
def package_copy(tmp_path):
    """A folder with desc_ext copied from the sources and the compiled library beside them."""
    copy = tmp_path / "site"
    shutil.copytree(PACKAGE, copy / "desc_ext", ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    shutil.copy(desc_ext.library_path, copy / "desc_ext")
    return copy


def import_in_child(*folders: Path) -> subprocess.CompletedProcess:
    # -S leaves out site-packages with the editable install; its folder is put behind the copy.
    import torch

    path = os.pathsep.join(map(str, [*folders, Path(torch.__file__).parents[1]]))
    code = "import desc_ext; print('imported', desc_ext.library_path)"
    return subprocess.run(
        [sys.executable, "-S", "-c", code], capture_output=True, text=True, cwd=folders[0],
        env={**os.environ, "PYTHONPATH": path},
    )  # fmt: skip


def test_the_copy_imports(package_copy):
    child = import_in_child(package_copy)
    assert child.returncode == 0, child.stderr
    assert str(package_copy) in child.stdout


@pytest.mark.parametrize("version", ["2.10.1+cpu", "1.13.0", "unknown"])
def test_too_old_torch(package_copy, tmp_path, version):
    fake = tmp_path / "fake" / "torch"
    fake.mkdir(parents=True)
    (fake / "__init__.py").write_text(f"__version__ = {version!r}\n")
    child = import_in_child(package_copy, fake.parent)
    assert child.returncode == 1
    last = child.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: ")
    assert f"found torch {version}" in last
    assert f"desc_ext {desc_ext.__version__} needs torch >= 2.11" in last
    assert f'"{sys.executable}" -m pip install --upgrade "torch>=2.11"' in last


def test_no_torch(package_copy, tmp_path):
    fake = tmp_path / "fake" / "torch"
    fake.mkdir(parents=True)
    (fake / "__init__.py").write_text(
        "raise ModuleNotFoundError(\"No module named 'torch'\", name='torch')\n"
    )
    child = import_in_child(package_copy, fake.parent)
    last = child.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: ")
    assert "needs torch >= 2.11, and found no torch" in last
    assert '-m pip install --upgrade "torch>=2.11"' in last


def test_missing_library(package_copy):
    import torch

    library = package_copy / "desc_ext" / desc_ext.library_path.name
    library.unlink()
    child = import_in_child(package_copy)
    last = child.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: ")
    for part in (
        library.name,
        str(library.parent),
        f"found torch {torch.__version__}",
        "needed torch >= 2.11",
    ):
        assert part in last
    assert f'"{sys.executable}" -m pip install --force-reinstall --no-deps desc-ext' in last

    (package_copy / "CMakeLists.txt").touch()  # now it is a source checkout: building is what helps
    last = import_in_child(package_copy).stderr.strip().splitlines()[-1]
    assert f'"{sys.executable}" -m pip install --editable "{package_copy}"' in last


def test_damaged_library(package_copy):
    library = package_copy / "desc_ext" / desc_ext.library_path.name
    library.write_bytes(b"not a library")
    last = import_in_child(package_copy).stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: ")
    for part in (
        str(library),
        "could not be loaded",
        "file too short",
        "needed torch >= 2.11",
        "-m pip install",
    ):
        assert part in last


# Which GPUs the CUDA kernels are compiled for


@pytest.mark.parametrize(
    ("listing", "architectures"),
    [
        ("8.0\n", "80-real"),
        ("8.9\n8.6\n", "80-real"),
        ("9.0\n9.0\n", "90a-real"),
        ("10.3\n", "100-real"),
        ("12.0\n8.6\n", "80-real;120"),
        ("7.5\n", ""),
        ("no devices were found\n", ""),
        (None, ""),
    ],
)
def test_kernels_are_compiled_for_the_gpus_at_hand(tmp_path, listing, architectures):
    """With an nvidia-smi that says what the test wants."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "nvidia-smi").write_text(
        "#!/bin/sh\nexit 9\n" if listing is None else f"#!/bin/sh\ncat <<'E'\n{listing}E\n"
    )
    (folder / "nvidia-smi").chmod(0o755)
    script = tmp_path / "ask.cmake"
    rules = Path(__file__).parents[1] / "csrc" / "cuda" / "architectures.cmake"
    script.write_text(
        f'include("{rules}")\ndesc_ext_architectures_here(found)\nmessage("found=${{found}}.")\n'
    )
    cmake = shutil.which("cmake", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    environment = os.environ | {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        [cmake, "-P", str(script)], capture_output=True, text=True, env=environment, check=True
    )
    assert f"found={architectures}." in done.stderr


# The build backend


@pytest.fixture
def backend(monkeypatch):
    pytest.importorskip("scikit_build_core")
    monkeypatch.syspath_prepend(str(PACKAGE.parent / "distribution"))
    monkeypatch.delitem(sys.modules, "backend", raising=False)
    return importlib.import_module("backend")


def installed(folder: Path, *versions: str) -> list[str]:
    """Folders of packages, each with a torch of a version, or with none where it is ''."""
    folders = []
    for i, version in enumerate(versions):
        (folder / str(i)).mkdir()
        folders.append(str(folder / str(i)))
        if version:
            info = folder / str(i) / f"torch-{version}.dist-info"
            info.mkdir()
            (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: torch\nVersion: {version}\n")
    return folders


@pytest.mark.parametrize(
    ("versions", "needed"),
    [
        (["2.11.0+cpu"], False),
        (["", "3.0.0+cu130"], False),
        (["2.10.1"], True),
        (["1.13.0", "2.13.0"], False),
        ([""], True),
    ],
)
def test_a_torch_is_downloaded_for_the_build_only_where_there_is_none(backend, tmp_path, versions, needed):
    assert backend.torch_requirement(installed(tmp_path, *versions)) == ["torch>=2.11"] * needed
    assert backend.torch_requirement() == []  # that of these tests


def test_the_requirement_is_that_of_the_project(backend):
    project = (PACKAGE.parent / "pyproject.toml").read_text()
    assert backend.torch_requirement([])[0] in re.findall(r'^  "(torch>=[\d.]+)",', project, re.MULTILINE)


@pytest.mark.parametrize(("variant", "expected"), [("", "{}"), ("cu130", "{}+cu130"), ("cuda13", None)])
def test_a_wheel_for_cuda_has_a_local_version(monkeypatch, variant, expected):
    monkeypatch.setenv("DESC_EXT_VARIANT", variant)
    path = PACKAGE.parent / "distribution" / "version.py"
    spec = importlib.util.spec_from_file_location("version_of_distribution", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if expected is None:
        with pytest.raises(ValueError, match=r"DESC_EXT_VARIANT must be cu .* got 'cuda13'"):
            module.dynamic_metadata({}, {})
    else:
        assert module.dynamic_metadata({}, {}) == {"version": expected.format(desc_ext.__version__)}
