"""`python -m moe.train` as its users run it."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys

import pytest
import torch

from moe.code_digest import moe_digest
from moe.config import TrialConfig
from moe.identity import config_hash
from moe.train.checkpoint import load_checkpoint
from moe.train.command import main
from moe.train.training_run import train

_WITHOUT = [
    "datasets",
    "tokenizers",
    "tiktoken",
    "transformers",
    "huggingface_hub",
    "ray",
    "optuna",
    "mlflow",
    "pandas",
    "scipy",
    "typer",
    "rich",
    "filelock",
]
_WITHOUT_THEM = f"""
import runpy, sys

class Without:
    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in {_WITHOUT!r}:
            return self.finder.find_spec(name, path, target)

    def __getattr__(self, name):
        return getattr(self.finder, name)

sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
runpy.run_module("moe.train", run_name="__main__", alter_sys=True)
"""


@pytest.fixture
def config_file(tmp_path, make_config):
    path = tmp_path / "config.json"
    path.write_text(make_config(num_experts=4, top_k=2, dropout=0.1).to_json())
    return path


def test_run_with_torch_numpy_and_pyarrow_alone(tmp_path, config_file, tokens_dir, store, compare):
    out = tmp_path / "out"
    ended = subprocess.run(
        [sys.executable, "-c", _WITHOUT_THEM, config_file, "--tokens", tokens_dir, "--out", out],
        check=True,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert ended.stderr == ""
    lines = [json.loads(line) for line in ended.stdout.splitlines()]
    assert [line["step"] for line in lines] == [4, 8, 12]
    config = TrialConfig.from_json(config_file.read_text())
    result = json.loads((out / "result.json").read_text())
    assert result["config_hash"] == config_hash(config)
    assert result["moe_digests"] == [result["moe_digest"]] == [moe_digest()]
    assert (result["status"], result["error"], result["threads"]) == ("complete", None, 1)
    assert result["curve"] == lines
    assert result["metrics"] == lines[-1]
    assert result["late_metrics"][-1]["router/saturation"] == 1
    assert result["tokens"] == 12 * 128
    assert result["device_s"] == lines[-1]["cost/device_s"]
    assert result["versions"]["torch"] == torch.__version__
    assert (out / "metrics.jsonl").read_text() == ended.stdout
    assert TrialConfig.from_json((out / "config.json").read_text()) == config
    assert (out / "routing.parquet").exists()

    here = train(config, store, report=lambda *_: None, out=tmp_path / "here")
    weights = [load_checkpoint(folder).model for folder in (out / "final", here.checkpoint)]
    assert compare.weights(*weights)
    assert compare.clockless(here.curve) == compare.clockless(lines)


def test_same_command_replays_a_finished_run(tmp_path, config_file, tokens_dir, capsys):
    command = [str(config_file), "--tokens", str(tokens_dir), "--out", str(tmp_path / "out")]
    assert main(command) == 0
    first = capsys.readouterr().out
    assert main(command) == 0
    assert capsys.readouterr().out == first
    assert (tmp_path / "out" / "metrics.jsonl").read_text() == first


def test_digest_is_filled_in_from_the_tokens(tmp_path, make_config, tokens_dir, store, capsys):
    config = make_config(num_steps=1)
    bare = dataclasses.replace(config, data=dataclasses.replace(config.data, digest=""))
    (tmp_path / "config.json").write_text(bare.to_json())
    out = tmp_path / "out"
    arguments = [str(tmp_path / "config.json"), "--tokens", str(tokens_dir), "--out", str(out)]
    assert main(arguments) == 0
    assert TrialConfig.from_json((out / "config.json").read_text()) == config


def test_diverged_run_exits_1_and_its_result_says_why(tmp_path, make_config, tokens_dir, capsys):
    (tmp_path / "config.json").write_text(make_config(max_loss=1.0).to_json())
    out = tmp_path / "out"
    arguments = [str(tmp_path / "config.json"), "--tokens", str(tokens_dir), "--out", str(out)]
    assert main(arguments) == 1
    printed = capsys.readouterr()
    assert "diverged at step 1" in printed.err
    assert "Traceback" not in printed.err
    result = json.loads((out / "result.json").read_text())
    assert result["status"] == "failed"
    assert result["error"].startswith("DivergenceError: training diverged at step 1")
    assert result["curve"] == []


def test_interruption_exits_130_and_the_same_command_continues(
    tmp_path, config_file, tokens_dir, capsys, monkeypatch
):
    command = [str(config_file), "--tokens", str(tokens_dir), "--out", str(tmp_path / "out")]

    def interrupted(*_args, **_kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("moe.train.trainer.Trainer.train_step", interrupted)
        assert main(command) == 130
    assert "same command continues" in capsys.readouterr().err
    assert main(command) == 0


@pytest.fixture
def bad_input(tmp_path, config_file, tokens_dir, make_config):
    """Arguments by what is wrong with them."""

    def arguments(wrong: str) -> list[str]:
        config, tokens, out, more = config_file, tokens_dir, tmp_path / "out", []
        match wrong:
            case "no config file":
                config = tmp_path / "missing.json"
            case "config is not JSON":
                config.write_text("{")
            case "config is not text":
                config.write_bytes(b"\xff\xfe\x00")
            case "unknown field":
                config.write_text('{"moe": {"experts": 4}}')
            case "impossible value":
                config.write_text('{"model": {"num_layers": 0}}')
            case "no tokens":
                tokens = tmp_path
            case "tokens of another corpus":
                values = json.loads(config.read_text())
                values["data"]["digest"] = "0" * 16
                config.write_text(json.dumps(values))
            case "out is a file":
                out.write_text("")
            case "out is of another config":
                train_arguments = [str(config), "--tokens", str(tokens), "--out", str(out)]
                assert main(train_arguments) == 0
                config.write_text(make_config(num_steps=2).to_json())
            case "no CUDA":
                more = ["--device", "cuda"]
        return [str(config), "--tokens", str(tokens), "--out", str(out), *more]

    return arguments


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("no config file", "missing.json"),
        ("config is not JSON", "JSON"),
        ("config is not text", "UTF-8"),
        ("unknown field", "experts"),
        ("impossible value", "model.num_layers must be at least 1"),
        ("no tokens", "prepared tokens"),
        ("tokens of another corpus", "data.digest=0000"),
        ("out is a file", "out"),
        ("out is of another config", "Give the run another folder"),
        pytest.param(
            "no CUDA",
            "CUDA",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU"),
        ),
    ],
)
def test_bad_input_exits_2_with_one_message(bad_input, tmp_path, capsys, wrong, message):
    arguments = bad_input(wrong)
    capsys.readouterr()
    before = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*"))
    assert main(arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("error: ")
    assert message in printed.err
    assert printed.err.count("\n") == 1
    assert sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*")) == before


@pytest.mark.parametrize("more", [["--threads", "0"], ["--threads", "x"], ["--what"]])
def test_bad_options_exit_2(config_file, capsys, more):
    with pytest.raises(SystemExit) as caught:
        main([str(config_file), "--tokens", "a", "--out", "b", *more])
    assert caught.value.code == 2
    assert "Traceback" not in capsys.readouterr().err
