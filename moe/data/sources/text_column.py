"""Which column of a corpus holds its text, and the text of a row.

A column inside others is named with dots: `message.content`. A column whose own name has dots in it
comes first.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from moe.data.labels import TEXT_COLUMN

_WORDS_OF_TEXT = 5  # what holds fewer, in most rows, is a name or a label
_LOOKED_AT = 200  # rows, of those that a corpus begins with
_DEEPEST, _LISTED = 8, 8  # how far into a row is looked, and at how many of a list
_IN_LIST = "[]"

_MISSING = object()


def value_at(row: Mapping[str, Any], column: str) -> Any:
    """The value of a column, nested ones by dots. Raises KeyError where there is none."""
    if column in row:
        return row[column]
    outer, dot, inner = column.partition(".")
    while dot:
        value = row.get(outer, _MISSING)
        if isinstance(value, Mapping):
            return value_at(value, inner)
        if value is None:
            return None
        part, dot, inner = inner.partition(".")
        outer = f"{outer}.{part}"
    raise KeyError(column)


def text_of(row: Mapping[str, Any], column: str, where: str) -> str | None:
    """The text of a row. Raises ValueError where the column is missing or holds something else."""
    try:
        text = value_at(row, column)
    except KeyError:
        raise ValueError(missing_text(where, column, described(row))) from None
    if not isinstance(text, str | None):
        raise ValueError(wrong_kind(where, column, kind_of_value(text)))
    return text


def chosen_column(rows: Iterable[Mapping[str, Any]], where: str) -> str:
    """`text` where a row has it, or else the only column that holds text, also inside others.

    That is the only one with strings, or the only one whose strings mostly have five words or more.
    Raises ValueError where there is none, or a choice, or where text lies in lists too.
    """
    strings: dict[str, list[str]] = defaultdict(list)
    listed: dict[str, list[str]] = defaultdict(list)
    first: Mapping[str, Any] | None = None
    for row in rows:
        first = row if first is None else first
        if TEXT_COLUMN in row:
            return TEXT_COLUMN
        for name, value in _strings_of(row):
            (listed if _IN_LIST in name else strings)[name].append(value)
    if first is None:
        return TEXT_COLUMN
    wordy = [name for name, values in strings.items() if _is_text(values)]
    lists = sorted({name.partition(_IN_LIST)[0] for name, v in listed.items() if _is_text(v)})
    if not lists:
        for found in (list(strings), wordy):
            if len(found) == 1:
                return found[0]
        raise ValueError(missing_text(where, TEXT_COLUMN, described(first)))
    named = f" ({', '.join(wordy)} may be meant)" if wordy else ""
    raise ValueError(
        f"a corpus has its text in a string column, and no list is read for it; {where} has text "
        f"in the lists of {', '.join(lists)}. Write each document as a row of its own, or name the "
        f"column that is meant: --set data.text_column=NAME{named}."
    )


def thin_text_note(spec: str, rows: Iterable[Mapping[str, Any]], column: str) -> str:
    """A line where most of the first rows have no text in their column and another has; else "".

    Rows without text are no documents: a corpus half of whose rows lack it is trained on a half.
    """
    count, blank, others = 0, 0, defaultdict[str, list[str]](list)
    for row in islice(rows, _LOOKED_AT):
        count += 1
        try:
            value = value_at(row, column)
        except KeyError:
            return ""
        if value is None or (isinstance(value, str) and not value.strip()):
            blank += 1
            for name, text in _strings_of(row):
                others[name].append(text)
    wordy = [name for name, texts in others.items() if _is_text(texts) and _IN_LIST not in name]
    if not wordy or 2 * blank <= count:
        return ""
    return (
        f"{blank} of the first {count} rows of {spec} have no text in {column!r} and are left out; "
        f"they have some in {', '.join(map(repr, wordy))}: --set data.text_column={wordy[0]} takes "
        "that"
    )


def _strings_of(
    row: Mapping[str, Any], before: str = "", depth: int = 0
) -> Iterator[tuple[str, str]]:
    """Every string that is not blank, by its dotted name, which has `[]` after that of a list."""
    for name, value in row.items():
        yield from _strings_in(value, f"{before}{name}", depth)


def _strings_in(value: Any, name: str, depth: int) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        if value.strip():
            yield name, value
    elif depth >= _DEEPEST:
        return
    elif isinstance(value, Mapping):
        yield from _strings_of(value, f"{name}.", depth + 1)
    elif isinstance(value, list):
        for item in value[:_LISTED]:
            yield from _strings_in(item, name + _IN_LIST, depth + 1)


def found_note(spec: str, column: str) -> str:
    """What is said where the column was not named."""
    return (
        f"the text of {spec} is its column {column!r}, the only one that holds text; "
        "--set data.text_column=NAME takes another"
    )


def described(row: Mapping[str, Any]) -> list[str]:
    """Columns with what they hold, those of an object with a dot."""
    named = []
    for name, value in row.items():
        if isinstance(value, Mapping) and value:
            named += [f"{name}.{inner} ({kind_of_value(v)})" for inner, v in value.items()]
        else:
            named.append(f"{name} ({kind_of_value(value)})")
    return named


def missing_text(where: str, column: str, columns: Iterable[str]) -> str:
    return (
        f"a corpus has its text in a string column, {column!r} unless another is named; {where} "
        f"has the columns {', '.join(columns) or '(none)'}. Name the one that holds the text: "
        "--set data.text_column=NAME."
    )


def require_different(names: Sequence[str], where: str) -> None:
    """Raises ValueError where two columns of a table have one name. `where` begins what is said of
    them (the header of a.csv is)."""
    if len(set(names)) != len(names):
        raise ValueError(
            f"the columns of a table have different names; {where} {', '.join(names)}. Rename "
            "those that are the same."
        )


def wrong_kind(where: str, column: str, kind: str) -> str:
    return (
        f"the text of a corpus is a string; in {where} the column {column!r} holds {kind}. Mend "
        "or remove that, or name another column: --set data.text_column=NAME (message.content for "
        "one inside another)."
    )


def kind_of_value(value: Any) -> str:
    match value:
        case None:
            return "nothing"
        case str():
            return "text"
        case bool():
            return "true or false"
        case int() | float():
            return "a number"
        case list():
            return "a list"
        case Mapping():
            return "an object"
    return type(value).__name__


def _is_text(values: list[str]) -> bool:
    wordy = sum(len(value.split()) >= _WORDS_OF_TEXT for value in values)
    return 2 * wordy > len(values)
