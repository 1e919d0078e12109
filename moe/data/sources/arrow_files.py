"""Rows of Parquet and Arrow files (Feather too), read a few at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from moe.data.labels import TEXT_COLUMN
from moe.data.sources.rows import Row
from moe.data.sources.text_column import missing_text, require_different, wrong_kind
from moe.data.sources.unpacking import BLOCK_BYTES

BATCH_ROWS = 256
ARROW_KINDS = ("parquet", "arrow", "feather")


def read_arrow(path: Path, kind: str, text_column: str) -> Iterator[Row]:
    """String columns, and the one that holds the text; all with strings in them, where none was
    named and none is `text`.

    Raises ValueError where none was named, and `text` is of another type or nothing is a string.
    """
    number = 0
    with _opened(path, kind) as (schema, batches):
        columns = _columns_read(schema, text_column)
        if not text_column and (TEXT_COLUMN in schema.names or not columns):
            _require_text(schema, TEXT_COLUMN, str(path))
        for batch in batches(columns):
            for row in batch.to_pylist():
                number += 1
                yield Row(row, where=f"row {number} of {path}")


def check_arrow(path: Path, kind: str) -> None:
    """Raises ValueError where the file has no row, or nothing that may be text."""
    with _opened(path, kind) as (schema, batches):
        if not any(kind in str(field.type) for field in schema for kind in ("string", "struct")):
            _require_text(schema, TEXT_COLUMN, str(path))
        if not any(batch.num_rows for batch in batches(schema.names[:1])):
            raise ValueError(
                f"every file of a corpus holds at least one document with text; {path} has no row. "
                "Remove it, or narrow the pattern."
            )


def require_text(path: Path, kind: str, column: str) -> None:
    """Raises ValueError where the schema has no such column of text."""
    with _opened(path, kind) as (schema, _):
        _require_text(schema, column, str(path))


def label_candidates(path: Path, kind: str) -> set[str]:
    with _opened(path, kind) as (schema, _):
        return set(string_columns(schema))


def string_columns(schema: Any) -> list[str]:
    return [field.name for field in schema if _is_string(field.type)]


def _columns_read(schema: Any, text_column: str) -> list[str]:
    columns = string_columns(schema)
    if text_column and text_column not in columns:
        columns.append(text_column.partition(".")[0])
    if not text_column and TEXT_COLUMN not in schema.names:  # text may lie inside any of these
        columns += [f.name for f in schema if f.name not in columns and "string" in str(f.type)]
    return [name for name in columns if name in schema.names]


def _require_text(schema: Any, column: str, where: str) -> None:
    from pyarrow import types

    fields, rest = schema, column
    while True:
        named = {field.name: field.type for field in fields}
        if rest in named:
            if not _is_string(named[rest]):
                raise ValueError(wrong_kind(where, column, str(named[rest])))
            return
        outer, dot, rest = rest.partition(".")
        if not dot or outer not in named or not types.is_struct(named[outer]):
            told = [f"{field.name} ({field.type})" for field in schema]
            raise ValueError(missing_text(where, column, told))
        fields = named[outer]


def _is_string(kind: Any) -> bool:
    from pyarrow import types

    if types.is_dictionary(kind):
        kind = kind.value_type
    return types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)


@contextmanager
def _opened(path: Path, kind: str) -> Iterator[tuple[Any, Any]]:
    """The schema, and a function from names of columns to batches of few rows."""
    import pyarrow as pa

    opened = _parquet if kind == "parquet" else _ipc
    try:
        with opened(path) as (schema, batches):
            require_different(schema.names, f"{path} has")
            yield schema, batches
    except pa.ArrowException as error:
        raise ValueError(
            f"a corpus file must be readable; {path} is not: {str(error).rstrip('. ')}. "
            f"Check that it is a file of its kind ({kind}) and was copied whole."
        ) from None


@contextmanager
def _parquet(path: Path) -> Iterator[tuple[Any, Any]]:
    import pyarrow.parquet as pq

    # Pages are read one after the other: with pre-buffering, a row group would be held whole, and
    # many writers make one row group of a whole file.
    # Checksums of pages, where a writer left them, tell damage that unpacks and reads as text.
    with pq.ParquetFile(
        path, buffer_size=BLOCK_BYTES, pre_buffer=False, page_checksum_verification=True
    ) as file:
        yield (
            file.schema_arrow,
            lambda columns: file.iter_batches(batch_size=BATCH_ROWS, columns=columns),
        )


@contextmanager
def _ipc(path: Path) -> Iterator[tuple[Any, Any]]:
    """The file format, and the stream that `datasets` saves; batches that are not packed stay in
    the pages of the file."""
    import pyarrow as pa

    with pa.memory_map(str(path)) as source:
        if source.read(6) == b"ARROW1":
            file = pa.ipc.open_file(source)
            schema = file.schema
            whole = (file.get_batch(i) for i in range(file.num_record_batches))
        else:
            source.seek(0)
            stream = pa.ipc.open_stream(source)
            schema, whole = stream.schema, iter(stream)

        def batches(columns: list[str]) -> Iterator[Any]:
            for batch in whole:
                chosen = batch.select(columns)
                for start in range(0, chosen.num_rows, BATCH_ROWS):
                    yield chosen.slice(start, BATCH_ROWS)

        yield schema, batches
