"""The projection kernels on tensor cores: fragments against the PTX document, parity with float64 at both widths of the
hardware's sums, the bound that docs/tensor-cores.md states, rows that float16 cannot hold, and which path is taken when."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from emulator_builds import build, needs_compiler
from helpers import REPOSITORY
from helpers.operators import (
    CASES,
    ROWS_BASES,
    SHAPES,
    Backend,
    assert_as_accurate,
    backend_parameter,
    host_cuda,
    inputs,
)

from desc_ext import reference
from desc_ext.ops import precision, registration

VARIABLE = "DESC_EXT_TENSOR_CORES"


# ---------------------------------------------------------------- fragments, from the tables of the PTX document
@pytest.fixture(scope="module")
def fragments(tmp_path_factory) -> Path:
    program = tmp_path_factory.mktemp("fragments") / "fragments"
    source = REPOSITORY / "python_tests" / "kernels" / "fragments.cpp"
    return build(source, program, f"-I{REPOSITORY / 'csrc'}")


def run_fragments(program: Path, case: str, values) -> torch.Tensor:
    text = " ".join(str(value) for value in values)
    done = subprocess.run([str(program), case], input=text, capture_output=True, text=True, check=True)
    return torch.tensor([[float(x) for x in line.split()] for line in done.stdout.splitlines()])


@needs_compiler
def test_mma_fragments_are_those_of_the_ptx_document(fragments):
    """mma.m16n8k16 .f16: groupID = lane >> 2, threadID_in_group = lane % 4;
    A: row = groupID for a_i, i in 0, 1, 4, 5, else groupID + 8; col = threadID_in_group · 2 + (i & 1), + 8 for i >= 4;
    B: row = threadID_in_group · 2 + (i & 1), + 8 for i >= 2; col = groupID;
    C: row = groupID for c0, c1, groupID + 8 for c2, c3; col = threadID_in_group · 2 + (i & 1)."""
    generator = torch.Generator().manual_seed(0)
    a, b, c = (torch.randint(-9, 10, size, generator=generator) for size in ((16, 16), (16, 8), (16, 8)))
    registers = []
    for lane in range(32):
        group, thread = lane >> 2, lane % 4
        for i in range(8):
            registers.append(
                a[group + 8 * (i not in (0, 1, 4, 5)), thread * 2 + (i & 1) + 8 * (i >= 4)].item()
            )
        registers += [b[thread * 2 + (i & 1) + 8 * (i >= 2), group].item() for i in range(4)]
        registers += [c[group + 8 * (i >= 2), thread * 2 + (i & 1)].item() for i in range(4)]
    found = run_fragments(fragments, "mma", registers)
    product = (a @ b + c).float()
    for lane in range(32):
        group, thread = lane >> 2, lane % 4
        expected = [product[group + 8 * (i >= 2), thread * 2 + (i & 1)].item() for i in range(4)]
        assert found[lane].tolist() == expected


@needs_compiler
def test_ldmatrix_gives_each_lane_what_the_ptx_document_says(fragments):
    """ldmatrix.x4.b16: threads 0–7 hold the row addresses of matrix 0, 8–15 of matrix 1 and so on; thread T gets the
    elements 2(T % 4) and the next of row T / 4 of every matrix."""
    lines = torch.arange(32 * 8).view(32, 8)
    line_of = torch.randperm(32, generator=torch.Generator().manual_seed(0))
    found = run_fragments(fragments, "ldmatrix", [*lines.flatten().tolist(), *line_of.tolist()])
    for lane in range(32):
        rows = [lines[line_of[matrix * 8 + lane // 4]] for matrix in range(4)]
        assert found[lane].tolist() == [row[lane % 4 * 2 + i].item() for row in rows for i in range(2)]


# ---------------------------------------------------------------- how the operators are run
@pytest.fixture
def tensor_cores(ops, monkeypatch) -> Backend:
    """A back end that has tensor cores, told to take them in every shape."""
    if ops.name == "cpu":
        pytest.skip("the CPU has no tensor cores")
    monkeypatch.setenv(VARIABLE, "always")
    return ops


@pytest.fixture(params=[24, 25])
def both_widths(request):
    """The emulator's tensor cores add with 24 and with 25 places, as Ampere's and Hopper's do."""
    control = host_cuda()
    before = control.tensor_core_bits()
    control.set_tensor_core_bits(request.param)
    yield request.param
    control.set_tensor_core_bits(before)


emulated = pytest.mark.parametrize("ops", [backend_parameter("host_cuda")], indirect=True)


