"""The projection kernels' tensor-core path: fragments against the PTX document, values against float64 of what TF32 keeps,
and that nobody gets TF32 who has not asked for it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from emulator_builds import build, needs_compiler
from helpers import REPOSITORY
from helpers.operators import Backend, inputs

from desc_ext import reference
from desc_ext.ops import precision, registration


# ---------------------------------------------------------------- fragments, from the tables of the PTX document
@pytest.fixture(scope="module")
def fragments(tmp_path_factory) -> Path:
    program = tmp_path_factory.mktemp("fragments") / "fragments"
    source = REPOSITORY / "python_tests" / "kernels" / "fragments.cpp"
    return build(source, program, f"-I{REPOSITORY / 'csrc'}")


def run_fragments(program: Path, case: str, values) -> torch.Tensor:
    text = " ".join([case, *(str(value) for value in values)])
    done = subprocess.run([str(program)], input=text, capture_output=True, text=True, check=True)
    return torch.tensor([[float(x) for x in line.split()] for line in done.stdout.splitlines()])


@needs_compiler
def test_mma_fragments_are_those_of_the_ptx_document(fragments):
    """mma.m16n8k8 .tf32: groupID = lane >> 2, threadID_in_group = lane % 4;
    A: row = groupID for a0, a2, groupID + 8 for a1, a3; col = threadID_in_group for a0, a1, + 4 for a2, a3;
    B: row = threadID_in_group for b0, + 4 for b1; col = groupID;
    C: row = groupID for c0, c1, groupID + 8 for c2, c3; col = threadID_in_group · 2 + (i & 1)."""
    generator = torch.Generator().manual_seed(0)
    a = torch.randint(-9, 10, (16, 8), generator=generator)
    b = torch.randint(-9, 10, (8, 8), generator=generator)
    registers = []
    for lane in range(32):
        group, thread = lane >> 2, lane % 4
        registers += [a[group + 8 * (i in (1, 3)), thread + 4 * (i >= 2)].item() for i in range(4)]
        registers += [b[thread + 4 * i, group].item() for i in range(2)]
    found = run_fragments(fragments, "mma", registers)
    product = (a @ b).float()
    for lane in range(32):
        group, thread = lane >> 2, lane % 4
        expected = [product[group + 8 * (i >= 2), thread * 2 + (i & 1)].item() for i in range(4)]
        assert found[lane].tolist() == expected


@needs_compiler
def test_ldmatrix_gives_each_lane_what_the_ptx_document_says(fragments):
    """ldmatrix.x4.b16: threads 0–7 hold the row addresses of matrix 0, 8–15 of matrix 1 and so on; thread T gets the
    32 bits (two elements) number T % 4 of row T / 4 of every matrix."""
    lines = torch.arange(32 * 4).view(32, 4)
    line_of = torch.randperm(32, generator=torch.Generator().manual_seed(0))
    found = run_fragments(fragments, "ldmatrix", [*lines.flatten().tolist(), *line_of.tolist()])
    for lane in range(32):
        expected = [lines[line_of[matrix * 8 + lane // 4], lane % 4].item() for matrix in range(4)]
        assert found[lane].tolist() == expected


# ---------------------------------------------------------------- values
def to_tf32(x: torch.Tensor) -> torch.Tensor:
    """The nearest of the values with 10 bits of mantissa, ties away from zero."""
    bits = x.float().contiguous().view(torch.int32)
    return ((bits + 0x1000) & ~0x1FFF).view(torch.float32)


class TensorCores:
    """The operators, called with TF32 allowed; on the emulator these shapes take the tensor cores because they pay."""

    def __init__(self, backend: Backend):
        self.backend = backend

    def __getattr__(self, name):
        operator = getattr(registration.kernels(), name)

        def call(*arguments):
            result = operator(*(self.backend.put(value) for value in arguments), True)
            return tuple(part.cpu() for part in result) if isinstance(result, tuple) else result.cpu()

        return call


@pytest.fixture
def tensor_ops(ops):
    if ops.name == "cpu":
        pytest.skip("the CPU has no tensor cores; it ignores allow_tf32")
    return TensorCores(ops)


# d in one chunk and in several, tails of rows, of p and of slots, several tiles.
PAYING = [(300, 64, 37, 8), (129, 50, 16, 6), (70, 40, 12, 20), (33, 100, 40, 7)]


def orthonormal(shape, dtype=torch.float32):
    tensors = inputs(shape, torch.float64)
    tensors["bases"] = torch.linalg.qr(tensors["bases"])[0]
    return {name: value.to(dtype) if value.is_floating_point() else value for name, value in tensors.items()}


@pytest.mark.parametrize("shape", PAYING, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_energies_are_those_of_the_rounded_factors(tensor_ops, shape, dtype):
    tensors = inputs(shape, dtype)
    found = tensor_ops.projection_energy(tensors["z"], tensors["bases"])
    rounded = [to_tf32(tensors[name]).double() for name in ("z", "bases")]
    truth = reference.projection_energy(*rounded)
    assert ((found - truth).norm() / truth.norm()).item() < 1e-6
    exact = reference.projection_energy(tensors["z"].double(), tensors["bases"].double())
    assert ((found - exact).norm() / exact.norm()).item() < 2e-3
    if dtype == torch.float32:  # these are TF32's digits, not float32's: the path was taken
        assert ((found - exact).norm() / exact.norm()).item() > 1e-5


@pytest.mark.parametrize("shape", PAYING, ids=str)
def test_residuals(tensor_ops, shape):
    tensors = orthonormal(shape)
    z, bases = tensors["z"], tensors["bases"]
    truth = reference.projection_residual(z.double(), bases.double())
    found = tensor_ops.projection_residual(z, bases)
    norm = z.double().square().sum(1, keepdim=True)
    assert ((found - truth).abs() / norm).max().item() < 2e-3
    assert (found >= 0).all()


def test_small_residuals_keep_float32(tensor_ops):
    tensors = orthonormal((200, 64, 20, 6))
    generator = torch.Generator().manual_seed(0)
    own = torch.arange(200) % 20
    bases = tensors["bases"]
    z = torch.einsum("npd,nd->np", bases[own], torch.randn(200, 6, generator=generator))
    z += 1e-3 * torch.randn(200, 64, generator=generator)
    truth = reference.projection_residual(z.double(), bases.double()).gather(1, own[:, None])
    found = tensor_ops.projection_residual(z, bases).gather(1, own[:, None])
    assert ((found - truth).abs() / truth).max().item() < 1e-3
    labels, values = tensor_ops.nearest_subspace(z, bases, "residual")
    assert torch.equal(labels, own)
    torch.testing.assert_close(values.double(), truth[:, 0], rtol=1e-3, atol=0)


@pytest.mark.parametrize("shape", PAYING, ids=str)
def test_nearest_and_loss_agree_with_the_values(tensor_ops, shape):
    tensors = orthonormal(shape)
    z, bases, weight = tensors["z"], tensors["bases"], tensors["weight"]
    residual = tensor_ops.projection_residual(z, bases)
    labels, values = tensor_ops.nearest_subspace(z, bases, "residual")
    assert torch.equal(values, residual.min(1).values)
    assert torch.equal(labels, residual.min(1).indices)
    loss = tensor_ops.weighted_projection_loss(z, bases, weight)
    expected = (weight.double() * residual.double()).sum()
    torch.testing.assert_close(loss.double(), expected, rtol=1e-6, atol=0)


# ---------------------------------------------------------------- permission
def test_tf32_needs_both_permissions(monkeypatch):
    class OnGpu:
        is_cuda = True

    monkeypatch.setattr(precision, "_TENSOR_CORES", True)
    before = torch.backends.cuda.matmul.fp32_precision
    try:
        torch.backends.cuda.matmul.fp32_precision = "tf32"
        assert precision.allow_tf32(OnGpu())
        torch.backends.cuda.matmul.fp32_precision = "ieee"
        assert not precision.allow_tf32(OnGpu())
        monkeypatch.setattr(precision, "_TENSOR_CORES", False)
        torch.backends.cuda.matmul.fp32_precision = "tf32"
        assert not precision.allow_tf32(OnGpu())
    finally:
        torch.backends.cuda.matmul.fp32_precision = before


def test_tensor_cores_can_be_forbidden():
    code = "from desc_ext.ops import precision; print(precision._TENSOR_CORES)"
    for value, expected in {None: "True", "0": "False", "1": "True", "always": "True"}.items():
        environment = {key: text for key, text in os.environ.items() if key != "DESC_EXT_TENSOR_CORES"}
        environment |= {"DESC_EXT_TENSOR_CORES": value} if value else {}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
        assert done.stdout.strip() == expected


def test_unknown_value_is_refused():
    environment = {**os.environ, "DESC_EXT_TENSOR_CORES": "yes"}
    done = subprocess.run(
        [sys.executable, "-c", "import desc_ext.ops"], env=environment, capture_output=True, text=True
    )
    assert done.returncode != 0
    assert "DESC_EXT_TENSOR_CORES=yes means nothing" in done.stderr
