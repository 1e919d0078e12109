"""The report: what stands in it is what the records hold, it needs no network, and says what is
missing."""

from __future__ import annotations

import json
import re

import plotly.graph_objects as go
import pytest

from orchestrator.report.cost import cost_rows
from orchestrator.report.page import render_report
from orchestrator.report.pareto import pareto_points
from orchestrator.report.plotly_charts import LIGHT, with_colours
from orchestrator.report.records import read_launch
from orchestrator.stores.experiment_names import find_experiment
from orchestrator.study.library import load_study


@pytest.fixture(scope="module")
def launch(finished):
    return read_launch("quickstart", home=finished.home)


@pytest.fixture(scope="module")
def page(launch):
    return render_report(launch, load_study("quickstart"))


def text_of(page):
    without = re.sub(r"<(script|style)\b.*?</\1>", " ", page, flags=re.DOTALL)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", without))


def figures_of(page):
    found = re.search(r'id="figures">(.*?)</script>', page, flags=re.DOTALL)
    return json.loads(found[1])


def test_it_loads_nothing_from_elsewhere(page):
    own = re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)
    own, pictures = re.subn(r'<img alt="[^"]+" src="data:image/svg[^"]+">', "", own)
    charts = set(figures_of(page)) - {"differences"}  # which stand in the picture of the means
    assert len(charts) > 8
    assert pictures == len(charts), "every chart stands without JavaScript, too"
    assert not re.findall(r'(?:src|srcset)=|url\(|@import|<link(?! rel="icon" href="data:,")', own)
    assert len(page) < 3_000_000


def test_the_question_stands_first_then_the_verdicts(page):
    text = text_of(page)
    question = load_study("quickstart").question
    order = [question, "Not evidence: scale smoke", "Verdicts", "Table", "Curves", "Cost"]
    places = [text.index(part) for part in order]
    assert places == sorted(places)


def test_every_number_of_the_table_leads_to_its_runs(page, launch):
    table = launch.table(load_study("quickstart"))
    text = text_of(page)
    numbers = {record.run_id: record.number for record in launch.trials}
    for row in table.rows:
        assert row.cell in text
        if row.mean is not None:
            assert f"{row.mean:.4f}" in text
        for run in row.run_ids:
            assert f'href="#trial-{numbers[run]}"' in page
            assert f'id="trial-{numbers[run]}"' in page
            assert run in text


def test_states_and_reasons_are_told(page):
    text = text_of(page)
    for part in ("14 complete", "1 pruned", "1 failed", "OutOfMemoryError: told by the test"):
        assert part in text


def test_it_says_how_to_reproduce_it(page, launch):
    text = text_of(page)
    assert launch.info.attributes["corpus_digest"] in text
    assert "moe-study run quickstart --scale smoke --seeds 0,1 --corpus" in text
    assert "--set model.d_model=16" in text
    (driver,) = launch.info.attributes["drivers"]
    assert driver["moe_digest"] in text
    assert f"torch {driver['versions']['torch']}" in text


def test_the_charts_are_plotly_figures_without_colours_of_their_own(page):
    figures = figures_of(page)
    assert {"curves", "means", "differences", "load-0", "pareto", "pareto-active"} <= figures.keys()
    for name, figure in figures.items():
        go.Figure(with_colours(figure))  # raises on what plotly does not know
        if not name.startswith("load"):
            assert not re.search(r'"#[0-9a-fA-F]{6}"', json.dumps(figure)), name
    names = {name for name in re.findall(r"(--\w+)", json.dumps(figures))}
    assert names <= LIGHT.keys()


def test_every_chart_says_what_it_shows(page, launch):
    charts = re.findall(r'data-figure="([^"]+)" role="img" aria-label="([^"]+)"', page)
    assert {name for name, _ in charts} == figures_of(page).keys()
    texts = dict(charts)
    table = launch.table(load_study("quickstart"))
    for row in table.rows:
        if row.mean is not None:
            assert f"{row.cell} {row.mean:.4f}" in texts["means"]
    for name, against in (("pareto", "flops"), ("pareto-active", "active")):
        points = pareto_points(launch.trials, launch.home, metric="val/loss", against=against)
        told = texts[name].partition("on the front")[2]
        assert all((f" {p.cell} " in told) == p.on_front for p in points)


def test_the_curves_that_a_reader_chooses_from_hold_every_seed(page, launch):
    found = re.search(r'id="curve-choices">(.*?)</script>', page, flags=re.DOTALL)
    given = json.loads(found[1])
    assert given["axes"] == [
        "training tokens",
        "optimiser step",
        "training FLOPs",
        "device seconds",
    ]
    seeds = {(c["name"], s["seed"]): s for c in given["cells"] for s in c["seeds"]}
    complete = {(r.cell, r.seed): r for r in launch.trials if r.state == "complete"}
    assert seeds.keys() == complete.keys()
    for key, record in complete.items():
        assert dict(zip(seeds[key]["x"], seeds[key]["y"], strict=True)) == record.curve
    for cell in given["cells"]:
        record = complete[cell["name"], cell["seeds"][0]["seed"]]
        tokens = cell["per_step"]["training tokens"]
        assert tokens * max(record.curve) == record.tokens
        per_token = record.attributes["flops_per_token"]
        assert cell["per_step"]["training FLOPs"] == tokens * per_token
    (stopped,) = given["stopped"]
    assert (stopped["x"], stopped["y"]) == ([4], [5.5])


