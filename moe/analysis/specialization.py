"""Measures of what experts specialise in, from chosen experts and labels alone.

Shapes: T tokens, K experts chosen for a token, N experts, L labels, V distinct token ids,
R rows of a table (a token id with one of its labels).

Labels, token ids and experts are whole numbers from 0; numpy only. The shares and co-activation
are OLMoE's (arXiv 2409.02060); the permutation null is in `permutation_test`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from moe.analysis.permutation_test import association, normalized_information

_BLOCK_TOKENS = 1 << 16


@dataclass(frozen=True, kw_only=True)
class WordForm:
    """How well the token id alone tells the label: what any measure of syntax has to beat.

    `accuracy` guesses the commonest label of the id on the tokens it was counted on (comparable
    with the experts' purity, which is too); `accuracy_left_out` counts it on all other labelled
    units, takes a tie for a miss, and falls back on the commonest label of all.
    """

    accuracy: float
    accuracy_left_out: float
    nmi: float
    nmi_null_mean: float


def contingency(
    expert_TK: np.ndarray, label_T: np.ndarray, *, num_experts: int, num_labels: int
) -> np.ndarray:
    """n_el: assignments of label l to expert e, [N, L]; they sum to K*T."""
    cell_TK = expert_TK.astype(np.int64) * num_labels + label_T[:, None]
    count = np.bincount(cell_TK.ravel(), minlength=num_experts * num_labels)
    return count.reshape(num_experts, num_labels)


def assignment_frequency(count_NL: np.ndarray) -> np.ndarray:
    """P(e | l) = n_el / sum_e n_el, [N, L]: the bars of arXiv 2402.13089; NaN for unseen labels."""
    return _divide(count_NL, count_NL.sum(axis=0))


def domain_specialization(count_NL: np.ndarray, *, top_k: int) -> np.ndarray:
    """Share of label l's tokens that choose e, [N, L]; chance level K/N (arXiv 2409.02060)."""
    return top_k * assignment_frequency(count_NL)


def vocabulary_specialization(
    expert_TK: np.ndarray, token_T: np.ndarray, *, num_experts: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Domain specialisation with the token id as label (arXiv 2409.02060).

    Returns the ids that occur [V], how often each does [V], and the share of its occurrences that
    choose each expert [N, V].
    """
    id_V, form_T, count_V = np.unique(token_T, return_inverse=True, return_counts=True)
    count_NV = contingency(expert_TK, form_T, num_experts=num_experts, num_labels=len(id_V))
    return id_V, count_V, domain_specialization(count_NV, top_k=expert_TK.shape[1])


def co_activation(expert_TK: np.ndarray, *, num_experts: int) -> np.ndarray:
    """N_ij / N_i, [N, N]: of the tokens that choose i, the share that choose j as well.

    Over all pairs of the K chosen, not only neighbours in rank (arXiv 2409.02060). The diagonal
    is 1; the row of an expert that no token chose is NaN.
    """
    pairs_NN = np.zeros((num_experts, num_experts))
    for start in range(0, len(expert_TK), _BLOCK_TOKENS):
        block_BK = expert_TK[start : start + _BLOCK_TOKENS]
        chosen_BN = np.zeros((len(block_BK), num_experts))
        np.put_along_axis(chosen_BN, block_BK.astype(np.intp), 1.0, axis=1)
        pairs_NN += chosen_BN.T @ chosen_BN
    return _divide(pairs_NN, np.diag(pairs_NN)[:, None])


def normalized_mutual_information(count_NL: np.ndarray) -> float:
    """NMI = I(e; l) / sqrt(H(e) H(l)) of a contingency table; 0 where an entropy is 0.

    With K > 1 every choice is one assignment, and a label that spreads over K experts of its own
    pays for their entropy: it stays below 1.
    """
    return normalized_information(count_NL.T)


def purity(count_NL: np.ndarray) -> float:
    """sum_e max_l n_el / sum n. At least the share of the commonest label."""
    return float(count_NL.max(axis=1).sum() / count_NL.sum())


def word_form_baseline(
    token_T: np.ndarray,
    label_T: np.ndarray,
    unit_T: np.ndarray,
    *,
    num_permutations: int = 200,
    seed: int = 0,
) -> WordForm:
    """Predict the label from the token id; `unit_T` numbers what was labelled as one."""
    _, form_T = np.unique(token_T, return_inverse=True)
    num_forms, num_labels = int(form_T.max()) + 1, int(label_T.max()) + 1
    # One row for each form with each of its labels, a form's commonest label first.
    pair_R, row_T, count_R = np.unique(
        form_T * num_labels + label_T, return_inverse=True, return_counts=True
    )
    form_R = pair_R // num_labels
    rows_V = np.bincount(form_R)
    first_V = np.cumsum(rows_V) - rows_V
    order_R = np.lexsort((-count_R, form_R))
    best_V = order_R[first_V]
    second_V = order_R[np.minimum(first_V + 1, len(order_R) - 1)]
    rival_V = np.where(rows_V > 1, count_R[second_V], 0)
    # Without its own unit a form's label has fewer occurrences, and its other labels as many.
    unit_T = renumber(unit_T)
    _, own_T, own_count = np.unique(
        form_T * (unit_T.max() + 1) + unit_T, return_inverse=True, return_counts=True
    )
    left_T = count_R[row_T] - own_count[own_T]
    is_best_T = row_T == best_V[form_T]
    unseen_T = left_T + np.bincount(form_T)[form_T] - count_R[row_T] == 0
    guessed_T = np.where(
        unseen_T, label_T == np.bincount(label_T).argmax(), is_best_T & (left_T > rival_V[form_T])
    )
    nmi_PM = association(
        form_T[None, :, None],
        label_T,
        num_experts=num_forms,
        unit_T=unit_T,
        exchanged="label",
        num_permutations=num_permutations,
        seed=seed,
    )
    return WordForm(
        accuracy=float(count_R[best_V].sum() / len(token_T)),
        accuracy_left_out=float(guessed_T.mean()),
        nmi=float(nmi_PM[0, 0]),
        nmi_null_mean=float(nmi_PM[1:, 0].mean()),
    )


def renumber(number_T: np.ndarray) -> np.ndarray:
    """The same numbers, counted from 0 without gaps."""
    return np.unique(number_T, return_inverse=True)[1]


def _divide(count: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """NaN, not 0, where nothing was counted."""
    whole = np.broadcast_to(whole, count.shape)
    return np.divide(count, whole, out=np.full(count.shape, np.nan), where=whole > 0)