def kernels(backend: Backend, name: str, *arguments, allow_tf32: bool = False):
    """The operator itself, with the permission that its public function takes from torch's settings."""
    operator = getattr(registration.kernels(), name)
    result = operator(*(backend.put(value) for value in arguments), allow_tf32)
    return tuple(part.cpu() for part in result) if isinstance(result, tuple) else result.cpu()


def took_tensor_cores(run) -> bool:
    """Whether a kernel on the emulator asked for the shared memory of the tensor cores' stages."""
    control = host_cuda()
    control.reset_counters()
    run()
    return control.counters()["largest_shared_bytes"] >= 2 * 256 * 128


# ---------------------------------------------------------------- parity
PROJECTING = [case for case in CASES if case.arguments[:2] == ROWS_BASES]


@emulated
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("case", PROJECTING, ids=lambda case: case.id)
def test_parity_on_tensor_cores(tensor_cores, both_widths, case, shape):
    assert_as_accurate(case, inputs(shape, torch.float32), f"{shape}, {both_widths} bits", tensor_cores)


@emulated
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", [(70, 50, 10, 5), (129, 40, 3, 13), (33, 27, 6, 4)], ids=str)
@pytest.mark.parametrize("case", PROJECTING, ids=lambda case: case.id)
def test_parity_of_half_types_on_tensor_cores(tensor_cores, both_widths, case, shape, dtype):
    assert_as_accurate(case, inputs(shape, dtype), f"{shape}, {both_widths} bits", tensor_cores)


@emulated
@pytest.mark.parametrize("case", PROJECTING, ids=lambda case: case.id)
def test_parity_without_tensor_cores(ops, monkeypatch, case):
    monkeypatch.setenv(VARIABLE, "0")
    for shape in [(70, 50, 10, 5), (50, 20, 4, 20)]:
        tensors = inputs(shape, torch.float32)
        assert not took_tensor_cores(lambda tensors=tensors: case.run(ops, tensors))
        assert_as_accurate(case, tensors, str(shape), ops)


# Several blocks of rows, several tiles, subspaces in chunks, tails of rows, of p and of slots; p a multiple of 4, even, odd.
PAYING = [(300, 64, 37, 8), (129, 50, 16, 6), (70, 40, 12, 20), (33, 101, 40, 7)]


def orthonormal(shape, dtype=torch.float32):
    tensors = inputs(shape, torch.float64)
    tensors["bases"] = torch.linalg.qr(tensors["bases"])[0]
    return {name: value.to(dtype) if value.is_floating_point() else value for name, value in tensors.items()}


@pytest.mark.parametrize("shape", PAYING, ids=str)
def test_nearest_and_loss_agree_with_the_values(tensor_cores, shape):
    tensors = orthonormal(shape)
    z, bases, weight = tensors["z"], tensors["bases"], tensors["weight"]
    for allow_tf32 in (False, True):
        residual = kernels(tensor_cores, "projection_residual", z, bases, allow_tf32=allow_tf32)
        labels, values = kernels(
            tensor_cores, "nearest_subspace", z, bases, "residual", allow_tf32=allow_tf32
        )
        assert torch.equal(values, residual.min(1).values)
        assert torch.equal(labels, residual.min(1).indices)
        loss = kernels(tensor_cores, "weighted_projection_loss", z, bases, weight, allow_tf32=allow_tf32)
        expected = (weight.double() * residual.double()).sum()
        torch.testing.assert_close(loss.double(), expected, rtol=1e-6, atol=0)


def test_small_residuals_are_computed_directly(tensor_cores):
    tensors = orthonormal((200, 64, 20, 6))
    generator = torch.Generator().manual_seed(0)
    own = torch.arange(200) % 20
    bases = tensors["bases"]
    z = torch.einsum("npd,nd->np", bases[own], torch.randn(200, 6, generator=generator))
    z += 1e-3 * torch.randn(200, 64, generator=generator)
    truth = reference.projection_residual(z.double(), bases.double()).gather(1, own[:, None])
    for allow_tf32 in (False, True):
        found = kernels(tensor_cores, "projection_residual", z, bases, allow_tf32=allow_tf32).gather(
            1, own[:, None]
        )
        assert ((found - truth).abs() / truth).max().item() < 1e-3
        labels, _ = kernels(tensor_cores, "nearest_subspace", z, bases, "residual", allow_tf32=allow_tf32)
        assert torch.equal(labels, own)


