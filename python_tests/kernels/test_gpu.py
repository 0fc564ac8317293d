"""What the parity tests do not ask of a GPU: streams, devices, graph capture, waiting, memory, sizes beyond 2³¹, models.

`make test-gpu` runs this file and the tests of every operator on the GPU. Without one, the tests that have a meaning there
run on the CPU, or with the CUDA kernels executed on the CPU; the others skip, saying why.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import REPOSITORY
from helpers.estimators import external_options, small
from helpers.operators import CASES, Backend, assert_as_accurate, backend_parameter, inputs, why_missing
from sklearn.datasets import load_digits

from desc_ext import ops as functions
from desc_ext import reference
from desc_ext.models import MODELS, load_model
from desc_ext.nn import MIXED

gpu = pytest.mark.skipif(why_missing("cuda") is not None, reason=why_missing("cuda") or "")
SHAPE = (300, 64, 37, 8)
LONG = 10**9  # clock cycles: about half a second


def waiting_for_nothing(case):
    """The case with the number of segments given: reading it from the labels would wait for the device."""
    if case.name != "segment_gram":
        return case
    return replace(case, call=lambda f, z, labels, *weight: f(z, labels, SHAPE[2], *weight))


every_case = pytest.mark.parametrize(
    "case", [waiting_for_nothing(case) for case in CASES], ids=lambda case: case.id
)


def on(device: torch.device | str, shape=SHAPE, seed: int = 0) -> dict[str, torch.Tensor]:
    return {name: value.to(device) for name, value in inputs(shape, torch.float32, seed).items()}


# Operators over pairs of rows: what they take grows with the square of these, or with more.
PAIRS = {case.name for case in CASES if {"y", "coef", "features", "g"} & set(case.arguments)}


def many_rows(case, device: torch.device | str, shape, base: int = 500) -> dict[str, torch.Tensor]:
    """The case's arguments with the rows of a smaller problem repeated: inputs() has an n × n array for all cases."""
    n, repeats = shape[0], shape[0] // base
    assert n % base == 0
    assert base not in shape[1:]

    def repeated(name: str, value: torch.Tensor) -> torch.Tensor:
        if len(value) != base:  # no rows
            return value
        return value.repeat(repeats, *[repeats if name == "coef" else 1] * (value.dim() - 1))

    small = inputs((base, *shape[1:]), torch.float32)
    return {name: repeated(name, small[name]).to(device) for name in case.arguments}


