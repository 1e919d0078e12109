"""Local files as documents: txt, jsonl and conllu (each also as .gz), and parquet.

A row of jsonl or parquet is a document. A text file is one, unless it is long: then it is cut, so
that one book can be split into training and held-out text and no file has to fit into memory.
CoNLL-U: a document runs from one `# newdoc` to the next; sentences before the first stand alone.
"""

from __future__ import annotations

import codecs
import glob
import gzip
import io
import json
import os
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, Any

from moe.data.digest import ContentDigest
from moe.data.labels import TEXT_COLUMN

CUT_CHARS = 16 * 1024  # a longer text is cut at the next blank line
CUT_AT_LINE_CHARS = 2 * CUT_CHARS  # or else here, at the end of a line
MAX_LINE_CHARS = 1 << 20  # or else inside a line
PARQUET_BATCH_ROWS = 256
_BLOCK_BYTES = 1 << 20

Row = dict[str, Any]


@dataclass(frozen=True)
class LocalFiles:
    """The corpus `files:GLOB`: all files that match, in the order of their sorted paths."""

    pattern: str

    sequence_labels = ()
    survey_limit = None

    def label_candidates(self) -> tuple[str, ...] | None:
        """Known without reading where all files are Parquet, or hold nothing but text."""
        columns: set[str] = set()
        for name, path in self._files:
            if name == "jsonl":
                return None
            if name == "parquet":
                with _readable(path), _open_parquet(path) as file:
                    columns |= set(_string_columns(file.schema_arrow))
        return tuple(sorted(columns - {TEXT_COLUMN}))

    @cached_property
    def _files(self) -> list[tuple[str, Path]]:
        pattern = os.path.expanduser(self.pattern)
        found = [pattern] if os.path.isfile(pattern) else glob.glob(pattern, recursive=True)
        paths = sorted(Path(name) for name in found if os.path.isfile(name))
        if not paths:
            raise ValueError(
                f"files:GLOB must match at least one file; {self.pattern!r} matches none (from "
                f"{Path.cwd()}). Check the path, and quote it so that the shell leaves it alone."
            )
        return [(_format(path), path) for path in paths]

    def digest(self) -> str:
        """Over each file's format and (unpacked) content. Raises ValueError on invalid UTF-8."""
        digest = ContentDigest("files")
        for name, path in self._files:
            with _readable(path):
                if name == "parquet":
                    _check_parquet(path)
                with _open_bytes(path) as file:
                    digest.add_file(name, _blocks(file, path, is_text=name != "parquet"))
        return digest.hexdigest()

    def provenance(self) -> Row:
        return {
            "kind": "files",
            "files": len(self._files),
            "bytes": sum(path.stat().st_size for _, path in self._files),
        }

    def rows(self, scratch: Path | None = None) -> Iterator[Row]:
        for name, path in self._files:
            with _readable(path):
                yield from _READERS[name](path)


def _format(path: Path) -> str:
    name = path.name.removesuffix(".gz")
    suffix = name.rpartition(".")[2]
    if suffix not in _READERS or (suffix == "parquet" and path.suffix == ".gz"):
        raise ValueError(
            "files:GLOB reads .txt, .jsonl, .conllu (each also as .gz) and .parquet; "
            f"received {str(path)!r}. Convert it, or narrow the pattern."
        )
    return suffix


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Names the file in whatever keeps it from being read."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise ValueError(
            f"text must be valid UTF-8; {path} is not ({error.reason}). "
            "Convert it, for example with iconv."
        ) from None
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(
            f"a corpus file must be readable; {path} is not: {error}. "
            "Check its permissions, and that it was copied whole."
        ) from None


def _open_bytes(path: Path) -> IO[bytes]:
    return gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")


@contextmanager
def _open_text(path: Path) -> Iterator[io.TextIOWrapper]:
    with _open_bytes(path) as file:
        yield io.TextIOWrapper(file, encoding="utf-8-sig", newline="")


def _blocks(file: IO[bytes], path: Path, is_text: bool) -> Iterator[bytes]:
    decoder = codecs.getincrementaldecoder("utf-8")()
    offset = 0
    while block := file.read(_BLOCK_BYTES):
        if is_text:
            pending = len(decoder.getstate()[0])
            try:
                decoder.decode(block)
            except UnicodeDecodeError as error:
                raise ValueError(
                    f"text must be valid UTF-8; {path} is not, at byte "
                    f"{offset - pending + error.start}. Convert it, for example with iconv."
                ) from None
        offset += len(block)
        yield block
    if is_text and decoder.getstate()[0]:
        raise ValueError(
            f"text must be valid UTF-8; {path} ends inside a character. Was it copied whole?"
        )


