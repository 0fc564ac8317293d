"""The contract of every estimator: options, fit, saving and loading, and scikit-learn's contract."""

from __future__ import annotations

import contextlib
import os
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, ClusterMixin, TransformerMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted
from torch import Tensor
from typing_extensions import Self

from desc_ext.device import resolve_device
from desc_ext.engine.callbacks import Callback, Recorder, check_callbacks
from desc_ext.engine.documentation import method_page
from desc_ext.engine.fields import OptionField, check_value
from desc_ext.engine.inputs import restore_features, saved_features
from desc_ext.engine.options import (
    estimator,
    option,
    option_fields,
    plain,
    preset_names,
    under_new_names,
    with_later_options,
)
from desc_ext.engine.state_folder import check_tensors, read_state_folder, write_state_folder
from desc_ext.features import Scattering2D
from desc_ext.features.images import check_image_shape
from desc_ext.messages import warn_user

__all__ = ["Estimator"]

_NOT_SAVED = {"callbacks", "external"}
_NAMED_CLUSTERS = 10  # in a warning


class _Fitted:
    """Attributes of a fitted estimator. (In a class of its own: annotations of an estimator are options.)"""

    labels_: np.ndarray
    embedding_: np.ndarray
    n_iter_: int
    history_: list[dict[str, Any]]
    resolved_params_: dict[str, Any]
    features_: Scattering2D | None
    n_features_in_: int
    feature_names_in_: np.ndarray
    _options: Any  # the estimator with a value for every option, of the class of the estimator
    # Of fits to rows on disk, for who calls fit: the folder of results that are too large for memory (None: the system's
    # temporary one), and whether the embedding is wanted at all. (No options: nothing else depends on them.)
    _large_files: Path | None = None
    _keeps_embedding: bool = True


