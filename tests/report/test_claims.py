"""Planted scenarios: every kind of claim, every verdict, and what is said of missing data."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.weightstats import ttost_paired

from orchestrator.report.verdicts import judge
from orchestrator.study import (
    All,
    Better,
    Effect,
    Equivalent,
    Fixed,
    LargerEffect,
    NotBetter,
    Ordered,
    Specialises,
)
from tests.report.planted_claims import WEAK, one

PERCENT = math.log(1.01)


def plant(means: dict[str, float], n: int = 5, noise: float = 0.002, metric: str = "val/loss"):
    """Cells around these means; the seed moves all cells alike, and each a little by itself."""
    rng = np.random.default_rng(7)
    shared = rng.normal(0, 0.2, n)
    return {
        cell: {seed: {metric: mean + shared[seed] + rng.normal(0, noise)} for seed in range(n)}
        for cell, mean in means.items()
    }


def losses(**cells: list[float]):
    return {
        cell: {seed: {"val/loss": x} for seed, x in enumerate(values)}
        for cell, values in cells.items()
    }


def better(a="a", b="b", id="C2", **options):
    return Better(id=id, statement=f"{a} beats {b}", a=a, b=b, **options)


def equivalent(a="a", b="b", id="C4", margin=PERCENT, **options):
    return Equivalent(id=id, statement=f"{a} is as good as {b}", a=a, b=b, margin=margin, **options)


# Better


@pytest.mark.parametrize(
    ("difference", "verdict"), [(-0.05, "supported"), (0.05, "refuted"), (-0.0005, "undecided")]
)
def test_better(difference, verdict):
    values = plant({"a": 3 + difference, "b": 3.0})
    found = one(better(), values)
    assert found.verdict == verdict
    a, b = ([row["val/loss"] for row in values[cell].values()] for cell in "ab")
    reference = stats.ttest_rel(a, b)
    interval = reference.confidence_interval(0.95)
    assert found.estimate == pytest.approx(reference.statistic * reference._standard_error)
    assert (found.ci_low, found.ci_high) == pytest.approx((interval.low, interval.high))
    assert (found.n, found.ci_level, found.margin) == (5, 0.95, None)
    assert found.p_value == found.p_adjusted == pytest.approx(reference.pvalue)
    ratio, low, high = found.perplexity_ratio
    assert (ratio, low, high) == pytest.approx(tuple(np.exp([found.estimate, *interval])))


def test_better_by_at_least_a_gain():
    values = plant({"a": 2.98, "b": 3.0})
    assert one(better(), values).verdict == "supported"
    assert one(better(by=0.05), values).verdict == "refuted"
    assert one(better(by=0.02), values).verdict == "undecided"
    assert one(better(by=0.01), values).margin == 0.01


def test_better_follows_the_direction_of_the_metric():
    values = plant({"even": 0.95, "collapsed": 0.4}, metric="router/load_entropy")
    claim = better("even", "collapsed", metric="router/load_entropy")
    found = one(claim, values)
    assert found.verdict == "supported"
    assert found.estimate > 0
    assert found.perplexity_ratio is None
    turned = better("collapsed", "even", metric="router/load_entropy")
    assert one(turned, values).verdict == "refuted"


@pytest.mark.parametrize(("n", "asked"), [(3, 14.8), (5, 5.7)])
def test_eleven_claims_ask_for_this_t(n, asked):
    """METRICS.md: with 11 claims, |t| above 14.8 at 3 seeds and 5.7 at 5."""
    spread = np.linspace(-1, 1, n)
    for t, verdict in ((asked * 1.01, "supported"), (asked * 0.98, "undecided")):
        mean = t * spread.std(ddof=1) / math.sqrt(n)
        values = losses(a=list(-mean + spread), b=[0.0] * n)
        claims = [better()] + [better("no", "data", id=f"X{i}") for i in range(10)]
        found = judge(claims, values)[0]
        assert found.verdict == verdict
        assert found.ci_high < 0  # the plain interval alone would have decided it
        assert found.level == pytest.approx(0.05 / 11)
    assert "after Holm's correction over 11 claims" in found.reason
    assert f"{found.seeds_for_80} seeds would decide it in 80% of studies" in found.reason
    assert n < found.seeds_for_80 <= n + 3


def test_holm_steps_down_through_the_family():
    values = plant({"a": 2.9, "b": 3.0, "c": 2.9955, "d": 3.0})
    weak = better("c", "d", id="weak")
    alone = one(weak, values)
    among = judge([weak, *(better(id=f"S{i}") for i in range(9))], values)
    assert [v.verdict for v in among[1:]] == ["supported"] * 9
    assert alone.p_value == among[0].p_value == among[0].p_adjusted  # the last step is alpha itself
    assert among[0].level == 0.05
    behind_missing = judge([weak, *(better("x", "y", id=f"S{i}") for i in range(9))], values)[0]
    assert behind_missing.p_adjusted == pytest.approx(10 * alone.p_value)


# NotBetter, Equivalent


@pytest.mark.parametrize(
    ("difference", "verdict"),
    [(0.05, "supported"), (0.0, "supported"), (-0.05, "refuted"), (-PERCENT, "undecided")],
)
def test_not_better(difference, verdict):
    claim = NotBetter(id="C10", statement="a no better than b", a="a", b="b", margin=PERCENT)
    found = one(claim, plant({"a": 3 + difference, "b": 3.0}))
    assert found.verdict == verdict
    assert found.margin == PERCENT


def test_not_better_where_higher_is_better():
    claim = NotBetter(id="N", statement="s", a="a", b="b", margin=0.1, metric="router/load_entropy")
    values = plant({"a": 0.5, "b": 0.9}, metric="router/load_entropy")
    assert one(claim, values).verdict == "supported"
    values = plant({"a": 0.9, "b": 0.5}, metric="router/load_entropy")
    assert one(claim, values).verdict == "refuted"


@pytest.mark.parametrize(
    ("difference", "verdict"),
    [
        (0.001, "supported"),
        (-0.001, "supported"),
        (0.05, "refuted"),
        (-0.05, "refuted"),
        (PERCENT, "undecided"),
    ],
)
def test_equivalent(difference, verdict):
    values = plant({"a": 3 + difference, "b": 3.0})
    found = one(equivalent(), values)
    assert found.verdict == verdict
    a, b = (np.array([row["val/loss"] for row in values[cell].values()]) for cell in "ab")
    interval = stats.ttest_rel(a, b).confidence_interval(0.9)
    assert (found.ci_low, found.ci_high) == pytest.approx((interval.low, interval.high))
    assert (found.ci_level, found.margin) == (pytest.approx(0.9), PERCENT)
    if verdict == "supported":
        assert found.p_value == pytest.approx(ttost_paired(a, b, -PERCENT, PERCENT)[0], rel=1e-6)


def test_absence_of_a_difference_is_no_equivalence():
    """What a study of one run a cell would have called "about as good"."""
    values = plant({"a": 3.0, "b": 3.0}, n=3, noise=0.05)
    found = one(equivalent(), values)
    assert found.verdict == "undecided"
    assert one(better(), values).verdict == "undecided"
    assert found.seeds_for_80 > 3


def test_the_seeds_advised_decide_four_studies_of_five():
    """What was advised before decided 29 to 71% of studies, were mean and spread the true ones."""
    spread, rng = np.array([-1.0, 0.0, 1.0]), np.random.default_rng(0)
    for claim in (better(), equivalent(), better(by=0.001), equivalent(margin=0.004)):
        first = one(claim, losses(a=list(-0.008 + 0.01 * spread), b=[0.0] * 3))
        assert first.verdict == "undecided"
        n, runs = first.seeds_for_80, 200
        decided = sum(
            one(
                claim, losses(a=rng.normal(-0.008, 0.01, n).tolist(), b=[0.0] * n), advise=False
            ).verdict
            != "undecided"
            for _ in range(runs)
        )
        assert decided / runs >= 0.8 - 3 * math.sqrt(0.8 * 0.2 / runs)


# Compounds


def test_ordered_needs_every_step():
    claim = Ordered(id="C8", statement="larger K helps", best_to_worst=("k3", "k2", "k1"))
    found = one(claim, plant({"k1": 3.2, "k2": 3.1, "k3": 3.0}))
    assert found.verdict == "supported"
    assert [part.statement for part in found.parts] == ["k3 beats k2", "k2 beats k1"]
    assert [part.verdict for part in found.parts] == ["supported"] * 2
    assert found.p_value == max(part.p_value for part in found.parts)

    found = one(claim, plant({"k1": 3.2, "k2": 3.0, "k3": 3.1}))
    assert found.verdict == "refuted"
    assert [part.verdict for part in found.parts] == ["refuted", "supported"]
    assert found.reason == "C8.1 is refuted"
    assert found.estimate == found.parts[0].estimate

    found = one(claim, plant({"k1": 3.2, "k2": 3.0, "k3": 3.0}))
    assert found.verdict == "undecided"
    assert found.estimate == found.parts[0].estimate
    assert found.seeds_for_80 > 5


def test_compound_at_both_units():
    claim = All(
        id="C5",
        statement="frozen is equivalent to learned at both units",
        parts=(equivalent("tf", "tl", id="C5.token"), equivalent("sf", "sl", id="C5.sequence")),
    )
    means = {"tf": 3.0, "tl": 3.0, "sf": 3.0, "sl": 3.0}
    found = one(claim, plant(means))
    assert (found.verdict, found.margin) == ("supported", PERCENT)
    found = one(claim, plant(means | {"sf": 3.1}))
    assert (found.verdict, found.reason) == ("refuted", "C5.sequence is refuted")
    assert found.p_value == pytest.approx(2 * found.parts[1].p_value)

    values = plant(means)
    del values["sl"]
    found = one(claim, values)
    assert (found.verdict, found.estimate, found.n) == ("undecided", None, 0)
    assert "C5.sequence: cell sl has no complete trial" in found.reason
    assert found.parts[0].verdict == "supported"

    values = plant(means | {"tf": 3.1})
    del values["sl"]
    assert one(claim, values).verdict == "refuted"  # one failed part is enough


def test_compound_of_loss_and_collapse():
    """C7: the loss stays, and without the balance loss the load collapses."""
    claim = All(
        id="C7",
        statement="the balance loss changes the load, not the loss",
        parts=(
            equivalent("with", "without", id="C7.loss"),
            better("with", "without", id="C7.load", metric="router/load_entropy", by=0.1),
        ),
    )
    values = plant({"with": 3.0, "without": 3.0})
    for load, verdict in ((0.3, "supported"), (0.95, "refuted")):
        for seed in range(5):
            values["with"][seed]["router/load_entropy"] = 0.97 + 0.001 * seed
            values["without"][seed]["router/load_entropy"] = load - 0.002 * seed
        found = one(claim, values)
        assert found.verdict == verdict
    for row in values["without"].values():
        del row["router/load_entropy"]
    found = one(claim, values)
    assert found.verdict == "undecided"
    assert found.reason.endswith("C7.load: cell without has no router/load_entropy")


def test_parts_agree_with_their_whole_over_random_data():
    rng, seen = np.random.default_rng(11), set()
    inner = All(
        id="I", statement="s", parts=(better("b", "c", id="I1"), equivalent("a", "c", id="I2"))
    )
    claims = [All(id="O", statement="s", parts=(better(id="O1"), inner)), better(id="other")]
    for _ in range(300):
        means = {"a": 3.0, "b": 3.0 + rng.normal(0.01, 0.02), "c": 3.0 + rng.normal(0.01, 0.02)}
        outer, _ = judge(claims, plant(means, n=3, noise=0.0005), advise=False)
        for whole in (outer, outer.parts[1]):
            parts = [part.verdict for part in whole.parts]
            assert (whole.verdict == "refuted") == ("refuted" in parts)
            if whole.verdict == "supported":
                assert parts == ["supported"] * 2
            seen.add(whole.verdict)
    assert seen == {"supported", "refuted", "undecided"}


# Effects


LARGER = LargerEffect(
    id="C1",
    statement="the routing unit moves the loss more than K or the router do",
    effect=Effect(name="unit", pairs=(("seq-k1", "tok-k1"), ("seq-k2", "tok-k2"))),
    than=(
        Effect(name="K", pairs=(("seq-k1", "seq-k2"), ("tok-k1", "tok-k2"))),
        Effect(name="router", pairs=(("frozen", "tok-k2"),)),
    ),
)
EFFECTS = {"seq-k1": 3.4, "seq-k2": 3.3, "tok-k1": 3.1, "tok-k2": 3.0, "frozen": 3.0}


@pytest.mark.parametrize("mirror", [1, -1])
@pytest.mark.parametrize(
    ("change", "verdict", "parts"),
    [
        ({}, "supported", ["supported", "supported"]),
        ({"frozen": 3.8}, "refuted", ["supported", "refuted"]),
        ({"frozen": 2.2}, "refuted", ["supported", "refuted"]),
        ({"frozen": 3.3}, "undecided", ["supported", "undecided"]),
        ({"frozen": 2.7}, "undecided", ["supported", "undecided"]),
    ],
)
def test_larger_effect_compares_absolute_sizes(change, verdict, parts, mirror):
    means = {cell: mirror * loss for cell, loss in (EFFECTS | change).items()}
    found = one(LARGER, plant(means))
    assert found.verdict == verdict
    assert [part.verdict for part in found.parts] == parts
    assert [part.id for part in found.parts] == ["C1.K", "C1.router"]
    assert found.parts[0].estimate == pytest.approx(0.3 - 0.1, abs=0.01)
    assert found.parts[0].ci_low < 0.2 < found.parts[0].ci_high
    assert found.parts[1].estimate == pytest.approx(
        0.3 - abs(change.get("frozen", 3) - 3), abs=0.01
    )


def test_larger_effect_without_cells_or_seeds():
    values = plant(EFFECTS)
    del values["frozen"]
    found = one(LARGER, values)
    assert found.verdict == "undecided"
    assert "C1.router: cell frozen has no complete trial" in found.reason
    values = plant(EFFECTS)
    values["frozen"] = {9: {"val/loss": 3.0}}
    assert "C1.router: the cells share no seed" in one(LARGER, values).reason
    found = one(LARGER, plant(EFFECTS, n=1))
    assert (found.verdict, found.n, found.ci_low, found.p_value) == ("undecided", 1, None, None)
    assert "one seed: no interval" in found.reason


def test_two_effects_of_pure_noise_are_not_told_apart():
    """Signs read off the data would bias |E| - |F|; here both t tests must reject."""
    rng, claims = (
        np.random.default_rng(5),
        (
            LargerEffect(
                id="L",
                statement="s",
                effect=Effect(name="e", pairs=(("a", "b"),)),
                than=(Effect(name="f", pairs=(("c", "d"),)),),
            ),
        ),
    )
    decided = 0
    for _ in range(400):
        values = losses(**{cell: rng.normal(3, 0.1, 4).tolist() for cell in "abcd"})
        decided += judge(claims, values, advise=False)[0].verdict != "undecided"
    assert decided / 400 <= 0.05


# What is missing


def test_missing_data_are_undecided_with_their_reason():
    values = plant({"a": 3.0, "b": 3.1})
    assert one(better("a", "z"), values).reason == "cell z has no complete trial"
    assert one(better("a", "z"), values | {"z": {}}).reason == "cell z has no complete trial"
    values["late"] = {8: {"val/loss": 3.0}}
    found = one(better("a", "late"), values)
    assert (found.verdict, found.reason, found.n) == ("undecided", "the cells share no seed", 0)
    assert (found.estimate, found.p_value, found.p_adjusted) == (None, None, None)
    values["bad"] = {0: {"val/loss": 3.0}, 1: {"val/loss": math.nan}}
    assert one(better("a", "bad"), values).reason == "cell bad, seed 1: val/loss is nan"


def test_one_seed_gives_an_estimate_and_no_interval():
    found = one(better(), plant({"a": 2.0, "b": 3.0}, n=1))
    assert (found.verdict, found.n) == ("undecided", 1)
    assert found.reason == "one seed: no interval"
    assert found.estimate == pytest.approx(-1, abs=0.01)
    assert (found.ci_low, found.ci_high, found.ci_level) == (None, None, None)
    assert (found.p_value, found.seeds_for_80) == (None, None)
    assert found.perplexity_ratio[1:] == (None, None)


def test_unpaired_seeds_are_named():
    values = plant({"a": 2.0, "b": 3.0})
    del values["a"][1], values["b"][4]
    found = one(better(), values)
    assert (found.verdict, found.n) == ("supported", 3)
    assert found.reason == "unpaired seeds left out: 1, 4"


def test_identical_cells():
    values = plant({"a": 3.0})
    values["b"] = values["a"]
    found = one(better(), values)
    assert (found.verdict, found.seeds_for_80, found.p_value) == ("undecided", None, 1.0)
    assert "no number of seeds" in found.reason
    found = one(equivalent(), values)
    assert found.verdict == "supported"
    assert "check that the seeds are replicates" in found.reason


def test_verdicts_become_json():
    claims = [
        LARGER,
        better("seq-k1", "nowhere", id="X"),
        equivalent("seq-k1", "seq-k2", id="Y"),
        WEAK,
    ]
    text = json.dumps([v.to_dict() for v in judge(claims, plant(EFFECTS))], allow_nan=False)
    first, *others = json.loads(text)
    keys = {"id", "statement", "verdict", "estimate", "ci_low", "ci_high", "n", "margin"}
    assert keys <= set(first)
    assert [v["verdict"] for v in (first, *others)] == [
        "supported",
        "undecided",
        "refuted",
        "undecided",
    ]
    assert [part["id"] for part in first["parts"]] == ["C1.K", "C1.router"]
    assert len(first["perplexity_ratio"]) == 3


def test_judge_refuses():
    with pytest.raises(ValueError, match="different ids"):
        judge([better(), better()], {})
    for alpha in (0.0, 0.5, 5.0, math.nan):
        with pytest.raises(ValueError, match="alpha"):
            judge([better()], {}, design=Fixed(alpha=alpha))
    assert judge([], {}) == []


def test_family_makes_a_false_decision_in_at_most_5_percent():
    """Seven claims, all on the edge of being true, with one seed noise that they share."""
    claims = [better("a", cell, id=f"B{cell}") for cell in "bcd"]
    claims += [equivalent("a", cell, id=f"E{cell}", margin=0.02) for cell in "ef"]
    claims += [
        NotBetter(id="N", statement="s", a="g", b="a", margin=0.02),
        All(id="A", statement="s", parts=(better("a", "b", id="1"), better("h", "a", id="2"))),
    ]
    edge = {"a": 0.0, "b": 0, "c": 0, "d": 0, "e": 0.02, "f": -0.02, "g": -0.02, "h": -1.0}
    rng, runs, false = np.random.default_rng(9), 800, 0
    for _ in range(runs):
        values = losses(
            **{c: (mean + rng.normal(0, 0.005, 4)).tolist() for c, mean in edge.items()}
        )
        false += any(
            verdict.verdict != "undecided" for verdict in judge(claims, values, advise=False)
        )
    assert false / runs <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / runs)


# The claims as data


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: better("a", "a"), "different cells"),
        (lambda: better("a", ""), "different cells"),
        (lambda: better(by=-0.1), "by must be a positive number"),
        (lambda: better(metric="val/los"), "Did you mean val/loss"),
        (lambda: better(metric="router/confidence"), "needs a direction"),
        (lambda: better(id=""), "needs an id"),
        (lambda: equivalent(margin=0.0), "margin must be a positive number"),
        (lambda: equivalent(margin=math.nan), "margin must be a positive number"),
        (lambda: Ordered(id="O", statement="s", best_to_worst=("a",)), "at least two cells"),
        (lambda: Ordered(id="O", statement="s", best_to_worst=("a", "b", "a")), "different cells"),
        (lambda: All(id="A", statement="s", parts=(better(),)), "at least two parts"),
        (lambda: All(id="A", statement="s", parts=(better(), better())), "different ids"),
        (lambda: Effect(name="K", pairs=()), "at least one pair"),
        (
            lambda: LargerEffect(id="L", statement="s", effect=LARGER.effect, than=()),
            "compares one effect with others",
        ),
        (
            lambda: Specialises(
                id="S", statement="s", cell="a", labels=("t",), at_least=0.2, at_most=0.1
            ),
            "at_least below at_most",
        ),
        (
            lambda: Specialises(
                id="S", statement="s", cell="a", labels=("t",), at_least=0.0, measure="purity"
            ),
            "a measure that has a null",
        ),
    ],
)
def test_claims_refuse_what_cannot_be_judged(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_cells_of_claims():
    assert LARGER.cells == ("seq-k1", "tok-k1", "seq-k2", "tok-k2", "frozen")
    joined = All(id="A", statement="s", parts=(better(id="1"), equivalent("a", "c", id="2")))
    assert joined.cells == ("a", "b", "c")
    assert WEAK.cells == ("seq",)
