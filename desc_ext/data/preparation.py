"""How a source becomes rows: what is asked for, and what a result keeps so that new data become rows in the same way."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import Any

from torch import Tensor

from desc_ext.data.messages import DataError
from desc_ext.features.text import TextFeatures

__all__ = ["Preparation", "Reading"]


@dataclass(frozen=True)
class Reading:
    """What is asked for when a file or folder is read; see :func:`desc_ext.data.load_dataset`."""

    labels: str | None = None
    array: str | None = None
    columns: tuple[str, ...] | None = None
    drop: tuple[str, ...] = ()
    id: str | None = None
    text: str | None = None
    image_size: tuple[int, int] | None = None
    header: bool | None = None

    def refuse(self, source: object, what: str, *names: str) -> None:
        """Raises DataError where one of the ``names``, which mean nothing for ``what``, is set."""
        for name in names:
            if getattr(self, name) not in (None, ()):
                flag = f"--{name.replace('_', '-')}"
                raise DataError(f"{source} is {what}, for which {flag} means nothing; leave it out")


@dataclass(frozen=True)
class Preparation:
    """What turned a source into rows, to turn others into rows of the same space.

    Attributes:
        reading: as it was asked for, with the names of columns and arrays that were found. Where new data have the same
            names, these count again.
        columns: names of the columns that became features, in their order; None where there were no names.
        left_out: names of the other columns of the source; their numbers as words where there were no names.
        width: columns of a table that became features, or None.
        of_bytes: whether numbers were bytes that were brought to [0, 1]; None where there were no images.
        image_shape: (height, width) or (height, width, channels) of the rows, or None.
        text_features: the fitted features where the source was texts, or None.
    """

    reading: Reading = field(default_factory=Reading)
    columns: tuple[str, ...] | None = None
    left_out: tuple[str, ...] = ()
    width: int | None = None
    of_bytes: bool | None = None
    image_shape: tuple[int, ...] | None = None
    text_features: TextFeatures | None = None

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """What JSON can hold, and tensors; :meth:`from_state` reads them back."""
        config, tensors = (None, {}) if self.text_features is None else self.text_features.state()
        return {
            "reading": asdict(self.reading),
            "columns": self.columns,
            "left_out": self.left_out,
            "width": self.width,
            "of_bytes": self.of_bytes,
            "image_shape": self.image_shape,
            "text_features": config,
        }, tensors

    @classmethod
    def from_state(cls, config: dict[str, Any], tensors: dict[str, Tensor]) -> Preparation:
        """The preparation whose :meth:`state` this is.

        Raises:
            ValueError: an entry or a tensor is missing or has another form.
        """
        reading = _entry(config, "reading", dict)
        unknown = set(reading) - {one.name for one in fields(Reading)}
        if unknown:
            raise ValueError(f"reading has the unknown entries {', '.join(sorted(unknown))}")
        saved: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in reading.items()
        }
        for name in ("columns", "drop"):
            _check_strings(f"reading.{name}", saved.get(name, ()))
        for name in ("labels", "array", "id", "text"):
            _check_strings(f"reading.{name}", () if saved.get(name) is None else (saved[name],))
        columns = _entry(config, "columns", (list, type(None)))
        shape = _entry(config, "image_shape", (list, type(None)))
        for name, sizes in (("image_shape", shape), ("reading.image_size", saved.get("image_size"))):
            if sizes is not None and (
                len(sizes) not in (2, 3) or not all(type(s) is int and 0 < s < 2**16 for s in sizes)
            ):
                raise ValueError(f"{name} is {sizes!r}, wanted two or three sizes")
        left_out = _entry(config, "left_out", list)
        _check_strings("columns", columns)
        _check_strings("left_out", left_out)
        features = _entry(config, "text_features", (dict, type(None)))
        width = _entry(config, "width", (int, type(None)))
        of_bytes = _entry(config, "of_bytes", (bool, type(None)))
        if features is None and tensors:
            raise ValueError(f"tensor {next(iter(tensors))!r} is not part of it")
        return cls(
            Reading(**saved),
            None if columns is None else tuple(columns),
            tuple(left_out),
            width,
            of_bytes,
            None if shape is None else tuple(shape),
            None if features is None else TextFeatures.from_state(features, tensors),
        )


def _entry(config: dict[str, Any], name: str, kind: Any) -> Any:
    if name not in config or not isinstance(config[name], kind):
        raise ValueError(f"{name} is {config.get(name)!r}, which it cannot be")
    return config[name]


def _check_strings(name: str, values: Any) -> None:
    if values is not None and not (
        isinstance(values, (list, tuple)) and all(isinstance(value, str) for value in values)
    ):
        raise ValueError(f"{name} is {values!r}, wanted names")
