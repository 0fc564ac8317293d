"""Networks for rows or for images: which one an estimator's options ask for."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from desc_ext.models.base import ClusteringNetwork
from desc_ext.models.options import CHECKS, Check, choice
from desc_ext.nn import Autoencoder, ConvAutoencoder, ResidualAutoencoder

__all__ = ["NETWORK_CHECKS", "NETWORK_DEFAULTS", "ImageOrRowNetwork", "complete_network_options"]

_CHANNELS = {"conv": (10, 20, 30), "residual": (10, 20, 30, 40), "strided": (10, 20, 30, 40)}
# Every layer of "strided" halves the map, others as long as more than this many pixels are left: 28 → 14 → 7 → 4.
_SMALLEST_MAP = 4
# The code space must hold the subspaces of all clusters: NCSC's guess of the dimensions of one (section 4).
_DIMENSIONS_PER_CLUSTER = 9

NETWORK_DEFAULTS: dict[str, Any] = {
    "image_network": "conv",
    "channels": None,
    "hidden_sizes": (500, 500, 1000),
    "latent_dim": None,
    "unit_codes": False,
}
_sizes, _spelled = CHECKS["hidden_sizes"]
NETWORK_CHECKS: dict[str, Check] = {
    "image_network": choice("conv", "residual", "strided"),
    "channels": (lambda v: v is None or (_sizes(v) and len(v) > 0), f"{_spelled}, at least one"),
    **{name: CHECKS[name] for name in ("hidden_sizes", "latent_dim", "unit_codes")},
}


def complete_network_options(name: str, options: dict[str, Any]) -> None:
    """Puts the values in that depend on the data: channels and latent_dim; ``image_shape`` is known now.

    Raises:
        ValueError: a latent_dim for images, whose code is the last map of their network.
    """
    shape = options["image_shape"]
    if shape is None:
        if options["latent_dim"] is None:
            options["latent_dim"] = _DIMENSIONS_PER_CLUSTER * options["n_clusters"]
        return
    if options["latent_dim"] is not None:
        raise ValueError(
            f"{name}: latent_dim={options['latent_dim']} is for rows; the code of an image is the last map of its "
            "network: set channels instead"
        )
    if options["channels"] is None:
        options["channels"] = list(_CHANNELS[options["image_network"]])
    size = list(shape[1:])
    for stride in _strides(options):
        size = [-(-length // stride) for length in size]
    options["latent_dim"] = options["channels"][-1] * math.prod(size)


def _strides(options: dict[str, Any]) -> list[int]:
    n_layers = len(options["channels"])
    if options["image_network"] == "strided":
        return [2] * n_layers
    strides, (height, width) = [], options["image_shape"][1:]
    for _ in range(n_layers):
        strides.append(2 if min(height, width) > _SMALLEST_MAP else 1)
        height, width = (-(-length // strides[-1]) for length in (height, width))
    return strides


class ImageOrRowNetwork(ClusteringNetwork):
    """What an estimator trains, with a convolutional autoencoder where the rows are images."""

    def _autoencoder(self, n_features: int, options: dict[str, Any], generator: torch.Generator) -> nn.Module:
        shape, unit_codes = options["image_shape"], options["unit_codes"]
        if shape is None:
            return Autoencoder(
                n_features, options["hidden_sizes"], options["latent_dim"], generator, unit_codes
            )
        channels = options["channels"]
        strides = _strides(options)
        if options["image_network"] == "residual":
            return ResidualAutoencoder(shape, channels, 3, generator, strides, unit_codes=unit_codes)
        first = 3 if options["image_network"] == "strided" else 5
        kernels = [first, *[3] * (len(channels) - 1)]
        return ConvAutoencoder(shape, channels, kernels, generator, strides, unit_codes=unit_codes)

    @property
    def code_shape(self) -> tuple[int, ...]:
        """(C, h, w) of a code that is a map, else (p,)."""
        autoencoder = self.autoencoder
        if isinstance(autoencoder, Autoencoder):
            return (autoencoder.decoder[0].in_features,)
        return autoencoder.code_shape
