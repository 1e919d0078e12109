"""`run --until-decided`: seeds for the claims that are still open, until none is."""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from orchestrator.base.errors import BadInput
from orchestrator.base.home import Home
from orchestrator.report.allocation import Standing, next_allotment, standings
from orchestrator.report.judge import judge_launch
from orchestrator.report.verdicts import Verdict
from orchestrator.stores.configurations import told_apart
from orchestrator.stores.optuna_launches import REGISTRATIONS
from orchestrator.stores.trial_record import TrialRecord
from orchestrator.study.design import Sequential
from orchestrator.study.launch import Launch, Point


def require_decidable(launch: Launch, only: Collection[str] = ()) -> None:
    """Raises BadInput where a study has no claims that seeds may be added for until they are
    decided, or none of a name among `only`."""
    study = launch.study
    if study.is_grid and study.claims and isinstance(study.design, Sequential):
        names = [claim.id for claim in study.claims]
        if unknown := [name for name in only if name not in names]:
            raise BadInput(
                f"--claims names claims of the study; received {', '.join(unknown)}. Those of "
                f"{study.name} are {', '.join(names)}."
            )
        return
    received = "a sampled study" if not study.is_grid else f"design {study.design}"
    if study.is_grid and not study.claims:
        received = "no claims"
    raise BadInput(
        "--until-decided adds seeds until the claims of a grid are decided, which a sequential "
        f"design alone allows; received {study.name}, with {received}. Give it claims and "
        "design=Sequential(max_seeds=...), or leave the option out."
    )


class SeedAllocator:
    """Asked for more trials when all that were planned have ended."""

    def __init__(
        self,
        launch: Launch,
        home: Home,
        attributes: Mapping[str, Any],
        *,
        only: Collection[str] = (),
        elsewhere: Collection[str] = (),
    ) -> None:
        """`only`: the claims that get seeds, where not all do. `elsewhere`: hashes of
        configurations that the home has trained, which cost nothing here."""
        require_decidable(launch, only)
        self._launch, self._home, self._attributes = launch, home, attributes
        self._only, self._elsewhere = only, elsewhere
        self._is_trained = functools.cache(self._is_elsewhere)  # asked for all seeds at every round
        self._cells = {cell.name: cell for cell in launch.cells}

    def more(self, trials: Iterable[TrialRecord]) -> list[Point]:
        """Points of the next seed; none when every claim is decided or given up."""
        records, verdicts = self._judged(trials)
        study = self._launch.study
        paired = zip(study.claims, verdicts, strict=True)
        wanted = [(c, v) for c, v in paired if not self._only or c.id in self._only]
        claims, of_claims = [c for c, _ in wanted], [v for _, v in wanted]
        asked = next_allotment(
            claims, of_claims, records, study.design, is_trained=self._is_trained
        )
        if asked is None:
            return []
        return [self._point(cell, asked.seed) for cell in asked.cells]

    def known_point(self, record: TrialRecord) -> Point | None:
        """That of a trial that an earlier driver was allotted; None where its cell is another."""
        if record.cell not in self._cells:
            return None
        point = self._point(record.cell, record.seed)
        return point if point.config_hash == record.config_hash else None

    def standings(self, trials: Iterable[TrialRecord]) -> list[Standing]:
        records, verdicts = self._judged(trials)
        study = self._launch.study
        return standings(study.claims, verdicts, records, study.design)

    def _is_elsewhere(self, cell: str, seed: int) -> bool:
        return self._point(cell, seed).config_hash in self._elsewhere

    def _point(self, cell: str, seed: int) -> Point:
        return self._launch.point(cell, self._cells[cell].overrides, seed)

    def _judged(
        self, trials: Iterable[TrialRecord]
    ) -> tuple[list[TrialRecord], tuple[Verdict, ...]]:
        records = told_apart(trials, self._attributes, self._home)
        judgement = judge_launch(
            self._launch.study,
            scale=self._launch.scale,
            records=records,
            history=self._attributes.get(REGISTRATIONS) or (),
        )
        return [r for r in records if not r.is_older], judgement.verdicts


def lines_of(found: Iterable[Standing]) -> list[str]:
    """What became of each claim, and what it cost."""
    return [
        f"{one.claim}: {one.why or 'open'}, {one.n} seeds, {one.device_s / 3600:.2f} device hours"
        for one in found
    ]
