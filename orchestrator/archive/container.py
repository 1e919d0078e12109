"""The file of `moe-study export`: a zip of named members, whole or refused.

Layout (docs/archive.md): `launch.json`, `trials.jsonl`, `curves.parquet`, and under `home/` the few
files of a home that tables and figures read. The zip's comment is the SHA-256, in hexadecimal, of
every byte before it, so that any damage is seen before anything is made of the content. Equal
content gives equal bytes: members are sorted, and carry no times.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from orchestrator.base.errors import BadInput
from orchestrator.base.whole_files import whole

FORMAT = "moe-study launch"
VERSION = 1
SUFFIX = ".moe-study"  # as in `orchestrator.cli.parameters`
LAUNCH, TRIALS, CURVES, HOME = "launch.json", "trials.jsonl", "curves.parquet", "home/"
_DIGEST_BYTES = 64
_MOST_BYTES = 4 * 10**9  # unpacked: what says more is no export, and would fill the memory
_NO_TIME = (1980, 1, 1, 0, 0, 0)


def pack(members: Mapping[str, bytes]) -> bytes:
    """The bytes of a file; equal for equal members."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name in sorted(members):
            info = zipfile.ZipInfo(name, date_time=_NO_TIME)
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, members[name])
        archive.comment = b"0" * _DIGEST_BYTES
    body = stream.getvalue()[:-_DIGEST_BYTES]
    return body + hashlib.sha256(body).hexdigest().encode()


def write(path: Path, members: Mapping[str, bytes]) -> None:
    """The file is whole when it appears. Raises BadInput where it cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole(path) as partial, partial.open("wb") as file:
            file.write(pack(members))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise BadInput(
            f"-o names a file that can be written; received {path} ({error.strerror}). Name "
            "another."
        ) from None


def read(path: Path) -> tuple[dict[str, bytes], str]:
    """The members of a file, and the file's digest.

    Raises BadInput on a file that cannot be read, is damaged, or was not written by `export`.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise BadInput(
            f"an export is a file; received {path} ({error.strerror or error}). Correct the path."
        ) from None
    body, stated = content[:-_DIGEST_BYTES], content[-_DIGEST_BYTES:]
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            if len(archive.comment) != _DIGEST_BYTES:
                raise ValueError("it carries no digest")
            if hashlib.sha256(body).hexdigest().encode() != stated:
                raise ValueError("its content is not what its digest says")
            infos = archive.infolist()
            if sum(info.file_size for info in infos) > _MOST_BYTES:
                raise ValueError("it is too large")
            members = {info.filename: archive.read(info) for info in infos}
        _require_members(members)
    except (ValueError, zipfile.BadZipFile, OSError, EOFError, NotImplementedError) as error:
        raise refused(path, str(error)) from None
    return members, stated.decode()


def _require_members(members: Mapping[str, bytes]) -> None:
    if missing := {LAUNCH, TRIALS, CURVES} - members.keys():
        raise ValueError(f"it has no {', '.join(sorted(missing))}")
    for name in members:
        parts = PurePosixPath(name).parts
        inside = name in (LAUNCH, TRIALS, CURVES) or name.startswith(HOME)
        if not inside or ".." in parts or "\\" in name or PurePosixPath(name).is_absolute():
            raise ValueError(f"it holds {name!r}")
    head = json.loads(members[LAUNCH])
    if not isinstance(head, dict) or head.get("format") != FORMAT:
        raise ValueError(f"it is not a {FORMAT}")
    if head.get("version") != VERSION:
        raise ValueError(
            f"it has version {head.get('version')} of the format, and this code reads {VERSION}"
        )


def refused(path: Path, why: str) -> BadInput:
    return BadInput(
        f"an export is a whole file that `moe-study export` wrote; received {path}: {why}. Copy it "
        "again, or export the launch anew. Nothing was taken from it."
    )


def as_json(value: Any) -> bytes:
    """In the order in which it is given, without spaces, every float to its last digit."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()
