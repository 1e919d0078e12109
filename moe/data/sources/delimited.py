"""Rows of csv and tsv: the first line names the columns, quotes are doubled inside quotes."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from moe.data.sources.plain_text import open_text
from moe.data.sources.rows import Row

MAX_FIELD_CHARS = 1 << 24  # a field is a document


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
            if len(set(header)) != len(header):
                raise ValueError(
                    f"the columns of a table have different names; the header of {path} is "
                    f"{', '.join(header)}. Rename those that are the same."
                )
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
                yield Row(dict(zip(header, row, strict=True)), where=where)
        except csv.Error as error:
            raise ValueError(
                f"a table has quotes only around a field, doubled inside; near line "
                f"{reader.line_num} of {path} this fails: {error}. Mend the quotes."
            ) from None
