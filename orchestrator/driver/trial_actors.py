"""The actors that trials run in: short trials share them, a long one has its own, with its name.

A new process costs 3 to 10 s (libraries, and on a GPU the first kernels), which a smoke trial of
two seconds shall not pay; of five minutes it is 1 to 3%. Ray takes an actor's name once, when it
starts: one that serves trial after trial is shown by its study alone, and by each line of its log.
"""

from __future__ import annotations

from typing import Any

from moe.accounting import account
from orchestrator.base.checkpoint_place import CheckpointPlace
from orchestrator.cluster.connection import Resources
from orchestrator.cluster.ray_private import shown_by
from orchestrator.driver.worker import Job, train_trial
from orchestrator.study.launch import Launch

CLASS = "Trial"  # of a study, in Ray's lists of actors and in titles of processes

# Of one worker. About ten minutes of a CPU core at the widths of scale `cpu` (docs/log.md), and
# five of a GPU at 1e14 a second (a third of an A100's peak in bf16; not measured).
LONG_FLOPS = {"cpu": 3e13, "cuda": 3e16}


def shares_actors(launch: Launch, resources: Resources) -> bool:
    """Whether one actor serves several trials: those of the launch's base config are short."""
    base = launch.base
    tokens = base.train.num_steps * base.train.batch_tokens
    flops = tokens * account(base).flops_per_token / resources.workers
    return flops < LONG_FLOPS[resources.device]


def trainable(launch: Launch, resources: Resources, place: CheckpointPlace) -> type:
    """What Tune starts for a trial of `resources.workers` workers."""
    from ray import tune

    def name(config: dict[str, Any]) -> str:
        return Job(**config["job"]).shown

    shown = shown_by(tune.with_parameters(train_trial, place=place), name)
    bundles = [resources.bundle for _ in range(resources.workers)]
    group = tune.PlacementGroupFactory(bundles, strategy=resources.placement.upper())
    placed = tune.with_resources(shown, group)
    placed.__name__ = placed.__qualname__ = f"{CLASS}({launch.study.name})"
    return placed
