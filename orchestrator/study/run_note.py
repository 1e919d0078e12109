"""What a trial is, in a line on its run's page: in which values it differs from the baseline."""

from __future__ import annotations

from orchestrator.study.launch import Launch, Point
from search_spaces.overlay import flatten

# Not choices: the seed is told beside, and a digest follows from corpus and tokenizer.
_LEFT_OUT = ("train.seed", "data.digest")


def run_note(launch: Launch, point: Point) -> str:
    """Markdown. Of a sampled study the scale's own config is what points differ from."""
    name = launch.study.baseline if launch.study.is_grid else "base"
    cells = {cell.name: cell.overrides for cell in launch.cells}
    base = launch.base_point() if name not in cells else launch.point(name, cells[name], point.seed)
    here, there = flatten(point.config), flatten(base.config)
    differs = [
        f"`{path}` {value} ({there[path]})"
        for path, value in here.items()
        if value != there[path] and path not in _LEFT_OUT
    ]
    against = f"the baseline `{name}`" if name in cells else f"the scale `{launch.scale}`"
    if not differs:
        return f"Seed {point.seed} of {against}."
    return f"Seed {point.seed} of `{point.cell}`. Unlike {against}: {', '.join(differs)}."
