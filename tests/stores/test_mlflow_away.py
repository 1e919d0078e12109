"""MLflow behind a proxy that answers 503, hangs, or loses answers on command: trials go on, nothing
is lost, and nothing is written twice."""

from __future__ import annotations

import dataclasses
import http.client
import json
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from mlflow.tracking import MlflowClient

from moe.metrics import VAL_LOSS
from orchestrator.base.errors import Unreachable
from orchestrator.stores.mlflow_client import connect
from orchestrator.stores.run_requests import StoreUnavailable


def entry(step, loss):
    return {"step": step, "tokens": step * 128, "timestamp_ms": 1000 + step, VAL_LOSS: loss}


class Proxy:
    """In front of a server. `mode`: pass; 503; hang (until another mode); lose (the server is asked
    and its answer lost). It turns to 503 once it has answered a body with `after_request`."""

    def __init__(self, port):
        self.mode, self.after_request = "pass", None
        self.changed = threading.Condition()
        self.held = threading.Event()
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self):
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                with proxy.changed:
                    while proxy.mode == "hang":
                        proxy.held.set()
                        proxy.changed.wait()
                if proxy.mode == "503":
                    return self.reply(503, {}, b"the upstream is away: http://user:secretpw@x")
                upstream = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
                headers = {k: v for k, v in self.headers.items() if k.lower() != "connection"}
                upstream.request(self.command, self.path, body, headers)
                response = upstream.getresponse()
                answer = response.read()
                upstream.close()
                if proxy.mode == "lose":
                    self.close_connection = True
                    return None
                if proxy.after_request and proxy.after_request.encode() in body:
                    proxy.turn("503")
                return self.reply(response.status, dict(response.getheaders()), answer)

            def reply(self, status, headers, body):
                self.send_response(status)
                if kind := headers.get("content-type"):
                    self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = answer

            def handle(self):
                try:
                    super().handle()
                except OSError:
                    self.close_connection = True  # a client that has timed out

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    @property
    def uri(self):
        return f"http://user:secretpw@127.0.0.1:{self._server.server_port}"

    def turn(self, mode):
        with self.changed:
            self.mode, self.after_request = mode, None
            self.changed.notify_all()

    def close(self):
        self.turn("503")
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def proxy(mlflow_server):
    proxy = Proxy(mlflow_server.port)
    yield proxy
    proxy.close()


@pytest.fixture
def drive(hold, grid_study, proxy, mlflow_server):
    """Holds a launch behind the proxy, with a driver's patience; and reads it past the proxy."""
    client = MlflowClient(mlflow_server.uri)

    class Drive:
        def __init__(self, name):
            self.study = dataclasses.replace(grid_study, name=name)

        def held(self, **asked):
            return hold(self.study, seeds=(0,), options={"mlflow_uri": proxy.uri}, **asked)

        @staticmethod
        def runs(session):
            return client.search_runs([session.tracking.experiment_id])

        @staticmethod
        def history(session, number):
            run_id = session.ledger.trials[number].run_id
            found = client.get_metric_history(run_id, VAL_LOSS)
            return [(m.step, m.timestamp, m.value) for m in found]

    return Drive


