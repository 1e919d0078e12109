"""CoNLL-U sentences: each part-of-speech tag on the characters of the text that it belongs to.

Format: https://universaldependencies.org/format.html. The words of a multiword token (Italian
*della* = *di* + *la*) are not in the text; the text has the one surface form, on a range line. It
gets the tags of its words together (`ADP+DET`): no character can be said to be one or the other.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

Span = tuple[int, int, str]

_ID = re.compile(r"(\d+)(?:([-.])(\d+))?")
_COLUMNS = 10


@dataclass(frozen=True, kw_only=True)
class Sentence:
    """`spans` are (start, end, tags) in characters of `text`; None if its words are not found
    there one after the other."""

    text: str
    spans: tuple[Span, ...] | None


def read_sentences(lines: Iterable[str], where: str) -> Iterator[Sentence]:
    """Sentences of a file, `where` being its name in errors.

    A sentence without a `# text` comment gets its text from the forms and `SpaceAfter=No`.
    Raises ValueError on a line that is not CoNLL-U.
    """
    text: str | None = None
    words: list[list[str]] = []
    for number, raw in enumerate(lines, start=1):
        line = raw.rstrip("\r\n")
        if line.startswith("#"):
            name, _, value = line[1:].partition("=")
            if name.strip() == "text":
                text = value.strip()
        elif line.strip():
            fields = line.split("\t")
            if len(fields) != _COLUMNS or not _ID.fullmatch(fields[0]):
                raise ValueError(
                    f"a CoNLL-U word is a line of {_COLUMNS} columns with tabs between them, the "
                    f"first a number; line {number} of {where} is {line[:60]!r}. Mend the line, or "
                    "give a CoNLL-U file."
                )
            words.append(fields)
        else:
            if words:
                yield _sentence(text, words)
            text, words = None, []
    if words:
        yield _sentence(text, words)


def _sentence(text: str | None, words: list[list[str]]) -> Sentence:
    surface = list(_surface(words))
    if text is None:
        text = "".join(form + " " * spaced for form, _, spaced in surface).strip()
    spans: list[Span] = []
    at = 0
    for form, tags, _ in surface:
        while at < len(text) and text[at].isspace():
            at += 1
        if not text.startswith(form, at):
            return Sentence(text=text, spans=None)
        if tags:
            spans.append((at, at + len(form), tags))
        at += len(form)
    return Sentence(text=text, spans=tuple(spans))


def _surface(words: list[list[str]]) -> Iterator[tuple[str, str, bool]]:
    """(form, tags, whether a space follows) of each surface token; no tags where none is given."""
    tag_of = {fields[0]: fields[3] for fields in words}
    covered = 0
    for identity, form, _, tag, *_, misc in words:
        first, separator, last = _ID.fullmatch(identity).groups()
        if separator == "." or (not separator and int(first) <= covered):
            continue  # an empty node, or a word inside a multiword token
        if separator == "-":
            covered = int(last)
            tags = [tag_of.get(str(i), "_") for i in range(int(first), covered + 1)]
        else:
            tags = [tag]
        yield form, "+".join(tags) if "_" not in tags else "", "SpaceAfter=No" not in misc
