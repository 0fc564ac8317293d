"""Timing of candidates in turn, and peak memory, on the CPU and on a GPU."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

__all__ = ["ROUNDS", "Clock", "compare", "peak_extra", "sample", "seconds", "threads"]

Call = Callable[[], Any]

ROUNDS = 7  # of every candidate, in turn
SAMPLE_SECONDS = 2e-3  # a sample repeats a short call until it takes so long
_WAIT = 4_000_000  # clock cycles, about 2 ms: longer than queueing any of these calls takes


def _status(field: str) -> int:
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise KeyError(field)


def peak_extra(call: Call) -> float:
    """MiB that one call adds at its peak to the memory of the process, its result included; nan where the system does
    not say so."""
    gc.collect()
    try:
        # What earlier calls left in the allocator would serve this one unseen.
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # the high-water mark starts anew
    except (OSError, AttributeError):  # not Linux, or not allowed
        call()
        return math.nan
    before = _status("VmRSS")
    result = call()
    extra = _status("VmHWM") - before
    del result
    return max(extra, 0) / 2**20


def seconds(call: Call) -> float:
    """Of the wall clock, for one call; giving back the memory of its result does not count."""
    start = time.perf_counter()
    result = call()
    took = time.perf_counter() - start
    del result
    return took


def sample(call: Call, repeats: dict[Call, int]) -> float:
    """Seconds of one call: the mean over as many as take SAMPLE_SECONDS, a number that ``repeats`` keeps. On one thread its
    processor time, which does not count what other processes of the machine take away."""
    clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter

    def took(count: int) -> float:
        start = clock()
        for _ in range(count):
            call()
        return clock() - start

    if call not in repeats:
        took(2)
        repeats[call] = max(1, round(SAMPLE_SECONDS / max(took(1), 1e-7)))
    return took(repeats[call]) / repeats[call]


def compare(
    candidates: dict[str, Any], rounds: int = ROUNDS, clock: Callable[[Any], float] = seconds
) -> dict[str, list[float]]:
    """Seconds of each candidate, measured in turn (A B C A B C …) so that the machine's drift meets all alike.

    A candidate more than three times as slow as the fastest peer is timed once only: it cannot be the best peer. All
    have been called before; the first candidate is ours.
    """
    first = {name: clock(call) for name, call in candidates.items()}
    ours, *peers = candidates
    bound = 3 * min((first[name] for name in peers), default=math.inf)
    again = [ours, *(name for name in peers if first[name] <= bound)]
    times = {name: [] if name in again else [took] for name, took in first.items()}
    for _ in range(rounds):
        for name in again:
            times[name].append(clock(candidates[name]))
    return times


class Clock:
    """Times calls on a device. A call comes as a function that prepares it: what that does is not timed.

    On a GPU the time between two events on the stream, behind a kernel that waits while the host queues the call: starting
    launches is no part of it.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.on_gpu = device.type == "cuda"
        cache = torch.cuda.get_device_properties(device).L2_cache_size if self.on_gpu else 4 << 20
        self.other = torch.empty(4 * cache, dtype=torch.uint8, device=device)

    def seconds(self, prepare: Callable[[], Call], cold: bool) -> float:
        """Of one call; ``cold``: another array has gone through the cache first, else the same call."""
        if not cold:
            prepare()()
        call = prepare()
        if cold:
            self.other.zero_()
        if not self.on_gpu:
            return seconds(call)
        with torch.cuda.device(self.device):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            torch.cuda._sleep(_WAIT)
            start.record()
            result = call()
            end.record()
            end.synchronize()
        del result
        return start.elapsed_time(end) / 1e3

    def peak_mib(self, prepare: Callable[[], Call]) -> float:
        """What the call adds at its peak, its result included."""
        call = prepare()
        if not self.on_gpu:
            return peak_extra(call)
        torch.cuda.synchronize(self.device)
        torch.cuda.reset_peak_memory_stats(self.device)
        before = torch.cuda.memory_allocated(self.device)
        result = call()
        torch.cuda.synchronize(self.device)
        del result
        return (torch.cuda.max_memory_allocated(self.device) - before) / 2**20


@contextlib.contextmanager
def threads(count: int) -> Iterator[None]:
    """Torch's number of threads within, and what it was after."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
