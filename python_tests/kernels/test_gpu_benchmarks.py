"""benchmarks/kernels/gpu.py and model.py, as far as they can be tried without a GPU."""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
import sys

import pytest
from helpers import REPOSITORY

sys.path.insert(0, str(REPOSITORY / "benchmarks" / "kernels"))
import bench_pairwise
import gpu
import gpu_pairs
import model

CXX = os.environ.get("CXX", "g++")
LAYOUTS = """
#include <cstdio>

#include "cuda/columns.cuh"
#include "cuda/moments.cuh"
#include "cuda/tensor.cuh"

using namespace desc_ext::cuda;

static void print(const Plan& plan, int64_t n) {
  Product<float> job{};
  job.n = n, job.plan = plan;
  const dim3 grid = product_grid(job);
  printf("%d %d %d %d %d %d %d %lld %u %u\\n", plan.shared_slot, plan.width, plan.chunks, plan.slots, plan.tiles, plan.depth,
         plan.threads(), (long long)plan.panel_elements(), grid.x, grid.y);
}

int main() {
  long long n, p, K, d;
  while (scanf("%lld %lld %lld %lld", &n, &p, &K, &d) == 4) {
    print(plan_subspaces<float>(K, d, p), n);
    print(plan_columns<float>(K * d, p), n);
    const Plan tensor = plan_tensor(K, d, p), back = plan_columns<float>(p, K * d);
    printf("%d %d %d %d %d %d\\n", tensor.width, tensor.chunks, tensor.slots, tensor.tiles, tensor.depth,
           tensor_cores_pay(K, d, p));
    printf("%d %d\\n", moment_chunks<float>(n, K * d, p, false), multiprocessors());
    for (const Limits limits : {Limits{}, Limits{6 << 20, 6 << 20}})
      printf("%d %lld\\n", cut_depth<float>(back, n, limits.partial).cuts,
             (long long)piece_rows<float>(n, K * d, limits.piece));
  }
}
"""
SHAPES = [
    (n, p, n_subspaces, dim)
    for n in (1, 500, 70_001)
    for p in (3, 50, 512)
    for n_subspaces in (1, 7, 33, 1000)
    for dim in (1, 2, 3, 5, 8, 9, 20)
    if dim <= p
]


@pytest.mark.skipif(shutil.which(CXX) is None, reason=f"the C++ compiler {CXX} is not installed")
def test_model_lays_tiles_out_as_the_kernels_do(tmp_path):
    (tmp_path / "layouts.cpp").write_text(LAYOUTS)
    command = [
        CXX,
        "-std=c++20",
        "-Wno-unknown-pragmas",
        f"-I{REPOSITORY / 'csrc'}",
        f"-I{REPOSITORY / 'emulator' / 'include'}",
        "layouts.cpp",
        "-o",
        "layouts",
    ]
    subprocess.run(command, check=True, cwd=tmp_path)
    given = "\n".join(" ".join(map(str, shape)) for shape in SHAPES)
    done = subprocess.run([tmp_path / "layouts"], input=given, capture_output=True, text=True, check=True)
    lines = [tuple(map(int, line.split())) for line in done.stdout.splitlines()]
    assert len(lines) == 6 * len(SHAPES)
    for at, (n, p, n_subspaces, dim) in enumerate(SHAPES):
        *products, tensor, (chunks, multiprocessors), of_gpu, of_small = lines[6 * at : 6 * at + 6]
        plans = model.plan_subspaces(n_subspaces, dim, p), model.plan_columns(n_subspaces * dim, p)
        for plan, line in zip(plans, products, strict=True):
            found = (
                plan.shared_slot,
                plan.width,
                plan.chunks,
                plan.slots,
                plan.tiles,
                plan.depth,
                plan.threads,
            )
            grid = model.product_grid(plan, n, multiprocessors)
            assert (*found, plan.panel_elements, *grid) == line, (n, p, n_subspaces, dim)
        plan = model.plan_tensor(n_subspaces, dim, p)
        columns, back = n_subspaces * dim, model.plan_columns(p, n_subspaces * dim)
        pays = model.tensor_cores_pay(n_subspaces, dim, p)
        assert tensor == (plan.width, plan.chunks, plan.slots, plan.tiles, plan.depth, pays)
        assert model.moment_chunks(n, columns, p, multiprocessors) == chunks
        # The default bounds, and some that these shapes reach.
        for found, limit in ((of_gpu, ()), (of_small, (6 << 20,))):
            cuts = model.depth_cuts(back, n, multiprocessors, *limit)
            assert (cuts, model.piece_rows(n, columns, multiprocessors, *limit)) == found


