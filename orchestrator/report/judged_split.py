"""On which split a launch is judged: the test, where every result has one.

Searches, early stopping and curves go by the validation split, which a value that they chose looks
better on than it is. Tables, figures of final values and claims go by the same measure on a test
split that nothing chose by (`data.test_fraction`), measured once a run.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

from moe.metrics import causal, on_test
from orchestrator.report.evidence import Sampling, Values
from orchestrator.stores.trial_record import TrialRecord


def judged_metric(metric: str, records: Iterable[TrialRecord]) -> str:
    """`metric` on the test split, if all complete trials of today's configurations have that."""
    moved = on_test(metric)
    complete = [r for r in records if r.state == "complete" and not r.is_older]
    has_all = bool(complete) and all(moved in r.metrics for r in complete)
    return moved if moved is not None and has_all else metric


def on_judged_split(records: Sequence[TrialRecord], metric: str) -> list[TrialRecord]:
    """The trials, with the final value that tables and claims go by; one that has none there (of an
    older configuration) has none at all."""
    judged = judged_metric(metric, records)
    if judged == metric:
        return list(records)
    return [
        dataclasses.replace(r, judged_value=r.metrics.get(judged), is_on_test=True) for r in records
    ]


def with_causal_routes(values: Values, sampling: Sampling) -> tuple[Values, Sampling, set[str]]:
    """What the values would be if cells that route a sequence by all of it were causal.

    Of such a cell each loss is the one that the same weights have with causal routes
    (`moe.metrics.causal`); the third answer names these cells. Other cells keep their values.
    """
    replaced = {
        cell
        for cell, how in sampling.evaluated.items()
        if not how.is_causal
        and (of_seeds := values.get(cell))
        and all(causal(m) in row for row in of_seeds.values() for m in row if causal(m))
    }
    changed = {
        cell: {seed: _causally(row) for seed, row in of_seeds.items()}
        if cell in replaced
        else of_seeds
        for cell, of_seeds in values.items()
    }
    evaluated = {
        cell: dataclasses.replace(how, is_causal=True) if cell in replaced else how
        for cell, how in sampling.evaluated.items()
    }
    told = dataclasses.replace(sampling, evaluated=evaluated, text=_untold)
    return changed, told, replaced


def _untold(a: str, b: str, metric: str) -> None:
    """Losses by document are of the routes that the model was trained with."""


def _causally(row: dict[str, float]) -> dict[str, float]:
    return {name: row.get(causal(name) or "", value) for name, value in row.items()}
