"""The columns of the ablation table: what each is called, what it shows of every row, and which go
first where there is no room for all.

Terminal, page, files and papers take their columns from here. A row of a grid begins with its
cell's name, and what moves in the study stands at its end. The name of a sampled point is made of
the values that moved, so these stand there in columns, behind the four letters that end the name.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from moe.metrics import describe
from orchestrator.base.errors import BadInput
from orchestrator.report.figure_labels import short_names
from orchestrator.report.tables import Row, Table

if TYPE_CHECKING:  # it brings scipy's optimisers
    from orchestrator.report.front import FrontPoint

NOT_CAUSAL = "\N{DAGGER}"
VIOLATES = "\N{DOUBLE DAGGER}"
DECIDED = "*"
BASELINE = "baseline"
NOTHING = "-"
_SHORT_NAME = re.compile(r".*-([0-9a-f]{4})(?: .*)?")


@dataclass(frozen=True, kw_only=True)
class Column:
    """`name` is what `--columns` calls it. `keep`: of columns that do not all fit, those with the
    least are left out first. `key` is what `--sort` goes by; None comes last."""

    name: str
    heading: str
    text: Callable[[Row], str]
    keep: int
    key: Callable[[Row], Any]
    is_text: bool = False


def columns_of(table: Table, names: Sequence[str] | None = None) -> list[Column]:
    """All columns of the table that say something, or those named, in their order. Raises BadInput
    where one is not there."""
    known = _columns(table)
    if names is None:
        return known
    found = {column.name: column for column in known}
    for name in names:
        if name not in found:
            raise BadInput(
                f"--columns and --sort name columns of this table; received {name!r}. Choose from "
                f"{', '.join(found)}."
            )
    if len(set(names)) < len(names) or not names:
        raise BadInput(
            f"--columns names each column once; received {','.join(names)!r}. Choose from "
            f"{', '.join(found)}."
        )
    return [found[name] for name in names]


def _columns(table: Table) -> list[Column]:
    measure, axes = describe(table.metric), _axis_columns(table)
    cell = Column(
        name="cell",
        heading="cell",
        text=lambda row: _with_marks(row, row.cell),
        keep=5 if table.best_first and axes else 100,
        key=lambda row: row.cell,
        is_text=True,
    )
    named, moved = [cell], axes
    if table.best_first and axes:
        named = [_point_column(), *axes]
        moved = [cell]
    found = [*named]
    if table.has_corpora:
        found.insert(1, _text("corpus", 92, lambda row: row.corpus_label))
    found += [
        Column(name="n", heading="n", text=count_text, keep=95, key=lambda row: row.n),
        Column(
            name=table.metric, heading=table.metric, text=_mean, keep=99, key=lambda row: row.mean
        ),
        Column(
            name="interval",
            heading="95% interval",
            text=_interval,
            keep=90,
            key=lambda row: None if row.ci_low is None else row.ci_high - row.ci_low,
        ),
    ]
    found += _objective_columns(table)
    if any(row.difference for row in table.rows):
        found.append(
            Column(
                name="difference",
                heading="difference",
                text=_difference,
                keep=86,
                key=lambda row: row.difference.estimate if row.difference else None,
            )
        )
    if measure.is_loss:
        found.append(
            Column(
                name="perplexity",
                heading="perplexity",
                text=lambda row: NOTHING if row.perplexity is None else f"{row.perplexity:.3f}",
                keep=60,
                key=lambda row: row.perplexity,
            )
        )
    for name, field, keep in (
        ("total", "params_total", 40),
        ("active", "params_active", 50),
        ("FLOPs/token", "flops_per_token", 45),
    ):
        found.append(_size_column(table, name, field, keep))
    found += [_published_column(corpus) for corpus in table.published_corpora]
    found += moved
    if table.has_mixed_code:
        found.append(_text("code", 65, lambda row: row.moe_digest[:8]))
    return found


def fitting(
    columns: Sequence[Column], rows: Sequence[Row], width: int, *, gap: int = 3
) -> tuple[list[Column], list[Column]]:
    """Those that `width` characters hold with no value cut, and those that are left out for it. At
    least two stay."""
    sizes = {
        c.name: max([len(c.heading), *(len(line) for r in rows for line in [c.text(r)])])
        for c in columns
    }
    kept = list(columns)
    while len(kept) > 2 and sum(sizes[c.name] + gap for c in kept) - gap > width:
        kept.remove(min(reversed(kept), key=lambda column: column.keep))
    return kept, [column for column in columns if column not in kept]


def sorted_rows(table: Table, by: str) -> list[Row]:
    """The rows by one column, the least first, or with "-NAME" the greatest; rows without a value
    last, and equal ones as they stood. Raises BadInput for a column that is not there."""
    (column,) = columns_of(table, [by.removeprefix("-")])
    known = [row for row in table.rows if column.key(row) is not None]
    rest = [row for row in table.rows if column.key(row) is None]

    def order(row: Row) -> tuple[bool, Any]:
        key = column.key(row)
        return (True, str(key)) if isinstance(key, str | bool) else (False, key)

    known.sort(key=order, reverse=by.startswith("-"))
    return known + rest


def human(numbers: Iterable[float]) -> Callable[[float], str]:
    """How all of a column's numbers are written: in one unit, that of the greatest."""
    most = max(numbers, default=0)
    for unit, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if most >= size:
            return lambda number: _digits(number / size) + unit
    return lambda number: f"{number:g}"


