"""Where local state lies: one folder a home, and nothing outside it.

But for what lasts as long as a command, in the system's temporary folder: Ray's session, and the
locks of the ports that a `ui` holds.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from moe.code_digest import trains_as
from orchestrator.base.errors import BadInput

HOME_VARIABLE = "MOE_STUDY_HOME"
DEFAULT_HOME = "moe-runs"


def require_plain(path: str, what: str) -> None:
    """Raises BadInput where a path would be read as another in the URL of a SQLite store."""
    if found := sorted({c for c in path if c in "?#%{}" or not c.isprintable()}):
        raise BadInput(
            f"{what} holds none of ? # % {{ }} and no control characters, which mean something "
            f"else in the URL of a store; received {path!r} with {''.join(found)!r}. Rename it."
        )


def try_folder(folder: Path) -> None:
    """Raises OSError where nothing can be written to a folder, or to the one that it is to be made
    in; creates nothing but what it removes."""
    existing = folder
    while not os.path.lexists(existing) and existing != existing.parent:
        existing = existing.parent
    folder.exists()  # raises where the name is too long for the file system
    if not existing.is_dir():
        raise NotADirectoryError(f"{existing} is not a folder")
    with tempfile.TemporaryFile(dir=existing) as probe:
        probe.write(b"moe-study")
        probe.flush()


@dataclass(frozen=True)
class Home:
    root: Path

    @classmethod
    def at(cls, path: str | os.PathLike[str] | None) -> Home:
        chosen = path or os.environ.get(HOME_VARIABLE) or DEFAULT_HOME
        try:
            root = Path(chosen).expanduser().absolute()
        except RuntimeError as error:  # ~user, and there is no such user
            raise BadInput(f"a home is a folder; received {chosen!r} ({error}).") from None
        require_plain(str(root), "the path of a home folder")
        return cls(root)

    @property
    def optuna_storage(self) -> str:
        return f"sqlite:///{self.root / 'optuna.db'}"

    @property
    def mlflow_uri(self) -> str:
        return f"sqlite:///{self.root / 'mlflow.db'}"

    @property
    def artifacts(self) -> Path:
        return self.root / "mlartifacts"

    @property
    def optuna_artifacts(self) -> Path:
        """Figures and the report, for Optuna Dashboard's page of a study."""
        return self.root / "optuna-artifacts"

    @property
    def tokens(self) -> Path:
        return self.root / "tokens"

    @property
    def checkpoints(self) -> Path:
        return self.root / "checkpoints"

    def run_folder(self, config_hash: str, moe_digest: str) -> Path:
        """Checkpoints of a run: other code starts anew, rather than finish or replay this one's,
        unless it trains the same (`moe.code_digest.trains_as`)."""
        return self.checkpoints / config_hash / trains_as(moe_digest)

    @property
    def spool(self) -> Path:
        return self.root / "spool"

    @property
    def tune(self) -> Path:
        return self.root / "tune"

    def require_writable(self) -> None:
        """Raises BadInput where the home cannot be written; creates nothing but what it removes."""
        try:
            try_folder(self.root)
        except OSError as error:
            raise BadInput(
                f"the home folder must be writable; received {self.root} "
                f"({error.strerror or error}). Name another with --home or {HOME_VARIABLE}."
            ) from None

    def create(self) -> None:
        for folder in (self.root, self.tokens, self.checkpoints, self.artifacts, self.spool):
            folder.mkdir(parents=True, exist_ok=True)

    @contextmanager
    def made(self) -> Iterator[None]:
        """The home's folders; a new home that was refused its first launch is removed again."""
        existed = self.root.exists()
        try:
            self.create()
            yield
        except BadInput:
            if not existed and not (self.root / "optuna.db").exists():
                shutil.rmtree(self.root, ignore_errors=True)
            raise

    def require_exists(self) -> None:
        """Raises BadInput where nothing was ever run in this home."""
        if not os.path.isdir(self.root):
            raise BadInput(
                f"a home is the folder of earlier runs; received {self.root}, which does not "
                f"exist. Run a study first, or name the folder with --home or {HOME_VARIABLE}."
            )
