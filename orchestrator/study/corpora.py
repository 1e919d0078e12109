"""The corpora of a launch: which text its trials train on, opened, named, and told apart.

A cell or a point may name its own (`data.corpus`). A loss on one text says nothing about another,
so everything that ranks or compares trials does it within a corpus.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import PurePath

from moe.config import TrialConfig
from moe.data.corpus import Corpus, open_corpus
from moe.data.labels import MIXTURE
from moe.data.sources.mixed_corpora import Mixture, parse_mixture, part_specs
from moe.metrics import loss_of_part
from orchestrator.base.errors import BadInput
from search_spaces.cells import Cell
from search_spaces.domains import Choice
from search_spaces.space import Space

CORPUS_PATH = "data.corpus"
_LABEL_LIMIT = 100


def corpora_of(base: TrialConfig, cells: Sequence[Cell], space: Space | None) -> tuple[str, ...]:
    """Every CORPUS SPEC that a trial of these cells or points trains on, in order of first use."""
    if space is None:
        return tuple(dict.fromkeys(cell.config(base).data.corpus for cell in cells))
    domain = space.axes.get(CORPUS_PATH)
    return domain.values if isinstance(domain, Choice) else (base.data.corpus,)


def opened_corpora(
    specs: Sequence[str], text_column: str = ""
) -> tuple[dict[str, Corpus], dict[str, str]]:
    """Each by its spec, and why the others could not be read. Raises BadInput where one is no
    mixture that could be read anywhere."""
    found, unread = {}, {}
    for spec in specs:
        try:
            part_specs(spec)
        except ValueError as error:
            raise BadInput(str(error)) from None
        try:
            found[spec] = open_corpus(spec, text_column)
        except (ValueError, OSError) as error:
            unread[spec] = str(error)
    return found, unread


def lacks_part(corpus: Corpus | None, metric: str) -> bool:
    """Whether a metric is the loss of a part that a corpus does not have, as far as that was read:
    parts are those of a mixture."""
    if corpus is None or not metric.startswith(loss_of_part("")):
        return False
    parts = corpus.source.parts if isinstance(corpus.source, Mixture) else ()
    return metric not in (loss_of_part(part.name) for part in parts)


def corpus_label(spec: str, limit: int = _LABEL_LIMIT) -> str:
    """A spec as it stands in a launch's name: without folders, and with no sign that a store or a
    file system may refuse."""
    kind, _, rest = spec.partition(":")
    label = f"{kind}:{PurePath(rest).name}" if rest else kind
    if kind == MIXTURE:
        with suppress(ValueError):  # a label already, or no mixture
            parts = parse_mixture(rest)[0].items()
            label = f"{kind}:" + ",".join(f"{corpus_label(s)}_{float(w):g}" for s, w in parts)
    return re.sub(r"[^A-Za-z0-9_.:,*-]", "_", label)[:limit]


def joint_label(specs: Sequence[str]) -> str:
    """One corpus by its spec; several by their labels, whatever their order."""
    if len(specs) == 1:
        return specs[0]
    return ",".join(sorted(map(corpus_label, specs)))[:_LABEL_LIMIT].rstrip(",")


def joint_digest(digests: Sequence[str]) -> str:
    """Of one corpus its own; of several one that changes with the text of any, not with their
    order."""
    if len(distinct := sorted(set(digests))) == 1:
        return distinct[0]
    return hashlib.sha256(" ".join(distinct).encode()).hexdigest()[: len(distinct[0])]
