"""Addresses: credentials are never shown, and an absent service is found within seconds."""

from __future__ import annotations

import socket
import time

import pytest

from orchestrator.base.errors import Unreachable
from orchestrator.base.urls import redact, require_reachable


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://user:secret@host:5432/db", "postgresql://***@host:5432/db"),
        ("postgresql://user@host/db?password=secret", "postgresql://***@host/db"),
        ("postgresql://u:p/w@h/db", "postgresql://***@h/db"),
        ("http://u:p@ss@h:1/x", "http://***@h:1/x"),
        ("http://127.0.0.1:5000", "http://127.0.0.1:5000"),
        ("cannot reach http://me:pw@host/x now", "cannot reach http://***@host/x now"),
    ],
)
def test_credentials_are_hidden(url, shown):
    assert redact(url) == shown


def test_a_closed_port_is_said_at_once_without_credentials():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    began = time.monotonic()
    with pytest.raises(Unreachable, match=f"nothing answers at 127.0.0.1:{port}") as raised:
        require_reachable(f"http://me:pw@127.0.0.1:{port}", default_port=80, option="--mlflow-uri")
    assert "pw" not in str(raised.value)
    assert time.monotonic() - began < 6


def test_a_port_that_is_no_number_is_refused():
    with pytest.raises(Unreachable, match="with a port from 1 to 65535"):
        require_reachable("http://host:99999", default_port=80, option="--mlflow-uri")
