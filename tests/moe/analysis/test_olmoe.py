"""OLMoE's measures of a probe: what is planted is found, what is even is at chance."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict

import numpy as np
import pytest

from moe.analysis.olmoe import MIN_OCCURRENCES, shares, summary

N, K, L = 4, 2, 2
SIZES = {"num_experts": N, "num_labels": L}
PAIRS = np.array(list(itertools.combinations(range(N), K)))


def test_even_choices_are_at_chance():
    """Every pair of experts as often for every label and every token id."""
    expert_TK = np.tile(PAIRS, (40, 1))
    label_T = np.repeat([0, 1], len(expert_TK) // 2)
    token_T = np.repeat(np.arange(4), len(expert_TK) // 4)
    found = summary(expert_TK, label_T, token_T, **SIZES)
    assert found.domain_specialization == pytest.approx(K / N)
    assert found.vocabulary_specialization == pytest.approx(K / N)
    assert found.co_activation == pytest.approx((K - 1) / (N - 1))


def test_a_pair_of_experts_a_label():
    label_T = np.repeat([0, 1], 30)
    found = summary(np.array([[0, 1], [2, 3]])[label_T], label_T, label_T, **SIZES)
    assert found.domain_specialization == 1
    assert found.vocabulary_specialization == 1
    assert found.co_activation == 1


def test_what_cannot_be_measured_is_none():
    label_T = np.array([0, 1])
    found = summary(np.array([[0], [1]]), label_T, label_T, **SIZES)
    assert found.co_activation is None, "one expert a token makes no pair"
    assert found.vocabulary_specialization is None, "no token id occurs often"


def test_rare_ids_are_left_out_of_the_mean():
    often = np.repeat([[0, 1], [2, 3]], MIN_OCCURRENCES, axis=0)
    expert_TK = np.concatenate([often, [[0, 1]]])
    token_T = np.concatenate([np.zeros(len(often), dtype=int), [1]])
    found = summary(expert_TK, np.zeros(len(token_T), dtype=int), token_T, **SIZES)
    assert found.vocabulary_specialization == pytest.approx(0.5)


def test_the_figure_of_olmoe_s_own_script():
    """As it computes it: a counter an id over first choices, the mean over ids."""
    rng = np.random.default_rng(1)
    expert_TK = np.array([rng.permutation(N)[:K] for _ in range(400)])
    token_T = rng.zipf(1.5, 400)
    chosen = defaultdict(list)
    for token, first in zip(token_T.tolist(), expert_TK[:, 0].tolist(), strict=True):
        chosen[token].append(first)
    largest = [Counter(of).most_common(1)[0][1] / len(of) for of in chosen.values()]
    found = summary(expert_TK, np.zeros(400, dtype=int), token_T, num_experts=N, num_labels=1)
    assert found.vocabulary_first_choice == pytest.approx(np.mean(largest))


def test_shares_in_full():
    rng = np.random.default_rng(0)
    expert_MTK = np.stack([PAIRS[rng.integers(0, len(PAIRS), 300)] for _ in range(2)])
    label_T, token_T = rng.integers(0, L, 300), rng.integers(0, 7, 300)
    table = shares(
        expert_MTK, label_T, token_T, layers=(1, 3), num_experts=N, labels=("a", "b", "never")
    )
    rows = {
        (r["layer"], r["measure"], r["expert"], r["key"]): r["share"] for r in table.to_pylist()
    }
    assert len(rows) == table.num_rows == 2 * N * (L + 7 + N), "none of the label without tokens"
    for m, layer in enumerate((1, 3)):
        for expert in range(N):
            chose_T = (expert_MTK[m] == expert).any(axis=1)
            for label, name in enumerate("ab"):
                expected = chose_T[label_T == label].mean()
                assert rows[layer, "domain_specialization", expert, name] == pytest.approx(expected)
            for token in range(7):
                expected = chose_T[token_T == token].mean()
                found = rows[layer, "vocabulary_specialization", expert, str(token)]
                assert found == pytest.approx(expected)
            for other in range(N):
                both_T = chose_T & (expert_MTK[m] == other).any(axis=1)
                found = rows[layer, "co_activation", expert, str(other)]
                assert found == pytest.approx(both_T.sum() / chose_T.sum())