def next_one(ledger, timeout_s=120):
    """What Tune's loop does: asks again and again."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            return ledger.next(patience_s=0.3).record.number
        except StoreUnavailable:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def one_run_a_trial(session, drive):
    runs = drive.runs(session)
    by_trial = Counter(run.data.tags.get("optuna.trial_number", "parent") for run in runs)
    assert set(by_trial.values()) == {1}, by_trial
    assert not [run for run in runs if run.info.status == "RUNNING"]


def test_503_for_a_while_loses_nothing_and_doubles_nothing(drive, proxy, tmp_path, said, capfd):
    away = drive("away-503")
    artifact = tmp_path / "routing.parquet"
    artifact.write_bytes(b"bytes")
    with away.held() as session:
        ledger = session.ledger
        number = next_one(ledger)
        ledger.started(number)
        ledger.progressed(number, entry(2, 3.0))
        proxy.turn("503")
        for step, loss in ((4, 2.75), (6, 2.5)):
            ledger.progressed(number, entry(step, loss))
        ledger.completed(number, entry(8, 2.25), tokens=1, artifacts=[(str(artifact), "routing")])
        with pytest.raises(StoreUnavailable):
            ledger.next(patience_s=0.3)
        deadline = time.monotonic() + 60
        while session.tracking.reachable and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not session.tracking.reachable, "no new trial starts"
        proxy.turn("pass")
        second = next_one(ledger)
        ledger.started(second)
        ledger.completed(second, entry(8, 2.0), tokens=1)
    assert not session.undelivered
    assert away.history(session, number) == [
        (2, 1002, 3.0), (4, 1004, 2.75), (6, 1006, 2.5), (8, 1008, 2.25)
    ]  # fmt: skip
    one_run_a_trial(session, away)
    client = MlflowClient(proxy.uri)
    kept = client.list_artifacts(session.ledger.trials[number].run_id, "routing")
    assert [file.path for file in kept] == ["routing/routing.parquet"]
    out, err = capfd.readouterr()
    assert "secretpw" not in out + err + " ".join(said)


def test_a_server_that_never_answers_does_not_hold_up_the_loop(drive, proxy, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")
    away = drive("away-hang")
    with away.held() as session:
        ledger = session.ledger
        number = next_one(ledger)
        ledger.started(number)
        proxy.turn("hang")
        # Each of these returns while the server holds the request: only the test lets it go.
        with pytest.raises(StoreUnavailable):
            ledger.next(patience_s=0.3)
        assert proxy.held.wait(60)
        for step in (2, 4, 6):
            ledger.progressed(number, entry(step, 3.0))
            with pytest.raises(StoreUnavailable):
                ledger.next(patience_s=0.3)
        ledger.completed(number, entry(8, 2.0), tokens=1)
        assert proxy.mode == "hang"
        proxy.turn("pass")
        second = next_one(ledger)
        ledger.started(second)
        ledger.completed(second, entry(8, 2.0), tokens=1)
    assert [point[0] for point in away.history(session, number)] == [2, 4, 6, 8]
    one_run_a_trial(session, away)


def test_an_answer_that_is_lost_makes_no_second_run_and_no_second_point(drive, proxy):
    away = drive("away-lose")
    with away.held() as session:
        ledger = session.ledger
        number = next_one(ledger)
        ledger.started(number)
        proxy.turn("lose")
        ledger.progressed(number, entry(2, 3.0))
        with pytest.raises(StoreUnavailable):
            ledger.next(patience_s=0.3)
        deadline = time.monotonic() + 60
        while session.tracking.reachable and time.monotonic() < deadline:
            time.sleep(0.05)
        proxy.turn("pass")
        second = next_one(ledger)
        ledger.progressed(number, entry(4, 2.5))
        ledger.completed(number, entry(8, 2.0), tokens=1)
        ledger.started(second)
        ledger.completed(second, entry(8, 2.0), tokens=1)
    assert [point[0] for point in away.history(session, number)] == [2, 4, 8]
    one_run_a_trial(session, away)


def test_a_server_that_hangs_at_the_start_is_named_within_its_timeout(proxy, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    proxy.turn("hang")
    with pytest.raises(Unreachable, match=r"http://\*\*\*@127.0.0.1.* cannot be used") as raised:
        connect(proxy.uri)
    assert "secretpw" not in str(raised.value)


@pytest.mark.usefixtures("ray_cluster")
def test_still_away_at_the_end_is_exit_code_1_and_deliver_mends_it(
    moe_study, home, corpus, proxy, study_file, monkeypatch
):
    monkeypatch.setattr("orchestrator.stores.mlflow_runs.CLOSE_TIMEOUT_S", 1.0)
    study = study_file("away", num_steps=8, eval_every=2, routers=["learned"], seeds=[0])
    options = ("--home", home.root, "--mlflow-uri", proxy.uri)
    proxy.after_request = '"attempt"'  # a tag of a trial that runs: one that waits would wait on
    code, out, err = moe_study("run", study, "--corpus", corpus, *options, "--json")
    told = json.loads(out)
    assert code == 1
    assert proxy.mode == "503"
    assert (told["states"]["complete"], told["undelivered"]) == (1, True)
    (spool,) = home.spool.glob("*-????????.jsonl")
    message = " ".join(err.split())
    assert str(spool) in message
    assert f"moe-study deliver --home {home.root} --mlflow-uri http://***@127.0.0.1" in message
    kept = " ".join(path.read_text() for path in home.spool.glob("*.jsonl"))
    assert "secretpw" not in out + err + kept

    def waits():
        out = moe_study("doctor", "--home", home.root, "--no-ray", "--json")[1]
        return [c for c in json.loads(out)["checks"] if c["name"] == "undelivered"]

    (check,) = waits()
    assert "bytes on their way to MLflow" in check["found"]
    assert f"deliver --home {home.root}" in check["remedy"]

    code, _, err = moe_study("deliver", *options)
    assert (code, "cannot be used" in err, "secretpw" in err) == (2, True, False)
    proxy.turn("pass")
    code, _, err = moe_study("deliver", *options)
    assert (code, "0 are left" in err) == (0, True)
    assert waits() == []
    trial = told["trials"][0]
    client = MlflowClient(proxy.uri)
    run = client.get_run(trial["mlflow_run_id"])
    assert run.info.status == "FINISHED"
    assert run.data.metrics[VAL_LOSS] == trial["value"]
    steps = [m.step for m in client.get_metric_history(run.info.run_id, VAL_LOSS)]
    assert steps == [2, 4, 6, 8]
