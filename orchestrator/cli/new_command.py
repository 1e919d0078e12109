"""Commands for who starts: `new` writes a study file, `axes` lists what a study may vary."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Annotated

import typer

from orchestrator.base.errors import BadInput
from orchestrator.cli.parameters import JsonOption, app, errors, print_json, print_rows
from orchestrator.study.library import study_names
from orchestrator.study.study import NAME

_QUESTION = "Is a learned router worth more than a frozen one?"


@app.command()
def new(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Of the study, and of its file.")],
    question: Annotated[str, typer.Option(help="What the study asks.")] = _QUESTION,
    folder: Annotated[Path, typer.Option("--dir", help="Where the file goes.")] = Path(),
) -> None:
    """Write a study file to start from: a baseline, cells, a claim. It runs as it is.

    Example: moe-study new my_router --question 'Does my router help?'
    """
    if not NAME.fullmatch(name):
        raise BadInput(
            "a study's name is letters, digits, '-' and '_', at most 64 of them; received "
            f"{name!r}. Choose another."
        )
    if name in study_names():
        raise BadInput(
            f"a study's name is its own; received {name!r}, which `moe-study list` has. Choose "
            "another."
        )
    if '"' in question or "\\" in question or not question.isprintable():
        raise BadInput(
            "--question is one line without double quotes and backslashes; received "
            f"{question!r}. Write it in the file."
        )
    path = folder / f"{name}.py"
    template = resources.files("orchestrator.cli").joinpath("new_study.txt").read_text("utf-8")
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(template.replace("NAME", name).replace("QUESTION", question))
    except FileExistsError:
        raise BadInput(f"`new` overwrites nothing; received {path}. Choose another name.") from None
    except OSError as error:
        raise BadInput(
            f"--dir names a folder that can be written; received {folder} ({error.strerror}). "
            "Make it, or name another."
        ) from None
    errors.print(f"next: moe-study plan {path}, then moe-study run {path}", highlight=False)
    print(path)


@app.command()
def axes(
    section: Annotated[
        str | None, typer.Argument(help="model, moe, data, optim or train (all)")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """What a study may vary and `--set` may change: path, values, default, meaning.

    Example: moe-study axes moe
    """
    from search_spaces.axes import describe_axes, did_you_mean

    known = describe_axes()
    sections = list(dict.fromkeys(axis.path.partition(".")[0] for axis in known))
    if section is not None and section not in sections:
        raise BadInput(
            f"SECTION is one of {', '.join(sections)}; received {section!r}. "
            + did_you_mean(section, sections, "Choose one.")
        )
    shown = [a for a in known if section in (None, a.path.partition(".")[0])]
    if as_json:
        rows = [
            {
                "path": a.path,
                "type": a.type.__name__,
                "values": a.legal,
                "default": a.default,
                "meaning": a.meaning,
                "source": a.source,
            }
            for a in shown
        ]
        print_json({"axes": rows})
        return
    rows = [[a.path, a.legal, str(a.default), a.meaning] for a in shown]
    print_rows(("path", "values", "default", "meaning"), rows, fold={"values", "meaning"})
