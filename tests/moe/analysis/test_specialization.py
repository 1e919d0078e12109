"""The measures against naive loops and scikit-learn."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from sklearn.metrics import normalized_mutual_info_score

from moe.analysis.specialization import (
    assignment_frequency,
    co_activation,
    contingency,
    domain_specialization,
    normalized_mutual_information,
    purity,
    vocabulary_specialization,
    word_form_baseline,
)

N, K, L = 6, 3, 4


@pytest.fixture
def choices() -> tuple[np.ndarray, np.ndarray]:
    """Experts [T, K], different ones for a token, and labels that they follow a little."""
    rng = np.random.default_rng(0)
    label_T = rng.integers(0, L, 300)
    score_TN = rng.normal(size=(300, N)) + 2 * rng.normal(size=(L, N))[label_T]
    return np.argsort(-score_TN, axis=1)[:, :K], label_T


def test_contingency_counts_every_choice(choices):
    expert_TK, label_T = choices
    count_NL = contingency(expert_TK, label_T, num_experts=N, num_labels=L)
    naive = np.zeros((N, L), dtype=int)
    for experts, label in zip(expert_TK, label_T, strict=True):
        for expert in experts:
            naive[expert, label] += 1
    assert np.array_equal(count_NL, naive)
    assert count_NL.sum() == K * len(label_T)


def test_contingency_of_small_integers_does_not_overflow():
    expert_TK = np.full((3, 1), 999, dtype=np.int16)
    label_T = np.full(3, 99, dtype=np.int16)
    count_NL = contingency(expert_TK, label_T, num_experts=1000, num_labels=100)
    assert count_NL[999, 99] == 3


def test_shares_of_a_label(choices):
    expert_TK, label_T = choices
    count_NL = contingency(expert_TK, label_T, num_experts=N, num_labels=L + 1)
    frequency_NL = assignment_frequency(count_NL)
    share_NL = domain_specialization(count_NL, top_k=K)
    for label, expert in itertools.product(range(L), range(N)):
        chosen = (expert_TK[label_T == label] == expert).any(axis=1)
        assert share_NL[expert, label] == pytest.approx(chosen.mean())
        assert frequency_NL[expert, label] == pytest.approx(chosen.mean() / K)
    assert np.isnan(frequency_NL[:, L]).all(), "a label without tokens has no share, not a zero"


def test_domain_specialization_is_at_chance_for_even_choices():
    expert_TK = np.array(list(itertools.combinations(range(N), K)))
    count_NL = contingency(
        expert_TK, np.zeros(len(expert_TK), dtype=int), num_experts=N, num_labels=1
    )
    assert domain_specialization(count_NL, top_k=K) == pytest.approx(K / N)


def test_vocabulary_specialization_is_by_token_id(choices):
    expert_TK, _ = choices
    token_T = np.random.default_rng(1).choice([7, 50_000, 3], len(expert_TK))
    id_V, count_V, share_NV = vocabulary_specialization(expert_TK, token_T, num_experts=N)
    assert id_V.tolist() == [3, 7, 50_000]
    for v, token in enumerate(id_V):
        mine = expert_TK[token_T == token]
        assert count_V[v] == len(mine)
        for expert in range(N):
            assert share_NV[expert, v] == pytest.approx((mine == expert).any(axis=1).mean())


def test_co_activation_is_over_all_pairs(choices):
    expert_TK, _ = choices
    together_NN = co_activation(expert_TK, num_experts=N + 1)
    pairs, single = np.zeros((N, N)), np.zeros(N)
    for experts in expert_TK:
        for i in experts:
            single[i] += 1
            for j in experts:
                pairs[i, j] += 1
    assert together_NN[:N, :N] == pytest.approx(pairs / single[:, None])
    assert np.isnan(together_NN[N]).all(), "an expert that was never chosen"
    assert (together_NN[:N, N] == 0).all()


def test_co_activation_counts_the_first_with_the_last_in_rank():
    together_NN = co_activation(np.array([[0, 1, 2]]), num_experts=3)
    assert (together_NN == 1).all()


def test_nmi_equals_scikit_learn_with_one_choice():
    rng = np.random.default_rng(0)
    for strength in (0.0, 0.5, 3.0):
        for _ in range(10):
            label_T = rng.integers(0, L, 500)
            score_TN = rng.normal(size=(500, N)) + strength * rng.normal(size=(L, N))[label_T]
            expert_T = score_TN.argmax(axis=1)
            count_NL = contingency(expert_T[:, None], label_T, num_experts=N, num_labels=L)
            expected = normalized_mutual_info_score(label_T, expert_T, average_method="geometric")
            assert normalized_mutual_information(count_NL) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("count_NL", [[[3, 4]], [[3], [4]], [[5, 0], [7, 0]]])
def test_nmi_is_0_where_one_side_is_constant(count_NL):
    assert normalized_mutual_information(np.array(count_NL)) == 0.0


def test_nmi_is_1_for_one_expert_a_label_and_below_for_two():
    assert normalized_mutual_information(np.diag([5, 9, 2])) == pytest.approx(1)
    two_each = np.array([[4, 0], [4, 0], [0, 4], [0, 4]])
    assert normalized_mutual_information(two_each) == pytest.approx(np.sqrt(np.log(2) / np.log(4)))


def test_purity(choices):
    expert_TK, label_T = choices
    count_NL = contingency(expert_TK, label_T, num_experts=N, num_labels=L)
    assert purity(count_NL) == pytest.approx(sum(max(row) for row in count_NL) / (K * 300))
    assert purity(count_NL) >= np.bincount(label_T).max() / 300


def test_word_form_baseline_against_a_loop():
    rng = np.random.default_rng(0)
    unit_T = np.sort(rng.integers(0, 60, 200))
    label_T = rng.integers(0, 3, 60)[unit_T]
    token_T = np.where(rng.random(200) < 0.7, label_T * 10, rng.integers(0, 40, 200))
    found = word_form_baseline(token_T, label_T, unit_T, num_permutations=20)
    commonest = np.bincount(label_T).argmax()
    hits = hits_left_out = 0
    for t in range(200):
        counts = np.bincount(label_T[token_T == token_T[t]], minlength=3)
        others = (token_T == token_T[t]) & (unit_T != unit_T[t])
        left = np.bincount(label_T[others], minlength=3)
        hits += counts.max() / counts.sum()
        if left.sum() == 0:
            hits_left_out += label_T[t] == commonest
        else:
            hits_left_out += left[label_T[t]] > np.delete(left, label_T[t]).max()
    assert found.accuracy == pytest.approx(hits / 200)
    assert found.accuracy_left_out == pytest.approx(hits_left_out / 200)
    expected = normalized_mutual_info_score(label_T, token_T, average_method="geometric")
    assert found.nmi == pytest.approx(expected)
    assert 0 < found.nmi_null_mean < found.nmi


def test_word_form_baseline_is_perfect_where_the_word_decides():
    token_T = np.tile([1, 2, 3], 50)
    found = word_form_baseline(token_T, token_T % 2, np.arange(150), num_permutations=5)
    assert (found.accuracy, found.accuracy_left_out) == (1.0, 1.0)
