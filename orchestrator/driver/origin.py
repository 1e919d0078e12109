"""Where the points of a launch will come from, if not from its study or its own search alone: told
at `plan`, before anything is spent."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from orchestrator.base.errors import BadInput, StudyError
from orchestrator.base.home import Home
from orchestrator.driver.cell_tuning import to_be_tuned, tuned
from orchestrator.driver.ladder import (
    Climb,
    Pair,
    climb_lines,
    climbing,
    known_pairs,
    pair_lines,
)
from orchestrator.stores.optuna_launches import WARM_START, launches_in
from orchestrator.stores.optuna_storage import storage_if_any, trouble_named
from orchestrator.study.chosen_values import Choices
from orchestrator.study.launch import Launch
from orchestrator.study.plan import TuningCost, plan, tuning_cost
from orchestrator.trials.earlier_launches import Fixed, fitting, warm_start_lines


@dataclass(frozen=True, kw_only=True)
class Origin:
    """`tuning` trains the candidates of a grid's cells, where that is still to be done, `cost` is
    that of all of it, and `choices` are what it came to, once it is done.
    `told` are trials of earlier launches that the sampler is told of, None without a warm start;
    `climb` where a ladder's points come from; `refused` why `run` would refuse that as yet."""

    lines: tuple[str, ...] = ()
    told: Fixed | None = None
    climb: Climb | None = None
    pairs: tuple[Pair, ...] = ()
    refused: str | None = None
    tuning: Launch | None = None
    cost: TuningCost | None = None
    choices: Choices | None = None

    @property
    def flops_before(self) -> int:
        """Still to be spent on a tuning before the launch itself."""
        return self.cost.flops_total if self.cost is not None and self.choices is None else 0

    def as_json(self) -> dict[str, Any]:
        ladder = None
        if self.climb is not None or self.refused is not None:
            points = self.climb.as_json() if self.climb is not None else {}
            pairs = [asdict(pair) for pair in self.pairs]
            ladder = {**points, "refused": self.refused, "agreement": pairs}
        found = {"warm_start": self.told, "ladder": ladder}
        if self.cost is not None:
            chosen = self.choices.as_json() if self.choices else None
            found["tuning"] = {**asdict(self.cost), "chosen": chosen, "refused": self.refused}
        return found


def origin_of(launch: Launch, home: Home, url: str) -> tuple[Launch, Origin]:
    """The launch with the points that it would train, as far as the record at `url` knows them."""
    if launch.study.tune:
        return _tuned(launch, url)
    if launch.rung_below is not None:
        pairs = tuple(known_pairs(launch, home, url))
        refused, climb = None, None
        try:
            launch, climb = climbing(launch, home, url)
        except BadInput as error:
            refused = str(error)
        lines = [*climb_lines(launch, climb.as_json() if climb else None)]
        lines += [refused] if refused else []
        lines += pair_lines(launch, pairs)
        return launch, Origin(lines=tuple(lines), climb=climb, pairs=pairs, refused=refused)
    if not launch.is_warm_started:
        return launch, Origin()
    told = _told(launch, home, url)
    return launch, Origin(lines=tuple(warm_start_lines(launch, told)), told=told)


def _tuned(launch: Launch, url: str) -> tuple[Launch, Origin]:
    cost = tuning_cost(launch)
    assert cost is not None
    axes = launch.study.tuned_over(launch.base)
    among = " and ".join(f"{path} among {', '.join(map(str, v))}" for path, v in axes.items())
    seeds = ", ".join(map(str, cost.seeds))
    tuning = to_be_tuned(launch, url)
    if tuning is not None:
        own = plan(launch)
        line = (
            f"tuning: each cell's {among}, on seeds {seeds}, which are not judged: {cost.trials} "
            f"trials, {cost.tokens_total:,} tokens, {cost.flops_total:.2e} FLOPs come first; with "
            f"what is judged {cost.trials + own['trials']} trials, "
            f"{cost.tokens_total + own['tokens_total']:,} tokens, "
            f"{cost.flops_total + own['flops_total']:.2e} FLOPs"
        )
        return launch, Origin(lines=(line,), tuning=tuning, cost=cost)
    try:
        launch, choices = tuned(launch, url)
    except StudyError as error:
        return launch, Origin(lines=(str(error),), cost=cost, refused=str(error))
    assert choices is not None
    spent = f"tuning: {choices.launch} is done: {choices.tokens:,} tokens, beside those here"
    return launch, Origin(lines=(spent, *choices.lines()), cost=cost, choices=choices)


def _told(launch: Launch, home: Home, url: str) -> Fixed:
    storage = storage_if_any(url)
    if storage is None:
        return {}
    with trouble_named(url):
        own = (info for info in launches_in(storage) if info.name == launch.name)
        fixed = next((info.attributes.get(WARM_START) for info in own), None)
        return fitting(launch, storage, home) if fixed is None else fixed
