"""Commands for who starts: `new`, `axes`, `doctor`; `ui` where it refuses; help with examples."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import socket
import sqlite3
from contextlib import ExitStack
from types import SimpleNamespace

import pytest
from typer.main import get_command

from moe.code_digest import moe_digest
from moe.memory_fit import size_text
from moe.metrics import STEP, TIMESTAMP_MS, VAL_LOSS
from orchestrator.base.errors import BadInput
from orchestrator.cli.pages import _port
from orchestrator.cli.parameters import app, complete_path, complete_scale, complete_study
from orchestrator.cli.run_command import _where_to_watch
from orchestrator.stores.trial_record import MOE_DIGEST
from orchestrator.study.library import load_study, study_names
from orchestrator.study.resolve import resolve


def test_every_command_has_an_example_in_its_help(moe_study):
    for name in get_command(app).commands:
        code, out, _ = moe_study(name, "--help")
        assert code == 0
        assert f"moe-study {name}" in " ".join(out.split()), name


def test_an_unknown_command_is_met_with_a_near_one(moe_study):
    code, out, err = moe_study("tabel", "quickstart")
    assert (code, out) == (2, "")
    assert "table" in err


def test_new_writes_a_study_that_resolves(tmp_path, monkeypatch, moe_study, corpus):
    monkeypatch.chdir(tmp_path)
    code, out, err = moe_study("new", "mine", "--question", "Is it so?")
    assert (code, out) == (0, "mine.py\n")
    assert "moe-study plan mine.py" in err
    study = load_study("mine.py")
    assert (study.name, study.question) == ("mine", "Is it so?")
    for scale in study.scales:
        launch = resolve(study, scale=scale, corpus_spec=corpus)
        assert {cell.name for cell in launch.cells} >= {"dense-active", "learned", "frozen"}


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("new", "quickstart"), "which `moe-study list` has"),
        (("new", "two words"), "letters, digits"),
        (("new", "there"), "overwrites nothing"),
        (("new", "x", "--dir", "nowhere"), "can be written"),
        (("new", "x", "--question", 'a "quoted" one'), "without double quotes"),
        (("axes", "moee"), "Did you mean moe?"),
    ],
)
def test_what_is_refused_is_refused_with_one_message(
    tmp_path, monkeypatch, moe_study, arguments, part
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there.py").write_text("")
    code, out, err = moe_study(*arguments)
    assert (code, out) == (2, "")
    assert part in err
    assert [path.name for path in tmp_path.iterdir()] == ["there.py"]


def test_axes_as_json(moe_study):
    code, out, _ = moe_study("axes", "moe", "--json")
    found = {axis["path"]: axis for axis in json.loads(out)["axes"]}
    assert code == 0
    assert set(found) == {path for path in found if path.startswith("moe.")}
    assert "frozen" in found["moe.router"]["values"]


def test_doctor_says_what_it_found_and_creates_nothing(tmp_path, moe_study):
    home = tmp_path / "home"
    code, out, _ = moe_study("doctor", "--home", home, "--no-ray", "--json")
    checks = {check["name"]: check for check in json.loads(out)["checks"]}
    assert code == 0
    assert {"Python", "packages", "GPU", "home", "Optuna storage", "MLflow store"} <= set(checks)
    assert not home.exists()
    code, out, _ = moe_study("doctor", "--home", home, "--no-ray")
    assert "made by the first run" in out
    assert "[/]" not in out


def test_completion_knows_studies_scales_and_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "paper_mine.py").touch()
    studies = complete_study("paper_")
    assert {"paper_table1", "paper_balance", "paper_mine.py"} <= set(studies)
    assert all(name.endswith(".py") or name in study_names() for name in complete_study(""))

    def scales(study: str | None, typed: str) -> list[str]:
        whole = SimpleNamespace(params={"study": study}, args=[])
        # As the parser leaves it where the line ends in `--scale`.
        ends = SimpleNamespace(params={}, args=[study] if study else [])
        assert complete_scale(whole, typed) == complete_scale(ends, typed)
        return complete_scale(whole, typed)

    assert scales("quickstart", "s") == ["smoke"]
    (tmp_path / "paper_mine.py").write_text(
        "import dataclasses\nfrom studies.quickstart import STUDY\n"
        "STUDY = dataclasses.replace(STUDY, scales={'tiny': STUDY.scales['smoke']}, "
        "default_scale='tiny', scale_seeds={})\n"
    )
    assert scales("paper_mine.py", "") == ["tiny"]
    assert scales(None, "s") == scales("no_such_study", "s") == []
    assert "moe.num_experts=" in complete_path("moe.num")


def test_a_study_file_that_is_named_without_its_ending_is_found_for_the_user(
    tmp_path, monkeypatch, moe_study
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_router.py").touch()
    code, _, err = moe_study("plan", "my_router")
    assert code == 2
    assert "Did you mean my_router.py" in err


def test_doctor_fails_where_a_launch_would(tmp_path, moe_study):
    (tmp_path / "optuna.db").write_text("not a database")
    code, out, _ = moe_study("doctor", "--home", tmp_path, "--no-ray", "--json")
    (failed,) = [check for check in json.loads(out)["checks"] if check["state"] == "failed"]
    assert code == 1
    assert failed["name"] == "Optuna storage"
    assert failed["remedy"]


@pytest.mark.parametrize("free", [10**9, 10**5])
def test_doctor_sets_what_a_launch_has_still_to_write_beside_what_is_free(
    free, hold, grid_study, monkeypatch, moe_study
):
    with hold(grid_study) as session:
        home = session.options.home
        record = session.ledger.next().record
        folder = home.run_folder(record.config_hash, moe_digest())
        folder.mkdir(parents=True)
        (folder / "weights").write_bytes(bytes(300_000))
        session.ledger.started(record.number)
        last = {STEP: 8, "tokens": 1024, TIMESTAMP_MS: 1000, VAL_LOSS: 2.5}
        session.ledger.annotate(record.number, {MOE_DIGEST: moe_digest()})
        session.ledger.completed(record.number, last, tokens=1024)
        left = len(session.records) - 1
    monkeypatch.setattr("shutil.disk_usage", lambda place: SimpleNamespace(free=free))
    code, out, _ = moe_study("doctor", "--home", home.root, "--no-ray", "--json")
    (told,) = [check for check in json.loads(out)["checks"] if check["name"] == "launch"]
    assert f"about {size_text(left * 300_000)} to write, {size_text(free)} free" in told["found"]
    assert told["state"] == ("note" if free > left * 300_000 else "failed")
    assert code == 1  # a home wants more than either


def test_status_shows_how_far_a_running_trial_is_and_run_where_to_watch_it(
    hold, grid_study, moe_study, monkeypatch
):
    with hold(grid_study) as session:
        number = session.ledger.next().record.number
        session.ledger.started(number)
        entry = {STEP: 4, "tokens": 512, TIMESTAMP_MS: 1000, VAL_LOSS: 2.5}
        session.ledger.progressed(number, entry)
        monkeypatch.setattr("orchestrator.cli.parameters.load_study", lambda name: grid_study)
        asked = ("status", "tiny-grid", "--home", session.options.home.root)
        trial = json.loads(moe_study(*asked, "--json")[1])["trials"][0]
        assert (trial["state"], trial["tokens_trained"]) == ("running", 512)
        (line,) = [x for x in moe_study(*asked)[1].splitlines() if "running" in x and "|" in x]
        assert " 512 " in line

        (home,) = _where_to_watch(session)
        assert home == f"moe-study ui --home {session.options.home.root}"
        where = "orchestrator.cluster.connection.dashboard"
        monkeypatch.setattr(where, lambda: "http://head:8265")
        session.options = dataclasses.replace(session.options, address="auto")
        assert [*_where_to_watch(session)] == [home, "Ray's dashboard http://head:8265"]


def test_ui_refuses_a_port_that_is_taken_and_a_home_that_is_not_there(
    finished, tmp_path, moe_study
):
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        held.listen()
        port = held.getsockname()[1]
        code, out, err = moe_study("ui", "--home", finished.home.root, "--mlflow-port", port)
    assert (code, out) == (2, "")
    assert f"received {port}, which is in use" in err
    code, out, err = moe_study("ui", "--home", tmp_path / "none")
    assert (code, out) == (2, "")
    assert "which does not exist" in err


def test_no_help_loses_a_word_to_markup(moe_study):
    """Rich takes "[all]" for a style, and prints nothing in its place."""
    for name, command in get_command(app).commands.items():
        _, out, _ = moe_study(name, "--help")
        shown = re.sub(r"[\s│]+", "", out)
        for option in command.params:
            for word in re.findall(r"\[[^\]]+\]", getattr(option, "help", None) or ""):
                assert re.sub(r"\s+", "", word) in shown, (name, word)


def test_two_that_start_at_once_take_two_ports():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        usual = probe.getsockname()[1]
    with ExitStack() as first, ExitStack() as second:
        port = _port(None, usual, "--mlflow-port", first)
        assert _port(None, usual, "--mlflow-port", second) > port
        with pytest.raises(BadInput, match="in use"):
            _port(port, usual, "--mlflow-port", second)
        first.close()
        assert _port(port, usual, "--mlflow-port", second) == port


def test_plan_tells_of_time_where_the_home_knows_it(finished, tmp_path, moe_study):
    code, out, _ = moe_study("plan", "quickstart", "--home", finished.home.root)
    assert code == 0
    assert "of one worker, going by 14 trials" in out
    _, out, _ = moe_study("plan", "quickstart", "--home", tmp_path / "none")
    assert "going by" not in out


def test_plan_stands_where_the_record_cannot_be_read(tmp_path, moe_study, corpus):
    (tmp_path / "optuna.db").write_text("no database")
    code, out, err = moe_study("plan", "quickstart", "--home", tmp_path, "--corpus", corpus)
    assert code == 0, err
    assert "16 trials" in out
    assert "cannot be told" in err
    assert "Traceback" not in err


def test_plan_stands_where_a_part_of_the_record_is_gone(finished, tmp_path, moe_study):
    shutil.copy(finished.home.root / "optuna.db", tmp_path)
    with sqlite3.connect(tmp_path / "optuna.db") as database:
        database.execute("DROP TABLE trial_user_attributes")
    database.close()
    code, _, err = moe_study("plan", "quickstart", "--home", tmp_path)
    assert code == 0
    assert "cannot be told" in err
    assert "trial_user_attributes" in err


def test_status_without_a_study_shows_every_launch(finished, tmp_path, moe_study):
    code, out, _ = moe_study("status", "--home", finished.home.root, "--json")
    assert code == 0
    (launch,) = json.loads(out)["launches"]
    assert (launch["study"], launch["launch"]) == ("quickstart", finished.name)
    states = {"complete": 14, "pruned": 1, "failed": 1, "running": 0, "waiting": 0}
    assert launch["states"] == states
    code, out, _ = moe_study("status", "--home", finished.home.root)
    assert code == 0
    assert "14 complete, 1 pruned, 1 failed" in out
    code, out, err = moe_study("status", "--home", finished.home.root, "--scale", "gpu")
    assert (code, out) == (2, "")
    assert finished.name in err
    code, out, err = moe_study("status", "--home", tmp_path)
    assert (code, out) == (2, "")
    assert list(tmp_path.iterdir()) == []
