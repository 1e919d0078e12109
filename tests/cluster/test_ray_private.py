"""The contract of cluster/ray_private.py: names, and words in Ray's own source and programs."""

from __future__ import annotations

import inspect
from pathlib import Path
from types import SimpleNamespace

import pytest
import ray

from orchestrator.cluster import ray_private as private
from orchestrator.cluster.connection import SETTINGS

RAY = Path(ray.__file__).parent
ROOMS = ("_common", "_private", "train", "tune")


@pytest.mark.parametrize(
    ("word", "file"),
    [
        (private.IN_JOB_VARIABLE, "_private/worker.py"),
        (private.SLOW_START, "_private/node.py"),
        (private.NO_AGENT_YET, "dashboard/modules/job/job_head.py"),
        (private.OTHER_CAUSES, "core/src/ray/raylet/raylet"),
        (private._FAILURE, "tune/experiment/trial.py"),
        (private._MONITOR_CONFIG, "_private/services.py"),
        ("--gcs-address=", "_private/services.py"),
        (private.HEAD_RESOURCE, "autoscaler/v2/utils.py"),
        ("does not exist", "dashboard/modules/job/job_head.py"),
        (private.MEMORY_SIGNS[0], "exceptions.py"),
        *((sign, "core/src/ray/raylet/raylet") for sign in private.MEMORY_SIGNS[1:]),
    ],
)
def test_ray_still_says_so(word, file):
    assert word.encode() in (RAY / file).read_bytes().replace(b'" f"', b"").replace(b'f"', b'"')


@pytest.mark.parametrize("name", [n for n in SETTINGS if n.startswith(("RAY_", "TUNE_"))])
def test_ray_still_reads_the_switch(name):
    sources = (file for room in ROOMS for file in (RAY / room).rglob("*.py"))
    assert any(name in file.read_text() for file in sources)


def test_a_driver_s_node_knows_the_dashboard():
    from ray._private import node, worker

    assert isinstance(node.Node.webui_url, property)
    assert hasattr(worker, "_global_node")


def test_the_loggers_are_modules():
    import importlib.util

    assert all(importlib.util.find_spec(name) for name in private.TALKATIVE_LOGGERS)


def test_a_token_is_the_one_that_ray_would_send():
    """Which one, by mode and file: test_ray_token.py. Ray keeps what it read for its process."""
    assert set(private.own_token()) <= {"authorization"}
    from ray.core.generated.gcs_service_pb2 import GetClusterIdRequest
    from ray.core.generated.gcs_service_pb2_grpc import NodeInfoGcsServiceStub

    assert GetClusterIdRequest().SerializeToString() == b""
    assert "GetClusterId" in inspect.getsource(NodeInfoGcsServiceStub)


@pytest.mark.usefixtures("ray_cluster")
def test_what_a_running_cluster_is_asked():
    assert private.session_folder().is_dir()
    assert private.cluster_config() is None
    assert private.autoscaler_reports() in (True, False)
    assert any(not job["IsDead"] and job["Entrypoint"] for job in private.jobs())
    assert all(
        actor.actor_id and actor.required_resources is not None for actor in private.live_actors()
    )
    assert any(private.HEAD_RESOURCE in node["Resources"] for node in ray.nodes())


def test_a_trials_last_failure_is_read_from_its_folder(tmp_path):
    text, pickled = tmp_path / "error.txt", tmp_path / "error.pkl"
    trial = SimpleNamespace(
        error_file=str(text), pickled_error_file=str(pickled), get_error=lambda: None
    )
    assert private.last_failure(trial) is None
    text.write_text("Failure # 1 (occurred at x)\nold\nFailure # 2 (occurred at y)\nit broke\n")
    assert private.last_failure(trial) == "it broke\n"
    pickled.write_bytes(ray.cloudpickle.dumps(ValueError("it broke")))
    assert isinstance(private.last_failure(trial), ValueError)
    pickled.write_bytes(ray.cloudpickle.dumps(ValueError("an earlier one")))
    assert private.last_failure(trial) == "it broke\n"
    from ray.tune.experiment import Trial

    assert {"error_file", "pickled_error_file", "get_error"} <= set(dir(Trial))
