"""The launches that a command line names: of a home, another folder, or a file of `export`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from orchestrator.archive.archived_launch import read, records_of
from orchestrator.archive.container import SUFFIX
from orchestrator.base.errors import BadInput
from orchestrator.base.home import Home
from orchestrator.report.records import LaunchRecords, read_launches

HOW = "a study or a launch of the home, FOLDER, FOLDER=STUDY, or a file of `export`"


@contextmanager
def named_launch(text: str, home: Home) -> Iterator[LaunchRecords]:
    """The newest launch that `text` names, for as long as it is looked at.

    Raises BadInput where there is none.
    """
    if text.endswith(SUFFIX):
        with records_of(read(Path(text))) as launch:
            yield launch
        return
    folder, separator, name = text.partition("=")
    if separator and Path(folder).is_dir():
        yield _newest(Home.at(folder), name, text)
    elif Path(text).is_dir():
        yield _newest(Home.at(text), None, text)
    else:
        yield _newest(home, Path(text).stem if text.endswith(".py") else text, text)


def _newest(home: Home, name: str | None, text: str) -> LaunchRecords:
    names = []
    for launch in read_launches(None, home=home):
        if name in (None, launch.info.study, launch.info.name):
            return launch
        names.append(launch.info.name)
    raise BadInput(
        f"a launch is named as {HOW}; received {text!r}, and the launches of {home.root} are: "
        f"{', '.join(names)}. Choose one."
    )