def _read_txt(path: Path) -> Iterator[Row]:
    with _open_text(path) as file:
        piece: list[str] = []
        size = 0
        while line := file.readline(MAX_LINE_CHARS):
            piece.append(line)
            size += len(line)
            if size >= CUT_AT_LINE_CHARS or (size >= CUT_CHARS and not line.strip()):
                yield {TEXT_COLUMN: "".join(piece)}
                piece, size = [], 0
        if piece:
            yield {TEXT_COLUMN: "".join(piece)}


def _read_jsonl(path: Path) -> Iterator[Row]:
    with _open_text(path) as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise ValueError(
                    f"a line of jsonl is a JSON object; line {number} of {path} is not: {error}. "
                    "Mend or remove the line."
                ) from None
            if not isinstance(row, dict) or not isinstance(row.get(TEXT_COLUMN), str | None):
                raise ValueError(
                    f"a line of jsonl is an object whose {TEXT_COLUMN!r} is a string; line "
                    f"{number} of {path} is {_shortened(line)}. Mend or remove the line."
                )
            if TEXT_COLUMN not in row:
                raise ValueError(missing_text(f"line {number} of {path}", list(row)))
            yield row


def _read_conllu(path: Path) -> Iterator[Row]:
    with _open_text(path) as file:
        document: list[str] = []
        inside = text_seen = in_sentence = False
        for number, line in enumerate(file, start=1):
            if line.startswith("# newdoc"):
                if document:
                    yield {TEXT_COLUMN: " ".join(document)}
                document, inside = [], True
            elif line.startswith("# text ="):
                text_seen = True
                document.append(line.partition("=")[2].strip())
                if not inside:
                    yield {TEXT_COLUMN: document.pop()}
            elif not line.strip():
                text_seen = in_sentence = False
            elif not line.startswith("#") and not in_sentence:
                in_sentence = True
                if not text_seen:
                    raise ValueError(
                        "a CoNLL-U sentence has a comment '# text = ...' before its words; the one "
                        f"at line {number} of {path} has none. Add it (the format requires it)."
                    )
        if document:
            yield {TEXT_COLUMN: " ".join(document)}


def _read_parquet(path: Path) -> Iterator[Row]:
    # Pages are read one after the other: with pre-buffering, a row group would be held whole, and
    # many writers make one row group of a whole file.
    with _open_parquet(path, buffer_size=_BLOCK_BYTES, pre_buffer=False) as file:
        columns = _string_columns(file.schema_arrow)
        for batch in file.iter_batches(batch_size=PARQUET_BATCH_ROWS, columns=columns):
            yield from batch.to_pylist()


def _check_parquet(path: Path) -> None:
    with _open_parquet(path) as file:
        if TEXT_COLUMN not in _string_columns(file.schema_arrow):
            raise ValueError(missing_text(str(path), file.schema_arrow.names))


@contextmanager
def _open_parquet(path: Path, **options: Any) -> Iterator[Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path, **options) as file:
            yield file
    except pa.ArrowException as error:
        raise ValueError(
            f"a corpus file must be readable; {path} is not: {error}. "
            "Check that it is a Parquet file and was copied whole."
        ) from None


def _string_columns(schema: Any) -> list[str]:
    from pyarrow import types

    def is_string(kind: Any) -> bool:
        if types.is_dictionary(kind):
            kind = kind.value_type
        return types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)

    return [field.name for field in schema if is_string(field.type)]


def missing_text(where: str, columns: list[str]) -> str:
    return (
        f"a corpus has a string column {TEXT_COLUMN!r}; {where} has the columns "
        f"{', '.join(map(str, columns)) or '(none)'}. Rename the column that holds the text."
    )


def _shortened(line: str) -> str:
    return repr(line if len(line) <= 60 else line[:60] + "...")


_READERS: dict[str, Callable[[Path], Iterator[Row]]] = {
    "txt": _read_txt,
    "jsonl": _read_jsonl,
    "conllu": _read_conllu,
    "parquet": _read_parquet,
}