@estimator
class Estimator(_Fitted, ClassNamePrefixFeaturesOutMixin, TransformerMixin, ClusterMixin, BaseEstimator):
    """Base class of all estimators.

    A subclass under :func:`~desc_ext.engine.options.estimator` declares its options as fields, names itself by ``method``
    and defines ``_fit``, ``transform`` and what saving needs (``_saved_state``, ``_saved_shapes``, ``_restore``). It may
    complete or refuse options in ``_complete_options``, before data are seen, and in ``_adapt_options``, after.
    """

    method: ClassVar[str]  # its name on the command line and in saved folders
    presets: ClassVar[dict[str, dict[str, Any]]] = {}

    n_clusters: int = option("number of clusters, K", default=8, at_least=1, kw_only=False)
    features: Literal["scattering"] | None = option(
        'None takes the rows as they are, "scattering" the wavelet scattering features of images '
        "(desc_ext.features.Scattering2D, J = 3, L = 8); the fitted transformer is features_",
        default=None,
    )
    feature_dim: int | None = option(
        "principal components of the features, at most; None keeps all channels", default=500, at_least=1
    )
    image_shape: tuple[int, ...] | None = option(
        "(H, W) or (C, H, W) of the images that flat rows hold. Stacks bring theirs: [n, H, W], and [n, C, H, W] or "
        "[n, H, W, C] where one of those axes alone has 1, 3 or 4 entries; others need this option",
        default=None,
    )
    random_state: int | np.random.RandomState | np.random.Generator | None = option(
        "seed, or what one is drawn from: np.random.RandomState, np.random.default_rng(). The same "
        "integer on the same machine with the same number of threads gives the same bits",
        default=None,
        of_run=True,
    )
    device: str | torch.device = option(
        '"auto" (CUDA where there is one), or a torch device', default="auto", of_run=True
    )
    dtype: Literal["float32", "float64"] = option("of rows and results", default="float32")
    callbacks: Sequence[Callback | Any] | None = option(
        "objects with methods of desc_ext.engine.Callback, called while it fits", default=None, of_run=True
    )
    verbose: Literal[0, 1] = option(
        '1 shows a progress bar on a terminal, and elsewhere says a line an epoch through the logger "desc_ext", at most one '
        "every five seconds",
        default=0,
        of_run=True,
    )

    # ------------------------------------------------------------------ scikit-learn's picture of an estimator
    _doc_link_module = "desc_ext"
    _doc_link_template = "{page}"

    def _doc_link_url_param_generator(self) -> dict[str, str]:
        return {"page": method_page(self.method)}

    # ------------------------------------------------------------------ options
    def _resolve_options(self) -> Self:
        """An estimator like this one in which every option has a value.

        Raises:
            ValueError: an unknown preset, or a value that its option does not take.
        """
        cls, fields = type(self), option_fields(type(self))
        of_preset, values = set(preset_names(cls)), self.get_params(deep=False)
        for name, field in fields.items():
            if name not in of_preset:
                _check_option(cls, field, values[name])
        for name in of_preset:
            if values[name] is None:
                values[name] = self.presets[values["preset"]][name]
            else:
                check_value(cls.__name__, fields[name], values[name])
        values |= {name: _native(value) for name, value in values.items() if not fields[name].info.of_run}
        options = cls(**values)
        options._complete_options()
        return options

    def _complete_options(self) -> None:
        """Fills in or refuses resolved options that depend on each other; ``self`` are the resolved options."""

    @property
    def _of_images(self) -> bool:
        """Whether rows are images or features of images, of the adapted options."""
        return self.image_shape is not None or self.features is not None

    def _adapt_options(self, n_samples: int, n_features: int) -> None:
        """Fills in or refuses resolved options that depend on the rows; ``self`` are the resolved options."""

    def _set_options(self, options: Self) -> None:
        self._options = options
        self.resolved_params_ = options._saved_params()

    def _saved_params(self) -> dict[str, Any]:
        """The options of the method, as JSON holds them."""
        return {
            name: plain(getattr(self, name))
            for name, field in option_fields(type(self)).items()
            if not field.info.of_run
        }

    def _draw_seed(self) -> int:
        if isinstance(self.random_state, np.random.Generator):
            return int(self.random_state.integers(2**31 - 1))
        return int(check_random_state(self.random_state).randint(2**31 - 1))

    # ------------------------------------------------------------------ fit
    @abstractmethod
    def _fit(self, X: Any, options: Self, recorder: Recorder) -> None:
        """Fits to ``X``, sets all attributes, and calls ``recorder.begin`` before its first epoch."""

    def fit(self, X: Any, y: Any = None) -> Self:
        """Fits to ``X``, rows [n_samples, n_features] or images; ``y`` is ignored. Returns self.

        Raises:
            ValueError: ``X`` or an option is not usable (the message says which and why), or ``resume`` finds the
                checkpoint of another fit.
            TypeError: ``X`` is sparse or not numeric.
            MemoryError: ``X`` are rows on disk, of which the method takes all at once, and too many for the memory.
            FloatingPointError: the loss became NaN or infinite; the last checkpoint is left as it was.
        """
        options, recorder = self._resolve_options(), Recorder(self)
        try:
            self._fit(X, options, recorder)
        finally:
            recorder.end()
        self._warn_of_empty_clusters(options.n_clusters)
        return self

    def _warn_of_empty_clusters(self, n_clusters: int) -> None:
        empty = np.setdiff1d(np.arange(n_clusters), self.labels_)
        if len(empty):
            named = ", ".join(map(str, empty[:_NAMED_CLUSTERS])) + (
                ", ..." if len(empty) > _NAMED_CLUSTERS else ""
            )
            warn_user(
                f"{type(self).__name__}: {len(empty)} of {n_clusters} clusters are empty: {named}; ask for fewer clusters, "
                "or try another random_state or other options",
                ConvergenceWarning,
            )

    def fit_predict(self, X: Any, y: Any = None) -> np.ndarray:
        """``fit(X)``, then ``labels_`` [n_samples] (int64)."""
        return self.fit(X).labels_

    @abstractmethod
    def transform(self, X: Any) -> np.ndarray:
        """The embedding of new rows."""

    # ------------------------------------------------------------------ scikit-learn's contract
    def _require_fit(self, name: str) -> None:
        """Raises AttributeError where the fitted attribute ``name`` is asked for before fit."""
        if not self.__sklearn_is_fitted__():
            raise AttributeError(f"this {type(self).__name__} has no {name} before fit")

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "embedding_")

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        # what comes out has the estimator's dtype, whatever dtype went in
        tags.transformer_tags.preserves_dtype = []
        return tags

    # ------------------------------------------------------------------ saving and loading
    @abstractmethod
    def _saved_state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors of the fitted estimator, and further entries of its configuration."""

    @abstractmethod
    def _saved_shapes(self, config: dict[str, Any], tensors: dict[str, Tensor]) -> dict[str, Sequence[int]]:
        """Shapes that the tensors of :meth:`_saved_state` must have."""

    @abstractmethod
    def _restore(self, config: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        """Sets attributes from checked tensors."""

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Writes the fitted estimator to ``folder`` (safetensors and JSON, no pickle).

        ``callbacks`` and arrays of external data are not saved; a ``random_state`` that is no integer is saved as None.
        """
        check_is_fitted(self)
        features, tensors = saved_features(self)
        own, further = self._saved_state()
        write_state_folder(folder, "model", _config(self) | features | further, tensors | own)

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> Self:
        """The estimator that :meth:`save` wrote to ``folder``, on the CPU or on its ``device``.

        Raises:
            FileNotFoundError: the folder or one of its files is missing.
            ValueError: a damaged file or tensor (named), another method, another format version.
        """
        config, tensors = read_state_folder(folder, "model")
        path = Path(folder) / config["tensor_file"]
        with _damaged_config(folder):
            model = _from_config(cls, folder, config)
            restore_features(model, path, config, tensors)
            shapes = model._saved_shapes(config, tensors)
            check_tensors(path, tensors, shapes)
            model._restore(config, tensors)
        return model


