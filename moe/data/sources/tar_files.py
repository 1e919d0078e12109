"""Documents in a tar archive, as webdataset lays them out: members of one name up to the first dot
are one document, `.txt` its text and `.json` its columns. Pictures and the like are left aside;
members of another kind that holds text are refused.

Nothing is unpacked to disk. The archive is read once, from its start.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Iterator
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

from moe.data.labels import TEXT_COLUMN
from moe.data.sources import unpacking
from moe.data.sources.json_files import parsed
from moe.data.sources.plain_text import (
    POINTER_BYTES,
    checked_text,
    pieces,
    require_no_pointer,
)
from moe.data.sources.rows import Row, text_row

MAX_MEMBER_BYTES = 1 << 28


class _Header(tarfile.TarInfo):
    """`tarfile` takes a damaged header, or a file that ends before its two blocks of zeros, for the
    end of the archive: all members behind it would be lost unseen."""

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> tarfile.TarInfo:
        try:
            return super().fromtarfile(archive)
        except tarfile.EOFHeaderError:
            raise
        except tarfile.HeaderError as error:
            if archive.offset == 0:
                raise  # no archive at all, which is said as such
            what = f"damaged ({error})"
            if isinstance(error, tarfile.EmptyHeaderError | tarfile.TruncatedHeaderError):
                what = "cut off: blocks of zeros, which end an archive, are missing"
            raise tarfile.ReadError(f"it is {what} at byte {archive.offset}") from None


def read_tar(path: Path, is_read: Callable[[Path], Any]) -> Iterator[Row]:
    """`is_read`: whether a file of this name, by itself, would be read as documents."""
    try:
        with (
            unpacking.open_bytes(path) as file,
            tarfile.open(fileobj=file, mode="r|", tarinfo=_Header) as archive,
        ):
            members_read = _members(archive, path, is_read)
            for _, members in groupby(members_read, key=itemgetter(0)):
                yield from _documents([(kind, text) for _, kind, text in members], path)
            while rest := archive.fileobj.read(unpacking.BLOCK_BYTES):
                if rest.strip(b"\0"):
                    raise tarfile.ReadError("more follows its end, as where archives were joined")
    except tarfile.TarError as error:
        raise ValueError(
            f"a corpus file must be readable; {path} is not: {error}. "
            "Check that it is a tar archive and was copied whole."
        ) from None


def _members(
    archive: tarfile.TarFile, path: Path, is_read: Callable[[Path], Any]
) -> Iterator[tuple[str, str, tuple[str, str]]]:
    """Key, kind, and name with text of each member that is read."""
    for member in archive:
        folder, slash, name = member.name.rpartition("/")
        key, _, kind = name.partition(".")
        kind = kind.lower()
        if member.isdir() or not key:
            continue
        named = f"{member.name} in {path}"
        if kind not in ("txt", "json"):
            if is_read(Path(name)):
                raise ValueError(
                    "a member of an archive is KEY.txt or KEY.json, its key up to the first dot; "
                    f"{named} would be left aside. Rename it (chapter-1.txt), or give the file "
                    "outside the archive."
                )
            continue
        if not member.isfile():
            what = f"a link to {member.linkname}" if member.linkname else "a pipe or a device"
            raise ValueError(
                f"a member of an archive holds its text; {named} is {what}. Write the archive "
                "with the files themselves: tar --dereference --hard-dereference."
            )
        if member.size > MAX_MEMBER_BYTES:
            raise ValueError(
                f"a member of an archive is held in memory and has at most {MAX_MEMBER_BYTES} "
                f"bytes; {named} has {member.size}. Give it as a file of its own."
            )
        content = archive.extractfile(member)
        assert content is not None
        begin = content.read(POINTER_BYTES)
        require_no_pointer(begin, named)
        data = b"".join(checked_text(io.BytesIO(begin + content.read()), Path(named)))
        yield f"{folder}{slash}{key}", kind, (named, data.decode("utf-8-sig"))


def _documents(members: list[tuple[str, tuple[str, str]]], path: Path) -> Iterator[Row]:
    columns: dict[str, Any] = {}
    texts: list[str] = []
    where = ""
    for kind, (named, text) in members:
        where = named
        if kind == "txt":
            texts.append(text)
            continue
        try:
            found = parsed(text)
        except ValueError as error:
            raise ValueError(
                f"a .json member of an archive is an object; {named} is not: {error}. Mend it."
            ) from None
        if not isinstance(found, dict):
            raise ValueError(
                f"a .json member of an archive is an object; {named} holds a "
                f"{type(found).__name__}. Mend it."
            )
        columns |= found
    if not texts:
        yield Row(columns, where=f"{where} (beside which no .txt of its name stands)")
    for text in texts:
        for piece in pieces(io.StringIO(text, newline="")):
            if columns:
                yield Row({**columns, TEXT_COLUMN: piece}, where=where)
            else:
                yield text_row(piece)
