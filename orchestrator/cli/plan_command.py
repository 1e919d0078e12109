"""Commands that run nothing: `list` and `plan`."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from moe.memory_fit import size_text
from orchestrator.base.errors import BadInput, StudyError
from orchestrator.base.home import Home
from orchestrator.cli.option_groups import grouped
from orchestrator.cli.parameters import (
    AskedLaunch,
    HomeOption,
    JsonOption,
    SamplerOption,
    StorageOption,
    StudyArgument,
    TrialsOption,
    WarmStartOption,
    app,
    errors,
    output,
    print_json,
    print_rows,
)
from orchestrator.study.launch import Launch
from orchestrator.study.library import load_study, study_names
from orchestrator.study.resolve import resolve

if TYPE_CHECKING:
    from orchestrator.report.claim_power import ClaimPower


_NAMED = 3  # cells that one line names


@app.command("list")
def list_studies(as_json: JsonOption = False) -> None:
    """Studies, with their question, cells and cost.

    Example: moe-study list
    """
    from orchestrator.study.plan import plan, tuning_cost

    rows = []
    for name in study_names():
        launch = resolve(load_study(name), need_corpus=False)
        planned = plan(launch)
        if (cost := tuning_cost(launch)) is not None:  # a part of what the study costs
            for key in ("trials", "tokens_total", "flops_total"):
                planned[key] += getattr(cost, key)
        rows.append(
            {
                "study": name,
                "question": launch.study.question,
                "scale": launch.scale,
                "cells": len(planned["cells"]),
                "trials": planned["trials"],
                "tokens_total": planned["tokens_total"],
                "flops_total": planned["flops_total"],
            }
        )
    if as_json:
        print_json({"studies": rows})
        return
    shown = [
        [
            row["study"],
            row["question"],
            f"{row['cells']} cells, {row['trials']}" if row["cells"] else str(row["trials"]),
            f"{_count(row['tokens_total'])} tokens, {row['flops_total']:.1e} FLOPs",
        ]
        for row in rows
    ]
    headings = ("study", "question", "trials", "cost (smoke)")
    print_rows(headings, shown, fold={"question", "trials", "cost (smoke)"})


@app.command("plan")
@grouped
def plan_command(
    study: StudyArgument,
    *,
    asked: AskedLaunch,
    trials: TrialsOption = None,
    sampler: SamplerOption = None,
    warm_start: WarmStartOption = False,
    home: HomeOption = None,
    optuna_storage: StorageOption = None,
    workers: Annotated[int, typer.Option(min=1, help="Workers of each trial, for its memory.")] = 1,
    shard: Annotated[
        bool, typer.Option("--shard", help="Weights and optimiser spread over the workers.")
    ] = False,
    device: Annotated[
        str, typer.Option(help="cpu or cuda: whose memory a worker's peak is told of.")
    ] = "cpu",
    write_configs: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write each trial's resolved config there.")
    ] = None,
    spread: Annotated[
        float | None,
        typer.Option(
            metavar="SD",
            help="Deviation of a seed's difference of two cells, for the power of claims; without "
            "it, that of earlier launches of the home.",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """What a launch would do and cost; nothing is run.

    Example: moe-study plan quickstart --scale cpu --seeds 0,1,2,3,4
    """
    from orchestrator.driver.origin import origin_of
    from orchestrator.report.pace import pace_of
    from orchestrator.study.cautions import cautions
    from orchestrator.study.plan import Given, plan
    from orchestrator.study.plan import write_configs as write

    if device not in ("cpu", "cuda"):
        raise BadInput(f"--device is cpu or cuda; received {device!r}. Choose one.")
    if spread is not None and not 0 < spread < math.inf:
        raise BadInput(f"--spread is a number above 0; received {spread:g}. Correct it.")
    launch = asked.resolved(
        study, trials=trials, sampler=sampler, warm_start=warm_start, need_corpus=False
    )
    at = Home.at(home)
    url = optuna_storage or at.optuna_storage
    launch, origin = origin_of(launch, at, url)
    planned = plan(launch, at.tokens, Given(device=device, workers=workers, shard=shard))
    for line in planned["notes"]:
        errors.print(line, highlight=False, markup=False, soft_wrap=True)
    if write_configs is not None:
        if not launch.is_read:
            launch = asked.resolved(study, trials=trials, sampler=sampler)
            launch, origin = origin_of(launch, at, url)
        if origin.cost is not None and origin.refused is not None:
            raise BadInput(origin.refused)
        # Of a grid whose cells are still to be tuned, what `ingest` takes first.
        written = origin.tuning or launch
        paths = write(written, write_configs)
        errors.print(f"wrote {len(paths)} configs to {write_configs}", highlight=False)
        if written.study.is_grid:
            if origin.tuning is not None:
                errors.print(_of_the_tuning(written), markup=False, highlight=False)
            for line in _token_folders(written):
                errors.print(line, markup=False)
    noted = [*cautions(launch), *_upcycled(launch, url), *origin.lines]
    powers = _powers(launch, url, at, spread)
    if as_json:
        told = [power.as_json() for power in powers]
        design = str(launch.study.design)
        told_of = origin.as_json()
        print_json({**planned, "cautions": noted, "design": design, "power": told, **told_of})
        return
    about = "about " if planned["estimated"] else ""
    output.print(launch.study.question, style="bold", highlight=False)
    output.print(
        f"{planned['trials']} trials at scale {launch.scale}, seeds {list(launch.seeds)}, corpus "
        f"{launch.corpus_text}: {about}{_count(planned['tokens_total'])} tokens, "
        f"{about}{planned['flops_total']:.2e} FLOPs",
        highlight=False,
    )
    for name, other in launch.merged.items():
        output.print(f"cell {name} is the same configuration as {other}", highlight=False)
    for mixture in planned["mixtures"]:
        output.print(_mixture_line(mixture), highlight=False)
    try:
        pace = pace_of(url, scale=launch.scale)
    except StudyError as error:  # the plan stands without it
        errors.print(f"how long it takes cannot be told: {error}", highlight=False)
        pace = None
    if pace is not None:
        minutes = (planned["flops_total"] + origin.flops_before) * pace.seconds_per_flop / 60
        output.print(
            f"about {minutes:.0f} minutes of one worker, going by {pace.trials} trials of this "
            "home at this scale",
            highlight=False,
        )
    output.print(
        f"at its peak a worker needs about {size_text(planned['peak_memory_bytes'])} of its "
        f"{'GPU' if device == 'cuda' else 'host'}'s memory, beside the libraries",
        highlight=False,
    )
    for line in filter(None, [launch.sampler_line, *noted]):
        output.print(line, highlight=False)
    if planned["cells"]:
        shown = [
            [
                cell["cell"],
                f"{cell['params_total']:,}",
                f"{cell['params_active']:,}",
                f"{cell['flops_per_token']:,}",
                size_text(cell["peak_memory_bytes"]),
                ", ".join(f"{p}={v}" for p, v in cell["overrides"].items()) or "nothing",
            ]
            for cell in planned["cells"]
        ]
        headings = ("cell", "total", "active", "FLOPs/token", "peak memory", "what it changes")
        print_rows(headings, shown, fold={"cell", "what it changes"})
    if powers:
        output.print(f"claims are judged by a design: {launch.study.design}", highlight=False)
        headings = ("claim", "were there", "spread", "n", "power", "n for 80%", "spread from")
        print_rows(headings, map(_power_row, powers), fold={"were there", "spread from"})


def _of_the_tuning(tuning: Launch) -> str:
    return (
        f"they are those of {tuning.study.name}: once `ingest` has their results, the same command "
        "writes those of the cells with what was chosen"
    )


def _powers(launch: Launch, url: str, home: Home, spread: float | None) -> list[ClaimPower]:
    """Of the study's claims; without a spread where the record cannot be read."""
    from orchestrator.report.claim_power import powers
    from orchestrator.report.known_spread import given_spread, spread_of_record

    study = launch.study
    if not study.claims:
        return []
    if spread is not None:
        spread_of = given_spread(spread)
    else:
        try:
            spread_of = spread_of_record(url, home, study=study.name, scale=launch.scale)
        except StudyError as error:  # the plan stands without it
            errors.print(f"how far seeds spread cannot be told: {error}", highlight=False)
            return []
    return powers(study.claims, study.design, len(launch.seeds), spread_of)


