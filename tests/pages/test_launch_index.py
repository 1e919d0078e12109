"""The page that `ui` opens on: what it says of a launch, where links lead, whom it answers."""

from __future__ import annotations

import dataclasses
import http.client
import re

import pytest

from orchestrator.archive.archived_launch import read, records_of
from orchestrator.base.errors import StudyError
from orchestrator.base.home import Home
from orchestrator.cli import launch_index
from orchestrator.cli.launch_index import IndexServer, LaunchIndex, lines_of, row_of
from orchestrator.report import parent_summary
from orchestrator.report.table_columns import human
from orchestrator.stores.driver_lock import DriverLock, is_held
from orchestrator.stores.parent_run import TAG_LIMIT
from orchestrator.study.library import load_study

MLFLOW, OPTUNA = "http://127.0.0.1:5003", "http://127.0.0.1:8082"


@pytest.fixture
def index(monkeypatch, request, tmp_path):
    export = request.config.rootpath / "docs" / "results" / "quickstart.moe-study"
    with records_of(read(export)) as launch:
        started = {**launch.info.attributes, "started_at": "2026-11-25T12:00:00+00:00"}
        info = dataclasses.replace(launch.info, attributes=started)
        launch = dataclasses.replace(launch, info=info)
        monkeypatch.setattr(launch_index, "read_launches", lambda *_, **__: iter([launch]))
        yield LaunchIndex(
            home=Home(tmp_path),
            optuna_storage=None,
            mlflow=MLFLOW,
            optuna=OPTUNA,
            experiment_of={launch.info.name: ("7", False)}.get,
            is_held=lambda: False,
        )


def ask(server, path, host="127.0.0.1"):
    connection = http.client.HTTPConnection(server.address.removeprefix("http://"), timeout=60)
    connection.request("GET", path, headers={"Host": host})
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer.status, text


def test_a_row_says_how_far_how_good_and_how_dear(index):
    (launch,) = index.launches()
    row = row_of(launch, human([1e6]))
    values = {}
    for record in launch.trials:
        values.setdefault(record.cell, []).append(record.value)
    best = min(values, key=lambda cell: sum(values[cell]) / 2)
    assert row["best"] == f"val/loss {sum(values[best]) / 2:.4f} ({best}, n = 2)"
    assert row["failed"] == "0"
    tokens = sum(record.tokens for record in launch.trials if not record.is_reused)
    assert row["tokens"] == f"{tokens / 1e6:.2f}M"
    page = index.page()
    assert "16 of 16" in page
    assert 'http-equiv="refresh"' not in page
    assert 'http-equiv="refresh"' in dataclasses.replace(index, is_held=lambda: True).page()


def test_links_land_on_the_runs_the_best_first(index):
    (launch,) = index.launches()
    link = index.runs_link(launch)
    assert link.startswith(f"{MLFLOW}/#/experiments/7/runs?workflowType=machine_learning&")
    assert link.endswith("orderByKey=metrics.%60val%2Floss%60&orderByAsc=true")
    assert list(lines_of(index, 5)) == [f"{launch.info.name}: {link}"]
    assert list(lines_of(index, 0)) == ["1 more launches: on the page"]
    hrefs = re.findall(r'<td class="links">(.*?)</td>', index.page())[0]
    assert f'href="/report/{launch.info.study_id}"' in hrefs
    assert f'href="{OPTUNA}/dashboard/studies/{launch.info.study_id}"' in hrefs
    viewed = dataclasses.replace(index, experiment_of=lambda name: ("7", True))
    assert viewed.runs_link(launch).endswith("&viewStateShareKey=ablation-table")
    curves = re.findall(r'href="([^"]+)"[^>]*>curves<', viewed.page())
    assert len(curves) == 1
    assert curves[0].endswith("viewStateShareKey=curves-by-cell")
    assert ">curves<" not in index.page(), "an experiment of before has no such view"
    nowhere = dataclasses.replace(index, experiment_of=lambda name: None)
    assert "MLflow</a>" in nowhere.page()
    assert "#/experiments" not in nowhere.page()


def test_tokens_of_all_rows_have_one_unit(index, monkeypatch):
    (launch,) = index.launches()
    few = [dataclasses.replace(launch.trials[0], tokens=4096)]
    both = [launch, dataclasses.replace(launch, trials=few)]
    monkeypatch.setattr(launch_index, "read_launches", lambda *_, **__: iter(both))
    told = re.findall(r'<td data-name="tokens">([^<]+)</td>', index.page())
    assert [text[-1] for text in told] == ["M", "M"]
    assert told[1].startswith("0.004")


def test_it_serves_the_page_and_the_report_to_this_machine_alone(index):
    server = IndexServer("127.0.0.1", 0, index)
    try:
        status, text = ask(server, "/")
        assert (status, "quickstart" in text) == (200, True)
        (launch,) = index.launches()
        status, text = ask(server, f"/report/{launch.info.study_id}")
        assert (status, "token-learned minus dense-active" in text) == (200, True)
        for path, host, wanted in (
            ("/report/999", "localhost", 404),
            ("/report/../../etc/passwd", "localhost", 404),
            ("/other", "127.0.0.1", 404),
            ("/", "evil.example", 403),
        ):
            status, text = ask(server, path, host)
            assert status == wanted
            assert "quickstart" not in text
    finally:
        server.close()


def test_a_record_that_cannot_be_read_is_said_on_the_page(index, monkeypatch):
    def broken(*_, **__):
        raise StudyError("the record <is> away")

    monkeypatch.setattr(launch_index, "read_launches", broken)
    assert "the record &lt;is&gt; away" in index.page()


def test_a_driver_at_work_is_seen(tmp_path):
    home = Home(tmp_path)
    assert not is_held(home)
    with DriverLock(tmp_path / "home", "the home", "a launch"):
        assert is_held(home)
    assert not is_held(home)


def test_mlflows_parent_run_says_verdicts_and_numbers(index):
    (launch,) = index.launches()
    table = launch.table(load_study("quickstart"))
    text = parent_summary.description(launch, table)
    assert "**undecided** mixture: a mixture beats the dense model" in text
    assert "(token-learned minus dense-active: -0.0050, 95% [-0.1116, +0.1017])" in text
    for row in table.rows:
        assert f"| {row.cell} |" in text
    many = dataclasses.replace(table, rows=table.rows * 40)
    cut = parent_summary.description(launch, many)
    assert len(cut) <= TAG_LIMIT
    assert cut.endswith("is report.html.")
    assert all(line.endswith("|") for line in cut.splitlines() if line.startswith("|"))
    found = parent_summary.metrics(launch, table)
    assert found["trials/complete"] == 16
    assert found["claims/undecided"] == 2
    assert found["best/val/loss"] == min(row.mean for row in table.rows)
    assert parent_summary.params(launch)["scale"] == "smoke"
