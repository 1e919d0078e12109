"""One trial by itself, without Ray, Optuna and MLflow, is the same trial to the bit."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest
from mlflow.tracking import MlflowClient

from moe.code_digest import moe_digest
from moe.metrics import VAL_LOSS
from moe.train.results_archive import pack
from orchestrator.base.errors import BadInput
from orchestrator.driver.ingest import find_results, ingest, results_folder
from orchestrator.driver.tune_loop import run
from orchestrator.study.plan import write_configs
from orchestrator.study.resolve import resolve

# Runs `python -m moe.train` as on a machine that has torch, numpy and pyarrow only.
BARE = textwrap.dedent(
    """
    import runpy, sys
    from importlib.machinery import PathFinder

    ABSENT = {"ray", "optuna", "mlflow", "datasets", "tokenizers", "tiktoken", "pandas"}

    class Installed:
        @staticmethod
        def find_spec(name, path=None, target=None):
            absent = name.partition(".")[0] in ABSENT
            return None if absent else PathFinder.find_spec(name, path, target)

    sys.meta_path[:] = [f for f in sys.meta_path if f is not PathFinder] + [Installed]
    sys.argv = ["moe.train", *sys.argv[1:]]
    runpy.run_module("moe.train", run_name="__main__")
    """
)


@pytest.mark.usefixtures("ray_cluster")
def test_train_alone_then_ingest_equals_run_to_the_bit(tmp_path, hold, home, grid_study, corpus):
    with hold(grid_study, seeds=(0,)) as session:
        run(session)
        tokens = session.tokens.of(session.launch.points()[0])
    launch = resolve(grid_study, seeds=(0,), corpus_spec=corpus)
    configs = write_configs(launch, tmp_path / "configs")
    for config in configs:
        subprocess.run(
            [
                *(sys.executable, "-c", BARE, str(config)),
                *("--tokens", str(tokens), "--out", str(tmp_path / "out" / config.stem)),
            ],
            check=True,
        )
    for name in ("optuna.db", "checkpoints"):
        (home.root / name).rename(tmp_path / f"first-{name}")
    with hold(grid_study, seeds=(0,)) as second:
        assert ingest(second, find_results(tmp_path / "out")) == 3
        archive = tmp_path / "results.tar.gz"
        pack([*(tmp_path / "out").iterdir()], archive)
        with results_folder(archive) as folder:
            packed = find_results(folder)
            assert [r for _, r in packed] == [r for _, r in find_results(tmp_path / "out")]
            assert ingest(second, packed) == 0
    ran = {r.config_hash: r for r in session.records}
    ingested = {r.config_hash: r for r in second.records}
    assert ran.keys() == ingested.keys()
    client = MlflowClient(home.mlflow_uri)
    timings = ("cost/", "tokens")
    for key, record in ran.items():
        other = ingested[key]
        assert other.state == "complete"
        assert other.value == record.value
        assert other.curve == record.curve
        assert other.tokens == record.tokens
        assert other.attributes["origin"] == "moe.train"
        names = [n for n in record.metrics if not n.startswith(timings)]
        assert {n: other.metrics[n] for n in names} == {n: record.metrics[n] for n in names}
        run_ = client.get_run(other.run_id)
        assert run_.info.status == "FINISHED"
        assert run_.data.metrics[VAL_LOSS] == record.value
        assert (home.run_folder(key, moe_digest()) / "final").is_dir()
        routing = client.list_artifacts(other.run_id, "routing")
        assert len(routing) == (0 if record.cell == "dense" else 1)
        (losses,) = client.list_artifacts(other.run_id, "evaluation")
        assert losses.path == "evaluation/losses.parquet"


def test_a_folder_without_results_is_refused(tmp_path):
    with pytest.raises(BadInput, match=r"result\.json"):
        find_results(tmp_path)


def test_a_torn_result_is_named(tmp_path):
    (tmp_path / "result.json").write_text('{"config_hash": "x"')
    with pytest.raises(BadInput, match="Run it again"):
        find_results(tmp_path)


def test_a_file_that_is_no_archive_is_refused(tmp_path):
    (tmp_path / "results.tar.gz").write_text("none")
    with (
        pytest.raises(BadInput, match="an archive of results"),
        results_folder(tmp_path / "results.tar.gz"),
    ):
        pass
