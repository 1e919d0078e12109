"""What a launch is asked beside its study: where its state lies, what its trials are granted."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field, replace
from pathlib import Path

from orchestrator.base.checkpoint_place import CheckpointPlace
from orchestrator.base.errors import BadInput
from orchestrator.base.home import Home
from orchestrator.cluster.connection import PLACEMENTS, Resources
from orchestrator.driver.recommending import Asked
from orchestrator.study.launch import Launch
from orchestrator.study.plan import typical_points
from orchestrator.trials.spending import Limits


@dataclass(frozen=True, kw_only=True)
class Options:
    """Where a launch's state lies and what its trials are granted."""

    home: Home
    optuna_storage: str | None = None
    mlflow_uri: str | None = None
    checkpoint_uri: str | None = None
    address: str | None = None
    cpus: int | None = None
    concurrency: int | None = None
    resources: Resources = field(default_factory=Resources)
    limits: Limits = field(default_factory=Limits)
    max_failures: int = 2
    retry_failed: bool = False
    until_decided: bool = False
    claims: tuple[str, ...] = ()  # that alone get seeds until they are decided; empty: all
    recommending: Asked | None = None
    system_metrics: bool = False

    @property
    def storage_url(self) -> str:
        """Of Optuna's storage."""
        return self.home.optuna_storage if self.optuna_storage is None else self.optuna_storage

    @property
    def place(self) -> CheckpointPlace:
        return CheckpointPlace.of(self.home, self.checkpoint_uri)


def require_sane(launch: Launch, options: Options) -> None:
    """Raises BadInput for numbers and combinations that no launch can have."""
    workers = options.resources.workers
    for name, value in (
        ("--workers", workers),
        ("--cpus-per-worker", options.resources.cpus_per_worker),
        ("--concurrency", options.concurrency),
        ("--cpus", options.cpus),
    ):
        if value is not None and value < 1:
            raise BadInput(f"{name} is at least 1; received {value}. Raise it, or leave it out.")
    fewest = options.resources.min_workers
    if fewest is not None and not 1 <= fewest <= workers:
        raise BadInput(
            f"--min-workers is a number from 1 to --workers; received {fewest} beside --workers "
            f"{workers}. Correct one of them."
        )
    if fewest is not None and options.address is None:
        raise BadInput(
            f"--min-workers is for a cluster, whose nodes may be lost; received {fewest} without "
            "--address. Name the cluster, or leave it out."
        )
    if options.claims and not options.until_decided:
        raise BadInput(
            "--claims says which claims --until-decided adds seeds for; received "
            f"{','.join(options.claims)} without it. Add --until-decided, or leave --claims out."
        )
    gpus = options.resources.gpus_per_worker
    if options.max_failures < 0 or not 0 <= gpus < math.inf:
        raise BadInput(
            "--max-failures and --gpus-per-worker are numbers from 0 on; received "
            f"{options.max_failures} and {gpus}. Correct them."
        )
    for name, limit in (
        ("--max-tokens", options.limits.tokens),
        ("--max-device-hours", options.limits.device_s),
    ):
        if limit is not None and not 0 < limit < math.inf:
            raise BadInput(f"{name} is a number above 0; received {limit:g}. Raise it.")
    if gpus > 1 and gpus != round(gpus):
        raise BadInput(
            f"--gpus-per-worker is a fraction of one GPU or a whole number; received {gpus:g}. "
            "Round it."
        )
    if options.resources.compile and options.resources.device != "cuda":
        raise BadInput(
            "--compile is for trials on GPUs; received it without --gpus-per-worker. Leave it out, "
            "or give each worker a GPU."
        )
    if options.resources.placement not in PLACEMENTS:
        raise BadInput(
            f"--placement is one of {', '.join(PLACEMENTS)}; received "
            f"{options.resources.placement!r}. Choose one."
        )
    if options.resources.shard and workers == 1:
        raise BadInput(
            "--shard spreads a model over the workers of a trial; received --workers 1. Raise "
            "--workers, or leave it out."
        )
    for point in typical_points(launch):
        if options.resources.shard and point.config.optim.name != "adamw":
            raise BadInput(
                "--shard is for AdamW, since Muon takes whole matrices and a worker has parts of "
                f"them; received optim.name={point.config.optim.name} of {point.cell}. Leave "
                "--shard out, or set optim.name=adamw."
            )
        train = point.config.train
        micro_batches = train.batch_tokens // train.micro_batch_tokens
        if micro_batches % workers:
            raise BadInput(
                "each worker takes an equal share of a step's micro-batches; received "
                f"--workers {workers} for {micro_batches} micro-batches (train.batch_tokens "
                f"{train.batch_tokens} / train.micro_batch_tokens {train.micro_batch_tokens}) of "
                f"{point.cell}. Set train.micro_batch_tokens={train.batch_tokens // workers}, or "
                "another divisor."
            )


def allowed(launch: Launch, resources: Resources) -> list[Resources]:
    """What a trial may be granted, the most workers first: the numbers from `--min-workers` on
    among which every trial's micro-batches are divided evenly."""
    if resources.min_workers is None:
        return [resources]
    trains = [point.config.train for point in typical_points(launch)]
    micro_batches = [train.batch_tokens // train.micro_batch_tokens for train in trains]
    return [
        replace(resources, workers=workers)
        for workers in range(resources.workers, resources.min_workers - 1, -1)
        if all(each % workers == 0 for each in micro_batches)
    ]


def require_folders(options: Options) -> None:
    """A home makes its own folder; that of another store is the user's to make."""
    for url, option in (
        (options.optuna_storage, "--optuna-storage"),
        (options.mlflow_uri, "--mlflow-uri"),
    ):
        if url is not None and url.startswith(("sqlite:///", "journal:")):
            folder = Path(url.partition("///" if url.startswith("sqlite") else ":")[2]).parent
            if not os.path.isdir(folder):
                raise BadInput(
                    f"{option} names a file in a folder that exists; received {url}. Make "
                    f"{folder}, or correct the path."
                )
