"""`desc-ext bench`: what it compares with is right, what it says can be read by a program, and what it refuses."""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
from dataclasses import replace

import pytest
import torch
from helpers.commands import ENVIRONMENT, run
from matplotlib.image import imread

from desc_ext import reference
from desc_ext.bench import machine, pairs, segments, timing
from desc_ext.bench import run as bench
from desc_ext.bench.machine import Roofline
from desc_ext.bench.problems import PROBLEMS, USUAL, value_of
from desc_ext.cli.catalogue import MEASURED

TINY = {"n,p,K,d": (40, 12, 4, 3), "n,p,K": (40, 12, 4), "n,p": (40, 12), "K,p,d": (4, 12, 3)}
# The operators as desc_ext.reference defines them, with the constants that are measured.
TRUTH = {
    "subspace_soft_assignment": lambda z, s: reference.subspace_soft_assignment(z, s, 1.0),
    "coefficient_topk": lambda y: reference.coefficient_topk(y, 5),
    "self_expression_residual": lambda z, c: sum(reference.self_expression_residual(z, c)[:2]),
    "laplacian_energy": lambda z, t: reference.laplacian_energy(z, t, pairs.BANDWIDTH),
    "collaborative_loss": lambda prediction, y: sum(
        reference.collaborative_loss(prediction, y, *pairs.LIMITS)[:3]
    ),
    "segment_gram": lambda z: reference.segment_gram(z, segments.labels(len(z), z.device), segments.SEGMENTS),
    "info_nce": lambda z, g: reference.info_nce(z, g, pairs.TEMPERATURE),
}


@pytest.fixture
def quick(monkeypatch):
    """The roofline is not measured: a matrix product of 100 GFLOP/s, a copy of 10 GB/s. No other process is seen."""
    monkeypatch.setattr(bench, "busy", lambda: None)
    monkeypatch.setattr(bench, "measure_roofline", lambda *_: Roofline(100.0, 10.0))


# What is compared


@pytest.mark.parametrize("name", PROBLEMS)
def test_every_candidate_is_the_operator(name):
    problem = PROBLEMS[name]
    truth = TRUTH.get(name, getattr(reference, name))
    torch.manual_seed(0)
    arguments = problem.arguments(TINY[problem.sizes])
    assert all(argument.dtype == torch.float64 for argument in arguments)
    candidates = problem.candidates(TINY[problem.sizes])
    assert next(iter(candidates)) == "desc_ext"
    assert len(candidates) >= 2
    expected = problem.compared(truth(*arguments))
    for candidate, function in candidates.items():
        torch.testing.assert_close(
            problem.compared(function(*arguments)), expected, rtol=1e-9, atol=1e-9, msg=candidate
        )


def test_the_help_lists_the_operators_by_their_shapes():
    found = {name: sizes for sizes, names in MEASURED.items() for name in names}
    assert found == {name: problem.sizes for name, problem in PROBLEMS.items()}
    said = " ".join(run("bench", "--help")[1].replace("│", " ").split())
    assert "n,p,K: student_t_assignment; K,p,d: block_orthogonality_penalty; n,p: coefficient_topk, " in said


def test_segments_are_of_about_the_same_size_and_their_rows_apart():
    found = segments.labels(1000, torch.device("cpu"))
    assert found.bincount().min() >= 80
    assert (found[1:] == found[:-1]).float().mean() < 0.3


@pytest.mark.parametrize(
    ("name", "parts"), [("collaborative_loss", ["forward"]), ("segment_gram", ["forward", "full"])]
)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_those_of_thresholds_and_of_labels(quick, name, parts, dtype):
    report = bench.run([(PROBLEMS[name], (300, 20))], dtype, compiled=False)
    assert [m.part for m in report.measurements if m.candidate == "desc_ext"] == parts
    assert len(report.measurements) == len(parts) * (1 + len(PROBLEMS[name].peers))
    assert report.notes == []


def test_what_is_measured_by_itself_is_a_handful():
    assert len(USUAL) <= 6
    assert {name for name, _ in USUAL} <= set(PROBLEMS)
    assert all(len(shape) == PROBLEMS[name].sizes.count(",") + 1 for name, shape in USUAL)


def test_the_literal_form_is_left_out_where_its_array_is_large():
    problem = PROBLEMS["projection_residual"]
    assert "literal" in problem.candidates((100, 50, 10, 5))
    assert "literal" not in problem.candidates((100_000, 50, 10, 5))


def test_cost_and_rate(quick):
    """By hand: 2npKd operations forward and three times as many in all; float32 rows, bases and residuals."""
    n, p, n_subspaces, dim = shape = (64, 16, 4, 3)
    report = bench.run([(PROBLEMS["projection_residual"], shape)], compiled=False)
    inputs, outputs = 4 * (n * p + n_subspaces * p * dim), 4 * n * n_subspaces
    moved = {"forward": inputs + outputs, "full": 3 * inputs + 2 * outputs}
    assert len(report.measurements) == 2 * 4
    for m in report.measurements:
        operations = 2 * math.prod(shape) * (3 if m.part == "full" else 1)
        assert m.gigaflops * m.milliseconds / 1e3 * 1e9 == pytest.approx(operations)
        assert m.gigabytes * m.milliseconds / 1e3 * 1e9 == pytest.approx(moved[m.part])
        assert m.intensity == pytest.approx(operations / moved[m.part])
        assert 0 <= m.error < 1e-5


