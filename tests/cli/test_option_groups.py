"""A parameter that is a dataclass is its fields on the command line."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

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
    WhichLaunch: ("status", "table", "claims", "analyze", "report", "export", "enqueue"),
    AskedLaunch: ("run", "plan", "ingest"),
    WhichStores: ("run", "ingest", "import", "ui", "doctor"),
}


@pytest.mark.parametrize(
    ("group", "name"), [(group, name) for group, names in SHARE.items() for name in names]
)
def test_commands_share_the_options_of_one_question(group, name):
    command = typer.main.get_command(app).commands[name]
    assert set(group.__dataclass_fields__) <= {p.name for p in command.params}


def test_an_option_means_the_same_in_every_command():
    meanings = {}
    for name, command in typer.main.get_command(app).commands.items():
        for option in getattr(command, "params", ()):
            meanings.setdefault(option.opts[0], {})[name] = option.help
    several = {option for option, by in meanings.items() if len(set(by.values())) > 1}
    # A file of another kind; tokens of a probe and of a launch; a Ray cluster and its job server.
    assert several == {"-o", "--max-tokens", "--address", "study"}
