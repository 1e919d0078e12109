"""All that the orchestrator takes from inside Ray, and the words of Ray's that it reads.

No other file names a private part; tests/cluster/test_ray_private.py asserts each name, and that
Ray's own source still has the words. pyproject.toml bounds Ray by minor version.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray

IN_JOB_VARIABLE = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # Ray sets it for the driver of a submitted job
HEAD_RESOURCE = "node:__internal_head__"  # of a cluster's head alone
TALKATIVE_LOGGERS = ("ray.dashboard.modules.dashboard_sdk", "ray._private.runtime_env.packaging")

# Words of messages, where Ray raises one kind of error for several causes.
SOCKET_PATH_TOO_LONG = "AF_UNIX"
SLOW_START = "timed out during startup"
NO_AGENT_YET = "No available agent"
CAUSE, OTHER_CAUSES = "because", " Some common causes"
MEMORY_SIGNS = ("OutOfMemoryError", "NODE_OUT_OF_MEMORY", "running low on memory")
_FAILURE = "Failure # "  # how Tune heads each failure in a trial's error file

_MONITOR, _MONITOR_CONFIG = "monitor.py", "--autoscaling-config="


def shown_by(function: Callable[[Any], Any], name: Callable[[dict[str, Any]], str]) -> type:
    """A function's Tune class whose actors Ray shows by `name` of the config that they began with
    (`repr_name` in `ray list actors --detail`, and on the dashboard): Ray asks for it once."""
    from ray.tune.trainable import wrap_function

    class Shown(wrap_function(function)):
        def __repr__(self) -> str:
            return name(self.config)

    return Shown


def says_unauthorised(text: str) -> bool:
    return "401" in text or "403" in text or "auth" in text.lower()


def wants_token(error: Exception) -> bool:
    """Of an error of joining a cluster, which has a class of its own in some of Ray's parts."""
    return "auth" in f"{type(error).__name__}: {error}".lower()


def says_unknown_job(text: str) -> bool:
    return "404" in text or "does not exist" in text


def cluster_config() -> Any:
    """What the cluster's platform reported of its node groups; None where it did not."""
    return ray._private.state.state.get_cluster_config()


def autoscaler_reports() -> bool:
    """Whether an autoscaler tells the cluster of its state."""
    from ray._private.ray_constants import DEBUG_AUTOSCALING_STATUS

    # Ray's own `internal_kv` keeps a client of its own, which another cluster's end in this process
    # takes away (ray.cluster_utils).
    client = ray._private.worker.global_worker.gcs_client
    return client.internal_kv_get(DEBUG_AUTOSCALING_STATUS.encode(), None) is not None


def monitor_config(gcs_address: str) -> tuple[bool, dict[str, Any] | None]:
    """Runs on the head: whether Ray's monitor runs here, and the cluster YAML that it scales by,
    which it names in its command line."""
    import psutil
    import yaml

    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError, ValueError):
            command = process.cmdline()
            is_monitor = any(part.endswith(_MONITOR) for part in command)
            if not is_monitor or f"--gcs-address={gcs_address}" not in command:
                continue
            path = next((p for p in command if p.startswith(_MONITOR_CONFIG)), None)
            if path is None:
                return True, None
            with open(path.removeprefix(_MONITOR_CONFIG)) as file:
                return True, yaml.safe_load(file)
    return False, None


def dashboard_url() -> str:
    """Host and port of the connected cluster's page; empty where it has none."""
    return ray._private.worker._global_node.webui_url or ""


def jobs() -> list[dict[str, Any]]:
    """All drivers that the cluster has known."""
    return ray._private.state.jobs()


def live_actors() -> list[Any]:
    """Rows of the cluster's table of actors; Ray's own listing leaves out what they hold."""
    from ray.core.generated import gcs_pb2

    accessor = ray._private.state.state._connect_and_get_accessor()
    table = accessor.get_actor_table(None, "ALIVE")
    return [gcs_pb2.ActorTableData.FromString(row) for row in table]


def session_folder() -> Path:
    """Ray's own folder on this node, for the time of its session."""
    return Path(ray._private.worker.global_worker.node.get_session_dir_path())


def own_token() -> dict[str, str]:
    """The header that Ray would send; none where its token mode is off or it finds no token."""
    from ray._raylet import AuthenticationMode, AuthenticationTokenLoader, get_authentication_mode
    from ray.exceptions import AuthenticationError

    if get_authentication_mode() != AuthenticationMode.TOKEN:
        return {}
    try:
        return AuthenticationTokenLoader.instance().get_token_for_http_header()
    except AuthenticationError:  # token mode, and no token anywhere
        return {}


def ask_cluster_id(channel: Any, *, timeout_s: float, headers: list[tuple[str, str]]) -> None:
    """One call to a cluster's control service. Raises grpc.RpcError, also where a token lacks."""
    from ray.core.generated.gcs_service_pb2 import GetClusterIdRequest
    from ray.core.generated.gcs_service_pb2_grpc import NodeInfoGcsServiceStub

    NodeInfoGcsServiceStub(channel).GetClusterId(
        GetClusterIdRequest(), timeout=timeout_s, metadata=headers
    )


def last_failure(trial: Any) -> Exception | str | None:
    """What a Tune trial failed with last, from its own folder: storage gets its copies later.

    Tune appends the text of every failure to one file, and keeps beside it the exception itself of
    the last one that was an actor's or a task's: Ray's out of memory is neither.
    """
    file, pickled = trial.error_file, trial.pickled_error_file
    if file is None or not Path(file).exists():
        return trial.get_error()
    text = Path(file).read_text(errors="replace").rpartition(_FAILURE)[2].partition("\n")[2]
    if pickled is not None and Path(pickled).exists():
        error = ray.cloudpickle.loads(Path(pickled).read_bytes())
        if str(error).strip() in text:
            return error
    return text
