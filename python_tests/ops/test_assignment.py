"""Assignment family: closed forms, extremes and limits."""

from __future__ import annotations

import torch
from helpers.operators import inputs


def test_soft_assignment_by_hand(ops):
    """Axis-aligned lines: energies are squared coordinates."""
    z = torch.tensor([[3.0, 1.0], [0.0, 0.0]])
    bases = torch.eye(2)[:, :, None]
    w = ops.subspace_soft_assignment(z, bases, smoothing=2.0)
    torch.testing.assert_close(w, torch.tensor([[11 / 14, 3 / 14], [0.5, 0.5]]))


def test_soft_assignment_rows_sum_to_one_and_order_as_energies(ops):
    tensors = inputs((200, 30, 12, 4), torch.float32)
    w = ops.subspace_soft_assignment(tensors["z"], tensors["bases"], 0.7)
    torch.testing.assert_close(w.sum(1), torch.ones(200))
    assert torch.equal(w.argmax(1), ops.nearest_subspace(tensors["z"], tensors["bases"], "energy")[0])


def test_sample_weight_zero_gives_a_uniform_row_and_one_changes_nothing(ops):
    tensors = inputs((6, 8, 5, 2), torch.float32)
    weight = torch.tensor([0.0, 1.0, 1.0, 0.0, 1.0, 1.0])
    weighted = ops.subspace_soft_assignment(tensors["z"], tensors["bases"], 0.7, weight)
    plain = ops.subspace_soft_assignment(tensors["z"], tensors["bases"], 0.7)
    assert torch.equal(weighted[weight == 1], plain[weight == 1])
    torch.testing.assert_close(weighted[weight == 0], torch.full((2, 5), 0.2))


def test_sample_weight_is_a_scaling_of_the_energies(ops):
    tensors = inputs((50, 8, 5, 2))
    scaled = ops.subspace_soft_assignment(
        tensors["z"] * tensors["sample_weight"].sqrt()[:, None], tensors["bases"], 0.7
    )
    weighted = ops.subspace_soft_assignment(tensors["z"], tensors["bases"], 0.7, tensors["sample_weight"])
    torch.testing.assert_close(weighted, scaled, rtol=1e-12, atol=1e-12)


def test_student_t_by_hand(ops):
    z, centroids = torch.tensor([[0.0], [3.0]]), torch.tensor([[0.0], [1.0], [3.0]])
    kernel = 1 / (1 + torch.tensor([[0.0, 1.0, 9.0], [9.0, 4.0, 0.0]]))
    torch.testing.assert_close(ops.student_t_assignment(z, centroids), kernel / kernel.sum(1, keepdim=True))


def test_student_t_with_many_degrees_of_freedom_is_gaussian(ops):
    tensors = inputs((50, 6, 4, 1))
    squared = torch.cdist(tensors["z"], tensors["centroids"]).square()
    gaussian = torch.softmax(-squared / 2, 1)
    torch.testing.assert_close(
        ops.student_t_assignment(tensors["z"], tensors["centroids"], dof=1e9), gaussian, rtol=1e-6, atol=1e-6
    )


def test_student_t_far_away_neither_overflows_nor_underflows(ops):
    z = torch.tensor([[1e15, 0.0], [0.0, 0.0]])
    centroids = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 2.0]])
    for dof in (1.0, 50.0):
        q = ops.student_t_assignment(z, centroids, dof)
        torch.testing.assert_close(q.sum(1), torch.ones(2))
        torch.testing.assert_close(q[0], torch.full((3,), 1 / 3))


def test_student_t_gradient_is_exact_next_to_a_centroid(ops):
    """Squared distances from a Gram form would cancel here."""
    z = (torch.tensor([[1000.0, 1000.0]]) + torch.tensor([[0.25, 0.0]])).requires_grad_()
    centroids = torch.tensor([[1000.0, 1000.0], [1000.0, 1001.0]])
    q = ops.student_t_assignment(z, centroids)
    kernel = 1 / (1 + torch.tensor([0.0625, 1.0625]))
    torch.testing.assert_close(q[0], kernel / kernel.sum())


def test_target_by_hand(ops):
    q = torch.tensor([[0.6, 0.4], [0.2, 0.8]], dtype=torch.float64)
    score = torch.tensor([[0.36 / 0.8, 0.16 / 1.2], [0.04 / 0.8, 0.64 / 1.2]], dtype=torch.float64)
    torch.testing.assert_close(ops.target_distribution(q), score / score.sum(1, keepdim=True))


def test_target_of_batches_with_the_frequency_of_all_is_the_target_of_all(ops):
    q = inputs((ops.rows(1000), 3, 7, 1), torch.float32)["q"]
    whole = ops.target_distribution(q)
    frequency = q.double().sum(0).float()
    parts = [ops.target_distribution(part, frequency) for part in q.split(128)]
    torch.testing.assert_close(torch.cat(parts), whole, rtol=1e-5, atol=1e-7)


def test_target_of_an_unused_cluster_is_zero_not_nan(ops):
    q = torch.tensor([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]])
    target = ops.target_distribution(q)
    assert target.isfinite().all()
    assert (target[:, 2] == 0).all()


def test_target_is_a_constant(ops):
    q = torch.full((3, 2), 0.5, requires_grad=True)
    assert not ops.target_distribution(q).requires_grad


def test_column_sums_of_many_rows_do_not_lose_precision(ops):
    """300,000 rows of 1/3 in float32: a plain running sum would be off by 1e-3."""
    q = torch.full((ops.rows(300_000, emulated=30_000), 3), 1 / 3)
    q[:, 0] += 1e-4
    q[:, 1] -= 1e-4
    torch.testing.assert_close(
        ops.target_distribution(q)[0].double(),
        (q[0].double().square() / q.double().sum(0)) / (q[0].double().square() / q.double().sum(0)).sum(),
        rtol=1e-6,
        atol=0,
    )
