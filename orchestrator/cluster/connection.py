"""The Ray cluster: reached or started, asked whether a trial can ever fit, left as it was found."""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.base.errors import BadInput, Unreachable
from orchestrator.base.urls import answers, redact
from orchestrator.cluster import nodes
from orchestrator.cluster.ray_token import require_token

PLACEMENTS = ("pack", "spread", "strict_pack", "strict_spread")
_DEFAULT_PORT = 6379
# Of the driver, and of the workers: a local cluster inherits them, another is told.
SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_V2_ENABLED": "1",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_FUNCTION_THREAD_TIMEOUT_S": "10",
    "TUNE_FORCE_TRIAL_CLEANUP_S": "5",
    "TUNE_WARN_THRESHOLD_S": "60",
    # torch warns each worker of each trial that all experts were reached in a step: not amiss.
    "TORCH_CPP_LOG_LEVEL": "ERROR",
}


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What one trial is granted: `workers` bundles, each with these."""

    workers: int = 1
    cpus_per_worker: int = 1
    gpus_per_worker: float = 0.0
    placement: str = "pack"
    compile: bool = False  # through torch.compile, on GPUs
    shard: bool = False  # weights, gradients and moments over the workers
    on_cpu: bool = False  # though it holds GPUs: to try a layout where there are none
    min_workers: int | None = None  # that a trial may go on with, where nodes were lost

    @property
    def device(self) -> str:
        return "cuda" if self.gpus_per_worker > 0 and not self.on_cpu else "cpu"

    @property
    def bundle(self) -> dict[str, float]:
        bundle: dict[str, float] = {"CPU": self.cpus_per_worker}
        if self.gpus_per_worker:
            bundle["GPU"] = self.gpus_per_worker
        return bundle

    def __str__(self) -> str:
        gpus = f" and {self.gpus_per_worker:g} GPU" if self.gpus_per_worker else ""
        placed = f" under --placement {self.placement}" if self.placement != "pack" else ""
        return f"{self.workers} workers of {self.cpus_per_worker} CPU{gpus}{placed}"


def local_cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def require_fits_here(resources: Resources, cpus: int) -> None:
    """Needs no cluster: raises BadInput where a new local one could never fit a trial."""
    wanted = resources.workers * resources.cpus_per_worker
    if wanted > cpus:
        raise BadInput(
            f"a trial starts only when all its workers fit; asked for {resources}, and this "
            f"machine has {cpus} CPUs. Lower --workers or --cpus-per-worker, or name a "
            "cluster with --address."
        )
    if resources.placement == "strict_spread" and resources.workers > 1:
        raise BadInput(
            f"a trial starts only when all its workers fit; asked for {resources}, and this "
            "machine is one node. Choose another --placement, or name a cluster with --address."
        )
    if resources.gpus_per_worker > 0:
        import torch

        if resources.workers * resources.gpus_per_worker > torch.cuda.device_count():
            raise BadInput(
                f"a trial starts only when all its workers fit; asked for {resources}, and this "
                f"machine has {torch.cuda.device_count()} GPUs that torch can use. Lower "
                "--gpus-per-worker, or name a cluster with --address."
            )


def quiet() -> None:
    """Ray's and Tune's own talk and files, set before their import."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    for name in ("ray", "ray.tune", "ray.train", "ray.data"):
        logging.getLogger(name).setLevel(logging.ERROR)


@contextlib.contextmanager
def connected(address: str | None, *, cpus: int | None = None) -> Iterator[None]:
    """A Ray cluster for the time of the context.

    An already connected process keeps its cluster; an address is joined, and without one a cluster
    of this machine is started and ended. Raises Unreachable where an address does not answer.
    """
    quiet()
    import ray

    from orchestrator.cluster import ray_private

    if address and address.startswith("ray://"):
        raise BadInput(
            f"--address names a cluster that this machine is a node of; received {address}. Use "
            "`submit` from elsewhere."
        )
    if address and address != "auto":
        _require_answers(address)
    if ray.is_initialized():
        yield
        return
    try:
        with _travelling_code() if address else contextlib.nullcontext() as runtime_env:
            ray.init(
                address=address or "local",
                num_cpus=None if address else (cpus or local_cpus()),
                include_dashboard=None if address else False,
                runtime_env=runtime_env,
                log_to_driver=False,
                logging_level=logging.ERROR,
                configure_logging=True,
            )
    except (ConnectionError, ray.exceptions.RaySystemError) as error:
        raise Unreachable(
            f"no Ray cluster could be joined at {address}: {_first_line(error)}. Start one with "
            "`ray start --head`, or leave --address out."
        ) from None
    except Exception as error:
        if ray_private.SOCKET_PATH_TOO_LONG in str(error):
            raise BadInput(
                "Ray keeps its sockets in the temporary folder, and their paths must stay under "
                f"107 bytes; received {tempfile.gettempdir()}. Set TMPDIR to a shorter path."
            ) from None
        if ray_private.SLOW_START in str(error):
            raise Unreachable(
                "Ray gives its processes half a minute to start, and this machine was too busy for "
                "it. Nothing is lost: the same command goes on, best when less else runs here."
            ) from None
        if ray_private.wants_token(error):
            raise Unreachable(
                "the Ray cluster wants a token that this driver does not have. Set "
                "RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH to the cluster's token file."
            ) from None
        raise
    try:
        yield
    finally:
        ray.shutdown()


def dashboard() -> str | None:
    """The address of Ray's own page, where the connected cluster has one."""
    from orchestrator.cluster import ray_private

    url = ray_private.dashboard_url()
    return f"http://{url}" if url else None


@contextlib.contextmanager
def _travelling_code() -> Iterator[dict[str, Any] | None]:
    """The runtime environment of workers elsewhere; a submitted job brings its own."""
    from orchestrator.cluster.ray_private import IN_JOB_VARIABLE

    if IN_JOB_VARIABLE in os.environ:
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="moe-study-code-") as folder:
        nodes.stage_code(Path(folder))
        yield {"working_dir": folder, "env_vars": worker_settings()}


def worker_settings() -> dict[str, str]:
    return {name: os.environ.get(name, value) for name, value in SETTINGS.items()}


def _require_answers(address: str) -> None:
    host, _, port = address.rpartition(":")
    if not host:
        host, port = port, str(_DEFAULT_PORT)
    if not port.isdigit() or not answers(host, int(port)):
        raise Unreachable(
            f"nothing answers at {redact(address).rpartition('@')[2]}, which --address names. "
            "Start the cluster with `ray start --head`, or correct the address (HOST:PORT)."
        )
    if not address.startswith("ray://"):
        require_token(f"{host}:{port}")


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
