"""Files as streams of bytes, unpacked by the last part of their name."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO, Any

BLOCK_BYTES = 1 << 20

# What a file that is damaged, cut short or no such file raises when it is unpacked.
UNPACKING_ERRORS = (OSError, EOFError, zlib.error, lzma.LZMAError)


class _Blocks(io.RawIOBase):
    """What has `read(size)` and no more, as a raw stream."""

    def __init__(self, source: Any) -> None:
        self._source = source

    def readable(self) -> bool:
        return True

    def readinto(self, target: Any) -> int:
        data = self._source.read(len(target))
        target[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self._source.close()
        super().close()


def _zstandard(path: Path) -> IO[bytes]:
    import pyarrow as pa

    return io.BufferedReader(_Blocks(pa.input_stream(str(path), compression="zstd")), BLOCK_BYTES)


_OPENERS: dict[str, Callable[[Path], IO[bytes]]] = {
    "gz": partial(gzip.open, mode="rb"),
    "zst": _zstandard,
    "bz2": partial(bz2.open, mode="rb"),
    "xz": partial(lzma.open, mode="rb"),
}
PACKED = tuple(_OPENERS)
_SHORT = {"tgz": ("tar", "gz"), "zstd": ("", "zst"), "tzst": ("tar", "zst")}


def kind_of(path: Path) -> tuple[str, str]:
    """What a file holds and how it is packed, in lower case: ("jsonl", "gz"), ("txt", "")."""
    parts = path.name.lower().split(".")[1:]
    last = parts.pop() if parts else ""
    inner, packed = _SHORT.get(last, ("", last))
    if packed not in _OPENERS:
        return last, ""
    return inner or (parts[-1] if parts else ""), packed


def open_bytes(path: Path) -> IO[bytes]:
    """The unpacked bytes. Reading raises one of `UNPACKING_ERRORS` where they are damaged."""
    packed = kind_of(path)[1]
    return _OPENERS[packed](path) if packed else path.open("rb")


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Names the file in whatever keeps it from being read. Raises ValueError."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise ValueError(
            f"text must be valid UTF-8; {path} is not ({error.reason}). "
            "Convert it, for example with iconv."
        ) from None
    except UNPACKING_ERRORS as error:
        raise ValueError(
            f"a corpus file must be readable; {path} is not: {str(error).rstrip('. ')}. "
            "Check its permissions, and that it was copied whole."
        ) from None
