"""What the commands share: the app, its options, how they are read, and how things are shown."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table as RichTable

from moe.config import ConfigError
from orchestrator.base.errors import BadInput
from orchestrator.base.home import Home
from orchestrator.base.urls import redact
from orchestrator.study.launch import Launch
from orchestrator.study.library import load_study, study_names
from orchestrator.study.resolve import resolve
from orchestrator.study.study import Study
from orchestrator.study.tuning import tuning_study
from orchestrator.study.tuning_rules import TUNING
from search_spaces.families import expand
from search_spaces.overlay import parse_override

if TYPE_CHECKING:
    from orchestrator.report.records import LaunchRecords

until_the_end = ExitStack()  # what a command has open; `main` closes it
EXPORT_SUFFIX = ".moe-study"  # of `orchestrator.archive.container`, which brings Optuna with it

app = typer.Typer(
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(asked: bool) -> None:
    if asked:
        print(f"moe-study {version('moe-study')}")
        raise typer.Exit


@app.callback()
def common(
    show_version: Annotated[
        bool,
        typer.Option("--version", is_eager=True, callback=_show_version, help="Show the version."),
    ] = False,
) -> None:
    """Studies of Mixture-of-Experts language models whose tables can be believed."""


# Names and messages hold what users wrote: none of it is markup.
# In a log or a pipe lines are not broken where nobody's terminal ends.
errors = Console(stderr=True, markup=False, emoji=False, soft_wrap=not sys.stderr.isatty())
output = Console(markup=False, emoji=False, soft_wrap=not sys.stdout.isatty())


def complete_study(typed: str) -> list[str]:
    """Names of `studies/`, and study files of the folder at hand."""
    known = [*study_names(), *sorted(map(str, Path().glob("*.py")))]
    return [name for name in known if name.startswith(typed)]


def complete_scale(context: typer.Context, typed: str) -> list[str]:
    """Scales of the study that the line names; nothing where it names none that can be loaded."""
    # A line that ends in an option without its value is parsed as if the rest were left over.
    words = [context.params.get("study"), *(word for word in context.args if word[:1] != "-")]
    try:
        scales = load_study(next(filter(None, words), "")).scales
    except BadInput:
        return []
    return [name for name in scales if name.startswith(typed)]


def complete_sampler(typed: str) -> list[str]:
    from orchestrator.study.samplers import SAMPLERS

    return [name for name in SAMPLERS if name.startswith(typed)]


def complete_path(typed: str) -> list[str]:
    from search_spaces.axes import describe_axes

    return [f"{a.path}=" for a in describe_axes() if a.path.startswith(typed)]


_Study = typer.Argument(
    metavar="STUDY",
    help="A name that `list` shows, or a path to a .py file.",
    autocompletion=complete_study,
)
_Readable = typer.Argument(
    metavar="STUDY",
    help="A name that `list` shows, a path to a .py file, or what `export` wrote.",
    autocompletion=complete_study,
)
ReadableArgument = Annotated[str, _Readable]
StudyArgument = Annotated[str, _Study]
AnyStudyArgument = Annotated[str | None, _Study]
ScaleOption = Annotated[
    str | None,
    typer.Option(help="A scale of the study (its default).", autocompletion=complete_scale),
]
SeedsOption = Annotated[str | None, typer.Option(help="Seeds, such as 0,1,2.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="PATH=VALUE",
        help="Change what the study holds fixed.",
        autocompletion=complete_path,
    ),
]
CorpusOption = Annotated[
    str | None, typer.Option(help="stdlib, files:GLOB, hub:NAME or hub:NAME,CONFIG+CONFIG.")
]
HomeOption = Annotated[
    str | None, typer.Option(help="Folder of all local state (MOE_STUDY_HOME, or ./moe-runs).")
]
StorageOption = Annotated[
    str | None, typer.Option(help="sqlite:///FILE, journal:FILE or postgresql://...")
]
MlflowOption = Annotated[
    str | None, typer.Option(help="sqlite:///FILE, http://HOST:PORT or postgresql://...")
]
CheckpointOption = Annotated[
    str | None,
    typer.Option(help="Checkpoints where all nodes see them, not in the home: a folder, s3://..."),
]


AddressOption = Annotated[str | None, typer.Option(help="A Ray cluster: auto or HOST:PORT.")]
TrialsOption = Annotated[
    int | None, typer.Option(help="Points of a sampled study, all seeds each.")
]
SamplerOption = Annotated[
    str | None,
    typer.Option(
        help="Who draws the points of a sampled study: auto, gp, tpe, random, qmc or nsga2.",
        autocompletion=complete_sampler,
    ),
]
WarmStartOption = Annotated[
    bool,
    typer.Option(
        "--warm-start",
        help="Tell the sampler of earlier launches of the home that searched the same axes.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")]


@dataclass(frozen=True, kw_only=True)
class AskedLaunch:
    """A launch that is to be: what its study is resolved over."""

    scale: ScaleOption = None
    seeds: SeedsOption = None
    overrides: SetOption = None
    corpus: CorpusOption = None

    @property
    def of_corpus(self) -> list[str]:
        """As a command that follows repeats it."""
        return [] if self.corpus is None else ["--corpus", self.corpus]

    @property
    def changes(self) -> list[str]:
        return [word for change in self.overrides or () for word in ("--set", change)]

    def resolved(
        self,
        study: str,
        *,
        trials: int | None = None,
        sampler: str | None = None,
        warm_start: bool = False,
        need_corpus: bool = True,
        draws: bool = True,
    ) -> Launch:
        """Raises BadInput as `study.resolve` does, and where an option cannot be read."""
        if trials is not None and trials < 1:
            raise BadInput(f"--trials is at least 1; received {trials}.")
        return resolve(
            load_study(study),
            scale=self.scale,
            seeds=parse_seeds(self.seeds),
            overrides=parse_overrides(self.overrides),
            corpus_spec=self.corpus,
            trials=trials,
            sampler=sampler,
            warm_start=warm_start,
            need_corpus=need_corpus,
            draws=draws,
        )


@dataclass(frozen=True, kw_only=True)
class WhichStores:
    """Where a launch's state is: the home, and the stores where they are not in it."""

    home: HomeOption = None
    optuna_storage: StorageOption = None
    mlflow_uri: MlflowOption = None

    @property
    def options(self) -> list[str]:
        """As a command that follows repeats them, without a password."""
        given = {
            "--home": self.home,
            "--optuna-storage": self.optuna_storage,
            "--mlflow-uri": self.mlflow_uri,
        }
        return [w for name, value in given.items() if value for w in (name, redact(str(value)))]

    @property
    def outside(self) -> dict[str, str | None]:
        """As functions take the two stores; None is the home's own."""
        return {"optuna_storage": self.optuna_storage, "mlflow_uri": self.mlflow_uri}


