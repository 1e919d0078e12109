from __future__ import annotations

import subprocess
import sys

from moe.config import TrialConfig
from search_spaces.axes import axes_markdown, axis_info, describe_axes
from search_spaces.overlay import flatten


def test_every_field_of_the_config_is_an_axis_with_its_default():
    assert {axis.path: axis.default for axis in describe_axes()} == flatten(TrialConfig())
    assert all(axis.meaning and axis.legal for axis in describe_axes())
    assert all(type(axis.default) is axis.type for axis in describe_axes())


def test_legal_values_are_the_rules_that_the_config_enforces():
    legal = {axis.path: axis.legal for axis in describe_axes()}
    assert legal["moe.router"] == "learned, frozen, random, hash, label"
    assert legal["moe.num_experts"] == "at least 0"
    assert legal["model.context_length"] == "at least 2"
    assert legal["model.dropout"] == "in [0, 1)"
    assert legal["data.holdout_fraction"] == "between 0 and 1"
    assert legal["data.vocab_size"].startswith("at least 257")
    assert legal["optim.weight_decay"] == "not negative"
    assert legal["data.corpus"] == "text"


def test_an_axis_carries_type_choices_and_source():
    assert axis_info("moe.top_k").type is int
    assert axis_info("moe.top_k").choices == ()
    assert axis_info("moe.routing_unit").choices == ("token", "sequence")
    assert axis_info("moe.granularity").source == "2402.07871"


def test_the_reference_has_one_row_an_axis():
    text = axes_markdown()
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    assert len(rows) == len(describe_axes())
    assert all(row.replace(r"\|", "").count("|") == 7 for row in rows)
    assert [line for line in text.splitlines() if line.startswith("## ")] == [
        "## model",
        "## moe",
        "## data",
        "## optim",
        "## train",
    ]
    assert "[2402.07871](https://arxiv.org/abs/2402.07871)" in text


def test_this_floor_imports_no_torch_and_no_orchestration():
    """In a fresh interpreter: other tests of this process have imported them."""
    program = (
        "import sys, pkgutil, importlib, search_spaces\n"
        "for m in pkgutil.iter_modules(search_spaces.__path__):\n"
        "    importlib.import_module(f'search_spaces.{m.name}')\n"
        "print(sorted({'torch', 'ray', 'optuna', 'mlflow'} & set(sys.modules)))"
    )
    out = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert out.stdout.strip() == "[]"