def test_a_slow_peer_is_timed_once():
    seconds = {"ours": 5.0, "best": 1.0, "close": 2.9, "slow": 3.1}
    times = timing.compare({name: name for name in seconds}, rounds=7, clock=seconds.get)
    assert [len(times[name]) for name in seconds] == [7, 7, 7, 1]


def test_a_sample_repeats_short_calls():
    done = []
    repeats = {}
    timing.sample(lambda: done.append(1), repeats)
    assert next(iter(repeats.values())) > 100
    assert len(done) == 3 + next(iter(repeats.values()))


def test_peak_memory_of_a_call():
    extra = timing.peak_extra(lambda: torch.ones(8 << 20))  # 32 MiB
    assert math.isnan(extra) or 28 < extra < 48


def test_wrong_and_failing_peers_are_not_timed(quick):
    def fails(z, bases):
        raise NotImplementedError("not for this type\nand more")

    problem = PROBLEMS["projection_energy"]
    peers = problem.peers | {"twice": lambda z, s: 2 * reference.projection_energy(z, s), "fails": fails}
    report = bench.run([(replace(problem, peers=peers), (30, 8, 3, 2))], compiled=False)
    assert {m.candidate for m in report.measurements} == {"desc_ext", "eager", "literal"}
    where = "projection_energy, forward, n,p,K,d = 30,8,3,2"
    assert f"twice is left out of {where}: it differs from float64 by 1 of its size" in report.notes
    assert f"fails is left out of {where}: NotImplementedError: not for this type" in report.notes


def test_a_wrong_result_of_ours_is_an_error(quick):
    problem = PROBLEMS["projection_energy"]
    wrong = replace(problem, ours=lambda z, s: 1.1 * reference.projection_energy(z, s))
    with pytest.raises(RuntimeError, match=r"differs from float64's by 0\.1 of its size; not timed"):
        bench.run([(wrong, (30, 8, 3, 2))], compiled=False)


@pytest.mark.parametrize("dtype", ["float64", "bfloat16", "float16"])
def test_other_types(quick, dtype):
    report = bench.run([(PROBLEMS["weighted_projection_loss"], (40, 12, 4, 3))], dtype, compiled=False)
    ours = [m for m in report.measurements if m.candidate == "desc_ext"]
    assert [(m.part, m.dtype) for m in ours] == [("forward", dtype), ("full", dtype)]


@pytest.mark.slow
@pytest.mark.skipif(bench.cpp_compiler() is None, reason="torch.compile needs a C++ compiler")
def test_compiled_peers(quick):
    report = bench.run([(PROBLEMS["squared_l12_norm"], (300, 20))])
    assert report.notes == []
    names = ["desc_ext", "eager", "compiled eager"]
    assert [m.candidate for m in report.measurements] == 2 * names


def test_without_a_compiler_torch_compile_is_left_out(quick, monkeypatch):
    monkeypatch.setattr(bench, "cpp_compiler", lambda: None)
    report = bench.run([(PROBLEMS["squared_l12_norm"], (30, 8))])
    assert {m.candidate for m in report.measurements} == {"desc_ext", "eager"}
    assert len(report.notes) == 1
    assert report.notes[0].startswith("torch.compile is left out: it needs a C++ compiler")


def test_a_busy_machine_is_said(monkeypatch):
    monkeypatch.setattr(machine.os, "getloadavg", lambda: (3.2, 1.0, 1.0))
    monkeypatch.setattr(machine, "_usable_cores", lambda: 4)
    with timing.threads(1):
        assert machine.busy() is None
    with timing.threads(2):
        assert machine.busy().startswith("other processes load 4 cores by 3.2: threads wait")
    monkeypatch.setattr(machine.os, "getloadavg", lambda: (0.5, 1.0, 1.0))
    with timing.threads(4):
        assert machine.busy() is None


# The command


