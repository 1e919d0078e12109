"""Workers of a dead driver end, also where Ray cannot tell them, and write nothing more."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest
from ray.cluster_utils import Cluster

from orchestrator.cluster import driver_heartbeat

_SCRIPT = Path(__file__).with_name("orphan_driver.py")


@pytest.fixture
def two_nodes():
    """A cluster of its own: a head for drivers, a node for workers."""
    with tempfile.TemporaryDirectory(prefix="or-") as folder:
        head = {"num_cpus": 0, "include_dashboard": False, "temp_dir": folder, "wait": False}
        cluster = Cluster(initialize_head=True, head_node_args=head)
        try:
            cluster.add_node(num_cpus=1, wait=False)
            yield cluster
        finally:
            cluster.shutdown()


def processes_of(node):
    """Ray's own, and the workers below them."""
    own = [psutil.Process(p[0].process.pid) for p in node.all_processes.values()]
    return own + [child for process in own for child in process.children(recursive=True)]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_worker_whose_driver_and_head_are_lost_ends_by_itself(two_nodes, tmp_path):
    """The head is frozen rather than killed, as one is that lost its network: Ray's own word of the
    driver's death never comes."""
    file = tmp_path / "pid"
    driver = subprocess.Popen(
        [sys.executable, _SCRIPT, two_nodes.address, file],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    deadline = time.monotonic() + 240
    while not file.exists() and driver.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
    worker = psutil.Process(int(file.read_text()))
    frozen = processes_of(two_nodes.head_node)
    try:
        for process in frozen:
            process.suspend()
        os.kill(driver.pid, signal.SIGKILL)
        driver.wait()
        _, alive = psutil.wait_procs([worker], timeout=45)
        assert not alive, "it trains on for nobody"
    finally:
        for process in frozen:
            process.resume()


def test_an_orphan_is_gone_within_half_a_minute():
    slowest = (
        driver_heartbeat.SILENCE_LIMIT_S
        + driver_heartbeat._ANSWER_WITHIN_S
        + driver_heartbeat._PING_EVERY_S
    )
    assert slowest < 30
