"""Addresses of services: probed before use, and never shown with their credentials.

An unreachable service hangs its client for minutes (MLflow 245 s, Ray 204 s, measured), so a socket
is tried first.
"""

from __future__ import annotations

import re
import socket
from urllib.parse import urlsplit, urlunsplit

from orchestrator.errors import Unreachable

PROBE_TIMEOUT_S = 5.0
_CREDENTIALS = re.compile(r"(?<=://)\S*@")


def redact(text: str) -> str:
    """`text` with user and password of every URL in it replaced, and without URL queries."""
    hidden = _CREDENTIALS.sub("***@", text)
    parts = urlsplit(hidden) if "://" in hidden and not re.search(r"\s", hidden) else None
    return urlunsplit(parts._replace(query="", fragment="")) if parts else hidden


def answers(host: str, port: int, timeout_s: float = PROBE_TIMEOUT_S) -> bool:
    try:
        with socket.create_connection((host, port), timeout=timeout_s):
            return True
    except OSError:
        return False


def require_reachable(url: str, *, default_port: int, option: str) -> None:
    """Raises Unreachable where nothing listens at a URL's host and port."""
    parts = urlsplit(url)
    try:
        port = parts.port or default_port
    except ValueError:
        raise Unreachable(
            f"a port is a number from 1 to 65535; received {redact(url)}. Correct {option}."
        ) from None
    host = parts.hostname or "localhost"
    if not answers(host, port):
        raise Unreachable(
            f"nothing answers at {host}:{port}, which {option} names ({redact(url)}). Start the "
            "server, or correct the address."
        )
