"""What the methods with Student-t assignments share (DEC, IDEC, DCEC, ASC2D): network, start, targets, rounds."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from desc_ext import ops
from desc_ext.models.base import Assessment, ClusteringNetwork, DeepClusterer, Fit
from desc_ext.models.options import CHECKS, Check, choice, integer, number
from desc_ext.models.rows import map_chunks
from desc_ext.models.start import kmeans
from desc_ext.nn import ConvAutoencoder

__all__ = ["STUDENT_T_CHECKS", "StudentTClusterer", "StudentTNetwork", "require_a_loss"]

_sizes, _spelled = CHECKS["hidden_sizes"]
STUDENT_T_CHECKS: dict[str, Check] = {
    **{
        name: CHECKS[name]
        for name in (
            "scaling", "hidden_sizes", "corruption", "n_init", "pretrain_epochs", "epochs", "batch_size",
            "pretrain_learning_rate", "learning_rate", "tol",
        )
    },
    "image_network": choice("conv", "dense"),
    "channels": (lambda v: _sizes(v) and len(v) > 0, f"{_spelled}, at least one"),
    "kernels": (lambda v: _sizes(v) and all(width % 2 for width in v), "a tuple of odd integers >= 1"),
    "reconstruction_weight": number(0),
    "update_interval": integer(1),
}  # fmt: skip


class StudentTNetwork(ClusteringNetwork):
    """Autoencoder, centroids μ [K, p] and frequencies f [K]: the column sums of the assignments of all rows."""

    def __init__(self, n_features: int, options: dict[str, Any], generator: torch.Generator) -> None:
        super().__init__(n_features, options, generator)
        self.centroids = nn.Parameter(torch.zeros(options["n_clusters"], options["latent_dim"]))
        self.register_buffer("frequency", torch.ones(options["n_clusters"]))

    def _autoencoder(self, n_features: int, options: dict[str, Any], generator: torch.Generator) -> nn.Module:
        if options["image_shape"] is None or options["image_network"] == "dense":
            return super()._autoencoder(n_features, options, generator)
        return ConvAutoencoder(
            options["image_shape"],
            options["channels"],
            options["kernels"],
            generator,
            latent_dim=options["latent_dim"],
            unit_codes=options["unit_codes"],
        )

    def assign(self, z: Tensor) -> Tensor:
        """Student-t assignments [n, K] of codes to the centroids, one degree of freedom."""
        return ops.student_t_assignment(z, self.centroids)

    def sharpen(self, assignment: Tensor) -> Tensor:
        """The target [n, K] of assignments: their squares over the frequencies, each row summing to 1."""
        return ops.target_distribution(assignment, self.frequency)


class StudentTClusterer(DeepClusterer):
    """Pretraining, k-means on the codes, then refinement in rounds: the base class of DEC and its kin.

    An epoch of refinement is a round of ``update_interval`` mini-batches, however many passes over the rows that is.
    After it all rows are assigned anew, which gives the next round's target, and the fit stops when a smaller share of
    labels than ``tol`` has changed: the schedule of DEC's code. There mini-batches go on through the rows in their order;
    here every round begins a new shuffle, so that nothing but the networks has to go from one round to the next.
    """

    _checks = STUDENT_T_CHECKS

    @property
    def cluster_centers_(self) -> np.ndarray:
        """Centroids μ [K, p] in the code space (NumPy)."""
        if not hasattr(self, "network_"):
            raise AttributeError(f"this {type(self).__name__} has no cluster_centers_ before fit")
        return self.network_.centroids.detach().cpu().numpy()

    def _resolve_options(self) -> dict[str, Any]:
        options = {"reconstruction": "mean", "unit_codes": False} | super()._resolve_options()
        channels, kernels = options["channels"], options["kernels"]
        if len(channels) != len(kernels):
            raise ValueError(
                f"{type(self).__name__}: channels and kernels must have one entry a layer each, got "
                f"{tuple(channels)} and {tuple(kernels)}"
            )
        return options

    def _build(self, n_features: int, options: dict[str, Any], generator: torch.Generator) -> StudentTNetwork:
        return StudentTNetwork(n_features, options, generator)

    @torch.no_grad()
    def _initialise(self, fit: Fit, z: Tensor) -> Tensor:
        labels, centroids = kmeans(z, fit.options["n_clusters"], fit.options["n_init"], fit.seed)
        fit.network.centroids.copy_(centroids)
        return labels

    def _assign(self, network: StudentTNetwork, z: Tensor) -> Tensor:
        return network.assign(z)

    def _assess(self, fit: Fit, z: Tensor) -> Assessment:
        network = fit.network
        assignment = map_chunks(network.assign, z)
        network.frequency.copy_(assignment.sum(0, dtype=torch.float64))
        target = map_chunks(network.sharpen, assignment)
        labels = map_chunks(lambda part: self._assign(network, part), z).argmax(1)
        record = {
            "mean_max_assignment": float(assignment.max(1).values.mean()),
            "mean_max_target": float(target.max(1).values.mean()),
        }
        return Assessment(z, labels, target, record=record)

    def _batches(self, fit: Fit) -> list[Tensor]:
        if fit.stage == "pretrain":
            return list(super()._batches(fit))
        batches: list[Tensor] = []
        while len(batches) < fit.options["update_interval"]:
            batches += super()._batches(fit)
        return batches[: fit.options["update_interval"]]

    def _terms(self, fit: Fit, index: Tensor, now: Assessment | None) -> dict[str, tuple[float, Tensor]]:
        x, autoencoder = fit.rows.take(index.numpy()), fit.network.autoencoder
        z = autoencoder.encode(self._corrupt(fit, x))
        weight = 1.0 if now is None else fit.options["reconstruction_weight"]
        terms = {}
        if weight:
            terms["reconstruction"] = (weight, self._reconstruction(fit, x, autoencoder.decode(z)))
        if now is not None:
            terms |= self._refine_losses(fit, z, index.to(x.device), now)
        return terms


def require_a_loss(name: str, options: dict[str, Any], weights: list[str]) -> None:
    """Raises ValueError where all of the named weights are 0, so that nothing would be trained."""
    if not any(options[weight] for weight in weights):
        raise ValueError(f"{name}: at least one of {', '.join(weights)} must be > 0, got 0 for all")
