"""NCSC's network, and what its two affinities need beside the operators."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from desc_ext import ops
from desc_ext.models.base import Fit
from desc_ext.models.networks import ImageOrRowNetwork
from desc_ext.models.self_expressive import SelfExpressiveClustering
from desc_ext.models.start import kmeans
from desc_ext.nn import ClassifierHead

__all__ = [
    "CollaborativeFit", "CollaborativeNetwork", "apart_limit", "closed_form_expression", "collaborative_terms",
    "dense_affinity", "dense_collaborative_loss", "imbalance", "nearly_equal", "start_labels",
]  # fmt: skip

# Rows that each row is compared with to find the affinity below which a given share of the pairs lies.
_SAMPLED_PARTNERS = 16
# The start's graph: each row keeps a fifth of an even cluster, for with few neighbours a topic of one cluster parts from
# the rest more readily than clusters from each other; and no more than this, for the sake of many rows.
_NEIGHBOUR_SHARE, _FEWEST_NEIGHBOURS, _MOST_NEIGHBOURS = 5, 5, 100


class CollaborativeNetwork(ImageOrRowNetwork):
    """Autoencoder and classifier head; while it is trained, also the learned coefficients, if they are learned."""

    def __init__(self, n_features: int, options: dict[str, Any], generator: torch.Generator) -> None:
        super().__init__(n_features, options, generator)
        self.head = ClassifierHead(self.code_shape, options["head_sizes"], options["n_clusters"], generator)
        self.expression: nn.ModuleList | None = None  # a layer for each part of a fixed partition of the rows

    def classify(self, z: Tensor) -> Tensor:
        """Probabilities [n, K] of codes, rows summing to 1."""
        # entries of unit codes are about 1/√p: too small for layers that start at torch's usual scale
        return self.head(z * z.shape[1] ** 0.5 if self.autoencoder.unit_codes else z)


@dataclass
class CollaborativeFit(Fit):
    parts: list[Tensor] = field(default_factory=list)  # the fixed partition, where coefficients are learned
    codes: Tensor | None = None  # of all rows, while the encoder rests
    apart: float | None = None  # the value of A_s below which apart_share of the pairs lie, in this epoch
    n_pairs: Tensor | None = None  # positive, negative and apart pairs of this epoch


def nearly_equal(index: Tensor, size: int) -> list[Tensor]:
    """Pieces of at most ``size`` that differ by one at most: a short last batch could not express its rows."""
    return list(index.tensor_split(max(1, math.ceil(len(index) / size))))


def start_labels(z: Tensor, options: dict[str, Any], seed: int) -> Tensor:
    """Clusters of the codes z [n, p], int64 [n], as ``options["start"]`` asks: "kmeans", "spectral" or "best".

    "best" takes whichever of the two has the smaller Ω, with a classifier that is certain of them: no label is seen.
    """
    finders = {"kmeans": _kmeans_labels, "spectral": _spectral_labels}
    if options["start"] != "best":
        return finders[options["start"]](z, options, seed)
    found = [find(z, options, seed) for find in finders.values()]
    return min(found, key=lambda labels: _start_loss(z, labels, options, seed))


def _kmeans_labels(z: Tensor, options: dict[str, Any], seed: int) -> Tensor:
    return kmeans(z, options["n_clusters"], options["n_init"], seed)[0]


def _spectral_labels(z: Tensor, options: dict[str, Any], seed: int) -> Tensor:
    if bool((z == z[:1]).all()):  # the encoder's units are dead: there is nothing to cluster
        return torch.zeros(len(z), dtype=torch.int64, device=z.device)
    n, n_clusters = len(z), options["n_clusters"]
    # λ1 for n rows as for a mini-batch of them, in units of the mean ‖z_i‖²
    ridge = 2 / options["fidelity_weight"] * n / min(n, options["batch_size"])
    clustering = SelfExpressiveClustering(
        n_clusters,
        ridge=ridge / float(z.square().sum(1).double().mean()),
        k=min(max(n // (_NEIGHBOUR_SHARE * n_clusters), _FEWEST_NEIGHBOURS), _MOST_NEIGHBOURS),
        n_init=options["n_init"],
        random_state=seed,
        device=str(z.device),
        dtype=str(z.dtype).removeprefix("torch."),
    )
    return torch.from_numpy(clustering.fit_predict(z)).to(z.device)


@torch.no_grad()
def _start_loss(z: Tensor, labels: Tensor, options: dict[str, Any], seed: int) -> float:
    """Ω on one mini-batch of the closed form."""
    order = torch.randperm(len(z), generator=torch.Generator().manual_seed(seed))
    index = order[: options["batch_size"]].to(z.device)
    y = ops.ridge_self_expression(z[index], 2 / options["fidelity_weight"])
    row_max = ops.affinity_row_max(y)
    apart = apart_limit(y, row_max, options["apart_share"] if options["apart_weight"] else 0.0)
    nu = nn.functional.one_hot(labels[index], options["n_clusters"]).to(z.dtype)
    terms, _ = collaborative_terms(nu, y, row_max, options["upper"], apart, options)
    return float(sum(weight * value for weight, value in terms.values()))


def closed_form_expression(z: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """C z [n, p] and ‖C‖²_F for C_ij = y_i·y_j / (1 − ‖y_i‖²), C_ii = 0, in O(n p²) and without C.

    With h_i = ‖y_i‖², (C z)_i = (y_i (yᵀz) − h_i z_i) / (1 − h_i), and row i of C has the squared norm
    (y_i (yᵀy) y_iᵀ − h_i²) / (1 − h_i)².
    """
    h = y.square().sum(1, keepdim=True)
    scale = 1 / (1 - h).clamp_min(torch.finfo(y.dtype).eps)
    expressed = scale * (y @ (y.T @ z) - h * z)
    squared = ((y @ (y.T @ y)) * y).sum(1, keepdim=True) - h.square()
    return expressed, (scale.square() * squared).sum()


def collaborative_terms(
    nu: Tensor, rows: Tensor, row_max: Tensor | None, upper: float, apart: float, options: dict[str, Any]
) -> tuple[dict[str, tuple[float, Tensor]], Tensor]:
    """Ω (eq. 5) with its two further terms, name → (weight, mean over pairs), and the numbers of pairs, int64 [3].

    ``nu`` [n, K] are predictions of length 1. ``rows`` are y of the closed form with ``row_max`` its largest
    affinities, or the stored affinity [n, n] where ``row_max`` is None.
    """
    limits = {"upper": upper, "lower": options["lower"], "apart": apart}
    limits["soft_indicator"] = options["soft_indicator"]
    if row_max is None:
        positive, negative, separation, counts = dense_collaborative_loss(nu, rows, **limits)
    else:
        found = ops.collaborative_loss(nu, rows, row_max=row_max, **limits)
        positive, negative, separation, counts = found
    terms = {"positive": (1.0, positive), "negative": (options["negative_weight"], negative)}
    if options["apart_weight"]:
        terms["apart"] = (options["apart_weight"], separation)
    if options["balance_weight"]:
        terms["balance"] = (options["balance_weight"], imbalance(nu))
    return terms, counts


def dense_collaborative_loss(
    prediction: Tensor, affinity: Tensor, upper: float, lower: float, apart: float, soft_indicator: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """:func:`desc_ext.ops.collaborative_loss` for an affinity [n, n] that is stored: the same four results."""
    a_c, off = prediction @ prediction.T, ~torch.eye(len(affinity), dtype=torch.bool, device=affinity.device)
    a_s = affinity / affinity.amax(1, keepdim=True).clamp_min(torch.finfo(affinity.dtype).tiny)
    teacher_s, teacher_c = (a_s, a_c) if soft_indicator else (a_s.detach(), a_c.detach())
    chosen = [off & (a_s > upper), off & (a_c < lower), off & (a_s < apart)]

    def log(x: Tensor) -> Tensor:
        return x.clamp(1e-6, 1).log()

    means = [
        -(teacher_s * log(a_c))[chosen[0]].sum(),
        -((1 - teacher_c) * log(1 - a_s))[chosen[1]].sum(),
        -log(1 - a_c)[chosen[2]].sum(),
    ]
    counts = torch.stack([mask.sum() for mask in chosen])
    return *(total / count.clamp_min(1) for total, count in zip(means, counts, strict=True)), counts


@torch.no_grad()
def apart_limit(rows: Tensor, row_max: Tensor | None, share: float) -> float:
    """The value of A_s below which about ``share`` of the pairs lie, from pairs (i, i + t) of rows in random order.

    ``rows`` are y of the closed form, or the stored affinity where ``row_max`` is None.
    """
    n = len(rows)
    if share == 0 or n < 3:
        return 0.0
    steps = range(1, min(_SAMPLED_PARTNERS, n - 1) + 1)
    if row_max is None:
        i = torch.arange(n, device=rows.device)
        sampled = [rows[i, (i + t) % n] for t in steps]
        row_max = rows.amax(1)
    else:
        s = 1 / (1 - rows.square().sum(1)).clamp_min(torch.finfo(rows.dtype).eps)
        sampled = [(rows * rows.roll(-t, 0)).sum(1).abs() * (s + s.roll(-t, 0)) / 2 for t in steps]
    ratio = torch.cat(sampled) / row_max.clamp_min(torch.finfo(rows.dtype).tiny).repeat(len(sampled))
    return float(ratio.quantile(share))


def dense_affinity(z: Tensor, weight: float) -> Tensor:
    """A_s of eq. 4 [n, n] from the closed form of the codes z [n, p], λ1 = ``weight``."""
    coefficient = ops.dense_coefficients(ops.ridge_self_expression(z, 2 / weight)).abs()
    affinity = (coefficient + coefficient.T) / 2
    affinity /= affinity.amax(1, keepdim=True).clamp_min(torch.finfo(affinity.dtype).tiny)
    return affinity.fill_diagonal_(1)


def imbalance(nu: Tensor) -> Tensor:
    """log K − entropy(mean ν²) of ν [n, K], rows of length 1: zero for clusters of equal weight, log K for a single one."""
    mean = nu.square().mean(0)
    entropy = -(mean * mean.clamp_min(torch.finfo(mean.dtype).tiny).log()).sum()
    return math.log(nu.shape[1]) - entropy
