"""A node of a cluster is lost in the middle: its trials go on elsewhere, from its checkpoints.

That they come to the same bits is held by test_harness.
"""

from __future__ import annotations

import pytest
from mlflow.tracking import MlflowClient

from moe.code_digest import moe_digest
from moe.metrics import VAL_LOSS
from orchestrator.base.checkpoint_place import run_name
from orchestrator.base.home import Home
from orchestrator.report.analysis import analyze_launch
from orchestrator.report.records import read_launch


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_lost_node_costs_nothing_and_what_it_made_comes_back(study_file, on_several_nodes):
    study = study_file("lost", num_steps=1000, eval_every=125)
    folder, told = on_several_nodes("two_nodes.py", study)

    assert told["lost"], "a node was lost while two trials ran"
    assert [t["state"] for t in told["trials"]] == ["complete"] * 4, told
    assert max(t["attempt"] for t in told["trials"]) == 2, "a trial of the lost node began again"

    home = Home.at(folder / "home")
    client = MlflowClient(home.mlflow_uri)
    for trial in told["trials"]:
        history = client.get_metric_history(trial["mlflow_run_id"], VAL_LOSS)
        assert [m.step for m in history] == list(range(125, 1001, 125)), "nothing lost or doubled"
        assert client.get_run(trial["mlflow_run_id"]).info.status == "FINISHED"
        kept = [a.path for a in client.list_artifacts(trial["mlflow_run_id"], "routing")]
        assert kept == ["routing/routing.parquet"], "made on another node, kept by the driver"
        place = folder / "shared" / run_name(trial["config_hash"], moe_digest())
        assert (place / "final" / "manifest.json").is_file()
        assert not (home.run_folder(trial["config_hash"], moe_digest()) / "final").exists()
    for node in ("kept", "lost"):
        digests = [p.name for p in (folder / node / "cache" / "tokens").iterdir() if p.is_dir()]
        assert digests == [p.name for p in home.tokens.iterdir() if p.is_dir()]

    launch = read_launch("lost", home=home)
    found = analyze_launch(
        launch, home=home, probe_spec="corpus:language", permutations=19, say=lambda line: None
    )
    assert {(row["cell"], row["seed"]) for row in found["rows"]} == {
        (cell, seed) for cell in ("learned", "frozen") for seed in (0, 1)
    }, "the weights are found where the trial says they are"
