"""A parameter that is a dataclass is its fields on the command line."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from orchestrator.cli.how_run import HowRun
from orchestrator.cli.option_groups import grouped
from orchestrator.cli.parameters import AskedLaunch, WhichLaunch, WhichStores, app


@dataclass(frozen=True)
class Place:
    folder: Annotated[str, typer.Option("--in", help="Where.")] = "here"
    depth: Annotated[int, typer.Option(help="How deep.")] = 1


TOOL = typer.Typer()


@TOOL.command()
@grouped
def find(name: str, loud: bool = False, *, place: Place, times: int = 2) -> None:
    """What this finds."""
    print(name, loud, place, times)


def run(*words):
    return CliRunner().invoke(TOOL, words)


def test_fields_are_options_and_come_as_the_dataclass():
    assert run("x").stdout.split("\n")[0] == f"x False {Place()} 2"
    given = run("x", "--loud", "--in", "there", "--depth", "3", "--times", "4")
    assert given.stdout.split("\n")[0] == f"x True {Place('there', 3)} 4"
    assert run("x", "--depth", "deep").exit_code == 2
    words = run("--help").stdout
    assert "What this finds." in words
    assert words.index("--loud") < words.index("--in") < words.index("--depth")
    assert words.index("--depth") < words.index("--times")


SHARE = {
    WhichLaunch: (
        "status",
        "table",
        "claims",
        "analyze",
        "report",
        "export",
        "export-model",
        "enqueue",
    ),
    AskedLaunch: ("run", "plan", "ingest", "recommend"),
    WhichStores: ("run", "ingest", "import", "ui", "doctor", "recommend"),
    HowRun: ("run", "recommend"),
}
# Of what other commands ask in other words, since they mean something else by it.
OTHERWISE = {"address", "workers", "shard", "device", "max_tokens"}


@pytest.mark.parametrize(
    ("group", "name"), [(group, name) for group, names in SHARE.items() for name in names]
)
def test_commands_share_the_options_of_one_question(group, name):
    command = typer.main.get_command(app).commands[name]
    assert set(group.__dataclass_fields__) <= {p.name for p in command.params}


def test_a_shared_option_is_stated_once():
    """By its help: two statements of one option would part sooner or later."""
    shared = {name for group in SHARE for name in group.__dataclass_fields__}
    shared |= {"trials", "checkpoint_uri", "as_json"}
    shared -= OTHERWISE
    stated = {}
    for name, command in typer.main.get_command(app).commands.items():
        for option in getattr(command, "params", ()):
            if option.name in shared:
                stated.setdefault((option.name, option.help), set()).add(name)
    assert {name for name, _ in stated} == shared
    assert len(stated) == len(shared), stated