@dataclass(frozen=True, kw_only=True)
class WhichLaunch:
    """The newest launch that answers to all that is given, and where it is looked for."""

    scale: ScaleOption = None
    overrides: SetOption = None
    corpus: CorpusOption = None
    home: HomeOption = None
    optuna_storage: StorageOption = None

    @property
    def asked(self) -> dict[str, Any]:
        """As `report.records.read_launch` takes it."""
        return {
            "home": Home.at(self.home),
            "optuna_storage": self.optuna_storage,
            "scale": self.scale,
            "corpus": self.corpus,
            "overrides": parse_overrides(self.overrides),
        }


def listed(text: str | None) -> list[str] | None:
    """Names with commas between them; None where the option was not given."""
    return None if text is None else [part.strip() for part in text.split(",") if part.strip()]


def parse_seeds(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() for part in parts):
        raise BadInput(
            f"--seeds is a list of whole numbers, such as 0,1,2; received {text!r}. Correct it."
        )
    if max(map(len, parts)) > 10 or max(map(int, parts)) >= 2**31:
        raise BadInput(f"a seed is below 2147483648; received {text[:80]!r}. Use smaller numbers.")
    seeds = tuple(int(part) for part in parts)
    if len(set(seeds)) != len(seeds):
        raise BadInput(f"a seed counts once; received {text!r}. Name each seed once.")
    return seeds


