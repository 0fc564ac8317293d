"""Features that need no training: wavelet scattering of images, tf-idf and singular directions of texts."""

from desc_ext.features.images import channels_first, image_rows, resized_images
from desc_ext.features.text import TextFeatures
from desc_ext.features.transformer import Scattering2D

__all__ = ["Scattering2D", "TextFeatures", "channels_first", "image_rows", "resized_images"]
