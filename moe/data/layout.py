"""The folder of prepared tokens: which files it holds, and how damage to them is found.

Shared by the writing side (`moe.data.prepare`) and the reading side (`moe.data.token_store`).
A folder is complete by construction: it is built under another name and renamed.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from pathlib import Path
from typing import Any, Literal

import numpy as np

FORMAT_VERSION = 1
META_FILE = "meta.json"
VOCABULARY_FILE = "vocabulary.arrow"
Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")  # the last where data.test_fraction asks
BYTES_DTYPE = np.dtype(np.uint32)  # of the bytes that a token stands for
_BLOCK_BYTES = 1 << 20


class DamagedTokens(ValueError):
    """Prepared tokens that are not what was written; the message names the file."""

    def __init__(self, path: Path, what: str) -> None:
        super().__init__(
            f"prepared tokens must be read as they were written; {path} {what}. "
            f"Delete the folder {path.parent} and prepare the corpus again."
        )


def split_file(split: str) -> str:
    return f"{split}.arrow"


def bytes_file(split: str) -> str:
    """Where the bytes of text stand that each token is for, if tokens do not spell the text."""
    return f"{split}-bytes.arrow"


def labels_file(split: str) -> str:
    """Where the labels stand that sequences may mix, a row a document of the split."""
    return f"{split}-labels.arrow"


def token_dtype(vocab_size: int) -> np.dtype:
    """The smallest of uint16 and uint32 that holds every id."""
    return np.dtype(np.uint16 if vocab_size <= 1 << 16 else np.uint32)


def checksum(path: Path) -> str:
    """CRC-32 of a file, in hexadecimal: it finds damage, not tampering."""
    value = 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            value = zlib.crc32(block, value)
    return f"{value:08x}"


def write_meta(folder: Path, meta: dict[str, Any]) -> None:
    """Adds size and checksum of every file beside it, and a checksum of its own text."""
    files = {
        path.name: {"bytes": path.stat().st_size, "crc32": checksum(path)}
        for path in sorted(folder.iterdir())
    }
    meta = meta | {"files": files}
    text = json.dumps(meta | {"meta_digest": _meta_digest(meta)}, indent=1)
    (folder / META_FILE).write_text(text + "\n", encoding="utf-8")


def read_meta(folder: Path) -> dict[str, Any]:
    """The meta of a prepared folder whose files are all there at their full size.

    Raises:
        ValueError: `folder` holds no prepared tokens, or those of another version of this format.
        DamagedTokens: the meta is not what was written, or a file is missing or has another size.
    """
    path = folder / META_FILE
    if not path.is_file():
        raise ValueError(
            f"a folder of prepared tokens holds {META_FILE}; {folder} does not. "
            "Give the folder that moe.data.prepare returned."
        )
    try:
        meta = json.loads(path.read_text(encoding="utf-8"))
        expected = meta.pop("meta_digest")
        version, files = meta["format_version"], meta["files"]
    except (ValueError, KeyError, AttributeError, TypeError):
        raise DamagedTokens(path, "is not a complete meta file") from None
    if expected != _meta_digest(meta):
        raise DamagedTokens(path, "was changed")
    if version != FORMAT_VERSION:
        raise ValueError(
            f"this version reads prepared tokens of format {FORMAT_VERSION}; {folder} has format "
            f"{version}. Prepare the corpus again."
        )
    for name, recorded in files.items():
        file = folder / name
        if not file.is_file():
            raise DamagedTokens(file, "is missing")
        if (size := file.stat().st_size) != recorded["bytes"]:
            raise DamagedTokens(file, f"has {size} bytes instead of {recorded['bytes']}")
    return meta


def verify(folder: Path | str) -> None:
    """Reads every byte of a prepared folder. Raises as `read_meta`, and on a wrong checksum."""
    folder = Path(folder)
    for name, recorded in read_meta(folder)["files"].items():
        if (found := checksum(folder / name)) != recorded["crc32"]:
            raise DamagedTokens(
                folder / name, f"has the checksum {found} instead of {recorded['crc32']}"
            )


def _meta_digest(meta: dict[str, Any]) -> str:
    text = json.dumps(meta, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
