"""A study is judged by any metric that has a direction, and everything follows it."""

from __future__ import annotations

import dataclasses
import io
import json
import math
from types import SimpleNamespace

import optuna
import pytest
from optuna.distributions import FloatDistribution
from ray.tune.schedulers import TrialScheduler
from rich.console import Console

from moe.data.corpus import open_corpus
from moe.metrics import METRICS, VAL_LOSS, VAL_LOSS_OF_PART, describe, loss_of_part
from orchestrator.base.errors import BadInput
from orchestrator.cli.progress import RunProgress
from orchestrator.driver.tune_adapters import make_scheduler
from orchestrator.report.figure_data import complete_cells
from orchestrator.report.figure_labels import curve_label
from orchestrator.report.pareto import pareto_points
from orchestrator.report.records import read_launch
from orchestrator.report.table_text import render
from orchestrator.stores.trial_record import TrialRecord
from orchestrator.study.claims import Equivalent
from orchestrator.study.resolve import resolve
from orchestrator.trials.search_history import BoundedHistory
from orchestrator.trials.search_state import study_of
from search_spaces.cells import Cell
from search_spaces.domains import Choice
from search_spaces.space import Infeasible, Space

ENTROPY = "router/load_entropy"
CELLS = [Cell(name=f"k{k}", overrides={"moe.top_k": k, "moe.gate": "switch"}) for k in (1, 2, 3)]


def judged_by(study, metric, **changes):
    return dataclasses.replace(study, metric=metric, **changes)


@pytest.fixture
def even_study(grid_study):
    """Higher is better."""
    return judged_by(
        grid_study, ENTROPY, cells=CELLS, baseline="k1", seeds=(0,), published={"k1": {"wiki": 9.0}}
    )


def entry(step, **values):
    return {"step": step, "tokens": step * 128, "timestamp_ms": 1000 + step, **values}


def run_all(session, value_of):
    """Each trial ends with its metric at `value_of(cell)`, the loss against it."""
    while assignment := session.ledger.next():
        number = assignment.record.number
        value = value_of(assignment.record.cell)
        session.ledger.started(number)
        for step in (4, 8):
            last = entry(step, **{ENTROPY: value * step / 8, VAL_LOSS: 3.0 + value})
            session.ledger.progressed(number, last)
        session.ledger.completed(number, last, tokens=1024)


def value_of_k(cell):
    return {"k1": 0.2, "k2": 0.9, "k3": 0.5}[cell]


def test_a_name_that_is_none_is_refused_with_near_matches(grid_study):
    with pytest.raises(ValueError, match=r"received 'val/los'. Did you mean val/loss"):
        judged_by(grid_study, "val/los")
    with pytest.raises(ValueError, match="There are val/loss, val/perplexity"):
        judged_by(grid_study, "no/such/metric")


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_each_metric_with_a_direction_is_taken(grid_study, metric):
    if metric.is_of_test:
        with pytest.raises(ValueError, match="nothing goes by the test split"):
            judged_by(grid_study, metric.name)
    elif metric.better == "neither":
        with pytest.raises(ValueError, match="neither less nor more is better"):
            judged_by(grid_study, metric.name)
    else:
        assert judged_by(grid_study, metric.name).measure == metric


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_perplexity_is_of_losses_alone(metric):
    others = {VAL_LOSS, VAL_LOSS_OF_PART, "train/loss", "train/loss_last_100"}
    losses = others | {"val/loss_causal", "test/loss", "test/loss_causal"}
    assert metric.is_loss == (metric.name in losses)
    assert ("perplexity" in curve_label(metric)) == (metric.is_loss or "perpl" in metric.name)


def test_a_cell_whose_runs_lack_the_metric_is_refused(grid_study, corpus):
    with pytest.raises(BadInput, match="runs with experts, and cell dense is none"):
        resolve(judged_by(grid_study, ENTROPY), corpus_spec=corpus)
    hashed = [*CELLS, Cell(name="hash", overrides={"moe.router": "hash"})]
    with pytest.raises(BadInput, match="router that scores experts, and cell hash"):
        resolve(
            judged_by(grid_study, "router/z_loss", cells=hashed, baseline="k1"), corpus_spec=corpus
        )


PART = "val/loss/part:de"


def test_the_loss_of_a_part_is_of_texts_that_have_it(grid_study, sampled_study, corpus):
    for study in (grid_study, sampled_study):
        with pytest.raises(BadInput, match=r"part:de is of a mixture .* has none\. Choose another"):
            resolve(judged_by(study, PART), corpus_spec=corpus)
    mixed = f"mix:{corpus}=1,stdlib=1"
    (_, name) = (part.name for part in open_corpus(mixed).source.parts)
    resolve(judged_by(grid_study, loss_of_part(name)), corpus_spec=mixed)
    with pytest.raises(BadInput, match=f"part:de is of a mixture .*, and {mixed} has none"):
        resolve(judged_by(grid_study, PART), corpus_spec=mixed)


@pytest.mark.parametrize(
    ("metric", "overrides", "told"),
    [
        (ENTROPY, {"moe.num_experts": 0}, "of runs with experts"),
        ("router/z_loss", {"moe.router": "hash"}, "of runs with a router that scores experts"),
        ("test/loss", {"data.test_fraction": 0.0}, "of runs with a split that is held out"),
        (PART, {"moe.top_k": 4}, "of runs on a mixture .* with that part"),
    ],
)
def test_a_claim_about_what_a_cell_lacks_is_refused(grid_study, corpus, metric, overrides, told):
    study = dataclasses.replace(
        grid_study,
        cells=[Cell(name="lacks", overrides=overrides), *CELLS],
        baseline="k1",
        claims=(Equivalent(id="c", statement="one", a="lacks", b="k1", margin=0.1, metric=metric),),
    )
    with pytest.raises(BadInput, match=f"claim c: {metric} is {told}.*, and cell lacks is none"):
        resolve(study, corpus_spec=corpus)


