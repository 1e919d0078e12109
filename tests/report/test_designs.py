"""Verdicts under a study's design: looked at once, looked at always, and what was registered."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime

import numpy as np
import pytest

from orchestrator.report.evidence import Sampling
from orchestrator.report.judge import judge_launch
from orchestrator.report.table_text import render
from orchestrator.report.tables import table_of
from orchestrator.report.verdicts import judge
from orchestrator.study import Fixed, LargerEffect, Sequential
from orchestrator.study.claims import All, Effect
from orchestrator.study.comparability import Evaluated
from orchestrator.study.registration import BEFORE, register, standing
from tests.report.test_claims import better, equivalent, losses, one
from tests.report.test_judge import STUDY, record

NOW = datetime(2026, 11, 25, tzinfo=UTC)
SEQUENTIAL = Sequential(max_seeds=12)


def registered(study=STUDY, seeds=(0, 1, 2, 3), history=(), results=0, now=NOW):
    return register(history, study, seeds, now=now, results=results)


def records(n, difference=0.1, noise=0.003, cells="ab"):
    rng = np.random.default_rng(4)
    return [
        record(10 * seed + i, cell, seed, 3.0 + i * difference + rng.normal(0, noise))
        for seed in range(n)
        for i, cell in enumerate(cells)
    ]


def test_peeking_decides_no_more_equal_cells_than_alpha():
    """Two equal cells, looked at with 2 to 12 seeds, stopping at a verdict: a plain t test decides
    a sixth of them and more."""
    rng, runs, found = np.random.default_rng(0), 60, {"once": 0, "always": 0}
    for _ in range(runs):
        a, b = rng.normal(3, 0.01, (2, 12)).tolist()
        for name, design in (("once", Fixed()), ("always", SEQUENTIAL)):
            found[name] += any(
                one(better(), losses(a=a[:n], b=b[:n]), design=design, advise=False).verdict
                != "undecided"
                for n in (2, 3, 4, 5, 8, 12)
            )
    assert found["once"] / runs > 0.1
    assert found["always"] / runs <= 0.05 + 3 * (0.05 * 0.95 / runs) ** 0.5


@pytest.mark.parametrize(
    ("claim", "difference", "verdict"),
    [
        (better(), -0.05, "supported"),
        (better(), 0.05, "refuted"),
        (equivalent(), 0.0, "supported"),
        (equivalent(), 0.06, "refuted"),
        (equivalent(), 0.01, "undecided"),
    ],
)
def test_every_kind_of_verdict_is_reached_sequentially(claim, difference, verdict):
    rng = np.random.default_rng(1)
    values = losses(a=(3 + difference + rng.normal(0, 0.002, 8)).tolist(), b=[3.0] * 8)
    found = one(claim, values, design=SEQUENTIAL)
    assert found.verdict == verdict
    assert found.ci_low < difference < found.ci_high
    assert found.effect == pytest.approx(
        found.estimate / np.std([values["a"][s]["val/loss"] - 3 for s in range(8)], ddof=1)
    )


def test_compounds_are_judged_sequentially():
    rng = np.random.default_rng(2)

    def cell(mean):
        return (mean + rng.normal(0, 0.002, 8)).tolist()

    values = losses(a=cell(3.4), b=cell(3.0), c=cell(3.1), d=cell(3.0))
    larger = LargerEffect(
        id="L",
        statement="a to b moves more than c to d",
        effect=Effect(name="first", pairs=(("a", "b"),)),
        than=(Effect(name="second", pairs=(("c", "d"),)),),
    )
    both = All(id="A", statement="s", parts=(better("b", "a", id="1"), better("d", "c", id="2")))
    found = judge([larger, both], values, design=SEQUENTIAL)
    assert [verdict.verdict for verdict in found] == ["supported", "supported"]


def test_a_sequential_test_waits_for_a_seed_that_is_slow_to_come():
    values = losses(a=[2.9, 2.91, 2.9, 2.91, 2.9, 2.9], b=[3.0] * 6)
    assert one(better(), values, design=SEQUENTIAL).n == 6
    waits = Sampling(order=range(6), running={("b", 2)})
    assert one(better(), values, design=SEQUENTIAL, sampling=waits).n == 2
    last = Sampling(order=(0, 1, 3, 4, 5, 2), running={("b", 2)})
    assert one(better(), values, design=SEQUENTIAL, sampling=last).n == 5


def test_the_interval_follows_the_looks_in_the_order_of_asking():
    values = losses(a=[3.0, 3.3, 3.0, 3.0, 3.0, 3.01], b=[2.9] * 6)
    forward = one(better(), values, design=SEQUENTIAL)
    backward = one(better(), values, design=SEQUENTIAL, sampling=Sampling(order=(5, 4, 3, 2, 1, 0)))
    assert forward.estimate == pytest.approx(backward.estimate)
    assert forward.p_value != backward.p_value


# Fixed designs


def test_a_fixed_design_says_nothing_before_its_last_seed():
    study = dataclasses.replace(STUDY, design=Fixed(seeds=4), claims=STUDY.claims[:1])
    history = registered(study)
    early = judge_launch(study, scale="cpu", records=records(3), history=history)
    assert early.verdicts[0].verdict == "undecided"
    assert early.verdicts[0].reason.startswith("a fixed design is judged once")
    assert early.verdicts[0].estimate is not None
    assert early.verdicts[0].p_value is None
    whole = judge_launch(study, scale="cpu", records=records(4), history=history)
    assert whole.verdicts[0].verdict == "supported"
    assert whole.exploratory is None
    failed = [*records(3), record(91, "a", 3, None, state="failed"), records(4)[-1]]
    assert judge_launch(study, scale="cpu", records=failed, history=history).verdicts[0].n == 3


def test_seeds_on_top_of_a_fixed_design_are_exploratory_everywhere():
    history = registered(seeds=(0, 1))
    trials = records(4)
    judged = judge_launch(STUDY, scale="cpu", records=trials, history=history)
    assert judged.exploratory.startswith("the design is fixed at seeds 0, 1, and 2, 3 came on top")
    assert judged.to_dict()["exploratory"] is True
    table = table_of("judged", "judged/cpu", trials, judgement=judged)
    for form in ("markdown", "latex", "json"):
        assert "looking again with more seeds" in render(table, form)


def test_a_launch_of_one_seed_is_a_pilot():
    history = registered(seeds=(0,))
    grown = registered(seeds=(0, 1, 2), history=history, results=3)
    assert grown[-1]["design"]["seeds"] == [0, 1, 2]
    again = registered(seeds=(0, 1, 2, 3), history=grown, results=9)
    assert again == grown


# Registration


def test_claims_before_the_data_and_claims_after():
    history = registered()
    claim = STUDY.claims[0]
    assert standing(history, claim, metric="val/loss") == BEFORE
    assert registered(history=history, results=8) == history
    reworded = dataclasses.replace(claim, statement="other words")
    assert standing(history, reworded, metric="val/loss") == BEFORE

    easier = dataclasses.replace(claim, by=0.01)
    study = dataclasses.replace(STUDY, claims=(easier, better("c", "b", id="X9")))
    assert standing(history, easier, metric="val/loss").startswith("changed since the last run")
    later = registered(study, history=history, results=8)
    assert len(later) == 2
    assert later[0] == history[0]
    assert standing(later, easier, metric="val/loss") == "changed 2026-11-25, after 8 results"
    added = standing(later, study.claims[1], metric="val/loss")
    assert added == "added 2026-11-25, after 8 results"
    judged = judge_launch(study, scale="cpu", records=records(4), history=later)
    assert [verdict.registered for verdict in judged.verdicts] == [
        "changed 2026-11-25, after 8 results",
        added,
    ]
    assert any("no longer made: X2" in note for note in judged.notes)
    table = table_of("judged", "judged/cpu", records(4), judgement=judged)
    assert "changed 2026-11-25, after 8 results" in render(table, "markdown")


def test_a_home_without_registrations_says_so():
    judged = judge_launch(STUDY, scale="cpu", records=records(4))
    assert judged.notes[0].startswith("claims and design were not registered")
    assert judged.verdicts[0].registered == "never registered"
    late = registered(results=8)
    notes = judge_launch(STUDY, scale="cpu", records=records(4), history=late).notes
    assert "when 8 results were there already" in notes[0]


def test_a_design_that_changes_after_results_leaves_its_mark():
    study = dataclasses.replace(STUDY, design=SEQUENTIAL)
    history = registered()
    notes = judge_launch(study, scale="cpu", records=records(4), history=history).notes
    assert any("not the one that was registered" in note for note in notes)
    later = registered(study, history=history, results=8)
    notes = judge_launch(study, scale="cpu", records=records(4), history=later).notes
    assert any("the design was changed on 2026-11-25, after 8 results" in note for note in notes)


# Like with like


def evaluated(**values):
    told = {"data.digest": "tokens", **{k.replace("__", "."): v for k, v in values.items()}}
    return Evaluated.of_record(told, "text")


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("train.eval_tokens", 4096),
        ("train.loss_start", 32),
        ("model.context_length", 64),
        ("data.digest", "other"),
    ],
)
def test_cells_evaluated_on_different_things_are_not_compared(path, value):
    """Two cells of one training that differ in eval_tokens came out "refuted, p = 1e-4"."""
    values = losses(a=[3.1, 3.11, 3.1, 3.11], b=[3.0] * 4)
    how = {"a": evaluated(**{path.replace(".", "__"): value}), "b": evaluated()}
    found = one(better(), values, sampling=Sampling(evaluated=how))
    assert found.verdict == "undecided"
    assert found.estimate is None
    assert found.reason.startswith("a and b were evaluated on different")


def test_bits_per_byte_compare_tokenizers():
    how = {"a": evaluated(data__digest="other"), "b": evaluated()}
    sampling = Sampling(evaluated=how)
    values = {
        cell: {seed: {"val/bits_per_byte": x + 0.001 * seed * (cell == "a")} for seed in range(4)}
        for cell, x in (("a", 1.0), ("b", 1.2))
    }
    claim = better(metric="val/bits_per_byte")
    assert one(claim, values, sampling=sampling).verdict == "supported"


def test_a_leaking_cell_is_no_evidence_about_a_causal_one():
    leaks = evaluated(
        moe__num_experts=4, moe__routing_unit="sequence", moe__top_k=2, data__vocab_size=512
    )
    prefix = evaluated(
        moe__num_experts=4,
        moe__routing_unit="sequence",
        moe__top_k=2,
        moe__sequence_representation="prefix",
        moe__prefix_length=8,
        train__loss_start=8,
    )
    label = evaluated(
        moe__num_experts=4, moe__top_k=1, moe__routing_unit="sequence", moe__router="label"
    )
    assert [how.is_causal for how in (leaks, prefix, label)] == [False, True, True]
    values = losses(a=[2.9, 2.91, 2.9, 2.91], b=[3.0] * 4)
    found = one(better(), values, sampling=Sampling(evaluated={"a": leaks, "b": evaluated()}))
    assert (found.verdict, found.causal, found.leaks) == ("supported", False, ("a",))
    assert "not causal" in found.reason
    both = one(better(), values, sampling=Sampling(evaluated={"a": leaks, "b": leaks}))
    assert both.causal


# Collapse


def test_a_collapsed_seed_is_named_and_checked():
    good = [0.001, -0.002, 0.0, 0.002, -0.001, 0.001, 0.0]
    values = losses(a=[2.95 + x for x in good], b=[3.0 + x / 2 for x in good[::-1]])
    assert one(better(), values).collapsed == ()
    values["a"][6]["val/loss"] += 0.3
    found = one(better(), values)
    assert found.collapsed == ("a, seed 6: +0.299",)
    assert found.verdict == "undecided"
    assert "a, seed 6" in found.reason
    assert found.check in ("supported", "undecided")


def test_a_verdict_by_the_mean_alone_does_not_stand_against_ranks():
    """One seed of b that collapsed: the mean says that a is better by the margin, ranks do not."""
    rng = np.random.default_rng(0)
    a, b = (3 + rng.normal(0, 0.001, (2, 20))).tolist()
    b[7] += 0.9
    claim = better(by=0.0)
    plain = one(claim, losses(a=a, b=b))
    assert plain.collapsed
    assert plain.verdict == "undecided"
    refutes = one(equivalent(margin=0.002), losses(a=a, b=b))
    assert refutes.verdict == "undecided"
