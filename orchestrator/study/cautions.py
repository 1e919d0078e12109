"""Settings that are allowed and seldom meant: a line each at `plan` and `run`, before they cost."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from moe.config import GROUPED_WIDTH
from moe.metrics import describe
from orchestrator.study.corpora import lacks_part
from orchestrator.study.early_stopping import StoppingRule
from orchestrator.study.launch import Launch, Point
from orchestrator.study.plan import typical_points

_NAMED = 5  # cells that a line names


def cautions(launch: Launch) -> list[str]:
    """One line for each kind, with its numbers at the first cell that has it."""
    points = list({point.cell: point for point in typical_points(launch)}.values())
    rule = launch.study.early_stopping
    kinds: list[Callable[[Point], str | None]] = [_warmup, _evaluations, _padded]
    if rule is not None:
        kinds.append(lambda point: _rungs(point, rule))
    lines = []
    for kind in kinds:
        said = {point.cell: text for point in points if (text := kind(point)) is not None}
        if said:
            text = next(iter(said.values()))
            lines.append(f"{text} ({_where(launch, list(said), len(points))})")
    for constraint in launch.study.constraints:
        measure = describe(constraint.metric)
        if not any(
            measure.is_measured(point.config)
            and not lacks_part(launch.corpora.get(point.config.data.corpus), measure.name)
            for point in points
        ):
            looked = (
                "no cell" if launch.study.is_grid else f"none of {len(points)} points looked at"
            )
            lines.append(f"the constraint {constraint} bounds nothing: {looked} has that metric")
    return lines


def _where(launch: Launch, cells: Sequence[str], of: int) -> str:
    if len(cells) == of:
        return "every cell" if launch.study.is_grid else "every point looked at"
    if not launch.study.is_grid:
        return f"so at {len(cells)} of {of} points looked at, first {cells[0]}"
    if len(cells) == 1:
        return f"cell {cells[0]}"
    more = f" and {len(cells) - _NAMED} more" if len(cells) > _NAMED else ""
    return f"cells {', '.join(cells[:_NAMED])}{more}; the numbers are {cells[0]}'s"


def _warmup(point: Point) -> str | None:
    warmup, steps = point.config.optim.warmup_steps, point.config.train.num_steps
    if warmup < steps:
        return None
    end = "reaches its peak at the last step" if warmup == steps else "never reaches its peak"
    return (
        f"the warm-up is not shorter than the run (optim.warmup_steps {warmup}, train.num_steps "
        f"{steps}): the learning rate {end}, and never decays"
    )


def _evaluations(point: Point) -> str | None:
    train = point.config.train
    if train.eval_every < train.num_steps:
        return None
    return (
        f"one evaluation only, at the end (train.eval_every {train.eval_every}, train.num_steps "
        f"{train.num_steps}): no curve, and a checkpoint at the end alone"
    )


def _padded(point: Point) -> str | None:
    config = point.config
    if config.d_expert_on_gpu != config.d_expert:
        return (
            f"experts {config.d_expert} wide are no multiple of {GROUPED_WIDTH}, which a GPU's "
            f"grouped kernels of bf16 take: padded there to {config.d_expert_on_gpu}, at their cost"
        )
    return None


def _rungs(point: Point, rule: StoppingRule) -> str | None:
    train = point.config.train
    rungs = rule.rungs(train.num_steps)
    if not rungs:
        return f"early stopping has no rung in train.num_steps {train.num_steps}: nothing is ended"
    between = [rung for rung in rungs if rung % train.eval_every]
    if not between:
        return None
    return (
        f"early stopping's rungs at steps {', '.join(map(str, between))} lie between evaluations "
        f"(train.eval_every {train.eval_every}): trials are evaluated there as well, at their cost"
    )
