"""Options that several commands share, declared once: a dataclass parameter stands for its fields.

Typer reads a command's signature, so `grouped` writes one in which the fields stand in place of the
dataclass, in their order, and builds the dataclass of what the line gave.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import typing
from collections.abc import Callable
from typing import Any


def grouped(command: Callable[..., Any]) -> Callable[..., Any]:
    """Goes below `app.command`."""
    groups: dict[str, tuple[type, list[str]]] = {}
    parameters: list[inspect.Parameter] = []
    for parameter in inspect.signature(command, eval_str=True).parameters.values():
        kind = parameter.annotation
        if not dataclasses.is_dataclass(kind):
            parameters.append(parameter)
            continue
        hints = typing.get_type_hints(kind, include_extras=True)
        fields = dataclasses.fields(kind)
        groups[parameter.name] = kind, [field.name for field in fields]
        parameters += [
            inspect.Parameter(
                field.name,
                inspect.Parameter.POSITIONAL_OR_KEYWORD,
                default=field.default,
                annotation=hints[field.name],
            )
            for field in fields
        ]

    @functools.wraps(command)
    def called(**given: Any) -> Any:
        for name, (kind, fields) in groups.items():
            given[name] = kind(**{field: given.pop(field) for field in fields})
        return command(**given)

    # One without a default may not follow one with: what comes by keyword has no such order.
    keyword = inspect.Parameter.KEYWORD_ONLY
    called.__signature__ = inspect.Signature([p.replace(kind=keyword) for p in parameters])
    called.__annotations__ = {p.name: p.annotation for p in parameters}
    return called