def test_model_by_hand():
    """A full device without padding, at the whole peak: the prediction is the floor. Half as many rows fill half of it."""
    card = model.Card("", "", 100, 10.0, 1e9, None, "")
    passing = model.PASSES[0]
    shape = (100 * 128, 64, 16, 8)
    full = model.predict(card, passing, shape, lambda kernel: 1.0)
    assert full.milliseconds == pytest.approx(2 * 100 * 128 * 64 * 128 / 10e12 * 1e3)
    assert (full.floor, full.useful, full.filled) == (full.milliseconds, 1, 1)
    half = model.predict(card, passing, (50 * 128, *shape[1:]), lambda kernel: 1.0)
    assert (half.milliseconds, half.filled) == (full.milliseconds, 0.5)
    # 80% of the instructions multiply and add; 5 of 6 columns are used; one block more is a second wave.
    slower = model.predict(card, passing, shape, lambda kernel: 0.8)
    assert slower.milliseconds == pytest.approx(full.milliseconds / 0.8)
    padded = model.predict(card, passing, (100 * 128, 64, 5, 8), lambda kernel: 1.0)
    assert padded.useful == pytest.approx(5 / 6)
    longer = model.predict(card, passing, (100 * 128 + 1, 64, 16, 8), lambda kernel: 1.0)
    assert longer.milliseconds == pytest.approx(2 * full.milliseconds)
    slow = model.Card("", "", 100, 10.0, 1.0, None, "")  # GB/s
    bound = model.predict(slow, passing, shape, lambda kernel: 1.0)
    assert (bound.limit, bound.milliseconds) == ("memory", 4 * 100 * 128 * (64 + 16) / 1e9 * 1e3)


def test_model_counts_the_products_of_a_backward():
    card = model.CARDS[0]
    shape = (500_000, 64, 16, 8)
    launches = list(model.loss_backward(shape, card.multiprocessors))
    wave = 2 * card.multiprocessors * 128  # rows of two blocks on each
    piece = (64 << 20) // (16 * 8 * 4) // wave * wave
    assert len(launches) == 3 * -(-500_000 // piece)
    assert {launch.kernel for launch in launches} == {
        "product_coefficients<float>", "product_rows<float, true>", "moments_tile<float, 64, false>"
    }  # fmt: skip


def test_benchmark_runs_on_the_cpu(tmp_path):
    gpu.main(
        [
            "--device",
            "cpu",
            "--shapes",
            "300,12,4,3",
            "--peers",
            "Gram",
            "literal",
            "--rounds",
            "1",
            "--out",
            str(tmp_path),
        ]
    )
    with open(tmp_path / "gpu-cpu.csv") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(gpu.DTYPES) * len(gpu.PASSES) * 2 * 3
    row = next(r for r in rows if r["part"] == "full" and r["dtype"] == "bfloat16")
    rate = 6 * 300 * 12 * 4 * 3 / (float(row["milliseconds"]) / 1e3) / 1e12
    assert float(row["teraflops"]) == pytest.approx(rate, rel=0.1, abs=1e-4)
    table = (tmp_path / "gpu-cpu.md").read_text()
    assert "| weighted_projection_loss | backward | float32 | 300, 12, 4, 3 | cold | literal |" in table
    assert "Left out" not in table
    assert (tmp_path / "gpu-cpu.png").stat().st_size > 10_000


def test_benchmark_stops_in_time_and_says_what_is_missing(tmp_path):
    gpu.main(["--device", "cpu", "--shapes", "300,12,4,3", "--minutes", "0", "--out", str(tmp_path)])
    table = (tmp_path / "gpu-cpu.md").read_text()
    assert table.count("0 minutes were over") == len(gpu.DTYPES) * len(gpu.PASSES)


def test_pair_benchmark_runs_on_the_cpu(tmp_path):
    gpu_pairs.main(
        ["--device", "cpu", "--shapes", "60,5", "90,7", "--rounds", "1", "--out", str(tmp_path)]
    )  # fmt: skip
    rows = [line for line in (tmp_path / "gpu-pairs-cpu.md").read_text().splitlines() if "60, 5 |" in line]
    passes = [tuple(line.removeprefix("| ").split(" | ")[:2]) for line in rows]
    losses = [*bench_pairwise.OURS, "self_expression_residual"]
    wanted = [(name, part) for name in losses for part in ("forward", "full")]
    assert sorted(passes) == sorted([*wanted, *((name, "forward") for name in gpu_pairs.SELECTIONS)])
    _, _, _, ours, _, eager, ratio, _ = rows[0].strip("| ").split(" | ")
    assert float(ratio) == pytest.approx(float(eager) / float(ours), rel=0.02)
