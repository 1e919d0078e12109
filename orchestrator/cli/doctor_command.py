"""The command that looks before a launch does: `doctor`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer
from rich.text import Text

from orchestrator.base.home import Home
from orchestrator.cli.option_groups import grouped
from orchestrator.cli.parameters import (
    AddressOption,
    JsonOption,
    WhichStores,
    app,
    output,
    print_json,
)

_STYLES = {"ok": "green", "note": "yellow", "failed": "bold red"}


@app.command()
@grouped
def doctor(
    *,
    stores: WhichStores,
    address: AddressOption = None,
    ray: Annotated[bool, typer.Option(help="Start or join a cluster, for seconds.")] = True,
    as_json: JsonOption = False,
) -> None:
    """Check Python, packages, GPU, disk, both stores and Ray; say what to do. Creates nothing.

    Exit code 1 where something would stop a launch. Example: moe-study doctor --home moe-runs
    """
    from orchestrator.cli.doctor import examine
    from orchestrator.stores.mlflow_client import quiet

    quiet()
    checks = []
    for check in examine(
        Home.at(stores.home),
        **stores.outside,
        address=address,
        start_ray=ray,
    ):
        checks.append(check)
        if not as_json:
            line = Text(f"{check.state:<7}", style=_STYLES[check.state])
            line.append(f"{check.name:<16}{check.found}", style="default not bold")
            output.print(line, soft_wrap=True)
            if check.remedy:
                output.print(f"{'':<23}-> {check.remedy}", highlight=False, soft_wrap=True)
    if as_json:
        print_json({"checks": [asdict(check) for check in checks]})
    raise typer.Exit(1 if any(check.state == "failed" for check in checks) else 0)
