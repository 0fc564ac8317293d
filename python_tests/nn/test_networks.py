"""Networks: layer sizes, initialisation from the caller's generator, unit codes, images in and out."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from desc_ext.nn import (
    Autoencoder,
    ClassifierHead,
    ConvAutoencoder,
    ResidualAutoencoder,
    SelfExpressiveLayer,
    linear_layer,
    set_dtype,
)


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


@pytest.mark.parametrize(
    "network",
    [
        ConvAutoencoder((1, 9, 9), (8, 16), (5, 3), seeded(), latent_dim=6),
        # maps that a stride of 2 leaves at one pixel: without care, what torch computes of them here is left to chance
        ConvAutoencoder((1, 2, 2), (30, 40), (5, 3), seeded(), latent_dim=6),
        ConvAutoencoder((1, 8, 2), (30, 40), (5, 3), seeded(), latent_dim=6),
        ResidualAutoencoder((1, 2, 2), (30, 40, 50), 3, seeded(), latent_dim=6),
    ],
    ids=lambda network: "-".join(map(str, (type(network).__name__, *network.image_shape))),
)
def test_mixed_layers_multiply_in_bfloat16(network):
    network, (colours, *size) = copy.deepcopy(network), network.image_shape
    x = torch.randn(64, colours * size[0] * size[1], generator=seeded(1))
    exact = copy.deepcopy(network).double()
    set_dtype(network, "mixed_bfloat16")
    pairs = []
    for found, value in ((network, x), (exact, x.double())):
        z, reconstruction = found(value)
        reconstruction.square().sum().backward()
        pairs.append([z.detach(), reconstruction.detach(), *(p.grad for p in found.parameters())])
    for found, value in zip(*pairs, strict=True):
        assert found.dtype == torch.float32
        error = float((found - value).norm() / value.norm())
        assert 1e-5 < error < 0.2  # float32 would be below, and another gradient above
    assert all(
        float((a - b).norm() / b.norm()) < 0.02 for a, b in zip(pairs[0][:2], pairs[1][:2], strict=True)
    )
    set_dtype(network, "float64")
    for found, value in zip(network(x.double()), pairs[1], strict=False):
        torch.testing.assert_close(found, value, rtol=1e-12, atol=1e-12)


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


# Output shapes of every convolution for 28×28 pixels. NCSC, section 5.1: kernels 5-3-3-3-3-5, channels 10-20-30-30-20-10;
# its classifier, three layers of kernel 2 and one of kernel 1, ends at one pixel only if the last map has 4×4.
# ASC2D: 32-64-128, kernels 5-5-3, one linear layer to K. LRSC at 32×32: 10-20-30-40, kernel 3.
@pytest.mark.parametrize(
    ("image", "channels", "kernels", "latent_dim", "shapes"),
    [
        (
            (1, 28, 28), (10, 20, 30), (5, 3, 3), None,
            [(10, 14, 14), (20, 7, 7), (30, 4, 4), (20, 7, 7), (10, 14, 14), (1, 28, 28)],
        ),
        (
            (1, 28, 28), (32, 64, 128), (5, 5, 3), 10,
            [(32, 14, 14), (64, 7, 7), (128, 4, 4), (64, 7, 7), (32, 14, 14), (1, 28, 28)],
        ),
        (
            (3, 32, 32), (10, 20, 30, 40), (3, 3, 3, 3), None,
            [(10, 16, 16), (20, 8, 8), (30, 4, 4), (40, 2, 2), (30, 4, 4), (20, 8, 8), (10, 16, 16), (3, 32, 32)],
        ),
    ],
)  # fmt: skip
def test_convolutional_layers(image, channels, kernels, latent_dim, shapes):
    network = ConvAutoencoder(image, channels, kernels, seeded(), latent_dim=latent_dim)
    found, widths = layer_outputs(network, np.prod(image))
    assert found == shapes
    assert widths == [*kernels, *kernels[::-1]]
    code = np.prod(shapes[len(channels) - 1])
    assert network.latent_dim == (code if latent_dim is None else latent_dim)
    linear = [m for m in network.modules() if isinstance(m, torch.nn.Linear)]
    expected = [] if latent_dim is None else [(code, latent_dim), (latent_dim, code)]
    assert [(layer.in_features, layer.out_features) for layer in linear] == expected


def layer_outputs(network, n_features):
    """Output shapes and kernel widths of a network's convolutions in the order in which they run."""
    shapes, widths = [], []

    def note(layer, _inputs, output):
        shapes.append(tuple(output.shape[1:]))
        widths.append(layer.kernel_size[0])

    kinds = (torch.nn.Conv2d, torch.nn.ConvTranspose2d)
    hooks = [m.register_forward_hook(note) for m in network.modules() if isinstance(m, kinds)]
    network(torch.zeros(2, int(n_features)))
    for hook in hooks:
        hook.remove()
    return shapes, widths


