"""Trials of four workers over two nodes; a worker is killed, a node is replaced, then one is lost.

    python wide_trials.py FOLDER CORPUS STUDY.py

In the middle of the first trial a further worker's process is killed, then a node is lost and
another one comes in its place; in the middle of the second a node is lost for good. Prints the
trials as JSON.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
from pathlib import Path

import psutil
import ray
from ray.cluster_utils import Cluster
from two_nodes import add_node

from orchestrator.base.home import Home
from orchestrator.cluster import connection as settings
from orchestrator.cluster.connection import Resources
from orchestrator.driver import elastic
from orchestrator.driver.options import Options
from orchestrator.driver.session import opened
from orchestrator.driver.tune_loop import run
from orchestrator.study.library import load_study
from orchestrator.study.resolve import resolve

KILLED_AT, REPLACED_AT, LOST_AT = 40, 100, 60


def kill_a_worker() -> None:
    """One that Tune did not start, of this cluster."""
    found = [
        process.pid
        for process in psutil.Process().children(recursive=True)
        if process.name().startswith("ray::Rank")
    ]
    os.kill(found[-1], signal.SIGKILL)


def main(folder: Path, corpus: str, study: str, temporary: str) -> None:
    settings.quiet()
    elastic.PATIENCE_S = 5.0
    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 0, "include_dashboard": False, "temp_dir": temporary},
    )
    nodes = {name: add_node(cluster, folder / name, cpus=2) for name in ("kept", "lost")}
    done: list[str] = []

    def once(what: str) -> bool:
        first = what not in done
        return first and not done.append(what)

    def listener(record, metrics) -> None:
        step = metrics["step"] if metrics is not None and record.state == "running" else 0
        if record.seed == 0 and step >= KILLED_AT and once("worker killed"):
            kill_a_worker()
        if record.seed == 0 and step >= REPLACED_AT and once("node replaced"):
            cluster.remove_node(nodes.pop("lost"), allow_graceful=False)
            nodes["again"] = add_node(cluster, folder / "again", cpus=2)
        if record.seed == 1 and step >= LOST_AT and once("node lost"):
            cluster.remove_node(nodes.pop("again"), allow_graceful=False)

    options = Options(
        home=Home.at(folder / "home"),
        address=cluster.address,
        checkpoint_uri=(folder / "shared").as_uri(),
        resources=Resources(workers=4, min_workers=2),
    )
    overrides = {"train.micro_batch_tokens": 32}
    launch = resolve(load_study(study), corpus_spec=corpus, overrides=overrides)
    said: list[str] = []
    try:
        with opened(launch, options, say=said.append, listener=listener) as session:
            run(session)
    finally:
        ray.shutdown()
        cluster.shutdown()
    trials = [
        {**r.as_json(), "attempt": r.attempt, "attributes": dict(r.attributes)}
        for r in session.records
    ]
    print(json.dumps({"trials": trials, "done": done, "said": said}))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="wide-", dir="/tmp") as short:  # Ray's sockets: < 107
        main(Path(sys.argv[1]), sys.argv[2], sys.argv[3], short)
