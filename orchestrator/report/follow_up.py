"""The study that follows a search: its finalists as cells, and that the winner is better as claims,
to be run at the next scale."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from orchestrator.base.errors import BadInput
from orchestrator.report.recommendation import Recommendation
from orchestrator.study.launch import Launch
from orchestrator.study.library import is_path
from orchestrator.study.study import NAME

WINNER = "recommended"
_SEEDS = 20

_TEXT = '''"""{question}"""

from __future__ import annotations

{imports}from orchestrator.study import Better, Sequential, Study
from orchestrator.study.library import load_study
from search_spaces.cells import Cell

SEARCH = load_study({search})

STUDY = Study(
    name={name!r},
    question={question!r},
    baseline={baseline!r},
    held_fixed=SEARCH.held_fixed,
    scales=SEARCH.scales,
    default_scale={scale!r},
    metric={metric!r},
{bounded}    cells=[
{cells}    ],
    seeds=(0, 1, 2),
    design=Sequential(max_seeds={seeds}),
    claims=(
{claims}    ),
)
'''


def require_new(path: Path) -> None:
    """Raises BadInput where a study cannot be written to a file of that name."""
    if path.suffix != ".py" or not NAME.fullmatch(path.stem):
        raise BadInput(
            "--write-study names a .py file, in letters, digits, '-' and '_'; received "
            f"{path}. Rename it."
        )
    if path.exists() or not path.parent.is_dir():
        trouble = "is there already" if path.exists() else "is in no folder that exists"
        raise BadInput(
            f"--write-study writes a new file and overwrites nothing; received {path}, which "
            f"{trouble}. Choose another."
        )


def write_follow_up(path: Path, search: str, launch: Launch, found: Recommendation) -> str:
    """Returns the study's name. `search` is how the search was named: a name or a path."""
    cells = list(_cells(launch, found))
    baseline = cells[-1][0]
    text = _TEXT.format(
        question=f"Does what {launch.study.name} recommends hold?",
        imports="from pathlib import Path\n\n" if is_path(search) else "",
        search=_expression(path, search),
        name=path.stem,
        baseline=baseline,
        scale=launch.study.rung_above(launch.scale) or launch.scale,
        metric=launch.study.metric,
        bounded="    constraints=SEARCH.constraints,\n" if launch.study.constraints else "",
        seeds=_SEEDS,
        cells="".join(f"        Cell(name={n!r}, overrides={o!r}),\n" for n, o, _ in cells),
        claims="".join(_claim(n, launch.study.metric, told) for n, _, told in cells[1:]),
    )
    path.write_text(text, "utf-8")
    return path.stem


def _expression(path: Path, search: str) -> str:
    """How the file names the search: its path is told from where the file lies."""
    if not is_path(search):
        return repr(search)
    beside = os.path.relpath(search, path.resolve().parent)
    return f"str(Path(__file__).parent / {beside!r})"


def _cells(launch: Launch, found: Recommendation) -> Iterator[tuple[str, dict[str, Any], str]]:
    """Name, overrides and what the race said of it; the winner first, the scale itself last."""
    winner = found.race.winner
    assert winner is not None
    yield WINNER, _overrides(launch, found, winner.point), ""
    known = {launch.sampled_point(found.params[winner.point], launch.seeds[0]).cell_hash}
    others = [one for one in found.race.finalists if one is not winner and not one.failed]
    for number, one in enumerate(others, 2):
        known.add(one.point)
        said = "no seeds in common"
        if one.difference is not None:
            said = f"{one.difference:+.4f} over {len(one.values)} seeds of the race"
        yield f"finalist-{number}", _overrides(launch, found, one.point), said
    base = launch.base_point()
    if base.cell_hash not in known:
        yield "base", dict(launch.overrides), "not in the race"


def _overrides(launch: Launch, found: Recommendation, point: str) -> dict[str, Any]:
    return {**launch.overrides, **found.params[point]}


def _claim(cell: str, metric: str, told: str) -> str:
    statement = f"the recommended point is better than {cell} ({told})"
    return (
        f"        Better(\n            id={'over-' + cell!r},\n"
        f"            statement={statement!r},\n"
        f"            a={WINNER!r},\n            b={cell!r},\n            metric={metric!r},\n"
        "        ),\n"
    )
