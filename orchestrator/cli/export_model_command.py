"""`export-model`: a trained model for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from orchestrator.cli.option_groups import grouped
from orchestrator.cli.parameters import (
    CheckpointOption,
    JsonOption,
    WhichLaunch,
    app,
    complete_study,
    errors,
    print_json,
)


@app.command("export-model")
@grouped
def export_model_command(
    trial: Annotated[
        str,
        typer.Argument(
            metavar="TRIAL",
            help="A config hash or an MLflow run id (or how it begins); or a STUDY, with --cell.",
            autocompletion=complete_study,
        ),
    ],
    out: Annotated[
        Path, typer.Option("-o", "--out", metavar="DIR", help="Where to: a new or empty folder.")
    ],
    *,
    cell: Annotated[str | None, typer.Option(help="With a STUDY: the cell.")] = None,
    seed: Annotated[int | None, typer.Option(help="With a STUDY: the seed.")] = None,
    form: Annotated[
        Literal["hf"], typer.Option("--format", help="What `transformers` opens.")
    ] = "hf",
    which: WhichLaunch,
    checkpoint_uri: CheckpointOption = None,
    as_json: JsonOption = False,
) -> None:
    """The trained model of one trial as a folder that `transformers` opens, with its tokenizer.

    Mixtral, OLMoE, Qwen-MoE, Dots1, GLM-4-MoE, GPT-2, Llama or Qwen3, whichever computes the same;
    refused, naming the axis, where none does.

    Example: moe-study export-model quickstart --cell token-learned --seed 0 -o model/
    """
    from orchestrator.archive.export_model import export_model, find_trial

    launch, record = find_trial(trial, cell=cell, seed=seed, asked=which.asked)
    done = export_model(record, launch.home, out, checkpoint_uri=checkpoint_uri)
    if as_json:
        print_json({**done, "study": launch.info.study, "launch": launch.info.name})
        return
    print(out, flush=True)
    errors.print(
        f"{record.cell} seed {record.seed} of {launch.info.name} is {done['architecture']}, "
        f"{done['parameters']:,} parameters in float32",
        highlight=False,
        soft_wrap=True,
    )
