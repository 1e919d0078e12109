"""Where trials keep their checkpoints: in the home, or where all nodes see them.

A place (`--checkpoint-uri`) is a folder or a URI that pyarrow knows. Each run has a folder in it by
config hash and code digest: a trial that restarts elsewhere finds its own. Credentials in a URI are
for this process and its workers: what is recorded is the place without them.
"""

from __future__ import annotations

import logging
import os
import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit, urlunsplit

import pyarrow as pa

from moe.code_digest import trains_as
from moe.train.run_folder import CONFIG_FILE, Storage
from orchestrator.base.errors import BadInput, Unreachable
from orchestrator.base.home import Home, try_folder
from orchestrator.base.run_files import KEPT
from orchestrator.base.urls import PROBE_TIMEOUT_S, answers, redact

PROBE_LIMIT_S = 30.0
# Of a URI's parameters, those that say where: any other may be a secret (Azure's client_secret is).
_OPEN_PARAMETERS = ("region", "scheme", "endpoint_override")

log = logging.getLogger(__name__)


def run_name(config_hash: str, moe_digest: str) -> str:
    """As in `Home.run_folder`: other code starts anew, unless it trains the same."""
    return f"{config_hash}/{trains_as(moe_digest)}"


@dataclass(frozen=True, kw_only=True)
class CheckpointPlace:
    """`root` may hold credentials: show `name`."""

    root: str
    is_home: bool

    @classmethod
    def of(cls, home: Home, uri: str | None) -> CheckpointPlace:
        if uri is None:
            return cls(root=str(home.checkpoints), is_home=True)
        local = "://" not in uri
        return cls(root=os.path.abspath(os.path.expanduser(uri)) if local else uri, is_home=False)

    @property
    def name(self) -> str:
        """For stores and messages."""
        if "://" not in self.root:
            return self.root
        parts = urlsplit(self.root)
        query = [(key, value) for key, value in parse_qsl(parts.query) if key in _OPEN_PARAMETERS]
        return urlunsplit(
            parts._replace(
                netloc=parts.netloc.rpartition("@")[2], query=urlencode(query), fragment=""
            )
        )

    @property
    def local_folder(self) -> Path | None:
        if "://" not in self.root:
            return Path(self.root)
        parts = urlsplit(self.root)
        return Path(parts.path) if parts.scheme == "file" else None

    def run_folder(self, config_hash: str, moe_digest: str) -> str:
        return self.inside(run_name(config_hash, moe_digest))

    def inside(self, name: str) -> str:
        if "://" not in self.root:
            return f"{self.root}/{name}"
        parts = urlsplit(self.root)
        return urlunsplit(parts._replace(path=f"{parts.path.rstrip('/')}/{name}"))

    def require_usable(self) -> None:
        """Raises BadInput or Unreachable where nothing can be written; leaves nothing behind."""
        folder = self.local_folder
        if folder is not None:
            _require_writable(folder, self.name)
            return
        parts = urlsplit(self.root)
        endpoint = dict(parse_qsl(parts.query)).get("endpoint_override")
        if endpoint:
            host, _, port = endpoint.rpartition("://")[2].partition(":")
            if not answers(host, int(port) if port.isdigit() else 443, PROBE_TIMEOUT_S):
                raise Unreachable(
                    f"nothing answers at {endpoint}, the endpoint_override of --checkpoint-uri. "
                    "Start the object store, or correct the address."
                )
        self._within(PROBE_LIMIT_S, self.write_probe)

    def write_probe(self) -> None:
        """Raises as the file system does; leaves nothing behind."""
        storage = Storage.at(self.root)
        name = f"probe-{uuid.uuid4().hex}"
        try:
            storage.write_folder(name, {"probe": lambda stream: stream.write(b"moe-study")}, {})
            storage.read_folder(name)
        finally:
            storage.delete_folder(name)

    def _within(self, limit_s: float, action: Callable[[], None]) -> None:
        """In a thread: an object store that does not answer keeps its client for minutes."""
        failures: list[BaseException] = []

        def attempt() -> None:
            try:
                action()
            except BaseException as error:
                failures.append(error)

        thread = threading.Thread(target=attempt, daemon=True)
        thread.start()
        thread.join(limit_s)
        if thread.is_alive():
            raise Unreachable(
                f"the place of --checkpoint-uri did not answer within {limit_s:g} s; received "
                f"{self.name}. Check network, region and credentials."
            )
        if not failures:
            return
        error = failures[0]
        if isinstance(error, ValueError):
            rule = "a folder, or a URI that pyarrow knows (file, s3, gs, abfs, hdfs)"
        elif isinstance(error, (OSError, pa.ArrowException)):
            rule = "a place that can be written"
        else:
            raise error
        raise BadInput(
            f"--checkpoint-uri names {rule}; received {self.name} ({self.without_secrets(error)}). "
            "Correct it, or its credentials."
        ) from None

    def without_secrets(self, error: BaseException) -> str:
        text = f"{type(error).__name__}: {redact(str(error))}".splitlines()[0]
        parts = urlsplit(self.root)
        secrets = [parts.username, parts.password]
        secrets += [v for key, v in parse_qsl(parts.query) if key not in _OPEN_PARAMETERS]
        for secret in filter(None, secrets):
            text = text.replace(secret, "***").replace(unquote(secret), "***")
        return text[:300]

    def copy_to_driver(self, run_folder: str, folder: Path) -> Path | None:
        """What the driver's pages and MLflow read of a run, copied into `folder` of the home.

        Returns the folder; None where the run's cannot be read.
        """
        storage = Storage.at(run_folder)
        try:
            present = storage.names()
            copy = Storage.at(folder)
            for name in (CONFIG_FILE, *KEPT):
                if name in present:
                    copy.write(name, storage.read(name))
        except OSError as error:
            log.warning("%s could not be read back: %s", self.name, self.without_secrets(error))
            return None
        return folder


def _require_writable(folder: Path, name: str) -> None:
    try:
        try_folder(folder)
    except OSError as error:
        raise BadInput(
            f"--checkpoint-uri names a place that can be written; received {name} "
            f"({error.strerror or error}). Correct it, or mount it here."
        ) from None
