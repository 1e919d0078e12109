"""What one axis may be: a choice of values, a range of integers, a range of numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from moe.config import ConfigError
from search_spaces.axes import AxisInfo, axis_info

NOT_AN_AXIS = {
    "train.seed": "a seed is a replicate of a cell: give the study's seeds instead",
    "data.text_column": "the text of a launch is one column: --set data.text_column=NAME",
    "data.digest": "it is computed from the corpus: vary data.tokenizer or data.vocab_size instead",
}


class Trial(Protocol):
    """The part of an Optuna trial that a space asks."""

    def suggest_categorical(self, name: str, choices: Any) -> Any: ...
    def suggest_int(self, name: str, low: int, high: int, *, step: int, log: bool) -> int: ...
    def suggest_float(self, name: str, low: float, high: float, *, log: bool) -> float: ...


@dataclass(frozen=True)
class Choice:
    """One of `values`. Numbers, from three of them on, are known to be ordered (`is_ordered`)."""

    values: tuple[Any, ...]


@dataclass(frozen=True, kw_only=True)
class Int:
    """Integers from `low` to `high`, both included; `log` spreads draws over magnitudes."""

    low: int
    high: int
    step: int = 1
    log: bool = False


@dataclass(frozen=True, kw_only=True)
class Float:
    """Numbers from `low` to `high`; `log` spreads draws over magnitudes."""

    low: float
    high: float
    log: bool = False


Domain = Choice | Int | Float


def check_domain(path: str, domain: Domain) -> Domain:
    """`domain` in its stable form for the axis at `path`: the same set is the same distribution.

    Optuna refuses a categorical whose choices changed their order within a study, so enumerated
    values take the order of the typed config and numbers ascend, however a study lists them.
    Raises ConfigError if the axis may not vary, or the domain does not fit its type.
    """
    axis = axis_info(path)
    if path in NOT_AN_AXIS:
        raise ConfigError(
            f"{path} is never a search parameter; received a domain for it. {NOT_AN_AXIS[path]}."
        )
    match domain:
        case Choice(values):
            return Choice(check_values(axis, values, stable=True))
        case Int(low=low, high=high, step=step, log=log):
            fits = axis.type is int and all(type(v) is int for v in (low, high, step))
            bounds = fits and low <= high and step >= 1 and (high - low) % step == 0
            bounds = bounds and not (log and (low < 1 or step != 1))
        case Float(low=low, high=high, log=log):
            fits = axis.type is float and all(type(v) in (int, float) for v in (low, high))
            bounds = fits and -math.inf < low <= high < math.inf and not (log and low <= 0)
        case _:
            fits = False
    if not fits:
        kind = {int: "Int or Choice", float: "Float or Choice"}.get(axis.type, "Choice")
        raise ConfigError(
            f"the domain of {path} is {kind}; received {domain!r}. Use one that fits."
        )
    if not bounds:
        raise ConfigError(
            f"the domain of {path} needs low <= high, a step that divides their distance, and with "
            f"log a positive low and no step; received {domain!r}. Change its bounds."
        )
    return domain


def contains(domain: Domain, value: Any) -> bool:
    """Whether a domain, as `check_domain` gives it, has a value of its axis' own type."""
    match domain:
        case Choice(values):
            return any(type(value) is type(one) and value == one for one in values)
        case Int(low=low, high=high, step=step):
            return type(value) is int and low <= value <= high and (value - low) % step == 0
        case Float(low=low, high=high):
            return type(value) is float and low <= value <= high


def is_ordered(domain: Domain) -> bool:
    """Whether near values of a domain may be expected to do alike."""
    return not isinstance(domain, Choice) or is_ordered_list(domain.values)


def is_ordered_list(values: Sequence[Any]) -> bool:
    """Of two values none lies between the others: an order says nothing there."""
    return len(values) > 2 and all(type(value) in (int, float) for value in values)


def check_values(axis: AxisInfo, values: Any, *, stable: bool = False) -> tuple[Any, ...]:
    """`values` as a tuple of the axis' type, in stable order if asked. Raises ConfigError."""
    received, listed = values, isinstance(values, (tuple, list, range))
    values = tuple(values) if listed else ()
    allowed = (int, float) if axis.type is float else (axis.type,)
    wrong = [
        v for v in values if type(v) not in allowed or (axis.choices and v not in axis.choices)
    ]
    if not values or wrong or len(set(values)) < len(values):
        expected = (
            f"from {', '.join(axis.choices)}" if axis.choices else f"of type {axis.type.__name__}"
        )
        raise ConfigError(
            f"{axis.path} needs one or more different values {expected}; received {received!r}. "
            "Write a tuple of such values."
        )
    values = tuple(axis.type(v) for v in values)
    if not stable:
        return values
    return tuple(sorted(values, key=axis.choices.index if axis.choices else None))
