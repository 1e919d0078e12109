"""Documents in a tar archive, as webdataset lays them out: members of one name up to the first dot
are one document, `.txt` its text and `.json` its columns. Other members are left aside.

Nothing is unpacked to disk. The archive is read once, from its start.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

from moe.data.labels import TEXT_COLUMN
from moe.data.sources import unpacking
from moe.data.sources.plain_text import checked_text, pieces
from moe.data.sources.rows import Row, text_row

MAX_MEMBER_BYTES = 1 << 28


def read_tar(path: Path) -> Iterator[Row]:
    try:
        with (
            unpacking.open_bytes(path) as file,
            tarfile.open(fileobj=file, mode="r|") as archive,
        ):
            for _, members in groupby(_members(archive, path), key=lambda member: member[0]):
                yield from _documents([(kind, text) for _, kind, text in members], path)
    except tarfile.TarError as error:
        raise ValueError(
            f"a corpus file must be readable; {path} is not: {error}. "
            "Check that it is a tar archive and was copied whole."
        ) from None


def _members(archive: tarfile.TarFile, path: Path) -> Iterator[tuple[str, str, tuple[str, str]]]:
    """Key, kind, and name with text of each member that is read."""
    for member in archive:
        folder, slash, name = member.name.rpartition("/")
        key, _, kind = name.partition(".")
        kind = kind.lower()
        if not member.isfile() or kind not in ("txt", "json") or not key:
            continue
        named = f"{member.name} in {path}"
        if member.size > MAX_MEMBER_BYTES:
            raise ValueError(
                f"a member of an archive is held in memory and has at most {MAX_MEMBER_BYTES} "
                f"bytes; {named} has {member.size}. Give it as a file of its own."
            )
        content = archive.extractfile(member)
        assert content is not None
        data = b"".join(checked_text(io.BytesIO(content.read()), Path(named)))
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
            found = json.loads(text)
        except (ValueError, RecursionError) as error:
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
        yield Row(columns, where=where)
    for text in texts:
        for piece in pieces(io.StringIO(text, newline="")):
            if columns:
                yield Row({**columns, TEXT_COLUMN: piece}, where=where)
            else:
                yield text_row(piece)
