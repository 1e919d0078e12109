"""Trials of four workers over two nodes; a worker is killed, a node is replaced, then one is lost.

    python wide_trials.py FOLDER CORPUS STUDY.py

In the middle of a trial a further worker's process is killed, later a node is lost and another one
comes in its place; when one trial is complete, a node of the other one is lost for good. Prints the
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
from ray.cluster_utils import Cluster
from two_nodes import add_node, drive

from orchestrator.cluster import connection as settings
from orchestrator.cluster.connection import Resources
from orchestrator.driver import elastic

KILLED_AT, REPLACED_AT, LOST_AT = 40, 100, 60  # steps, of 200


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

    complete: set[int] = set()

    def listener(record, metrics) -> None:
        """Tune hands the room of a trial that lost a process to the other one, so either may be the
        one to which a thing happens."""
        if record.state == "complete":
            complete.add(record.number)
        if metrics is None or record.state != "running":
            return
        step = metrics["step"]
        if not done and step >= KILLED_AT:
            done.append("worker killed")
            kill_a_worker()
        elif len(done) == 1 and step >= REPLACED_AT:
            done.append("node replaced")
            cluster.remove_node(nodes.pop("lost"), allow_graceful=False)
            nodes["again"] = add_node(cluster, folder / "again", cpus=2)
        elif len(done) == 2 and step >= LOST_AT and complete:
            done.append("node lost")
            cluster.remove_node(nodes.pop("again"), allow_graceful=False)

    records, said = drive(
        cluster,
        folder,
        corpus,
        study,
        listener,
        overrides={"train.micro_batch_tokens": 32},
        resources=Resources(workers=4, min_workers=2),
    )
    trials = [
        {**r.as_json(), "attempt": r.attempt, "attributes": dict(r.attributes)} for r in records
    ]
    print(json.dumps({"trials": trials, "done": done, "said": said}))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="wide-", dir="/tmp") as short:  # Ray's sockets: < 107
        main(Path(sys.argv[1]), sys.argv[2], sys.argv[3], short)
