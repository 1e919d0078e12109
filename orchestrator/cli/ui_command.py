"""The command that opens the pages: `ui`."""

from __future__ import annotations

from typing import Annotated

import typer

from orchestrator.base.home import Home
from orchestrator.cli.option_groups import grouped
from orchestrator.cli.parameters import WhichStores, app, errors, output


@app.command()
@grouped
def ui(
    *,
    stores: WhichStores,
    index_port: Annotated[
        int | None, typer.Option(help="Of the list of launches (8000, or the next free one).")
    ] = None,
    mlflow_port: Annotated[
        int | None, typer.Option(help="Of MLflow (5000, or the next free one).")
    ] = None,
    optuna_port: Annotated[
        int | None, typer.Option(help="Of Optuna Dashboard (8080, or the next free one).")
    ] = None,
) -> None:
    """The launches of a home, MLflow's page and Optuna Dashboard, on loopback; Ctrl-C stops all.

    The first address lists every launch, with links to its runs, its report and its search.

    Example: moe-study ui --home moe-runs
    """
    from orchestrator.cli.pages import Page, serve
    from orchestrator.stores.mlflow_client import quiet

    def ready(pages: list[Page], launches: list[str]) -> None:
        for page in pages:
            output.print(
                f"{page.name:<17} {page.address}{page.start}", highlight=False, soft_wrap=True
            )
        for line in launches:
            output.print(line, highlight=False, soft_wrap=True)
        output.print("Ctrl-C stops them", style="dim", highlight=False)
        output.file.flush()

    quiet()
    if errors.is_terminal:
        errors.print("starting the pages, which takes some seconds", style="dim", highlight=False)
    serve(
        Home.at(stores.home),
        **stores.outside,
        index_port=index_port,
        mlflow_port=mlflow_port,
        optuna_port=optuna_port,
        ready=ready,
        say=lambda line: errors.print(line, highlight=False, soft_wrap=True),
    )
