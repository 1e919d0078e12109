"""Chance where words are both labelled and routed one by one: what varies inside a document.

Neither labels nor routes are constant within a document then, and both are alike in its
neighbourhood: a text speaks of one thing, in one style, and its tokens are routed accordingly.
Words that are exchanged one by one lose that, and such a null rejects 8 to 100% of samples without
any association at a nominal 5%. So documents stay whole.

Shapes: T tokens, document after document, M layers, K experts chosen, P permutations, B blocks.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np


def shifted(
    expert_MTK: np.ndarray, document_T: np.ndarray, num_permutations: int, rng: np.random.Generator
) -> Iterator[np.ndarray]:
    """Routes, [M, T, K], that go round within each document by a step of its own.

    A document keeps its routes, their order and its labels; which stands beside which is chance.
    """
    first_D = np.flatnonzero(np.diff(document_T, prepend=-1))
    length_D = np.diff(first_D, append=len(document_T))
    document_T = np.repeat(np.arange(len(first_D)), length_D)
    place_T = np.arange(len(document_T)) - first_D[document_T]
    for _ in range(num_permutations):
        step_D = rng.integers(0, length_D)
        moved_T = (place_T + step_D[document_T]) % length_D[document_T]
        yield expert_MTK[:, first_D[document_T] + moved_T]


def exchanged_within(
    label_T: np.ndarray,
    condition_T: np.ndarray,
    document_T: np.ndarray,
    num_permutations: int,
    rng: np.random.Generator,
) -> Iterator[np.ndarray]:
    """Labels, [T], where documents have changed places, within each value of the condition.

    What a document has of one value is a block, in the order of the text. Blocks of a value and a
    size change places whole, and each document goes to one other for all its values, as nearly as
    these have blocks of its size: so a document's labels stay together, and a value keeps its own.
    """
    order_T = np.lexsort((np.arange(len(label_T)), document_T, condition_T))
    key_T = condition_T[order_T] * (document_T.max() + 1) + document_T[order_T]
    first_B = np.flatnonzero(np.diff(key_T, prepend=-1))
    size_B = np.diff(first_B, append=len(key_T))
    condition_B, document_B = condition_T[order_T][first_B], document_T[order_T][first_B]
    by_size = []
    for size in np.unique(size_B):
        chosen = np.flatnonzero(size_B == size)
        token_BS = order_T[first_B[chosen, None] + np.arange(size)]
        by_size.append((token_BS, condition_B[chosen], document_B[chosen]))
    num_documents = document_T.max() + 1
    for _ in range(num_permutations):
        from_D, to_D = rng.random(num_documents), rng.random(num_documents)
        drawn_T = label_T.copy()
        for token_BS, of_B, document_B in by_size:
            giving = np.lexsort((from_D[document_B], of_B))
            taking = np.lexsort((to_D[document_B], of_B))
            drawn_T[token_BS[taking]] = label_T[token_BS[giving]]
        yield drawn_T
