"""Commands that show what came out: `table` and `claims`."""

from __future__ import annotations

from typing import Annotated

import typer

from orchestrator.base.errors import BadInput
from orchestrator.cli.option_groups import grouped
from orchestrator.cli.parameters import (
    JsonOption,
    ReadableArgument,
    WhichLaunch,
    app,
    listed,
    output,
    print_json,
    print_rows,
    read_newest,
)
from orchestrator.cli.shown_tables import print_table, print_verdicts


@app.command()
@grouped
def table(
    study: ReadableArgument,
    form: Annotated[
        str | None, typer.Option("--format", help="markdown, csv, latex or json.")
    ] = None,
    columns: Annotated[
        str | None,
        typer.Option(metavar="NAME,NAME", help="Columns, in their order: cell,n,val/loss,active."),
    ] = None,
    sort: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="By a column, the least first; -NAME the greatest."),
    ] = None,
    cells: Annotated[
        str | None, typer.Option(metavar="NAME,NAME", help="Rows, or patterns such as 'token-*'.")
    ] = None,
    spread: Annotated[
        str, typer.Option(help="Behind a mean in LaTeX: interval (half its width) or sd.")
    ] = "interval",
    digits: Annotated[int, typer.Option(help="Decimals of the metric in LaTeX.")] = 4,
    *,
    which: WhichLaunch,
) -> None:
    """The ablation table of the newest launch: mean over seeds, 95% interval, parameters, runs.

    The difference from the baseline stands beside it, and published values where the study has
    them; verdicts on its claims below.
    Example: moe-study table paper_table1 --scale cpu --format latex --cells 'token-*'
    """
    from orchestrator.report.latex_table import Precision
    from orchestrator.report.table_text import FORMATS, of_cells, render

    if form is not None and form not in FORMATS:
        raise BadInput(f"--format is one of {', '.join(FORMATS)}; received {form!r}. Choose one.")
    precision = Precision(spread=spread, digits=digits)
    loaded, launch = read_newest(study, which)
    result = of_cells(launch.table(loaded), listed(cells), sort)
    if form is None and output.is_terminal:
        print_table(result, listed(columns))
    else:
        text = render(result, form or "markdown", columns=listed(columns), precision=precision)
        print(text, end="")


@app.command()
@grouped
def claims(
    study: ReadableArgument,
    *,
    which: WhichLaunch,
    as_json: JsonOption = False,
) -> None:
    """Verdicts on the study's claims in the newest launch, with intervals, and parts of compounds.

    Of a search with several objectives, its front.

    Example: moe-study claims paper_table1 --scale cpu
    """
    from orchestrator.report.table_text import fronts_as_json, fronts_text
    from orchestrator.report.verdict_text import HEADINGS, remarks, verdict_rows

    loaded, launch = read_newest(study, which)
    judgement, fronts = launch.judgement(loaded), launch.fronts()
    if as_json:
        named = {"study": loaded.name, "launch": launch.info.name}
        print_json({**named, **judgement.to_dict(), **fronts_as_json(fronts)})
        return
    if output.is_terminal:
        output.print(launch.info.name, style="italic", highlight=False, soft_wrap=True)
        for remark in remarks(judgement):
            output.print(remark, highlight=False)
        print_verdicts(judgement.verdicts)
    else:
        print(f"**{loaded.name}** ({launch.info.name})", end="\n\n")
        for remark in remarks(judgement):
            print(remark, end="\n\n")
        if judgement.verdicts:
            print_rows(HEADINGS, verdict_rows(judgement.verdicts, parts=True), fold=set())
    for line in fronts_text(fronts):
        output.print(line, highlight=False, markup=False, soft_wrap=True)
    if not judgement.verdicts and not fronts:
        print("The study states no claims: docs/studies.md says how to.")
