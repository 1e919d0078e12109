"""A variant is its base with named fields replaced: strict dotted overlays onto `TrialConfig`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from moe.config import ConfigError, TrialConfig
from search_spaces.axes import axis_info, did_you_mean
from search_spaces.families import FAMILY, family


def overlay(config: TrialConfig, overrides: Mapping[str, Any]) -> TrialConfig:
    """`config` with all `overrides` (dotted path -> value) applied at once.

    All at once, because `num_experts=8, top_k=4` may pass through a forbidden `top_k=4` of 2.
    Raises ConfigError for an unknown path (with near matches), a value of the wrong type, or a
    combination that no run can have.
    """
    values = config.to_dict()
    for path, value in overrides.items():
        section, _, name = axis_info(path).path.partition(".")
        values[section][name] = value
    return TrialConfig.from_dict(values)


def get(config: TrialConfig, path: str) -> Any:
    """The value at a dotted path. Raises ConfigError if there is no such path."""
    section, _, name = axis_info(path).path.partition(".")
    return getattr(getattr(config, section), name)


def flatten(config: TrialConfig) -> dict[str, Any]:
    """Every dotted path with its value, in the order of the config."""
    return {
        f"{section}.{name}": value
        for section, values in config.to_dict().items()
        for name, value in values.items()
    }


def diff(a: TrialConfig, b: TrialConfig) -> dict[str, Any]:
    """What `b` changes against `a`: `overlay(a, diff(a, b)) == b`."""
    before = flatten(a)
    return {path: value for path, value in flatten(b).items() if value != before[path]}


def parse_override(text: str) -> tuple[str, Any]:
    """`PATH=VALUE` as typed on a command line, with the value in the type that the path declares.

    The path may be `search_spaces.families.FAMILY`, for `search_spaces.families.expand`.

    Raises ConfigError if there is no `=`, no such path, or the value does not read as that type.
    Bounds and combinations are checked when the override is applied.
    """
    path, equals, value = text.partition("=")
    path = path.strip()
    if not equals or not path:
        raise ConfigError(
            f"an override is PATH=VALUE; received {text!r}. Write it as in moe.top_k=2."
        )
    if path == FAMILY:
        family(value := value.strip())
        return path, value
    return path, parse_value(path, value)


def parse_value(path: str, text: str) -> Any:
    """`text` as a value of the axis at `path`. Raises ConfigError as `parse_override` does."""
    axis = axis_info(path)
    if axis.choices:
        if (value := text.strip()) in axis.choices:
            return value
        raise ConfigError(
            f"{path} must be one of {', '.join(axis.choices)}; received {text!r}. "
            + did_you_mean(value, axis.choices, "Choose one of these values.")
        )
    if axis.type is str:
        return text
    try:
        if axis.type is bool:
            return {"true": True, "false": False}[text.strip().lower()]
        return axis.type(text)
    except (ValueError, KeyError):
        kind, example = {
            int: ("an integer", "Write a whole number such as 8."),
            float: ("a number", "Write a number such as 0.001."),
            bool: ("true or false", "Write one of these."),
        }[axis.type]
        raise ConfigError(f"{path} must be {kind}; received {text!r}. {example}") from None