def results(case, tensors: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    """The operator's result and all its gradients, left where they are."""
    leaves = {name: tensors[name].detach().requires_grad_() for name in case.differentiable}
    value = case.run(functions, {**tensors, **leaves})
    if not leaves:
        return [value]
    return [value.detach(), *torch.autograd.grad(value, list(leaves.values()), torch.ones_like(value))]


def same(first: list[torch.Tensor], second: list[torch.Tensor]) -> bool:
    """Bit by bit."""

    def bits(value: torch.Tensor) -> torch.Tensor:
        return value.detach().reshape(-1).view(torch.uint8)

    return all(torch.equal(bits(a), bits(b)) for a, b in zip(first, second, strict=True))


# Streams and devices


@contextmanager
def busy(stream) -> Iterator[None]:
    """The stream is at work throughout, which is checked at the end."""
    with torch.cuda.stream(stream):
        torch.cuda._sleep(LONG)
    yield
    assert not stream.query(), "the stream had finished: something waited for it, or LONG is too short here"
    stream.synchronize()


@gpu
@every_case
def test_side_stream_does_not_wait_for_the_default_stream(case):
    tensors = on("cuda")
    expected = results(case, tensors)
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        results(case, tensors)  # fills this stream's pool of memory
    torch.cuda.synchronize()
    with busy(torch.cuda.default_stream()):
        with torch.cuda.stream(side):
            found = results(case, tensors)
        side.synchronize()
    assert same(found, expected)


@gpu
@every_case
def test_work_is_queued_on_the_current_stream(case):
    """Inputs that are written late on a side stream: work on any other stream would read what stood there before."""
    tensors, new = on("cuda"), on("cuda", seed=1)
    before, expected = results(case, tensors), results(case, new)
    assert not same(before, expected)
    torch.cuda.synchronize()
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        torch.cuda._sleep(LONG // 10)
        for name, value in tensors.items():
            value.copy_(new[name])
        found = results(case, tensors)
    side.synchronize()
    assert same(found, expected)


@gpu
@every_case
def test_calls_do_not_wait_for_the_device(case):
    """torch reports its own waiting in this mode; the stream that is still at work shows that ours did not wait either."""
    tensors = on("cuda")
    results(case, tensors)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        with busy(torch.cuda.current_stream()):
            results(case, tensors)
            torch.cuda.set_sync_debug_mode("default")
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.fixture
def second_device() -> torch.device:
    if torch.cuda.device_count() < 2:
        pytest.skip(f"torch finds {torch.cuda.device_count()} GPUs, and this needs two")
    return torch.device("cuda", 1)


@gpu
@every_case
def test_second_device(case, second_device):
    backend = Backend("cuda")
    backend.device = second_device
    assert torch.cuda.current_device() == 0
    assert_as_accurate(case, inputs(SHAPE, torch.float32), str(second_device), backend)
    assert torch.cuda.current_device() == 0
    assert all(value.device == second_device for value in results(case, on(second_device)))


@gpu
def test_tensors_on_two_devices_are_refused(second_device):
    tensors = on("cuda:0")
    with pytest.raises(ValueError, match="bases is on cuda:1 and z on cuda:0"):
        functions.projection_energy(tensors["z"], tensors["bases"].to(second_device))


# Graphs


def captured(run: Callable[[], list[torch.Tensor]]) -> tuple[torch.cuda.CUDAGraph, list[torch.Tensor]]:
    """A graph of run() and its results, which every replay writes anew."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = run()
    return graph, found


@gpu
@every_case
def test_graph_replays_forward_and_backward_with_new_values(case):
    tensors = on("cuda")
    news = [on("cuda", seed=seed) for seed in (1, 2)]
    expected = [results(case, new) for new in news]
    assert not same(*expected)
    graph, found = captured(lambda: results(case, tensors))
    for new, values in zip(news, expected, strict=True):
        for name, value in tensors.items():
            value.copy_(new[name])
        graph.replay()
        assert same(found, values)


@gpu
def test_graph_of_a_training_step():
    """Several operators, their gradients and an update of the bases, ten steps on."""

    def step(tensors) -> list[torch.Tensor]:
        z, bases = tensors["z"], tensors["bases"].detach().requires_grad_()
        weight = functions.subspace_soft_assignment(z, bases, 0.3)
        loss = functions.weighted_projection_loss(z, bases, weight) / len(z)
        loss = loss + functions.block_orthogonality_penalty(bases, "orthonormal")
        (gradient,) = torch.autograd.grad(loss, bases)
        tensors["bases"].sub_(gradient, alpha=1e-3)
        return [loss.detach()]

    eager, graphed = on("cuda"), on("cuda")
    start = graphed["bases"].clone()
    graph, (loss,) = captured(lambda: step(graphed))
    graphed["bases"].copy_(start)
    losses = []
    for _ in range(10):
        graph.replay()
        (expected,) = step(eager)
        assert same([loss, graphed["bases"]], [expected, eager["bases"]])
        losses.append(loss.item())
    assert losses == sorted(losses, reverse=True)


# Results that stay the same


@every_case
def test_same_bits_in_every_run(ops, case):
    """On a GPU 100 runs of many blocks; the CPU's threads and the emulator's orders have tests of their own."""
    if ops.name == "cuda":
        n, runs = (10_000, 100) if case.name in PAIRS else (20_000, 100)
        tensors = many_rows(case, ops.device, (n, 64, 37, 8))
    else:
        tensors, runs = on(ops.device), 2
    first = results(case, tensors)
    for _ in range(runs - 1):
        assert same(results(case, tensors), first)


# Sizes

needs_kernels = pytest.mark.parametrize(
    "ops", [backend_parameter("host_cuda"), backend_parameter("cuda")], indirect=True
)
LIMIT = 2**31


def chosen_rows(n: int, width: int) -> torch.Tensor:
    """The first and the last rows, and those around element 2³¹ of an array of this width."""
    middle = min(LIMIT // width, n // 2)
    return torch.cat([torch.arange(start, start + 20) for start in (0, middle - 10, n - 20)])


def skip_without_memory(device: torch.device, wanted: int) -> None:
    if device.type == "cuda" and (free := torch.cuda.mem_get_info(device)[0]) < wanted:
        pytest.skip(f"{wanted / 2**30:.0f} GiB of device memory are needed, and {free / 2**30:.0f} are free")


def random(device: torch.device, *size: int, seed: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    generator = torch.Generator(device).manual_seed(seed)
    return torch.empty(size, device=device, dtype=dtype).normal_(generator=generator)


def assert_close(found: torch.Tensor, truth: torch.Tensor, tolerance: float = 1e-4) -> None:
    deviation = (found.double().cpu() - truth.detach()).norm() / truth.norm()
    assert deviation <= tolerance, f"{deviation:.3g} > {tolerance}"


def test_more_elements_in_the_rows_than_32_bits_count(ops):
    """Results of some rows against float64; rows of weight 0 add nothing to sums, so those have a truth too."""
    p, n_subspaces, dim = 64, 3, 4
    n = LIMIT // p + 1000 if ops.name == "cuda" else 1000
    skip_without_memory(ops.device, 16 << 30)
    rows = chosen_rows(n, p).to(ops.device)
    z = random(ops.device, n, p, seed=0, dtype=torch.bfloat16).requires_grad_()
    bases = (random(ops.device, n_subspaces, p, dim, seed=1) / p**0.5).requires_grad_()
    weight = torch.zeros(n, n_subspaces, device=ops.device)
    weight[rows] = torch.rand(len(rows), n_subspaces, device=ops.device)
    few = z.detach()[rows].cpu().double().requires_grad_()
    exact = bases.detach().cpu().double().requires_grad_()
    few_weight = weight[rows].cpu().double()

    labels, values = functions.nearest_subspace(z.detach(), bases.detach())
    true_labels, true_values = reference.nearest_subspace(few.detach(), exact.detach())
    assert torch.equal(labels[rows].cpu(), true_labels)
    assert_close(values[rows], true_values)
    assignment = functions.subspace_soft_assignment(z.detach(), bases.detach(), 0.3)
    truth = reference.subspace_soft_assignment(few.detach(), exact.detach(), 0.3)
    assert_close(assignment[rows], truth)
    gram = functions.segment_gram(z.detach(), labels, n_subspaces, weight[:, 0].contiguous())
    assert_close(gram, reference.segment_gram(few.detach(), true_labels, n_subspaces, few_weight[:, 0]))

    loss = functions.weighted_projection_loss(z, bases, weight)
    true_loss = reference.weighted_projection_loss(few, exact, few_weight)
    assert_close(loss.detach(), true_loss)
    dz, dbases = torch.autograd.grad(loss, [z, bases])
    true_dz, true_dbases = torch.autograd.grad(true_loss, [few, exact])
    assert_close(dbases, true_dbases)
    assert_close(dz[rows], true_dz, torch.finfo(torch.bfloat16).eps)
    assert int(dz.count_nonzero(1).count_nonzero()) == len(rows.unique())


def test_more_pairs_than_32_bits_count(ops):
    p, n_subspaces, dim = 8, 512, 2
    n = LIMIT // n_subspaces + 1000 if ops.name == "cuda" else 300
    skip_without_memory(ops.device, 30 << 30)
    rows = chosen_rows(n, n_subspaces).to(ops.device)
    z = random(ops.device, n, p, seed=0).requires_grad_()
    bases = (random(ops.device, n_subspaces, p, dim, seed=1) / p**0.5).requires_grad_()
    few = z.detach()[rows].cpu().double().requires_grad_()
    exact = bases.detach().cpu().double().requires_grad_()
    grad = torch.zeros(n, n_subspaces, device=ops.device)
    grad[rows] = random(ops.device, len(rows), n_subspaces, seed=2)

    for name in ("projection_residual", "projection_energy"):
        values = getattr(functions, name)(z, bases)
        truth = getattr(reference, name)(few, exact)
        assert_close(values.detach()[rows], truth)
        dz, dbases = torch.autograd.grad(values, [z, bases], grad)
        true_dz, true_dbases = torch.autograd.grad(truth, [few, exact], grad[rows].cpu().double())
        del values
        assert_close(dbases, true_dbases)
        assert_close(dz[rows], true_dz)
    q = functions.student_t_assignment(z.detach(), bases.detach()[..., 0])
    truth = reference.student_t_assignment(few.detach(), exact.detach()[..., 0])
    assert_close(q[rows], truth)
    frequency = torch.ones(n_subspaces, device=ops.device)
    target = functions.target_distribution(q, frequency)
    assert_close(target[rows], reference.target_distribution(truth, frequency.cpu().double()))


# Memory


def peak_bytes(device: torch.device, call: Callable[[], object]) -> int:
    """What one call takes of torch's memory at its peak, beside what it returns."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        result = call()
        peak = torch.cuda.max_memory_allocated() - before
    else:
        activity = torch.profiler.ProfilerActivity.CPU
        with torch.profiler.profile(activities=[activity], profile_memory=True) as profiler:
            result = call()
        events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
        events.sort(key=lambda event: event.start_ns())
        peak = int(np.cumsum([event.nbytes() for event in events]).max(initial=0))
    kept = result if isinstance(result, tuple) else (result,)
    return peak - sum(tensor.untyped_storage().nbytes() for tensor in kept)


@needs_kernels
@every_case
def test_peak_memory_is_outputs_and_a_workspace(ops, case):
    """An array of a coefficient for each row and column of the bases would be larger, with the emulator's short rows too;
    so would one of a number for each pair, though what is over pairs may also hold its rows in the kernels' layouts."""
    if case.name in PAIRS:
        shape = (10_000, 64, 37, 8) if ops.name == "cuda" else (500, 8, 4, 3)
        tensors = many_rows(case, ops.device, shape)
        rows = sum(value.nbytes for name, value in tensors.items() if name != "coef")
        # Blocks of pairs (the emulator's are smaller), the rows' layouts, and some numbers for each row.
        allowed = (64 << 20 if ops.name == "cuda" else 256 << 10) + 8 * rows + 128 * shape[0]
        assert allowed < 4 * shape[0] ** 2
    else:
        shape, allowed = (
            ((200_000, 64, 100, 8), 112 << 20) if ops.name == "cuda" else ((8000, 8, 100, 8), 16 << 20)
        )
        tensors = many_rows(case, ops.device, shape)
    case = replace(case, call=lambda f, z, y, *w: f(z, y, 100, *w)) if case.name == "segment_gram" else case
    for name in case.differentiable:
        tensors[name].requires_grad_()
    extra = peak_bytes(ops.device, lambda: case.run(functions, tensors))
    # subspace_soft_assignment keeps a total of each row for its gradient, nearest_subspace a label.
    assert extra <= allowed + 8 * shape[0], f"forward: {extra / 2**20:.1f} MiB beside the outputs"
    if not case.differentiable:
        return
    value = case.run(functions, tensors)
    grad, leaves = torch.ones_like(value), [tensors[name] for name in case.differentiable]
    extra = peak_bytes(ops.device, lambda: torch.autograd.grad(value, leaves, grad))
    assert extra <= allowed, f"backward: {extra / 2**20:.1f} MiB beside the gradients"


@pytest.mark.parametrize("backend", [backend_parameter("cpu"), backend_parameter("cuda")])
def test_memory_that_is_given_back_counts(backend):
    device = Backend(backend).device
    x = torch.ones(1 << 20, device=device)
    extra = peak_bytes(device, lambda: (x.expand(5, -1) * 2).sum(0) * 3)
    assert 20 << 20 <= extra <= 25 << 20
    assert peak_bytes(device, lambda: x * 2) < 1024  # beside the result, at most a constant


# Models


NETWORKS = [method for method in MODELS if method not in ("k-subspaces", "self-expressive")]


@pytest.mark.filterwarnings("ignore:no row was ever confident", "ignore:NCSC collapsed")
@pytest.mark.parametrize("backend", [backend_parameter("cpu"), backend_parameter("cuda")])
@pytest.mark.parametrize(
    ("method", "options"),
    [
        *((method, {}) for method in MODELS),
        *((method, {"dtype": MIXED}) for method in NETWORKS),
        ("desc", {"preset": "paper", "hard_weight": "off"}),
        ("dsc-net", {"self_expression": "closed-form"}),
    ],
)
def test_models_fit(backend, method, options, tmp_path):
    """Finite results on the device, the same in a second fit and after saving, and the training rows' labels from predict."""
    device = Backend(backend).device
    digits = load_digits()
    X = (digits.images if method in NETWORKS else digits.data)[:120].astype(np.float32)
    if method == "lrsc":
        options = options | external_options(X[:60], digits.target[:60])
    first, second = (small(method, device=str(device), **options).fit(X) for _ in range(2))
    if method in NETWORKS:
        assert next(first.network_.parameters()).device.type == device.type
        assert all(np.isfinite(record["loss"]) for record in first.history_)
        assert all(value.isfinite().all() for value in first.network_.state_dict().values())
    assert np.isfinite(first.embedding_).all()
    assert np.array_equal(first.embedding_, second.embedding_)
    assert np.array_equal(first.labels_, second.labels_)
    first.save(tmp_path)
    other = load_model(tmp_path)
    assert np.array_equal(other.labels_, first.labels_)
    if hasattr(first, "predict"):
        assert np.array_equal(other.predict(X), first.predict(X))
        # new rows go to the nearest of the subspaces, the training rows' clusters are spectral
        assert method == "self-expressive" or np.array_equal(first.predict(X), first.labels_)


# compute-sanitizer


def compute_sanitizer() -> str | None:
    folders = [os.path.join(os.environ["CUDA_HOME"], "bin")] if os.environ.get("CUDA_HOME") else []
    path = os.pathsep.join([*folders, os.environ.get("PATH", ""), "/usr/local/cuda/bin"])
    return shutil.which("compute-sanitizer", path=path)


def run_every_operator(*command: str, device: str) -> subprocess.CompletedProcess:
    # torch's own pool of memory would hide an access beyond an array.
    environment = {**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    return subprocess.run(
        [*command, sys.executable, "-m", "helpers.every_operator", device],
        cwd=REPOSITORY / "python_tests",
        capture_output=True,
        text=True,
        env=environment,
        timeout=550,
    )


def test_script_for_the_sanitizer_runs_every_operator():
    done = run_every_operator(device="cpu")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [case.id for case in CASES]


@gpu
@pytest.mark.slow
@pytest.mark.skipif(
    compute_sanitizer() is None,
    reason="compute-sanitizer is neither in CUDA_HOME, on the PATH nor in /usr/local/cuda",
)
@pytest.mark.parametrize("tool", ["memcheck", "racecheck"])
def test_compute_sanitizer_finds_nothing(tool):
    # torch asks the driver things that it answers by an error code; those are no faults of the kernels.
    quiet = ["--report-api-errors", "no"] if tool == "memcheck" else []
    command = [compute_sanitizer(), "--tool", tool, "--error-exitcode", "9", *quiet]
    done = run_every_operator(*command, device="cuda")
    assert done.returncode == 0, (done.stdout + done.stderr)[-5000:]
    assert {case.id for case in CASES} <= set(done.stdout.split())
