"""How trials are run, wherever a command trains some: the same options, read the same way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.base.errors import BadInput
from orchestrator.base.home import Home
from orchestrator.cli.parameters import AddressOption, CheckpointOption, WhichStores
from orchestrator.cluster.connection import Resources

if TYPE_CHECKING:
    from orchestrator.driver.options import Options


@dataclass(frozen=True, kw_only=True)
class HowRun:
    """What a trial gets, where, and how much all of them may spend."""

    checkpoint_uri: CheckpointOption = None
    address: AddressOption = None
    cpus: Annotated[int | None, typer.Option(help="CPUs of the local cluster (all).")] = None
    concurrency: Annotated[int | None, typer.Option(help="Trials at once (as many as fit).")] = None
    workers: Annotated[int, typer.Option(help="Data-parallel workers of each trial.")] = 1
    min_workers: Annotated[
        int | None,
        typer.Option(
            help="Where a lost node does not come back, trials go on with fewer workers, down to "
            "this many (wait for the node)."
        ),
    ] = None
    shard: Annotated[
        bool,
        typer.Option(
            "--shard", help="Each worker holds a part of weights, gradients and moments (FSDP2)."
        ),
    ] = False
    cpus_per_worker: Annotated[int, typer.Option(help="CPUs, and torch threads, of a worker.")] = 1
    gpus_per_worker: Annotated[
        float, typer.Option(help="GPUs of a worker; fractions share one.")
    ] = 0.0
    placement: Annotated[
        str, typer.Option(help="Nodes of a trial's workers: pack, spread, strict_pack/_spread.")
    ] = "pack"
    device: Annotated[str, typer.Option(help="auto (cuda where a worker has a GPU) or cpu.")] = (
        "auto"
    )
    compiled: Annotated[
        bool, typer.Option("--compile", help="Through torch.compile, on GPUs in bfloat16.")
    ] = False
    max_tokens: Annotated[
        int | None,
        typer.Option(
            help="Training tokens of the launch, earlier runs counted: a trial starts only if all "
            "of it fits, and then ends."
        ),
    ] = None
    max_device_hours: Annotated[
        float | None,
        typer.Option(
            help="Hours of all workers, earlier runs counted. Once they are spent running trials "
            "stop at their last checkpoint; the same command with more goes on."
        ),
    ] = None
    max_failures: Annotated[int, typer.Option(help="Restarts of a trial that loses a worker.")] = 2
    retry_failed: Annotated[bool, typer.Option(help="Repeat failed trials, as new trials.")] = False
    system_metrics: Annotated[
        bool, typer.Option(help="CPU, memory, disk, network and GPU of the node, in MLflow.")
    ] = False

    def options(self, stores: WhichStores, **more: Any) -> Options:
        """For a driver; `more` is what the command has beside. Raises BadInput on a device that is
        none."""
        from orchestrator.driver.options import Options
        from orchestrator.trials.spending import Limits

        hours = self.max_device_hours
        return Options(
            home=Home.at(stores.home),
            **stores.outside,
            checkpoint_uri=self.checkpoint_uri,
            address=self.address,
            cpus=self.cpus,
            concurrency=self.concurrency,
            resources=Resources(
                workers=self.workers,
                cpus_per_worker=self.cpus_per_worker,
                gpus_per_worker=self.gpus_per_worker,
                placement=self.placement,
                compile=self.compiled,
                shard=self.shard,
                on_cpu=_on_cpu(self.device),
                min_workers=self.min_workers,
            ),
            limits=Limits(tokens=self.max_tokens, device_s=None if hours is None else hours * 3600),
            max_failures=self.max_failures,
            retry_failed=self.retry_failed,
            system_metrics=self.system_metrics,
            **more,
        )


def _on_cpu(device: str) -> bool:
    if device not in ("auto", "cpu"):
        raise BadInput(f"--device is auto or cpu; received {device!r}. Choose one.")
    return device == "cpu"
