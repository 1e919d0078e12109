"""What a ladder of scales may be: at its lowest rung a study is a search, and at each next one the
best points of the rung below are trained (orchestrator.driver.ladder)."""

from __future__ import annotations

import difflib
from collections.abc import Collection
from typing import Any


def checked_ladder(
    rungs: Any, points: Any, *, study: str, scales: Collection[str], is_sampled: bool
) -> tuple[str, ...]:
    """Raises ValueError where `rungs` are no scales of a sampled study, fewer than two, or one
    twice; `points` is how many climb."""
    if not isinstance(rungs, tuple | list) or not all(type(rung) is str for rung in rungs):
        raise ValueError(
            "ladder holds names of scales, the small one first; received "
            f'{rungs!r} of study {study}. Write for example ladder=("cpu", "gpu").'
        )
    if not is_sampled:
        raise ValueError(
            f"a ladder is climbed by the best points of a search; received {tuple(rungs)} of the "
            f"grid {study}, whose cells are all run at any scale. Leave it out."
        )
    if unknown := [rung for rung in rungs if rung not in scales]:
        near = difflib.get_close_matches(unknown[0], scales, n=1)
        hint = f"Did you mean {near[0]}?" if near else "Correct it."
        raise ValueError(
            f"the rungs of a ladder are scales of the study, {', '.join(scales)}; received "
            f"{unknown[0]!r} of {study}. {hint}"
        )
    if len(rungs) < 2 or len(set(rungs)) < len(rungs):
        raise ValueError(
            "a ladder has two different rungs at least, each once; received "
            f"{tuple(rungs)} of study {study}. Name each scale once, the small one first."
        )
    if type(points) is not int or points < 1:
        raise ValueError(
            f"ladder_points is how many points climb, 1 at least; received {points!r} of study "
            f"{study}. Correct it."
        )
    return tuple(rungs)
