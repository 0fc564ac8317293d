"""Peak resident memory of one call, in a process of its own."""

from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = """
import torch
from desc_ext import ops
torch.set_num_threads(2)
def status(field):
    for line in open("/proc/self/status"):
        if line.startswith(field):
            return int(line.split()[1]) * 1024
def peak(call):
    open("/proc/self/clear_refs", "w").write("5")  # the high-water mark starts anew
    before = status("VmRSS")
    result = call()
    return status("VmHWM") - before
{setup}
small = dict(globals())
exec('''n = 1000
z, labels, weight = z[:n], labels[:n], weight[:n]''', small)
eval({call!r}, small)  # code and thread pools are loaded now, and no longer count
print(peak(lambda: {call}) - {outputs})
"""


def extra_memory(setup: str, call: str, outputs: str) -> int:
    """Bytes that ``call`` needs at its peak beside ``outputs`` bytes; ``setup`` makes z, labels, weight and n."""
    if not sys.platform.startswith("linux"):
        pytest.skip("reads /proc/self/status")
    script = SCRIPT.format(setup=setup, call=call, outputs=outputs)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)