def test_no_chart_offers_to_send_itself_anywhere(page):
    (options,) = re.findall(r"const options = \{(.*?)\};", page, flags=re.DOTALL)
    assert "showSendToCloud: false" in options
    assert 'plotlyServerURL: ""' in options


def test_verdicts_name_both_cells_and_the_table_its_baseline(page):
    assert "token-learned minus dense-active" in text_of(page)
    (row,) = re.findall(r'<tr class="baseline">(.*?)</tr>', page, flags=re.DOTALL)
    assert "dense-active" in row
    assert "baseline" in text_of(row)
    axes = re.findall(r'<svg class="interval".*? aria-label="(.*?)"', page)
    assert all("interval from" in label and "zero in the middle" in label for label in axes)


def test_no_number_stands_where_one_is_missing(launch, page):
    assert {r.state for r in launch.trials} == {"complete", "pruned", "failed"}
    rows = re.findall(r'<tr id="trial-(\d+)">(.*?)</tr>', page, flags=re.DOTALL)
    for number, row in rows:
        record = launch.trials[int(number)]
        value = re.findall(r"<td>(.*?)</td>", row, flags=re.DOTALL)[3]
        assert value == ("\N{EN DASH}" if record.value is None else f"{record.value:.4f}")
    assert not re.search(r"\b(nan|None|inf|Infinity)\b", text_of(page))
    total = cost_rows(launch.trials)[-1]
    assert (total.trials, total.timed) == (16, 14)
    assert "of 14 trials" in page


@pytest.mark.parametrize("against", ["flops", "active"])
def test_the_front_holds_what_nothing_beats(launch, against):
    points = pareto_points(launch.trials, launch.home, metric=launch.metric, against=against)
    assert points
    for point in points:
        beaten = [
            other
            for other in points
            if other.spends(against) <= point.spends(against)
            and other.value <= point.value
            and (other.spends(against), other.value) != (point.spends(against), point.value)
        ]
        assert point.on_front == (not beaten)


def test_the_command_writes_it(in_finished, moe_study):
    code, out, err = moe_study("report", "quickstart", "-o", "sent/it.html")
    assert (code, out) == (0, "sent/it.html\n")
    assert "for a browser" in err
    assert (in_finished / "sent/it.html").read_text().startswith("<!DOCTYPE html>")
    (in_finished / "file").write_text("")
    code, out, err = moe_study("report", "quickstart", "-o", "file/it.html")
    assert (code, out) == (2, "")
    assert "can be written; received file/it.html" in err


def test_both_pages_have_figures_claims_and_report(finished):
    import optuna
    from mlflow.tracking import MlflowClient
    from optuna.artifacts import get_all_artifact_meta

    (caution,) = finished.said  # eight steps are fewer than quickstart's warm-up has
    assert "the warm-up is not shorter than the run" in caution
    client = MlflowClient(finished.home.mlflow_uri)
    experiment = find_experiment(client, finished.name)
    (parent,) = client.search_runs([experiment.experiment_id], "tags.`moe_study.parent` = 'true'")
    assert "**undecided** mixture" in parent.data.tags["mlflow.note.content"]
    assert "| token-learned |" in parent.data.tags["mlflow.note.content"]
    assert parent.data.metrics["trials/complete"] == 14
    assert parent.data.params["scale"] == "smoke"
    assert "mlflow.sharedViewState.ablation-table" in experiment.tags
    logged = {file.path for file in client.list_artifacts(parent.info.run_id)}
    assert {"report.html", "claims.json", "table.md", "figures", "environment.txt"} <= logged

    study = optuna.load_study(study_name=finished.name, storage=finished.home.optuna_storage)
    shown = {meta.filename: meta for meta in get_all_artifact_meta(study)}
    assert {"report.html", "claims.json", "curves.png", "loss.png"} <= shown.keys()
    for meta in shown.values():
        assert (finished.home.optuna_artifacts / meta.artifact_id).stat().st_size > 0
    assert "dashboard:plot_data:pareto-front:0" in study._storage.get_study_system_attrs(
        study._study_id
    )
    assert study.metric_names == ["val/loss"]
    for trial in study.trials:
        assert trial.user_attrs["mlflow.run_id"] in trial.user_attrs["mlflow.link"]
        assert {"params_total", "params_active", "flops_per_token", "seed"} <= set(trial.user_attrs)
