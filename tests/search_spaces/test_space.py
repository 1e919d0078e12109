from __future__ import annotations

import dataclasses

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moe.config import ConfigError, TrialConfig
from moe.identity import cell_hash
from search_spaces.conditions import NATURAL_CONDITIONS, Condition
from search_spaces.domains import Choice, Float, Int
from search_spaces.overlay import get, overlay
from search_spaces.space import Infeasible, Rule, Space

BASE = overlay(TrialConfig(), {"moe.num_experts": 4, "moe.top_k": 2})

WIDE = {
    "moe.top_k": Int(low=1, high=4),
    "moe.num_experts": Choice((0, 2, 4)),
    "moe.granularity": Choice((1, 2)),
    "moe.gate": Choice(("softmax_topk", "switch")),
    "moe.routing_unit": Choice(("token", "sequence")),
    "moe.sequence_representation": Choice(("prefix", "mean")),
    "moe.router": Choice(("label", "hash", "random", "frozen", "learned")),
    "moe.balance": Choice(("none", "switch")),
    "moe.balance_scope": Choice(("micro_batch", "global_batch")),
    "model.ffn_multiple": Choice((1.0, 2.0)),
    "optim.learning_rate": Float(low=1e-4, high=1e-2, log=True),
}


def study(seed: int = 0) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))


def distribution(domain: Choice | Int | Float) -> optuna.distributions.BaseDistribution:
    match domain:
        case Choice(values):
            return optuna.distributions.CategoricalDistribution(values)
        case Int():
            return optuna.distributions.IntDistribution(**dataclasses.asdict(domain))
        case Float():
            return optuna.distributions.FloatDistribution(**dataclasses.asdict(domain))


@settings(deadline=None, derandomize=True, max_examples=20)
@given(seed=st.integers(0, 2**32 - 1))
def test_every_suggested_point_is_feasible_or_refused_with_a_reason(seed):
    space, asked = Space(axes=WIDE), study(seed)
    for _ in range(10):
        trial = asked.ask()
        point = space.suggest(trial)
        assert trial.params == point
        config, refusal = None, None
        try:
            config = space.config(BASE, point)
        except Infeasible as error:
            refusal = error
        if config is None:
            assert refusal.reason
            assert str(refusal).startswith(f"{refusal.reason}; received")
            with pytest.raises(ConfigError):
                overlay(BASE, point)
        else:
            assert all(get(config, path) == value for path, value in point.items())


def test_optuna_sees_the_domains_of_the_space():
    space, asked = Space(axes=WIDE), study()
    seen = {}
    for _ in range(100):
        trial = asked.ask()
        space.suggest(trial)
        seen |= trial.distributions
    assert seen == {path: distribution(domain) for path, domain in space.axes.items()}


def test_the_same_values_in_another_order_are_the_same_domain():
    def turned(domain):
        return Choice(domain.values[::-1]) if isinstance(domain, Choice) else domain

    reversed_axes = {path: turned(domain) for path, domain in reversed(WIDE.items())}
    axes = Space(axes=WIDE).axes
    assert axes == Space(axes=reversed_axes).axes
    assert axes["moe.router"].values == ("learned", "frozen", "random", "hash", "label")
    assert axes["moe.num_experts"].values == (0, 2, 4)


def test_tpe_searches_a_conditional_space():
    asked = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=0, n_startup_trials=5))
    space = Space(axes=WIDE)
    for _ in range(20):
        trial = asked.ask()
        asked.tell(trial, space.suggest(trial)["optim.learning_rate"])
    assert len(asked.trials) == 20


def test_an_axis_exists_only_where_it_has_an_effect():
    space, asked = Space(axes=WIDE), study()
    points = [space.suggest(asked.ask()) for _ in range(300)]
    for point in points:
        dense = point["moe.num_experts"] == 0
        assert ("model.ffn_multiple" in point) == dense
        assert ("moe.router" in point) != dense
        if not dense:
            assert ("moe.routing_unit" in point) == (point["moe.router"] != "label")
            assert ("moe.gate" in point) == (point["moe.router"] not in ("hash", "label"))
            assert ("moe.balance_scope" in point) == (point["moe.balance"] != "none")
        # A child of an axis that does not exist does not exist either.
        assert "moe.sequence_representation" not in point or point["moe.routing_unit"] == "sequence"
    assert any("moe.sequence_representation" in point for point in points)


