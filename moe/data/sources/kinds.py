"""The kinds of corpora: a row each says how a spec of it is written and what reads it.

To add one: a `Source`, and a row here. A mixture draws from these and is no row
(`moe.data.sources.mixed_corpora`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from moe.data.sources.files import LocalFiles
from moe.data.sources.hub import HubConfigs, HubDataset
from moe.data.sources.stdlib import StandardLibrary


class Source(Protocol):
    @property
    def sequence_labels(self) -> tuple[str, ...]:
        """Labels that the source itself is ordered by: no sequence ever mixes their values."""

    @property
    def survey_limit(self) -> int | None:
        """Documents that a survey of its labels may read; None: all, where they are at hand."""

    def label_candidates(self) -> tuple[str, ...] | None:
        """All columns that can be labels; None where only reading every row tells."""

    def with_text_column(self, column: str) -> Source:
        """The same, to be read for this column; raises ValueError where it is known not to be."""

    def digest(self) -> str:
        """Digest of the content; raises ValueError where it cannot be read."""

    def provenance(self) -> dict[str, Any]:
        """What is recorded beside the digest."""

    def rows(self, scratch: Path | None = None) -> Iterator[dict[str, Any]]:
        """Every row, in an order that depends on the source alone. Temporary files go to
        `scratch` (by default the system's folder for them)."""


@dataclass(frozen=True, kw_only=True)
class Kind:
    """`form`: how a user writes a spec; `opens` takes what follows its first colon. `is_path`: that
    is a path or a glob."""

    form: str
    opens: Callable[[str], Source]
    is_path: bool = False

    @property
    def takes_more(self) -> bool:
        """Whether its name alone is no spec."""
        return ":" in self.form


def _of_hub(rest: str) -> Source:
    name, _, config = rest.partition(",")
    if "+" in config:
        return HubConfigs(name, tuple(config.split("+")))
    return HubDataset(name, config or None)


KINDS = {
    "stdlib": Kind(form="stdlib", opens=lambda _: StandardLibrary()),
    "files": Kind(form="files:GLOB", opens=LocalFiles, is_path=True),
    "hub": Kind(form="hub:NAME[,CONFIG[+CONFIG...]]", opens=_of_hub),
}


def kind_of(spec: str) -> Kind | None:
    """The kind of a spec that is no mixture; None where it is none."""
    name, colon, rest = spec.partition(":")
    kind = KINDS.get(name)
    if kind is None or bool(rest) != kind.takes_more or (colon and not rest):
        return None
    return kind


def path_of(spec: str) -> str | None:
    """The path or glob that a spec names; None where it names none."""
    kind = kind_of(spec)
    return spec.partition(":")[2] if kind is not None and kind.is_path else None
