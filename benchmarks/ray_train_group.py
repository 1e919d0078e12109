"""What Ray Train's own worker group does inside a Tune trial: the measurement behind docs/log.md.

A Tune function builds a TorchTrainer for its trial, as Ray's documentation shows it, on a local
cluster of four CPUs (of Ray's counting). Each worker notes when it begins and each second after.

    start    seconds from the trial's function to the first line of both workers
    stopped  which groups are left, and when all CPUs are free, after Tune stopped a trial
    killed   seconds from kill -9 of a worker to the first line of the next attempt
    held     four trials at once, each a function of one CPU and two workers of one: how many begin

    python benchmarks/ray_train_group.py [--only start,stopped,killed,held]

One JSON object on stdout. `orchestrator/driver/worker.py` says what is done in its place.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from orchestrator.cluster import connection

connection.quiet()

import ray  # noqa: E402
from ray import train as ray_train  # noqa: E402
from ray import tune  # noqa: E402
from ray.train import FailureConfig, RunConfig, ScalingConfig  # noqa: E402
from ray.train.torch import TorchTrainer  # noqa: E402
from ray.tune.integration.ray_train import TuneReportCallback  # noqa: E402
from ray.util import placement_group_table  # noqa: E402

CPUS, WORKERS, PARTS = 4, 2, ("start", "stopped", "killed", "held")
STEPS, FREE_LIMIT_S, HELD_S = 8, 60.0, 60.0


def note(folder: str, what: str, **told: Any) -> None:
    with open(f"{folder}/notes.jsonl", "a") as file:
        file.write(json.dumps({"what": what, "at": time.time(), **told}) + "\n")


def notes(folder: Path) -> list[dict[str, Any]]:
    with contextlib.suppress(FileNotFoundError):
        return [json.loads(line) for line in (folder / "notes.jsonl").read_text().splitlines()]
    return []


def trial(asked: dict[str, Any]) -> None:
    """The Tune function, with a TorchTrainer in it."""
    folder, dies = asked["folder"], asked["dies"]
    note(folder, "function", trial=asked["number"])

    def loop() -> None:
        rank = ray_train.get_context().get_world_rank()
        note(folder, "line", rank=rank, trial=asked["number"], pid=os.getpid())
        for step in range(1, STEPS + 1):
            time.sleep(1)
            if dies and rank == 1 and step == 2 and not Path(folder, "died").exists():
                Path(folder, "died").touch()
                note(folder, "killed")
                os.kill(os.getpid(), signal.SIGKILL)
            ray_train.report({"step": step})
        note(folder, "end", rank=rank, trial=asked["number"])

    TorchTrainer(
        loop,
        scaling_config=ScalingConfig(num_workers=WORKERS),
        run_config=RunConfig(
            storage_path=f"{folder}/results",
            name=f"trial-{asked['number']}",
            callbacks=[TuneReportCallback()],
            failure_config=FailureConfig(max_failures=1 if dies else 0),
        ),
    ).fit()


def unwrapped(space: dict[str, Any]) -> None:
    trial(space["asked"])


def trials(folder: Path, count: int, *, dies: bool = False, **tuned: Any) -> int:
    """Runs them; returns how many ended with an error."""
    asked = [{"folder": str(folder), "number": i, "dies": dies} for i in range(count)]
    stop = tuned.pop("stop", None)
    results = tune.Tuner(
        tune.with_resources(unwrapped, {"cpu": 1}),
        param_space={"asked": tune.grid_search(asked)},
        tune_config=tune.TuneConfig(**tuned),
        run_config=tune.RunConfig(storage_path=str(folder / "tune"), verbose=0, stop=stop),
    ).fit()
    return results.num_errors


def start(folder: Path) -> dict[str, Any]:
    errors = trials(folder, 1)
    function = next(n["at"] for n in notes(folder) if n["what"] == "function")
    lines = [n["at"] for n in notes(folder) if n["what"] == "line"]
    return {"errors": errors, "first_line_s": round(max(lines) - function, 1)}


def stopped(folder: Path) -> dict[str, Any]:
    began = time.time()
    trials(folder, 1, stop={"step": 2})
    returned = time.time()
    groups = Counter(group["state"] for group in placement_group_table().values())
    while ray.available_resources().get("CPU", 0) < CPUS and time.time() < returned + FREE_LIMIT_S:
        time.sleep(0.5)
    free_s = round(time.time() - returned, 1)
    free = ray.available_resources().get("CPU", 0) == CPUS
    time.sleep(max(0.0, returned + STEPS + 2 - time.time()))
    return {
        "tuner_s": round(returned - began, 1),
        "placement_groups_when_the_tuner_returned": dict(groups),
        "groups_in_the_end": dict(Counter(g["state"] for g in placement_group_table().values())),
        "cpus_free_in_the_end": ray.available_resources().get("CPU", 0),
        "all_cpus_free_after_s": free_s if free else None,
        "workers_that_went_on_to_their_end": sum(n["what"] == "end" for n in notes(folder)),
    }


def killed(folder: Path) -> dict[str, Any]:
    errors = trials(folder, 1, dies=True)
    told = notes(folder)
    death = next(n["at"] for n in told if n["what"] == "killed")
    again = [n["at"] for n in told if n["what"] == "line" and n["at"] > death]
    return {
        "errors": errors,
        "next_attempt_after_s": round(max(again) - death, 1) if again else None,
        "ends": sum(n["what"] == "end" for n in told),
    }


def held(folder: Path) -> dict[str, Any]:
    trials(folder, CPUS, time_budget_s=HELD_S)
    told = Counter(n["what"] for n in notes(folder))
    return {
        "waited_s": HELD_S,
        "functions_that_hold_a_cpu": told["function"],
        "workers_that_began": told["line"],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default=",".join(PARTS))
    options = parser.parse_args()
    found: dict[str, Any] = {"ray": ray.__version__}
    measures = {"start": start, "stopped": stopped, "killed": killed, "held": held}
    with tempfile.TemporaryDirectory() as name, connection.connected(None, cpus=CPUS):
        for part in options.only.split(","):
            folder = Path(name, part)
            folder.mkdir()
            try:
                found[part] = measures[part](folder)
            except Exception as error:  # told as a finding, and the others are measured
                found[part] = f"{type(error).__name__}: {error}"
            print(f"{part}: {found[part]}", file=sys.stderr, flush=True)
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
