"""What runs in a trial's processes: the training loop of `moe`, under Ray Train, reporting to Tune.

A trial holds one placement group, made and freed by Tune, with a bundle for each worker. Its first
worker is Tune's own (reused) actor; the others are actors that it starts in the group's remaining
bundles and keeps from trial to trial. Every worker runs Ray Train's TorchTrainer in local mode,
which joins the process group that the torchrun variables name. So there is no nest of controllers
(11 to 18 s before the first step, measured), nothing that a cleaner must free after an early stop,
and no worker outlives its trial's actor.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.train import ScalingConfig
from ray.train.torch import TorchTrainer
from ray.util.placement_group import get_current_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from moe.metrics import STEP, VAL_LOSS
from orchestrator.base.checkpoint_place import CheckpointPlace
from orchestrator.base.errors import is_disk_trouble
from orchestrator.cluster import driver_heartbeat, failure_cause
from orchestrator.cluster.nodes import require_shared
from orchestrator.cluster.token_transfer import tokens_here
from orchestrator.driver.freed_memory import give_back
from orchestrator.driver.system_metrics import SystemMonitor, monitored

EVENT = "event"
PROGRESS, FINAL, FAILED, HALTED = "progress", "final", "failed", "halted"
LOST_GRACE_S = 20.0  # for a worker to notice that another one's process is gone
_TORCHRUN = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True, kw_only=True)
class Job:
    """One trial, as plain data that travels to its workers."""

    number: int
    study: str
    cell: str
    config: dict[str, Any]
    tokens: str  # prepared, on the driver's node
    out: str  # within the checkpoint place, which travels apart: it may hold credentials
    workers: int
    threads: int
    device: str
    checkpoint_every: int
    rungs: Sequence[int] = ()  # steps at which early stopping judges, each with an evaluation
    compile: bool = False
    shard: bool = False
    heartbeat: str = ""  # name of the driver's; see orchestrator.cluster.driver_heartbeat
    driver_node: str | None = None
    token_source: str | None = (
        None  # name of the driver's token_transfer.TokenSource, for other nodes
    )
    marker: str | None = None
    dense: str | None = None  # a finished run to start from, within the checkpoint place
    system_metrics: bool = False
    alone: bool = False  # its actor serves no other trial

    @property
    def shown(self) -> str:
        """As Ray shows its actors, which it names once, when they start."""
        return self.title if self.alone else self.study

    @property
    def title(self) -> str:
        return f"{self.study}, {self.cell}, seed {self.config['train']['seed']}"


def train_trial(trial: dict[str, Any], *, place: CheckpointPlace) -> None:
    """The Tune function. Ends by reporting a final or a failed event; raises on a lost worker."""
    from moe.train.machine import machine
    from moe.train.training_run import DivergenceError

    job = Job(**trial["job"])
    dense = None if job.dense is None else place.inside(job.dense)
    job = replace(job, out=place.inside(job.out), dense=dense)
    try:
        require_shared(place, job.marker, driver_node=job.driver_node)
        with _gang(job) as rest, monitored(job.system_metrics) as monitor:
            try:
                result = _fit(job, _reporter(job, monitor))
            except Exception:
                _raise_first_cause(rest)
                raise
            ray.get(rest)
    except (DivergenceError, ValueError, MemoryError) as error:
        diverged_at = error.step if isinstance(error, DivergenceError) else None
        tune.report({EVENT: FAILED, "error": _reason(error), "diverged_at": diverged_at})
        return
    except Exception as error:
        if _is_out_of_memory(error):
            reason = f"out of memory: {error}"
            tune.report({EVENT: FAILED, "error": reason, "diverged_at": None})
            return
        if is_disk_trouble(error):
            tune.report({EVENT: HALTED, "error": str(error)})
            return
        raise
    tune.report(
        {
            EVENT: FINAL,
            "stopped": result.status == "stopped",
            "metrics": result.metrics,
            "late": result.late_metrics,
            "spent_tokens": result.tokens,
            "moe_digests": result.moe_digests,
            "machine": machine(job.device),
        }
    )


def _raise_first_cause(rest: list[Any]) -> None:
    """Raises what another worker failed with: all that the first one sees of it is a lost peer."""
    done, _ = ray.wait(rest, num_returns=len(rest), timeout=10) if rest else ([], [])
    for task in done:
        try:
            ray.get(task)
        except ray.exceptions.RayTaskError as error:
            cause = error.cause
            if not isinstance(cause, RuntimeError) or _is_out_of_memory(cause):
                raise cause from None


def _reason(error: Exception) -> str:
    if isinstance(error, MemoryError):
        return f"out of memory: {error}"
    return f"{type(error).__name__}: {error}"


def _is_out_of_memory(error: Exception) -> bool:
    import torch

    return isinstance(error, (torch.OutOfMemoryError, ray.exceptions.OutOfMemoryError))


def _reporter(job: Job, monitor: SystemMonitor | None) -> Callable[[dict[str, float], Any], None]:
    """Each report is a line of the actor's log too, which serves one trial after another.

    Tune stops a trial by raising SystemExit from the report, in the middle of no collective.

    Only what stands beside `entry` is seen by the scheduler: the last evaluation is not, since a
    trial that has come to its end is complete, whatever a rung there would say.
    """
    node, num_steps = failure_cause.here(), job.config["train"]["num_steps"]

    def report(metrics: dict[str, float], checkpoint: Any) -> None:
        step, loss = int(metrics[STEP]), metrics[VAL_LOSS]
        give_back()
        print(f"{job.title}: step {step} of {num_steps}, {VAL_LOSS} {loss:.4f}", flush=True)
        judged = metrics if step < num_steps else {}
        seen = monitor.take() if monitor else {}
        tune.report({EVENT: PROGRESS, "entry": {**metrics, **seen}, "node": node, **judged})

    return report


def _fit(job: Job, report: Any) -> Any:
    """One worker's share, through Ray Train. Returns moe.train.training_run.TrainResult."""
    if job.heartbeat:
        driver_heartbeat.exit_when_silent(job.heartbeat)
    outcome = {}
    tokens = tokens_here(Path(job.tokens), driver_node=job.driver_node, source=job.token_source)

    def loop() -> None:
        import torch
        import torch.distributed as dist

        from moe.config import TrialConfig
        from moe.data.token_store import TokenStore
        from moe.train.training_run import World, train

        torch.set_num_threads(job.threads)
        joined = dist.is_initialized()
        world = World(
            rank=dist.get_rank() if joined else 0,
            size=dist.get_world_size() if joined else 1,
            device=job.device,
            compile=job.compile,
            shard=job.shard,
        )
        outcome["result"] = train(
            TrialConfig.from_dict(job.config),
            TokenStore.open(tokens),
            report=report,
            out=job.out,
            world=world,
            checkpoint_every=job.checkpoint_every,
            evaluate_at=job.rungs,
            dense=job.dense,
        )

    try:
        TorchTrainer(
            loop,
            scaling_config=ScalingConfig(num_workers=0, use_gpu=job.device != "cpu"),
        ).fit()
    finally:
        _leave_process_group()
        give_back()
    return outcome["result"]


