"""Who asked to be told is told once of each failure and of the end, and nothing else goes wrong."""

from __future__ import annotations

import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import SimpleNamespace

import pytest

from orchestrator.base.errors import BadInput
from orchestrator.cli import notify
from orchestrator.cli.notify import Notifier


def record(number, state):
    return SimpleNamespace(number=number, state=state, as_json=lambda: {"number": number})


def play(target, said):
    with Notifier(target, "s/cpu", said.append) as notifier:
        for state in ("running", "complete"):
            notifier(record(0, state), None)
        notifier(record(1, "failed"), None)
        notifier(record(1, "failed"), {"step": 1})
        notifier.ended(states={"failed": 1})


WANTED = [
    {"launch": "s/cpu", "event": "trial failed", "trial": {"number": 1}},
    {"launch": "s/cpu", "event": "launch ended", "states": {"failed": 1}},
]


def test_a_command_gets_json_on_its_standard_input(tmp_path):
    script = tmp_path / "told.py"
    script.write_text(
        "import sys\n"
        f"with open({str(tmp_path / 'told')!r}, 'a') as file:\n"
        "    file.write(sys.stdin.read() + '\\n')\n"
    )
    said = []
    play(f"{sys.executable} {script}", said)
    assert [json.loads(line) for line in (tmp_path / "told").read_text().splitlines()] == WANTED
    assert said == []


def test_a_url_gets_it_by_post():
    got = []

    class Hook(BaseHTTPRequestHandler):
        def do_POST(self):
            got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Hook)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        said = []
        play(f"http://127.0.0.1:{server.server_address[1]}/hook", said)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    assert (got, said) == (WANTED, [])


@pytest.mark.parametrize(
    ("target", "why"),
    [
        ("http://user:secret@127.0.0.1:9/hook", "refused"),
        (f"{sys.executable} -c 'raise SystemExit(3)'", "exit code 3"),
        (f"{sys.executable} -c 'import time; time.sleep(60)'", "timed out"),
    ],
)
def test_who_cannot_be_told_holds_nothing_up(target, why, monkeypatch):
    monkeypatch.setattr(notify, "TIMEOUT_S", 1.0)
    said = []
    play(target, said)
    assert len(said) == 2
    assert all(why in line for line in said)
    assert not any("secret" in line for line in said)


@pytest.mark.parametrize("target", ["", "no-such-command-here --x", "'unclosed"])
def test_a_target_that_is_none_is_refused_before_anything_runs(target):
    with pytest.raises(BadInput, match="received"):
        Notifier(target, "s", print)
