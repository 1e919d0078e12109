"""Which columns of a corpus are labels, and each document's label in a few bytes."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

import numpy as np

TEXT_COLUMN = "text"
PART_COLUMN = "part"  # which part of a mixture a document is of
MIXTURE = "mix"  # the kind of a corpus of several parts
MAX_LABEL_VALUES = 1000
NO_LABEL = ""  # the value of a document that has none


class LabelTable:
    """Collects the columns beside the text, one document after the other, in bounded memory.

    A column is a label if all its values are strings (or missing), at most `MAX_LABEL_VALUES` of
    them distinct, and fewer than half as many as there are documents: otherwise it names documents
    rather than kinds of documents.
    """

    def __init__(self) -> None:
        self.num_documents = 0
        self._codes: dict[str, array[int]] = {}
        self._values: dict[str, dict[str, int]] = {}
        self._left_out: dict[str, str] = {}

    def add(self, row: Mapping[str, Any]) -> None:
        """Takes the labels of the next document."""
        for column in row:
            if column not in self._codes and column != TEXT_COLUMN and column not in self._left_out:
                self._codes[column] = array("i", [0]) * self.num_documents
                self._values[column] = {NO_LABEL: 0}
        for column in list(self._codes):
            value = row.get(column)
            if value is None:
                value = NO_LABEL
            values = self._values[column]
            if not isinstance(value, str):
                self._leave_out(column, f"holds a {type(value).__name__}, not text")
            elif value not in values and len(values) > MAX_LABEL_VALUES:
                self._leave_out(column, f"has more than {MAX_LABEL_VALUES} distinct values")
            else:
                self._codes[column].append(values.setdefault(value, len(values)))
        self.num_documents += 1

    def finish(self) -> tuple[dict[str, tuple[str, ...]], dict[str, np.ndarray]]:
        """Sorted values of each label column, and each document's index into them (int32)."""
        columns, codes = {}, {}
        for column in sorted(self._codes):
            code_D = np.frombuffer(self._codes[column], dtype=np.int32)
            names = list(self._values[column])
            used = np.unique(code_D)
            if len(used) > MAX_LABEL_VALUES:
                self._left_out[column] = f"has more than {MAX_LABEL_VALUES} distinct values"
            elif 2 * len(used) >= self.num_documents:
                self._left_out[column] = (
                    f"has {len(used)} distinct values in {self.num_documents} documents"
                )
            else:
                order = sorted(used, key=lambda code: names[code])
                rank = np.zeros(len(names), dtype=np.int32)
                rank[order] = np.arange(len(order))
                columns[column] = tuple(names[code] for code in order)
                codes[column] = rank[code_D]
        return columns, codes

    @property
    def candidates(self) -> set[str]:
        """Columns that are labels by the documents so far, but for how many values they have."""
        return set(self._codes)

    @property
    def left_out(self) -> dict[str, str]:
        """Columns that are no labels, with the reason."""
        return dict(sorted(self._left_out.items()))

    def _leave_out(self, column: str, reason: str) -> None:
        self._left_out[column] = reason
        del self._codes[column], self._values[column]


class LabelSurvey:
    """Which columns of a corpus are labels, read only as far as a question needs.

    `columns` are all that can be labels, where the source knows them without reading (a schema).
    After `limit` documents (of a source that is far away) a column that still can be a label is
    taken for one.
    """

    _STEP = 1000

    def __init__(
        self,
        documents: Iterable[Mapping[str, Any]],
        *,
        columns: tuple[str, ...] | None,
        limit: int | None,
    ) -> None:
        self._documents: Iterator[Mapping[str, Any]] = iter(documents)
        self._columns = columns
        self._limit = limit
        self._table = LabelTable()
        self._names: set[str] | None = None  # once all was read, or as much as may be

    def beside(self, wanted: Iterable[str]) -> set[str]:
        """Label columns that are none of `wanted`."""
        wanted = set(wanted)
        while self._names is None and (self._columns is None or self._open() - wanted):
            self._read_on()
        return (self._open() if self._names is None else self._names) - wanted

    def has(self, column: str) -> bool:
        while self._names is None and (self._columns is None or column in self._open()):
            self._read_on()
        return column in (self._open() if self._names is None else self._names)

    def names(self) -> tuple[str, ...]:
        return tuple(sorted(self.beside(())))

    def _open(self) -> set[str]:
        assert self._columns is not None
        return set(self._columns) - set(self._table.left_out)

    def _read_on(self) -> None:
        count = 0
        for row in islice(self._documents, self._STEP):
            self._table.add(row)
            count += 1
        if count < self._STEP:
            self._names = set(self._table.finish()[0])
        elif self._limit is not None and self._table.num_documents >= self._limit:
            self._names = self._table.candidates
