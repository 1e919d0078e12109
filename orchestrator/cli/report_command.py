"""The command that writes what is sent to others: `report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli.option_groups import grouped
from orchestrator.cli.parameters import (
    ReadableArgument,
    WhichLaunch,
    app,
    errors,
    read_newest,
)


@app.command()
@grouped
def report(
    study: ReadableArgument,
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", metavar="FILE.html", help="Where to (STUDY-SCALE.html, here)."),
    ] = None,
    *,
    which: WhichLaunch,
) -> None:
    """One HTML file of the newest launch, that needs no network: verdicts, table, charts, cost.

    Example: moe-study report paper_table1 --scale cpu -o table1.html
    """
    from orchestrator.report.page import write_report

    loaded, launch = read_newest(study, which)
    path = out or Path(f"{loaded.name}-{launch.info.attributes['scale']}.html")
    write_report(launch, loaded, path)
    print(path, flush=True)
    errors.print(f"the report of {launch.info.name}, for a browser", highlight=False)
