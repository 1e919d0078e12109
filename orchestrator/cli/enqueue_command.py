"""`enqueue`: a point that is to be tried next."""

from __future__ import annotations

from contextlib import ExitStack
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from moe.config import ConfigError
from orchestrator.base.errors import BadInput
from orchestrator.base.home import Home
from orchestrator.cli.option_groups import grouped
from orchestrator.cli.parameters import (
    AskedLaunch,
    JsonOption,
    StudyArgument,
    WhichLaunch,
    app,
    errors,
    print_json,
)
from orchestrator.study.launch import Launch
from search_spaces.overlay import parse_override


@app.command("enqueue")
@grouped
def enqueue_command(
    study: StudyArgument,
    point: Annotated[
        list[str], typer.Option("--point", metavar="PATH=VALUE", help="A value of the point.")
    ],
    more: Annotated[
        list[str] | None, typer.Argument(metavar="PATH=VALUE", help="More values of it.")
    ] = None,
    *,
    which: WhichLaunch,
    as_json: JsonOption = False,
) -> None:
    """Have a point of a sampled study tried next, with all its seeds; values left out are drawn.

    A driver at work takes it as soon as it looks for a next trial, else the next `run` does.
    Example: moe-study enqueue search --point moe.num_experts=8 moe.top_k=2
    """
    asked = AskedLaunch(scale=which.scale, overrides=which.overrides, corpus=which.corpus)
    launch = asked.resolved(study)
    values = _values(launch, [*point, *(more or [])])
    number, name = _enqueue(launch, values, Home.at(which.home), which.optuna_storage)
    if as_json:
        print_json({"study": launch.study.name, "launch": name, "trial": number, "point": values})
        return
    errors.print(f"trial {number} of {name} waits: it is tried next", highlight=False)


def _values(launch: Launch, texts: list[str]) -> dict[str, Any]:
    """Raises BadInput where they are no point of the study's space, or an infeasible one."""
    from orchestrator.trials.asked_points import completed_point

    if launch.space is None:
        raise BadInput(
            f"points are enqueued in sampled studies; {launch.study.name} is a grid, whose cells "
            "are all run. Write the point as a Cell."
        )
    values: dict[str, Any] = {}
    try:
        for text in texts:
            path, value = parse_override(text)
            if path in values and repr(values[path]) != repr(value):  # nan is not nan
                raise BadInput(f"--point names a path once; received {path} twice. Keep one.")
            values[path] = value
        values = launch.space.require_within(values)
        completed_point(launch, [], values, index=0)
    except ConfigError as error:
        raise BadInput(str(error)) from None
    return values


def _enqueue(
    launch: Launch, values: dict[str, Any], home: Home, optuna_storage: str | None
) -> tuple[int, str]:
    """Number of the new trial, and the launch's name. Raises BadInput where the launch has it."""
    from orchestrator.stores.driver_lock import driver_locks
    from orchestrator.stores.optuna_launches import launches_in
    from orchestrator.stores.optuna_storage import open_storage, require_usable, trouble_named
    from orchestrator.stores.optuna_trials import OptunaTrials

    url = home.optuna_storage if optuna_storage is None else optuna_storage
    home.require_writable()
    require_usable(url)
    with ExitStack() as stack:
        stack.enter_context(trouble_named(url))
        home.create()
        storage = open_storage(url, create=True)
        infos = {info.name: info for info in launches_in(storage)}
        if launch.name in infos:  # a driver may be at work: only Optuna's own way is taken
            search = OptunaTrials(storage, infos[launch.name])
        else:
            for lock in driver_locks(home, url, launch.name):
                stack.enter_context(lock)
            search = OptunaTrials.open(storage, launch, now=datetime.now(UTC))
        return search.enqueue(launch, values), launch.name
