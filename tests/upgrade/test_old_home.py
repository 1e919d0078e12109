"""A home of November 2026 is read, found, reused and pooled by today's code."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from orchestrator.base.home import Home
from orchestrator.driver.options import Options
from orchestrator.driver.session import opened
from orchestrator.driver.tune_loop import run
from orchestrator.stores.trial_record import REUSED_FROM
from orchestrator.study.library import load_study
from orchestrator.study.resolve import resolve
from search_spaces.cells import Cell

EXPECTED = Path(__file__).parent / "expected"
CORPUS = "files:text.jsonl"


def expected(name: str):
    return json.loads((EXPECTED / f"{name}.json").read_text())


def holds(now, before, where="") -> None:
    """All that was said before is said now; more may be."""
    if isinstance(before, dict):
        for key, value in before.items():
            assert key in now, f"{where}.{key} is gone"
            holds(now[key], value, f"{where}.{key}")
    elif where.endswith(".notes"):
        assert set(before) <= set(now)
    elif isinstance(before, list):
        assert len(now) == len(before), where
        for i, (own, value) in enumerate(zip(now, before, strict=True)):
            holds(own, value, f"{where}[{i}]")
    elif isinstance(before, float):
        assert now == pytest.approx(before, rel=1e-12), where
    else:
        assert now == before, where


def asked(moe_study, *arguments: str):
    code, out, err = moe_study(*arguments, "--home", "home")
    assert code == 0, err
    return json.loads(out)


@pytest.mark.parametrize("name", ["grid", "search"])
def test_status_is_as_it_was(old_lab, moe_study, name):
    told_by_run = expected(name)
    before = {key: told_by_run[key] for key in ("study", "launch", "states", "trials")}
    holds(asked(moe_study, "status", f"old_{name}.py", "--json"), before)


@pytest.mark.parametrize("command", [("table", "--format", "json"), ("claims", "--json")])
def test_the_table_and_the_verdicts_are_as_they_were(old_lab, moe_study, command):
    name, *options = command
    before = expected(name)
    for claim in before["claims"]:
        # The number of seeds that was advised then decided half of all studies or fewer.
        assert claim.pop("seeds_to_decide") == 3
        assert "3 seeds" in claim.pop("reason")
    now = asked(moe_study, name, "old_grid.py", *options)
    holds(now, before)
    assert now["claims"][0]["seeds_for_80"] == 4
    assert now["claims"][0]["registered"] == "never registered"


def test_every_config_has_the_hash_that_it_had(old_lab):
    """On the tokens of that home, whose sequences mix no values of a label."""
    launch = resolve(load_study("old_grid.py"), corpus_spec=CORPUS).with_all_labels_apart()
    had = {(t["cell"], t["seed"]): t["config_hash"] for t in expected("grid")["trials"]}
    assert {(p.cell, p.seed): p.config_hash for p in launch.points()} == had


def ran(study, **options):
    launch = resolve(study, corpus_spec=CORPUS, **options)
    said: list[str] = []
    with opened(launch, Options(home=Home(Path("home").absolute())), say=said.append) as session:
        run(session)
    assert session.exit_code == 0, said
    return session


def told(trials):
    return {(t["cell"], t["seed"]): (t["value"], t["mlflow_run_id"]) for t in trials}


def results(records):
    return {(r.cell, r.seed): (r.value, r.run_id) for r in records}


@pytest.mark.parametrize("name", ["grid", "search"])
def test_run_again_trains_nothing(old_lab, name):
    """Found, not reused: no code needs to be alike for that, and no cluster is begun."""
    session = ran(load_study(f"old_{name}.py"))
    had = expected(name)["trials"]
    assert results(session.records) == told(had)
    assert [r.state for r in session.records] == [t["state"] for t in had]


def test_another_study_reuses_its_cells(old_lab, alike):
    old = load_study("old_grid.py")
    cells = [Cell(name="same-as-learned", overrides={"moe.router": "learned"}), old.cells[0]]
    other = dataclasses.replace(
        old, name="other", baseline="dense", cells=cells, seeds=(0, 1), claims=()
    )
    session = ran(other)
    had = {(t["cell"], t["seed"]): t for t in expected("grid")["trials"]}
    for record in session.records:
        source = had["learned" if record.cell == "same-as-learned" else record.cell, record.seed]
        assert (record.state, record.tokens, record.value) == ("complete", 0, source["value"])
        assert record.attributes[REUSED_FROM] == source["mlflow_run_id"]
        assert record.attributes["moe_digest"] == "96dacceb6cfecc15"
    assert len(session.records) == 4


def test_code_that_trains_otherwise_reuses_nothing(old_lab, monkeypatch):
    monkeypatch.setattr("orchestrator.stores.reuse.moe_digest", lambda: "0123456789abcdef")
    launch = resolve(dataclasses.replace(load_study("old_grid.py"), name="x"), corpus_spec=CORPUS)
    options = Options(home=Home(Path("home").absolute()))
    with opened(launch, options, say=lambda line: None, start_cluster=False) as session:
        assert session.ledger.next().record.state == "waiting"


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_a_third_seed_joins_the_rows_of_the_other_two(old_lab, alike):
    study = load_study("old_grid.py")
    session = ran(study, seeds=(0, 1, 2))
    before = told(expected("grid")["trials"])
    now = results(session.records)
    assert {key: now[key] for key in before} == before
    new = [r for r in session.records if (r.cell, r.seed) not in before]
    assert sorted((r.cell, r.seed, r.tokens) for r in new) == [
        ("dense", 2, 12288),
        ("frozen", 2, 12288),
        ("learned", 2, 12288),
    ]
    rows = session.table().rows
    assert [(row.cell, row.n, row.seeds) for row in rows] == [
        ("dense", 3, [0, 1, 2]),
        ("learned", 3, [0, 1, 2]),
        ("frozen", 3, [0, 1, 2]),
    ]
    assert session.table().judgement.verdicts[0].n == 3
