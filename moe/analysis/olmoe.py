"""OLMoE's measures (arXiv 2409.02060) of one model on one probe: in full, and a number each.

Shapes: T tokens, M layers, K experts chosen for a token, N experts, L labels, V token ids.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from moe.analysis.specialization import (
    co_activation,
    contingency,
    domain_specialization,
    vocabulary_specialization,
)

# Of a token id that occurs once, all occurrences choose the same experts.
MIN_OCCURRENCES = 10

SCHEMA = pa.schema(
    [
        ("layer", pa.int32()),
        ("measure", pa.string()),
        ("expert", pa.int32()),
        ("key", pa.string()),
        ("share", pa.float64()),
    ]
)


@dataclass(frozen=True, kw_only=True)
class Summary:
    """One layer's measures as a number each.

    `domain_specialization` is the mean over labels of the largest share among experts, and
    `vocabulary_specialization` the same over token ids, weighted by their occurrences, of ids that
    occur often enough (None where none does). `vocabulary_first_choice` is the figure that OLMoE's
    own script prints ("Average probability" in its scripts/run_moe_analysis.py): over all token
    ids, each once and rare ones too, the largest share of first choices that one expert has; an id
    that occurs once has 1, so that it grows as the text becomes smaller. `co_activation` is the
    largest share among pairs of experts, None where K = 1. By chance the first two are K/N, the
    last is (K-1)/(N-1).
    """

    domain_specialization: float
    vocabulary_specialization: float | None
    vocabulary_first_choice: float
    co_activation: float | None


def summary(
    expert_TK: np.ndarray,
    label_T: np.ndarray,
    token_T: np.ndarray,
    *,
    num_experts: int,
    num_labels: int,
) -> Summary:
    count_NL = contingency(expert_TK, label_T, num_experts=num_experts, num_labels=num_labels)
    top_k = expert_TK.shape[1]
    share_NL = domain_specialization(count_NL, top_k=top_k)[:, count_NL.any(axis=0)]
    _, count_V, share_NV = vocabulary_specialization(expert_TK, token_T, num_experts=num_experts)
    first_T1 = expert_TK[:, :1]  # experts are chosen the best first (moe.model.selection)
    _, _, first_NV = vocabulary_specialization(first_T1, token_T, num_experts=num_experts)
    often_V = count_V >= MIN_OCCURRENCES
    vocabulary = together = None
    if often_V.any():
        largest_V = share_NV[:, often_V].max(axis=0)
        vocabulary = float(np.average(largest_V, weights=count_V[often_V]))
    if top_k > 1:
        pairs_NN = co_activation(expert_TK, num_experts=num_experts)
        together = float(np.nanmax(pairs_NN[~np.eye(num_experts, dtype=bool)]))
    return Summary(
        domain_specialization=float(share_NL.max(axis=0).mean()),
        vocabulary_specialization=vocabulary,
        vocabulary_first_choice=float(first_NV.max(axis=0).mean()),
        co_activation=together,
    )


def shares(
    expert_MTK: np.ndarray,
    label_T: np.ndarray,
    token_T: np.ndarray,
    *,
    layers: tuple[int, ...],
    num_experts: int,
    labels: tuple[str, ...],
) -> pa.Table:
    """Every share, a row each (SCHEMA); `key` is the label, the token id, or the other expert."""
    parts = [
        _rows(layer, measure, share_NX, keys)
        for layer, expert_TK in zip(layers, expert_MTK, strict=True)
        for measure, share_NX, keys in _measures(
            expert_TK, label_T, token_T, num_experts=num_experts, labels=labels
        )
    ]
    return pa.concat_tables(parts)


def _measures(
    expert_TK: np.ndarray,
    label_T: np.ndarray,
    token_T: np.ndarray,
    *,
    num_experts: int,
    labels: tuple[str, ...],
) -> Iterator[tuple[str, np.ndarray, list[str]]]:
    count_NL = contingency(expert_TK, label_T, num_experts=num_experts, num_labels=len(labels))
    yield (
        "domain_specialization",
        domain_specialization(count_NL, top_k=expert_TK.shape[1]),
        list(labels),
    )
    id_V, _, share_NV = vocabulary_specialization(expert_TK, token_T, num_experts=num_experts)
    yield "vocabulary_specialization", share_NV, [str(i) for i in id_V]
    pairs_NN = co_activation(expert_TK, num_experts=num_experts)
    yield "co_activation", pairs_NN, [str(e) for e in range(num_experts)]


def _rows(layer: int, measure: str, share_NX: np.ndarray, keys: list[str]) -> pa.Table:
    """Shares of what did not occur are left out."""
    expert_NX, key_NX = np.indices(share_NX.shape)
    seen = ~np.isnan(share_NX)
    count = int(seen.sum())
    return pa.table(
        {
            "layer": pa.array([layer] * count, pa.int32()),
            "measure": pa.array([measure] * count),
            "expert": pa.array(expert_NX[seen], pa.int32()),
            "key": pa.array(keys).take(pa.array(key_NX[seen])),
            "share": share_NX[seen],
        },
        schema=SCHEMA,
    )
