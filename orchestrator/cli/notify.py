"""`run --notify`: what is told of a launch that ends and of a trial that fails, and to whom.

A URL gets the JSON by POST, a command gets it on its standard input. Neither can hold up or fail a
launch: each has some seconds, off the driver's thread, and what goes wrong is said.
"""

from __future__ import annotations

import base64
import json
import queue
import shlex
import shutil
import subprocess
import threading
import urllib.request
from collections.abc import Callable, Mapping
from http.client import HTTPException
from typing import Any
from urllib.parse import unquote, urlsplit

from orchestrator.base.errors import BadInput
from orchestrator.base.urls import redact
from orchestrator.stores.trial_record import TrialRecord

TIMEOUT_S = 20.0
_END = None


class Notifier:
    """A listener of the ledger that hands everything on to another. Use as a context: leaving it
    waits until all was told, or the time for it is over.

    Raises BadInput where the target is neither a URL nor a command that is there.
    """

    def __init__(self, target: str, launch: str, say: Callable[[str], None]) -> None:
        self._target, self._launch, self._say = target, launch, say
        self._command: list[str] | None = None
        if not target.startswith(("http://", "https://")):
            self._command = _command_of(target)
        self._queue: queue.Queue[Mapping[str, Any] | None] = queue.Queue()
        self._told: set[int] = set()
        self._thread = threading.Thread(target=self._work, daemon=True)

    def __enter__(self) -> Notifier:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._queue.put(_END)
        self._thread.join(timeout=2 * TIMEOUT_S + 5)

    def __call__(self, record: TrialRecord, metrics: Mapping[str, Any] | None) -> None:
        """Of a failed trial, once."""
        if record.state == "failed" and record.number not in self._told:
            self._told.add(record.number)
            self._queue.put({"event": "trial failed", "trial": record.as_json()})

    def ended(self, **about: Any) -> None:
        self._queue.put({"event": "launch ended", **about})

    def _work(self) -> None:
        while (event := self._queue.get()) is not _END:
            body = json.dumps({"launch": self._launch, **event}).encode()
            try:
                self._send(body)
            except (OSError, HTTPException, subprocess.SubprocessError, ValueError) as error:
                self._say(f"--notify {redact(self._target)}: {redact(str(error))}")

    def _send(self, body: bytes) -> None:
        if self._command is not None:
            done = subprocess.run(
                self._command, input=body, capture_output=True, timeout=TIMEOUT_S, check=False
            )
            if done.returncode:
                last = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
                raise OSError(f"exit code {done.returncode}{': ' + last[0] if last else ''}")
            return
        headers, parts = {"Content-Type": "application/json"}, urlsplit(self._target)
        if parts.username is not None:
            pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
            headers["Authorization"] = f"Basic {base64.b64encode(pair).decode()}"
        url = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()  # its query stays
        request = urllib.request.Request(url, data=body, headers=headers, method="POST")
        with urllib.request.urlopen(request, timeout=TIMEOUT_S):
            pass


def _command_of(text: str) -> list[str]:
    try:
        words = shlex.split(text)
    except ValueError:
        words = []
    if not words or shutil.which(words[0]) is None:
        raise BadInput(
            "--notify is an http(s) URL, or a command that is found here and reads JSON; received "
            f"{redact(text)!r}. Correct it."
        )
    return words
