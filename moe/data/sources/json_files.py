"""Objects of JSON as rows: JSON lines, and files of one array, or of one object after the other.

Files are read a piece at a time; what is held is one object. `json` parses, since columns may have
any type and a malformed line must be named: pyarrow's reader guesses a schema from the first block.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from moe.data.sources.plain_text import open_text
from moe.data.sources.rows import Row

MAX_DEPTH = 500  # Python's parser recurses: what passes at one depth of the stack fails at another
MAX_OBJECT_CHARS = 1 << 28
_BLOCK_CHARS = 1 << 20
_NEAR_THE_END = 16  # characters of a token that a block may have cut
_SPACE = " \t\n\r"


def _each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """`json` keeps the last of two values under one key, and the first would be lost unseen."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        doubled = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"it has the key {doubled!r} twice")
    return found


_DECODER = json.JSONDecoder(object_pairs_hook=_each_key_once)


def parsed(text: str) -> Any:
    """One JSON value. Raises ValueError with what is wrong, in a few words."""
    try:
        return _DECODER.decode(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(_told(error)) from None


def read_jsonl(path: Path) -> Iterator[Row]:
    with open_text(path) as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            where = f"line {number} of {path}"
            try:
                row = parsed(line)
            except ValueError as error:
                raise ValueError(
                    f"a line of jsonl is a JSON object; {where} is not: {error}. "
                    "Mend or remove the line."
                ) from None
            if not isinstance(row, dict):
                raise ValueError(
                    f"a line of jsonl is a JSON object; {where} is {_shortened(line)}. "
                    "Mend or remove the line."
                )
            _require_flat(row, line, where)
            yield Row(row, where=where)


def read_json(path: Path) -> Iterator[Row]:
    with open_text(path) as file:
        for number, (text, value) in enumerate(_Objects(file, path), start=1):
            where = f"object {number} of {path}"
            _require_flat(value, text, where)
            yield Row(value, where=where)


class _Objects:
    """The objects of a file, each with its text."""

    def __init__(self, file: TextIO, path: Path) -> None:
        self._file, self._path = file, path
        self._text, self._at = "", 0
        self._ended = False
        self._number = 0

    def __iter__(self) -> Iterator[tuple[str, dict[str, Any]]]:
        in_array = self._next() == "["
        if in_array:
            self._at += 1
        while sign := self._next():
            if in_array and sign == "]":
                self._at += 1
                if self._next():
                    self._refuse("text follows the end of the array")
                return
            yield self._object(sign)
            if in_array and (sign := self._next()) == ",":
                self._at += 1
                if self._next() == "]":
                    self._refuse("a comma stands before the end of the array")
            elif in_array and sign and sign != "]":
                self._refuse("',' or ']' is missing")
        if in_array:
            self._refuse("the array has no end; was it copied whole?")

    def _object(self, sign: str) -> tuple[str, dict[str, Any]]:
        self._number += 1
        if sign != "{":
            self._refuse(f"it is {_shortened(self._text[self._at : self._at + 61])}")
        while True:
            try:
                value, end = _DECODER.raw_decode(self._text, self._at)
                text, self._at = self._text[self._at : end], end
                return text, value
            except RecursionError as error:
                self._refuse(_told(error))
            except ValueError as error:
                cut = str(getattr(error, "msg", "")).startswith("Unterminated string") or (
                    getattr(error, "pos", 0) >= len(self._text) - _NEAR_THE_END
                )
                if not cut or self._ended:
                    self._refuse(getattr(error, "msg", _told(error)).removesuffix(" starting at"))
                if len(self._text) - self._at > MAX_OBJECT_CHARS:
                    self._refuse(f"it has no end within {MAX_OBJECT_CHARS} characters")
                self._read_on()

    def _next(self) -> str:
        """The next sign that is no white space; "" at the end."""
        while True:
            while self._at < len(self._text):
                if (sign := self._text[self._at]) not in _SPACE:
                    return sign
                self._at += 1
            if self._ended:
                return ""
            self._read_on()

    def _read_on(self) -> None:
        """As much again as is held: a long object is not parsed from its start too often."""
        rest = self._text[self._at :]
        block = self._file.read(max(_BLOCK_CHARS, len(rest)))
        self._ended = not block
        self._text, self._at = rest + block, 0

    def _refuse(self, why: str) -> None:
        raise ValueError(
            "a .json file is an array of objects, or one object (or one after the other); object "
            f"{max(1, self._number)} of {self._path} is not: {why}. Mend the file."
        )


def _require_flat(row: dict[str, Any], text: str, where: str) -> None:
    if text.count("[") + text.count("{") <= MAX_DEPTH:
        return
    level: list[Any] = [row]
    for _ in range(MAX_DEPTH):
        level = [
            inner
            for value in level
            for inner in (value.values() if isinstance(value, dict) else value)
            if isinstance(inner, dict | list)
        ]
        if not level:
            return
    raise ValueError(
        f"a row nests at most {MAX_DEPTH} deep; {where} nests deeper. Mend or remove it."
    )


def _told(error: BaseException) -> str:
    if isinstance(error, RecursionError):
        return f"it nests deeper than {MAX_DEPTH}"
    if "limit" in str(error) and "digits" in str(error):  # of `int`, in Python's words
        return "it holds a number of thousands of digits"
    return str(error)


def _shortened(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:60] + "...")
