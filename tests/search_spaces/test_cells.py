from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moe.config import ConfigError, TrialConfig
from search_spaces.axes import describe_axes
from search_spaces.cells import Cell, grid, readable_name
from search_spaces.overlay import overlay

BASE = overlay(TrialConfig(), {"moe.num_experts": 4, "moe.top_k": 2})
UNITS = {"moe.routing_unit": ("token", "sequence")}


def names(cells) -> list[str]:
    return [cell.name for cell in cells]


def test_a_grid_enumerates_its_cells_in_order_with_readable_names():
    cells = grid(UNITS | {"moe.router": ("learned", "frozen")}, base=BASE)
    assert names(cells) == ["token-learned", "token-frozen", "sequence-learned", "sequence-frozen"]
    assert cells.cells[1].overrides == {"moe.routing_unit": "token", "moe.router": "frozen"}
    assert cells.cells[1].config(BASE) == overlay(BASE, {"moe.router": "frozen"})
    assert len(cells) == 4
    assert cells.dropped == ()


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        ({"moe.num_experts": 4, "moe.top_k": 2, "moe.routing_unit": "token"}, "N4-K2-token"),
        ({"moe.routing_unit": "sequence", "moe.routing_scope": "global"}, "sequence-global"),
        ({"moe.granularity": 8, "moe.shared_experts": 1}, "G8-S1"),
        ({"moe.gate": "switch", "moe.balance": "none"}, "gate_switch-balance_none"),
        ({"moe.num_experts": 0, "model.ffn_multiple": 2.0}, "N0-ffn2"),
        ({"optim.learning_rate": 1e-05, "moe.router_init_std": 0.02}, "lr1e-05-std0.02"),
        ({"optim.learning_rate": 0.12345678}, "lr0.12345678"),
        ({"model.num_layers": 12}, "num_layers_12"),
        ({"data.corpus": "files:../docs/*.txt"}, "corpus_files_.._docs_.txt"),
    ],
)
def test_names_read_as_the_papers_do(overrides, name):
    assert readable_name(overrides) == name


def test_a_cell_keeps_its_name_when_an_axis_grows():
    small = grid(UNITS | {"moe.top_k": (2,)}, base=BASE)
    large = grid(UNITS | {"moe.top_k": (2, 3)}, base=BASE)
    assert set(names(small)) < set(names(large))


# Short ones: a name has at most 100 characters.
NUMBERS = {
    int: st.integers(-5, 10**6),
    float: st.floats(0, 1e6).map(lambda value: float(f"{value:.3g}")),
    bool: st.booleans(),
}
FIELDS = [a for a in describe_axes() if a.path != "train.seed" and (a.choices or a.type is not str)]


@settings(deadline=None, derandomize=True, max_examples=100)
@given(data=st.data())
def test_names_of_any_grid_are_unique_and_safe(data):
    axes = {}
    for axis in data.draw(st.lists(st.sampled_from(FIELDS), min_size=1, max_size=3, unique=True)):
        value = st.sampled_from(axis.choices) if axis.choices else NUMBERS[axis.type]
        axes[axis.path] = data.draw(st.lists(value, min_size=1, max_size=3, unique=True))
    # A cell beside, so that a grid without a feasible combination has one.
    also = [Cell(name="beside", overrides={"train.max_loss": 7.125})]
    cells = grid(axes, base=BASE, also=also, infeasible="drop")
    made = [cell.name for cell in cells] + [dropped.name for dropped in cells.dropped]
    assert len({name.lower() for name in made}) == len(made)
    assert all(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name) for name in made)
    assert all(dropped.reason for dropped in cells.dropped)
    for cell in cells:
        cell.config(BASE)


def test_infeasible_combinations_raise_unless_asked_to_drop():
    axes = UNITS | {"moe.router": ("learned", "hash")}
    with pytest.raises(ConfigError, match="cell sequence-hash: a hash router works on token ids"):
        grid(axes, base=BASE)
    cells = grid(axes, base=BASE, infeasible="drop")
    assert names(cells) == ["token-learned", "token-hash", "sequence-learned"]
    (dropped,) = cells.dropped
    assert dropped.name == "sequence-hash"
    assert dropped.overrides == {"moe.routing_unit": "sequence", "moe.router": "hash"}
    assert "Set moe.routing_unit=token" in dropped.reason
    with pytest.raises(ConfigError, match="'raise' or 'drop'"):
        grid(axes, base=BASE, infeasible="ignore")


