"""The projection family by AMX: float32 numbers as sums of three bfloat16 ones, whose products are added up by tiles."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from desc_ext import ops
from desc_ext.ops.checks import build_info

CPUINFO = Path("/proc/cpuinfo")
HAS_AMX = CPUINFO.is_file() and "amx_bf16" in CPUINFO.read_text().split()
IN_USE = build_info()["in_use"] == "amx"

needs_amx = pytest.mark.skipif(
    not HAS_AMX or "amx" not in build_info()["instruction_sets"],
    reason="needs a processor with AMX and a build for it",
)
in_use = pytest.mark.skipif(not IN_USE, reason="needs the code for AMX in use")

# Shapes that AMX is used for: whole tiles; rows and columns that end within one; bases wider than a tile; several chunks
# of bases, the last of which is smaller.
SHAPES = [(70, 128, 20, 8), (100, 131, 15, 11), (33, 200, 5, 37), (64, 130, 70, 5), (37, 170, 1, 169)]


def problem(n, p, K, d, seed=0):
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(n, p, generator=generator)
    bases = torch.linalg.qr(torch.randn(K, p, d, generator=generator))[0].contiguous()
    bases += 0.01 * torch.randn(K, p, d, generator=generator)
    return z, bases, torch.randn(n, K, generator=generator)


def results(z, bases, grad):
    """Everything the kernels compute, by name."""
    found = {}
    for name in ("projection_energy", "projection_residual"):
        rows, spaces = z.clone().requires_grad_(), bases.clone().requires_grad_()
        values = getattr(ops, name)(rows, spaces)
        dz, dbases = torch.autograd.grad(values, [rows, spaces], grad)
        found |= {name: values.detach(), f"{name} dz": dz, f"{name} dbases": dbases}
    found["nearest"] = ops.nearest_subspace(z, bases)[1]
    return found


def truth(z, bases, grad):
    """The same in float64."""
    z, s, g = (x.double().numpy() for x in (z, bases, grad))
    a = np.einsum("kpd,np->nkd", s, z)
    rest = z[:, None] - np.einsum("kpd,nkd->nkp", s, a)  # z − S a
    b = np.einsum("kpd,nkp->nkd", s, rest)
    residual = (rest**2).sum(-1)
    return {
        "projection_energy": (a**2).sum(-1),
        "projection_energy dz": 2 * np.einsum("nk,kpd,nkd->np", g, s, a),
        "projection_energy dbases": 2 * np.einsum("nk,np,nkd->kpd", g, z, a),
        "projection_residual": residual,
        "projection_residual dz": 2 * np.einsum("nk,nkp->np", g, rest - np.einsum("kpd,nkd->nkp", s, b)),
        "projection_residual dbases": -2
        * (np.einsum("nk,nkp,nkd->kpd", g, rest, a) + np.einsum("nk,np,nkd->kpd", g, z, b)),
        "nearest": residual.min(-1),
    }


def errors(shape) -> dict[str, float]:
    """Root mean square errors of all results, relative to that of the truth."""
    data = problem(*shape)
    exact = truth(*data)
    return {
        name: float(np.linalg.norm(value.double().numpy() - exact[name]) / np.linalg.norm(exact[name]))
        for name, value in results(*data).items()
    }


def run(code: str, isa: str | None, *arguments) -> str:
    """What Python prints in a process that runs on one instruction set, or on the one it chooses."""
    environment = {key: value for key, value in os.environ.items() if key != "DESC_EXT_CPU"}
    environment |= {"DESC_EXT_CPU": isa} if isa else {}
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        env=environment | {"PYTHONPATH": str(Path(__file__).parent)},
        capture_output=True, text=True, check=True, timeout=120,
    ).stdout  # fmt: skip


CHOSEN = "from desc_ext.ops.checks import build_info; print(build_info()['in_use'])"


@needs_amx
def test_amx_is_chosen():
    assert run(CHOSEN, None).strip() == "amx"


@needs_amx
def test_where_the_system_refuses_the_next_best_is_chosen():
    """Linux refuses tiles to a process one of whose threads has a stack for signals that could not hold them."""
    refused = """
import ctypes
class Stack(ctypes.Structure):
    _fields_ = [("pointer", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t)]
