"""What a trial is, in a line on its run's page: in which values it differs from the baseline."""

from __future__ import annotations

from orchestrator.study.launch import Launch, Point
from search_spaces.overlay import flatten

# Not choices: the seed is told beside, and a digest follows from corpus and tokenizer.
_LEFT_OUT = ("train.seed", "data.digest")


def run_note(launch: Launch, point: Point) -> str:
    """Markdown. Of a sampled study the scale's own config is what points differ from."""
    name = launch.study.baseline
    cell = next((cell for cell in launch.cells if cell.name == name), None)
    if cell is None:
        against, base = f"the scale `{launch.scale}`", launch.base_point()
    else:
        base = launch.point(name, cell.overrides, point.seed)
        against = f"the baseline `{name}`"
    here, there = flatten(point.config), flatten(base.config)
    differs = [
        f"`{path}` {value} ({there[path]})"
        for path, value in here.items()
        if value != there[path] and path not in _LEFT_OUT
    ]
    if not differs:
        return f"Seed {point.seed} of {against}."
    return f"Seed {point.seed} of `{point.cell}`. Unlike {against}: {', '.join(differs)}."
