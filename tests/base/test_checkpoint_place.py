"""Where checkpoints lie: tried before anything starts, shown without credentials, found again."""

from __future__ import annotations

import dataclasses
import socket

import pytest
from mlflow.tracking import MlflowClient

from moe.code_digest import moe_digest
from orchestrator.base.checkpoint_place import CheckpointPlace
from orchestrator.base.errors import BadInput
from orchestrator.base.home import Home
from orchestrator.cluster.nodes import mark, require_shared
from orchestrator.driver.tune_loop import run
from orchestrator.report.analysis import analyze_launch
from orchestrator.report.records import read_launch
from orchestrator.stores.trial_record import CHECKPOINT_PLACE, REUSED_FROM


def closed_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def place(uri, home="/home"):
    return CheckpointPlace.of(Home.at(home), uri)


SECRET = "s3://key:sec%2Fret@bucket/runs?region=r-1&client_secret=hidden"


def test_a_place_is_shown_without_what_is_secret_in_it():
    shown = place(SECRET)
    assert shown.name == "s3://bucket/runs?region=r-1"
    assert shown.run_folder("h", "d") == (
        "s3://key:sec%2Fret@bucket/runs/h/d?region=r-1&client_secret=hidden"
    )
    told = shown.without_secrets(OSError("bad key sec/ret or sec%2Fret or hidden"))
    assert "ret" not in told
    assert "hidden" not in told
    assert place(None).name == "/home/checkpoints"
    assert place("file:///a/b/").run_folder("h", "d") == "file:///a/b/h/d"


@pytest.mark.parametrize(
    ("uri", "told"),
    [
        ("ftp://user:secretpw@host/x", "pyarrow knows"),
        ("/proc/nothing/here", "can be written"),
        ("file:///proc/nothing/here", "can be written"),
        ("s3://key:secretpw@bucket/x?endpoint_override=127.0.0.1:{port}", "nothing answers"),
    ],
)
def test_a_place_that_cannot_be_used_is_one_message_and_nothing_made(
    uri, told, moe_study, tmp_path, corpus
):
    uri = uri.format(port=closed_port())
    arguments = ["--corpus", corpus, "--home", tmp_path / "home", "--checkpoint-uri", uri]
    code, out, err = moe_study("run", "quickstart", *arguments)
    assert (code, out) == (2, "")
    assert told in " ".join(err.split())
    assert "Traceback" not in err
    assert "secretpw" not in err
    assert not (tmp_path / "home").exists()


@pytest.mark.usefixtures("ray_cluster")
def test_a_node_that_sees_another_folder_is_refused(tmp_path):
    marker = mark(place(str(tmp_path / "here")), "launch")
    require_shared(place(str(tmp_path / "here")), marker, driver_node=None)
    with pytest.raises(ValueError, match="--checkpoint-uri"):
        require_shared(place(str(tmp_path / "there")), marker, driver_node=None)
    require_shared(place(str(tmp_path / "there")), None, driver_node=None)


@pytest.mark.usefixtures("ray_cluster")
def test_what_a_place_holds_is_found_by_readers_and_by_reuse(tmp_path, home, hold, grid_study):
    shared = tmp_path / "shared"
    options = {"checkpoint_uri": shared.as_uri()}
    learned = [cell for cell in grid_study.cells if cell.name == "learned"]
    study = dataclasses.replace(grid_study, cells=learned)
    with hold(study, seeds=(0,), options=options) as session:
        run(session)
    record = session.records[0]
    assert record.state == "complete"
    assert record.attributes[CHECKPOINT_PLACE] == shared.as_uri()
    client = MlflowClient(home.mlflow_uri)
    assert client.get_run(record.run_id).data.tags[CHECKPOINT_PLACE] == shared.as_uri()
    assert [a.path for a in client.list_artifacts(record.run_id, "routing")]
    kept = home.run_folder(record.config_hash, moe_digest())
    found = {path.name for path in kept.iterdir()}
    assert found == {"config.json", "losses.parquet", "routing.parquet"}

    other = dataclasses.replace(study, name="other")
    with hold(other, seeds=(0,)) as session:
        assert session.ledger.next() is None
    assert session.records[0].attributes[REUSED_FROM]

    def analysed(name, **options):
        launch, said = read_launch(name, home=home), []
        spec = {"probe_spec": "corpus:language", "permutations": 9, "max_tokens": 2000}
        found = analyze_launch(launch, home=home, say=said.append, **spec, **options)
        return {row["cell"] for row in found["rows"]}

    assert analysed("tiny-grid") == {"learned"}
    assert analysed("other") == {"learned"}, "a reused trial's weights lie with its source's"
    shared.rename(tmp_path / "moved")
    with pytest.raises(BadInput, match="complete trial"):
        analysed("tiny-grid")
    assert analysed("tiny-grid", checkpoint_uri=str(tmp_path / "moved")) == {"learned"}
