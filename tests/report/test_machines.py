"""What a cell was trained with and on is told under a table that pools over several of them."""

from __future__ import annotations

import json
import platform

import torch

from moe.metrics import VAL_LOSS
from moe.train.machine import PROCESSOR, TORCH, machine
from orchestrator.report.table_text import footnotes, render
from orchestrator.stores.trial_record import MACHINE


def entry(step, loss):
    return {"step": step, "tokens": step * 128, "timestamp_ms": 1000 + step, VAL_LOSS: loss}


def table_of(hold, study, machines):
    """The table of a launch whose trials end on these machines, in turn."""
    with hold(study) as session:
        for told in machines:
            number = session.ledger.next().record.number
            session.ledger.started(number)
            session.ledger.completed(number, entry(8, 2.0), tokens=1, attributes=told)
        return session.table()


def test_several_versions_and_processors_are_told(hold, grid_study):
    one = {TORCH: "2.13.0", PROCESSOR: "Processor A"}
    machines = [one, one, {}, one, {TORCH: "2.14.1", PROCESSOR: "Processor B"}]
    table = table_of(hold, grid_study, machines)
    assert [line for line in footnotes(table) if line.startswith("Pooled")] == [
        "Pooled over versions of torch, which change last digits: 2.13.0, 2.14.1.",
        "Pooled over types of processor, which change last digits: Processor A, Processor B.",
    ]
    dense, learned, _ = json.loads(render(table, "json"))["rows"]
    assert (dense["n"], dense["torch"], dense["processors"]) == (2, ["2.13.0"], ["Processor A"])
    assert (learned["n"], learned["torch"]) == (2, ["2.13.0", "2.14.1"])
    assert "2.13.0 2.14.1" in render(table, "csv")
    for form in ("markdown", "latex"):
        assert "Pooled over types of processor" in render(table, form)


def test_one_machine_needs_no_word(hold, grid_study):
    told = machine("cpu")
    assert tuple(told) == MACHINE
    assert told[TORCH] == torch.__version__
    assert told[PROCESSOR] not in ("", platform.system())
    table = table_of(hold, grid_study, [told, told, {}])
    assert not any("Pooled" in line for line in footnotes(table))