def _leave_process_group() -> None:
    import torch.distributed as dist

    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


@ray.remote(max_restarts=0)
class Rank:
    """A worker beside the trial's own, reused from trial to trial. Ray shows it by its `repr`."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __repr__(self) -> str:
        return self._name

    def fit(self, job: dict[str, Any], variables: dict[str, str]) -> None:
        with _environment(variables):
            _fit(Job(**job), lambda metrics, checkpoint: None)


_ranks: list[Any] = []


@contextlib.contextmanager
def _gang(job: Job) -> Iterator[list[Any]]:
    """Starts the other workers on the job, and waits for them to leave it, however it ends."""
    if job.workers == 1:
        yield []
        return
    group = get_current_placement_group()
    assert group is not None, "Tune places every trial in a group"
    while len(_ranks) < job.workers - 1:
        bundle = group.bundle_specs[len(_ranks) + 1]
        _ranks.append(
            Rank.options(
                num_cpus=bundle.get("CPU", 0),
                num_gpus=bundle.get("GPU", 0),
                scheduling_strategy=PlacementGroupSchedulingStrategy(
                    placement_group=group, placement_group_bundle_index=len(_ranks) + 1
                ),
            ).remote(f"{job.shown}, worker {len(_ranks) + 1}")
        )
    host = ray.util.get_node_ip_address()
    common = {
        "WORLD_SIZE": str(job.workers),
        "LOCAL_RANK": "0",
        "LOCAL_WORLD_SIZE": "1",
        "MASTER_ADDR": host,
        "MASTER_PORT": str(_free_port(host)),
    }
    rest = [
        rank.fit.remote(asdict(job), {**common, "RANK": str(i)}) for i, rank in enumerate(_ranks, 1)
    ]
    try:
        with _environment({**common, "RANK": "0"}), leaving_with(rest):
            yield rest
    finally:
        ray.wait(rest, num_returns=len(rest), timeout=10)


@contextlib.contextmanager
def leaving_with(
    rest: Sequence[Any], *, leave: Callable[[int], Any] = os._exit, grace_s: float = LOST_GRACE_S
) -> Iterator[None]:
    """Ends this process once another worker's is lost and this one does not notice by itself: where
    a node falls silent, no connection is closed, and a collective waits for half an hour."""
    is_over = threading.Event()

    def watch() -> None:
        left = list(rest)
        while left and not is_over.is_set():
            done, left = ray.wait(left, num_returns=1, timeout=5)
            for task in done:
                try:
                    ray.get(task)
                except ray.exceptions.RayActorError:
                    if not is_over.wait(grace_s):
                        leave(1)
                    return
                except Exception:
                    return  # it says by itself what is wrong, and the collective fails

    watching = threading.Thread(target=watch, daemon=True, name="other-workers")
    watching.start()
    try:
        yield
    finally:
        is_over.set()


def _free_port(host: str) -> int:
    with socket.socket() as probe:
        probe.bind((host, 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    """The torchrun variables for one trial only: the process serves others after it."""
    os.environ.update(variables)
    try:
        yield
    finally:
        for name in _TORCHRUN:
            os.environ.pop(name, None)
