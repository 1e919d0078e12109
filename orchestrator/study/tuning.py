"""The tuning of a grid: each cell with every combination of the values, a launch of its own.

It is an ordinary grid over the same base and tokens, on seeds that are not judged. What was chosen
there (`chosen_values`) becomes a part of the cells, and so of their configurations and hashes.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from moe.config import ConfigError, TrialConfig
from moe.identity import cell_hash
from orchestrator.study.chosen_values import values_text
from orchestrator.study.design import Fixed
from orchestrator.study.launch import Launch
from orchestrator.study.merged_cells import merge_equal
from orchestrator.study.study import Study
from orchestrator.study.tuning_rules import TUNING, require_not_judged
from search_spaces.cells import Cell, readable_name

_NAME_LIMIT = 100  # of a cell's name (search_spaces.cells)


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A cell with one combination of values: `trained` is that, as a cell of the tuning."""

    cell: str
    values: Mapping[str, Any]
    trained: Cell


def candidates(study: Study, base: TrialConfig) -> list[Candidate]:
    """Of every cell that leaves a tuned path open, the first cell's first, in the order of the
    study's lists. Raises ConfigError as `Study.tuned_over`, and where two have one name."""
    axes = study.tuned_over(base)
    found: dict[str, Candidate] = {}
    for cell in study.cells_over(base):
        left = {path: values for path, values in axes.items() if path not in cell.overrides}
        for combination in itertools.product(*left.values()) if left else ():
            values = dict(zip(left, combination, strict=True))
            name = f"{cell.name}-{readable_name(values)}"
            if len(name) > _NAME_LIMIT or name in found:
                raise ConfigError(
                    f"a cell's name with its values has at most {_NAME_LIMIT} characters and stands"
                    f" once in its tuning; received {name!r}. Give cell {cell.name} a shorter name,"
                    " or another."
                )
            trained = Cell(name=name, overrides={**cell.overrides, **values})
            found[name] = Candidate(cell=cell.name, values=values, trained=trained)
    return list(found.values())


def untuned_cells(study: Study, base: TrialConfig) -> list[str]:
    """Cells that set every tuned path themselves."""
    axes = study.tuned_over(base)
    return [cell.name for cell in study.cells_over(base) if set(axes) <= cell.overrides.keys()]


def tuning_study(study: Study) -> Study:
    """The grid of a study's candidates. All are trained to their end: ended early, the values of a
    bad cell would lose to those of a good one, and nothing were left to choose among."""
    return dataclasses.replace(
        study,
        name=f"{study.name}{TUNING}",
        question=f"With which values is each cell of {study.name} judged?",
        baseline="none: the values of one cell are set against each other",
        cells=lambda base: [each.trained for each in candidates(study, base)],
        tune={},
        tune_seeds=(),
        seeds=study.tune_seeds,
        scale_seeds={},
        early_stopping=None,
        claims=(),
        design=Fixed(),
        published={},
    )


def tuning_launch(launch: Launch, cells: Collection[str] | None = None) -> Launch:
    """The launch in which the values of some cells (None: of all that it trains) are tried: over
    the same base, on the same tokens."""
    study = tuning_study(launch.study)
    names = {cell.name for cell in launch.cells} if cells is None else cells
    every = candidates(launch.study, launch.base)
    found = [each.trained for each in every if each.cell in names]
    kept, merged = merge_equal(found, launch.base, launch.corpora, launch.followed)
    return dataclasses.replace(
        launch,
        study=study,
        seeds=study.seeds,
        cells=kept,
        merged=merged,
        followed_beside=launch.followed,
    )


def with_values(launch: Launch, chosen: Mapping[str, Mapping[str, Any]]) -> Launch:
    """The launch whose cells have what was chosen for them, by name."""
    cells = [
        dataclasses.replace(cell, overrides={**cell.overrides, **chosen.get(cell.name, {})})
        for cell in launch.cells
    ]
    kept, merged = merge_equal(cells, launch.base, launch.corpora, launch.followed)
    before = {name: merged.get(other, other) for name, other in launch.merged.items()}
    return dataclasses.replace(launch, cells=kept, merged={**before, **merged})


def trained_cells(study: Study, base: TrialConfig) -> list[Cell]:
    """Of a grid whatever is trained, candidates in place of the cells that are tuned."""
    cells = {cell.name: [cell] for cell in study.cells_over(base)}
    found = candidates(study, base)
    cells |= {each.cell: [] for each in found}
    for each in found:
        cells[each.cell].append(each.trained)
    return list(itertools.chain(*cells.values()))


def require_tuning(study: Study, base: TrialConfig, judged: Iterable[int]) -> None:
    """Raises ConfigError where no run can have a cell with one of its values, where the values are
    the same run, where every cell sets them itself, and where a judged seed is one of tuning."""
    if not study.tune:
        return
    require_not_judged(study.tune_seeds, judged, study.name)
    runs: dict[str, set[str]] = {}
    for each in candidates(study, base):
        try:
            config = each.trained.config(base)
        except ConfigError as error:
            raise ConfigError(
                f"cell {each.cell} with {values_text(each.values)}: {error}"
            ) from None
        runs.setdefault(each.cell, set()).add(cell_hash(config))
    if not runs:
        raise ConfigError(
            "what is tuned is left open by a cell at least; received "
            f"{', '.join(study.tuned_over(base))}, which every cell of {study.name} sets itself. "
            "Leave it out of the cells, or leave out tune."
        )
    if same := [name for name, hashes in runs.items() if len(hashes) == 1]:
        raise ConfigError(
            f"values that are tried are different runs; received "
            f"{', '.join(study.tuned_over(base))}, which changes nothing in cell {same[0]}. Tune "
            "what has an effect there."
        )
