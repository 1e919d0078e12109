"""The command line as a script sees it: JSON on stdout, one message on stderr, exit codes."""

from __future__ import annotations

import json
import socket
import tempfile
from pathlib import Path

import pytest


@pytest.fixture
def closed_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


INFEASIBLE = """
from orchestrator.study import Study
from search_spaces.domains import Choice
from search_spaces.space import Space
from studies.scales import SCALES

STUDY = Study(
    name="hopeless", question="?", baseline="none", held_fixed="all", scales=SCALES, trials=3,
    space=Space(axes={"moe.num_experts": Choice((2, 3)), "moe.top_k": Choice((4, 5))}),
)
"""


def bad_inputs(tmp_path, corpus, closed_port):
    blocked = tmp_path / "blocked"
    blocked.write_text("a file, not a folder")
    empty = tmp_path / "empty.txt"
    empty.write_text("")
    study = tmp_path / "hopeless.py"
    study.write_text(INFEASIBLE)
    broken = tmp_path / "broken.py"
    broken.write_text("STUDY = 1 / 0")
    named = ("--corpus", corpus)
    return {
        "unknown study": (["quickstrat", *named], "quickstart"),
        "missing study file": ([tmp_path / "no.py", *named], "must exist"),
        "broken study file": ([broken, *named], "ZeroDivisionError"),
        "unknown path": (["quickstart", *named, "--set", "moe.topk=2"], "moe.top_k"),
        "wrong type": (["quickstart", *named, "--set", "train.num_steps=many"], "integer"),
        "wrong choice": (["quickstart", *named, "--set", "train.precision=fp8"], "fp32, bf16"),
        "no value": (["quickstart", *named, "--set", "train.num_steps"], "PATH=VALUE"),
        "idle override": (["quickstart", *named, "--set", "moe.router=hash"], "varies"),
        "seed by --set": (["quickstart", *named, "--set", "train.seed=3"], "--seeds"),
        "infeasible override": (["quickstart", *named, "--set", "moe.top_k=9"], "top_k"),
        "infeasible space": ([study, *named], "feasible"),
        "missing corpus": (["quickstart", "--corpus", "files:/nowhere/*.txt"], "/nowhere"),
        "empty corpus": (["quickstart", "--corpus", f"files:{empty}"], "empty"),
        "unknown corpus kind": (["quickstart", "--corpus", "ftp:x"], "stdlib"),
        "unreachable MLflow": (
            ["quickstart", *named, "--mlflow-uri", f"http://127.0.0.1:{closed_port}"],
            "nothing answers",
        ),
        "unreachable storage": (
            ["quickstart", *named, "--optuna-storage", f"postgresql://127.0.0.1:{closed_port}/x"],
            "nothing answers",
        ),
        "MLflow folder": (["quickstart", *named, "--mlflow-uri", "file:///x"], "plain folder"),
        "unreachable cluster": (
            ["quickstart", *named, "--address", f"127.0.0.1:{closed_port}"],
            "nothing answers",
        ),
        "unwritable home": (["quickstart", *named, "--home", blocked / "home"], "writable"),
        "bad seeds": (["quickstart", *named, "--seeds", "0,one"], "whole numbers"),
        "doubled seeds": (["quickstart", *named, "--seeds", "0,0"], "once"),
        "too many workers": (["quickstart", *named, "--workers", "2", "--cpus", "1"], "CPUs"),
        "indivisible workers": (["quickstart", *named, "--workers", "3"], "micro-batches"),
        "no workers": (["quickstart", *named, "--workers", "0"], "at least 1"),
        "unknown scale": (["quickstart", *named, "--scale", "huge"], "smoke, cpu, gpu, paper"),
        "trials of a grid": (["quickstart", *named, "--trials", "3"], "grid"),
    }


NAMES = [*bad_inputs(Path(tempfile.mkdtemp()), "", 1)]


@pytest.mark.parametrize("name", NAMES)
def test_bad_input_is_one_message_exit_code_2_and_nothing_made(
    name, moe_study, tmp_path, corpus, closed_port, monkeypatch
):
    arguments, expected = bad_inputs(tmp_path, corpus, closed_port)[name]
    monkeypatch.setenv("MOE_STUDY_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    code, out, err = moe_study("run", *arguments)
    assert code == 2
    assert out == ""
    assert expected in " ".join(err.split())
    assert "Traceback" not in err
    assert err.count("moe-study:") == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_plan_is_json_with_hashes_and_costs(moe_study, corpus):
    code, out, _ = moe_study("plan", "quickstart", "--corpus", corpus, "--json")
    planned = json.loads(out)
    assert code == 0
    assert planned["seeds"] == [0, 1]
    assert planned["trials"] == 16 == 2 * len(planned["cells"])
    hashes = [h for cell in planned["cells"] for h in cell["config_hash"].values()]
    assert len(set(hashes)) == 16
    by_name = {cell["cell"]: cell for cell in planned["cells"]}
    assert by_name["token-learned"]["params_active"] < by_name["token-learned"]["params_total"]
    assert planned["flops_total"] == sum(
        2 * cell["flops_per_token"] * planned["tokens_total"] // 16 for cell in planned["cells"]
    )


def test_plan_without_its_corpus_has_no_hashes(moe_study):
    code, out, err = moe_study("plan", "quickstart", "--corpus", "files:/nowhere/x.txt", "--json")
    assert code == 0
    assert "matches none" in err, "a plan may be made where the corpus is not, and says so"
    hashes = [h for cell in json.loads(out)["cells"] for h in cell["config_hash"].values()]
    assert set(hashes) == {None}


def test_list_names_every_study(moe_study):
    code, out, _ = moe_study("list", "--json")
    assert code == 0
    assert {"quickstart", "search"} <= {row["study"] for row in json.loads(out)["studies"]}


@pytest.mark.parametrize("command", ["status", "table"])
def test_readers_say_that_nothing_was_run(command, moe_study, tmp_path):
    code, _, err = moe_study(command, "quickstart", "--home", tmp_path / "none")
    assert code == 2
    assert "does not exist" in err
    assert not (tmp_path / "none").exists()
