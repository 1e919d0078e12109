"""Whether the trials of a launch will have the metrics that they, and claims, are judged by."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from moe.config import TrialConfig
from moe.metrics import Metric, describe
from orchestrator.base.errors import BadInput
from orchestrator.study.comparability import comparisons
from orchestrator.study.corpora import lacks_part
from orchestrator.study.launch import Launch
from orchestrator.study.study import Study
from search_spaces.space import Rule, Space

_NEEDED = {
    "experts": "experts",
    "scores": "a router that scores experts",
    "limited room": "a limit on what an expert has room for (moe.capacity_factor)",
    "uncertain experts": "tokens that may get no expert (moe.selection=expert, or a limit on what "
    "an expert has room for)",
    "whole sequences": "a router that reads the mean of whole sequences (moe.routing_unit)",
}


def with_metrics(study: Study, space: Space | None) -> Space | None:
    """The space without the points whose runs would not have the study's metric, or one of its
    objectives."""
    if space is None:
        return space
    rules = [
        Rule(holds=one.is_measured, reason=f"{one.name} is of runs with {_NEEDED[one.needs]}")
        for one in _measures(study)
        if one.needs
    ]
    return dataclasses.replace(space, rules=(*space.rules, *rules)) if rules else space


def require_measured(launch: Launch) -> None:
    """Raises BadInput where a trial would not have what it is judged by, or a cell what a claim
    says of it. (Points without it are left out of a sampled study's space, but for a part's loss:
    which parts there are its texts say.)"""
    for measure in _measures(launch.study):
        for spec in launch.corpus_specs:
            if lacks_part(launch.corpora.get(spec), measure.name):
                raise BadInput(
                    f"every trial has the metric of its study; {measure.name} is of a mixture "
                    f"(mix:) with that part, and {spec} has none. Choose another metric, or "
                    "another text."
                )
    for cell in launch.cells:
        if (why := _why_not(launch.study.measure, cell.config(launch.base), launch)) is not None:
            raise BadInput(
                f"every cell has the metric of its study; {why}, and cell {cell.name} is none. "
                "Leave it out, or choose another metric, and claim this one where it is measured."
            )
    by_name = {cell.name: cell for cell in launch.cells}
    for claim_id, name, measure in _claimed(launch.study):
        cell = by_name.get(launch.merged.get(name, name))
        if cell is None:  # this corpus has no such cell
            continue
        if (why := _why_not(measure, cell.config(launch.base), launch)) is not None:
            raise BadInput(
                f"a claim is about what its cells have; claim {claim_id}: {why}, and cell {name} "
                "is none. Claim another metric of it, or this one of other cells."
            )


def _measures(study: Study) -> list[Metric]:
    return [describe(name) for name in study.objectives or [study.metric]]


def _claimed(study: Study) -> Iterator[tuple[str, str, Metric]]:
    """The claims' ids, and each cell that they set against another, with the metric."""
    for claim in study.claims:
        for a, b, metric in comparisons(claim):
            yield claim.id, a, describe(metric)
            yield claim.id, b, describe(metric)


def _why_not(measure: Metric, config: TrialConfig, launch: Launch) -> str | None:
    """Which runs alone have a metric, where those of a config do not."""
    if not measure.is_measured(config):
        needed = _NEEDED.get(measure.needs, "a split that is held out (data.test_fraction)")
        return f"{measure.name} is of runs with {needed}"
    if lacks_part(launch.corpora.get(config.data.corpus), measure.name):
        return f"{measure.name} is of runs on a mixture (mix:) with that part"
    return None
