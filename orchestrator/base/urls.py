"""Addresses of services: probed before use, and never shown with their credentials.

An unreachable service hangs its client for minutes (MLflow 245 s, Ray 204 s, measured), so a socket
is tried first.
"""

from __future__ import annotations

import logging
import re
import socket
import urllib.request
from urllib.parse import urlsplit

from orchestrator.base.errors import Unreachable

PROBE_TIMEOUT_S = 5.0
# To the last @ of the line: a password may hold anything, spaces and further @ included.
_CREDENTIALS = re.compile(r"(?<=://)[^\n]*@")
_QUERY = re.compile(r"(://[^\s?#]*)[?#]\S*")
_KEYWORD = re.compile(r"\b(password|passwd)=\S+")


def redact(text: str) -> str:
    """`text` with user and password of every URL in it replaced, and without URL queries."""
    hidden = _QUERY.sub(r"\1", _CREDENTIALS.sub("***@", text))
    return _KEYWORD.sub(r"\1=***", hidden)


class DiscreetRecord(logging.LogRecord):
    """What any library logs, without the credentials of the URLs in it."""

    def getMessage(self) -> str:  # noqa: N802  (the name is logging's)
        return redact(super().getMessage())


def answers(host: str, port: int, timeout_s: float = PROBE_TIMEOUT_S) -> bool:
    try:
        with socket.create_connection((host, port), timeout=timeout_s):
            return True
    except (OSError, UnicodeError, OverflowError):  # the last two: a name or port that is none
        return False


def without_credentials(url: str) -> str:
    """A URL as a link to open; `redact` puts a mark in their place, which no browser opens."""
    return _QUERY.sub(r"\1", _CREDENTIALS.sub("", url))


def _proxy_of(url: str) -> tuple[str, int] | None:
    """Host and port of the proxy that HTTP clients take to a URL, by the environment."""
    parts = urlsplit(url)
    proxies = urllib.request.getproxies_environment()
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    if parts.scheme not in ("http", "https") or not proxy:
        return None
    if urllib.request.proxy_bypass_environment(parts.netloc.rpartition("@")[2], proxies):
        return None
    asked = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    return asked.hostname or "localhost", asked.port or (443 if asked.scheme == "https" else 80)


def require_reachable(url: str, *, default_port: int, option: str) -> None:
    """Raises Unreachable where nothing listens at a URL's host and port, or at its proxy's."""
    try:
        parts = urlsplit(url)
        port = default_port if parts.port is None else parts.port
        host = parts.hostname or "localhost"
    except ValueError:  # its message may quote a piece of a password
        raise Unreachable(
            f"an address is HOST:PORT, with a port from 1 to 65535; received {redact(url)}. "
            f"Correct {option}."
        ) from None
    if (proxy := _proxy_of(url)) is not None:
        host, port = proxy
        option = f"the proxy's variable of the environment, for {option}"
    if not answers(host, port):
        raise Unreachable(
            f"nothing answers at {host}:{port}, which {option} names ({redact(url)}). Start the "
            "server, or correct the address."
        )
