"""What the projection kernels would take on a GPU, from the formulas in csrc/cuda and the machine code: no measurement.

    python benchmarks/kernels/model.py build/cuda/lib_desc_ext.so

writes results/cuda_model.md. Floor: the larger of operations / peak and bytes / bandwidth, where each input is read and
each output written once. Prediction, for every launch in turn: the larger of

    operations that are computed, padding too / (peak × share of the main loop's instructions that multiply and add
                                                       × share of the multiprocessors' time that blocks fill)
        (on tensor cores: their float16 peak / products for one, since one instruction keeps them busy for many clocks)
    bytes of the launch / bandwidth of the memory
    bytes that the launch takes from L2 / bandwidth of L2, where a number is published

The layout of the tiles, the grids and the pieces of rows are those of csrc/cuda (a test compiles the headers and compares).
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cuda_resources

RESULTS = Path(__file__).parent / "results" / "cuda_model.md"

# csrc/cuda/product.cuh and moments.cuh, float32
TILE_ROWS, ROW_THREADS, SLOTS, SLOT_COLUMNS, PACK = 128, 16, 16, 8, 4
BLOCKS_WANTED = 2
MOMENT_X, MOMENT_DEPTH = 64, 16


def ceil_div(a: int, b: int) -> int:
    return -(-a // b)


@dataclass(frozen=True)
class Card:
    name: str
    machine_code: str  # of those in the library, the one that it runs
    multiprocessors: int
    teraflops: float  # float32 without tensor cores
    bandwidth: float  # GB/s of the memory
    l2_bandwidth: float | None  # GB/s
    source: str
    tensor_teraflops: float = math.nan  # TF32, dense


CARDS = [
    Card(
        "A100 SXM 80 GB", "sm_80", 108, 19.5, 2039, 7219,
        "NVIDIA A100 datasheet; L2: 5,120 bytes a clock of 1.41 GHz (NVIDIA A100 architecture white paper)", 156,
    ),
    Card(
        "H100 SXM", "sm_90a", 132, 67, 3350, 8986,
        "NVIDIA H100 datasheet; L2: Ultrasonics Sonochemistry 99:106546 (2023), table 3", 495,
    ),
    Card(
        "B200", "sm_100", 148, 75, 7700, None,
        "hmc-tech.com/gpus, NVIDIA B200 (148 × 128 lanes, 1.98 GHz); multiprocessors: chipsandcheese.com, \"Nvidia's B200\"",
        1100,
    ),
    Card("L4", "sm_80", 58, 30.3, 300, None, "NVIDIA L4 datasheet; at 72 W it does not hold the clock of its peak", 60),
]  # fmt: skip


# Layout and grids


@dataclass(frozen=True)
class Plan:
    """How columns are laid out over tiles, chunks and slots (Plan of product.cuh)."""

    count: int
    dim: int
    p: int
    shared_slot: int
    width: int
    chunks: int
    slots: int
    tiles: int
    depth: int

    @property
    def threads(self) -> int:
        return ceil_div(self.slots * ROW_THREADS, 32) * 32

    @property
    def panel_elements(self) -> int:
        return self.tiles * self.chunks * self.depth * SLOT_COLUMNS * self.slots

    @property
    def computed_columns(self) -> int:
        """With those of unused slots, of slots that are not full, and of the half warp behind an odd number of slots."""
        return self.tiles * self.chunks * (self.threads // ROW_THREADS) * self.width


def plan_subspaces(count: int, dim: int, p: int) -> Plan:
    shared = 1 if dim > 3 else 2
    chunks = ceil_div(dim, SLOT_COLUMNS)
    width = shared * ceil_div(max(dim, 2), chunks)
    return _plan(count, dim, p, shared, width, chunks)


def plan_columns(count: int, p: int, width: int = SLOT_COLUMNS) -> Plan:
    return _plan(count, 1, p, width, width, 1)


def plan_tensor(count: int, dim: int, p: int) -> Plan:
    """Subspaces on tensor cores, which compute all slots (plan_tensor of tensor.cuh)."""
    chunks = ceil_div(dim, SLOT_COLUMNS)
    tiles = ceil_div(count, SLOTS)
    return Plan(
        count, dim, p, 1, ceil_div(dim, chunks), chunks, ceil_div(count, tiles), tiles, ceil_div(p, 32) * 32
    )


def tensor_cores_pay(count: int, dim: int, p: int) -> bool:
    plan = plan_tensor(count, dim, p)
    return count * dim >= 32 and 3 * count * dim * p >= plan.depth * tensor_columns(plan) and p < 1 << 20


def tensor_speed(card: Card, parts: int) -> float:
    """Of whole products, of which each takes so many in float16, at twice the rate of TF32."""
    return 2 * card.tensor_teraflops / parts


def tensor_columns(plan: Plan) -> int:
    """Columns that the tensor cores compute, two slots at a time."""
    return plan.tiles * plan.chunks * ceil_div(plan.slots, 2) * 2 * SLOT_COLUMNS


def _plan(count: int, dim: int, p: int, shared: int, width: int, chunks: int) -> Plan:
    every = ceil_div(count, shared)
    tiles = ceil_div(every, SLOTS)
    return Plan(count, dim, p, shared, width, chunks, ceil_div(every, tiles), tiles, ceil_div(p, PACK) * PACK)


def product_grid(plan: Plan, n: int, multiprocessors: int) -> tuple[int, int]:
    rows = ceil_div(n, TILE_ROWS)
    cuts = min(ceil_div(2 * BLOCKS_WANTED * multiprocessors, rows), plan.tiles)
    return rows, ceil_div(plan.tiles, ceil_div(plan.tiles, cuts))


def moment_chunks(n: int, x: int, y: int, multiprocessors: int) -> int:
    tiles = ceil_div(x, MOMENT_X) * ceil_div(y, 128)
    wanted = ceil_div(8 * multiprocessors, tiles)
    return min(max(min(wanted, n // (4 * MOMENT_DEPTH), (4 << 20) // (x * y * 4)), 1), 1024)


def piece_rows(n: int, columns: int, multiprocessors: int, piece_bytes: int = 64 << 20) -> int:
    fit = max(piece_bytes // (columns * 4), 2048)
    wave = BLOCKS_WANTED * multiprocessors * TILE_ROWS
    while wave > fit:
        wave //= 2
    return min(fit // wave * wave, n)


def depth_cuts(plan: Plan, n: int, multiprocessors: int, partial_bytes: int = 32 << 20) -> int:
    """Into how many parts rows of a gradient cut their depth (cut_depth of columns.cuh)."""
    rows = ceil_div(n, TILE_ROWS)
    wanted = BLOCKS_WANTED * multiprocessors // (rows * plan.tiles)
    for cuts in range(min(wanted, partial_bytes // (rows * TILE_ROWS * plan.count * 4)), 1, -1):
        if plan.p % (cuts * PACK) == 0 and plan.p // cuts >= 64:
            return cuts
    return 1


# Launches


@dataclass(frozen=True)
class Launch:
    kernel: str  # as in the resource report
    blocks: int
    threads: int
    computed: int  # operations, padding too
    memory_bytes: int
    l2_bytes: int
    parts: int = 0  # of the tensor cores' products in float16 for one; 0: without them


def product(kernel: str, plan: Plan, n: int, multiprocessors: int, memory_bytes: int) -> Launch:
    rows, cuts = product_grid(plan, n, multiprocessors)
    computed = 2 * rows * TILE_ROWS * plan.depth * plan.computed_columns
    # Each block reads all its panels, and its rows again for every tile and chunk.
    l2_bytes = 4 * (rows * plan.panel_elements + n * plan.p * plan.tiles * plan.chunks)
    return Launch(kernel, rows * cuts, plan.threads, computed, memory_bytes, l2_bytes)


def rows_product(kernel: str, plan: Plan, n: int, multiprocessors: int, memory_bytes: int) -> Launch:
    """The rows of a gradient, with the depth of the product cut where rows alone leave multiprocessors idle."""
    cuts = depth_cuts(plan, n, multiprocessors)
    whole = product(kernel, plan, n, multiprocessors, memory_bytes)
    if cuts == 1:
        return whole
    blocks = ceil_div(n, TILE_ROWS) * cuts * product_grid(plan, n * cuts, multiprocessors)[1]
    partial_bytes = 8 * cuts * n * plan.count  # written and read once
    return Launch(
        whole.kernel, blocks, whole.threads, whole.computed, memory_bytes, whole.l2_bytes + partial_bytes
    )


def moments(x: int, y: int, n: int, multiprocessors: int) -> Launch:
    tile = 128 if y > 64 else 64
    tiles, chunks = ceil_div(x, MOMENT_X) * ceil_div(y, tile), moment_chunks(n, x, y, multiprocessors)
    depth = chunks * ceil_div(ceil_div(n, chunks), MOMENT_DEPTH) * MOMENT_DEPTH
    computed = 2 * depth * tiles * MOMENT_X * tile
    return Launch(
        f"moments_tile<float, {tile}, false>", tiles * chunks, tile, computed, 0, 4 * n * tiles * (MOMENT_X + tile)
    )  # fmt: skip


Shape = tuple[int, int, int, int]  # n, p, K, d


def forward(name: str, written: Callable[[int, int], int]) -> Callable[[Shape, int], Iterator[Launch]]:
    def launches(shape: Shape, multiprocessors: int) -> Iterator[Launch]:
        n, p, n_subspaces, dim = shape
        plan = plan_subspaces(n_subspaces, dim, p)
        kernel = f"{name}<float, {plan.width}, {plan.shared_slot}>"
        yield product(kernel, plan, n, multiprocessors, 4 * (n * p + written(n, n_subspaces)))

    return launches


def tensor_forward(
    name: str, parts: int, written: Callable[[int, int], int]
) -> Callable[[Shape, int], Iterator[Launch]]:
    def launches(shape: Shape, multiprocessors: int) -> Iterator[Launch]:
        n, p, n_subspaces, dim = shape
        plan = plan_tensor(n_subspaces, dim, p)
        rows, cuts = product_grid(plan, n, multiprocessors)
        computed = 2 * rows * TILE_ROWS * plan.depth * tensor_columns(plan)
        l2_bytes = 4 * (rows * plan.panel_elements + n * p * plan.tiles * plan.chunks)
        memory_bytes = 4 * (n * p + written(n, n_subspaces))
        yield Launch(f"{name}<{parts}>", rows * cuts, 128, computed, memory_bytes, l2_bytes, parts)

    return launches


def loss_backward(shape: Shape, multiprocessors: int) -> Iterator[Launch]:
    """Gradients of rows and bases, piece by piece: coefficients, which stay in L2, and two products of them."""
    n, p, n_subspaces, dim = shape
    columns = n_subspaces * dim
    plan, back = plan_columns(columns, p), plan_columns(p, columns)
    piece = piece_rows(n, columns, multiprocessors)
    packs = str(p % PACK == 0).lower()
    for first in range(0, n, piece):
        count = min(piece, n - first)
        yield product(
            "product_coefficients<float>", plan, count, multiprocessors, 4 * count * (p + n_subspaces)
        )
        yield rows_product(f"product_rows<float, {packs}>", back, count, multiprocessors, 4 * count * p)
        yield moments(columns, p, count, multiprocessors)


@dataclass(frozen=True)
class Pass:
    label: str
    launches: Callable[[Shape, int], Iterator[Launch]]
    products: int  # of 2·n·p·K·d operations that the result needs
    bytes: Callable[[Shape], int]  # each input and output once
    parts: int = 0  # as of a launch

    def runs(self, shape: Shape) -> bool:
        _, p, n_subspaces, dim = shape
        return not self.parts or tensor_cores_pay(n_subspaces, dim, p)

    def peak(self, card: Card) -> float:
        return tensor_speed(card, self.parts) if self.parts else card.teraflops


def traffic(*, rows: int, pairs: int, row_values: int = 0) -> Callable[[Shape], int]:
    """Bytes of so many [n, p] and [n, K] arrays, and of values of 4 bytes a row; and the bases."""
    return lambda s: (
        4 * (rows * s[0] * s[1] + pairs * s[0] * s[2] + row_values * s[0] + s[1] * s[2] * s[3] * rows)
    )


PASSES = [
    Pass(
        "projection_residual, forward",
        forward("product_values", lambda n, k: n * k),
        1,
        traffic(rows=1, pairs=1),
    ),
    Pass(
        "nearest_subspace, forward",
        forward("product_nearest", lambda n, k: 3 * n),
        1,
        traffic(rows=1, pairs=0, row_values=3),
    ),
    Pass(
        "weighted_projection_loss, forward",
        forward("product_loss", lambda n, k: n * k),
        1,
        traffic(rows=1, pairs=1),
    ),
    Pass("weighted_projection_loss, backward", loss_backward, 2, traffic(rows=2, pairs=1)),
    *(
        Pass(
            f"{name}, forward, tensor cores ({label})",
            tensor_forward(kernel, parts, written),
            1,
            bytes_of,
            parts,
        )
        for parts, label in ((3, "float32 in three products"), (1, "TF32 allowed"))
        for name, kernel, written, bytes_of in (
            ("projection_residual", "product_tensor_values", lambda n, k: n * k, traffic(rows=1, pairs=1)),
            (
                "nearest_subspace",
                "product_tensor_nearest",
                lambda n, k: 3 * n,
                traffic(rows=1, pairs=0, row_values=3),
            ),
            ("weighted_projection_loss", "product_tensor_loss", lambda n, k: n * k, traffic(rows=1, pairs=1)),
        )
    ),
]
SHAPES: list[Shape] = [
    (100_000, 50, 10, 5), (100_000, 128, 100, 8), (20_000, 512, 100, 16), (50_000, 64, 1000, 8),
    (1_000_000, 50, 10, 5), (1_000_000, 128, 100, 8), (200_000, 512, 100, 16), (500_000, 64, 1000, 8),
]  # fmt: skip


# Times


@dataclass(frozen=True)
class Prediction:
    floor: float  # milliseconds
    milliseconds: float
    limit: str  # what most of the time goes to
    useful: float  # operations the result needs / operations computed
    filled: float  # share of the multiprocessors' time that blocks fill
    launches: int


def floor(card: Card, passing: Pass, shape: Shape) -> float:
    operations = passing.products * 2 * math.prod(shape)
    return max(operations / passing.peak(card) / 1e9, passing.bytes(shape) / card.bandwidth / 1e6)


def filled(launch: Launch, multiprocessors: int) -> float:
    """Blocks are alike and a multiprocessor is kept busy by one: the one that gets the most blocks ends last."""
    return launch.blocks / (ceil_div(launch.blocks, multiprocessors) * multiprocessors)


def predict(card: Card, passing: Pass, shape: Shape, share: Callable[[str], float]) -> Prediction:
    limits = dict.fromkeys(("arithmetic", "memory", "L2"), 0.0)
    total = computed = busy = count = 0
    for launch in passing.launches(shape, card.multiprocessors):
        speed = tensor_speed(card, launch.parts) if launch.parts else card.teraflops * share(launch.kernel)
        arithmetic = launch.computed / (speed * 1e9)
        times = {
            "arithmetic": arithmetic / filled(launch, card.multiprocessors),
            "memory": launch.memory_bytes / card.bandwidth / 1e6,
            "L2": launch.l2_bytes / card.l2_bandwidth / 1e6 if card.l2_bandwidth else 0.0,
        }
        limit = max(times, key=times.__getitem__)
        limits[limit] += times[limit]
        total += times["arithmetic"]
        busy += arithmetic
        computed += launch.computed
        count += 1
    # The products of a backward include the coefficients, which the result does not need but the method does.
    needed = (3 if passing.products == 2 else 1) * 2 * math.prod(shape)
    milliseconds = sum(limits.values())
    limit = max(limits, key=limits.__getitem__)
    return Prediction(
        floor(card, passing, shape), milliseconds, limit, needed / computed, busy / total, count
    )


class Resources:
    """Of the kernels in a library: what the model takes from the machine code."""

    def __init__(self, library: Path, sources: Path):
        kernels, self.compiler = cuda_resources.read_kernels(library)
        self.kernels = {(kernel.name, kernel.architecture): kernel for kernel in kernels}
        self.budgets = cuda_resources.read_budgets(sources)

    def kernel(self, name: str, card: Card) -> cuda_resources.Kernel:
        try:
            return self.kernels[name, card.machine_code]
        except KeyError:
            raise KeyError(
                f"the library has no {name} for {card.machine_code}: was it built from these sources?"
            ) from None

    def share(self, card: Card) -> Callable[[str], float]:
        return lambda name: self.kernel(name, card).main_loop.share(*cuda_resources.MULTIPLY_ADDS)

    def resident(self, name: str, threads: int, card: Card) -> int:
        """Warps that stand on a multiprocessor together."""
        kernel = self.kernel(name, card)
        shared = kernel.shared + cuda_resources.budget_of(kernel, self.budgets).dynamic
        # The L4 runs code of sm_80 within limits of its own.
        own = "sm_89" if card.name == "L4" else card.machine_code
        blocks = cuda_resources.blocks_per_multiprocessor(own, kernel.registers, threads, shared)
        return blocks * threads // 32


# The table

HEADING = """# Projection family on GPUs: predicted, not measured

