"""Cells, margin, seeds and scales that the studies around arXiv 2402.13089 share.

A cell is named by its unit, scope, router, N and K wherever it stands, so that a cell that two
studies share has one name, one hash, and is trained once. Its gate follows from unit and K, as in
the paper. A cell says what it moves and nothing else: the balance loss is the scale's, reaches
every cell whose router can be balanced, and is not what `random`, `hash` and `label` cells differ
in.

The loss is on: tables 1 and 2 print for sequence Top-2 the value that figure 1 has with it (10.667;
10.674 without). `paper_balance` asks what it does, `--set moe.balance=none` asks any study without.

An equivalence has a margin that the paper's own numbers give, before any of ours: half of the
smallest published effect that would be there if the two were not equivalent (`half_of_least`). 1%
of perplexity, which it was, is finer than five seeds at this spread can decide.

The corpora of the paper are on the Hub: Wikipedia's configs are its languages, so a document's
config is its language there; OpenWebText has neither, and is named with --corpus.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from moe.config import TrialConfig, routers_that
from orchestrator.study import Sequential
from search_spaces.cells import Cell
from search_spaces.overlay import overlay
from studies.published import published
from studies.scales import SCALES

PERCENT = math.log(1.01)  # in nats a token


def half_of_least(*pairs: tuple[str, str]) -> float:
    """Half of the smallest difference, in nats, that the paper has between the cells of any of the
    pairs, on any of its corpora."""
    values = published("table1", "table2", "table3")
    return min(
        abs(math.log(values[a][corpus] / values[b][corpus])) / 2
        for a, b in pairs
        for corpus in values[a].keys() & values[b].keys()
    )


# Were sequence Top-2 more than dense of its active size, it would near that of its total size:
# dense 2x against 4x (3.6% of perplexity).
CAPACITY_MARGIN = half_of_least(("dense-2x", "dense-4x"))
# Were a learned router worth something over another, it would be of the size of what it is worth
# over a random one, at either unit (2.8%).
ROUTER_MARGIN = half_of_least(
    *(
        (f"{unit}-layer-random-N4-K2", f"{unit}-layer-learned-N4-K2")
        for unit in ("token", "sequence")
    )
)
# Were a random router better than no experts, it would near what learned ones gain over dense 1x,
# at either unit (2.4%).
GAIN_MARGIN = half_of_least(
    *(("dense-1x", f"{unit}-layer-learned-N4-K2") for unit in ("token", "sequence"))
)
# A choice at sequence unit that matters moves the loss as scope does, the least of them (1.4%).
CHOICE_MARGIN = half_of_least(
    ("sequence-global-learned-N4-K2", "sequence-layer-learned-N4-K2"),
)

# A verdict after every seed, by tests that stay valid at each look: none is reached before the
# third seed, and `run --until-decided` gives more to the cells of claims that are open.
DESIGN = Sequential(max_seeds=20)
_FIRST = (0, 1, 2)
SEEDS = dict.fromkeys(("cpu", "gpu", "paper", "cpu-2025-11"), _FIRST)

MULTIWIKI = "hub:wikimedia/wikipedia," + "+".join(f"20231101.{x}" for x in ("en", "de", "fr", "it"))
OPENWEBTEXT = "hub:Skylion007/openwebtext"

PAPER_SCALES = {
    scale: overlay(base, {"moe.balance": "switch"})
    for scale, base in (
        SCALES | {"paper": overlay(SCALES["paper"], {"data.corpus": MULTIWIKI})}
    ).items()
}

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
