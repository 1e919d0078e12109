"""Where documents come from: CORPUS SPEC `stdlib`, `files:GLOB`, `hub:NAME[,CONFIG[+CONFIG...]]`,
or a mixture of these, `mix:SPEC=WEIGHT,SPEC=WEIGHT`.

A document is a row with text in one of its columns; the others may be labels (`LabelTable`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moe.data.labels import MIXTURE, TEXT_COLUMN, LabelSurvey, LabelTable
from moe.data.sources.kinds import KINDS, Source, kind_of
from moe.data.sources.mixed_corpora import Mixture
from moe.data.sources.rows import Row
from moe.data.sources.text_column import chosen_column, found_note, text_of, thin_text_note

if TYPE_CHECKING:
    import datasets


@dataclass(frozen=True)
class Corpus:
    """A corpus that was found, read once for its digest, and holds at least one document.

    The digest depends on content, not on paths: the same files elsewhere are the same corpus.
    """

    spec: str
    digest: str
    source: Source = field(repr=False)
    text_column: str = TEXT_COLUMN
    notes: tuple[str, ...] = ()  # what is worth saying of how it is read

    def documents(self, scratch: Path | None = None) -> Iterator[dict[str, Any]]:
        """Every row that has text, as `text`, with its other columns.

        What is inside an object or a list of another column is left out: labels are text. Raises
        ValueError on a row whose text is missing or no string.
        """
        column, whole = self.text_column, f"the corpus {self.spec!r}"
        no_labels = self._no_labels
        for row in self.source.rows(scratch):
            is_text = isinstance(row, Row) and row.is_text
            where = (isinstance(row, Row) and row.where) or whole
            text = row[TEXT_COLUMN] if is_text else text_of(row, column, where)
            if is_document(text):
                document: dict[str, Any] = {TEXT_COLUMN: text}
                for name, value in row.items():
                    if name not in no_labels:
                        nested = isinstance(value, list | dict)
                        document[name] = type(value)() if nested else value
                yield document

    @property
    def text_columns(self) -> tuple[str, ...]:
        """The column of the text; of a mixture those of its parts."""
        if isinstance(self.source, Mixture):
            return tuple(part.corpus.text_column for part in self.source.parts)
        return (self.text_column,)

    @property
    def _no_labels(self) -> set[str]:
        """The text itself, and what it lies in."""
        return {TEXT_COLUMN, self.text_column, self.text_column.partition(".")[0]}

    def dataset(self, cache_dir: Path) -> datasets.IterableDataset:
        """The documents as a streaming data set; only temporary files go to `cache_dir`."""
        from moe.data.sources.document_stream import stream

        return stream(lambda: self.documents(cache_dir), cache_dir)

    @cached_property
    def label_columns(self) -> dict[str, tuple[str, ...]]:
        """Sorted values of each label column; reads the whole corpus the first time."""
        table = LabelTable()
        for row in self.documents():
            table.add(row)
        return table.finish()[0]

    @cached_property
    def labels(self) -> LabelSurvey:
        """Which columns are labels, read only as far as a question needs."""
        drawn_far_away = is_mixture(self) and self.source.survey_limit is not None
        columns = self.source.label_candidates()
        return LabelSurvey(
            self.source.undrawn() if drawn_far_away else self.documents(),
            columns=None if columns is None else tuple(set(columns) - self._no_labels),
            limit=self.source.survey_limit,
        )

    @property
    def provenance(self) -> dict[str, Any]:
        return {"spec": self.spec, "digest": self.digest} | self.source.provenance()


def open_corpus(spec: str, text_column: str = "") -> Corpus:
    """Finds and checks a corpus; nothing is written.

    `text_column` may lie inside others (`message.content`). Without one it is `text`, or the only
    column that holds text, which a note of the corpus then names.

    Raises:
        ValueError: the spec is none, a file is missing, unreadable, of an unknown kind or not
            UTF-8, there is no such column of text, no document, a row that had to be read is
            malformed, or the Hub is not reached.
    """
    source = _source(spec, text_column)
    digest = source.digest()
    if isinstance(source, Mixture):  # its parts were opened, and each holds a document
        notes = tuple(note for part in source.parts for note in part.corpus.notes)
        corpus = Corpus(spec, digest, source, notes=notes)
    else:
        column = text_column or chosen_column(source.rows(), f"the corpus {spec!r}")
        found = column not in (text_column, TEXT_COLUMN)
        source = source.with_text_column(column)
        notes = (found_note(spec, column),) if found else ()
        thin = thin_text_note(spec, source.rows(), column)
        corpus = Corpus(spec, digest, source, column, (*notes, thin) if thin else notes)
        if next(corpus.documents(), None) is None:
            raise ValueError(
                f"a corpus holds at least one document with text; {spec!r} holds none. "
                f"{thin or 'Check that its files are not empty'}."
            )
    corpus.labels.beside(source.sequence_labels)  # a bad row is found before anything is made
    return corpus


def is_mixture(corpus: Corpus) -> bool:
    """Whether it is drawn from others, which takes a reading of all of them."""
    return isinstance(corpus.source, Mixture)


def is_document(text: str | None) -> bool:
    return bool(text) and not text.isspace()


def _source(spec: str, text_column: str) -> Source:
    kind, _, rest = spec.partition(":")
    if kind == MIXTURE and rest:
        return Mixture.of(rest, lambda part: open_corpus(part, text_column))
    if (found := kind_of(spec)) is not None:
        return found.opens(rest)
    raise ValueError(
        f"a corpus is {', '.join(k.form for k in KINDS.values())} or "
        f"mix:SPEC=WEIGHT,SPEC=WEIGHT; received {spec!r}. Write for example 'files:texts/*.jsonl'."
    )
