"""Tables in Parquet files and folders of parts, Arrow and Feather files."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, overload

import numpy as np
import pyarrow as pa
import pyarrow.dataset as arrow_dataset
import pyarrow.parquet as pq

from desc_ext.data.messages import DataError
from desc_ext.data.tables import Table, refuse_words
from desc_ext.stored import READ_WHOLE, written_rows

__all__ = ["COLUMNAR_SUFFIXES", "PARQUET_SUFFIXES", "read_columnar"]

_BATCH_ROWS = 2**16

PARQUET_SUFFIXES = (".parquet", ".pq")
COLUMNAR_SUFFIXES = (*PARQUET_SUFFIXES, ".arrow", ".feather", ".ipc")


def read_columnar(path: Path, parts: list[Path] | None = None) -> Table:
    """The columns of a Parquet, Arrow (file or stream) or Feather file, or of the Parquet files ``parts`` of a folder.

    Parts follow each other in the order of their paths. The parts of folder names such as ``year=2020`` are columns. Of more
    than 64 MiB of numbers in Parquet files, columns are read when they are asked for, and rows are rows on disk.

    Raises:
        DataError: a file that is damaged, or parts with different columns.
    """
    kind = "parquet" if parts is not None or path.suffix.lower() in PARQUET_SUFFIXES else "an Arrow file"
    with _readable(path, kind):
        if kind == "parquet" and _numbers_in(parts or [path]) > READ_WHOLE:
            return _stored_table(path, parts)
        if parts is not None:
            opened, folders = _opened_parts(path, parts)
            table = opened.to_table(use_threads=False)
        else:
            table, folders = (_read_parquet if kind == "parquet" else _read_arrow)(path), []
        table.validate(full=True)  # a damaged file may have lengths or letters that lead beyond its end
        row_names = _index_columns(table.schema)
    names = table.column_names
    if not len(table) or not names:
        raise DataError(f"{path} has no rows")
    return Table(
        path,
        names,
        [_plain(column) for column in table.columns],
        has_names=True,
        place=lambda row: f"row {row + 1}",
        row_names=[i for i, name in enumerate(names) if name in row_names],
        parts=[i for i, name in enumerate(names) if name in folders],
    )


# ---------------------------------------------------------------------- large tables


class _Columns(Sequence[pa.ChunkedArray]):
    """The columns of a data set, each read when it is asked for, and not kept."""

    def __init__(self, path: Path, found: Any) -> None:
        self._path, self._found = path, found

    def __len__(self) -> int:
        return len(self._found.schema)

    @overload
    def __getitem__(self, i: int) -> pa.ChunkedArray: ...
    @overload
    def __getitem__(self, i: slice) -> Sequence[pa.ChunkedArray]: ...
    def __getitem__(self, i: int | slice) -> pa.ChunkedArray | Sequence[pa.ChunkedArray]:
        if isinstance(i, slice):
            return [self[j] for j in range(*i.indices(len(self)))]
        with _readable(self._path, "parquet"):
            table = self._found.to_table(columns=[self._found.schema.names[i]], use_threads=False)
            table.validate(full=True)
            return _plain(table.column(0))


@dataclass(frozen=True)
class _StoredTable(Table):
    """A table whose rows of numbers are written to a file as they are read, and never are in memory together.

    A Parquet file gives whole groups of rows alone, often of a million, and mini-batches need some rows of many of them: the
    file makes every read as long as the rows that it is for. It has no name, and goes with the rows.

    Attributes:
        found: the data set, a pyarrow Dataset.
        n_rows: of it.
    """

    found: Any = None
    n_rows: int = 0

    def __len__(self) -> int:
        return self.n_rows

    def type_of(self, i: int) -> pa.DataType:
        kind = self.found.schema.types[i]
        return kind.storage_type if isinstance(kind, pa.ExtensionType) else kind

    def numbers(self, features: Sequence[int]) -> tuple[Any, list[str]]:
        refuse_words(self, features)
        parts = self._parts(features)
        first, names = next(parts, (None, []))
        if first is None:
            raise DataError(f"{self.path} has no rows")
        if first.nbytes // len(first) * len(self) <= READ_WHOLE:
            return super().numbers(features)

        def of_width(part: np.ndarray) -> np.ndarray:
            if part.shape[1] != first.shape[1]:
                raise DataError(f"{self.path}: the lists of a column have different lengths")
            return part

        arrays = (of_width(part) for part, _ in itertools.chain([(first, names)], parts))
        return written_rows(len(self), arrays), names

    def _parts(self, features: Sequence[int]) -> Iterator[tuple[np.ndarray, list[str]]]:
        """Rows of columns, some after the other, and the names of their columns."""
        names, start = [self.names[i] for i in features], 0
        options = arrow_dataset.ParquetFragmentScanOptions(use_buffered_stream=True, pre_buffer=False)
        found = self.found.to_batches(
            columns=names, batch_size=_BATCH_ROWS, batch_readahead=1, fragment_readahead=1, use_threads=False,
            fragment_scan_options=options,
        )  # fmt: skip
        with _readable(self.path, "parquet"):
            for batch in filter(len, found):
                batch.validate(full=True)
                table = pa.Table.from_batches([batch])
                columns = [_plain(table.column(name)) for name in names]
                for i, column in zip(features, columns, strict=True):
                    if column.null_count:
                        super().numbers([i])  # whose error counts them in all rows
                yield Table(self.path, names, columns, True, _place_after(start)).numbers(range(len(names)))
                start += len(batch)


def _place_after(start: int) -> Any:
    return lambda row: f"row {start + row + 1}"


def _stored_table(path: Path, parts: list[Path] | None) -> Table:
    if parts is None:
        found, folders = arrow_dataset.dataset(str(path), format="parquet"), list[str]()
    else:
        found, folders = _opened_parts(path, parts)
    names, row_names = found.schema.names, _index_columns(found.schema)
    return _StoredTable(
        path,
        names,
        _Columns(path, found),
        has_names=True,
        place=_place_after(0),
        row_names=[i for i, name in enumerate(names) if name in row_names],
        parts=[i for i, name in enumerate(names) if name in folders],
        found=found,
        n_rows=found.count_rows(),
    )


# ---------------------------------------------------------------------- files


def _read_parquet(path: Path) -> pa.Table:
    return pq.ParquetFile(path).read()


@contextlib.contextmanager
def _readable(path: Path, kind: str) -> Iterator[None]:
    """Turns whatever the bytes of a damaged file lead pyarrow to into a DataError."""
    try:
        yield
    except DataError:
        raise
    except Exception as error:
        raise DataError(f"{path} cannot be read as {kind}: {error}") from error


def _numbers_in(files: list[Path]) -> int:
    """Bytes of the numbers of Parquet files, about; 0 where two columns have one name: then they are read together."""
    found = 0
    for file in files:
        with pq.ParquetFile(file) as opened:
            schema, metadata = opened.schema_arrow, opened.metadata
        if len(set(schema.names)) < len(schema.names):
            return 0
        widths = [
            kind.bit_width for kind in schema.types if pa.types.is_integer(kind) or pa.types.is_floating(kind)
        ]
        groups = [
            metadata.row_group(i).total_byte_size for i in range(metadata.num_row_groups)
        ]  # before compression
        found += max(metadata.num_rows * sum(widths) // 8, sum(groups))
    return found


def _opened_parts(path: Path, parts: list[Path]) -> tuple[Any, list[str]]:
    """All parts as a data set, and the names of the columns that come from names of folders."""
    schemas = [pq.read_schema(part).remove_metadata() for part in parts]
    for part, schema in zip(parts, schemas, strict=True):
        if set(schema.names) != set(schemas[0].names):
            differ = sorted(set(schema.names) ^ set(schemas[0].names))
            raise DataError(
                f"{part} has other columns than {parts[0]}: {', '.join(differ)} in one of them alone"
            )
    opened = partial(
        arrow_dataset.dataset,
        [str(part) for part in parts],
        format="parquet",
        partitioning=arrow_dataset.HivePartitioning.discover(),
        partition_base_dir=str(path),
    )
    own, first = schemas[0].names, pq.read_schema(parts[0])
    folders = [field for field in opened().schema if field.name not in own]
    # whole numbers in one part may be fractions in another
    common = pa.unify_schemas(schemas, promote_options="permissive").with_metadata(first.metadata)
    for folder in folders:
        common = common.append(folder)
    return opened(schema=common), [folder.name for folder in folders]


def _read_arrow(path: Path) -> pa.Table:
    import pyarrow.feather as feather

    with pa.memory_map(str(path)) as source:
        start = source.read(6)
        source.seek(0)
        if start == b"ARROW1":
            return pa.ipc.open_file(source).read_all()
        if start[:4] != b"FEA1":
            return pa.ipc.open_stream(source).read_all()
    return feather.read_table(path)


def _index_columns(schema: pa.Schema) -> list[str]:
    """Columns that pandas wrote for names of the rows."""
    metadata = schema.pandas_metadata or {}
    found = [name for name in metadata.get("index_columns", []) if isinstance(name, str)]
    return [*found, *(name for name in schema.names if name.startswith("__index_level_"))]


def _plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """A column of fixed-width or extension types as one of plain ones."""
    if isinstance(column.type, pa.ExtensionType):
        return pa.chunked_array([chunk.storage for chunk in column.chunks], type=column.type.storage_type)
    return column
