"""Cells, margin, seeds and scales that the studies around arXiv 2402.13089 share.

A cell is named by its unit, scope, router, N and K wherever it stands, so that a cell that two
studies share has one name, one hash, and is trained once. Its gate follows from unit and K, as in
the paper. A cell says what it moves and nothing else: `--set moe.balance=switch` reaches every cell
whose router can be balanced, and balance is not what `random`, `hash` and `label` cells differ in.

The corpora of the paper are on the Hub: Wikipedia's configs are its languages, so a document's
config is its language there; OpenWebText has neither, and is named with --corpus.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from moe.config import TrialConfig, routers_that
from search_spaces.cells import Cell
from search_spaces.overlay import overlay
from studies.scales import SCALES

# The margin of every equivalence, in nats a token: 1% of perplexity.
PERCENT = math.log(1.01)

# Holm's correction over 11 claims asks for |t| > 14.8 at three seeds, 5.7 at five.
_FIVE = (0, 1, 2, 3, 4)
SEEDS = {"cpu": _FIVE, "gpu": _FIVE, "paper": _FIVE}

MULTIWIKI = "hub:wikimedia/wikipedia," + "+".join(f"20231101.{x}" for x in ("en", "de", "fr", "it"))
OPENWEBTEXT = "hub:Skylion007/openwebtext"

PAPER_SCALES = SCALES | {"paper": overlay(SCALES["paper"], {"data.corpus": MULTIWIKI})}

_GATE_OF_CHOSEN = {"token": "softmax_topk", "sequence": "double_softmax"}
_NOT_BALANCED = routers_that(lambda kind: not kind.stores_weights)


def mixture(
    unit: str,
    *,
    scope: str = "layer",
    router: str = "learned",
    experts: int = 4,
    top_k: int = 2,
    suffix: str = "",
    also: Mapping[str, Any] | None = None,
) -> Cell:
    """A mixture of the paper; `also` is what else it moves, which `suffix` names."""
    overrides = {
        "moe.routing_unit": unit,
        "moe.routing_scope": scope,
        "moe.router": router,
        "moe.num_experts": experts,
        "moe.top_k": top_k,
        "moe.gate": "switch" if top_k == 1 else _GATE_OF_CHOSEN[unit],
    }
    if router in _NOT_BALANCED:
        overrides["moe.balance"] = "none"
    name = f"{unit}-{scope}-{router}-N{experts}-K{top_k}{suffix}"
    return Cell(name=name, overrides={**overrides, **(also or {})})


def dense(multiple: int, *, suffix: str = "", also: Mapping[str, Any] | None = None) -> Cell:
    """A dense model whose FFN is `multiple` times as wide."""
    overrides = {"moe.num_experts": 0, "model.ffn_multiple": float(multiple)}
    return Cell(name=f"dense-{multiple}x{suffix}", overrides={**overrides, **(also or {})})


def by_label(base: TrialConfig) -> list[Cell]:
    """The paper's routing by language: one expert a label, in all blocks alike.

    The label is the corpus column that `moe.label_column` names, `language` by default. The
    standard library has no languages, so there it is the topic; of several configs of the Hub it is
    the config. Without labels (OpenWebText, or `--set moe.label_column=`) there is no such cell.
    """
    column, corpus = base.moe.label_column, base.data.corpus
    if not column or corpus == OPENWEBTEXT:
        return []
    if column == "language" and corpus == "stdlib":
        column = "topic"
    elif column == "language" and corpus.startswith("hub:") and "+" in corpus:
        column = "config"
    also = {"moe.label_column": column}
    return [mixture("sequence", scope="global", router="label", top_k=1, also=also)]
