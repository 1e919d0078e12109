"""How far a home's earlier launches spread: what `plan` tells the power of claims by."""

from __future__ import annotations

from orchestrator.base.home import Home
from orchestrator.report.claim_power import Spread, SpreadOf, pooled_spread, spread_in
from orchestrator.report.evidence import Values
from orchestrator.report.judge import counted, values_of
from orchestrator.stores.configurations import told_apart
from orchestrator.stores.optuna_launches import launches_in
from orchestrator.stores.optuna_storage import storage_if_any, trouble_named
from orchestrator.stores.optuna_trials import OptunaTrials


def given_spread(sd: float) -> SpreadOf:
    return lambda a, b, metric: Spread(sd=sd, source="as given")


def spread_of_record(url: str, home: Home, *, study: str, scale: str) -> SpreadOf:
    """Of two cells: from their own paired seeds in the study's newest launch at this scale that has
    two; else the median over pairs of cells of all launches at it. Trials count as for claims.

    Raises StudyError where the record cannot be read.
    """
    own: list[Values] = []
    others: list[Values] = []
    storage = storage_if_any(url)
    if storage is not None:
        with trouble_named(url):
            for info in reversed(launches_in(storage)):
                if info.attributes["scale"] != scale or info.attributes["sampled"]:
                    continue
                records = OptunaTrials(storage, info).records()
                judged = counted(told_apart(records, info.attributes, home))
                values = values_of(judged, info.attributes["metric"])
                (own if info.study == study else others).append(values)

    def spread_of(a: str, b: str, metric: str) -> Spread | None:
        for values in own:
            found = spread_in(values, a, b, metric)
            if found is not None:
                return Spread(sd=found[0], source=f"{found[1]} seeds of {a} and {b} in this home")
        pooled = pooled_spread([*own, *others], metric)
        if pooled is None:
            return None
        return Spread(sd=pooled[0], source=f"the median of {pooled[1]} pairs of cells in this home")

    return spread_of
