"""A row of a corpus: its columns, and where it stands, for messages."""

from __future__ import annotations

from typing import Any

from moe.data.labels import TEXT_COLUMN


class Row(dict[str, Any]):
    """`where` names file and line. Of a row without columns (`is_text`) all is text."""

    def __init__(self, values: dict[str, Any], *, where: str = "", is_text: bool = False) -> None:
        super().__init__(values)
        self.where = where
        self.is_text = is_text


def text_row(text: str) -> Row:
    return Row({TEXT_COLUMN: text}, is_text=True)
