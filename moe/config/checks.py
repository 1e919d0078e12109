"""What the sections of a configuration share: their fields and how a value is refused."""

from __future__ import annotations

import dataclasses
import sys
from dataclasses import field
from functools import cache
from typing import Any, get_args, get_type_hints


class ConfigError(ValueError):
    """A value or combination that no run can have; the message holds rule, value and remedy."""


def axis(default: Any, meaning: str, source: str = "") -> Any:
    """A dataclass field with the text that the axes reference is generated from."""
    return field(default=default, metadata={"meaning": meaning, "source": source})


def require(condition: bool, rule: str, received: Any, remedy: str) -> None:
    if not condition:
        raise ConfigError(f"{rule}; received {received!r}. {remedy}")


_hints = cache(get_type_hints)


def check_types(config: Any, section: str) -> None:
    hints = _hints(type(config))
    for f in dataclasses.fields(config):
        value, expected = getattr(config, f.name), hints[f.name]
        path = f"{section}.{f.name}"
        if choices := get_args(expected):
            require(
                value in choices,
                f"{path} must be one of {', '.join(map(str, choices))}",
                value,
                "Choose one of these values.",
            )
        elif expected is int:
            require(
                type(value) is int, f"{path} must be an integer", value, "Write a whole number."
            )
        elif expected is float:
            require(
                type(value) in (int, float) and abs(value) <= sys.float_info.max,
                f"{path} must be a finite number",
                value,
                "Write a number such as 0.001.",
            )
            object.__setattr__(config, f.name, float(value))
        elif expected is bool:
            require(
                type(value) is bool, f"{path} must be true or false", value, "Write one of these."
            )
        elif expected is str:
            require(type(value) is str, f"{path} must be text", value, "Write a string.")