@settings(deadline=None, derandomize=True, max_examples=60)
@given(config=st.from_type(TrialConfig), other=st.from_type(TrialConfig))
def test_where_a_natural_condition_fails_the_axis_changes_no_run(config, other):
    """Holds the conditions to moe.identity.canonical, from which they are derived."""
    ignored = {c.axis for c in NATURAL_CONDITIONS if not c.allows(get(config, c.on))}
    for path in ignored - {"model.ffn_multiple"}:  # which a config with experts refuses
        try:
            changed = overlay(config, {path: get(other, path)})
        except ConfigError:
            continue
        assert cell_hash(changed) == cell_hash(config), path


def test_a_condition_that_cannot_fail_is_left_out_so_that_studies_may_turn_it_round():
    space = Space(
        axes={
            "moe.routing_unit": Choice(("token", "sequence")),
            "moe.router": Choice(("learned", "frozen")),
        },
        conditions=(Condition(axis="moe.router", on="moe.routing_unit", is_in=("sequence",)),),
    )
    assert list(space.points()) == [
        {"moe.routing_unit": "token"},
        {"moe.routing_unit": "sequence", "moe.router": "learned"},
        {"moe.routing_unit": "sequence", "moe.router": "frozen"},
    ]


def test_rules_of_the_study_refuse_with_their_reason():
    rule = Rule(holds=lambda c: c.moe.num_experts <= 4, reason="at most four experts fit here")
    space = Space(axes={"moe.num_experts": Choice((2, 4, 8))}, rules=(rule,))
    assert space.config(BASE, {"moe.num_experts": 4}).moe.num_experts == 4
    with pytest.raises(Infeasible, match="at most four experts fit here") as refused:
        space.config(BASE, {"moe.num_experts": 8})
    assert refused.value.reason == "at most four experts fit here"


@pytest.mark.parametrize(
    "point",
    [
        {},
        {"moe.num_experts": 0, "moe.top_k": 1},
        {"moe.num_experts": 4},
        {"moe.num_experts": 4, "moe.top_k": 1, "train.num_steps": 3},
    ],
)
def test_a_point_holds_exactly_the_axes_that_exist_there(point):
    space = Space(axes={"moe.num_experts": Choice((0, 4)), "moe.top_k": Choice((1, 2))})
    with pytest.raises(ConfigError, match="a point holds the axes that exist there"):
        space.config(BASE, point)


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        ({}, "at least one axis"),
        ({"moe.topk": Choice((1,))}, r"Did you mean moe\.top_k"),
        ({"train.seed": Choice((0, 1))}, "train.seed is never a search parameter"),
        ({"data.digest": Choice(("a",))}, "data.digest is never a search parameter"),
        ({"moe.top_k": Choice(())}, "one or more different values"),
        ({"moe.top_k": Choice(1)}, "one or more different values"),
        ({"moe.top_k": Choice((1, 1))}, "one or more different values"),
        ({"moe.top_k": Choice((1, 2.0))}, "of type int"),
        ({"moe.top_k": Choice((1, True))}, "of type int"),
        ({"moe.top_k": Float(low=1, high=2)}, "is Int or Choice"),
        ({"moe.top_k": Int(low=1.0, high=2)}, "is Int or Choice"),
        ({"moe.top_k": (1, 2)}, "is Int or Choice"),
        ({"moe.top_k": Int(low=3, high=2)}, "low <= high"),
        ({"moe.top_k": Int(low=1, high=4, step=2)}, "a step that divides"),
        ({"moe.top_k": Int(low=0, high=2, log=True)}, "positive low"),
        ({"optim.learning_rate": Int(low=1, high=2)}, "is Float or Choice"),
        ({"optim.learning_rate": Float(low=0, high=1, log=True)}, "positive low"),
        ({"optim.learning_rate": Float(low=float("nan"), high=1)}, "low <= high"),
        ({"moe.router": Choice(("learned", "lerned"))}, "from learned, frozen"),
        ({"moe.router": Choice("learned")}, "from learned, frozen"),
        ({"moe.router": Float(low=0, high=1)}, "is Choice"),
    ],
)
def test_a_space_that_cannot_be_is_refused(axes, message):
    with pytest.raises(ConfigError, match=message):
        Space(axes=axes)


