"""Two axes at a time: which cells make a plot, and the differences of differences that it tells."""

from __future__ import annotations

import dataclasses
from itertools import product

import numpy as np
import pytest
from scipy import stats

from orchestrator.report import axis_plots
from orchestrator.report.anytime import confidence_sequence
from orchestrator.report.figure_data import CellTrials
from orchestrator.report.figure_frame import Heading, Style, styled
from orchestrator.report.interactions import interactions
from orchestrator.report.text_alternatives import interaction_text
from orchestrator.stores.trial_record import TrialRecord
from orchestrator.study.design import Fixed, Sequential
from orchestrator.study.library import load_study, study_names


def cell(name, losses, **params):
    fields = dict.fromkeys(field.name for field in dataclasses.fields(TrialRecord))
    own = {"cell": name, "state": "complete", "params": params, "attributes": {}}
    return CellTrials(
        name=name,
        trials=[
            TrialRecord(**{**fields, **own, "seed": seed, "value": value})
            for seed, value in losses.items()
        ],
    )


def of(router, unit, losses=None, **more):
    params = {"moe.router": router, "moe.routing_unit": unit, "moe.num_experts": 4, **more}
    name = "-".join(map(str, (router, unit, *more.values())))
    losses = {0: 3.0, 1: 3.1} if losses is None else losses
    return cell(name, losses, **{path.replace("__", "."): value for path, value in params.items()})


def test_what_one_axis_does_more_at_one_value_of_the_other_is_paired_by_seed():
    choice = np.random.default_rng(0)
    seeds = range(5)
    grid = {
        key: {seed: float(choice.normal(3, 0.1)) for seed in seeds}
        for key in product(("learned", "frozen"), ("token", "sequence"))
    }
    del grid["frozen", "token"][3]
    cells = [of(*key, losses) for key, losses in grid.items()]
    shared = [0, 1, 2, 4]
    each = np.array(
        [
            (grid["frozen", "sequence"][s] - grid["learned", "sequence"][s])
            - (grid["frozen", "token"][s] - grid["learned", "token"][s])
            for s in shared
        ]
    )
    (found,) = interactions(cells, Fixed())
    (contrast,) = found.contrasts
    assert contrast.found.values == pytest.approx(each)
    expected = stats.ttest_1samp(each, 0).confidence_interval(0.95)
    assert (contrast.found.low, contrast.found.high) == pytest.approx(tuple(expected))
    mean = found.intervals["learned", "token"]
    assert mean.mean == pytest.approx(np.mean(list(grid["learned", "token"].values())))

    design = Sequential(max_seeds=20)
    (contrast,) = interactions(cells, design)[0].contrasts
    low, high = confidence_sequence(each, 0.05, design.prior_scale)
    assert (contrast.found.low, contrast.found.high) == pytest.approx((low[-1], high[-1]))
    told = interaction_text(found)
    assert told.startswith(
        "router frozen against learned, at routing_unit sequence more than at token by "
    )


def test_what_moves_along_is_told_and_what_does_not_is_held_equal():
    pairs = list(product(("learned", "frozen"), ("token", "sequence")))
    gates = {"token": "softmax_topk", "sequence": "double_softmax"}
    cells = [of(router, unit, moe__gate=gates[unit]) for router, unit in pairs]
    cells += [of(router, unit, moe__gate=gates[unit], moe__top_k=3) for router, unit in pairs[:-1]]
    found = interactions(cells, Fixed())
    by_axes = {(each.row_axis, each.column_axis): each for each in found}
    router_by_unit = by_axes["moe.router", "moe.routing_unit"]
    assert router_by_unit.along == ("moe.gate",)
    assert {each.cell for each in router_by_unit.intervals.values()} == {
        f"{router}-{unit}-{gates[unit]}" for router, unit in pairs
    }, "of one K alone: the other has no frozen sequence cell"
    assert ("moe.router", "moe.gate") not in by_axes, "the gate follows from the unit"
    for each in found:
        assert len(each.intervals) == len(each.rows) * len(each.columns)


def test_cells_that_lack_a_corner_make_no_plot():
    pairs = list(product(("learned", "frozen"), ("token", "sequence")))
    assert interactions([of(*pair) for pair in pairs[:-1]], Fixed()) == []
    assert interactions([], Fixed()) == []


def test_a_dense_model_is_no_value_of_a_mixtures_axis():
    cells = [of(*p) for p in product(("learned", "frozen"), ("token", "sequence"))]
    dense = [
        cell(f"dense-{m}", {0: 3.2}, **{"moe.num_experts": 0, "model.ffn_multiple": m})
        for m in (1.0, 2.0)
    ]
    (found,) = interactions(cells + dense, Fixed())
    assert not any("dense" in each.cell for each in found.intervals.values())


def test_one_seed_has_no_interval():
    cells = [of(*p, {0: 3.0}) for p in product(("learned", "frozen"), ("token", "sequence"))]
    (found,) = interactions(cells, Fixed())
    assert found.contrasts[0].found.low is None


@pytest.mark.parametrize(
    ("name", "axes"),
    [
        ("paper_table1", {("moe.routing_unit", "moe.top_k"), ("moe.routing_scope", "moe.top_k")}),
        (
            "paper_table2",
            {("moe.routing_unit", "moe.num_experts"), ("moe.routing_unit", "moe.top_k")},
        ),
        ("paper_table3", {("moe.routing_unit", "moe.router")}),
        ("block_family", {("moe.routing_unit", "moe.router"), ("moe.router", "model.norm")}),
    ],
)
def test_the_papers_studies_have_the_plots_that_they_ask_for(name, axes):
    study = load_study(name)
    assert name in study_names()
    asked = study.cells if not callable(study.cells) else study.cells(study.scales["smoke"])
    cells = [cell(each.name, {0: 3.0, 1: 3.1}, **each.overrides) for each in asked]
    found = {
        frozenset((each.row_axis, each.column_axis)) for each in interactions(cells, study.design)
    }
    assert {frozenset(pair) for pair in axes} <= found


@pytest.mark.parametrize("style", [Style(), Style(width_inches=3.25, family="serif")], ids=str)
def test_in_print_every_line_is_named_and_no_legend_is_wider_than_its_figure(style):
    routers = [f"router-with-a-name-{i}" for i in range(7)]
    cells = [of(router, unit) for router in routers for unit in ("token", "sequence")]
    (found,) = interactions(cells, Fixed())
    with styled(style):
        heading = Heading(title="Two axes", note="of a study")
        figure = axis_plots.interaction_figure(found, heading, label="val/loss")
    figure.draw_without_rendering()
    (legend,) = figure.subfigs[-1].legends
    assert [text.get_text() for text in legend.get_texts()] == [f"router {r}" for r in routers]
    box = legend.get_window_extent()
    assert box.x0 >= 0
    assert box.x1 <= figure.bbox.x1
    assert box.y0 > figure.subfigs[-1].axes[0].get_window_extent().y1 - 1
