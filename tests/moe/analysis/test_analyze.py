"""From a model's choices to rows."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from moe.analysis.analyze import Choices, analyze, probe_word_form
from moe.analysis.specialization import contingency, normalized_mutual_information
from moe.probes.alignment import NO_LABEL

N = 4


def choices(**changes: object) -> Choices:
    """Sixty documents of ten words of one to three tokens, the first layer following the label."""
    rng = np.random.default_rng(0)
    words_T = np.repeat(np.arange(600), rng.integers(1, 4, 600))
    document_T = words_T // 10
    label_T = rng.integers(0, N, 600)[words_T]
    label_T[words_T % 7 == 0] = NO_LABEL
    random_T = rng.integers(0, N, len(words_T))
    whole = Choices(
        expert_MTK=np.stack([np.maximum(label_T, 0), random_T])[:, :, None],
        layers=(1, 3),
        num_experts=N,
        routing_unit="token",
        token_T=rng.integers(0, 50, len(words_T)),
        label_T=label_T,
        labels=("A", "B", "C", "D"),
        labelled_unit="span",
        unit_T=np.where(label_T == NO_LABEL, NO_LABEL, words_T),
        document_T=document_T,
        sequence_T=document_T,
    )
    return dataclasses.replace(whole, **changes)


def test_rows_of_a_planted_and_a_random_layer():
    planted, random, mean = analyze(choices(), cell="token", seed=3)
    assert (planted.cell, planted.seed) == ("token", 3)
    assert (planted.layer, random.layer, mean.layer) == (1, 3, None)
    assert planted.nmi == pytest.approx(1)
    assert planted.purity == 1
    assert planted.p_value < 0.01
    assert planted.conditional_p_value < 0.01
    assert random.p_value > 0.05
    assert random.conditional_p_value > 0.05
    assert random.nmi_null_low <= random.nmi <= random.nmi_null_high
    assert mean.nmi == pytest.approx((planted.nmi + random.nmi) / 2)
    assert mean.nmi_null_mean == pytest.approx((planted.nmi_null_mean + random.nmi_null_mean) / 2)
    assert mean.p_value < 0.01
    for row in (planted, random, mean):
        assert row.nmi_excess == pytest.approx(row.nmi - row.nmi_null_mean)
        assert (row.n_units, row.n_labels, row.exchanged_unit) == (60, 4, "document")
        assert row.n_tokens == np.count_nonzero(choices().label_T != NO_LABEL)
        assert row.nmi_random_router is None


def test_rows_are_json_with_the_keys_that_scripts_rely_on():
    row = json.loads(json.dumps(analyze(choices(), cell="c", seed=0)[0].to_dict()))
    assert row.keys() >= {
        *("cell", "seed", "layer", "nmi", "nmi_null_mean", "nmi_null_high"),
        *("p_value", "purity", "n_units"),
    }


def test_the_coarser_unit_is_exchanged():
    for unit, labelled, exchanged, side in (
        ("token", "span", "document", "neither"),
        ("sequence", "span", "sequence", "route"),
        ("token", "document", "document", "label"),
        ("sequence", "document", "document", "label"),
    ):
        given = choices(routing_unit=unit, labelled_unit=labelled)
        assert (given.exchanged_unit, given.exchanged_side) == (exchanged, side)


def test_what_is_known_of_a_word_is_its_form_place_and_language():
    """Experts that follow the second piece of a word, by its form: nothing beyond the word, and
    much beyond the piece."""
    rng = np.random.default_rng(0)
    form_U = rng.integers(0, 8, 900)  # two pieces each: 8 forms of 4 first and 2 second pieces
    token_T = np.stack([form_U // 2, 10 + form_U % 2], axis=1).ravel()
    unit_T = np.repeat(np.arange(900), 2)
    label_U = np.where(rng.random(900) < 0.1, 1 - form_U // 4, form_U // 4)
    given = choices(
        expert_MTK=np.stack([(form_U // 4)[unit_T]] * 2)[:, :, None],
        token_T=token_T,
        label_T=label_U[unit_T],
        labels=("A", "B"),
        unit_T=unit_T,
        document_T=unit_T // 15,
        sequence_T=unit_T // 15,
    )
    assert len(np.unique(given.words())) == 16
    assert len(np.unique(dataclasses.replace(given, language_T=unit_T // 450).words())) == 32
    row, *_ = analyze(given, cell="c", seed=0)
    assert row.nmi > 0.3
    assert row.conditional_information == pytest.approx(0, abs=1e-9)


def test_sequences_exchange_their_routes():
    routes_T = np.random.default_rng(1).integers(0, N, 60)[choices().document_T]
    given = choices(routing_unit="sequence", expert_MTK=np.stack([routes_T] * 2)[:, :, None])
    row, same, _ = analyze(given, cell="sequence", seed=0)
    assert row.n_units == 60
    assert dataclasses.replace(row, layer=3) == same


def test_documents_exchange_their_labels():
    document_T = choices().document_T
    label_T = (np.arange(60) % N)[document_T]
    given = choices(label_T=label_T, unit_T=document_T, labelled_unit="document")
    planted = dataclasses.replace(given, expert_MTK=np.stack([label_T] * 2)[:, :, None])
    row, *_ = analyze(planted, cell="document", seed=0)
    assert (row.n_units, row.exchanged_unit) == (60, "document")
    assert row.nmi == pytest.approx(1)
    assert row.p_value < 0.01


def test_the_random_router_stands_beside():
    rng = np.random.default_rng(5)
    baseline_MTK = rng.integers(0, N, choices().expert_MTK.shape)
    first, _, mean = analyze(choices(baseline_MTK=baseline_MTK), cell="c", seed=0)
    kept = choices().label_T != NO_LABEL
    expected = [
        normalized_mutual_information(
            contingency(expert_TK[kept], choices().label_T[kept], num_experts=N, num_labels=4)
        )
        for expert_TK in baseline_MTK
    ]
    assert first.nmi_random_router == pytest.approx(expected[0])
    assert mean.nmi_random_router == pytest.approx(np.mean(expected))


def test_the_word_form_may_be_given():
    word_form = probe_word_form(choices(), num_permutations=20)
    rows = analyze(choices(), cell="c", seed=0, num_permutations=20, word_form=word_form)
    assert rows == analyze(choices(), cell="c", seed=0, num_permutations=20)
    assert rows[0].word_form_accuracy == word_form.accuracy


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layers": (1,)}, "a name for each layer"),
        ({"token_T": np.zeros(3, dtype=int)}, "one entry a token"),
        ({"num_experts": 2}, "numbered 0 to 1; received 0 to 3"),
    ],
)
def test_parts_that_do_not_fit(changes, message):
    with pytest.raises(ValueError, match=message):
        choices(**changes)


def test_refused_without_labels_or_permutations():
    none = choices(label_T=np.full_like(choices().label_T, NO_LABEL))
    with pytest.raises(ValueError, match="needs labelled tokens"):
        analyze(none, cell="c", seed=0)
    with pytest.raises(ValueError, match="at least one permutation; received 0"):
        analyze(choices(), cell="c", seed=0, num_permutations=0)
