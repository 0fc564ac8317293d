"""Networks: layer sizes, initialisation from the caller's generator, unit codes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from desc_ext.nn import Autoencoder, linear_layer


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_layers_mirror_each_other():
    network = Autoencoder(20, (50, 30), 7, seeded())
    linear = [layer for layer in network.modules() if isinstance(layer, torch.nn.Linear)]
    shapes = [(layer.in_features, layer.out_features) for layer in linear]
    assert shapes == [(20, 50), (50, 30), (30, 7), (7, 30), (30, 50), (50, 20)]
    z, reconstruction = network(torch.ones(4, 20))
    assert (z.shape, reconstruction.shape) == ((4, 7), (4, 20))


def test_forward_equals_the_formula():
    network = Autoencoder(5, (8,), 3, seeded(), unit_codes=True).double()
    x = torch.randn(6, 5, generator=seeded(1), dtype=torch.float64)
    weights = {name: value.detach().numpy() for name, value in network.state_dict().items()}

    def layer(rows, name):
        return rows @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    z = layer(np.maximum(layer(x.numpy(), "encoder.0"), 0), "encoder.2")
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    reconstruction = layer(np.maximum(layer(z, "decoder.0"), 0), "decoder.2")
    found_z, found = network(x)
    np.testing.assert_allclose(found_z.detach().numpy(), z, atol=1e-12)
    np.testing.assert_allclose(found.detach().numpy(), reconstruction, atol=1e-12)


def test_parameters_come_from_the_generator_alone():
    before = torch.random.get_rng_state()
    first, second, other = (Autoencoder(9, (6,), 4, seeded(s)).state_dict() for s in (3, 3, 4))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in first)


@pytest.mark.parametrize("n_in", [1, 400])
def test_initial_scale_is_that_of_torch(n_in):
    layer = linear_layer(n_in, 3000, seeded())
    torch.manual_seed(0)
    usual = torch.nn.Linear(n_in, 3000)
    for found, expected in ((layer.weight, usual.weight), (layer.bias, usual.bias)):
        assert float(found.abs().max()) <= n_in**-0.5
        assert float(found.std()) == pytest.approx(float(expected.std()), rel=0.05)