def test_residual_layers():
    """NCSC, section 5.2: one convolution, then three residual blocks, channels 10-20-30-40, kernel 3 throughout."""
    network = ResidualAutoencoder((1, 28, 28), (10, 20, 30, 40), 3, seeded(), strides=(2, 2, 2, 1))
    shapes, widths = layer_outputs(network, 784)
    wide = [shape for shape, width in zip(shapes, widths, strict=True) if width == 3]
    down = [(10, 14, 14), *[(20, 7, 7)] * 2, *[(30, 4, 4)] * 2, *[(40, 4, 4)] * 2]
    up = [*[(30, 4, 4)] * 2, *[(20, 7, 7)] * 2, *[(10, 14, 14)] * 2, (1, 28, 28)]
    assert wide == down + up
    assert widths.count(1) == 6  # the shortcuts
    assert not any("Norm" in type(module).__name__ for module in network.modules())
    assert network.latent_dim == 640


def test_residual_block_equals_the_formula():
    network = ResidualAutoencoder((2, 9, 7), (3, 4), 3, seeded()).double()
    x = torch.randn(5, 2 * 9 * 7, generator=seeded(1), dtype=torch.float64)
    weights = network.state_dict()

    def conv(maps, name, stride=1, padding=1):
        layer = weights[f"encoder.{name}.weight"], weights[f"encoder.{name}.bias"]
        return torch.nn.functional.conv2d(maps, *layer, stride=stride, padding=padding)

    maps = conv(x.reshape(5, 2, 9, 7), "0", stride=2)
    inner = conv(conv(maps.relu(), "1.first", stride=2).relu(), "1.second")
    expected = (inner + conv(maps.relu(), "1.shortcut", stride=2, padding=0)).flatten(1)
    torch.testing.assert_close(network.encode(x), expected)


@pytest.mark.parametrize("colours", [1, 3])
@pytest.mark.parametrize("size", [(8, 8), (9, 9), (8, 13), (15, 28), (31, 33)])
@pytest.mark.parametrize("unit_codes", [False, True])
def test_images_of_any_size_come_back(colours, size, unit_codes):
    shape = (colours, *size)
    networks = (
        ConvAutoencoder(shape, (4, 5, 6), (5, 3, 3), seeded(), unit_codes=unit_codes),
        ConvAutoencoder(shape, (4, 5), (5, 3), seeded(), (3, 1), latent_dim=7, unit_codes=unit_codes),
        ResidualAutoencoder(shape, (4, 5, 6), 3, seeded(), (2, 3, 1), unit_codes=unit_codes),
    )
    x = torch.randn(3, colours * size[0] * size[1], generator=seeded(1))
    for network in networks:
        z, reconstruction = network(x)
        assert z.shape == (3, network.latent_dim)
        assert reconstruction.shape == x.shape
        assert unit_codes == torch.allclose(z.norm(dim=1), torch.ones(3))
        assert all(parameter.grad is None for parameter in network.parameters())
        (reconstruction - x).square().sum().backward()
        assert all(parameter.grad.abs().sum() > 0 for parameter in network.parameters())


def test_pixels_are_read_row_by_row():
    """A code of the image network moves with the image: flat rows are C·H·W, in this order."""
    network = ConvAutoencoder((2, 16, 12), (3,), (3,), seeded())
    images = torch.zeros(2, 2, 16, 12)
    images[0, 1, 4, 4] = images[1, 1, 8, 6] = 1
    maps = network.encode(images.flatten(1)).reshape(2, *network.code_shape)
    torch.testing.assert_close(maps[0, :, 1:4, 1:4], maps[1, :, 3:6, 2:5])


