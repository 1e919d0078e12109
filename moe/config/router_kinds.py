"""The kinds of router, and what the rest of the program must know of each.

A new kind is a row here and a class in `moe/model/router.py`. Configs, accounting, identity,
training, search spaces and analyses ask for a trait, never for a name.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class RouterKind:
    """One row; a trait that is left out is false.

    scores: a linear map of the hidden states scores every expert, so that gate, initial scale,
        z-loss and the representation of a sequence have an effect.
    stores_weights: it keeps what it scores with, as parameters or buffers: these are counted, and
        only such a router can be balanced.
    trains: the gradient reaches its weights.
    redraws: its weights are drawn anew for each step, and for each batch in evaluation.
    reads_token_ids: a token's id alone decides, so its unit is the token.
    follows_labels: the label of the sequence decides (`moe.label_column`): its unit is the
        sequence, every block decides alike, and a label has one expert.
    """

    name: str
    meaning: str
    source: str = ""
    scores: bool = False
    stores_weights: bool = False
    trains: bool = False
    redraws: bool = False
    reads_token_ids: bool = False
    follows_labels: bool = False


ROUTER_KINDS: dict[str, RouterKind] = {
    kind.name: kind
    for kind in (
        RouterKind(
            name="learned",
            meaning="learned",
            source="2402.13089",
            scores=True,
            stores_weights=True,
            trains=True,
        ),
        RouterKind(
            name="frozen",
            meaning="frozen at initialisation",
            source="2402.13089",
            scores=True,
            stores_weights=True,
        ),
        RouterKind(
            name="random",
            meaning="random anew each step",
            source="2402.13089",
            scores=True,
            redraws=True,
        ),
        RouterKind(
            name="hash",
            meaning="hash of the token id",
            source="2106.04426",
            reads_token_ids=True,
        ),
        RouterKind(
            name="label",
            meaning="the label of the sequence",
            source="2402.13089",
            follows_labels=True,
        ),
    )
}


def routers_that(has: Callable[[RouterKind], bool]) -> tuple[str, ...]:
    """Names of the kinds with a trait, in the table's order."""
    return tuple(name for name, kind in ROUTER_KINDS.items() if has(kind))
