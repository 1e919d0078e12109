"""What a grid may tune for each of its cells, and on which seeds (`Study(tune=...)`).

A cell is tried with every combination of the listed values on seeds that nothing is judged by, and
judged with the best of them. So these seeds are none that a launch is judged on, now or later.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from moe.config import ConfigError, TrialConfig
from orchestrator.study.design import Design, Sequential
from search_spaces.axes import axis_info
from search_spaces.domains import check_values

Axes = Mapping[str, Sequence[Any]]
Tune = Axes | Callable[[TrialConfig], Axes]

TUNE_SEEDS = (3000, 3001)  # beyond those of `recommend`, and of any design that is in use
TUNING = "-tuning"  # ends the name of the study whose launch tries the values
_LONGEST = 64 - len(TUNING)
_SECTION = "optim."
_EXAMPLE = 'Write for example tune={"optim.learning_rate": (0.002, 0.004, 0.008)}.'


def checked_axes(axes: Any, study: str) -> dict[str, tuple[Any, ...]]:
    """The values to try by path, in the types of their axes.

    Raises ConfigError where `axes` is no such mapping, names a path that does not exist or that is
    not of the optimiser, or lists fewer than two different values of it.
    """
    if not isinstance(axes, Mapping) or not axes or not all(type(path) is str for path in axes):
        raise ConfigError(
            "tune maps paths of the optimiser to the values that each cell is tried with; received "
            f"{axes!r} of study {study}. {_EXAMPLE}"
        )
    found = {}
    for path, values in axes.items():
        axis = axis_info(path)
        if not path.startswith(_SECTION):
            raise ConfigError(
                "tune is over axes of the section optim, which change neither what a trial is "
                f"evaluated on nor its tokens, parameters and FLOPs; received {path} of study "
                f"{study}. Make each of its values a Cell, or search it: Study(space=...)."
            )
        found[path] = check_values(axis, values)
        if len(found[path]) < 2:
            raise ConfigError(
                f"tune chooses among two values at least; received {path}={values!r} of study "
                f"{study}. List more, or leave it to the scale: --set {path}={found[path][0]}."
            )
    return found


def checked_tuning(
    tune: Any,
    seeds: Any,
    *,
    study: str,
    is_sampled: bool,
    judged: Iterable[Sequence[int]],
    design: Design,
) -> tuple[int, ...]:
    """The tuning seeds of a study, TUNE_SEEDS where it names none; `judged` are its own, of every
    scale. Raises ValueError where a study cannot tune, or not on these seeds."""
    if not tune:
        raise ValueError(
            f"tune_seeds are those that values of tune are tried on; received {seeds!r} of study "
            f"{study}, which tunes nothing. Leave them out, or add tune. {_EXAMPLE}"
        )
    if is_sampled:
        raise ValueError(
            f"tune is for grids; received it for the sampled study {study}, whose points are "
            "drawn. Tune within each design: nuisance={"
            '"optim.learning_rate": Float(low=1e-3, high=1e-2, log=True)}.'
        )
    if len(study) > _LONGEST:
        raise ValueError(
            f"a study that tunes has a name of at most {_LONGEST} characters, since its tuning is "
            f"a launch of its own, NAME{TUNING}; received {study!r}. Rename it."
        )
    if not callable(tune):  # what a function makes of a scale is seen when it is resolved
        checked_axes(tune, study)
    return _checked_seeds(seeds or TUNE_SEEDS, study, judged, design)


def _checked_seeds(
    seeds: Any, study: str, judged: Iterable[Sequence[int]], design: Design
) -> tuple[int, ...]:
    listed = isinstance(seeds, tuple | list | range)
    seeds = tuple(seeds) if listed else (seeds,)
    right = all(type(seed) is int and 0 <= seed < 2**31 for seed in seeds)
    if not listed or not right or len(set(seeds)) < len(seeds):
        raise ValueError(
            "tune_seeds are different whole numbers from 0 to 2147483647; received "
            f"{seeds!r} of study {study}. Write for example tune_seeds={TUNE_SEEDS}."
        )
    for own in judged:
        require_not_judged(seeds, own, study)
    # `--until-decided` adds the least new seed while a cell has fewer than `max_seeds`: none of
    # them reaches that number.
    if isinstance(design, Sequential) and (taken := [s for s in seeds if s < design.max_seeds]):
        raise ValueError(
            "seeds that values are chosen on are not judged, and `run --until-decided` may judge "
            f"all below max_seeds={design.max_seeds} of the design; received tune_seeds with "
            f"{', '.join(map(str, taken))} of study {study}. Choose some from {design.max_seeds} "
            "on."
        )
    return seeds


def require_not_judged(seeds: Sequence[int], judged: Iterable[int], study: str) -> None:
    """Raises ConfigError where a tuning seed is one that cells are judged on."""
    if both := sorted(set(seeds) & set(judged)):
        raise ConfigError(
            "seeds that values are chosen on are not judged, since the best of several values "
            f"looks better there than it is; received {', '.join(map(str, both))} among both of "
            f"study {study}. Choose other seeds, or other tune_seeds."
        )
