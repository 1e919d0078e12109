"""Many runs on one machine without a cluster: N processes at a time, the longest run first.

Each run is `python -m moe.train` in a folder of its own, so that one that fails, or is killed,
takes no other with it. The state is in the folders alone: after any end the same command passes by
what is complete, and goes on from checkpoints with the rest.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from moe.accounting import account
from moe.config import TrialConfig
from moe.data.token_store import TokenStore, verify
from moe.identity import config_hash
from moe.train.distributed import World
from moe.train.results_archive import METRICS_FILE, RESULT_FILE
from moe.train.run_folder import CONFIG_FILE
from moe.train.training_run import resolve

LOG_FILE = "log.txt"
INTERRUPTED = 130

_STOPPED = (INTERRUPTED, -signal.SIGTERM, -signal.SIGKILL)  # asked to, at its start, or made to
_POLL_S = 0.2
_TELL_EVERY_S = 60.0


@dataclass(frozen=True, kw_only=True)
class Run:
    """One config, the tokens that it trains on, and its folder. `flops` is what it costs."""

    name: str
    config: TrialConfig
    file: Path
    tokens: Path
    out: Path

    @property
    def flops(self) -> int:
        return account(self.config).flops_per_token * self.config.train.num_tokens

    def result(self) -> dict[str, Any] | None:
        """What an earlier process wrote at its end; None before there is one."""
        try:
            return json.loads((self.out / RESULT_FILE).read_text())
        except (OSError, ValueError):
            return None

    def share_done(self) -> float:
        """How far the run has come, by its newest evaluation: 0 to 1."""
        try:
            last = (self.out / METRICS_FILE).read_text().splitlines()[-1]
            return json.loads(last)["tokens"] / self.config.train.num_tokens
        except (OSError, ValueError, LookupError):
            return 0.0


def find_configs(paths: Sequence[Path]) -> list[Path]:
    """The files of `paths`, and the *.json of its folders. Raises ValueError where none are."""
    found: list[Path] = []
    for path in paths:
        files = sorted(path.glob("*.json")) if path.is_dir() else [path]
        if not files:
            raise ValueError(
                f"a folder of configs holds *.json; received {path}, which holds none. Give the "
                "folder that `moe-study plan --write-configs` wrote."
            )
        found += files
    return found


def read_config(path: Path) -> TrialConfig:
    """Raises ValueError for a file that is no config, and OSError."""
    try:
        return TrialConfig.from_json(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise ValueError(
            f"a config is JSON in UTF-8; received {path}, which is not ({error.reason}). "
            "Give the file that `moe-study plan --write-configs` wrote."
        ) from None


def find_runs(files: Sequence[Path], *, tokens: Path, out: Path) -> list[Run]:
    """The runs of these configs, the longest first, each in `out`/STEM; nothing is created.

    `tokens` holds the prepared tokens of one corpus, or a folder a corpus, named by its digest.
    Raises ValueError if two configs have one name, or config, tokens and folder do not go together.
    """
    checked: dict[Path, TokenStore] = {}
    runs: dict[str, Run] = {}
    for file in files:
        config = read_config(file)
        name = file.stem
        if name in runs:
            raise ValueError(
                f"a run's folder is named by its config's file; received {runs[name].file} and "
                f"{file}. Rename one."
            )
        place = tokens_of(config, tokens)
        try:
            if place not in checked:
                checked[place] = TokenStore.open(place)
                verify(place)
            config = resolve(config, checked[place], World())
        except ValueError as error:
            raise ValueError(f"{file}: {error}") from None
        runs[name] = Run(name=name, config=config, file=file, tokens=place, out=out / name)
        _require_own_folder(runs[name])
    return sorted(runs.values(), key=lambda run: (-run.flops, run.name))


def tokens_of(config: TrialConfig, tokens: Path) -> Path:
    """Where the tokens of a config lie: in `tokens` itself, or in its folder of their digest."""
    of_digest = tokens / config.data.digest
    return of_digest if config.data.digest and of_digest.is_dir() else tokens


def _require_own_folder(run: Run) -> None:
    kept = run.out / CONFIG_FILE
    if not kept.is_file():
        return
    try:
        found = config_hash(TrialConfig.from_json(kept.read_text(encoding="utf-8")))
    except ValueError:
        found = "no config"
    if found != config_hash(run.config):
        raise ValueError(
            f"a run goes on in the folder of its own config; received {run.out}, which holds "
            f"{found}, for {run.file} ({config_hash(run.config)}). Give another --out."
        )


def slice_of(runs: Sequence[Run], part: tuple[int, int]) -> list[Run]:
    """Every N-th run from the K-th on, for `part` = (K, N): arrays of jobs share a folder so."""
    k, n = part
    return list(runs[k::n])


@dataclass
class Jobs:
    """Trains `runs`, at most `at_once` at a time; `command` is what starts one.

    `until_s` seconds after the start the runs are asked to stop at their next evaluation, with a
    checkpoint, as they are at SIGINT or SIGTERM; a second signal kills them.
    """

    runs: Sequence[Run]
    command: Callable[[Run], Sequence[str]]
    at_once: int
    until_s: float | None = None
    retry_failed: bool = False
    say: Callable[[str], None] = field(default=lambda line: print(line, file=sys.stderr))

    def __post_init__(self) -> None:
        self._done: list[Run] = []
        self._failed: list[Run] = []
        self._running: dict[Run, subprocess.Popen] = {}
        self._signals = 0
        self._stopping = False

    def train(self) -> int:
        """Returns the exit code: 0 all are complete; 1 some failed; 130 stopped before the end."""
        waiting = list(self._sort_out())
        self._started, self._told = time.monotonic(), 0.0
        self._at_start = self._share()
        before = {
            kind: signal.signal(kind, self._heard) for kind in (signal.SIGINT, signal.SIGTERM)
        }
        try:
            self._tell()
            while self._running or (waiting and not self._stopping):
                if self.until_s is not None and self._elapsed() >= self.until_s:
                    self._stop("the time given with --until is over")
                while waiting and not self._stopping and len(self._running) < self.at_once:
                    self._start(waiting.pop(0))
                if self._collect() or self._elapsed() - self._told >= _TELL_EVERY_S:
                    self._tell()
                time.sleep(_POLL_S)
        finally:
            for process in self._running.values():
                process.kill()
                process.wait()
            for kind, handler in before.items():
                signal.signal(kind, handler)
        left = len(self.runs) - len(self._done) - len(self._failed)
        if left:
            self.say(
                f"{left} of {len(self.runs)} runs are not at their end; the same command goes on"
            )
            return INTERRUPTED
        return 1 if self._failed else 0

    def _sort_out(self) -> Iterator[Run]:
        """Keeps what an earlier command ended; what is to be trained is returned."""
        for run in self.runs:
            result = run.result()
            status = result and result.get("status")
            if status == "complete":
                self._done.append(run)
            elif status == "failed" and not self.retry_failed:
                self._failed.append(run)
                self.say(
                    f"{run.name} failed before, and is passed by: {result.get('error')}. "
                    "--retry-failed tries it again."
                )
            else:
                yield run

    def _start(self, run: Run) -> None:
        run.out.mkdir(parents=True, exist_ok=True)
        (run.out / RESULT_FILE).unlink(missing_ok=True)  # "stopped", or a failure tried again
        with (run.out / LOG_FILE).open("ab") as log:
            # A session of its own: Ctrl+C reaches this process alone, which then asks in order.
            self._running[run] = subprocess.Popen(
                self.command(run),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
                start_new_session=True,
            )

    def _collect(self) -> bool:
        """Whether a run has ended since."""
        ended = [run for run, process in self._running.items() if process.poll() is not None]
        for run in ended:
            code = self._running.pop(run).returncode
            result = run.result() or {}
            if result.get("status") == "complete":
                self._done.append(run)
            elif not (self._stopping and code in _STOPPED):
                self._failed.append(run)
                self.say(f"{run.name} failed: {result.get('error') or _last_words(run, code)}")
        return bool(ended)

    def _heard(self, number: int, frame: object) -> None:
        self._signals += 1
        if self._signals > 1:
            for process in self._running.values():
                process.kill()
        self._stop("interrupted")

    def _stop(self, why: str) -> None:
        if self._stopping:
            return
        self._stopping = True
        if self._running:
            self.say(f"{why}: {len(self._running)} runs stop at their next evaluation")
        for process in self._running.values():
            process.send_signal(signal.SIGTERM)

    def _tell(self) -> None:
        self._told = self._elapsed()
        at = ", ".join(f"{run.name} at {run.share_done():.0%}" for run in self._running)
        share, gained = self._share(), self._share() - self._at_start
        line = f"{len(self._done)} of {len(self.runs)} complete"
        line += f", {len(self._failed)} failed" if self._failed else ""
        line += f", {len(self._running)} running ({at})" if at else ""
        line += f"; {share:.0%} of the work"
        if gained > 0 and share < 1:
            line += f", about {_duration(self._elapsed() * (1 - share) / gained)} left"
        self.say(line)

    def _share(self) -> float:
        """Of the FLOPs of all runs that have not failed."""
        ended = set(self._done)
        runs = [run for run in self.runs if run not in self._failed]
        done = sum(run.flops * (1.0 if run in ended else run.share_done()) for run in runs)
        return done / (sum(run.flops for run in runs) or 1)

    def _elapsed(self) -> float:
        return time.monotonic() - self._started


def _last_words(run: Run, code: int) -> str:
    if code < 0:
        return f"its process was killed by {signal.Signals(-code).name}"
    try:
        lines = (run.out / LOG_FILE).read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    return lines[-1] if lines else f"its process ended with exit code {code}"


def _duration(seconds: float) -> str:
    minutes = max(1, round(seconds / 60))
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"


def command_of(run: Run, *options: str) -> list[str]:
    """What trains one run by itself."""
    places = [os.fspath(run.file), "--tokens", os.fspath(run.tokens), "--out", os.fspath(run.out)]
    return [sys.executable, "-m", "moe.train", *places, *options]