def test_conditions_are_checked():
    axes = {"moe.num_experts": Choice((0, 4)), "moe.top_k": Choice((1, 2))}
    with pytest.raises(ConfigError, match="either is_in or not_in"):
        Condition(axis="moe.top_k", on="moe.num_experts")
    with pytest.raises(ConfigError, match="of type int"):
        Condition(axis="moe.top_k", on="moe.num_experts", is_in=("4",))
    elsewhere = Condition(axis="moe.top_k", on="moe.router", is_in=("learned",))
    with pytest.raises(ConfigError, match="speaks of axes of its space"):
        Space(axes=axes, conditions=(elsewhere,))
    back = Condition(axis="moe.num_experts", on="moe.top_k", is_in=(1,))
    with pytest.raises(ConfigError, match="circle"):
        Space(axes=axes, conditions=(back,))


def test_points_enumerates_each_point_once():
    axes = {path: domain for path, domain in WIDE.items() if not isinstance(domain, Float)}
    space = Space(axes=axes)
    points = [tuple(sorted(point.items())) for point in space.points()]
    assert len(points) == len(set(points)) <= space.size()
    assert {len(point) for point in points if ("moe.num_experts", 0) in point} == {2}
    assert Space(axes=WIDE).size() is None
    with pytest.raises(ConfigError, match="only a space of choices and integers"):
        next(Space(axes=WIDE).points())


@pytest.mark.parametrize("continuous", [False, True])
def test_a_wholly_infeasible_space_is_refused_with_counted_reasons(continuous):
    axes = {"moe.num_experts": Choice((1, 2)), "moe.top_k": Choice((3, 4))}
    if continuous:
        axes["optim.learning_rate"] = Float(low=1e-4, high=1e-2, log=True)
    with pytest.raises(ConfigError) as error:
        Space(axes=axes).check(BASE, samples=50)
    count = "none was found in 50 random draws" if continuous else "all 4 points are refused"
    assert count in str(error.value)
    assert f"{50 if continuous else 4} x moe.top_k must not exceed" in str(error.value)


def test_a_space_with_one_feasible_point_passes():
    Space(axes={"moe.num_experts": Choice((1, 2)), "moe.top_k": Choice((2, 4))}).check(BASE)
    Space(axes=WIDE).check(BASE)
    Space(axes={"moe.top_k": Int(low=1, high=10**30, log=True)}).check(BASE)


def test_an_axis_without_effect_over_the_base_is_refused():
    space = Space(axes={"moe.top_k": Choice((1, 2))})
    with pytest.raises(ConfigError, match=r"only where moe\.num_experts is not 0.*Add moe\.num"):
        space.check(TrialConfig())
    with pytest.raises(ConfigError, match="balance_scope has an effect only where"):
        Space(axes={"moe.balance_scope": Choice(("global_batch",))}).check(BASE)


def test_integers_keep_their_step():
    space = Space(axes={"train.num_steps": Int(low=100, high=300, step=100)})
    assert [point["train.num_steps"] for point in space.points()] == [100, 200, 300]
    assert {space.suggest(study().ask())["train.num_steps"] for _ in range(5)} <= {100, 200, 300}


def test_replacing_a_field_of_a_space_keeps_the_rest():
    space = Space(axes=WIDE)
    assert dataclasses.replace(space, rules=()) == space
    narrow = dataclasses.replace(space, axes={"moe.top_k": Choice((1, 2))})
    assert narrow == Space(axes={"moe.top_k": Choice((1, 2))})