**Predicted, not measured.** Generated by `python benchmarks/kernels/model.py build/cuda/lib_desc_ext.so` from the formulas of
csrc/cuda and the machine code that {compiler} made; no GPU was used. float32, bases nearly orthonormal.

Floor: the larger of operations / peak and bytes / bandwidth, each input and output once. Predicted: the model's time; in
brackets floor / predicted, and what limits it. Useful: operations that the method needs / operations computed, padding of
tiles included. Filled: share of the multiprocessors' time that blocks fill; the rest is waiting for the last ones.

What the model leaves out: the clock under load, the time to start a launch, waiting at barriers and for shared memory,
the kernels that prepare the bases, epilogues, and residuals that are computed directly because they are small; on tensor
cores also that mma.sync, which these kernels use, does not reach the peak of Hopper and Blackwell. So times will be longer
than these; the model shows which shapes have room and where it is lost.

| card | TFLOP/s | TF32 TFLOP/s | memory GB/s | L2 GB/s | multiprocessors | machine code | source |
| --- | ---: | ---: | ---: | ---: | ---: | --- | --- |
"""


def table(resources: Resources) -> str:
    lines = [HEADING.format(compiler=resources.compiler).rstrip("\n")]
    for card in CARDS:
        level2 = f"{card.l2_bandwidth:.0f}" if card.l2_bandwidth else "not published"
        lines.append(
            f"| {card.name} | {card.teraflops:g} | {card.tensor_teraflops:g} | {card.bandwidth:g} | {level2} | "
            f"{card.multiprocessors} | {card.machine_code} | {card.source} |"
        )
    columns = ["n, p, K, d", "card", "launches", "useful", "filled", "multiply-add", "warps", "floor ms"]
    for passing in PASSES:
        lines += ["", f"## {passing.label}", "", f"| {' | '.join([*columns, 'predicted ms'])} |"]
        lines += [f"| --- | --- |{' ---: |' * 7}"]
        lines += [
            row(passing, shape, card, resources) for shape in filter(passing.runs, SHAPES) for card in CARDS
        ]
    lines += [
        "",
        "Launches: of the products only. Multiply-add: its share of the main loop, and warps: how many stand on a "
        "multiprocessor, both of the first launch's kernel.",
    ]
    return "\n".join(lines) + "\n"


def row(passing: Pass, shape: Shape, card: Card, resources: Resources) -> str:
    found = predict(card, passing, shape, resources.share(card))
    first = next(passing.launches(shape, card.multiprocessors))
    return (
        f"| {', '.join(map(str, shape))} | {card.name} | {found.launches} | {found.useful:.0%} | {found.filled:.0%} | "
        f"{resources.share(card)(first.kernel):.0%} | {resources.resident(first.kernel, first.threads, card)} | "
        f"{found.floor:.3g} | {found.milliseconds:.3g} ({found.floor / found.milliseconds:.0%}, {found.limit}) |"
    )


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("library", type=Path, help="lib_desc_ext.so with CUDA kernels (make cuda builds it)")
    parser.add_argument("--sources", type=Path, default=Path(__file__).parents[2] / "csrc" / "cuda")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    options.out.write_text(table(Resources(options.library, options.sources)))


if __name__ == "__main__":
    main()
