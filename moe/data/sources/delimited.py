"""Rows of csv and tsv: the first line names the columns, quotes are doubled inside quotes."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from moe.data.sources.plain_text import open_text
from moe.data.sources.rows import Row
from moe.data.sources.text_column import require_different

MAX_FIELD_CHARS = 1 << 24  # a field is a document
_WORDS_IN_A_NAME = 8
_DELIMITERS = {",": "commas", "\t": "tabs", ";": "semicolons", "|": "bars"}


def read_csv(path: Path) -> Iterator[Row]:
    return _rows(path, ",")


def read_tsv(path: Path) -> Iterator[Row]:
    return _rows(path, "\t")


def _rows(path: Path, delimiter: str) -> Iterator[Row]:
    csv.field_size_limit(MAX_FIELD_CHARS)
    with open_text(path) as file:
        reader = csv.reader(file, delimiter=delimiter, strict=True)
        try:
            header = next(reader, [])
            _require_header(header, delimiter, path)
            require_different(header, f"the header of {path} is")
            for row in reader:
                if not row:
                    continue
                where = f"the row that ends at line {reader.line_num} of {path}"
                if len(row) != len(header):
                    raise ValueError(
                        f"every row of a table has the {len(header)} columns of its header; "
                        f"{where} has {len(row)}. Mend the row; a text with a quote or separator "
                        "in it is written in quotes."
                    )
                if delimiter == "\t" and (swallowed := _swallowed(row, len(header))):
                    raise ValueError(
                        "a quotation mark that begins a field ends with its next one; in "
                        f"{where} one holds what looks like whole rows, {swallowed[:60]!r}. Where "
                        "the table was written without quoting, write it anew with it, or as jsonl."
                    )
                yield Row(dict(zip(header, row, strict=True)), where=where)
        except csv.Error as error:
            if "field limit" in str(error):
                raise ValueError(
                    f"a field of a table has at most {MAX_FIELD_CHARS:,} characters; the one that "
                    f"begins near line {reader.line_num} of {path} has more. Close its quotes, or "
                    "write so long a text as jsonl."
                ) from None
            raise ValueError(
                f"a table has quotes only around a field, doubled inside; near line "
                f"{reader.line_num} of {path} this fails: {error}. Mend the quotes; where the "
                "table was written without quoting, write it anew with it, or as jsonl."
            ) from None


def _swallowed(row: list[str], columns: int) -> str:
    """A line within a field that has a whole row's tabs; empty where there is none."""
    lines = (line for field in row if "\n" in field for line in field.split("\n")[1:-1])
    return next((line for line in lines if columns > 1 and line.count("\t") == columns - 1), "")


def _require_header(header: list[str], delimiter: str, path: Path) -> None:
    """Raises ValueError where the first line is a document, or of another delimiter: read on, the
    one would be lost as a name, and the other's labels would be trained on as text."""
    if text := [name for name in header if len(name.split()) > _WORDS_IN_A_NAME]:
        raise ValueError(
            f"the first line of a table names its columns; that of {path} holds text, "
            f"{text[0][:60]!r}. Add a line of names, such as text{delimiter}label."
        )
    if len(header) == 1:
        for other, called in _DELIMITERS.items():
            if other in header[0]:
                raise ValueError(
                    f"the columns of a {path.suffix} lie between {_DELIMITERS[delimiter]}; the "
                    f"header of {path} is one column, {header[0][:60]!r}, and looks like one of "
                    f"{called}. Write it anew, or rename the column."
                )
