"""LRSC's teachers: the networks of the paper, who trains on what, and that they learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers.transfer import IMAGES, SMALL, begun, other, rows
from sklearn.datasets import load_digits
from torch import nn

from desc_ext.models import LRSC
from desc_ext.nn import ConvDecoder, DeepConvEncoder
from desc_ext.nn.teacher import Teacher


def test_depth_of_the_teachers():
    """17 convolutions and one linear layer for images, four linear layers for text (the paper's experiments)."""
    generator = torch.Generator().manual_seed(0)
    layers = {"sizes": (9, 8, 7), "channels": (4, 6, 8, 10), "generator": generator}
    images = Teacher(3 * 13 * 9, (3, 13, 9), n_classes=5, **layers)
    convs = [module for module in images.modules() if isinstance(module, nn.Conv2d)]
    assert len(convs) == 17
    assert all(conv.kernel_size == (3, 3) for conv in convs)
    assert sum(isinstance(module, nn.Linear) for module in images.modules()) == 1
    x = torch.randn(7, 3 * 13 * 9, generator=generator)
    assert images.features(x).shape == (7, images.latent_dim) == (7, 10)
    assert images.loss(x, torch.arange(7) % 5).shape == ()
    text = Teacher(20, None, n_classes=5, **layers)
    assert [(m.in_features, m.out_features) for m in text.modules() if isinstance(m, nn.Linear)] == [
        (20, 9), (9, 8), (8, 7), (7, 5),
    ]  # fmt: skip
    assert (text.features(torch.randn(4, 20, generator=generator)) >= 0).all()
    for shape, width in (((3, 13, 9), 3 * 13 * 9), (None, 20)):
        teacher = Teacher(width, shape, n_classes=0, **layers)
        x = torch.randn(6, width, generator=generator)
        assert teacher.output(teacher.features(x)).shape == x.shape
        by_hand = np.mean((x.numpy() - teacher.output(teacher.features(x)).detach().numpy()) ** 2)
        assert teacher.loss(x, None).item() == pytest.approx(by_hand, rel=1e-5)


@pytest.mark.parametrize("size", [(1, 1), (5, 8), (32, 32), (7, 3)])
def test_teacher_networks_take_any_size(size):
    generator = torch.Generator().manual_seed(0)
    encoder = DeepConvEncoder((2, *size), (2, 2, 3, 4), generator)
    decoder = ConvDecoder((2, *size), (2, 3, 4), 4, generator)
    x = torch.randn(3, 2 * size[0] * size[1], generator=generator)
    assert encoder(x).shape == (3, 4)
    assert decoder(encoder(x)).shape == x.shape
    with pytest.raises(ValueError, match="four numbers that do not decrease"):
        DeepConvEncoder((1, 8, 8), (4, 3, 3, 3), generator)


def test_a_residual_block_starts_as_the_identity():
    """Before training the features are those of the first convolution, every 8th pixel, padded with zeros."""
    encoder = DeepConvEncoder((1, 16, 16), (3, 4, 5, 6), torch.Generator().manual_seed(0))
    x = torch.randn(4, 256, generator=torch.Generator().manual_seed(1))
    first = encoder.layers[0](x.reshape(4, 1, 16, 16))[:, :, ::8, ::8].relu().mean((2, 3))
    torch.testing.assert_close(encoder(x), nn.functional.pad(first, (0, 3)))


@pytest.mark.parametrize("teacher", ["classifier", "autoencoder"])
def test_teachers_are_cross_fitted(teacher):
    """A teacher sees its own half alone, and extracts the features of the other."""
    X, (E, labels) = rows(), other()
    model = LRSC(3, external=(E, labels) if teacher == "classifier" else E, teacher=teacher, **SMALL)
    fit, stage = begun(model, X, "teacher")
    used = {0: set(), 1: set()}
    for index in stage.batches():
        losses, _ = stage.terms(index, None)
        losses[{"classifier": "classification"}.get(teacher, "reconstruction")][1].backward()
        trained = [any(p.grad is not None for p in part.parameters()) for part in fit.network.teachers]
        assert sum(trained) == 1
        used[trained.index(True)] |= set(index.tolist())
        fit.network.zero_grad(set_to_none=True)
    assert [used[0], used[1]] == [set(half.tolist()) for half in fit.external.halves]
    model._extract_knowledge(fit)
    features, _ = fit.external_knowledge
    for half, teacher in zip(fit.external.halves, reversed(fit.network.teachers), strict=True):
        with torch.no_grad():
            expected = teacher.features(fit.external.rows.take(half.numpy()))
        torch.testing.assert_close(features[half], expected)


def test_teachers_learn_classes_of_rows_they_have_not_seen():
    digits = load_digits()
    model = LRSC(5, external=(digits.images[:1000], digits.target[:1000]), **IMAGES | {
        "teacher_channels": (8, 8, 16, 16), "teacher_epochs": 8, "batch_size": 64, "task_level": False, "max_steps": 0,
        "teacher_learning_rate": 5e-3,
    })  # fmt: skip
    kept = {}
    remember = model._extract_knowledge

    def watch(fit):
        remember(fit)
        if kept:
            return
        half = fit.external.halves[1]
        with torch.no_grad():
            first = fit.network.teachers[0]
            found = first.output(first.features(fit.external.rows.take(half.numpy()))).argmax(1)
        kept["accuracy"] = (found == fit.external.labels[half]).double().mean().item()

    model._extract_knowledge = watch
    model.fit(digits.images[:100])
    assert kept["accuracy"] > 0.7
