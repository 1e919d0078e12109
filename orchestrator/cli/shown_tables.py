"""How a terminal shows the ablation table and the verdicts; a pipe gets markdown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.padding import Padding
from rich.table import Table as RichTable
from rich.text import Text

from orchestrator.cli.parameters import output

if TYPE_CHECKING:  # they bring scipy with them
    from orchestrator.report.table_columns import Column
    from orchestrator.report.tables import Table
    from orchestrator.report.verdicts import Verdict

_COLOURS = {"supported": "green", "refuted": "red", "undecided": "yellow"}
_MOST_WIDE = 100  # of text that is read, whatever the terminal is


def print_table(table: Table, names: Sequence[str] | None = None) -> None:
    """On a terminal whole columns are left out where there is no room, the least telling first, and
    named below."""
    from orchestrator.report.table_columns import columns_of, fitting
    from orchestrator.report.table_text import footnotes, render

    if not output.is_terminal:
        print(render(table, "markdown", columns=names), end="")
        return
    columns, left_out = columns_of(table, names), []
    if names is None:
        columns, left_out = fitting(columns, table.rows, output.width)
    output.print(Text(table.launch, style="italic"), soft_wrap=True)
    output.print(_grid(table, columns))
    if left_out:
        named = ", ".join(column.name for column in left_out)
        _say(f"Left out for want of room: {named} (--columns chooses, --format markdown has all).")
    for note in footnotes(table):
        _say(note)
    if table.judgement:
        print_verdicts(table.judgement.verdicts)


def _grid(table: Table, columns: Sequence[Column]) -> RichTable:
    shown = RichTable(box=SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1))
    for column in columns:
        justify = "left" if column.is_text else "right"
        # Only where two columns are wider than the terminal a name is broken, and nothing cut.
        shown.add_column(column.heading, justify=justify, overflow="fold")
    for row in table.rows:
        style = "dim" if row.stopped or row.is_older else ""
        cells = [
            Text(column.text(row), style="bold" if _is_best(row, column, table) else style)
            for column in columns
        ]
        shown.add_row(*cells)
    return shown


def _is_best(row: object, column: Column, table: Table) -> bool:
    return bool(row.is_best) and column.name == table.metric  # type: ignore[attr-defined]


def print_verdicts(verdicts: Sequence[Verdict]) -> None:
    """A block a claim: its verdict, the two cells, estimate with interval, why."""
    from orchestrator.report.verdict_text import AXIS_LEGEND, verdict_blocks

    wide = min(output.width, _MOST_WIDE)
    blocks = verdict_blocks(verdicts, width=min(61, wide - 6))
    for block in blocks:
        indent = 2 * block.depth
        heading = Text(block.verdict, style=f"bold {_COLOURS[block.verdict.split()[0]]}")
        heading.append(f"  {block.heading}", style="default")
        output.print(Padding(heading, (0 if block.depth else 1, 0, 0, indent)), width=wide)
        for line in block.lines:
            output.print(Padding(Text(line), (0, 0, 0, indent + 4)), width=wide)
    if any(verdict.ci_low is not None for verdict in verdicts):
        output.print(Text(f"\n{AXIS_LEGEND}", style="dim"))


def _say(line: str) -> None:
    output.print(Text(line), width=min(output.width, _MOST_WIDE))
