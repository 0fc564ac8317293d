"""Features that need no training: wavelet scattering of images, tf-idf and singular directions of texts."""

from desc_ext.features.images import image_rows, resized_images
from desc_ext.features.text import TextFeatures
from desc_ext.features.transformer import Scattering2D

__all__ = ["Scattering2D", "TextFeatures", "image_rows", "resized_images"]
