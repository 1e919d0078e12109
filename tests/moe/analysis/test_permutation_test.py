"""The null: planted specialisation is found, none is found where there is none, at every unit."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats

from moe.analysis.document_nulls import exchanged_within
from moe.analysis.permutation_test import Null, association, conditional_information

N, L = 4, 5
PERMUTATIONS = 99

Sample = dict[str, np.ndarray]


def independent_tokens(rng: np.random.Generator) -> Sample:
    """Every token by itself, two of four experts chosen."""
    expert_TK = rng.permuted(np.tile(np.arange(N), (800, 1)), axis=1)[:, :2]
    label_T = rng.integers(0, L, 800)
    return {"expert": expert_TK, "label": label_T, "unit": np.arange(800)}


def documents_with_a_habit(rng: np.random.Generator) -> Sample:
    """Documents of one label that each prefer some expert, whatever their label is; documents of
    one label are long, of another short."""
    label_U = rng.integers(0, L, 150)
    length_U = 1 + rng.poisson(np.array([4, 8, 16, 30, 60])[label_U])
    unit_T = np.repeat(np.arange(150), length_U)
    preference_TN = rng.normal(0, 1.5, (150, N))[unit_T]
    expert_T = (preference_TN + rng.gumbel(size=preference_TN.shape)).argmax(axis=1)
    return {"expert": expert_T[:, None], "label": label_U[unit_T], "unit": unit_T}


def sequences_on_words(rng: np.random.Generator) -> Sample:
    """One route a sequence; sequences differ in which labels their words have."""
    unit_T = np.repeat(np.arange(150), 1 + rng.poisson(rng.choice([5, 20, 60], 150)))
    mixture_TL = np.log(rng.dirichlet(np.ones(L), 150))[unit_T]
    label_T = (mixture_TL + rng.gumbel(size=mixture_TL.shape)).argmax(axis=1)
    route_UK = rng.permuted(np.tile(np.arange(N), (150, 1)), axis=1)[:, :2]
    return {"expert": route_UK[unit_T], "label": label_T, "unit": unit_T}


def words_in_documents(rng: np.random.Generator) -> Sample:
    """Words with labels and routes of their own; a document leans to some labels and, whatever
    these are, to some experts, and what stands beside a word has often its expert."""
    unit_T = np.repeat(np.arange(60), rng.integers(10, 30, 60))
    lean_TL = np.log(rng.dirichlet(np.full(L, 0.5), 60))[unit_T]
    label_T = (lean_TL + rng.gumbel(size=lean_TL.shape)).argmax(axis=1)
    habit_TN = rng.normal(0, 1.5, (60, N))[unit_T]
    expert_T = (habit_TN + rng.gumbel(size=habit_TN.shape)).argmax(axis=1)
    for t in np.flatnonzero((rng.random(len(unit_T)) < 0.5) & (np.diff(unit_T, prepend=-1) == 0)):
        expert_T[t] = expert_T[t - 1]
    return {"expert": expert_T[:, None], "label": label_T, "unit": unit_T}


def p_values(
    make: Callable[[np.random.Generator], Sample], exchanged: str, repeats: int, *, tokens: bool
) -> np.ndarray:
    """p of samples without any specialisation; `tokens`: exchanged wrongly, one by one."""
    found = np.empty(repeats)
    for i in range(repeats):
        sample = make(np.random.default_rng(i))
        unit_T = np.arange(len(sample["label"])) if tokens else sample["unit"]
        nmi_PM = association(
            sample["expert"][None],
            sample["label"],
            num_experts=N,
            unit_T=unit_T,
            exchanged="label" if tokens else exchanged,
            num_permutations=PERMUTATIONS,
            seed=10_000 + i,
        )
        found[i] = Null.of(nmi_PM[0, 0], nmi_PM[1:, 0]).p_value
    return found


def assert_uniform(p: np.ndarray) -> None:
    """p takes the values 1/100 to 1: spread evenly over each step, it is uniform on 0 to 1."""
    spread = p - np.random.default_rng(0).random(len(p)) / (PERMUTATIONS + 1)
    assert stats.kstest(spread, "uniform").pvalue > 0.01
    assert 0.01 <= np.mean(p <= 0.05) <= 0.10


@pytest.mark.parametrize(
    ("make", "exchanged"),
    [
        (independent_tokens, "label"),
        (documents_with_a_habit, "label"),
        (sequences_on_words, "route"),
        (words_in_documents, "neither"),
    ],
)
def test_p_is_uniform_without_specialisation(make, exchanged):
    assert_uniform(p_values(make, exchanged, 200, tokens=False))


@pytest.mark.parametrize(
    ("make", "exchanged"),
    [
        (documents_with_a_habit, "label"),
        (sequences_on_words, "route"),
        (words_in_documents, "neither"),
    ],
)
def test_exchanging_tokens_of_coarser_units_finds_what_is_not_there(make, exchanged):
    """Why the unit matters: at a level of 5%, more than half are false alarms."""
    assert np.mean(p_values(make, exchanged, 40, tokens=True) <= 0.05) > 0.5


def test_null_is_as_high_as_chance_where_lengths_follow_labels():
    """A plain exchange of units of all lengths would put the null half as high again."""
    observed, null = [], []
    for i in range(60):
        sample = documents_with_a_habit(np.random.default_rng(i))
        nmi_PM = association(
            sample["expert"][None],
            sample["label"],
            num_experts=N,
            unit_T=sample["unit"],
            exchanged="label",
            num_permutations=PERMUTATIONS,
            seed=i + 1000,
        )
        observed.append(nmi_PM[0, 0])
        null.append(nmi_PM[1:, 0].mean())
    assert np.mean(observed) == pytest.approx(np.mean(null), rel=0.1)


@pytest.mark.parametrize("exchanged", ["label", "route", "neither"])
def test_planted_specialisation_is_found(exchanged):
    """Two layers: the expert is the label in the first, and anything in the second."""
    rng = np.random.default_rng(0)
    unit_T = np.repeat(np.arange(200), rng.integers(5, 40, 200))
    label_T = rng.integers(0, N, 200)[unit_T]
    other_T = rng.integers(0, N, 200)[unit_T]
    if exchanged == "neither":
        label_T, other_T = rng.integers(0, N, (2, len(unit_T)))
    nmi_PM = association(
        np.stack([label_T, other_T])[:, :, None],
        label_T,
        num_experts=N,
        unit_T=unit_T,
        exchanged=exchanged,
        num_permutations=200,
        seed=0,
    )
    planted, unrelated = (Null.of(nmi_PM[0, m], nmi_PM[1:, m]) for m in (0, 1))
    assert planted.observed == pytest.approx(1)
    assert planted.p_value == pytest.approx(1 / 201)
    assert planted.high < 0.1
    assert unrelated.p_value > 0.05


def test_all_choices_of_a_unit_move_together():
    """Routes that change places stay whole, in all layers: a joint route occurs as often before
    as after."""
    from moe.analysis import permutation_test

    rng = np.random.default_rng(0)
    unit_T = np.repeat(np.arange(50), 4)
    expert_MTK = rng.integers(0, N, (3, 50, 2))[:, unit_T]
    draws = permutation_test._paired(
        expert_MTK, rng.integers(0, L, 200), unit_T, "route", None, num_permutations=5, seed=0
    )
    first, *rest = [sorted(map(bytes, experts.transpose(1, 0, 2))) for experts, _ in draws]
    assert len(rest) == 5
    assert all(routes == first for routes in rest)


def test_units_of_about_a_size_change_places():
    """Each with at least nine others where there are so many, and none twice."""
    from moe.analysis import permutation_test

    rng = np.random.default_rng(0)
    for size_U in (np.exp(rng.normal(3, 2, 500)).astype(int) + 1, np.full(30, 7), np.arange(1, 9)):
        groups = permutation_test._alike(size_U)
        assert sorted(np.concatenate(groups)) == list(range(len(size_U)))
        assert all(len(group) >= 10 for group in groups) or len(groups) == 1
        common = [size_U[group] for group in groups if len(group) > 40]
        assert all(sizes.max() <= 2 * sizes.min() for sizes in common)


def test_same_seed_same_null():
    sample = documents_with_a_habit(np.random.default_rng(0))
    first, again, other = (
        association(
            sample["expert"][None],
            sample["label"],
            num_experts=N,
            unit_T=sample["unit"],
            exchanged="label",
            num_permutations=20,
            seed=seed,
        )
        for seed in (3, 3, 4)
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first[1:], other[1:])


def test_p_value_counts_the_observed_one():
    null = Null.of(1.0, np.linspace(0, 0.5, 99))
    assert null.p_value == pytest.approx(1 / 100)
    assert Null.of(0.0, np.linspace(0, 0.5, 99)).p_value == 1.0
    assert (null.low, null.mean, null.high) == pytest.approx((0.0125, 0.25, 0.4875))


def words(rng: np.random.Generator, *, units: int = 0) -> Sample:
    """Experts and labels that both follow the token id, and each other only through it. `units`:
    documents of one label that each prefer some expert; otherwise tokens by themselves."""
    if units:
        label_U = rng.integers(0, L, units)
        unit_T = np.repeat(np.arange(units), rng.integers(5, 40, units))
        label_T = label_U[unit_T]
        chance_LV = np.log(rng.dirichlet(np.full(20, 0.5), L))
        token_T = (chance_LV[label_T] + rng.gumbel(size=(len(label_T), 20))).argmax(axis=1)
        habit_TN = rng.normal(0, 1, (units, N))[unit_T]
    else:
        unit_T = np.arange(1000)
        token_T = rng.integers(0, 20, 1000)
        chance_VL = rng.normal(0, 1.5, (20, L))
        label_T = (chance_VL[token_T] + rng.gumbel(size=(1000, L))).argmax(axis=1)
        habit_TN = np.zeros((1000, N))
    score_TN = rng.normal(0, 1.5, (20, N))[token_T] + habit_TN
    expert_T = (score_TN + rng.gumbel(size=score_TN.shape)).argmax(axis=1)
    return {"expert": expert_T[:, None], "label": label_T, "unit": unit_T, "token": token_T}


def conditional(
    sample: Sample, unit_T: np.ndarray, seed: int, permutations: int = 99, exchanged="label"
):
    return conditional_information(
        sample["expert"][None],
        sample["label"],
        sample["token"],
        num_experts=N,
        unit_T=unit_T,
        exchanged=exchanged,
        num_permutations=permutations,
        seed=seed,
    )[:, 0]


def test_conditional_information_against_a_naive_sum():
    """Also with two choices a token, and ids that occur with one label only."""
    rng = np.random.default_rng(0)
    token_T = rng.integers(0, 15, 400)
    label_T = np.where(token_T < 5, 0, rng.integers(0, L, 400))
    expert_TK = rng.permuted(np.tile(np.arange(N), (400, 1)), axis=1)[:, :2]
    sample = {"expert": expert_TK, "label": label_T, "token": token_T}
    expected = 0.0
    for token in range(15):
        table = np.zeros((N, L))
        for experts, label in zip(
            expert_TK[token_T == token], label_T[token_T == token], strict=True
        ):
            table[experts, label] += 1
        joint = table / table.sum()
        product = joint.sum(1, keepdims=True) * joint.sum(0, keepdims=True)
        seen = joint > 0
        nats = (joint[seen] * np.log(joint[seen] / product[seen])).sum()
        expected += table.sum() / 800 * nats
    assert conditional(sample, np.arange(400), 0)[0] == pytest.approx(expected)


def test_conditional_information_is_0_where_the_word_decides():
    token_T = np.arange(300) % 6
    sample = {"expert": (token_T % N)[:, None], "label": token_T % 3, "token": token_T}
    values = conditional(sample, np.arange(300), 0)
    assert (values == 0).all()
    assert Null.of(values[0], values[1:]).p_value == 1.0


def test_only_vocabulary_is_no_specialisation_beyond_it():
    """Experts that follow the word alone: a strong association, and nothing given the word."""
    found = np.empty((200, 2))
    for i in range(200):
        sample = words(np.random.default_rng(i))
        values = conditional(sample, sample["unit"], 10_000 + i)
        plain = association(
            sample["expert"][None],
            sample["label"],
            num_experts=N,
            unit_T=sample["unit"],
            exchanged="label",
            num_permutations=99,
            seed=i,
        )[:, 0]
        found[i] = [Null.of(v[0], v[1:]).p_value for v in (values, plain)]
    assert_uniform(found[:, 0])
    assert np.mean(found[:, 1] <= 0.05) > 0.95


def test_conditional_null_respects_documents():
    """The exchange within a token id keeps a document's tokens together; tokens by themselves
    would give three times the false alarms."""
    by_document, by_token = np.empty(100), np.empty(100)
    for i in range(100):
        sample = words(np.random.default_rng(i), units=200)
        for found, unit_T in (
            (by_document, sample["unit"]),
            (by_token, np.arange(len(sample["unit"]))),
        ):
            values = conditional(sample, unit_T, 10_000 + i)
            found[i] = Null.of(values[0], values[1:]).p_value
    assert np.mean(by_document <= 0.05) <= 0.10
    assert np.mean(by_token <= 0.05) >= 0.20


def words_of_documents(rng: np.random.Generator) -> Sample:
    """As `words_in_documents`, where label and route hang on the word as well."""
    unit_T = np.repeat(np.arange(80), rng.integers(10, 30, 80))
    token_T = rng.integers(0, 15, len(unit_T))
    label_TL = rng.normal(0, 1.5, (15, L))[token_T] + 2 * rng.normal(0, 1, (80, L))[unit_T]
    expert_TN = rng.normal(0, 1.5, (15, N))[token_T] + 2 * rng.normal(0, 1, (80, N))[unit_T]
    label_T, expert_T = (
        (score + rng.gumbel(size=score.shape)).argmax(axis=1) for score in (label_TL, expert_TN)
    )
    return {"expert": expert_T[:, None], "label": label_T, "unit": unit_T, "token": token_T}


def test_given_the_word_whole_documents_change_places():
    """Documents that lean to labels and, independently, to experts: exchanging words one by one
    finds a specialisation that is not there, in two samples of five."""
    by_document, by_word = np.empty(120), np.empty(120)
    for i in range(120):
        sample = words_of_documents(np.random.default_rng(i))
        values = conditional(sample, sample["unit"], 10_000 + i, exchanged="neither")
        by_document[i] = Null.of(values[0], values[1:]).p_value
        values = conditional(sample, np.arange(len(sample["unit"])), 10_000 + i)
        by_word[i] = Null.of(values[0], values[1:]).p_value
    assert np.mean(by_document <= 0.05) <= 0.11
    assert np.mean(by_document) == pytest.approx(0.5, abs=0.1)
    assert np.mean(by_word <= 0.05) > 0.3


def test_documents_keep_their_labels_together_and_words_their_own():
    """Of a word that all documents have once, each document's labels go to one other whole."""
    rng = np.random.default_rng(0)
    unit_T, token_T = np.repeat(np.arange(30), 4), np.tile(np.arange(4), 30)
    label_T = rng.integers(0, 100, 120)
    given = sorted(map(tuple, label_T.reshape(30, 4)))
    draws = list(exchanged_within(label_T, token_T, unit_T, 5, rng))
    assert len(draws) == 5
    for drawn_T in draws:
        assert sorted(map(tuple, drawn_T.reshape(30, 4))) == given
        assert not np.array_equal(drawn_T, label_T)
    twice_T = np.where(unit_T == 0, 0, token_T)  # the only block of four: it stays
    assert np.array_equal(next(exchanged_within(label_T, twice_T, unit_T, 1, rng))[:4], label_T[:4])


def test_planted_specialisation_beyond_the_word_is_found():
    rng = np.random.default_rng(0)
    sample = words(rng)
    follows = rng.random(1000) < 0.2
    sample["expert"] = np.where(follows, sample["label"] % N, sample["expert"][:, 0])[:, None]
    values = conditional(sample, sample["unit"], 0, permutations=200)
    assert Null.of(values[0], values[1:]).p_value < 0.01
