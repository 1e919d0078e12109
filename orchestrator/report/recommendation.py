"""What a search recommends, as JSON that its launch keeps: the winner of its race, how sure that
is, and who cannot be told apart from it. Its words are those of `recommendation_text`."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from moe.metrics import on_test
from orchestrator.report.race import ALPHA, CONFIRM_SEEDS, Finalist, Race, is_fresh
from orchestrator.report.recommendation_text import lines_of, since_line
from orchestrator.report.statistics import Estimate
from orchestrator.stores.trial_record import FINISHED_STATES, TrialRecord
from orchestrator.study.comparability import leaks_future
from orchestrator.surrogate.effects import Effects


def count_ended(trials: Iterable[TrialRecord]) -> int:
    return sum(record.state in FINISHED_STATES for record in trials if not record.is_older)


def kept_lines(told: Mapping[str, Any], trials: Iterable[TrialRecord]) -> list[str]:
    """What a launch keeps of its recommendation, and whether it has changed since."""
    current = [record for record in trials if not record.is_older]
    since = since_line(told, count_ended(current), {record.cell for record in current})
    return [*lines_of(told), *([since] if since else [])]


@dataclass(frozen=True, kw_only=True)
class Recommendation:
    """`by_trials` had ended when this was told. `chosen_at` are means over the search's seeds, by
    point: what each looked like as it was chosen. `confirmed_metric` is that of the test split
    where the launch has one. `at_ends` are the winner's axes whose value is an end of its domain,
    with both ends."""

    study: str
    launch: str
    metric: str
    race: Race
    cells: Mapping[str, str]
    params: Mapping[str, Mapping[str, Any]]
    by_trials: int
    chosen_at: Mapping[str, float]
    confirmed_metric: str
    confirmed: Estimate | None
    effects: Effects
    at_ends: Mapping[str, tuple[Any, Any]]
    not_causal: frozenset[str] = frozenset()  # of the points

    @classmethod
    def of(
        cls,
        study: str,
        launch: str,
        metric: str,
        race: Race,
        trials: Iterable[TrialRecord],
        effects: Effects,
        at_ends: Mapping[str, tuple[Any, Any]],
    ) -> Recommendation:
        current = [record for record in trials if not record.is_older]
        chosen: dict[str, list[float]] = {}
        for record in current:
            if record.state == "complete" and not is_fresh(record):
                chosen.setdefault(record.cell_hash, []).append(record.value)
        winner = race.winner.point if race.winner else None
        confirming = [
            record
            for record in current
            if record.cell_hash == winner
            and record.seed >= CONFIRM_SEEDS
            and is_fresh(record)
            and record.state == "complete"
        ]
        tested = on_test(metric)
        has_test = bool(confirming) and all(tested in record.metrics for record in confirming)
        told = tested if has_test else metric
        values = {
            record.seed: record.metrics[told] if has_test else record.value for record in confirming
        }
        return cls(
            study=study,
            launch=launch,
            metric=metric,
            race=race,
            cells={record.cell_hash: record.cell for record in current},
            params={record.cell_hash: dict(record.params) for record in current},
            by_trials=count_ended(current),
            chosen_at={point: statistics.fmean(values) for point, values in chosen.items()},
            confirmed_metric=told,
            confirmed=race.confirmed(values),
            effects=effects,
            not_causal=frozenset(
                record.cell_hash
                for record in current
                if record.config is not None and leaks_future(record.config)
            ),
            at_ends=at_ends,
        )

    def as_json(self) -> dict[str, Any]:
        race, budget = self.race, self.race.budget
        return {
            "study": self.study,
            "launch": self.launch,
            "metric": self.metric,
            "is_over": race.is_over,
            "by_trials": self.by_trials,
            "trainings": {
                "finalists": budget.finalists,
                "race": budget.race,
                "confirm": budget.confirm,
            },
            "winner": self._winner_json() if race.winner else None,
            "nothing_because": self._why_nothing() if race.is_over and not race.winner else None,
            "finalists": [self._finalist_json(one) for one in race.finalists],
            "not_told_apart": [self.cells[one.point] for one in race.not_told_apart]
            if race.winner
            else None,
            "not_causal": [
                self.cells[one.point] for one in race.finalists if one.point in self.not_causal
            ],
            "alpha": ALPHA,
            "effects": [asdict(one) for one in self.effects.main],
            "interactions": [asdict(one) for one in self.effects.pairs],
            "effects_left_out": self.effects.why_not or None,
            "axes": self._axes_json(),
            "at_ends": {path: list(ends) for path, ends in self.at_ends.items()},
        }

    def _axes_json(self) -> list[dict[str, Any]]:
        """Of each axis of the winner that has an effect told: its value, the one of which the model
        believes most, and what leaving the recommended one costs at the least."""
        if self.race.winner is None:
            return []
        found = []
        for path, value in self.params[self.race.winner.point].items():
            others = [one for one in self.effects.main if one.path == path]
            if others:
                least = min(others, key=lambda one: one.cost)
                found.append(
                    {
                        "path": path,
                        "value": value,
                        "best": least.value if least.cost < 0 else value,
                        "leaving_for": least.value,
                        "cost": least.cost,
                        "low": least.low,
                        "high": least.high,
                    }
                )
        return found

    def _why_nothing(self) -> str:
        if (won := self.race.rejected) is not None:
            return f"{self.cells[won.point]} won the race, and {won.why}"
        return "; ".join(f"{self.cells[one.point]} {one.why}" for one in self.race.finalists)

    def _winner_json(self) -> dict[str, Any]:
        winner, sure = self.race.winner, self.confirmed
        assert winner is not None
        return {
            "cell": self.cells[winner.point],
            "params": dict(self.params[winner.point]),
            "chosen_at": self.chosen_at[winner.point],
            "race_mean": winner.mean,
            "confirmed": None
            if sure is None
            else {
                "metric": self.confirmed_metric,
                "n": sure.n,
                "mean": sure.mean,
                "ci_low": sure.low,
                "ci_high": sure.high,
            },
        }

    def _finalist_json(self, one: Finalist) -> dict[str, Any]:
        return {
            "cell": self.cells[one.point],
            "params": dict(self.params[one.point]),
            "chosen_at": self.chosen_at[one.point],
            "n": len(one.values),
            "mean": one.mean if one.values else None,
            "difference": one.difference,
            "ci_low": one.low,
            "ci_high": one.high,
            "why": one.why or ("left" if self.race.winner else "in the race"),
            "decided": one.decided,
        }

    def lines(self) -> list[str]:
        """For people: the answer first."""
        return lines_of(self.as_json())
