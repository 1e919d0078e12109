"""A study of up to twelve cells against seeded random faults, and what they leave in the stores.

Each round runs the same command again and again until it exits with 0, while drivers, trials'
processes and nodes are killed with SIGKILL, and MLflow's server is killed or frozen for a while.
Then the stores are read with their own clients and compared with those of an undisturbed launch,
bit for bit. The plan of faults follows from the seed; what they hit depends on the machine's speed.

    python benchmarks/faults.py [--rounds 20] [--seed 0] [--kinds driver,worker,node,mlflow]
    python benchmarks/faults.py --rounds 1 --workers 2 --shard

A line a round on stderr, one JSON object on stdout; exit code 0 if nothing was lost.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from orchestrator.cluster import connection

connection.quiet()

import optuna  # noqa: E402
from fault_bench import Driver, Nodes, Server, evaluations  # noqa: E402
from fault_findings import Findings, examine  # noqa: E402
from psutil import Process  # noqa: E402

from orchestrator.stores import mlflow_client  # noqa: E402

KINDS = ("driver", "worker", "node", "mlflow")
STUDY = """
from moe.config import ModelConfig, MoEConfig, TrainConfig, TrialConfig
from orchestrator.study import Study
from search_spaces.cells import Cell

TINY = TrialConfig(
    model=ModelConfig(num_layers=1, d_model=16, num_heads=2, d_ff=32, context_length=16),
    moe=MoEConfig(num_experts=4, top_k=2),
    train=TrainConfig(num_steps={steps}, batch_tokens=128, micro_batch_tokens={micro},
                      eval_every={every}, eval_tokens=256),
)
STUDY = Study(
    name="{name}", question="Does a fault show?", baseline="learned-4", held_fixed="all else",
    scales={{"smoke": TINY}}, seeds=(0,),
    cells=[Cell(name=f"{{router}}-{{experts}}",
                overrides={{"moe.router": router, "moe.num_experts": experts}})
           for experts in (2, 4, 6, 8) for router in ("learned", "frozen", "random")][:{cells}],
)
"""
CELLS = [f"{router}-{n}" for n in (2, 4, 6, 8) for router in ("learned", "frozen", "random")]
EVALUATIONS = 10  # a trial, each with a checkpoint
ORPHAN_LIMIT_S = 30


@dataclass(frozen=True, kw_only=True)
class Fault:
    """Happens once `after` evaluations are recorded, or, a driver's, in the middle of its start-up:
    `started` is a share of the time that an undisturbed one takes to its first evaluation.
    """

    kind: str
    after: int = 0
    started: float | None = None
    frozen: bool = False  # MLflow's server: SIGSTOP rather than SIGKILL
    lasts_s: float = 0.0


def plan(choice: random.Random, kinds: tuple[str, ...], count: int, cells: int) -> list[Fault]:
    """`count` faults in the order in which they happen, each kind once before any comes twice."""
    chosen = [kinds[i % len(kinds)] for i in range(count)]
    total = cells * EVALUATIONS
    moments = sorted(choice.randrange(total) for _ in range(count))
    choice.shuffle(chosen)
    faults = []
    for kind, after in zip(chosen, moments, strict=True):
        starting = kind == "driver" and choice.random() < 0.5
        faults.append(
            Fault(
                kind=kind,
                after=after,
                started=choice.random() if starting else None,
                frozen=kind == "mlflow" and choice.random() < 0.5,
                lasts_s=choice.uniform(3, 15) if kind == "mlflow" else 0.0,
            )
        )
    return faults


class Round:
    """One launch in a home of its own, from its first driver to the one that exits with 0."""

    def __init__(
        self,
        folder: Path,
        name: str,
        nodes: Nodes,
        server: Server | None,
        options: argparse.Namespace,
    ) -> None:
        self.home = folder / name
        self.home.mkdir()
        self._study = folder / f"{name}.py"
        every = options.steps // EVALUATIONS
        micro = 128 // options.workers
        self._cells = CELLS[: options.cells]
        self._study.write_text(
            STUDY.format(
                name=name, steps=options.steps, every=every, micro=micro, cells=options.cells
            )
        )
        self._granted = ["--workers", str(options.workers), *(["--shard"] * options.shard)]
        self._limit_s = options.limit_s
        self._nodes, self._server = nodes, server
        self._corpus = folder / "corpus"
        self._away_until: float | None = None
        self.exit_codes: list[int] = []
        self._orphans: list[tuple[float, Process]] = []
        self.outlived = 0  # processes that were there long after their driver's death
        self.injected: Counter[str] = Counter()
        self.startup_s: float | None = None  # of the first driver, to its first evaluation

    def run(self, faults: list[Fault], choice: random.Random, startup_s: float = 0.0) -> bool:
        """Whether the launch came to its end in time. `startup_s`: of an undisturbed one."""
        left = list(faults)
        deadline = time.monotonic() + self._limit_s
        driver = self._start()
        while time.monotonic() < deadline:
            self._end_outage()
            self._count_orphans()
            if self.startup_s is None and evaluations(self.home / "optuna.db"):
                self.startup_s = driver.age_s
            if driver.exit_code is not None:
                self.exit_codes.append(driver.exit_code)
                if driver.exit_code == 0:
                    break
                driver = self._start()
            due = left and self._is_due(left[0], driver, startup_s)
            if due and self._inject(left[0], driver, choice):
                del left[0]
            time.sleep(0.1)
        else:
            driver.kill()
        self._end_outage(at_once=True)
        return driver.exit_code == 0

    def _start(self) -> Driver:
        number = len(self.exit_codes)
        arguments = [
            *(str(self._study), "--home", str(self.home), "--corpus", f"files:{self._corpus}/*"),
            *("--address", self._nodes.address, "--max-failures", "100", *self._granted),
            *(("--mlflow-uri", self._server.uri) if self._server else ()),
        ]
        return Driver(arguments, self.home.parent / f"{self.home.name}-driver-{number}.log")

    def _is_due(self, fault: Fault, driver: Driver, startup_s: float) -> bool:
        if fault.started is not None:
            return driver.age_s >= fault.started * startup_s
        return evaluations(self.home / "optuna.db") >= fault.after

    def _inject(self, fault: Fault, driver: Driver, choice: random.Random) -> bool:
        """False if there is nothing to break at the moment: it is tried again."""
        match fault.kind:
            case "driver":
                trials = self._nodes.trial_processes()
                driver.kill()
                gone_by = time.monotonic() + ORPHAN_LIMIT_S
                self._orphans += [(gone_by, process) for process in trials]
            case "worker":
                if not self._nodes.kill_worker(choice):
                    return False
            case "node":
                self._nodes.kill_node(choice)
            case "mlflow":
                if self._away_until is not None:
                    return False
                self._server.freeze() if fault.frozen else self._server.stop()
                self._away_until = time.monotonic() + fault.lasts_s
        self.injected[fault.kind + ("-frozen" if fault.frozen else "")] += 1
        return True

    def _count_orphans(self) -> None:
        due = [process for gone_by, process in self._orphans if time.monotonic() > gone_by]
        self._orphans = [one for one in self._orphans if one[1] not in due]
        self.outlived += sum(process.is_running() for process in due)

    def _end_outage(self, *, at_once: bool = False) -> None:
        if self._away_until is None or (time.monotonic() < self._away_until and not at_once):
            return
        self._away_until = None
        self._server.resume()

    def findings(self, ended: bool) -> Findings:
        url = f"sqlite:///{self.home}/optuna.db"
        uri = self._server.database if self._server else f"sqlite:///{self.home}/mlflow.db"
        (name,) = optuna.get_all_study_names(url)
        found = examine(url, uri, name, self._cells)
        for _ in range(self.outlived):
            found.note("stuck", f"a trial's process lived {ORPHAN_LIMIT_S} s after its driver")
        if not ended:
            found.note("stuck", f"not done; exit codes {self.exit_codes}")
        return found


def write_corpus(folder: Path) -> None:
    folder.mkdir()
    choice = random.Random(0)
    words = ("router", "sends", "each", "token", "to", "two", "experts", "by", "a", "gate")
    for i in range(40):
        (folder / f"{i}.txt").write_text(" ".join(choice.choices(words, k=200)))


def harness(options: argparse.Namespace, folder: Path) -> dict:
    kinds = tuple(options.kinds.split(","))
    write_corpus(folder / "corpus")
    nodes = Nodes(options.nodes)
    server = Server(folder) if "mlflow" in kinds else None
    try:
        whole = Round(folder, "undisturbed", nodes, server, options)
        reference = whole.findings(whole.run([], random.Random(0)))
        say("undisturbed", reference, whole, 0.0)
        totals: Counter[str] = Counter()
        injected: Counter[str] = Counter()
        equal = 0
        for number in range(options.first, options.first + options.rounds):
            choice = random.Random(f"{options.seed}/{number}")
            began = time.monotonic()
            this = Round(folder, f"round-{number}", nodes, server, options)
            faults = plan(choice, kinds, options.faults, options.cells)
            ended = this.run(faults, choice, whole.startup_s or 0.0)
            found = this.findings(ended)
            same = (found.rows, found.curves) == (reference.rows, reference.curves)
            totals.update(found.counts)
            injected.update(this.injected)
            equal += same
            say(f"round {number}", found, this, time.monotonic() - began, same)
            if not options.keep:
                shutil.rmtree(this.home)
    finally:
        nodes.close()
        if server:
            server.stop()
    clean = not any(totals.values()) and not any(reference.counts.values())
    return {
        "harness": "faults",
        "seed": options.seed,
        "rounds": options.rounds,
        "cells": options.cells,
        "injected": dict(injected),
        **{kind: totals[kind] for kind in reference.counts},
        "tables_equal": equal,
        "held": clean and equal == options.rounds,
    }


def say(name: str, found: Findings, this: Round, seconds: float, same: bool = True) -> None:
    counts = ", ".join(f"{kind} {count}" for kind, count in found.counts.items())
    print(
        f"{name}: {dict(this.injected)}; exit codes {this.exit_codes}; {counts}; "
        f"table {'equal' if same else 'DIFFERS'}; {seconds:.0f} s",
        file=sys.stderr,
        flush=True,
    )
    for line in found.detail:
        print(f"  {line}", file=sys.stderr, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--first", type=int, default=0, help="number of the first round")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--faults", type=int, default=5, help="faults a round")
    sizes = range(4, len(CELLS) + 1)  # the fourth is the baseline
    parser.add_argument("--cells", type=int, default=len(CELLS), choices=sizes, help="of the study")
    parser.add_argument("--steps", type=int, default=300, help="training steps of a trial")
    parser.add_argument("--nodes", type=int, default=2, help="nodes of one CPU beside the head")
    parser.add_argument("--workers", type=int, default=1, choices=(1, 2, 4), help="of a trial")
    parser.add_argument("--shard", action="store_true", help="models, over the workers of a trial")
    parser.add_argument("--limit-s", type=float, default=900, help="a round beyond it is stuck")
    parser.add_argument("--kinds", default=",".join(KINDS), help="of faults, comma-separated")
    parser.add_argument("--keep", metavar="DIR", help="leave homes and drivers' logs here")
    options = parser.parse_args()
    mlflow_client.quiet()
    if options.keep:
        Path(options.keep).mkdir(parents=True)
        result = harness(options, Path(options.keep))
    else:
        with tempfile.TemporaryDirectory() as name:
            result = harness(options, Path(name))
    print(json.dumps(result))
    return 0 if result["held"] else 1


if __name__ == "__main__":
    sys.exit(main())
