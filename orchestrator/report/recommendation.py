"""What a search recommends, in words and as JSON: the winner of its race, how sure that is, and who
cannot be told apart from it."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from moe.metrics import on_test
from orchestrator.report.race import ALPHA, CONFIRM_SEEDS, Finalist, Race, is_fresh
from orchestrator.report.statistics import Estimate
from orchestrator.stores.trial_record import TrialRecord
from orchestrator.surrogate.effects import Effects


@dataclass(frozen=True, kw_only=True)
class Recommendation:
    """`chosen_at` are means over the search's seeds, by point: what each looked like as it was
    chosen. `confirmed_metric` is that of the test split where the launch has one."""

    study: str
    launch: str
    metric: str
    race: Race
    cells: Mapping[str, str]
    params: Mapping[str, Mapping[str, Any]]
    chosen_at: Mapping[str, float]
    confirmed_metric: str
    confirmed: Estimate | None
    effects: Effects

    @classmethod
    def of(
        cls,
        study: str,
        launch: str,
        metric: str,
        race: Race,
        trials: Iterable[TrialRecord],
        effects: Effects,
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
            chosen_at={point: statistics.fmean(values) for point, values in chosen.items()},
            confirmed_metric=told,
            confirmed=race.confirmed(values),
            effects=effects,
        )

    def as_json(self) -> dict[str, Any]:
        race, budget = self.race, self.race.budget
        return {
            "study": self.study,
            "launch": self.launch,
            "metric": self.metric,
            "is_over": race.is_over,
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
            "alpha": ALPHA,
            "effects": [asdict(one) for one in self.effects.main],
            "interactions": [asdict(one) for one in self.effects.pairs],
            "effects_left_out": self.effects.why_not or None,
        }

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
        race, winner, sure = self.race, self.race.winner, self.confirmed
        if winner is None and race.is_over:
            return [f"nothing is recommended: {self._why_nothing()}"]
        if winner is None:
            left = sum(not one.why for one in race.finalists)
            return [f"the race goes on: {left} of {len(race.finalists)} points are left"]
        values = ", ".join(f"{path}={value}" for path, value in self.params[winner.point].items())
        found = [f"recommended: {self.cells[winner.point]} ({values})"]
        looked = f"it looked like {self.chosen_at[winner.point]:.4f} when it was chosen"
        raced = f"{winner.mean:.4f} over {len(winner.values)} seeds of the race"
        if sure is None:
            found.append(f"{self.metric}: {looked}, {raced}; not confirmed yet")
        elif sure.low is None:
            found.append(f"{self.confirmed_metric}: {sure.mean:.4f} at one fresh seed; {looked}")
        else:
            found.append(
                f"{self.confirmed_metric}: {sure.mean:.4f} [{sure.low:.4f}, {sure.high:.4f}] over "
                f"{sure.n} seeds that nothing was chosen by; on {self.metric} {looked}, {raced}"
            )
        if others := race.not_told_apart:
            named = ", ".join(self._named(one) for one in others)
            found.append(f"cannot be told apart from it at {ALPHA:.0%} of all races: {named}")
        else:
            found.append(f"every other finalist is decided against, at {ALPHA:.0%} of all races")
        return [*found, *self._effect_lines()]

    def _effect_lines(self) -> Iterator[str]:
        """What is told of single axes and of pairs: those whose intervals leave out nothing."""
        for one in self.effects.main:
            if one.is_clear:
                yield (
                    f"{one.path}={_short(one.value)} would cost {one.cost:+.4f} "
                    f"[{one.low:+.4f}, {one.high:+.4f}]"
                )
        for one in self.effects.pairs:
            if one.is_clear:
                yield (
                    f"{one.path}={_short(one.value)} and {one.other}={_short(one.other_value)} "
                    f"together cost {one.cost:+.4f} [{one.low:+.4f}, {one.high:+.4f}] beside what "
                    "each costs"
                )
        unclear = sum(not one.is_clear for one in self.effects.main)
        if unclear:
            yield f"of {unclear} of the other values of axes the cost cannot be told from none"
        if self.effects.why_not:
            yield f"not told: {self.effects.why_not}"

    def _named(self, one: Finalist) -> str:
        if one.difference is None:
            return f"{self.cells[one.point]} (no two seeds in common)"
        return f"{self.cells[one.point]} ({one.difference:+.4f} over {len(one.values)} seeds)"


def _short(value: Any) -> Any:
    return float(f"{value:.3g}") if type(value) is float else value
