"""Where documents come from: CORPUS SPEC `stdlib`, `files:GLOB`, `hub:NAME[,CONFIG[+CONFIG...]]`,
or a mixture of these, `mix:SPEC=WEIGHT,SPEC=WEIGHT`.

A document is a row with a string column `text`; its other columns may be labels (`LabelTable`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from moe.data.labels import TEXT_COLUMN, LabelSurvey, LabelTable
from moe.data.sources.files import LocalFiles, missing_text
from moe.data.sources.hub import HubConfigs, HubDataset
from moe.data.sources.mixed_corpora import Mixture
from moe.data.sources.stdlib import StandardLibrary

if TYPE_CHECKING:
    import datasets


class Source(Protocol):
    @property
    def sequence_labels(self) -> tuple[str, ...]:
        """Labels that the source itself is ordered by: no sequence ever mixes their values."""

    @property
    def survey_limit(self) -> int | None:
        """Documents that a survey of its labels may read; None: all, where they are at hand."""

    def label_candidates(self) -> tuple[str, ...] | None:
        """All columns that can be labels; None where only reading every row tells."""

    def digest(self) -> str:
        """Digest of the content; raises ValueError where it cannot be read."""

    def provenance(self) -> dict[str, Any]:
        """What is recorded beside the digest."""

    def rows(self, scratch: Path | None = None) -> Iterator[dict[str, Any]]:
        """Every row, in an order that depends on the source alone. Temporary files go to
        `scratch` (by default the system's folder for them)."""


@dataclass(frozen=True)
class Corpus:
    """A corpus that was found, read once for its digest, and holds at least one document.

    The digest depends on content, not on paths: the same files elsewhere are the same corpus.
    """

    spec: str
    digest: str
    source: Source = field(repr=False)

    def documents(self, scratch: Path | None = None) -> Iterator[dict[str, Any]]:
        """Every row that has text. Raises ValueError on a row without a string `text`."""
        for row in self.source.rows(scratch):
            text = row.get(TEXT_COLUMN)
            if TEXT_COLUMN not in row or not isinstance(text, str | None):
                raise ValueError(missing_text(f"the corpus {self.spec!r}", _described(row)))
            if is_document(text):
                yield row

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
        return LabelSurvey(
            self.source.undrawn() if drawn_far_away else self.documents(),
            columns=self.source.label_candidates(),
            limit=self.source.survey_limit,
        )

    @property
    def provenance(self) -> dict[str, Any]:
        return {"spec": self.spec, "digest": self.digest} | self.source.provenance()


def open_corpus(spec: str) -> Corpus:
    """Finds and checks a corpus; nothing is written.

    Raises:
        ValueError: the spec is none, a file is missing, unreadable, of an unknown kind or not
            UTF-8, there is no column `text`, no document, a row that had to be read is malformed,
            or the Hub is not reached.
    """
    source = _source(spec)
    corpus = Corpus(spec, source.digest(), source)
    # The parts of a mixture were opened, and each holds a document.
    if not is_mixture(corpus) and next(corpus.documents(), None) is None:
        raise ValueError(
            f"a corpus holds at least one document with text; {spec!r} holds none. "
            "Check that its files are not empty."
        )
    corpus.labels.beside(source.sequence_labels)  # a bad row is found before anything is made
    return corpus


def is_mixture(corpus: Corpus) -> bool:
    """Whether it is drawn from others, which takes a reading of all of them."""
    return isinstance(corpus.source, Mixture)


def is_document(text: str | None) -> bool:
    return bool(text) and not text.isspace()


def _source(spec: str) -> Source:
    kind, _, rest = spec.partition(":")
    if spec == "stdlib":
        return StandardLibrary()
    if kind == "files" and rest:
        return LocalFiles(rest)
    if kind == "hub" and rest:
        name, _, config = rest.partition(",")
        if "+" in config:
            return HubConfigs(name, tuple(config.split("+")))
        return HubDataset(name, config or None)
    if kind == "mix" and rest:
        return Mixture.of(rest, open_corpus)
    raise ValueError(
        "a corpus is stdlib, files:GLOB, hub:NAME[,CONFIG[+CONFIG...]] or "
        f"mix:SPEC=WEIGHT,SPEC=WEIGHT; received {spec!r}. Write for example 'files:texts/*.jsonl'."
    )


def _described(row: dict[str, Any]) -> list[str]:
    return [f"{name} ({type(value).__name__})" for name, value in row.items()]
