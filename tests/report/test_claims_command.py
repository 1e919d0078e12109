"""`moe-study claims` and `table` on a record of a search, written here without training."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest
from optuna.trial import TrialState

from orchestrator.base.home import Home
from orchestrator.stores.optuna_storage import open_storage
from orchestrator.stores.optuna_trials import OptunaTrials
from orchestrator.stores.trial_record import METRICS, MOE_DIGEST
from orchestrator.study.library import load_study
from orchestrator.study.resolve import resolve
from orchestrator.trials.grid import distributions_of, grid_distributions

LOSS = {"dense-1x": 3.30, "dense-2x": 3.20, "dense-4x": 3.15}


@pytest.fixture(scope="module")
def home(tmp_path_factory, corpus):
    """Two launches of paper_table1, smoke and then cpu, with a value for every trial."""
    home = Home(tmp_path_factory.mktemp("recorded"))
    home.create()
    storage = open_storage(home.optuna_storage, create=True)
    for scale, seeds in (("smoke", (0,)), ("cpu", (0, 1, 2, 3, 4))):
        launch = resolve(load_study("paper_table1"), scale=scale, seeds=seeds, corpus_spec=corpus)
        store = OptunaTrials.open(storage, launch, now=datetime.now(UTC))
        points = launch.points()
        distributions = grid_distributions(points)
        for number, point in enumerate(points):
            made = store.add_waiting(point, distributions=distributions_of(point, distributions))
            store.set_attributes(made.trial_id, {MOE_DIGEST: "code", METRICS: {}})
            loss = LOSS.get(point.cell, 3.0) + 0.05 * point.seed + 0.001 * (number**2 % 7)
            store.set_state(made.trial_id, TrialState.RUNNING)
            store.set_state(made.trial_id, TrialState.COMPLETE, loss)
    return home


def test_claims_as_json_and_as_text(home, moe_study):
    code, out, err = moe_study("claims", "paper_table1", "--home", home.root, "--json")
    found = json.loads(out)
    assert (code, err) == (0, "")
    assert (found["study"], found["evidence"]) == ("paper_table1", True)
    verdicts = {claim["id"]: claim for claim in found["claims"]}
    assert list(verdicts) == ["C2", "C3", "C4", "C9"]
    assert verdicts["C2"]["verdict"] == "supported"
    assert verdicts["C2"]["n"] == 5
    assert verdicts["C2"]["ci_low"] < verdicts["C2"]["estimate"] < verdicts["C2"]["ci_high"] < 0
    assert verdicts["C4"]["verdict"] == "refuted"
    assert verdicts["C9"]["verdict"] == "undecided"
    assert "seeds" in verdicts["C9"]["reason"]

    code, out, _ = moe_study("claims", "paper_table1", "--home", home.root)
    assert code == 0
    assert "Not evidence" not in out
    assert [line.split(" | ")[0] for line in out.splitlines() if line.startswith("| C9")] == [
        "| C9",
        "| C9.K1",
        "| C9.K2",
    ]


def test_smoke_scale_says_that_it_is_no_evidence(home, moe_study):
    where = ("--home", home.root, "--scale", "smoke")
    _, out, _ = moe_study("claims", "paper_table1", *where, "--json")
    assert json.loads(out)["evidence"] is False
    for arguments in (
        ("claims", "paper_table1"),
        ("table", "paper_table1", "--format", "markdown"),
        ("table", "paper_table1", "--format", "latex"),
    ):
        code, out, _ = moe_study(*arguments, *where)
        assert code == 0
        assert "Not evidence: scale smoke" in out


def test_table_stands_beside_the_published_one(home, moe_study):
    _, out, _ = moe_study("table", "paper_table1", "--home", home.root, "--format", "json")
    found = json.loads(out)
    assert found["rank_correlation"].keys() == {"multiwiki", "openwebtext"}
    assert found["rank_correlation"]["multiwiki"]["n"] == 9
    assert found["rows"][0]["published"] == {"multiwiki": 9.907, "openwebtext": 22.632}
    assert [claim["id"] for claim in found["claims"]] == ["C2", "C3", "C4", "C9"]


def test_claims_of_a_launch_that_is_not_there(moe_study, tmp_path):
    code, out, err = moe_study("claims", "paper_table1", "--home", tmp_path / "none")
    assert (code, out) == (2, "")
    assert err.count("moe-study:") == 1


def test_what_was_registered_and_what_leaks_is_said_everywhere(home, moe_study):
    where = ("--home", home.root)
    _, out, _ = moe_study("claims", "paper_table1", *where, "--json")
    found = json.loads(out)
    assert {claim["registered"] for claim in found["claims"]} == {"before the data"}
    assert found["design"].startswith("sequential, a look after every seed up to 20")
    assert found["exploratory"] is False
    causal = {claim["id"]: claim["causal"] for claim in found["claims"]}
    assert causal == {"C2": True, "C3": True, "C4": False, "C9": True}
    _, out, _ = moe_study("table", "paper_table1", *where, "--format", "json")
    rows = {row["cell"]: row["leaks_future"] for row in json.loads(out)["rows"]}
    assert [cell for cell, leaks in rows.items() if leaks] == [
        cell for cell in rows if cell.startswith("sequence")
    ]
    for command in (("claims",), ("table", "--format", "markdown"), ("table", "--format", "latex")):
        _, out, _ = moe_study(command[0], "paper_table1", *command[1:], *where)
        assert "refuted (not causal)" in out
        assert "Registered before the data: All claims." in out


def test_plan_tells_power_by_what_the_home_has_seen(home, moe_study, corpus):
    asked = ("plan", "paper_table1", "--scale", "cpu", "--corpus", corpus, "--seeds", "0,1,2,3")
    code, out, _ = moe_study(*asked, "--home", home.root, "--json")
    found = json.loads(out)
    assert code == 0
    told = {row["claim"]: row for row in found["power"]}
    assert list(told) == ["C2", "C3", "C4", "C9"]
    assert "5 seeds of" in told["C2"]["spread_from"]
    assert all(0 <= row["power"] <= 1 and row["n"] == 20 for row in told.values())
    _, out, _ = moe_study(*asked, "--home", home.root, "--spread", "0.02")
    assert "| C4 | no difference, margin 0.03584 | 0.0200 | 20 | 100% | 12 |" in out
    code, out, err = moe_study(*asked, "--spread", "-1")
    assert (code, out) == (2, "")
    assert "--spread is a number above 0" in err
