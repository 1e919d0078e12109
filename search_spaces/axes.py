"""Every axis of the typed config, read from its dataclasses: the one table that the others look up.

An axis is a dotted path (`moe.top_k`). Its type, default, meaning and source are the field's own;
its legal values are the rule that the config states when it refuses a value.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any, get_args, get_type_hints

from moe.config import BYTE_VOCAB_SIZE, ConfigError, DataConfig, TrialConfig


@dataclass(frozen=True, kw_only=True)
class AxisInfo:
    """One addressable field of `TrialConfig`; `choices` is empty unless its type lists them."""

    path: str
    type: type
    choices: tuple[str, ...]
    default: Any
    legal: str
    meaning: str
    source: str


def describe_axes() -> list[AxisInfo]:
    """All axes, in the order of the config."""
    return list(_table().values())


def axis_info(path: str) -> AxisInfo:
    """The axis at `path`. Raises ConfigError naming near matches if there is none."""
    table = _table()
    if path in table:
        return table[path]
    raise ConfigError(
        f"a config path is SECTION.FIELD, as in moe.top_k; received {path!r}. "
        + did_you_mean(path, table, _fields_or_sections(path, table))
    )


def did_you_mean(word: str, known: Iterable[str], otherwise: str) -> str:
    """A remedy: the known words nearest to `word`, by the whole or by the part after the dot."""
    known, word = list(known), str(word).lower()
    leaves: dict[str, list[str]] = {}
    for name in known:
        leaves.setdefault(name.rpartition(".")[2], []).append(name)
    near = difflib.get_close_matches(word, known, n=3, cutoff=0.7)
    for leaf in difflib.get_close_matches(word.rpartition(".")[2], leaves, n=3, cutoff=0.7):
        near += [name for name in leaves[leaf] if name not in near]
    return f"Did you mean {' or '.join(near[:3])}?" if near else otherwise


def _fields_or_sections(path: str, table: dict[str, AxisInfo]) -> str:
    section = str(path).partition(".")[0]
    if fields := [p.partition(".")[2] for p in table if p.startswith(f"{section}.")]:
        return f"The fields of {section} are {', '.join(fields)}."
    return f"The sections are {', '.join(dict.fromkeys(p.partition('.')[0] for p in table))}."


def axes_markdown() -> str:
    """The axes reference as one markdown table a section."""
    lines: list[str] = []
    section = ""
    for axis in describe_axes():
        if (name := axis.path.partition(".")[0]) != section:
            section = name
            lines += ["", f"## {section}", ""] if lines else [f"## {section}", ""]
            lines += ["| path | type | legal values | default | meaning | source |"]
            lines += ["|---|---|---|---|---|---|"]
        kind = "choice" if axis.choices else axis.type.__name__
        default = f"`{axis.default}`" if axis.default != "" else "(empty)"
        cells = (f"`{axis.path}`", kind, axis.legal, default, axis.meaning, _links(axis.source))
        lines.append("| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def _links(source: str) -> str:
    ids = [s.strip() for s in source.split(",") if s.strip()]
    return ", ".join(f"[{i}](https://arxiv.org/abs/{i})" for i in ids)


@cache
def _table() -> dict[str, AxisInfo]:
    base = TrialConfig()
    table = {}
    for section_field in dataclasses.fields(TrialConfig):
        section = getattr(base, section_field.name)
        hints = get_type_hints(type(section))
        for field in dataclasses.fields(section):
            path, choices = f"{section_field.name}.{field.name}", get_args(hints[field.name])
            table[path] = AxisInfo(
                path=path,
                type=str if choices else hints[field.name],
                choices=choices,
                default=getattr(section, field.name),
                legal=", ".join(choices) or _rule(section, field.name, path, hints[field.name]),
                meaning=field.metadata["meaning"],
                source=field.metadata["source"],
            )
    return table


def _rule(section: Any, name: str, path: str, kind: type) -> str:
    """What the config says of a value that is always wrong, so that no bound is stated twice."""
    if isinstance(section, DataConfig) and name == "vocab_size":
        section = DataConfig(tokenizer="bpe", vocab_size=BYTE_VOCAB_SIZE)  # others fix the size
    try:
        dataclasses.replace(section, **{name: "?" if kind is str else kind(-1)})
    except ConfigError as error:
        rule = str(error).partition("; received")[0]
        if rule.startswith(prefix := f"{path} must "):
            return re.sub(r"\b(be|lie) ", "", rule.removeprefix(prefix))
    kinds = {str: "text", int: "a whole number", float: "a finite number", bool: "true, false"}
    return kinds[kind]