def _check_option(cls: type[Estimator], field: OptionField, value: Any) -> None:
    if field.name == "device":
        resolve_device(value)
    elif field.name == "random_state":
        _check_random_state(cls.__name__, value)
    elif field.name == "callbacks":
        check_callbacks(cls.__name__, value)
    elif field.name == "image_shape":
        check_image_shape(cls.__name__, value)
    elif field.name == "preset" and cls.presets:
        if not isinstance(value, str) or value not in cls.presets:
            choices = ", ".join(map(repr, cls.presets))
            raise ValueError(f"{cls.__name__}: preset must be one of {choices}, got {value!r}")
    else:
        check_value(cls.__name__, field, value)


def _check_random_state(name: str, value: Any) -> None:
    if isinstance(value, np.random.Generator):
        return
    try:
        check_random_state(value)
    except ValueError as error:
        raise ValueError(
            f"{name}: random_state must be an integer from 0 to 2**32 - 1, np.random.RandomState, np.random.default_rng() or "
            f"None; got {value!r}"
        ) from error


def _native(value: Any) -> Any:
    """An option in Python's own types: no NumPy numbers, no lists; an array of labels stays one."""
    if isinstance(value, np.ndarray):
        return value
    value = plain(value)
    return tuple(value) if isinstance(value, list) else value


def _config(model: Estimator) -> dict[str, Any]:
    """What every saved estimator's ``config.json`` holds; :func:`_from_config` reads it back."""
    kept = model.get_params(deep=False) | dict.fromkeys(_NOT_SAVED & model.get_params(deep=False).keys())
    params = {name: plain(value) for name, value in kept.items()}
    if not isinstance(model.random_state, (int, np.integer)):
        params["random_state"] = None
    return {
        "method": model.method,
        "params": params,
        "resolved_params": model.resolved_params_,
        "n_features": int(model.n_features_in_),
        "feature_names": getattr(model, "feature_names_in_", np.array([])).tolist(),
        "n_iter": model.n_iter_,
        "history": model.history_,
    }


def _from_config(cls: type[Estimator], folder: str | os.PathLike[str], config: dict[str, Any]) -> Any:
    """The estimator with what :func:`_config` wrote, still without its tensors."""
    if config.get("method") != cls.method:
        raise ValueError(
            f"{folder} holds a model of method {config.get('method')!r}, but {cls.__name__} is "
            f"{cls.method!r}; load it with desc_ext.models.load_model"
        )
    given = under_new_names(cls, _tuples(config["params"]))
    model = cls(**given)
    for name, field in option_fields(cls).items():
        _check_option(cls, field, getattr(model, name))
    resolved = with_later_options(cls, _tuples(config["resolved_params"]))
    model._set_options(cls(**model.get_params(deep=False) | _saved_options(cls, given, resolved)))
    model.n_features_in_ = config["n_features"]
    if type(model.n_features_in_) is not int or model.n_features_in_ < 1:
        raise ValueError(f"n_features is {model.n_features_in_!r}, wanted an integer >= 1")
    model.n_iter_, model.history_ = config["n_iter"], config["history"]
    if config["feature_names"]:
        model.feature_names_in_ = np.array(config["feature_names"], dtype=object)
    return model


def _saved_options(cls: type[Estimator], given: dict[str, Any], resolved: dict[str, Any]) -> dict[str, Any]:
    """The checked resolved options of a saved model; one that came after the model was saved has its default."""
    preset = cls.presets.get(resolved.get("preset", ""), {})
    for name, field in option_fields(cls).items():
        if field.info.of_run:
            continue
        if name not in given:
            resolved.setdefault(name, preset.get(name, field.default))
        _check_option(cls, field, resolved[name])
        if resolved[name] is None and all(
            values.get(name) is not None for values in cls.presets.values() or [{}]
        ):
            raise ValueError(f"the resolved option {name} is None")
    return resolved


def _tuples(values: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}


@contextlib.contextmanager
def _damaged_config(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Turns what goes wrong on reading a configuration's values into a ValueError that names the file."""
    path = Path(folder) / "config.json"
    try:
        yield
    except ValueError as error:
        if str(folder) in str(error):
            raise
        raise ValueError(f"{path}: {error}") from error
    except torch.OutOfMemoryError:  # a RuntimeError, and not the file's fault
        raise
    except (LookupError, TypeError, AttributeError, ArithmeticError, RuntimeError) as error:
        raise ValueError(f"{path} is damaged: {error!r}") from error