def parse_overrides(texts: list[str] | None) -> dict[str, Any]:
    overrides: dict[str, Any] = {}
    try:
        for text in texts or []:
            path, value = parse_override(text)
            if path in overrides and overrides[path] != value:
                raise BadInput(f"--set names a path once; received {path} twice. Keep one.")
            overrides[path] = value
        return expand(overrides)
    except ConfigError as error:
        raise BadInput(str(error)) from None


def print_json(value: Any) -> None:
    print(json.dumps(value, indent=2))


def print_rows(headings: Sequence[str], rows: Iterable[Sequence[str]], *, fold: set[str]) -> None:
    """A table on a terminal, whose columns of `fold` break where they are too wide; markdown else,
    which no width cuts short."""
    from orchestrator.report.verdict_text import markdown_table  # brings scipy with it

    if not output.is_terminal:
        print("\n".join(markdown_table(headings, rows)))
        return
    shown = RichTable()
    for heading in headings:
        if heading in fold:
            shown.add_column(heading, overflow="fold")
        else:
            shown.add_column(heading, no_wrap=True)
    for row in rows:
        shown.add_row(*row)
    output.print(shown)


def read_newest(study: str, which: WhichLaunch) -> tuple[Study, LaunchRecords]:
    """A study, and the newest of its launches that answers to what was asked; or, where STUDY is
    what `export` wrote, the study and the launch of that file."""
    from orchestrator.report.edited_study import edit_line
    from orchestrator.report.records import read_launch  # brings Optuna with it

    if study.endswith(EXPORT_SUFFIX):
        options = ("--scale", "--set", "--corpus", "--home", "--optuna-storage")
        given = dict(zip(options, dataclasses.astuple(which), strict=True))
        return _read_export(Path(study), given)
    loaded = _tuning_of(study, load_study_here) or load_study(study)
    launch = read_launch(loaded.name, **which.asked)
    if line := edit_line(loaded, launch.info, launch.trials):
        errors.print(line, highlight=False, markup=False, soft_wrap=True)
    return loaded, launch


def _read_export(path: Path, options: dict[str, Any]) -> tuple[Study, LaunchRecords]:
    """The launch of a file, for as long as the command takes."""
    from orchestrator.archive.archived_launch import read, records_of

    if named := [option for option, value in options.items() if value]:
        raise BadInput(
            f"an export holds one launch, and needs no home; received {path} with "
            f"{', '.join(named)}. Leave that out."
        )
    archived = read(path)
    loaded = load_study_here(archived.study.name)
    return loaded, until_the_end.enter_context(records_of(archived))


def load_study_here(name: str) -> Study:
    """By the name that a launch keeps: of `studies/`, or of a file in the folder at hand.

    Raises BadInput where neither has it.
    """
    if (tuning := _tuning_of(name, load_study_here)) is not None:
        return tuning
    file = Path(f"{name}.py")
    return load_study(str(file) if name not in study_names() and file.is_file() else name)


def _tuning_of(name: str, load: Callable[[str], Study]) -> Study | None:
    """The grid that tries the values of a study's cells, where the name is that of its launch,
    `STUDY-tuning`; None where it is of no study that tunes."""
    if not name.endswith(TUNING) or name in study_names():
        return None
    try:
        study = load(name.removesuffix(TUNING))
    except BadInput:  # said of the whole name
        return None
    return tuning_study(study) if study.tune else None
