"""Cells: the named configurations that a study compares, and grids that enumerate them.

A cell is a name and what it changes against the study's base; its replicates are seeds. Names are
made from all axes of a grid, so that a cell keeps its name when an axis gets another value.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from moe.config import ConfigError, DataConfig, TrialConfig
from moe.identity import cell_hash
from search_spaces.axes import axis_info
from search_spaces.domains import NOT_AN_AXIS, check_values
from search_spaces.overlay import overlay

# A cell's name is a folder name and an MLflow tag that filters quote: no spaces, slashes or quotes.
_SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")

# What stands before a value in a name. Letters of the papers where there are any; nothing where the
# value speaks for itself; otherwise the field's own name.
_PREFIX = {
    "moe.num_experts": "N",
    "moe.top_k": "K",
    "moe.granularity": "G",
    "moe.shared_experts": "S",
    "moe.routing_unit": "",
    "moe.routing_scope": "",
    "moe.router": "",
    "moe.sequence_representation": "",
    "moe.balance_scope": "",
    "moe.label_column": "",
    "moe.router_init_std": "std",
    "model.ffn_multiple": "ffn",
    "model.norm": "",
    "model.activation": "",
    "model.bias": "bias_",
    "model.position": "",
    "model.num_kv_heads": "kv",
    "model.qk_norm": "qknorm_",
    "model.tied_embeddings": "tied_",
    "optim.learning_rate": "lr",
    "optim.name": "",
    "optim.schedule": "",
    "optim.weight_decay": "wd",
    "train.precision": "",
}


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One configuration of a study: `overrides` (dotted path -> value) over the study's base.

    Raises ConfigError if the name is unsafe, a path is unknown, or it fixes a seed.
    """

    name: str
    overrides: Mapping[str, Any]

    def __post_init__(self) -> None:
        if type(self.name) is not str or not _SAFE_NAME.fullmatch(self.name):
            raise ConfigError(
                "a cell's name has 1 to 100 letters, digits, '.', '_' or '-', and starts with a "
                f"letter or digit; received {self.name!r}. Rename it."
            )
        for path in self.overrides:
            _refuse_seed(axis_info(path).path)
        object.__setattr__(self, "overrides", dict(self.overrides))

    def config(self, base: TrialConfig) -> TrialConfig:
        """The cell over `base`. Raises ConfigError if no run can have it."""
        return overlay(base, self.overrides)


@dataclass(frozen=True, kw_only=True)
class Dropped:
    """A combination that a grid left out, and why."""

    name: str
    overrides: Mapping[str, Any]
    reason: str


@dataclass(frozen=True, kw_only=True)
class Grid:
    """The cells of a grid, in order, and the combinations that were dropped."""

    cells: tuple[Cell, ...]
    dropped: tuple[Dropped, ...] = ()

    def __iter__(self) -> Iterator[Cell]:
        return iter(self.cells)

    def __len__(self) -> int:
        return len(self.cells)