def test_json_is_all_that_standard_output_holds():
    """With a roofline that is measured."""
    threads = torch.get_num_threads()
    code, output, errors = run(
        "bench", "nearest_subspace", "--shape", "64,16,4,3", "--threads", 1, "--no-compile", "--json"
    )
    assert code == 0, errors
    found = json.loads(output)
    assert set(found) == {"machine", "roofline", "results", "best_peers", "notes"}
    assert set(found["machine"]) == {
        "cpu", "cores", "threads", "instruction_set", "compiler", "device", "desc_ext", "torch", "cuda", "python", "system",
    }  # fmt: skip
    assert found["machine"]["threads"] == 1
    assert found["machine"]["torch"] == torch.__version__
    assert found["machine"]["device"] == "cpu"
    assert torch.get_num_threads() == threads
    assert 0.1 < found["roofline"]["gigabytes"] < 5000
    assert 0.5 < found["roofline"]["gigaflops"] < 50_000
    assert [result["candidate"] for result in found["results"]] == ["desc_ext", "Gram", "products", "literal"]
    for result in found["results"]:
        assert result["shape"] == [64, 16, 4, 3]
        assert 0 < result["fastest"] <= result["milliseconds"]
        assert result["rounds"] in (1, 7)
        assert result["extra_mib"] is None or result["extra_mib"] >= 0
    ours, *peers = (result["milliseconds"] for result in found["results"])
    assert [best["ratio"] for best in found["best_peers"]] == [pytest.approx(min(peers) / ours)]
    assert "measuring nearest_subspace, forward, n,p,K,d = 64,16,4,3" in errors


def test_table_and_picture(quick, tmp_path):
    picture = tmp_path / "speed.png"
    code, output, errors = run("bench", "info_nce", "--shape", "60,10", "--no-compile", "--plot", picture)
    assert code == 0, errors
    assert "roofline: matrix product 100 GFLOP/s, copy 10 GB/s" in output
    assert [line.strip() for line in output.splitlines() if line.startswith("info_nce")] == [
        "info_nce, forward, n,p = 60,10",
        "info_nce, full, n,p = 60,10",
    ]
    rows = [line.split("│")[1:-1] for line in output.splitlines() if line.startswith("│")]
    assert [row[0].strip() for row in rows] == ["desc_ext", "eager"] * 2
    for ours, peer in zip(rows[::2], rows[1::2], strict=True):
        assert float(ours[2]) == pytest.approx(float(peer[1]) / float(ours[1]), rel=0.02)
        assert peer[2].strip() == ""
    drawn = imread(picture)
    assert min(drawn.shape[:2]) > 300
    assert drawn[..., :3].std() > 0.02


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nearest_subspac"], r"squared_l12_norm, segment_gram \(did you mean nearest_subspace\?\)\n"),
        (["norm"], r"there is no operator 'norm' to measure; operators are projection_residual, .*squared_l12_norm"),
        (["info_nce", "--shape", "3,4,5"], "--shape 3,4,5 has 3 numbers, wanted 2: the shape of info_nce is n,p, such as"),
        (["info_nce", "--shape", "3,x"], "--shape must be whole numbers n,p with commas between them, .*; got 3,x"),
        (["info_nce", "--shape", "0,3"], "every number must be at least 1"),
        (["nearest_subspace", "--shape", "9,2,3,4"], "a subspace has at most p = 2 dimensions, got d = 4"),
        (["coefficient_topk", "--shape", "5,3"], "n must be at least 6"),
        (["--shape", "3,4"], "--shape needs an operator before it; operators are "),
        (["--dtype", "int8"], "--dtype must be one of float32, float64, bfloat16, float16; got int8"),
        (["--threads", "0"], "--threads must be at least 1; got 0"),
        (["--device", "gpu"], "device must be 'auto' or a torch device, got 'gpu'"),
        (["--device", "meta"], "--device must be cpu or cuda|device='meta' cannot be used"),
        (["--plot", "no-folder/speed.png"], r"--plot must be a \.png file in a folder that exists; got no-folder/speed\.png"),
        (["--plot", "speed.pdf"], r"--plot must be a \.png file in a folder that exists; got speed\.pdf"),
    ],
)  # fmt: skip
def test_refusals(arguments, message):
    code, output, errors = run("bench", *arguments)
    assert (code, output) == (2, "")
    assert re.search(message, errors)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_that_is_not_there():
    code, _, errors = run("bench", "--device", "cuda")
    assert code == 2
    assert "this torch sees no CUDA device" in errors


# Completion by the shell


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
def test_completion_is_installed_and_completes(tmp_path):
    environment = {**ENVIRONMENT, "HOME": str(tmp_path)}
    # Not the last command of the shell, which so stays the parent that is looked at.
    install = ["bash", "-c", "desc-ext --install-completion; true"]
    done = subprocess.run(install, env=environment, capture_output=True, text=True)
    assert "bash completion installed" in done.stdout, done.stderr
    (script,) = (tmp_path / ".bash_completions").iterdir()
    assert str(script) in (tmp_path / ".bashrc").read_text()
    complete = (
        f"source {script}; COMP_WORDS=(desc-ext fit digits --model self); COMP_CWORD=4; _desc_ext_completion desc-ext; "
        'echo "${COMPREPLY[@]}"'
    )
    done = subprocess.run(["bash", "-c", complete], env=environment, capture_output=True, text=True)
    assert done.stdout.split() == ["self-expressive"]


def test_values_of_results():
    labels, values = torch.tensor([1]), torch.tensor([2.0])
    assert value_of((labels, values)) is values
    assert value_of(values) is values
