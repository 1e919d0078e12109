"""What a trial costs beyond its training steps: this project's way against the documented nest.

`nest`: a Tune function that builds a TorchTrainer for each trial and forwards its reports, as Ray's
documentation shows it. `ours`: the Tune function of `orchestrator.driver.worker`. Both run the same
`moe.train` on the same tokens, one trial after the other on one local cluster, and write down when
each trial's first step begins and its last ends, so a turnaround is the time from one trial's last
step to the next one's first. Both in turn, two turnarounds at a time, one torch thread a worker, in
seconds of wall clock; medians are compared.

    python benchmarks/turnaround.py [--repeats 7] [--workers 1,2]
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

from common import MIN_REPEATS, Row, limit, print_result, row

from orchestrator.cluster import connection

connection.quiet()

import torch  # noqa: E402
from ray import train as ray_train  # noqa: E402
from ray import tune  # noqa: E402
from ray.train import RunConfig as TrainRunConfig  # noqa: E402
from ray.train import ScalingConfig  # noqa: E402
from ray.train.torch import TorchTrainer  # noqa: E402
from ray.tune.integration.ray_train import TuneReportCallback  # noqa: E402

from moe.config import DataConfig, ModelConfig, MoEConfig, TrainConfig, TrialConfig  # noqa: E402
from moe.data.corpus import open_corpus  # noqa: E402
from moe.data.prepare import data_digest, prepare  # noqa: E402
from orchestrator.base.checkpoint_place import CheckpointPlace  # noqa: E402
from orchestrator.driver.worker import Job, train_trial  # noqa: E402

GOAL_S = {1: 0.3}
GOAL_SHARE_OF_NEST = 0.5
AT_A_TIME = 2


def make_config(folder: Path, workers: int) -> tuple[TrialConfig, Path]:
    text = folder / "corpus.txt"
    text.write_text("the quick brown fox jumps over the lazy dog\n" * 4000)
    data = DataConfig(corpus=f"files:{folder}/part-*.txt")
    for i in range(40):
        (folder / f"part-{i}.txt").write_text(f"document {i}\n" + text.read_text()[: 4000 + i])
    data = dataclasses.replace(data, digest=data_digest(data, open_corpus(data.corpus)))
    config = TrialConfig(
        model=ModelConfig(num_layers=1, d_model=32, num_heads=2, d_ff=64, context_length=32),
        moe=MoEConfig(num_experts=4, top_k=2),
        data=data,
        train=TrainConfig(
            num_steps=20,
            batch_tokens=256 * workers,
            micro_batch_tokens=256,
            eval_every=10,
            eval_tokens=1024,
        ),
    )
    return config, prepare(data, folder / "tokens")


def jobs(folder: Path, config: TrialConfig, tokens: Path, kind: str, n: int, workers: int) -> list:
    made = []
    for i in range(n):
        own = dataclasses.replace(config, train=dataclasses.replace(config.train, seed=i))
        out = Path(tempfile.mkdtemp(prefix=f"{kind}-{i}-", dir=folder))
        made.append(
            {
                "job": dataclasses.asdict(
                    Job(
                        number=i,
                        study="turnaround",
                        cell=kind,
                        config=own.to_dict(),
                        tokens=str(tokens),
                        out=str(out),
                        workers=workers,
                        threads=1,
                        device="cpu",
                        checkpoint_every=own.train.eval_every,
                    )
                ),
                "stamps": str(folder / f"{kind}.jsonl"),
            }
        )
    return made


def timed_train(job: Job, report, stamps: str, rank: int = 0, size: int = 1) -> None:
    """Runs moe.train as each kind does, and writes when its first step began and last one ended."""
    import torch

    import moe.train.training_run as mt

    torch.set_num_threads(job.threads)
    from moe.data.token_store import TokenStore

    with stamp_steps(stamps if rank == 0 else None):
        mt.train(
            TrialConfig.from_dict(job.config),
            TokenStore.open(Path(job.tokens)),
            report=report,
            out=Path(job.out),
            world=mt.World(rank=rank, size=size),
            checkpoint_every=job.checkpoint_every,
        )


class stamp_steps:  # noqa: N801
    """Notes the wall clock around every training step while it is entered."""

    def __init__(self, path: str | None) -> None:
        self.path = path

    def __enter__(self) -> None:
        from moe.train.trainer import Trainer

        self.original = original = Trainer.train_step
        self.first: float | None = None

        def step(trainer, *args, **kwargs):
            begin = time.time()
            result = original(trainer, *args, **kwargs)
            self.first = self.first or begin
            self.last = time.time()
            return result

        Trainer.train_step = step

    def __exit__(self, *_: object) -> None:
        from moe.train.trainer import Trainer

        Trainer.train_step = self.original
        if self.path and self.first:
            with open(self.path, "a") as file:
                file.write(json.dumps([self.first, self.last]) + "\n")


def ours(trial: dict) -> None:
    out = Path(trial["job"]["out"])
    place = CheckpointPlace(root=str(out.parent), is_home=True)
    with stamp_steps(trial["stamps"]):
        train_trial({"job": {**trial["job"], "out": out.name}}, place=place)


def nest(trial: dict) -> None:
    job = trial["job"]

    def loop() -> None:
        context = ray_train.get_context()

        def report(metrics, checkpoint):
            ray_train.report(dict(metrics))

        def silent(metrics, checkpoint):
            return None

        rank, size = context.get_world_rank(), context.get_world_size()
        timed_train(
            Job(**job), report if rank == 0 and size == 1 else silent, trial["stamps"], rank, size
        )

    TorchTrainer(
        loop,
        scaling_config=ScalingConfig(num_workers=job["workers"]),
        run_config=TrainRunConfig(
            storage_path=str(Path(job["out"]).parent / "nest-results"),
            name=f"{Path(job['out']).name}",
            callbacks=[TuneReportCallback()],
        ),
    ).fit()


def run_kind(folder: Path, function, resources, space: list, *, reuse: bool) -> None:
    results = tune.Tuner(
        tune.with_resources(function, resources),
        param_space={"trial": tune.grid_search(space)},
        tune_config=tune.TuneConfig(max_concurrent_trials=1, reuse_actors=reuse),
        run_config=tune.RunConfig(storage_path=str(folder / "tune"), verbose=0),
    ).fit()
    if results.num_errors:
        raise RuntimeError(results.errors[0])


def unwrap(function):
    def trainable(config: dict) -> None:
        function(config["trial"])

    return trainable


def turnarounds(path: Path) -> list[float]:
    stamps = [json.loads(line) for line in path.read_text().splitlines()]
    stamps.sort()
    return [after[0] - before[1] for before, after in itertools.pairwise(stamps)]


def measure(workers: int, repeats: int) -> list[Row]:
    """Ours and the nest in turn, a few trials each, so that both see the same machine."""
    shares = [min(AT_A_TIME, repeats - start) for start in range(0, repeats, AT_A_TIME)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config, tokens = make_config(folder, workers)
        bundles = tune.PlacementGroupFactory([{"CPU": 1}] * workers)
        taken: dict[str, list[float]] = {"ours": [], "nest": []}
        with connection.connected(None, cpus=workers + 1):
            for turn, share in enumerate(shares):
                for kind, function, resources in (
                    ("ours", unwrap(ours), bundles),
                    # The nest asks for its workers itself; its function takes one CPU beside them.
                    ("nest", unwrap(nest), {"cpu": 1}),
                ):
                    stamps = f"{kind}-{turn}"
                    space = jobs(folder, config, tokens, stamps, share + 1, workers)
                    run_kind(folder, function, resources, space, reuse=kind == "ours")
                    taken[kind] += turnarounds(folder / f"{stamps}.jsonl")
    seconds = {kind: statistics.median(values) for kind, values in taken.items()}
    case = f"workers={workers}"
    rows = [
        row(
            case,
            baseline="nest",
            ours=seconds["ours"],
            theirs=seconds["nest"],
            unit="s",
            goal=GOAL_SHARE_OF_NEST,
        )
    ]
    if workers in GOAL_S:
        rows.append(limit(case, ours=seconds["ours"], at_most=GOAL_S[workers], unit="s"))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=MIN_REPEATS)
    parser.add_argument("--workers", default="1,2", help="data-parallel workers of a trial")
    options = parser.parse_args()
    torch.set_num_threads(1)  # as the workers do, for the record of the run
    rows = []
    for workers in map(int, options.workers.split(",")):
        rows += measure(workers, options.repeats)
    print_result("turnaround", rows, packages=("ray", "torch"))


if __name__ == "__main__":
    sys.exit(main())
