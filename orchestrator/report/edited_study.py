"""Whether a study file was edited since its launch was last run: what is read then answers the
question as it was asked before."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from moe.config import ConfigError
from moe.identity import told
from orchestrator.base.errors import BadInput
from orchestrator.stores.optuna_launches import BASE, LaunchInfo
from orchestrator.stores.trial_record import TrialRecord
from orchestrator.study.chosen_values import Choices
from orchestrator.study.corpora import CORPUS_PATH
from orchestrator.study.study import Study
from search_spaces.overlay import overlay

_OF_THE_TEXT = "data.digest"  # known only where the corpus is read
_NAMED = 3


def edit_line(study: Study, info: LaunchInfo, records: Sequence[TrialRecord]) -> str | None:
    """One line that names what differs, or None. `records` are the launch's, told apart."""
    found = list(_edits(study, info.attributes, records))
    if not found:
        return None
    more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
    return (
        f"the study was edited since {info.name} was run: {'; '.join(found[:_NAMED])}{more}. What "
        "is shown is of the study as it was; `run` goes on with it as it is"
    )


def _edits(
    study: Study, attributes: Mapping[str, Any], records: Sequence[TrialRecord]
) -> Iterator[str]:
    scale = attributes["scale"]
    if scale not in study.scales:
        yield f"it has no scale {scale!r}"
        return
    given = dict(attributes["overrides"])
    if attributes.get("corpus_option"):
        given[CORPUS_PATH] = attributes["corpus_option"]
    try:
        base = overlay(study.scales[scale], given)
        if attributes["sampled"]:
            axes = {path for record in records for path in record.params}
            then, now = attributes.get(BASE), told(base)
            if differs := _differing(then, now, axes):
                yield differs
            return
        choices = Choices.of(attributes) if study.tune else None
        given = choices.values if choices else {}
        cells = {
            cell.name: overlay(base, {**given.get(cell.name, {}), **cell.overrides})
            for cell in study.cells_over(base)
        }
        tuned = study.tuned_over(base)
    except (ConfigError, BadInput):  # what `run` will refuse, with the reason
        return
    then = _asked(choices.axes, choices.seeds) if choices else None
    if tuned and then != _asked(tuned, study.tune_seeds):
        among = "; ".join(f"{path} among {', '.join(map(str, v))}" for path, v in tuned.items())
        yield f"it tunes {among}, on seeds {', '.join(map(str, study.tune_seeds))}"
    for record in {r.cell: r for r in records if not r.is_older}.values():
        if record.cell not in cells:
            yield f"it has no cell {record.cell}"
        elif differs := _differing(record.config, told(cells[record.cell])):
            yield f"cell {record.cell} has {differs}"


def _asked(axes: Mapping[str, Sequence[Any]], seeds: Sequence[int]) -> Any:
    return {path: sorted(values, key=str) for path, values in axes.items()}, sorted(seeds)


def _differing(
    then: Mapping[str, Any] | None, now: Mapping[str, Any], axes: Collection[str] = ()
) -> str:
    """What `now` has otherwise; nothing where `then` was not recorded (before December 2026)."""
    if then is None:
        return ""
    paths = [path for path in dict.fromkeys((*now, *then)) if now.get(path) != then.get(path)]
    left_out = {_OF_THE_TEXT, *axes}
    named = [f"{path}={now.get(path, 'default')}" for path in paths if path not in left_out]
    return ", ".join(named[:_NAMED])
