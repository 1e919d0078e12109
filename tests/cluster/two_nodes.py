"""Runs a study on a cluster of a head and two worker nodes, one of which is lost in the middle.

    python two_nodes.py FOLDER CORPUS STUDY.py

Each node has a home and temporary folder of its own and no path to this code, or one machine would
hide what does not travel. Prints the trials as JSON.
"""

from __future__ import annotations

import contextlib
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import ray
from ray.cluster_utils import Cluster

from orchestrator.base.home import Home
from orchestrator.cluster import connection as settings
from orchestrator.cluster.connection import Resources
from orchestrator.driver.options import Options
from orchestrator.driver.session import opened
from orchestrator.driver.tune_loop import run
from orchestrator.stores.trial_record import TrialRecord
from orchestrator.study.library import load_study
from orchestrator.study.resolve import resolve
from orchestrator.trials.trial_writer import Listener

LOST_AT_STEP = 50


def add_node(cluster: Cluster, folder: Path, *, cpus: int = 1) -> object:
    folder.mkdir(exist_ok=True)
    own = {
        "HOME": str(folder),
        "TMPDIR": str(folder),
        "PYTHONPATH": "",
        "MOE_STUDY_NODE_CACHE": str(folder / "cache"),
    }
    for _ in range(4):  # Ray gives a node 30 s to start, loaded or not
        with contextlib.suppress(Exception):
            return cluster.add_node(num_cpus=cpus, env_vars=own)
    return cluster.add_node(num_cpus=cpus, env_vars=own)


def drive(
    cluster: Cluster, folder: Path, corpus: str, study: str, listener: Listener, **asked: Any
) -> tuple[list[TrialRecord], list[str]]:
    """Runs the study on the cluster and ends both; the trials, and what was said. `asked`:
    `overrides`, and `resources` of a trial."""
    options = Options(
        home=Home.at(folder / "home"),
        address=cluster.address,
        checkpoint_uri=(folder / "shared").as_uri(),
        resources=asked.get("resources", Resources()),
    )
    overrides = asked.get("overrides", {})
    launch = resolve(load_study(study), corpus_spec=corpus, overrides=overrides)
    said: list[str] = []
    try:
        with opened(launch, options, say=said.append, listener=listener) as session:
            run(session)
    finally:
        ray.shutdown()
        cluster.shutdown()
    return session.records, said


def main(folder: Path, corpus: str, study: str, temporary: str) -> None:
    settings.quiet()
    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 0, "include_dashboard": False, "temp_dir": temporary},
    )
    nodes = {name: add_node(cluster, folder / name) for name in ("kept", "lost")}
    running: dict[int, int] = {}

    def listener(record, metrics) -> None:
        """Each node has a trial in its middle: the first may have ended before the second began."""
        if record.state != "running":
            running.pop(record.number, None)
        elif metrics is not None:
            running[record.number] = metrics["step"]
        both = len(running) == 2 and min(running.values()) >= LOST_AT_STEP
        if both and "lost" in nodes:
            cluster.remove_node(nodes.pop("lost"), allow_graceful=False)

    records, said = drive(cluster, folder, corpus, study, listener)
    trials = [{**r.as_json(), "attempt": r.attempt} for r in records]
    print(json.dumps({"trials": trials, "lost": "lost" not in nodes, "said": said}))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="two-", dir="/tmp") as short:  # Ray's sockets: < 107
        main(Path(sys.argv[1]), sys.argv[2], sys.argv[3], short)