# ---------------------------------------------------------------- the parts, and the bound
def rounded(x: torch.Tensor, block: int, parts: int) -> torch.Tensor:
    """x [rows, p] as `parts` float16 numbers hold it whose scale brings the largest of each `block` into [2^14, 2^15)."""
    rows, p = x.shape
    padded = torch.nn.functional.pad(x.double(), (0, -p % block)).view(rows, -1, block)
    _, exponent = torch.frexp(padded.abs().amax(2, keepdim=True))
    rest, kept = torch.ldexp(padded, 15 - exponent), torch.zeros_like(padded)
    for _ in range(parts):
        kept += (part := rest.half().double())
        rest = rest - part
    return torch.ldexp(kept, exponent - 15).view(rows, -1)[:, :p]


@pytest.mark.parametrize("shape", PAYING, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_energies_are_those_of_the_rounded_factors(tensor_cores, shape, dtype):
    """Of what each path keeps of rows and columns, in float64: 2e-3 and 1e-6 apart from the exact energies, and nearer to
    those of the parts than the paths are to each other."""
    tensors = inputs(shape, dtype)
    z, bases = tensors["z"], tensors["bases"]
    exact = reference.projection_energy(z.double(), bases.double())
    columns = bases.mT.reshape(-1, bases.shape[1])
    for allow_tf32, parts in ((False, 2), (True, 1 if dtype == torch.float32 else 2)):
        kept = rounded(columns, bases.shape[1], parts).view(bases.shape[0], -1, bases.shape[1]).mT
        truth = reference.projection_energy(rounded(z, 32, parts if dtype == torch.float32 else 1), kept)
        found = kernels(tensor_cores, "projection_energy", z, bases, allow_tf32=allow_tf32)
        assert ((found - truth).norm() / truth.norm()).item() < 5e-7
        assert ((found - exact).norm() / exact.norm()).item() < (2e-3 if parts == 1 else 5e-7)
        if parts == 1:
            assert ((found - exact).norm() / exact.norm()).item() > 1e-5


def bound(p: int, parts: int) -> float:
    """Of |â − a| / (‖z‖ ‖s‖) for a coefficient a = sᵀz, as docs/tensor-cores.md derives it."""
    return {1: 2.0**-10 + 49 * 2.0**-24, 2: 47 * 2.0**-24, 3: 53 * 2.0**-24}[parts] + p / 32 * 2.0**-24


def graded_rows(n: int, p: int, octaves: int) -> torch.Tensor:
    """Elements of a row between 1 and 2^-octaves in a random order, so that the largest hide the smallest."""
    generator = torch.Generator().manual_seed(0)
    size = torch.stack([torch.randperm(p, generator=generator) for _ in range(n)]) * (octaves / p)
    return (torch.randn(n, p, generator=generator, dtype=torch.float64) * 2.0**-size).float()


@emulated
@pytest.mark.parametrize("p", [40, 600])
def test_error_bound_of_coefficients(tensor_cores, both_widths, p):
    """Of single columns, whose energy is a²: rows of one sign, where what is cut off adds up, random ones, and rows and
    columns of graded range, also such that the large elements of one meet the small ones of the other."""
    generator = torch.Generator().manual_seed(0)
    columns = torch.cat([
        torch.rand(16, p, generator=generator) + 0.5,
        torch.randn(16, p, generator=generator),
        graded_rows(16, p, 30),
        2.0 ** -torch.linspace(0, 30, p).flip(0).expand(4, p) * (torch.rand(4, p, generator=generator) + 0.5),
    ])  # fmt: skip
    z = torch.cat([
        torch.rand(20, p, generator=generator) + 0.5,
        torch.randn(20, p, generator=generator),
        graded_rows(20, p, 30),
        2.0 ** -torch.linspace(0, 30, p).expand(4, p) * (torch.rand(4, p, generator=generator) + 0.5),
    ])  # fmt: skip
    bases = columns[:, :, None].contiguous()
    for rows, parts in ((z, 3), (z.bfloat16(), 2), (z, 1)):
        exact = rows.double() @ columns.double().T
        scale = rows.double().norm(dim=1)[:, None] * columns.double().norm(dim=1)
        energy = kernels(tensor_cores, "projection_energy", rows, bases, allow_tf32=parts == 1)
        error = (energy.double().sqrt() - exact.abs()).abs() / scale
        # The square and its root round, too.
        assert (error <= bound(p, parts) + exact.abs() / scale * 2.0**-23).all(), (parts, error.max())
    assert error.max() > bound(p, 3)  # TF32 is another matter


def test_powers_of_two_change_no_bit(tensor_cores):
    """Of rows, each by another one, and of single columns: the parts are scaled by powers of two."""
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(60, 50, generator=generator)
    columns = torch.randn(40, 50, 1, generator=generator)
    rows_by = 2.0 ** torch.randint(-40, 41, (60, 1), generator=generator)
    columns_by = 2.0 ** torch.randint(-15, 16, (40, 1, 1), generator=generator)
    before = kernels(tensor_cores, "projection_energy", z, columns)
    after = kernels(tensor_cores, "projection_energy", z * rows_by, columns * columns_by)
    assert torch.equal(after, before * rows_by.square() * columns_by[:, 0, 0].square())


# ---------------------------------------------------------------- what float16 cannot hold
def classes(x: torch.Tensor) -> torch.Tensor:
    return torch.where(x.isnan(), 2, torch.where(x.isinf(), 1, 0))


@pytest.mark.parametrize("metric", ["energy", "residual"])
@pytest.mark.parametrize("allow_tf32", [False, True])
def test_infinities_nan_and_overflow_are_those_of_float32(tensor_cores, monkeypatch, metric, allow_tf32):
    """Rows and bases that hold them get what the formula makes of them in float32, and all others keep their bits."""
    name = f"projection_{metric}"
    tensors = orthonormal((140, 50, 12, 5))
    z, bases = tensors["z"], tensors["bases"]
    clean = kernels(tensor_cores, name, z, bases, allow_tf32=allow_tf32)
    z = z.clone()
    z[3, 7], z[4, 49], z[130, 0] = torch.inf, -torch.inf, torch.nan
    z[5] *= 1e20  # the energy overflows
    z[6] *= 1e37
    z[7], z[8] = 0.0, z[8] * 1e-25
    z[9, ::2] = 65504.0 * 4
    spoiled_rows = torch.tensor([3, 4, 5, 6, 7, 8, 9, 130])
    bases = bases.clone()
    bases[2, 4, 3], bases[5, 0, 0] = torch.inf, torch.nan
    spoiled_bases = torch.tensor([2, 5])
    found = kernels(tensor_cores, name, z, bases, allow_tf32=allow_tf32)
    monkeypatch.setenv(VARIABLE, "0")
    lanes = kernels(tensor_cores, name, z, bases)
    assert torch.equal(classes(found), classes(getattr(reference, name)(z, bases)))
    assert classes(found).unique().tolist() == [0, 1, 2]
    assert torch.equal(found.isfinite(), lanes.isfinite())
    finite = lanes.isfinite()
    torch.testing.assert_close(found[finite], lanes[finite], rtol=5e-3 if allow_tf32 else 1e-5, atol=0)
    rows = torch.ones(140, dtype=torch.bool)
    rows[spoiled_rows] = False
    subspaces = torch.ones(12, dtype=torch.bool)
    subspaces[spoiled_bases] = False
    assert torch.equal(found[rows][:, subspaces], clean[rows][:, subspaces])


def test_many_coefficients_of_a_spoiled_row(tensor_cores):
    """Those of 260 columns do not fit into shared memory, and there has to be another place for them."""
    tensors = inputs((20, 262, 2, 260), torch.float32)
    tensors["z"][4, 5] = torch.inf
    found = kernels(tensor_cores, "projection_energy", tensors["z"], tensors["bases"])
    assert not found[4].isfinite().any()
    assert found[torch.arange(20) != 4].isfinite().all()


def test_gradients_of_spoiled_rows(tensor_cores, monkeypatch):
    """Where float32's gradients are finite, so are those of tensor cores, and the other way around."""
    tensors = orthonormal((140, 50, 12, 5))
    z = tensors["z"].clone()
    z[3, 7], z[130, 0], z[5] = torch.inf, torch.nan, z[5] * 1e25
    gradients = {}
    for asked in ("always", "0"):
        monkeypatch.setenv(VARIABLE, asked)
        leaves = [z.clone().requires_grad_(), tensors["bases"].clone().requires_grad_()]
        loss = tensor_cores.weighted_projection_loss(leaves[0], leaves[1], tensors["weight"])
        gradients[asked] = torch.autograd.grad(loss, leaves)
    (rows, bases), (rows_of_lanes, bases_of_lanes) = gradients["always"], gradients["0"]
    assert torch.equal(rows.isfinite(), rows_of_lanes.isfinite())
    assert torch.equal(bases.isfinite(), bases_of_lanes.isfinite())
    assert rows.isfinite().any()
    assert not rows[3].isfinite().any()
    finite = rows.isfinite()
    torch.testing.assert_close(rows[finite], rows_of_lanes[finite], rtol=1e-4, atol=1e-5)


@emulated
def test_gradients_take_tensor_cores(ops, monkeypatch):
    tensors = inputs((140, 64, 12, 8), torch.float32)
    leaves = [tensors[name].requires_grad_() for name in ROWS_BASES]

    def takes() -> list[bool]:
        result = ops.projection_energy(*leaves)
        wanted = [[leaves[0]], [leaves[1]], leaves]
        return [
            took_tensor_cores(lambda of=of: torch.autograd.grad(result.sum(), of, retain_graph=True))
            for of in wanted
        ]

    for asked, expected in (("1", True), ("always", True), ("0", False)):
        monkeypatch.setenv(VARIABLE, asked)
        assert takes() == [expected] * 3


@emulated
def test_moments_of_many_rows(tensor_cores, both_widths):
    """In several chunks of rows, whose sums are added, and pieces of rows, which are added to those before; rows of very
    different size, and features of graded range."""
    case = next(case for case in CASES if case.name == "weighted_projection_loss")
    tensors = inputs((2500, 20, 5, 4), torch.float32)
    tensors["z"] *= 10.0 ** torch.linspace(-3, 3, 2500)[:, None] * 2.0 ** -torch.linspace(0, 12, 20)
    assert_as_accurate(case, tensors, f"{both_widths} bits", tensor_cores)


# ---------------------------------------------------------------- bits
@emulated
@pytest.mark.parametrize("case", PROJECTING, ids=lambda case: case.id)
def test_same_bits_in_any_order_of_lanes_and_blocks(tensor_cores, case):
    control = host_cuda()
    runs = []
    try:
        for dtype in (torch.float32, torch.bfloat16):
            tensors = inputs((200, 50, 20, 9), dtype)
            for lanes, blocks in (("forward", "forward"), ("reverse", "reverse"), ("shuffled", "forward")):
                control.set_order(lanes=lanes, blocks=blocks)
                result = case.run(tensor_cores, tensors)
                gradients = case.gradients(tensor_cores, tensors, torch.ones_like(result))
                runs.append([result.detach(), *gradients.values()])
    finally:
        control.set_order(lanes="forward", blocks="forward")
    for of_type in (runs[:3], runs[3:]):
        for other in of_type[1:]:
            assert all(map(torch.equal, of_type[0], other))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_row_has_the_same_bits_alone(ops, dtype):
    """By whatever path: the choice does not depend on the number of rows."""
    if ops.name == "cpu":
        pytest.skip("the CPU has no tensor cores")
    for shape in [(150, 50, 10, 5), (150, 40, 3, 2)]:
        tensors = inputs(shape, dtype)
        together = ops.projection_energy(tensors["z"], tensors["bases"])
        for rows in (slice(0, 1), slice(129, 150)):
            assert torch.equal(ops.projection_energy(tensors["z"][rows], tensors["bases"]), together[rows])


# ---------------------------------------------------------------- which path is taken
@emulated
@pytest.mark.parametrize(
    ("shape", "pays"),
    [
        ((5, 50, 10, 5), True),
        ((5, 128, 100, 8), True),
        ((5, 512, 3, 16), True),
        ((5, 64, 31, 1), False),  # fewer than 32 columns
        ((5, 64, 40, 1), False),  # an eighth of the columns computed
        ((5, 8, 10, 5), False),  # a quarter of the depth computed
    ],
    ids=str,
)
def test_tensor_cores_are_taken_where_they_pay(ops, monkeypatch, shape, pays):
    def takes(dtype, allow_tf32=False) -> bool:
        tensors = inputs(shape, dtype)
        z, bases = tensors["z"], tensors["bases"]
        return took_tensor_cores(lambda: kernels(ops, "projection_energy", z, bases, allow_tf32=allow_tf32))

    monkeypatch.delenv(VARIABLE, raising=False)
    assert takes(torch.float32) == takes(torch.float32, True) == takes(torch.bfloat16) == pays
    assert not takes(torch.float64)
    monkeypatch.setenv(VARIABLE, "always")
    assert takes(torch.float32)
    assert not takes(torch.float64)
    monkeypatch.setenv(VARIABLE, "0")
    assert not takes(torch.float32, True)


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
        environment = {key: text for key, text in os.environ.items() if key != VARIABLE}
        environment |= {VARIABLE: value} if value else {}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
        assert done.stdout.strip() == expected


def test_unknown_value_is_refused():
    environment = {**os.environ, VARIABLE: "yes"}
    done = subprocess.run(
        [sys.executable, "-c", "import desc_ext.ops"], env=environment, capture_output=True, text=True
    )
    assert done.returncode != 0
    assert "DESC_EXT_TENSOR_CORES=yes means nothing" in done.stderr
