"""Text without columns: txt and CoNLL-U.

A text file is one document, unless it is long: then it is cut, so that one book can be split into
training and held-out text and no file has to fit into memory. CoNLL-U: a document runs from one
`# newdoc` to the next; sentences before the first stand alone.
"""

from __future__ import annotations

import codecs
import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from moe.data.sources import unpacking
from moe.data.sources.rows import Row, text_row

CUT_CHARS = 16 * 1024  # a longer text is cut at the next blank line
CUT_AT_LINE_CHARS = 2 * CUT_CHARS  # or else here, at the end of a line
MAX_LINE_CHARS = 1 << 20  # or else inside a line
POINTER_BYTES = 64
_POINTERS = {
    b"version https://git-lfs": ("a Git LFS pointer", "Fetch the file itself: git lfs pull."),
    b"/annex/objects/": ("a git-annex pointer", "Fetch the file itself: git annex get."),
}


@contextmanager
def open_text(path: Path) -> Iterator[io.TextIOWrapper]:
    with unpacking.open_bytes(path) as file:
        yield io.TextIOWrapper(file, encoding="utf-8-sig", newline="")


def checked_text(file: IO[bytes], path: Path) -> Iterator[bytes]:
    """The blocks of a file that is UTF-8 without NUL. Raises ValueError with the place."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    offset = 0
    while block := file.read(unpacking.BLOCK_BYTES):
        if offset == 0 and block[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
            bits = 32 if block[:4] in (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE) else 16
            raise ValueError(
                f"text must be valid UTF-8; {path} is not, it begins as UTF-{bits} does. Convert "
                f"it: iconv -f UTF-{bits} -t UTF-8."
            )
        pending = len(decoder.getstate()[0])
        try:
            decoder.decode(block)
        except UnicodeDecodeError as error:
            raise ValueError(
                f"text must be valid UTF-8; {path} is not, at byte "
                f"{offset - pending + error.start}. Convert it, for example with iconv."
            ) from None
        if (at := block.find(b"\0")) >= 0:
            raise ValueError(
                f"text has no NUL bytes; {path} has one, at byte {offset + at}: it holds UTF-16 or "
                "no text at all. Convert it, or leave it out."
            )
        offset += len(block)
        yield block
    if decoder.getstate()[0]:
        raise ValueError(
            f"text must be valid UTF-8; {path} ends inside a character. Was it copied whole?"
        )


def require_no_pointer(begin: bytes, name: Path | str) -> None:
    """Raises ValueError where a file begins as what stands for a large one in a checkout does."""
    for sign, (what, remedy) in _POINTERS.items():
        if begin.startswith(sign):
            raise ValueError(f"a corpus file holds its text; {name} is {what}. {remedy}")


def read_txt(path: Path) -> Iterator[Row]:
    with open_text(path) as file:
        yield from map(text_row, pieces(file))


def pieces(file: Any) -> Iterator[str]:
    """A text in documents of bounded size."""
    piece: list[str] = []
    size = 0
    while line := file.readline(MAX_LINE_CHARS):
        piece.append(line)
        size += len(line)
        if size >= CUT_AT_LINE_CHARS or (size >= CUT_CHARS and not line.strip()):
            yield "".join(piece)
            piece, size = [], 0
    if piece:
        yield "".join(piece)


def read_conllu(path: Path) -> Iterator[Row]:
    with open_text(path) as file:
        document: list[str] = []
        inside = text_seen = in_sentence = False
        for number, line in enumerate(file, start=1):
            if line.startswith("# newdoc"):
                if document:
                    yield text_row(" ".join(document))
                document, inside = [], True
            elif line.startswith("# text ="):
                text_seen = True
                document.append(line.partition("=")[2].strip())
                if not inside:
                    yield text_row(document.pop())
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
            yield text_row(" ".join(document))
