"""Cells that are the same run over some base: trained once, under the first one's name."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from moe.config import TrialConfig
from moe.data.corpus import Corpus
from moe.identity import cell_hash
from orchestrator.study.launch import with_digest
from search_spaces.cells import Cell


def merge_equal(
    cells: Sequence[Cell],
    base: TrialConfig,
    corpora: Mapping[str, Corpus],
    followed: frozenset[str],
    tuned: Collection[str] = (),
) -> tuple[tuple[Cell, ...], dict[str, str]]:
    """Cells that are the same run over this base (all experts chosen: dense-active is dense-total;
    two corpora of the same text) become one, under the first one's name; the others' names, with
    the one that stands for them. Of `tuned` paths only those that both leave open, or both set, are
    the same: what is chosen for one is nothing that the other asked for."""
    kept: dict[tuple[str, ...], Cell] = {}
    merged = {}
    for cell in cells:
        config = with_digest(cell.config(base), corpora, followed)
        key = (cell_hash(config),) if config.data.digest else trained_as(config)
        key += tuple(path for path in tuned if path not in cell.overrides)
        if key in kept:
            merged[cell.name] = kept[key].name
        else:
            kept[key] = cell
    return tuple(kept.values()), merged


def trained_as(config: TrialConfig) -> tuple[str, ...]:
    """What a config trains while its tokens' digest is unknown: where they come from stands for
    it, which no hash holds."""
    data = config.data
    labels = "+".join(data.sequence_label_columns)
    return cell_hash(config), data.corpus, data.text_column, data.tokenizer, labels
