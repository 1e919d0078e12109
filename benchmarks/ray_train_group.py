"""What Ray Train's own worker group does inside a Tune trial: the measurement behind docs/log.md.

A Tune function builds a TorchTrainer for its trial, as Ray's documentation shows it, on a local
cluster of four CPUs (of Ray's counting). Each worker notes when it begins and each second after.

    start    seconds from the trial's function to the first line of both workers
    stopped  which groups are left, and when all CPUs are free, after Tune stopped a trial
    killed   seconds from kill -9 of a worker to the first line of the next attempt
    held     four trials at once, each a function of one CPU and two workers of one: how many begin
    node     seconds from the loss of a worker's node (another one comes) to the next attempt
    driver   what goes on, and what is taken, a minute after kill -9 of the driver of a cluster that
             outlives it

    python benchmarks/ray_train_group.py [--only start,stopped,killed,held,node,driver]

One JSON object on stdout. `orchestrator/driver/worker.py` says what is done in its place.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
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
from ray.cluster_utils import Cluster  # noqa: E402
from ray.train import FailureConfig, RunConfig, ScalingConfig  # noqa: E402
from ray.train.torch import TorchTrainer  # noqa: E402
from ray.tune.integration.ray_train import TuneReportCallback  # noqa: E402
from ray.util import placement_group_table  # noqa: E402

CPUS, WORKERS, PARTS = 4, 2, ("start", "stopped", "killed", "held", "node", "driver")
STEPS, FREE_LIMIT_S, HELD_S = 8, 60.0, 60.0
LIMIT_S = 240.0  # for what should come after a loss


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
        here = ray.get_runtime_context().get_node_id()
        note(folder, "line", rank=rank, trial=asked["number"], pid=os.getpid(), node=here)
        for step in range(1, STEPS + 1):
            time.sleep(1)
            if dies and rank == 1 and step == 2 and not Path(folder, "died").exists():
                Path(folder, "died").touch()
                note(folder, "killed")
                os.kill(os.getpid(), signal.SIGKILL)
            note(folder, "step", rank=rank, step=step)
            ray_train.report({"step": step})
        note(folder, "end", rank=rank, trial=asked["number"])

    TorchTrainer(
        loop,
        scaling_config=ScalingConfig(num_workers=WORKERS),
        run_config=RunConfig(
            storage_path=f"{folder}/results",
            name=f"trial-{asked['number']}",
            callbacks=[TuneReportCallback()],
            failure_config=FailureConfig(max_failures=1),
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


def wait_for(condition: Any, limit_s: float = LIMIT_S) -> Any:
    """What the condition gives once it gives anything; None where the limit passes."""
    deadline = time.time() + limit_s
    while time.time() < deadline:
        if found := condition():
            return found
        time.sleep(0.5)
    return None


def lines(folder: Path, after: float = 0.0) -> list[dict[str, Any]]:
    return [n for n in notes(folder) if n["what"] == "line" and n["at"] > after]


@contextlib.contextmanager
def cluster_of(*cpus: int):
    """A head without CPUs, and nodes; with it, by id."""
    temporary = tempfile.mkdtemp(prefix="group-", dir="/tmp")  # Ray's sockets: < 107 bytes
    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 0, "include_dashboard": False, "temp_dir": temporary},
    )
    try:
        yield cluster, {node.node_id: node for node in [cluster.add_node(num_cpus=n) for n in cpus]}
    finally:
        ray.shutdown()
        cluster.shutdown()


def begun_on(cluster: Cluster, folder: Path, *more: str) -> subprocess.Popen:
    """A driver of one trial, in a process of its own."""
    command = [sys.executable, __file__, "--driver", cluster.address, "--folder", str(folder)]
    return subprocess.Popen([*command, *more], stdout=sys.stderr, start_new_session=True)


def node(folder: Path) -> dict[str, Any]:
    with cluster_of(2, 2) as (cluster, nodes):
        driver = begun_on(cluster, folder)
        first = wait_for(lambda: len(found := lines(folder)) == WORKERS and found)
        if first is None:
            driver.kill()
            return {"first_attempt": f"not within {LIMIT_S:g} s"}
        time.sleep(2)
        lost = next(n["node"] for n in first if n["rank"] == 1)
        at = time.time()
        cluster.remove_node(nodes.pop(lost), allow_graceful=False)
        cluster.add_node(num_cpus=2)
        again = wait_for(lambda: len(found := lines(folder, at)) >= WORKERS and found)
        with contextlib.suppress(subprocess.TimeoutExpired):
            driver.wait(timeout=60)
        driver.kill()
        return {
            "next_attempt_after_s": round(again[-1]["at"] - at, 1) if again else None,
            "ends": sum(n["what"] == "end" for n in notes(folder)),
            "exit_code": driver.returncode,
        }


def driver(folder: Path) -> dict[str, Any]:
    with cluster_of(CPUS) as (cluster, _):
        process = begun_on(cluster, folder, "--steps", "600")
        if wait_for(lambda: len(lines(folder)) == WORKERS) is None:
            process.kill()
            return {"first_attempt": f"not within {LIMIT_S:g} s"}
        time.sleep(2)
        os.killpg(process.pid, signal.SIGKILL)
        at = time.time()
        ray.init(address=cluster.address, log_to_driver=False)
        free_s = wait_for(lambda: ray.available_resources().get("CPU", 0) == CPUS, FREE_LIMIT_S)
        freed = round(time.time() - at, 1)
        time.sleep(max(0.0, at + FREE_LIMIT_S - time.time()))
        late = [n for n in notes(folder) if n["what"] == "step" and n["at"] > at + 30]
        return {
            "all_cpus_free_after_s": freed if free_s else None,
            "steps_trained_later_than_30_s_after": len(late),
            "groups_a_minute_later": dict(
                Counter(group["state"] for group in placement_group_table().values())
            ),
        }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default=",".join(PARTS))
    parser.add_argument("--driver", metavar="ADDRESS", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--steps", type=int, default=STEPS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.driver:
        globals()["STEPS"] = options.steps
        ray.init(address=options.driver, log_to_driver=False)
        return trials(options.folder, 1)
    found: dict[str, Any] = {"ray": ray.__version__}
    here = {"start": start, "stopped": stopped, "killed": killed, "held": held}
    elsewhere = {"node": node, "driver": driver}  # on clusters of their own
    with tempfile.TemporaryDirectory() as name:
        for part in options.only.split(","):
            folder = Path(name, part)
            folder.mkdir()
            try:
                if part in elsewhere:
                    found[part] = elsewhere[part](folder)
                    continue
                with connection.connected(None, cpus=CPUS):
                    found[part] = here[part](folder)
            except Exception as error:  # told as a finding, and the others are measured
                found[part] = f"{type(error).__name__}: {error}"
            finally:
                print(f"{part}: {found[part]}", file=sys.stderr, flush=True)
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
