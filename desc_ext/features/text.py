"""Texts as rows of numbers: tf-idf of their words, then a truncated SVD."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from sklearn.feature_extraction.text import TfidfVectorizer

__all__ = ["DEFAULT_DIMENSION", "TextFeatures"]

DEFAULT_DIMENSION = 256


class TextFeatures:
    """Rows of texts: tf-idf of their words, a truncated SVD of that (scikit-learn), each row divided by its norm.

    Words are lower-cased, English stop words left out, and so are words of fewer than ``min_documents`` or more than half
    of the fitted texts; counts enter by 1 + log. Vocabulary, weights and singular directions are those of the fitted
    texts: other texts, such as external data, are put into the same space by ``transform``.

    Args:
        dimension: singular directions; fewer where there are fewer words or texts.
        unit_rows: divide every row by its norm; a text without a known word stays 0.
        min_documents: texts a word must be in.
    """

    def __init__(self, dimension: int = DEFAULT_DIMENSION, unit_rows: bool = True, min_documents: int = 3):
        self.dimension, self.unit_rows, self.min_documents = dimension, unit_rows, min_documents

    def _new_vectoriser(self, **options: Any) -> TfidfVectorizer:
        from sklearn.feature_extraction.text import TfidfVectorizer

        return TfidfVectorizer(
            sublinear_tf=True, max_df=0.5, stop_words="english", dtype=np.float32, **options
        )

    def fit_transform(self, texts: Sequence[str]) -> np.ndarray:
        """Fits to ``texts`` and returns their rows [n, dimension], float32.

        Raises:
            ValueError: no word is in enough of the texts.
        """
        from sklearn.decomposition import TruncatedSVD

        self._vectoriser = self._new_vectoriser(min_df=self.min_documents)
        try:
            weights = self._vectoriser.fit_transform(texts)
        except ValueError as error:
            raise ValueError(
                f"{len(texts)} texts have no word that is in {self.min_documents} of them and not in more than half"
            ) from error
        if weights.shape[1] < 2:
            raise ValueError(f"{len(texts)} texts have a single word that is in {self.min_documents} of them")
        svd = TruncatedSVD(min(self.dimension, *weights.shape), random_state=0)
        rows = svd.fit_transform(weights)
        self._components = svd.components_
        return self._finished(rows)

    def transform(self, texts: Sequence[str]) -> np.ndarray:
        """Rows of other texts in the space of the fitted ones [n, dimension], float32."""
        return self._finished(self._vectoriser.transform(texts) @ self._components.T)

    def _finished(self, rows: np.ndarray) -> np.ndarray:
        from sklearn.preprocessing import normalize

        return (normalize(rows) if self.unit_rows else rows).astype(np.float32)

    # ------------------------------------------------------------------ state
    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """What JSON can hold and the tensors of fitted features; :meth:`from_state` reads them back."""
        config = {
            "dimension": self.dimension,
            "unit_rows": self.unit_rows,
            "min_documents": self.min_documents,
            "words": self._vectoriser.get_feature_names_out().tolist(),
        }
        arrays = {"word_weights": self._vectoriser.idf_, "components": self._components}
        return config, {name: torch.from_numpy(np.ascontiguousarray(a)) for name, a in arrays.items()}

    @classmethod
    def from_state(cls, config: dict[str, Any], tensors: dict[str, Tensor]) -> TextFeatures:
        """The features whose :meth:`state` this is.

        Raises:
            ValueError: an entry or a tensor is missing, superfluous, or of another form.
        """
        names = ("dimension", "unit_rows", "min_documents", "words")
        missing = [name for name in names if name not in config]
        missing += [name for name in ("word_weights", "components") if name not in tensors]
        if missing or len(tensors) != 2:
            raise ValueError(f"the text features lack {', '.join(missing) or 'nothing, and have too much'}")
        words, weights, components = config["words"], tensors["word_weights"], tensors["components"]
        if not isinstance(words, list) or not all(isinstance(word, str) for word in words) or not words:
            raise ValueError("the words of the text features are no list of words")
        if len(set(words)) != len(words):
            raise ValueError("the words of the text features are not distinct")
        if (
            weights.shape != (len(words),)
            or components.dim() != 2
            or components.shape[1] != len(words)
            or not (weights.is_floating_point() and components.is_floating_point())
        ):
            raise ValueError(
                f"the text features have {len(words)} words, but weights {list(weights.shape)} and components "
                f"{list(components.shape)}"
            )
        features = cls(config["dimension"], bool(config["unit_rows"]), config["min_documents"])
        features._vectoriser = features._new_vectoriser(vocabulary=words)
        features._vectoriser.idf_ = weights.numpy()
        features._components = components.numpy()
        return features