def _power_row(power: ClaimPower) -> list[str]:
    return [
        power.claim,
        power.of_interest or "-",
        "-" if power.spread is None else f"{power.spread:.4f}",
        str(power.n),
        "-" if power.power is None else f"{power.power:.0%}",
        "-" if power.seeds_for_80 is None else str(power.seeds_for_80),
        power.missing or power.spread_from,
    ]


def _upcycled(launch: Launch, url: str) -> list[str]:
    """Of cells that start from a dense trial, what that cost: no trial of this launch counts it."""
    sources: dict[str, list[str]] = {}
    for point in launch.points_ahead():
        if dense := point.config.moe.starts_from:
            sources.setdefault(dense, []).append(point.cell)
    lines = []
    for dense, cells in sources.items():
        from orchestrator.stores.trained_weights import complete_trial

        record = complete_trial(url, dense)
        told = (
            f"whose {record.tokens:,} tokens are not counted here"
            if record is not None
            else "which is not complete in this home: run it first"
        )
        names = ", ".join(dict.fromkeys(cells))
        lines.append(f"upcycled: {names} start from the dense trial {dense}, {told}")
    return lines


def _token_folders(launch: Launch) -> Iterator[str]:
    """Where `run` puts the tokens that the written configs need."""
    cells: dict[str, list[str]] = {}
    for point in launch.points():
        of_digest = cells.setdefault(point.config.data.digest, [])
        if point.cell not in of_digest:
            of_digest.append(point.cell)
    for digest, names in cells.items():
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        named = f"{', '.join(names[:_NAMED])}{more}"
        whose = "their tokens" if len(cells) == 1 else f"tokens of {named}"
        yield f"{whose}, once `run` made them: HOME/tokens/{digest}"


def _mixture_line(mixture: dict[str, Any]) -> str:
    shares = [
        f"{part['part']} {part['asked']:.1%}"
        + ("" if part["obtained"] is None else f" ({part['obtained']:.1%} of the tokens)")
        for part in mixture["parts"]
    ]
    later = "" if mixture["parts"][0]["tokens"] else "; `run` tells what share of the tokens it is"
    return f"mixture of {', '.join(shares)}, by bytes of text{later}"


def _count(tokens: int) -> str:
    return f"{tokens / 1e6:.1f}M" if tokens >= 1e6 else f"{tokens / 1e3:.1f}K"