def test_a_search_leaves_out_points_that_lack_the_metric(sampled_study, corpus):
    space = Space(axes={"moe.router": Choice(("learned", "hash"))})
    study = judged_by(sampled_study, "router/z_loss", space=space)
    launch = resolve(study, corpus_spec=corpus)
    assert launch.sampled_point({"moe.router": "learned"}, 0).config.moe.router == "learned"
    with pytest.raises(Infeasible, match="router/z_loss is of runs with a router"):
        launch.sampled_point({"moe.router": "hash"}, 0)


def test_tables_and_figures_follow_the_direction(hold, home, even_study):
    with hold(even_study) as session:
        run_all(session, value_of_k)
        assert session.search.study.direction is optuna.study.StudyDirection.MAXIMIZE
        table = session.table()
    launch = read_launch(even_study.name, home=home)
    markdown = render(table, "markdown")
    assert ENTROPY in markdown
    assert "perplexity" not in markdown.replace("published", "")
    assert [row["perplexity"] for row in json.loads(render(table, "json"))["rows"]] == [None] * 3
    assert table.rank_correlation == {}
    assert [row.mean for row in table.rows] == [0.2, 0.9, 0.5]
    points = pareto_points(launch.trials, home, metric=launch.metric)
    # k1 costs least, k2 beats it, k3 costs most and beats neither.
    assert [(p.cell, p.on_front) for p in points] == [("k1", True), ("k2", True), ("k3", False)]


def test_a_search_is_sorted_best_first(hold, home, sampled_study):
    study = judged_by(sampled_study, ENTROPY, early_stopping=None)
    with hold(study) as session:
        run_all(session, lambda cell: sum(map(ord, cell)) % 97 / 100)
        means = [row.mean for row in session.table().rows]
    assert means == sorted(means, reverse=True)
    cells = complete_cells(read_launch(study.name, home=home))
    assert [cell.trials[0].value for cell in cells] == means


def test_what_a_run_says_names_the_metric(hold, even_study):
    text = io.StringIO()
    progress = RunProgress(Console(file=text, width=200))
    with hold(even_study, listener=progress) as session:
        progress.planned(session.ledger)
        run_all(session, lambda cell: math.nan if cell == "k1" else value_of_k(cell))
        failed = [r for r in session.records if r.state == "failed"]
        assert [r.error for r in failed] == [f"the final {ENTROPY} is nan, not a finite number"]
        shown = Console(file=text, width=200, force_terminal=True)
        shown.print(progress)
    assert f"{ENTROPY} 0.9000" in text.getvalue()
    assert "best 0.9000 (k2)" in text.getvalue()


def test_a_launch_keeps_the_metric_that_it_was_begun_with(hold, grid_study, even_study):
    first = judged_by(even_study, VAL_LOSS)
    with hold(first) as session:
        run_all(session, value_of_k)
    with pytest.raises(BadInput, match="begun with"), hold(even_study):
        pass
    # Under another name nothing is trained again, and no value of the loss is taken for the other.
    with hold(dataclasses.replace(even_study, name="renamed")) as session:
        assert session.ledger.next() is None
        assert {r.cell: r.value for r in session.records} == {"k1": 0.2, "k2": 0.9, "k3": 0.5}
        assert all(r.is_reused and not r.curve for r in session.records)


@pytest.mark.parametrize(("metric", "good"), [(VAL_LOSS, 0.0), (ENTROPY, 1.0)])
def test_the_sampler_seeks_the_better_end(metric, good):
    rate = FloatDistribution(0.0, 1.0)
    history = BoundedHistory(40, metric=metric)
    fields = dict.fromkeys(field.name for field in dataclasses.fields(TrialRecord))
    for number in range(100):
        value = (number * 37 % 100) / 100
        own = {"number": number, "state": "complete", "value": value, "params": {"x": value}}
        own |= {"distributions": {"x": rate}, "curve": {}, "attributes": {}}
        history.note(TrialRecord(**{**fields, **own}))
    best = sorted((i / 100 for i in range(100)), key=lambda value: abs(value - good))[:10]
    assert set(best) <= {r.value for r in history.records()}
    drawn = study_of(history.records(), optuna.samplers.TPESampler(seed=0), metric=metric)
    asked = [drawn.ask({"x": rate}).params["x"] for _ in range(8)]
    assert abs(sum(asked) / len(asked) - good) < 0.3


@pytest.mark.parametrize("metric", [VAL_LOSS, ENTROPY])
def test_early_stopping_ends_the_worse(hold, sampled_study, metric):
    with hold(judged_by(sampled_study, metric)) as session:
        scheduler = make_scheduler(session.launch, session.ledger)
        decisions = []
        for value in (0.5, 0.9, 0.1):
            number = session.ledger.next().record.number
            session.ledger.started(number)
            job = {"number": number, "config": {"train": {"num_steps": 8}}}
            trial = SimpleNamespace(trial_id=str(number), config={"job": job})
            scheduler.on_trial_add(None, trial)
            decisions.append(scheduler.on_trial_result(None, trial, {"step": 2, metric: value}))
    ended = [decision == TrialScheduler.STOP for decision in decisions]
    lower = describe(metric).better == "lower"
    assert ended == ([False, True, False] if lower else [False, False, True])
