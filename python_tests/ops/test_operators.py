"""What every operator must hold: accuracy, gradients, layouts, dtypes, determinism, torch.compile, errors."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers.operators import CASES, SHAPES, assert_as_accurate, backend_parameter, error, host_cuda, inputs

from desc_ext import ops, reference
from desc_ext.ops import registration
from desc_ext.ops.checks import build_info

every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
DIFFERENTIABLE = [case for case in CASES if case.differentiable]
differentiable_cases = pytest.mark.parametrize("case", DIFFERENTIABLE, ids=lambda case: case.id)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@every_case
def test_parity(ops, case, shape, dtype):
    assert_as_accurate(case, inputs(shape, dtype), str(shape), ops)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@every_case
def test_parity_half(ops, case, dtype):
    assert_as_accurate(case, inputs((70, 50, 10, 5), dtype), str(dtype), ops)


@pytest.mark.parametrize("isa", build_info()["instruction_sets"])
def test_parity_on_every_instruction_set(isa):
    """The parity tests again in a process that is told to use one instruction set."""
    if isa == build_info()["in_use"]:
        pytest.skip(f"{isa} is what this process runs on already")
    here = Path(__file__)
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", str(here), "-k"]
    command += ["test_parity and cpu and not instruction_set"]
    done = subprocess.run(
        command,
        env={**os.environ, "DESC_EXT_CPU": isa},
        capture_output=True,
        text=True,
        cwd=here.parent.parent,
    )
    if "is not an instruction set that can run here" in done.stdout + done.stderr:
        pytest.skip(f"this machine cannot run {isa}")
    assert done.returncode == 0, done.stdout + done.stderr


def test_unknown_instruction_set_is_named():
    done = subprocess.run(
        [sys.executable, "-c", "import desc_ext.ops, torch; torch.ops.desc_ext.build_info()"],
        env={**os.environ, "DESC_EXT_CPU": "mmx"},
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0
    assert "DESC_EXT_CPU=mmx is not an instruction set that can run here" in done.stderr
    assert "baseline" in done.stderr


@pytest.mark.parametrize(
    "case", [case for case in DIFFERENTIABLE if case.whole_gradient], ids=lambda case: case.id
)
@pytest.mark.parametrize("shape", [(5, 4, 3, 2), (6, 3, 2, 3), (4, 7, 3, 1)], ids=str)
def test_gradcheck(ops, case, shape):
    tensors = inputs(shape)
    leaves = [tensors[name].requires_grad_() for name in case.differentiable]

    def run(*values):
        return case.run(ops, {**tensors, **dict(zip(case.differentiable, values, strict=True))})

    # Repeats are compared bit by bit too (nondet_tol defaults to 0).
    assert torch.autograd.gradcheck(run, leaves)


@differentiable_cases
def test_partial_gradients_equal_full_ones(ops, case):
    """Asking for one gradient only takes other paths in the kernels; each must give the same."""
    tensors = inputs((70, 50, 10, 5))
    grad = torch.randn_like(case.run(ops, tensors))
    together = case.gradients(ops, tensors, grad)
    for name in case.differentiable:
        leaf = tensors[name].detach().requires_grad_()
        (alone,) = torch.autograd.grad(case.run(ops, {**tensors, name: leaf}), leaf, grad)
        torch.testing.assert_close(alone, together[name], rtol=1e-13, atol=1e-13)


@differentiable_cases
def test_second_derivative_is_refused(ops, case):
    tensors = inputs((5, 4, 3, 2))
    leaves = [tensors[name].requires_grad_() for name in case.differentiable]
    first = torch.autograd.grad(case.run(ops, tensors).sum(), leaves, create_graph=True)
    with pytest.raises(RuntimeError, match=r"no second derivative; take desc_ext\.reference"):
        torch.autograd.grad(sum(value.sum() for value in first), leaves)


def bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().reshape(-1).view(torch.uint8)


def outcome(case, tensors, ops=ops):
    result = case.run(ops, tensors)
    if not case.differentiable:
        return [result]
    grad = torch.ones_like(result) * 0.7
    return [result, *case.gradients(ops, tensors, grad).values()]


def assert_same_bits(runs) -> None:
    for other in runs[1:]:
        for first, second in zip(runs[0], other, strict=True):
            assert torch.equal(bits(first), bits(second))


on_a_cpu = pytest.mark.parametrize(
    "ops", [backend_parameter("cpu"), backend_parameter("aarch64")], indirect=True
)


@pytest.mark.bits
@on_a_cpu
@every_case
def test_same_bits_for_any_number_of_threads(ops, case):
    # with fewer rows, longer ones: n² p ≥ 10⁷, below which pairs of rows are worth no second thread
    tensors = inputs((300, 120, 10, 5) if ops.name == "aarch64" else (3001, 50, 10, 5), torch.float32)
    before = torch.get_num_threads()
    try:
        runs = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            runs.append(outcome(case, tensors, ops))
    finally:
        torch.set_num_threads(before)
    assert_same_bits(runs)


ROW_BY_ROW = {"z", "sample_weight", "q"}  # arguments with a row for each row of the result
ROW_BY_ROW_CASES = [
    case
    for case in CASES
    if case.name.startswith(("projection", "nearest")) or case.name.endswith("_assignment")
] + [case for case in CASES if case.id == "target_distribution-frequency"]


@on_a_cpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("case", ROW_BY_ROW_CASES, ids=lambda case: case.id)
def test_a_row_does_not_depend_on_the_rows_beside_it(ops, case, dtype):
    """Other rows make other strips and chunks, and a row stands in another lane of a vector."""
    tensors = inputs((131, 50, 10, 5), dtype)
    names = ["result", *case.differentiable]
    together = dict(zip(names, outcome(case, tensors, ops), strict=True))
    order = torch.randperm(131, generator=torch.Generator().manual_seed(0))
    for rows in (order[:1], order[:7], order[:66], order):
        apart = {
            name: value[rows] if name in ROW_BY_ROW and len(value) == 131 else value
            for name, value in tensors.items()
        }
        for name, value in zip(names, outcome(case, apart, ops), strict=True):
            if name in ("result", "z"):
                assert torch.equal(bits(value), bits(together[name][rows])), name


@every_case
def test_same_bits_again(ops, case):
    tensors = inputs((ops.rows(3001), 50, 10, 5), torch.float32)
    assert_same_bits([outcome(case, tensors, ops) for _ in range(3)])


@every_case
@pytest.mark.parametrize("ops", [backend_parameter("host_cuda")], indirect=True)
def test_same_bits_in_any_order_of_lanes_and_blocks(ops, case):
    """On a GPU neither order is known: a result that depends on one has a race."""
    control = host_cuda()
    tensors = inputs((ops.rows(3001), 50, 10, 5), torch.float32)
    runs = []
    try:
        for lanes, blocks in [("forward", "forward"), ("reverse", "forward"), ("shuffled", "reverse")]:
            control.set_order(lanes=lanes, blocks=blocks)
            runs.append(outcome(case, tensors, ops))
    finally:
        control.set_order(lanes="forward", blocks="forward")
    assert_same_bits(runs)


@every_case
def test_no_rows(ops, case):
    tensors = inputs((0, 5, 3, 2))
    if "labels" in case.arguments:
        tensors["labels"] = torch.empty(0, dtype=torch.int64)
        case = type(case)(case.name, case.arguments, case.differentiable, lambda f, z, y, *w: f(z, y, 3, *w))
    result, expected = case.run(ops, tensors), case.run(reference, tensors)
    torch.testing.assert_close(result, expected, equal_nan=True)  # a mean over no rows
    for name, gradient in (
        case.gradients(ops, tensors, torch.ones_like(result)).items() if case.differentiable else []
    ):
        assert gradient.shape == tensors[name].shape
        if name != "bases" or case.name != "block_orthogonality_penalty":
            assert not gradient.any()


@every_case
def test_non_contiguous_input(ops, case):
    tensors = inputs((33, 17, 5, 3), torch.float32)
    strided = {}
    for name, value in tensors.items():
        wide = torch.zeros(*value.shape, 2, dtype=value.dtype, device=ops.device)
        wide[..., 0] = value
        strided[name] = wide.transpose(0, -2)[..., 0].transpose(0, -1) if value.dim() == 2 else wide[..., 0]
        assert value.numel() == 1 or not strided[name].is_contiguous()
    for plain, other in zip(outcome(case, tensors, ops), outcome(case, strided, ops), strict=True):
        assert torch.equal(plain, other.cpu())


@every_case
def test_opcheck(ops, case):
    tensors = inputs((9, 6, 4, 2))
    for name in case.differentiable:
        tensors[name].requires_grad_()
    calls = []
    operator = getattr(registration.kernels(), case.name).default

    class Recorder(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            if getattr(function, "default", None) is operator or function is operator:
                calls.append((args, kwargs or {}))
            return function(*args, **(kwargs or {}))

    with Recorder():
        case.run(ops, tensors)
    assert len(calls) == 1
    # test_aot_dispatch_dynamic adds up all outputs into the first, which an int64 one cannot take; the compile tests
    # below cover what it would.
    checks = ["test_schema", "test_autograd_registration", "test_faketensor"]
    integer_first = case.name in ("nearest_subspace", "coefficient_topk")
    torch.library.opcheck(
        operator, *calls[0], test_utils=checks if integer_first else [*checks, "test_aot_dispatch_dynamic"]
    )


@every_case
def test_compile_fullgraph_with_dynamic_rows(case):
    torch._dynamo.reset()
    names = list(case.arguments)

    def run(*values):
        return case.run(ops, dict(zip(names, values, strict=True)))

    if "labels" in names:
        case = type(case)(case.name, case.arguments, case.differentiable, lambda f, z, y, *w: f(z, y, 6, *w))
    graphs = first_graphs = 0

    def backend(graph, example_inputs):
        nonlocal graphs
        graphs += 1
        return torch._dynamo.lookup_backend("aot_eager")(graph, example_inputs)

    fast = torch.compile(run, fullgraph=True, dynamic=True, backend=backend)
    for n in (33, 57, 20):
        tensors = inputs((n, 17, 5, 3), torch.float32)
        eager = [tensors[name].clone().requires_grad_(name in case.differentiable) for name in names]
        leaves = [value for value in eager if value.requires_grad]
        expected, result = run(*eager), fast(*eager)
        assert torch.equal(expected, result)
        if leaves:
            grad = torch.ones_like(expected)
            for first, second in zip(
                torch.autograd.grad(expected, leaves, grad),
                torch.autograd.grad(result, leaves, grad),
                strict=True,
            ):
                assert torch.equal(first, second)
        first_graphs = first_graphs or graphs
    assert graphs == first_graphs, "recompiled for another number of rows"


def test_compile_with_the_default_backend(tmp_path, monkeypatch):
    # Torch's own cache of compiled code, one for all that this user runs, does not ask which instruction set it was made
    # for: after a run with ATEN_CPU_CAPABILITY=avx2 another one fails to compile, or crashes.
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    tensors = inputs((64, 17, 5, 3), torch.float32)
    z, bases = tensors["z"].requires_grad_(), tensors["bases"].requires_grad_()

    def loss(z, bases):
        weight = ops.subspace_soft_assignment(z, bases, 0.5)
        return ops.weighted_projection_loss(z, bases, weight) + ops.block_orthogonality_penalty(bases)

    expected = torch.autograd.grad(loss(z, bases), [z, bases])
    result = torch.autograd.grad(torch.compile(loss, fullgraph=True)(z, bases), [z, bases])
    for first, second in zip(expected, result, strict=True):
        torch.testing.assert_close(first, second)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_autocast_half_rows_meet_float32_bases(dtype):
    """A linear layer under autocast gives half rows; its weight and the bases stay float32."""
    tensors = inputs((65, 20, 4, 3), torch.float32)
    layer = torch.nn.Linear(20, 20)
    bases = tensors["bases"].requires_grad_()
    with torch.autocast("cpu", dtype=dtype):
        z = layer(tensors["z"])
        assert z.dtype == dtype
        z.retain_grad()
        loss = ops.weighted_projection_loss(z, bases, ops.subspace_soft_assignment(z, bases, 0.2))
        assert loss.dtype == torch.float32
    loss.backward()
    exact_z, exact_bases = z.detach().double().requires_grad_(), bases.detach().double().requires_grad_()
    truth = reference.weighted_projection_loss(
        exact_z, exact_bases, reference.subspace_soft_assignment(exact_z, exact_bases, 0.2)
    )
    truth.backward()
    assert error(loss.detach(), truth.detach()) < 1e-6
    assert z.grad.dtype == dtype
    assert error(z.grad, exact_z.grad) < 2 * torch.finfo(dtype).eps
    assert error(bases.grad, exact_bases.grad) < 1e-5


def test_nan_spoils_only_its_own_row(ops):
    tensors = inputs((40, 17, 5, 3), torch.float32)
    clean = ops.projection_residual(tensors["z"], tensors["bases"])
    tensors["z"][11, 3] = float("nan")
    spoiled = ops.projection_residual(tensors["z"], tensors["bases"])
    assert spoiled[11].isnan().all()
    rest = torch.arange(40) != 11
    assert torch.equal(spoiled[rest], clean[rest])


Z, S = torch.zeros(4, 6), torch.zeros(3, 6, 2)
WRONG = {
    "no tensor": (lambda: ops.projection_energy([[1.0]], S), TypeError, r"projection_energy: z must be a torch.Tensor \[n, p\], got list"),
    "rank of z": (lambda: ops.projection_energy(Z[0], S), ValueError, r"z must be \[n, p\], got shape \[6\]"),
    "rank of bases": (lambda: ops.nearest_subspace(Z, S[0]), ValueError, r"bases must be \[K, p, d\], got shape \[6, 2\]"),
    "width": (lambda: ops.projection_residual(Z[:, :5], S), ValueError, r"must have the p = 5 columns of z, got shape \[3, 6, 2\]"),
    "integers": (lambda: ops.projection_energy(Z.long(), S), TypeError, r"z must be float32.*got torch.int64; convert it with z.float\(\)"),
    "mixed": (lambda: ops.projection_energy(Z, S.double()), TypeError, "bases is torch.float64 and z torch.float32"),
    "device": (lambda: ops.projection_energy(Z, S.to("meta")), ValueError, "bases is on meta and z on cpu"),
    "d > p": (lambda: ops.projection_energy(Z[:, :2], torch.zeros(3, 2, 5)), ValueError, r"1 <= d <= p, got d = 5, p = 2"),
    "K = 0": (lambda: ops.projection_energy(Z, S[:0]), ValueError, r"K = 0"),
    "d = 0": (lambda: ops.block_orthogonality_penalty(S[:, :, :0]), ValueError, "got d = 0"),
    "metric": (lambda: ops.nearest_subspace(Z, S, "cosine"), ValueError, "'residual', 'energy', got 'cosine'"),
    "weight": (lambda: ops.weighted_projection_loss(Z, S, torch.ones(4, 2)), ValueError, r"weight must be \[4, 3\], got shape \[4, 2\]"),
    "smoothing": (lambda: ops.subspace_soft_assignment(Z, S, float("nan")), ValueError, "smoothing must be finite and >= 0, got nan"),
    "smoothing inf": (lambda: ops.subspace_soft_assignment(Z, S, float("inf")), ValueError, "smoothing must be finite"),
    "smoothing < 0": (lambda: ops.subspace_soft_assignment(Z, S, -1), ValueError, "smoothing must be finite and >= 0"),
    "sample_weight": (lambda: ops.subspace_soft_assignment(Z, S, 1, torch.ones(5)), ValueError, r"sample_weight must be \[4\]"),
    "H grad": (lambda: ops.subspace_soft_assignment(Z, S, 1, torch.ones(4, requires_grad=True)), ValueError, r"pass sample_weight.detach\(\)"),
    "centroids": (lambda: ops.student_t_assignment(Z, torch.zeros(3, 5)), ValueError, r"centroids must be \[K, 6\] with K >= 1"),
    "dof": (lambda: ops.student_t_assignment(Z, torch.zeros(3, 6), 0), ValueError, "dof must be finite and > 0, got 0"),
    "frequency": (lambda: ops.target_distribution(Z, torch.ones(2)), ValueError, r"frequency must be \[6\]"),
    "within": (lambda: ops.block_orthogonality_penalty(S, "none"), ValueError, "within must be one of"),
    "labels dtype": (lambda: ops.segment_gram(Z, torch.zeros(4), 2), TypeError, r"labels.long\(\)"),
    "labels size": (lambda: ops.segment_gram(Z, torch.zeros(5, dtype=torch.long), 2), ValueError, r"labels must be \[4\]"),
    "labels range": (lambda: ops.segment_gram(Z, torch.tensor([0, 1, 2, 0]), 2), RuntimeError, r"labels\[2\] is 2; wanted 0 <= label < 2"),
    "n_segments": (lambda: ops.segment_gram(Z, torch.zeros(4, dtype=torch.long), 0), ValueError, "n_segments must be at least 1"),
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG)
def test_errors(what):
    call, kind, message = WRONG[what]
    with pytest.raises(kind, match=message):
        call()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda op: op.projection_energy(Z, S[:, :5].contiguous()), r"bases has shape \[3, 5, 2\]; wanted \[any, 6, any\]"),
        (lambda op: op.projection_residual_backward(torch.ones(3, 3), Z, S, True, True), "grad has shape"),
        (lambda op: op.weighted_projection_loss(Z, S, torch.ones(4, 3).double()), "weight"),
        (lambda op: op.nearest_subspace_backward(torch.ones(4), torch.full((4,), 3), Z, S, "residual", True, True), r"labels\[0\] is 3"),
        (lambda op: op.segment_gram(Z, torch.full((4,), -1), 2, None), r"labels\[0\] is -1"),
    ],
)  # fmt: skip
def test_direct_calls_are_guarded(call, message):
    """torch.ops.desc_ext can be called past the Python functions; it must not read outside its arguments."""
    with pytest.raises(RuntimeError, match=message):
        call(torch.ops.desc_ext)


def test_half_is_exact_where_it_can_be(ops):
    """Every finite half is read as what it is, and gradients are rounded to nearest, ties to even."""
    for dtype in (torch.float16, torch.bfloat16):
        every = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)
        finite = every[every.isfinite()].reshape(-1, 1)
        one = torch.ones(1, 1, 1, dtype=torch.float32)
        energy = ops.projection_energy(finite, one)
        assert torch.equal(energy[:, 0], finite.float().square()[:, 0])
        grad = torch.randn(finite.shape[0], 1, generator=torch.Generator().manual_seed(0)) * 1e-3
        leaf = finite.clone().requires_grad_()
        ops.projection_energy(leaf, one).backward(grad)
        expected = (2 * (grad * finite.float())).to(dtype)
        assert torch.equal(leaf.grad, expected)
