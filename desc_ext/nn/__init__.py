"""Networks: autoencoders for rows and images, heads, the teacher of LRSC, and the precision of their layers."""

from desc_ext.nn.augmentation import affine_images, random_affine
from desc_ext.nn.autoencoders import Autoencoder, ConvAutoencoder, ResidualAutoencoder
from desc_ext.nn.heads import ClassifierHead, Discriminator, SelfExpressiveLayer
from desc_ext.nn.layers import (
    MIXED,
    Layers,
    linear_layer,
    multilayer_perceptron,
    parameter_dtype,
    set_dtype,
)
from desc_ext.nn.teacher import ConvDecoder, DeepConvEncoder, Teacher

__all__ = [
    "MIXED",
    "Autoencoder",
    "ClassifierHead",
    "ConvAutoencoder",
    "ConvDecoder",
    "DeepConvEncoder",
    "Discriminator",
    "Layers",
    "ResidualAutoencoder",
    "SelfExpressiveLayer",
    "Teacher",
    "affine_images",
    "linear_layer",
    "multilayer_perceptron",
    "parameter_dtype",
    "random_affine",
    "set_dtype",
]
