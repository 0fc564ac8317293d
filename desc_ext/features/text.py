"""Texts as rows of numbers: tf-idf of their words, then a truncated SVD."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

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

    def fit_transform(self, texts: Sequence[str]) -> np.ndarray:
        """Fits to ``texts`` and returns their rows [n, dimension], float32.

        Raises:
            ValueError: no word is in enough of the texts.
        """
        from sklearn.decomposition import TruncatedSVD
        from sklearn.feature_extraction.text import TfidfVectorizer

        self._vectoriser = TfidfVectorizer(
            sublinear_tf=True, min_df=self.min_documents, max_df=0.5, stop_words="english", dtype=np.float32
        )
        try:
            weights = self._vectoriser.fit_transform(texts)
        except ValueError as error:
            raise ValueError(
                f"{len(texts)} texts have no word that is in {self.min_documents} of them and not in more than half"
            ) from error
        self._svd = TruncatedSVD(min(self.dimension, *weights.shape), random_state=0)
        return self._finished(self._svd.fit_transform(weights))

    def transform(self, texts: Sequence[str]) -> np.ndarray:
        """Rows of other texts in the space of the fitted ones."""
        return self._finished(self._svd.transform(self._vectoriser.transform(texts)))

    def _finished(self, rows: np.ndarray) -> np.ndarray:
        from sklearn.preprocessing import normalize

        return (normalize(rows) if self.unit_rows else rows).astype(np.float32)
