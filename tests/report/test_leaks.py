"""Cells in which later tokens decide for earlier ones are named under each table that holds any."""

from __future__ import annotations

import dataclasses
import json

import pytest

from moe.config import ConfigError, TrialConfig
from moe.identity import config_told, told
from moe.metrics import VAL_LOSS
from orchestrator.report.table_text import NOT_CAUSAL, body, footnotes, render
from orchestrator.study.comparability import leaks_future
from search_spaces.cells import Cell
from search_spaces.overlay import overlay

EXPERTS = {"moe.num_experts": 4, "moe.top_k": 2}
EXPERT_CHOICE = {**EXPERTS, "moe.selection": "expert", "moe.gate": "switch"}


def entry(step, loss):
    return {"step": step, "tokens": step * 128, "timestamp_ms": 1000 + step, VAL_LOSS: loss}


def table_of(hold, study):
    with hold(study) as session:
        while (given := session.ledger.next()) is not None:
            session.ledger.started(given.record.number)
            session.ledger.completed(given.record.number, entry(8, 2.0), tokens=1)
        return session.table()


def test_cells_that_hear_later_tokens_are_named(hold, grid_study):
    cells = (
        Cell(name="causal", overrides=EXPERTS),
        Cell(name="choice", overrides=EXPERT_CHOICE),
        Cell(name="mean", overrides={**EXPERTS, "moe.routing_unit": "sequence"}),
    )
    table = table_of(hold, dataclasses.replace(grid_study, cells=cells, baseline="causal"))
    (line,) = [line for line in footnotes(table) if "Not causal" in line]
    assert line.startswith(f"{NOT_CAUSAL} Not causal: choice, mean. ")
    assert [row[0] for row in body(table)] == [
        "causal",
        f"choice {NOT_CAUSAL}",
        f"mean {NOT_CAUSAL}",
    ]
    rows = json.loads(render(table, "json"))["rows"]
    assert [row["leaks_future"] for row in rows] == [False, True, True]
    for form in ("markdown", "latex"):
        assert line in render(table, form)


def test_what_is_told_of_a_configuration_is_enough_to_have_it_again():
    for fields in (EXPERTS, EXPERT_CHOICE, {"model.norm": "rmsnorm", "train.num_steps": 7}):
        config = overlay(TrialConfig(), fields)
        assert config_told(told(config)) == config
    with pytest.raises(ConfigError, match="section moe has the fields"):
        config_told({"moe.of_another_version": 1})


def test_a_larger_vocabulary_leaks_no_less():
    """The record says no tokenizer, without which 512 rows of the embedding are refused."""
    config = overlay(TrialConfig(), {**EXPERTS, "moe.routing_unit": "sequence"})
    assert leaks_future({**told(config), "data.vocab_size": 512}) is True
    assert leaks_future({"moe.of_another_version": 1}) is None