def test_image_networks_draw_from_the_generator_at_torchs_scale():
    before = torch.random.get_rng_state()
    build = (
        lambda g: ConvAutoencoder((1, 28, 28), (40, 50), (5, 3), g, latent_dim=9),
        lambda g: ResidualAutoencoder((1, 28, 28), (40, 50), 3, g),
        lambda g: ClassifierHead((30, 4, 4), (64, 64, 64), 10, g),
    )
    for make in build:
        first, second, other = (make(seeded(s)).state_dict() for s in (3, 3, 4))
        assert all(torch.equal(first[name], second[name]) for name in first)
        assert not any(torch.equal(first[name], other[name]) for name in first)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(0)
    for layer in build[0](seeded()).modules():
        if isinstance(layer, (torch.nn.Conv2d, torch.nn.ConvTranspose2d)) and layer.weight.numel() > 5000:
            usual = type(layer)(layer.in_channels, layer.out_channels, layer.kernel_size)
            assert float(layer.weight.std()) == pytest.approx(float(usual.weight.std()), rel=0.05)


def test_unusable_layers_are_refused():
    with pytest.raises(ValueError, match=r"lists of one length >= 1; got \[4, 5\], \[3\] and \[2, 2\]"):
        ConvAutoencoder((1, 8, 8), (4, 5), (3,), seeded())
    with pytest.raises(ValueError, match="kernels must be odd"):
        ConvAutoencoder((1, 8, 8), (4,), (4,), seeded())


def test_classifier_head_of_the_paper():
    """Three convolutions of kernel 2 and one of kernel 1 (section 5.1) bring 4×4 pixels to one, and softmax."""
    head = ClassifierHead((30, 4, 4), (11, 12, 13), 10, seeded())
    convolutions = [m for m in head.modules() if isinstance(m, torch.nn.Conv2d)]
    assert [layer.kernel_size for layer in convolutions] == [(2, 2)] * 3 + [(1, 1)]
    assert [layer.out_channels for layer in convolutions] == [11, 12, 13, 10]
    shapes = []
    for layer in convolutions:
        layer.register_forward_hook(lambda _layer, _inputs, output: shapes.append(tuple(output.shape[1:])))
    proba = head(torch.randn(5, 480, generator=seeded(1)))
    assert shapes == [(11, 3, 3), (12, 2, 2), (13, 1, 1), (10, 1, 1)]
    assert proba.shape == (5, 10)
    torch.testing.assert_close(proba.sum(1), torch.ones(5))
    assert (proba > 0).all()


@pytest.mark.parametrize("code_shape", [(30, 1, 1), (30, 2, 5), (30, 8, 8), (17,)])
def test_classifier_head_of_other_codes(code_shape):
    head = ClassifierHead(code_shape, (6, 6, 6), 4, seeded()).double()
    z = torch.randn(3, int(np.prod(code_shape)), generator=seeded(1), dtype=torch.float64)
    proba = head(z)
    assert proba.shape == (3, 4)
    if len(code_shape) == 1:
        rows = z.numpy()
        for i in (0, 2, 4, 6):
            layer = head.layers[i]
            rows = rows @ layer.weight.detach().numpy().T + layer.bias.detach().numpy()
            rows = rows if i == 6 else np.maximum(rows, 0)
        expected = np.exp(rows) / np.exp(rows).sum(1, keepdims=True)
        np.testing.assert_allclose(proba.detach().numpy(), expected, rtol=1e-9)


@pytest.mark.parametrize("penalty", ["l1", "l2"])
def test_self_expressive_layer(penalty):
    layer = SelfExpressiveLayer(6).double()
    start = layer.coefficient.detach().numpy()
    np.testing.assert_allclose(start, 1e-4 * (1 - np.eye(6)), rtol=1e-6)
    with torch.no_grad():
        layer.coefficient.normal_(generator=seeded())  # also on the diagonal, which must not count
    z = torch.randn(6, 3, generator=seeded(1), dtype=torch.float64, requires_grad=True)
    without = layer.coefficient.detach().clone().fill_diagonal_(0)
    product, fidelity, size = layer(z, penalty)
    torch.testing.assert_close(product, without @ z)
    torch.testing.assert_close(fidelity, (z - without @ z).square().sum() / 2)
    torch.testing.assert_close(size, without.square().sum() if penalty == "l2" else without.abs().sum())
    product.square().sum().backward()
    torch.testing.assert_close(z.grad, 2 * without.T @ without @ z.detach())
    expected = (2 * without @ z.detach() @ z.detach().T).fill_diagonal_(0)
    torch.testing.assert_close(layer.coefficient.grad, expected)
    assert (layer.coefficient.grad.diagonal() == 0).all()