def grid(
    axes: Mapping[str, Sequence[Any]],
    *,
    base: TrialConfig,
    name: Callable[[Mapping[str, Any]], str] | None = None,
    where: Callable[[Mapping[str, Any]], bool] | None = None,
    derive: Callable[[Mapping[str, Any]], Mapping[str, Any]] | None = None,
    also: Iterable[Cell] = (),
    infeasible: Literal["raise", "drop"] = "raise",
) -> Grid:
    """Every combination of `axes` (dotted path -> values) as a cell, then the cells of `also`.

    The last axis moves fastest. `where` keeps the combinations that the study asks about; `derive`
    gives overrides that follow from a combination and stand in no name (the gate that top_k asks
    for); `name` replaces `readable_name`. A combination that no run can have, or that is the same
    run over `base` as an earlier cell (a dense model has no router), raises ConfigError; with
    infeasible="drop" it is left out and returned in `dropped` with its reason. Cells of `also` are
    never dropped.
    """
    if infeasible not in ("raise", "drop"):
        raise ConfigError(
            f"infeasible is 'raise' or 'drop'; received {infeasible!r}. Choose one of the two."
        )
    columns = {}
    for path, values in axes.items():
        _refuse_seed(path)
        columns[path] = check_values(axis_info(path), values)
    cells: list[Cell] = []
    dropped: list[Dropped] = []
    seen: dict[tuple[str, DataConfig], str] = {}
    for combination in itertools.product(*columns.values()):
        overrides = dict(zip(columns, combination, strict=True))
        if where is not None and not where(overrides):
            continue
        cell_name = (name or readable_name)(overrides)
        if derive is not None:
            overrides = _with_derived(overrides, derive(overrides), cell_name)
        cell = Cell(name=cell_name, overrides=overrides)
        try:
            _admit(cell, base, seen)
        except ConfigError as error:
            if infeasible == "raise":
                raise
            dropped.append(Dropped(name=cell.name, overrides=overrides, reason=str(error)))
        else:
            cells.append(cell)
    for cell in also:
        _admit(cell, base, seen)
        cells.append(cell)
    if not cells:
        reasons = "".join(f"\n  {d.name}: {d.reason}" for d in dropped)
        raise ConfigError(
            f"a grid needs at least one cell; received {dict(axes)!r}, of which none is left. "
            f"Add values, or widen `where`.{reasons}"
        )
    _refuse_equal_names(cells)
    return Grid(cells=tuple(cells), dropped=tuple(dropped))


def readable_name(overrides: Mapping[str, Any]) -> str:
    """The values in the order of the axes, as in `N4-K2-token` or `sequence-frozen`."""
    parts = []
    for path, value in overrides.items():
        text = f"{value:g}" if type(value) is float and float(f"{value:g}") == value else str(value)
        text = re.sub(r"[^A-Za-z0-9._-]+", "_", text)
        parts.append(_PREFIX.get(path, path.rpartition(".")[2] + "_") + text)
    return "-".join(parts)


def _with_derived(
    combination: dict[str, Any], derived: Mapping[str, Any], name: str
) -> dict[str, Any]:
    """Raises ConfigError where a value of the axes, which the name has, would be overwritten."""
    for path, value in derived.items():
        if combination.get(path, value) != value:
            raise ConfigError(
                f"derive gives overrides that are no axes of the grid; received {path}={value!r} "
                f"for cell {name}, whose axis has {combination[path]!r}. Drop the axis, or leave "
                "that path out of derive."
            )
    return combination | dict(derived)


def _admit(cell: Cell, base: TrialConfig, seen: dict[tuple[str, DataConfig], str]) -> None:
    try:
        config = cell.config(base)
    except ConfigError as error:
        raise ConfigError(f"cell {cell.name}: {error}") from None
    # The data's digest is not known yet, so its source stands for it.
    identity = (cell_hash(config), config.data)
    if identity in seen:
        raise ConfigError(
            f"two cells of a grid are two different runs; received {cell.name}, which is the same "
            f"run as {seen[identity]}. Drop one of them."
        )
    seen[identity] = cell.name


def _refuse_equal_names(cells: Iterable[Cell]) -> None:
    """Also names that differ in case only: some file systems hold them to be one."""
    seen: dict[str, Cell] = {}
    for cell in cells:
        if (other := seen.setdefault(cell.name.lower(), cell)) is not cell:
            raise ConfigError(
                f"cells of a study have different names; received {other.name!r} and "
                f"{cell.name!r} for {dict(other.overrides)!r} and {dict(cell.overrides)!r}. "
                "Rename one, or pass `name`."
            )


def _refuse_seed(path: str) -> None:
    if path in NOT_AN_AXIS:
        raise ConfigError(f"a cell never sets {path}; received it. {NOT_AN_AXIS[path]}.")