memory = ctypes.create_string_buffer(6144)
libc = ctypes.CDLL(None, use_errno=True)
done = libc.sigaltstack(ctypes.byref(Stack(ctypes.addressof(memory), 0, len(memory))), None)
assert done == 0, ctypes.get_errno()
assert libc.syscall(158, 0x1023, 18) == -1, "tiles are not refused"
"""
    assert run(refused + CHOSEN, None).strip() == "avx512"


@needs_amx
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_errors_are_no_larger_than_those_of_multiply_adds(shape):
    code = "import json, sys, torch, test_amx; torch.set_num_threads(1);"
    code += "print(json.dumps(test_amx.errors(json.loads(sys.argv[1]))))"
    found, plain = (json.loads(run(code, isa, json.dumps(shape))) for isa in ("amx", "avx512"))
    assert found != plain  # else AMX was not used
    for name in found:
        assert found[name] < max(1.02 * plain[name], 1e-7), name  # residuals near 0 are computed by neither


def bits(*tensors):
    return [tensor.contiguous().view(torch.uint8) for tensor in tensors]


def assert_equal_bits(found, expected):
    for one, other in zip(bits(*found), bits(*expected), strict=True):
        assert torch.equal(one, other)


def everything(z, bases, grad):
    """Values and gradients of z and of the bases, of energies and of residuals."""
    return list(results(z, bases, grad).values())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_row_has_the_bits_that_it_has_alone(shape, dtype):
    z, bases, grad = problem(*shape)
    z = z.to(dtype)
    for i in (0, 15, 31, 32, len(z) - 1):
        for name in ("projection_energy", "projection_residual"):
            rows, one = z.clone().requires_grad_(), z[i : i + 1].clone().requires_grad_()
            values, value = (getattr(ops, name)(x, bases) for x in (rows, one))
            assert_equal_bits([values[i]], [value[0]])
            values.backward(grad)
            value.backward(grad[i : i + 1])
            assert_equal_bits([rows.grad[i]], [one.grad[0]])


def test_threads_change_no_bit():
    data = problem(700, 128, 20, 8)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = everything(*data)
        torch.set_num_threads(3)
        assert_equal_bits(everything(*data), alone)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("parts", [torch.bfloat16, torch.float16], ids=str)
def test_halves_have_the_bits_of_the_same_floats(parts):
    """One product of bfloat16 rows stands for several of float32 ones, whose other parts are zero."""
    z, bases, _ = problem(70, 128, 20, 8)
    z, rounded = z.to(parts), bases.to(parts)
    for name in ("projection_energy", "projection_residual"):
        call = getattr(ops, name)
        assert_equal_bits([call(z, bases)], [call(z.float(), bases)])
        assert_equal_bits([call(z, rounded)], [call(z.float(), rounded.float())])


NOT_FINITE = [float("inf"), -float("inf"), float("nan")]


@pytest.mark.parametrize("value", [*NOT_FINITE, 3e19, 1e38, -3.4e38], ids=str)
def test_a_row_out_of_range_is_what_arithmetic_makes_of_it(value):
    """Infinities, NaN, and floats whose parts or products of parts would be infinite. Other rows keep their bits."""
    z, bases, grad = problem(70, 128, 20, 8)
    bases[3, 5] = 0
    usual = [x.clone() for x in everything(z, bases, grad)]
    z[40, 5] = value
    a = np.einsum("kpd,p->kd", bases.numpy().astype(np.longdouble), z[40].numpy().astype(np.longdouble))
    with np.errstate(invalid="ignore", over="ignore"):
        expected = (a**2).sum(-1).astype(np.float32)
    found = everything(z, bases, grad)
    np.testing.assert_allclose(
        found[0][40].numpy(), expected, rtol=1e-5
    )  # inf and NaN are equal to themselves
    others = torch.arange(70) != 40
    for name in (0, 1, 3, 4, 6):
        assert_equal_bits([found[name][others]], [usual[name][others]])
    if abs(value) < np.inf:
        exact = truth(z, bases, grad)
        for index, name in ((1, "projection_energy dz"), (2, "projection_energy dbases")):
            with np.errstate(over="ignore"):
                wanted = exact[name].astype(np.float32)
            np.testing.assert_allclose(found[index].numpy(), wanted, rtol=1e-4, atol=1e-6 * abs(value))
    else:  # of coefficients that are not finite
        for gradient in (found[1][40], found[2], found[4][40], found[5]):
            assert not gradient.isfinite().any()


@pytest.mark.parametrize("value", NOT_FINITE, ids=str)
def test_a_basis_out_of_range_is_what_arithmetic_makes_of_it(value):
    z, bases, grad = problem(70, 128, 20, 8)
    z[:, 9] = z[:, 9].abs() + 0.1
    exact = truth(z, bases, grad)
    bases[4, 9, 2] = value
    found = results(z, bases, grad)
    energy = found["projection_energy"]
    assert (energy[:, 4].isnan() if value != value else energy[:, 4] == float("inf")).all()
    assert found["projection_residual"][:, 4].isnan().all() or (found["projection_residual"][:, 4] < 0).all()
    others = torch.arange(20) != 4
    for name in ("projection_energy", "projection_residual"):
        np.testing.assert_allclose(
            found[name][:, others], exact[name][:, others.numpy()], rtol=2e-6, atol=2e-5
        )
    assert not found["projection_energy dz"].isfinite().any()


@pytest.mark.parametrize("value", [1e38, -3.4e38], ids=str)
def test_large_numbers_do_not_overflow_before_their_sum_does(value):
    """The part of a number that is rounded away from zero may be infinite where the number is not."""
    z, bases, _ = problem(64, 128, 20, 8)
    bases *= 1e-25
    z[:, 3] = value
    energy = ops.projection_energy(z, bases)
    exact = truth(z, bases, torch.ones(64, 20))["projection_energy"]
    np.testing.assert_allclose(energy.double().numpy(), exact, rtol=3e-6)


@in_use
def test_tiles_that_others_set_up_are_not_taken_for_ours():
    """oneDNN multiplies bfloat16 matrices by tiles too, of other shapes, on the same threads."""
    data = problem(300, 128, 20, 8)
    alone = everything(*data)
    a = torch.randn(257, 130).bfloat16()
    product = a @ a.T

    def interleaved(_):
        for _ in range(20):
            torch.testing.assert_close(
                a @ a.T, product
            )  # of which torch's number of threads changes last bits
            assert_equal_bits(everything(*data), alone)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(interleaved, range(4)))


@in_use
def test_what_is_too_small_for_tiles_counts_as_zero():
    """Parts and products below 2^-126: nothing that a sum of squares in float32 would show."""
    z, bases, _ = problem(64, 128, 20, 8)
    for scale in (1e-12, 1e-16, 1e-18):
        energy = ops.projection_energy(z * scale, bases).double().numpy()
        exact = truth(z * scale, bases, torch.ones(64, 20))["projection_energy"]
        normal = exact > 2.0**-126
        np.testing.assert_allclose(energy[normal], exact[normal], rtol=1e-5)
