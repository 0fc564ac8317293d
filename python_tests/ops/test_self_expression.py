"""Self-expression family: constrained solves, ties, batches, learned coefficients, memory."""

from __future__ import annotations

import pytest
import torch
from helpers.peak_memory import extra_memory

from desc_ext import ops as cpu_ops
from desc_ext import reference


def rows(*shape, dtype=torch.float64, seed=0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def constrained_solution(z: torch.Tensor, ridge: float) -> torch.Tensor:
    """Row i of C solves min ‖c‖² + ‖z_i − Σ_{j≠i} c_j z_j‖²/ridge on its own."""
    n = len(z)
    coef = torch.zeros(n, n, dtype=z.dtype)
    for i in range(n):
        others = [j for j in range(n) if j != i]
        left = z[others] @ z[others].T / ridge + torch.eye(n - 1, dtype=z.dtype)
        coef[i, others] = torch.linalg.solve(left, z[others] @ z[i] / ridge)
    return coef


@pytest.mark.parametrize("shape", [(30, 4), (12, 12), (9, 40), (1, 3), (2, 1)], ids=str)
def test_closed_form_is_the_constrained_minimiser(shape):
    z = rows(*shape)
    for ridge in (0.2, 3.0):
        found = cpu_ops.dense_coefficients(cpu_ops.ridge_self_expression(z, ridge))
        torch.testing.assert_close(found, constrained_solution(z, ridge), rtol=1e-10, atol=1e-12)


def test_coefficients_of_float32_rows_of_very_different_scale():
    """The Gram matrix of these rows has condition 1e12: beyond float32, not beyond float64."""
    z = (rows(400, 10) * 10.0 ** torch.arange(0, -5, -0.5)).float()
    coef = cpu_ops.dense_coefficients(cpu_ops.ridge_self_expression(z, 1e-6).double())
    exact = reference.dense_coefficients(reference.ridge_self_expression(z.double(), 1e-6))
    assert (coef - exact).norm() < 1e-6 * exact.norm()


@pytest.mark.parametrize("shape", [(7, 3), (4, 9), (5, 5)], ids=str)
def test_gradient_of_the_closed_form(shape):
    """y is unique up to a rotation only, so what is checked is a function of C."""
    z = rows(*shape).requires_grad_()

    def coefficients(z):
        return cpu_ops.dense_coefficients(cpu_ops.ridge_self_expression(z, 0.7))

    assert torch.autograd.gradcheck(coefficients, z)


def test_gradient_where_eigenvalues_coincide():
    """Derivatives of eigenvectors do not exist here; those of the inverse root do."""
    z = torch.eye(4, 9, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda z: cpu_ops.ridge_self_expression(z, 0.5), z)


def test_second_derivative_of_fewer_rows_than_columns_is_refused():
    z = rows(3, 5).requires_grad_()
    (first,) = torch.autograd.grad(cpu_ops.ridge_self_expression(z, 1.0).sum(), z, create_graph=True)
    with pytest.raises(RuntimeError, match="no second derivative"):
        torch.autograd.grad(first.sum(), z)


@pytest.mark.parametrize("shape", [(40, 5), (5, 40)], ids=str)
def test_closed_form_compiles(shape):
    z = rows(*shape)
    compiled = torch.compile(
        lambda z: cpu_ops.ridge_self_expression(z, 1.0), fullgraph=True, backend="aot_eager"
    )
    torch.testing.assert_close(compiled(z), cpu_ops.ridge_self_expression(z, 1.0))


def test_batches_are_what_their_elements_are(ops):
    z, coef = rows(3, 70, 5), rows(3, 70, 70, seed=1) / 70
    y = cpu_ops.ridge_self_expression(z, 2.0)
    for b in range(3):
        torch.testing.assert_close(y[b], cpu_ops.ridge_self_expression(z[b], 2.0), rtol=1e-12, atol=1e-12)
    calls = {
        "coefficient_topk": lambda at: ops.coefficient_topk(y[at], 4),
        "affinity_row_max": lambda at: (ops.affinity_row_max(y[at]),),
        "self_expression_residual": lambda at: ops.self_expression_residual(z[at], coef[at], "l1"),
    }
    for call in calls.values():
        together = call(slice(None))
        for b in range(3):
            for whole, alone in zip(together, call(b), strict=True):
                torch.testing.assert_close(whole[b], alone, rtol=1e-12, atol=1e-12)


def test_largest_coefficients_agree_with_sorting(ops):
    n = ops.rows(700, emulated=200)
    y = reference.ridge_self_expression(rows(n, 30), 5.0)
    indices, values = ops.coefficient_topk(y, 9)
    coef = reference.dense_coefficients(y)
    size = coef.abs() - torch.eye(n, dtype=coef.dtype)
    assert torch.equal(indices, size.topk(9, dim=1).indices)
    torch.testing.assert_close(values, coef.gather(1, indices), rtol=1e-12, atol=1e-12)


def test_all_others_may_be_asked_for(ops):
    y = reference.ridge_self_expression(rows(40, 6), 5.0)
    indices, _ = ops.coefficient_topk(y, 39)
    expected = [[j for j in range(40) if j != i] for i in range(40)]
    assert torch.equal(indices.sort(dim=1).values, torch.tensor(expected))


def test_ties_go_to_the_lowest_index(ops):
    y = torch.zeros(300, 4, dtype=torch.float64)
    y[::2, 0], y[1::2, 1] = 0.1, 0.1  # even rows equal each other, odd rows too
    indices, values = ops.coefficient_topk(y, 3)
    assert torch.equal(indices[0], torch.tensor([2, 4, 6]))
    assert torch.equal(indices[1], torch.tensor([3, 5, 7]))
    assert torch.equal(indices[298], torch.tensor([0, 2, 4]))
    assert torch.equal(indices[299], torch.tensor([1, 3, 5]))
    torch.testing.assert_close(values, torch.full_like(values, 0.01 / 0.99))


def test_rows_of_zeros_have_zero_coefficients(ops):
    indices, values = ops.coefficient_topk(torch.zeros(50, 3), 2)
    assert torch.equal(indices[0], torch.tensor([1, 2]))
    assert torch.equal(indices[7], torch.tensor([0, 1]))
    assert not values.any()
    assert not ops.affinity_row_max(torch.zeros(50, 3)).any()


def test_nan_spoils_only_its_own_row_of_coefficients(ops):
    y = reference.ridge_self_expression(rows(90, 6), 5.0)
    clean = ops.coefficient_topk(y, 3)
    y[41, 2] = float("nan")
    indices, values = ops.coefficient_topk(y, 3)
    assert values[41].isnan().all()
    assert torch.equal(indices[41], torch.tensor([0, 1, 2]))
    untouched = (clean[0] != 41).all(1)
    untouched[41] = False
    assert torch.equal(indices[untouched], clean[0][untouched])
    rest = torch.arange(90) != 41
    assert (indices[rest] != 41).all()
    assert values[rest].isfinite().all()


def test_leverage_of_one_stays_finite():
    """1 − ‖y_i‖² is kept at the rounding unit."""
    y = torch.eye(5, 7)
    assert cpu_ops.affinity_row_max(y).isfinite().all()
    assert cpu_ops.coefficient_topk(y + 0.1, 2)[1].isfinite().all()


def test_diagonal_of_learned_coefficients_takes_no_part(ops):
    z, coef = rows(50, 7), rows(50, 50, seed=1)
    plain = ops.self_expression_residual(z, coef)
    changed = ops.self_expression_residual(z, coef + 5 * torch.eye(50, dtype=torch.float64))
    assert all(torch.equal(first, second) for first, second in zip(plain, changed, strict=True))
    leaf = coef.clone().requires_grad_()
    sum(value.sum() for value in ops.self_expression_residual(z, leaf)).backward()
    assert not leaf.grad.diagonal().any()
    assert leaf.grad.count_nonzero() == 50 * 49


MEMORY = """
n, p = 50_000, 16
z = torch.randn(n, p)
labels = weight = z
from desc_ext.ops import ridge_self_expression
y = lambda z: ridge_self_expression(z, 8.0)
def gradient(f, *leaves):
    leaves = [leaf.clone().requires_grad_() for leaf in leaves]
    return torch.autograd.grad(f(*leaves), leaves)
"""


@pytest.mark.parametrize(
    "call",
    [
        "ops.coefficient_topk(y(z), 5)",
        "ops.affinity_row_max(y(z))",
        "gradient(lambda z: ops.coefficient_topk(y(z), 5)[1].sum(), z)",
    ],
)
def test_memory_does_not_grow_with_pairs(call):
    """n × n numbers would be 10 GB."""
    assert extra_memory(MEMORY, call, "0") < 80 * 2**20


WRONG = {
    "ridge": (lambda z: cpu_ops.ridge_self_expression(z, 0.0), ValueError, "ridge must be finite and > 0, got 0"),
    "rank": (lambda z: cpu_ops.affinity_row_max(z[0]), ValueError, r"y must be \[n, p\] or \[b, n, p\], got shape \[3\]"),
    "no tensor": (lambda z: cpu_ops.dense_coefficients([1.0]), TypeError, "y must be a torch.Tensor .* got list"),
    "integers": (lambda z: cpu_ops.coefficient_topk(z.long(), 1), TypeError, r"convert it with y.float\(\)"),
    "k": (lambda z: cpu_ops.coefficient_topk(z, 4), ValueError, "k must be an integer between 0 and n - 1 = 3, got 4"),
    "fraction": (lambda z: cpu_ops.coefficient_topk(z, 1.5), ValueError, "k must be an integer"),
    "coef": (lambda z: cpu_ops.self_expression_residual(z, z), ValueError, r"coef must be \[4, 4\] to go with z \[4, 3\], got shape \[4, 3\]"),
    "mixed": (lambda z: cpu_ops.self_expression_residual(z, torch.zeros(4, 4).double()), TypeError, "coef is torch.float64 and z torch.float32"),
    "penalty": (lambda z: cpu_ops.self_expression_residual(z, torch.zeros(4, 4), "l3"), ValueError, "penalty must be one of 'l1', 'l2', got 'l3'"),
    "NaN": (lambda z: cpu_ops.ridge_self_expression(z * float("nan"), 1.0), torch.linalg.LinAlgError, "cholesky"),
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG)
def test_errors(what):
    call, kind, message = WRONG[what]
    with pytest.raises(kind, match=message):
        call(torch.zeros(4, 3))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda op: op.coefficient_topk(torch.ones(1, 4, 3), 4), "k must be between 0 and n - 1 = 3, got 4"),
        (lambda op: op.coefficient_topk(torch.ones(4, 3), 1), r"y has shape \[4, 3\]; wanted \[any, any, any\]"),
        (lambda op: op.coefficient_topk_backward(torch.ones(1, 4, 1), torch.full((1, 4, 1), 4), torch.ones(1, 4, 3)), r"labels\[0\] is 4"),
        (lambda op: op.self_expression_residual(torch.ones(1, 4, 3), torch.ones(1, 4, 5), "l2"), "coef has shape"),
    ],
)  # fmt: skip
def test_direct_calls_are_guarded(call, message):
    with pytest.raises(RuntimeError, match=message):
        call(torch.ops.desc_ext)


def test_coefficients_are_not_rounded_under_autocast():
    y = torch.randn(6, 12, generator=torch.Generator().manual_seed(0)) / 5
    with torch.autocast("cpu", torch.bfloat16):
        found = cpu_ops.dense_coefficients(y)
    torch.testing.assert_close(found, reference.dense_coefficients(y.double()).float())