def test_two_names_for_one_run_are_no_two_cells():
    axes = {"moe.num_experts": (0, 4)} | UNITS
    with pytest.raises(ConfigError, match="N0-sequence, which is the same run as N0-token"):
        grid(axes, base=BASE)
    cells = grid(axes, base=BASE, infeasible="drop")
    assert names(cells) == ["N0-token", "N4-token", "N4-sequence"]
    assert "the same run as N0-token" in cells.dropped[0].reason


def test_cells_of_different_text_are_different_runs():
    assert len(grid({"data.corpus": ("stdlib", "files:a.txt")}, base=BASE)) == 2


def test_where_keeps_what_the_study_asks_and_also_adds_to_it():
    dense = Cell(name="dense-2x", overrides={"moe.num_experts": 0, "model.ffn_multiple": 2.0})
    cells = grid(
        {"moe.num_experts": (2, 4), "moe.top_k": (2, 3)},
        base=BASE,
        where=lambda point: point["moe.top_k"] <= point["moe.num_experts"],
        also=[dense],
    )
    assert names(cells) == ["N2-K2", "N4-K2", "N4-K3", "dense-2x"]
    assert cells.dropped == ()


def test_what_follows_from_a_combination_is_set_and_not_named():
    def gate(point) -> dict[str, str]:
        return {"moe.gate": "switch" if point["moe.top_k"] == 1 else "softmax_topk"}

    one, two = grid({"moe.top_k": (1, 2)}, base=BASE, derive=gate)
    assert (one.name, two.name) == ("K1", "K2")
    assert one.overrides == {"moe.top_k": 1, "moe.gate": "switch"}
    assert two.config(BASE).moe.gate == "softmax_topk"


def test_names_can_be_given_but_not_twice():
    def by_unit(point) -> str:
        return f"by-{point['moe.routing_unit']}"

    assert names(grid(UNITS, base=BASE, name=by_unit)) == ["by-token", "by-sequence"]
    with pytest.raises(ConfigError, match="different names; received 'same' and 'same'"):
        grid(UNITS, base=BASE, name=lambda point: "same")
    with pytest.raises(ConfigError, match="different names; received 'token' and 'Token'"):
        grid(UNITS, base=BASE, also=[Cell(name="Token", overrides={"moe.top_k": 3})])


@pytest.mark.parametrize("name", ["", ".hidden", "a/b", "a b", "it's", "x" * 101, "naïve", "-a", 3])
def test_an_unsafe_name_is_refused(name):
    with pytest.raises(ConfigError, match="a cell's name"):
        Cell(name=name, overrides={})


def test_a_cell_is_no_seed_and_has_no_unknown_path():
    with pytest.raises(ConfigError, match=r"never sets train\.seed"):
        Cell(name="a", overrides={"train.seed": 1})
    with pytest.raises(ConfigError, match=r"never sets train\.seed"):
        grid({"train.seed": (0, 1)}, base=BASE)
    with pytest.raises(ConfigError, match=r"Did you mean moe\.top_k"):
        Cell(name="a", overrides={"moe.topk": 1})
    for values in ((2, 2), (), 2, "2"):
        with pytest.raises(ConfigError, match="one or more different values"):
            grid({"moe.top_k": values}, base=BASE)


def test_a_grid_of_nothing_says_why():
    with pytest.raises(ConfigError, match=r"(?s)none is left.*K5: cell K5: moe\.top_k must not"):
        grid({"moe.top_k": (5,)}, base=BASE, infeasible="drop")
    with pytest.raises(ConfigError, match="none is left"):
        grid(UNITS, base=BASE, where=lambda point: False)


def test_derive_overwrites_no_axis():
    with pytest.raises(ConfigError, match=r"moe\.top_k=2 for cell K1.*axis has 1"):
        grid({"moe.top_k": (1, 2)}, base=BASE, derive=lambda _: {"moe.top_k": 2})
