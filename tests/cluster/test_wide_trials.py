"""Trials of four workers over two nodes come through the loss of a worker and of a node, to the
numbers of one worker that nothing happened to; with fewer workers where the node stays away."""

from __future__ import annotations

import pytest
from mlflow.tracking import MlflowClient

from moe.data.token_store import TokenStore
from moe.metrics import VAL_LOSS
from moe.train.training_run import train
from orchestrator.base.home import Home
from orchestrator.stores.trial_record import WORKERS_BEFORE
from orchestrator.study.library import load_study
from orchestrator.study.resolve import resolve

STEPS, EVERY = 200, 20


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_lost_worker_and_lost_nodes_change_no_number(
    tmp_path, corpus, study_file, on_several_nodes
):
    study = study_file("wide", num_steps=STEPS, eval_every=EVERY, routers=("learned",))
    folder, told = on_several_nodes("wide_trials.py", study)
    assert told["done"] == ["worker killed", "node replaced", "node lost"], told["said"]
    assert [trial["state"] for trial in told["trials"]] == ["complete"] * 2, told
    assert sum(trial["attempt"] for trial in told["trials"]) == 2 + 3, "one more for each loss"
    (fewer,) = [t["number"] for t in told["trials"] if WORKERS_BEFORE in t["attributes"]]
    words, at = told["trials"][fewer]["attributes"][WORKERS_BEFORE].rsplit(" ", 1)
    assert words == "4 to step"
    assert 60 <= int(at) < STEPS
    assert sum("hold 2 workers" in line and "--min-workers" in line for line in told["said"]) == 1

    home = Home.at(folder / "home")
    client = MlflowClient(home.mlflow_uri)
    (tokens,) = [path for path in home.tokens.iterdir() if path.is_dir()]
    launch = resolve(load_study(str(study)), corpus_spec=corpus)
    for trial in told["trials"]:
        run = client.get_run(trial["mlflow_run_id"])
        assert run.info.status == "FINISHED"
        assert run.data.tags["workers"] == ("2" if trial["number"] == fewer else "4")
        history = client.get_metric_history(trial["mlflow_run_id"], VAL_LOSS)
        assert [point.step for point in history] == list(range(EVERY, STEPS + 1, EVERY))
        (point,) = [p for p in launch.points() if p.config.train.seed == trial["seed"]]
        alone: list[float] = []
        train(
            point.config,
            TokenStore.open(tokens),
            report=lambda metrics, _, to=alone: to.append(metrics[VAL_LOSS]),
            out=str(tmp_path / f"alone-{trial['seed']}"),
        )
        assert [p.value for p in history] == pytest.approx(alone, rel=1e-5)
