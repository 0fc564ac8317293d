"""Tables in Parquet files and folders of parts, Arrow and Feather files."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as arrow_dataset
import pyarrow.parquet as pq

from desc_ext.data.messages import DataError
from desc_ext.data.tables import Table

__all__ = ["COLUMNAR_SUFFIXES", "PARQUET_SUFFIXES", "read_columnar"]

PARQUET_SUFFIXES = (".parquet", ".pq")
COLUMNAR_SUFFIXES = (*PARQUET_SUFFIXES, ".arrow", ".feather", ".ipc")


def read_columnar(path: Path, parts: list[Path] | None = None) -> Table:
    """The columns of a Parquet, Arrow (file or stream) or Feather file, or of the Parquet files ``parts`` of a folder.

    Parts follow each other in the order of their paths. The parts of folder names such as ``year=2020`` are columns.

    Raises:
        DataError: a file that is damaged, or parts with different columns.
    """
    kind = "parquet" if parts is not None or path.suffix.lower() in PARQUET_SUFFIXES else "an Arrow file"
    try:
        if parts is not None:
            table, folders = _read_parts(path, parts)
        else:
            table, folders = (_read_parquet if kind == "parquet" else _read_arrow)(path), []
        table.validate(full=True)  # a damaged file may have lengths or letters that lead beyond its end
        row_names = _index_columns(table.schema)
    except DataError:
        raise
    except Exception as error:  # whatever the bytes of a damaged file lead pyarrow to
        raise DataError(f"{path} cannot be read as {kind}: {error}") from error
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


def _read_parquet(path: Path) -> pa.Table:
    return pq.ParquetFile(path).read()


def _read_parts(path: Path, parts: list[Path]) -> tuple[pa.Table, list[str]]:
    """All parts, and the names of the columns that come from names of folders."""
    schemas = [pq.read_schema(part).remove_metadata() for part in parts]
    for part, schema in zip(parts, schemas, strict=True):
        if set(schema.names) != set(schemas[0].names):
            differ = sorted(set(schema.names) ^ set(schemas[0].names))
            raise DataError(
                f"{part} has other columns than {parts[0]}: {', '.join(differ)} in one of them alone"
            )
    found = arrow_dataset.dataset(
        [str(part) for part in parts],
        format="parquet",
        partitioning=arrow_dataset.HivePartitioning.discover(),
        partition_base_dir=str(path),
    )
    own, first = schemas[0].names, pq.read_schema(parts[0])
    folders = [field for field in found.schema if field.name not in own]
    # whole numbers in one part may be fractions in another
    common = pa.unify_schemas(schemas, promote_options="permissive").with_metadata(first.metadata)
    for folder in folders:
        common = common.append(folder)
    return found.replace_schema(common).to_table(use_threads=False), [folder.name for folder in folders]


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
