"""Each way in which an MLflow store says no has its own sentence; a lab's front door is passed."""

from __future__ import annotations

import shutil
import sqlite3

import pytest

from orchestrator.base.errors import Unreachable
from orchestrator.base.urls import require_reachable, without_credentials
from orchestrator.stores.mlflow_client import connect
from tests.fixtures.front_door import (
    PREFIX,
    TOKEN,
    Authority,
    Quiet,
    forward_proxy,
    front_door,
    served,
)

_JSON = "application/json"


def answering(status, body=b"", kind="text/plain"):
    class Handler(Quiet):
        def answer(self):
            self.body()
            self.reply(status, body, kind)

        do_GET = do_POST = answer

    return Handler


@pytest.mark.parametrize(
    ("status", "body", "kind", "said"),
    [
        (401, b"who?", "text/plain", "MLFLOW_TRACKING_TOKEN"),
        (403, b'{"error_code": "PERMISSION_DENIED", "message": "no"}', _JSON, "does not allow it"),
        (404, b"<html>nginx</html>", "text/html", "path prefix"),
        (404, b'{"error_code": "ENDPOINT_NOT_FOUND", "message": "no"}', _JSON, "path prefix"),
        (405, b"", "text/plain", "takes no requests of MLflow"),
        (429, b"", "text/plain", "asked too often"),
        (502, b"bad gateway", "text/html", "server behind it does not"),
        (503, b"", "text/plain", "not ready"),
        (504, b"", "text/plain", "too slow"),
        (200, b"<html>Please log in</html>", "text/html", "a login perhaps"),
    ],
)
def test_each_answer_of_a_server_has_its_own_reason(status, body, kind, said):
    with (
        served(answering(status, body, kind)) as port,
        pytest.raises(Unreachable, match=said) as raised,
    ):
        connect(f"http://me:s3cret@127.0.0.1:{port}/x")
    assert "s3cret" not in str(raised.value)
    assert f"http://***@127.0.0.1:{port}/x" in str(raised.value)
    if status != 200:
        assert str(status) in str(raised.value)


def test_tables_of_another_mlflow_are_told_apart(tmp_path, mlflow_template, moe_study):
    """An older database is brought up to date; a newer one must not be told so."""
    file = tmp_path / "mlflow.db"
    shutil.copy(mlflow_template, file)
    for version, said in (("bd07f7e963c5", "mlflow db upgrade"), ("f00df00df00d", "a newer one")):
        with sqlite3.connect(file) as database:
            database.execute("UPDATE alembic_version SET version_num = ?", (version,))
        with pytest.raises(Unreachable, match=said):
            connect(f"sqlite:///{file}")
        _, out, err = moe_study(
            "doctor", "--home", tmp_path / "home", "--mlflow-uri", f"sqlite:///{file}", "--no-ray"
        )
        assert said in " ".join((out + err).split()), "doctor shows the same"


def test_a_link_has_no_credentials_and_opens():
    for url in ("http://u:p/w@host:5000/prefix/", "http://u:p@ss@host:5000/prefix/?token=x"):
        assert without_credentials(url) == "http://host:5000/prefix/"


def test_a_server_is_looked_for_behind_the_proxy_of_the_environment(monkeypatch):
    """The host itself need not be reachable from here; where the proxy is not, that is said."""
    asked = []
    monkeypatch.setenv("NO_PROXY", "")
    with served(forward_proxy(asked)) as port:
        monkeypatch.setenv("https_proxy", f"http://me:s3cret@127.0.0.1:{port}")
        require_reachable("https://mlflow.lab.invalid", default_port=443, option="--mlflow-uri")
    with pytest.raises(Unreachable, match=rf"127.0.0.1:{port}, which the proxy's variable"):
        require_reachable("https://mlflow.lab.invalid", default_port=443, option="--mlflow-uri")
    monkeypatch.setenv("no_proxy", "mlflow.lab.invalid")
    with pytest.raises(Unreachable, match=r"mlflow.lab.invalid:443, which --mlflow-uri"):
        require_reachable("https://mlflow.lab.invalid", default_port=443, option="--mlflow-uri")


@pytest.mark.slow
def test_a_launch_passes_a_proxy_tls_a_token_and_a_prefix(
    mlflow_server, tmp_path, monkeypatch, hold, grid_study
):
    authority = Authority(tmp_path)
    asked = []
    with (
        served(front_door(mlflow_server.port), authority.context()) as port,
        served(forward_proxy(asked)) as proxy,
    ):
        uri = f"https://127.0.0.1:{port}{PREFIX}"
        for name in ("https_proxy", "HTTPS_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy}")
        for name in ("no_proxy", "NO_PROXY"):
            monkeypatch.setenv(name, "")

        def refused(because):
            with pytest.raises(Unreachable, match=because):
                connect(uri)

        refused("MLFLOW_TRACKING_SERVER_CERT_PATH")
        monkeypatch.setenv("MLFLOW_TRACKING_SERVER_CERT_PATH", str(authority.certificate))
        refused("MLFLOW_TRACKING_CLIENT_CERT_PATH")
        monkeypatch.setenv("MLFLOW_TRACKING_CLIENT_CERT_PATH", str(authority.issue("researcher")))
        refused(r"\(401\)")
        monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", TOKEN)
        with pytest.raises(Unreachable, match=r"\(404\).*path prefix|path.*\(404\)"):
            connect(uri.removesuffix(PREFIX))

        with hold(grid_study, seeds=(0,), options={"mlflow_uri": uri}) as session:
            number = session.ledger.next().record.number
            session.ledger.started(number)
            run_id = session.ledger.trials[number].run_id
            assert session.tracking.link(run_id).startswith(f"{uri}/#/experiments/")
        assert not session.undelivered
        run = connect(uri).get_run(run_id)
        assert run.info.status == "SCHEDULED", "put back to waiting when the driver left"
        artifacts = {file.path for file in connect(uri).list_artifacts(run_id)}
        assert "config.json" in artifacts
    assert set(asked) == {f"127.0.0.1:{port}"}, "nothing went past the proxy"
