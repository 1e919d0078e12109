"""Local files as documents: which files a pattern names, and what kind each is of.

Kinds: txt, jsonl (ndjson), json, csv, tsv, conllu and tar, each also packed (.gz, .zst, .bz2, .xz);
parquet, arrow and feather. A row of a file with columns is a document. The case of a suffix does
not matter.
"""

from __future__ import annotations

import glob
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import IO, Any

from moe.data.digest import ContentDigest
from moe.data.sources import unpacking
from moe.data.sources.arrow_files import (
    ARROW_KINDS,
    check_arrow,
    label_candidates,
    read_arrow,
    require_text,
)
from moe.data.sources.delimited import read_csv, read_tsv
from moe.data.sources.json_files import read_json, read_jsonl
from moe.data.sources.plain_text import (
    POINTER_BYTES,
    checked_text,
    read_conllu,
    read_txt,
    require_no_pointer,
)
from moe.data.sources.rows import Row
from moe.data.sources.tar_files import read_tar
from moe.data.sources.unpacking import kind_of, readable

_READERS: dict[str, Callable[[Path], Iterator[Row]]] = {
    "txt": read_txt,
    "jsonl": read_jsonl,
    "json": read_json,
    "csv": read_csv,
    "tsv": read_tsv,
    "conllu": read_conllu,
    "tar": lambda path: read_tar(path, _known_kind),
}
_ALSO_CALLED = {"ndjson": "jsonl", "jsonlines": "jsonl"}
# What `datasets` and its Hub keep beside data, in files that a folder is read without.
_BESIDE_DATA = {"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"}


@dataclass(frozen=True)
class LocalFiles:
    """The corpus `files:GLOB`: all files that match, in the order of their sorted paths; of a
    folder, all files of these kinds under it."""

    pattern: str
    text_column: str = ""

    sequence_labels = ()
    survey_limit = None

    def label_candidates(self) -> tuple[str, ...] | None:
        """Known without reading where every file has a schema, or is plain text: whose format
        nothing can be wrong in, so that no row need be read before it is used."""
        columns: set[str] = set()
        for kind, path in self._files:
            if kind in ARROW_KINDS:
                with readable(path):
                    columns |= label_candidates(path, kind)
            elif kind != "txt":
                return None
        return tuple(sorted(columns))

    def with_text_column(self, column: str) -> LocalFiles:
        """Raises ValueError where a file with a schema has no such text."""
        for kind, path in self._files:
            if kind in ARROW_KINDS:
                with readable(path):
                    require_text(path, kind, column)
        return replace(self, text_column=column)

    @cached_property
    def _files(self) -> list[tuple[str, Path]]:
        pattern = os.path.expanduser(self.pattern)
        found = [pattern] if os.path.lexists(pattern) else glob.glob(pattern, recursive=True)
        folders = [Path(name) for name in found if os.path.isdir(name)]
        paths = sorted(Path(name) for name in found if not os.path.isdir(name))
        if not paths:  # beside files, folders are what a pattern matches by the way
            paths = sorted(path for folder in folders for path in _under(folder))
        if not paths:
            what = "holds none of a kind that is read" if folders else "matches none"
            raise ValueError(
                f"files:GLOB must match at least one file; {self.pattern!r} {what} (from "
                f"{Path.cwd()}). Check the path, and quote it so that the shell leaves it alone."
            )
        return [(_kind(path), _regular(path)) for path in paths]

    def digest(self) -> str:
        """Over each file's kind and (unpacked) content.

        Raises ValueError on a file that is empty, a pointer, not UTF-8, or has no string column.
        """
        digest = ContentDigest("files")
        for kind, path in self._files:
            with readable(path):
                with path.open("rb") as file:  # a pointer stands for a packed file as it is
                    require_no_pointer(file.read(POINTER_BYTES), path)
                with unpacking.open_bytes(path) as file:
                    _require_content(file, path)
                if kind in ARROW_KINDS:
                    check_arrow(path, kind)
                with unpacking.open_bytes(path) as file:
                    digest.add_file(kind, _blocks(file, path, kind))
        return digest.hexdigest()

    def paths(self) -> set[str]:
        return {os.path.realpath(path) for _, path in self._files}

    def provenance(self) -> dict[str, Any]:
        return {
            "kind": "files",
            "files": len(self._files),
            "bytes": sum(path.stat().st_size for _, path in self._files),
        }

    def rows(self, scratch: Path | None = None) -> Iterator[Row]:
        for kind, path in self._files:
            count = 0
            with readable(path):
                for row in self._rows(kind, path):
                    count += 1
                    yield row
            if not count:
                raise ValueError(_empty(path, "holds none"))

    def _rows(self, kind: str, path: Path) -> Iterator[Row]:
        if kind in ARROW_KINDS:
            return read_arrow(path, kind, self.text_column)
        return _READERS[kind](path)


def _kind(path: Path) -> str:
    kind = _known_kind(path)
    if kind is None:
        raise ValueError(
            f"files:GLOB reads {', '.join(f'.{kind}' for kind in _READERS)} (each also as "
            f"{', '.join(f'.{packed}' for packed in unpacking.PACKED)}), "
            f"{', '.join(f'.{kind}' for kind in ARROW_KINDS)}, and folders of these; "
            f"received {str(path)!r}. Convert it, or narrow the pattern."
        )
    return kind


def _known_kind(path: Path) -> str | None:
    kind, packed = kind_of(path)
    kind = _ALSO_CALLED.get(kind, kind)
    known = kind in _READERS or (kind in ARROW_KINDS and not packed)
    return kind if known else None


def _under(folder: Path) -> Iterator[Path]:
    """Files of the kinds that are read, hidden ones left out; each folder once, links or not."""
    seen: set[str] = set()
    for inside, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(inside)
        folders[:] = [] if real in seen else [name for name in folders if name[0] != "."]
        if real not in seen:
            seen.add(real)
            for name in files:
                path = Path(inside, name)
                if name[0] == "." or name in _BESIDE_DATA:
                    continue
                if not os.path.exists(path):  # a link to nothing, of a file or a whole folder
                    _regular(path)
                if _known_kind(path):
                    yield path


def _regular(path: Path) -> Path:
    """Raises ValueError where a name leads to no file: a link to nothing, a pipe, a device."""
    try:
        mode = path.stat().st_mode
    except OSError as error:
        where = f" (a link to {os.readlink(path)})" if path.is_symlink() else ""
        raise ValueError(
            f"a corpus file must be there; {path}{where} is not: {error.strerror}. "
            "Restore what it points to, or remove it."
        ) from None
    if not stat.S_ISREG(mode):
        raise ValueError(
            f"a corpus is made of files; {path} is none (a pipe, a socket or a device). "
            "Write its text to a file."
        )
    return path


def _require_content(file: IO[bytes], path: Path) -> None:
    begin = file.read(POINTER_BYTES)
    require_no_pointer(begin, path)
    if not begin:
        raise ValueError(_empty(path, "is empty"))


def _empty(path: Path, what: str) -> str:
    return (
        f"every file of a corpus holds at least one document with text; {path} {what}. "
        "Fetch it again, remove it, or narrow the pattern."
    )


def _blocks(file: IO[bytes], path: Path, kind: str) -> Iterator[bytes]:
    if kind in ARROW_KINDS or kind == "tar":
        yield from iter(lambda: file.read(unpacking.BLOCK_BYTES), b"")
        return
    blank = True
    for block in checked_text(file, path):
        blank = blank and not block.strip()
        yield block
    if blank:
        raise ValueError(_empty(path, "holds nothing but white space"))