def _digits(number: float) -> str:
    """Two decimals, and more where they would leave nothing."""
    more = 0 if number == 0 else max(0, -math.floor(math.log10(abs(number))) - 1)
    return f"{number:.{2 + more}f}"


def count_text(row: Row) -> str:
    lost = {s: c for s, c in row.states.items() if s != "complete"}
    return f"{row.n}" + (f" ({', '.join(f'{c} {s}' for s, c in lost.items())})" if lost else "")


def _mean(row: Row) -> str:
    if row.mean is not None:
        return f"{row.mean:.4f}"
    return NOTHING if row.stopped is None else f"({row.stopped.value:.4f} at {row.stopped.step})"


def _interval(row: Row) -> str:
    if row.ci_low is None:
        return "one seed" if row.n == 1 else NOTHING
    return f"[{row.ci_low:.4f}, {row.ci_high:.4f}]"


def _difference(row: Row) -> str:
    if row.is_baseline:
        return BASELINE
    found = row.difference
    if found is None:
        return NOTHING
    if found.ci_low is None or found.ci_high is None:
        return f"{found.estimate:+.4f} ({'one seed' if found.n == 1 else 'no interval'})"
    mark = DECIDED if found.decided else ""
    return f"{found.estimate:+.4f} [{found.ci_low:+.4f}, {found.ci_high:+.4f}]{mark}"


def _with_marks(row: Row, name: str) -> str:
    marks = [NOT_CAUSAL] * bool(row.leaks_future) + [VIOLATES] * bool(row.violates)
    return " ".join([name, *marks])


def _point_column() -> Column:
    def short(row: Row) -> str:
        found = _SHORT_NAME.fullmatch(row.cell)
        name = found[1] if found else row.cell
        return _with_marks(row, name)

    return Column(
        name="point", heading="point", text=short, keep=98, key=lambda row: row.cell, is_text=True
    )


def _axis_columns(table: Table) -> list[Column]:
    """One a path of the configuration whose value is not the same in all rows."""
    paths = list(dict.fromkeys(path for row in table.rows for path in row.params))
    moved = [p for p in paths if len({str(row.params.get(p)) for row in table.rows}) > 1]
    taken = {"cell", "point", "n", "corpus", "interval", "difference", table.metric}
    return [
        _axis_column(path, path if name in taken else name, table)
        for path, name in zip(moved, short_names(moved), strict=True)
    ]


def _axis_column(path: str, name: str, table: Table) -> Column:
    return Column(
        name=name,
        heading=name,
        text=lambda row: axis_text(row.params.get(path)),
        keep=88 if table.best_first else 30,
        key=lambda row: row.params.get(path),
        is_text=any(isinstance(row.params.get(path), str) for row in table.rows),
    )


def axis_text(value: Any) -> str:
    if value is None:
        return NOTHING
    return f"{value:.3g}" if type(value) is float else str(value)


_COUNTED = ("params_total", "params_active", "flops_per_token")  # columns of every table


def _objective_columns(table: Table) -> list[Column]:
    """Of a search with several: whether a row is on the front, and its further objectives."""
    if not table.fronts:
        return []
    from orchestrator.report.front import estimate_text

    def point_of(row: Row) -> FrontPoint | None:
        return table.front_points.get((row.cell, row.moe_digest))

    def on_front(row: Row) -> str:
        point = point_of(row)
        return NOTHING if point is None else "yes" if point.on_front else "no"

    def of(name: str) -> Column:
        def text(row: Row) -> str:
            point = point_of(row)
            return NOTHING if point is None else estimate_text(point.estimates[name], name)

        def key(row: Row) -> float | None:
            point = point_of(row)
            return None if point is None else point.estimates[name].mean

        return Column(name=name, heading=name, text=text, keep=94, key=key)

    names = table.fronts[0].objectives
    return [
        *(of(name) for name in names[1:] if name not in _COUNTED),
        _text("front", 93, on_front),
    ]


def _size_column(table: Table, name: str, field: str, keep: int) -> Column:
    write = human(getattr(row, field) for row in table.rows)
    return Column(
        name=name,
        heading=name,
        text=lambda row: write(getattr(row, field)),
        keep=keep,
        key=lambda row: getattr(row, field),
    )


def _published_column(corpus: str) -> Column:
    return Column(
        name=f"published {corpus}",
        heading=f"published {corpus}",
        text=lambda row: f"{row.published[corpus]:.3f}" if corpus in row.published else NOTHING,
        keep=70,
        key=lambda row: row.published.get(corpus),
    )


def _text(name: str, keep: int, text: Callable[[Row], str]) -> Column:
    return Column(name=name, heading=name, text=text, keep=keep, key=text, is_text=True)
