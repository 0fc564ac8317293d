"""Features of images that need no training: wavelet scattering, then principal components."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.decomposition import PCA, IncrementalPCA
from sklearn.utils import gen_batches
from sklearn.utils.extmath import svd_flip
from sklearn.utils.validation import check_is_fitted, validate_data
from threadpoolctl import threadpool_limits
from torch import Tensor

from desc_ext.device import resolve_device
from desc_ext.features.images import image_rows, is_integer
from desc_ext.features.scattering import Scattering
from desc_ext.fixed_shapes import in_threads, row_linear
from desc_ext.stored import StoredRows, blocks

__all__ = ["Scattering2D"]

_GRAM_ROWS, _GRAM_COLUMNS = 1024, 512
# Pixels of the padded images that are transformed together: on a CPU what the caches hold.
_BATCH_PIXELS = {"cpu": 2**15, "cuda": 2**20}
_MAX_COVARIANCE = 6500  # channels whose covariance is decomposed, in four arrays of 338 MB at most
_MOST_FILTER_VALUES = 2**28  # of saved features: 3,000 times 3,000 pixels with J = 3 and L = 8
_MOST_SCALES = 16  # likewise
_MAX_KEPT = 2**25  # values that may be kept for the PCA of few images


class Scattering2D(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Wavelet scattering of images, every path scaled by its largest norm, then principal components.

    The paths of :class:`Scattering` (217 maps of 4×4 for 28×28 images, 3,472 channels) are scaled as Bruna and
    Mallat do before they classify: a path is divided by the largest Euclidean norm that its map has in any image of
    the fitted data (a path of zeros stays), so that the weak paths of order 2 count. Images of several colours are
    transformed colour by colour. Then the channels are centred and projected onto their leading principal directions.

    Args:
        n_components: q, principal components kept, at most; fewer where images or channels are fewer. None keeps the
            scaled channels themselves.
        J: scales 2^0 ... 2^(J − 1); the result has one value every 2^J pixels.
        L: angles.
        image_shape: (H, W) or (C, H, W) of flat rows; stacks bring theirs, as
            :func:`~desc_ext.features.channels_first` reads them.
        batch_size: images transformed together; None chooses by their size. It bounds memory and changes nothing else,
            up to rounding.
        device: "auto" (CUDA where there is one), or a torch device.
        dtype: "float32" or "float64" of filters and results. Moments and principal components are always float64.

    Attributes:
        image_shape_: (C, H, W).
        path_norms_: [C, P], the largest norm of every path; 1 for a path of zeros.
        mean_: [C·P·H'·W'], mean of the scaled channels.
        components_: [q, C·P·H'·W'], principal directions, or None with ``n_components=None``.
        explained_variance_: [q], variance along each, or None.
        explained_variance_ratio_: [q], its share of the variance of all channels, or None.
        n_samples_: images seen in fitting.
        n_features_in_: C·H·W.

    The principal components are exact up to 6,500 channels, from their covariance (of few images, from their singular
    value decomposition): images are read once, batch by batch, and at most 1.5 GB are held. More channels go, in
    batches of max(1024, 2q) images, to scikit-learn's IncrementalPCA, which truncates after every batch. Nothing is
    random; a row's features depend neither on the rows beside it nor on the number of threads.
    """

    def __init__(
        self,
        n_components: int | None = 500,
        *,
        J: int = 3,
        L: int = 8,
        image_shape: tuple[int, ...] | None = None,
        batch_size: int | None = None,
        device: str | torch.device = "auto",
        dtype: str = "float32",
    ) -> None:
        self.n_components = n_components
        self.J = J
        self.L = L
        self.image_shape = image_shape
        self.batch_size = batch_size
        self.device = device
        self.dtype = dtype

    # ------------------------------------------------------------------ scikit-learn's contract
    def fit(self, X: Any, y: Any = None) -> Scattering2D:
        """Norms and principal components of images ``X``; ``y`` is ignored. Returns self.

        Raises:
            ValueError: an option or ``X`` is not usable (the message says which and why), or ``X`` has flat rows and
                ``image_shape`` is None.
            TypeError: ``X`` is sparse or not numeric.
        """
        self._check_options()
        X = self._read(X, self.image_shape, reset=True)
        self.n_samples_ = len(X)
        paths = self._paths()
        n_channels = self.image_shape_[0] * paths.n_paths * math.prod(paths.map_shape)
        n_components = min(self.n_components or 0, len(X), n_channels)
        self.components_ = self.explained_variance_ = self.explained_variance_ratio_ = None
        if not n_components:
            self._fit_norms(X, paths)
            self.mean_ = np.zeros(n_channels)
        elif 2 * len(X) <= n_channels and len(X) * n_channels <= _MAX_KEPT:
            self._fit_few(X, paths, n_components)
        elif n_channels <= _MAX_COVARIANCE:
            self._fit_covariance(X, paths, n_components)
        else:
            self._fit_incremental(X, paths, n_components)
        return self

    def transform(self, X: Any) -> np.ndarray:
        """Features [n_samples, q] of images ``X`` in the transformer's dtype."""
        check_is_fitted(self)
        X = self._read(X, self.image_shape_, reset=False)
        result, start = np.empty((len(X), self._n_features_out), dtype=self.dtype), 0
        for block in self._projected(X):
            result[start : start + len(block)] = block
            start += len(block)
        return result

    def transformed_blocks(self, X: Any) -> Iterator[np.ndarray]:
        """:meth:`transform` of some images after the other, about a thousand together, with the same bits.

        Of images on disk (:class:`desc_ext.data.StoredRows`) no more are in memory than that; nor are they in :meth:`fit`.
        """
        check_is_fitted(self)
        return self._projected(self._read(X, self.image_shape_, reset=False))

    def _projected(self, X: np.ndarray | StoredRows) -> Iterator[np.ndarray]:
        """Features of images ``X``, checked, block by block."""
        paths = self._paths()
        scale = self._tensor(1 / self._channel_scale(paths))
        mean = self._tensor(self.mean_)
        components = None if self.components_ is None else self._tensor(self.components_)

        def project(channels: Tensor) -> Tensor:
            scaled = channels * scale
            return (scaled if components is None else row_linear(scaled - mean, components)).cpu()

        for block in self._blocks(X, paths, project):
            yield block.numpy()

    @property
    def _n_features_out(self) -> int:
        return len(self.mean_ if self.components_ is None else self.components_)

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "mean_")

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        tags.transformer_tags.preserves_dtype = []  # features come out in the transformer's dtype
        return tags

    # ------------------------------------------------------------------ state
    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """What JSON can hold and the tensors of a fitted transformer; :meth:`from_state` reads them back."""
        check_is_fitted(self)
        params = self.get_params(deep=False)
        config = {
            "params": params | {"image_shape": list(self.image_shape_), "device": str(self.device)},
            "n_samples": self.n_samples_,
        }
        names = ("path_norms_", "mean_", "components_", "explained_variance_", "explained_variance_ratio_")
        arrays = {name: getattr(self, name) for name in names}
        return config, {name: torch.from_numpy(array) for name, array in arrays.items() if array is not None}

    @classmethod
    def from_state(cls, config: dict[str, Any], tensors: dict[str, Tensor]) -> Scattering2D:
        """The transformer whose :meth:`state` this is.

        Raises:
            ValueError: a tensor is missing, superfluous or misshapen.
            KeyError, TypeError: ``config`` is not of a :meth:`state`.
        """
        channels, height, width = config["params"]["image_shape"]
        model = cls(**config["params"] | {"image_shape": (channels, height, width)})
        model._check_options()
        model.image_shape_, model.n_samples_ = (channels, height, width), config["n_samples"]
        model.n_features_in_ = math.prod(model.image_shape_)
        # The filters are not made yet: a configuration from elsewhere may claim any size.
        padded, map_shape, n_paths = Scattering.sizes(height, width, min(model.J, _MOST_SCALES), model.L)
        if model.J > _MOST_SCALES or math.prod(padded) * model.J * model.L > _MOST_FILTER_VALUES:
            raise ValueError(
                f"Scattering2D: no filters of J = {model.J}, L = {model.L} for images {(height, width)}"
            )
        n_maps, n_values = channels * n_paths, math.prod(map_shape)
        shapes = {"path_norms_": (channels, n_paths), "mean_": (n_maps * n_values,)}
        n_components = min(model.n_components or 0, model.n_samples_, n_maps * n_values)
        if n_components:
            shapes |= {"components_": (n_components, n_maps * n_values)}
            shapes |= dict.fromkeys(("explained_variance_", "explained_variance_ratio_"), (n_components,))
        found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        if found != shapes:
            raise ValueError(f"Scattering2D: the saved tensors have shapes {found}, wanted {shapes}")
        model.components_ = model.explained_variance_ = model.explained_variance_ratio_ = None
        for name, tensor in tensors.items():
            setattr(model, name, tensor.numpy())
        return model

    # ------------------------------------------------------------------ input
    def _check_options(self) -> None:
        for name, low in (("n_components", 1), ("J", 1), ("L", 1), ("batch_size", 1)):
            value, optional = getattr(self, name), name in ("n_components", "batch_size")
            if not (is_integer(value, low) or (optional and value is None)):
                wanted = f"an integer >= {low}" + (" or None" if optional else "")
                raise ValueError(f"Scattering2D: {name} must be {wanted}, got {value!r}")
        if self.dtype not in ("float32", "float64"):
            raise ValueError(f"Scattering2D: dtype must be one of 'float32', 'float64', got {self.dtype!r}")
        resolve_device(self.device)

    def _read(self, X: Any, image_shape: tuple[int, ...] | None, reset: bool) -> np.ndarray | StoredRows:
        X, shape = image_rows("Scattering2D", X, image_shape)
        few = 2 if reset and self.n_components else 1  # a variance needs two
        if isinstance(X, StoredRows):  # whose numbers are looked at block by block
            validate_data(self, X, reset=reset, skip_check_array=True)
            X = X if len(X) >= few else np.asarray(X)
        if not isinstance(X, StoredRows):
            X = validate_data(self, X, reset=reset, dtype="numeric", ensure_min_samples=few)
        if shape is None:
            raise ValueError(
                f"Scattering2D: X has flat rows, shape {list(X.shape)}, of which the image shape is not known; set "
                "image_shape=(H, W) or (C, H, W), or give a stack [n, H, W], [n, C, H, W] or [n, H, W, C]"
            )
        if reset:
            self.image_shape_ = shape
        return X

    def _paths(self) -> Scattering:
        height, width = self.image_shape_[1:]
        place = {"dtype": getattr(torch, self.dtype), "device": resolve_device(self.device)}
        return Scattering(height, width, self.J, self.L, **place)

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(resolve_device(self.device), getattr(torch, self.dtype))

    def _blocks(
        self,
        X: np.ndarray | StoredRows,
        paths: Scattering,
        function: Callable[[Tensor], Tensor] = lambda channels: channels,
    ) -> Iterator[Tensor]:
        """``function`` of the channels of all images in order, in blocks of at least 1,024 images but the last.

        Batches have one fixed size, the last one padded by zeros: a row's bits do not depend on the rows beside it.
        """
        device = resolve_device(self.device)
        pixels = self.image_shape_[0] * math.prod(paths.padded_shape)
        size = self.batch_size or max(1, _BATCH_PIXELS[device.type] // pixels)
        dtype = getattr(torch, self.dtype)

        def batch(rows: np.ndarray) -> Tensor:
            part = np.zeros((size, X.shape[1]), dtype=self.dtype)
            part[: len(rows)] = rows
            images = torch.from_numpy(part).to(device, dtype).view(-1, *self.image_shape_[1:])
            return function(paths(images).view(size, -1))[: len(rows)]

        for block in blocks(X, size * -(-_GRAM_ROWS // size)):
            if isinstance(X, StoredRows) and not np.isfinite(block).all():
                raise ValueError(
                    "Scattering2D: Input X contains NaN or infinity; repair or leave out these images"
                )
            batches = [block[start : start + size] for start in range(0, len(block), size)]
            yield torch.cat(in_threads(batch, batches, device))

    # ------------------------------------------------------------------ fitting
    def _channel_scale(self, paths: Scattering) -> np.ndarray:
        """[C·P·H'·W'], the norm of the path that each channel belongs to."""
        return np.repeat(self.path_norms_.ravel(), math.prod(paths.map_shape))

    def _set_norms(self, largest: Tensor) -> None:
        """``path_norms_`` from the largest norms [C·P]; a path of rounding errors counts as one of zeros."""
        norms = largest.double().cpu().numpy().reshape(self.image_shape_[0], -1)
        nothing = 8 * torch.finfo(largest.dtype).eps * norms.max()
        self.path_norms_ = np.where(norms > nothing, norms, 1.0)

    def _fit_norms(self, X: np.ndarray | StoredRows, paths: Scattering) -> None:
        norms = [_largest_norms(block, paths) for block in self._blocks(X, paths)]
        self._set_norms(torch.stack(norms).amax(0))

    def _fit_few(self, X: np.ndarray | StoredRows, paths: Scattering, n_components: int) -> None:
        channels = torch.cat(list(self._blocks(X, paths)))
        self._set_norms(_largest_norms(channels, paths))
        scaled = channels.double().cpu().numpy() / self._channel_scale(paths)
        with threadpool_limits(limits=1):
            self._set_components(PCA(n_components, svd_solver="full").fit(scaled))

    def _fit_covariance(self, X: np.ndarray | StoredRows, paths: Scattering, n_components: int) -> None:
        norms: list[Tensor] = []
        moments: list[_Moments] = []
        for block in self._blocks(X, paths):
            norms.append(_largest_norms(block, paths))
            if not moments:
                moments.append(_Moments(block))
            moments[0].add(block)
        self._set_norms(torch.stack(norms).amax(0))
        mean, covariance = moments[0].result()
        scale = torch.from_numpy(self._channel_scale(paths))
        covariance /= scale
        covariance /= scale[:, None]
        variance = float(covariance.trace())
        [(values, vectors)] = in_threads(torch.linalg.eigh, [covariance], covariance.device)
        leading = values[-n_components:].flip(0).clamp_min(0).numpy()
        components = np.ascontiguousarray(vectors[:, -n_components:].flip(1).T.numpy())
        self.mean_ = (mean / scale).numpy()
        self.components_ = svd_flip(None, components, u_based_decision=False)[1]
        self.explained_variance_ = leading
        self.explained_variance_ratio_ = leading / (variance or 1.0)

    def _fit_incremental(self, X: np.ndarray | StoredRows, paths: Scattering, n_components: int) -> None:
        self._fit_norms(X, paths)
        scale, model = self._channel_scale(paths), IncrementalPCA(n_components)
        for part in gen_batches(len(X), max(_GRAM_ROWS, 2 * n_components), min_batch_size=n_components):
            channels = torch.cat(list(self._blocks(X[part], paths))).cpu().numpy()
            channels /= scale.astype(channels.dtype)
            with threadpool_limits(limits=1):
                model.partial_fit(channels, check_input=False)
        self._set_components(model)

    def _set_components(self, model: PCA | IncrementalPCA) -> None:
        for name in ("mean_", "components_", "explained_variance_", "explained_variance_ratio_"):
            setattr(self, name, getattr(model, name).astype(np.float64))


class _Moments:
    """Mean and covariance of rows that come in blocks, in float64, about the first row."""

    def __init__(self, block: Tensor) -> None:
        width = block.shape[1]
        place: dict[str, Any] = {"dtype": torch.float64, "device": block.device}
        self.shift, self.n = block[0].double(), 0
        self.total, self.gram = torch.zeros(width, **place), torch.zeros(width, width, **place)

    def add(self, block: Tensor) -> None:
        rows = block.double() - self.shift
        self.n += len(rows)

        def panel(start: int) -> None:  # of the lower triangle
            part = rows[:, start : start + _GRAM_COLUMNS]
            self.total[start : start + _GRAM_COLUMNS] += part.sum(0)
            self.gram[start:, start : start + _GRAM_COLUMNS].addmm_(rows[:, start:].T, part)

        in_threads(panel, range(0, rows.shape[1], _GRAM_COLUMNS), rows.device)

    def result(self) -> tuple[Tensor, Tensor]:
        """Mean and the lower triangle of the covariance, on the CPU."""
        covariance = self.gram.addr_(self.total, self.total, alpha=-1 / self.n).div_(self.n - 1)
        return (self.shift + self.total / self.n).cpu(), covariance.cpu()


def _largest_norms(channels: Tensor, paths: Scattering) -> Tensor:
    """Largest norm [C·P] that each path's map has in any image."""
    maps = channels.view(len(channels), -1, math.prod(paths.map_shape))
    return torch.linalg.vector_norm(maps, dim=2).amax(0)
