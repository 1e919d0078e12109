"""The command that draws one figure for a paper: `figure`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from orchestrator.base.errors import BadInput
from orchestrator.cli.option_groups import grouped
from orchestrator.cli.parameters import ReadableArgument, WhichLaunch, app, errors, read_newest

FORMATS = ("pdf", "svg", "png")
WIDTHS = {"column": 3.25, "page": 6.5}  # inches, of a paper in two columns


@app.command()
@grouped
def figure(
    study: ReadableArgument,
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="curves, loss, load-CELL, ...; a wrong one lists.")
    ],
    form: Annotated[str, typer.Option("--format", help="pdf, svg or png.")] = "pdf",
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", metavar="FILE", help="Where to (STUDY-NAME.pdf, here)."),
    ] = None,
    style: Annotated[str, typer.Option(help="Letters: serif or sans.")] = "serif",
    width: Annotated[str, typer.Option(help="column (3.25 in), page (6.5 in) or inches.")] = (
        "column"
    ),
    bare: Annotated[
        bool, typer.Option("--bare", help="Without title and small print, which then are printed.")
    ] = False,
    *,
    which: WhichLaunch,
) -> None:
    """One figure of the newest launch as a file for a paper.

    Example: moe-study figure paper_table1 loss --scale cpu --bare
    """
    from orchestrator.report import figure_frame
    from orchestrator.report.print_figures import one_figure, save_as

    if form not in FORMATS:
        raise BadInput(f"--format is one of {', '.join(FORMATS)}; received {form!r}. Choose one.")
    if style not in figure_frame.FAMILIES:
        raise BadInput(f"--style is serif or sans; received {style!r}. Choose one.")
    loaded, launch = read_newest(study, which)
    path = out or Path(f"{loaded.name}-{name}.{form}")
    chosen = figure_frame.Style(family=style, width_inches=_inches(width), is_bare=bare)
    with figure_frame.styled(chosen):
        drawn = one_figure(launch, name, loaded.design)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            save_as(drawn, path, form)
        except OSError as error:
            raise BadInput(
                f"-o names a file that can be written; received {path} ({error.strerror}). Name "
                "another."
            ) from None
    print(path, flush=True)
    if bare:
        for line in drawn.get_gid().splitlines():
            errors.print(line, highlight=False)


def _inches(text: str) -> float:
    try:
        found = WIDTHS[text] if text in WIDTHS else float(text)
    except ValueError:
        found = 0.0
    if not 1.5 <= found <= 30:
        raise BadInput(
            f"--width is column, page, or inches from 1.5 to 30; received {text!r}. Correct it."
        )
    return found
