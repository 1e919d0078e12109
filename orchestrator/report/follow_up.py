"""The study that follows a search: its finalists as cells, and that the winner is better as claims,
with what other values of its axes would cost; to be run at the next scale.

Its seeds are its own: at the search's, cells would be judged by the luck that chose them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moe.config import ConfigError
from orchestrator.base.errors import BadInput
from orchestrator.base.whole_files import whole
from orchestrator.report.race import SEEDS_END
from orchestrator.report.recommendation import Recommendation
from orchestrator.study.launch import Launch
from orchestrator.study.library import is_path
from orchestrator.study.study import NAME
from orchestrator.surrogate.effects import Effect
from search_spaces.drawing import at

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
    seeds={chosen},
    design=Sequential(max_seeds={seeds}),
    claims=(
{claims}    ),
)
'''


@dataclass(frozen=True, kw_only=True)
class _Cell:
    """`is_better`: than the winner, as is claimed; else that the winner is better is."""

    name: str
    overrides: Mapping[str, Any]
    said: str = ""
    is_better: bool = False


def require_writable(path: Path, launch: Launch) -> None:
    """Raises BadInput where no study that follows this launch can be written to such a file. One
    that was written for it before may be there."""
    if path.suffix != ".py" or not NAME.fullmatch(path.stem):
        raise BadInput(
            "--write-study names a .py file, in letters, digits, '-' and '_'; received "
            f"{path}. Rename it."
        )
    known = path.read_text("utf-8") if path.is_file() else ""
    is_other = path.exists() and not known.startswith(_beginning(launch))
    if is_other or not path.parent.is_dir():
        trouble = "is there already" if is_other else "is in no folder that exists"
        raise BadInput(
            f"--write-study writes a new file and overwrites nothing; received {path}, which "
            f"{trouble}. Choose another."
        )


def write_follow_up(path: Path, search: str, launch: Launch, found: Recommendation) -> str:
    """Returns the study's name. `search` is how the search was named: a name or a path.

    Raises BadInput where another text is there.
    """
    cells = list(_cells(launch, found))
    text = _TEXT.format(
        question=_question(launch),
        imports="from pathlib import Path\n\n" if is_path(search) else "",
        search=_expression(path, search),
        name=path.stem,
        baseline=cells[-1].name,
        scale=launch.study.rung_above(launch.scale) or launch.scale,
        metric=launch.study.metric,
        bounded="    constraints=SEARCH.constraints,\n" if launch.study.constraints else "",
        chosen=tuple(range(SEEDS_END, SEEDS_END + 3)),
        seeds=_SEEDS,
        cells="".join(
            f"        Cell(name={cell.name!r}, overrides={dict(cell.overrides)!r}),\n"
            for cell in cells
        ),
        claims="".join(_claim(cell, launch.study.metric) for cell in cells[1:]),
    )
    if path.exists() and path.read_text("utf-8") != text:
        raise BadInput(
            f"--write-study overwrites nothing; received {path}, which has another text (it was "
            "edited, or the race had more trainings since). Choose another."
        )
    with whole(path) as partial:
        partial.write_text(text, "utf-8")
    return path.stem


def _question(launch: Launch) -> str:
    return f"Does what {launch.study.name} recommends hold?"


def _beginning(launch: Launch) -> str:
    return _TEXT.partition("{question}")[0] + _question(launch)


def _expression(path: Path, search: str) -> str:
    """How the file names the search: its path is told from where the file lies."""
    if not is_path(search):
        return repr(search)
    beside = os.path.relpath(search, path.resolve().parent)
    return f"str(Path(__file__).parent / {beside!r})"


def _cells(launch: Launch, found: Recommendation) -> Iterator[_Cell]:
    """The winner first, then other finalists, then the winner with the value of an axis that would
    cost least of those that cost something for sure; the scale itself last."""
    winner = found.race.winner
    assert winner is not None
    yield _Cell(name=WINNER, overrides=_overrides(launch, found.params[winner.point]))
    known = {launch.sampled_point(found.params[winner.point], launch.seeds[0]).cell_hash}
    others = [one for one in found.race.finalists if one is not winner and not one.failed]
    for number, one in enumerate(others, 2):
        known.add(one.point)
        said = "no seeds in common"
        if one.difference is not None:
            said = f"{one.difference:+.4f} over {len(one.values)} seeds of the race"
        overrides = _overrides(launch, found.params[one.point])
        yield _Cell(name=f"finalist-{number}", overrides=overrides, said=said)
    for effect in _clear_of_axes(found.effects.main):
        given = {**found.params[winner.point], effect.path: effect.value}
        values = at(launch.space, dict.fromkeys(launch.space.axes, 0.5), given)
        with suppress(ConfigError):  # the space refuses it
            point = launch.sampled_point(values, launch.seeds[0])
            if point.cell_hash not in known:
                known.add(point.cell_hash)
                yield _Cell(
                    name=f"with-{effect.path.rpartition('.')[2]}-{_in_name(effect.value)}",
                    overrides=_overrides(launch, values),
                    said=f"{effect.cost:+.4f} [{effect.low:+.4f}, {effect.high:+.4f}] by the "
                    "search's model",
                    is_better=effect.cost < 0,
                )
    base = launch.base_point()
    if base.cell_hash not in known:
        yield _Cell(name="base", overrides=launch.overrides, said="not in the race")


def _clear_of_axes(effects: Iterable[Effect]) -> list[Effect]:
    """Of each axis the value that costs least, where that is told from none."""
    least: dict[str, Effect] = {}
    for one in effects:
        if one.path not in least or one.cost < least[one.path].cost:
            least[one.path] = one
    return [one for one in least.values() if one.is_clear]


def _in_name(value: Any) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]", "_", f"{value:.3g}" if type(value) is float else str(value))


def _overrides(launch: Launch, values: Mapping[str, Any]) -> dict[str, Any]:
    return {**launch.overrides, **values}


def _claim(cell: _Cell, metric: str) -> str:
    a, b = (cell.name, WINNER) if cell.is_better else (WINNER, cell.name)
    statement = (
        f"{cell.name} is better than the recommended point ({cell.said})"
        if cell.is_better
        else f"the recommended point is better than {cell.name} ({cell.said})"
    )
    return (
        f"        Better(\n            id={a + '-over-' + b!r},\n"
        f"            statement={statement!r},\n"
        f"            a={a!r},\n            b={b!r},\n            metric={metric!r},\n"
        "        ),\n"
    )
