"""Where the points of a launch will come from, if not from its own search alone: told at `plan`,
before anything is spent."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from orchestrator.base.errors import BadInput
from orchestrator.base.home import Home
from orchestrator.driver.ladder import (
    Climb,
    Pair,
    climb_lines,
    climbing,
    known_pairs,
    pair_lines,
)
from orchestrator.stores.optuna_launches import WARM_START, launches_in
from orchestrator.stores.optuna_storage import open_storage, trouble_named
from orchestrator.study.launch import Launch
from orchestrator.trials.earlier_launches import Fixed, fitting, warm_start_lines


@dataclass(frozen=True, kw_only=True)
class Origin:
    """`told` are trials of earlier launches that the sampler is told of, None without a warm start;
    `climb` where a ladder's points come from; `refused` why `run` would refuse that as yet."""

    lines: tuple[str, ...] = ()
    told: Fixed | None = None
    climb: Climb | None = None
    pairs: tuple[Pair, ...] = ()
    refused: str | None = None

    def as_json(self) -> dict[str, Any]:
        ladder = None
        if self.climb is not None or self.refused is not None:
            points = self.climb.as_json() if self.climb is not None else {}
            pairs = [asdict(pair) for pair in self.pairs]
            ladder = {**points, "refused": self.refused, "agreement": pairs}
        return {"warm_start": self.told, "ladder": ladder}


def origin_of(launch: Launch, home: Home) -> tuple[Launch, Origin]:
    """The launch with the points that it would train, as far as they are known."""
    url = home.optuna_storage
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


def _told(launch: Launch, home: Home, url: str) -> Fixed:
    try:
        storage = open_storage(url, create=False)
    except BadInput:  # no record yet
        return {}
    with trouble_named(url):
        own = (info for info in launches_in(storage) if info.name == launch.name)
        fixed = next((info.attributes.get(WARM_START) for info in own), None)
        return fitting(launch, storage, home) if fixed is None else fixed
