"""The command that puts launches side by side: `compare`."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.base.errors import BadInput
from orchestrator.base.home import Home
from orchestrator.cli.figure_command import FORMATS as FIGURE_FORMATS
from orchestrator.cli.option_groups import grouped
from orchestrator.cli.parameters import (
    HomeOption,
    JsonOption,
    app,
    errors,
    listed,
    load_study_here,
    output,
    print_json,
    print_rows,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from orchestrator.report.comparison import Comparison
    from orchestrator.report.judge import Judgement
    from orchestrator.report.records import LaunchRecords

MOST, FORMATS = 8, ("markdown", "latex")


@app.command()
@grouped
def compare(
    launches: Annotated[
        list[str],
        typer.Argument(
            metavar="A B ...",
            help="Each a study or launch of the home, FOLDER, FOLDER=STUDY or FILE.moe-study.",
        ),
    ],
    home: HomeOption = None,
    form: Annotated[str | None, typer.Option("--format", help="markdown or latex.")] = None,
    curves: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Their curves in one figure: .pdf, .svg or .png."),
    ] = None,
    differences: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Means and differences, as a figure.")
    ] = None,
    cells: Annotated[
        str | None, typer.Option(help="Of a LaTeX table: patterns of cells, with commas between.")
    ] = None,
    spread: Annotated[
        str, typer.Option(help="Of a LaTeX table, behind a mean: interval or sd.")
    ] = "interval",
    digits: Annotated[int, typer.Option(help="Of a LaTeX table, behind the point.")] = 4,
    as_json: JsonOption = False,
) -> None:
    """Launches side by side: what differs, their cells with differences, verdicts that changed.

    Example: moe-study compare lab-a=quickstart lab-b=quickstart --differences both.pdf
    """
    from orchestrator.archive.named_launches import named_launch
    from orchestrator.report.comparison import compare as compared
    from orchestrator.report.comparison_latex import as_latex
    from orchestrator.report.comparison_text import as_markdown
    from orchestrator.report.latex_table import Precision
    from orchestrator.report.print_figures import compared_cells, overlaid_curves

    if not 2 <= len(launches) <= MOST:
        raise BadInput(
            f"`compare` takes two to {MOST} launches; received {len(launches)}. Name them one "
            "after the other."
        )
    if form not in (None, *FORMATS):
        raise BadInput(f"--format is one of {', '.join(FORMATS)}; received {form!r}. Choose one.")
    if form != "latex" and (cells is not None or spread != "interval" or digits != 4):
        raise BadInput(
            "--cells, --spread and --digits are for --format latex; received them without. Add it, "
            "or leave them out."
        )
    precision = Precision(spread=spread, digits=digits)
    for path in filter(None, (curves, differences)):
        if path.suffix[1:] not in FIGURE_FORMATS:
            raise BadInput(
                f"a figure's file ends in .{', .'.join(FIGURE_FORMATS)}; received {path}. Rename "
                "it."
            )
    with ExitStack() as opened:
        found = [opened.enter_context(named_launch(text, Home.at(home))) for text in launches]
        result = compared(found, [_judged(launch) for launch in found], launches)
        if curves is not None:
            _write(overlaid_curves(found), curves)
        if differences is not None:
            _write(compared_cells(result, found), differences)
    if as_json:
        print_json(result.to_dict())
    elif form == "latex":
        patterns = listed(cells) or []
        print(as_latex(result, precision=precision, cells=patterns), end="")
    elif form == "markdown" or not output.is_terminal:
        print(as_markdown(result), end="")
    else:
        _show(result)


def _show(result: Comparison) -> None:
    from orchestrator.report.comparison_text import comparison_lines, comparison_notes

    for title, headings, rows in comparison_lines(result):
        if rows:
            output.print(f"\n{title}", style="bold", highlight=False)
            print_rows(headings, rows, fold=set(headings))
    for note in comparison_notes(result):
        output.print(note, highlight=False)


def _judged(launch: LaunchRecords) -> Judgement | None:
    try:
        return launch.judgement(load_study_here(launch.info.study))
    except BadInput:
        return None


def _write(drawn: Figure, path: Path) -> None:
    from orchestrator.report.print_figures import save_as

    try:
        save_as(drawn, path, path.suffix[1:])
    except OSError as error:
        raise BadInput(
            f"a figure's file can be written; received {path} ({error.strerror}). Name another."
        ) from None
    errors.print(f"drawn: {path}", highlight=False)
