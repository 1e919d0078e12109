"""Trials that differ in steps, batch and evaluations: each is judged and priced by its own."""

from __future__ import annotations

import dataclasses
import io
import re

import pytest
from rich.console import Console

from orchestrator.base.errors import BadInput
from orchestrator.cli.progress import RunProgress, seconds_left
from orchestrator.cluster.connection import Resources
from orchestrator.driver.options import Options, require_sane
from orchestrator.report.rungs import rung_line, rungs_of_launch
from orchestrator.study import EarlyStopping, Study
from orchestrator.study.cautions import cautions
from orchestrator.study.plan import plan
from orchestrator.study.resolve import resolve
from orchestrator.trials.spending import Limits, spent
from search_spaces.cells import Cell
from tests.fixtures.studies import TINY

OVERRIDES = {
    "short": {"train.num_steps": 8, "train.batch_tokens": 128, "train.eval_every": 2},
    "long": {"train.num_steps": 32, "train.batch_tokens": 64, "train.eval_every": 4},
    "wide": {"train.num_steps": 16, "train.batch_tokens": 512, "train.eval_every": 1},
}
# The base's own numbers are those of no cell: whoever reads them is wrong everywhere.
BASE = dataclasses.replace(
    TINY,
    train=dataclasses.replace(TINY.train, num_steps=4, batch_tokens=1024, eval_every=4),
)
TOKENS = {name: o["train.num_steps"] * o["train.batch_tokens"] for name, o in OVERRIDES.items()}


@pytest.fixture
def study():
    return Study(
        name="lengths", question="?", baseline="short", held_fixed="?", scales={"smoke": BASE},
        cells=[Cell(name=name, overrides=o) for name, o in OVERRIDES.items()], seeds=(0,),
        early_stopping=EarlyStopping(first_rung=0.25, reduction_factor=2),
    )  # fmt: skip


def evaluate(ledger, number, step, loss):
    """As the worker and Tune do it: whether the trial is ended."""
    record = ledger.trials[number]
    own = OVERRIDES[record.cell]
    ends = step < own["train.num_steps"] and ledger.judged(number, step, loss)
    tokens = step * own["train.batch_tokens"]
    ledger.progressed(
        number, {"step": step, "tokens": tokens, "timestamp_ms": step, "val/loss": loss}
    )
    return ends


def begun(session):
    numbers = {}
    while (found := session.ledger.next()) is not None:
        session.ledger.started(found.record.number)
        numbers[found.record.cell] = found.record.number
    return numbers


def test_rungs_are_shares_of_each_trials_own_steps(hold, study):
    with hold(study) as session:
        ledger, numbers = session.ledger, begun(session)
        # A quarter of each: 2 of 8, 8 of 32, 4 of 16. The best comes first, then the worse ones.
        assert not evaluate(ledger, numbers["long"], 4, 9.0), "no rung of its own yet"
        assert not evaluate(ledger, numbers["long"], 8, 1.0)
        assert evaluate(ledger, numbers["short"], 2, 2.0), "worse at its first quarter"
        for step in (1, 2, 3):
            assert not evaluate(ledger, numbers["wide"], step, 9.0)
        assert not evaluate(ledger, numbers["wide"], 4, 0.5)
        assert not evaluate(ledger, numbers["long"], 12, 9.0), "between its rungs"
        assert not evaluate(ledger, numbers["wide"], 8, 0.5), "half of it"
        assert evaluate(ledger, numbers["long"], 16, 9.0), "worse at its own half"


def test_a_long_trial_is_not_ended_where_the_base_ends(hold, study):
    with hold(study) as session:
        number = begun(session)["long"]
        for step in range(4, 33, 4):
            assert not evaluate(session.ledger, number, step, 5.0 - step / 10)


def test_a_restarted_driver_judges_by_the_same_shares(hold, study):
    with hold(study) as session:
        numbers = begun(session)
        evaluate(session.ledger, numbers["long"], 8, 1.0)
        session.ledger.stopped(numbers["long"], tokens=512)
    with hold(study) as session:
        numbers = begun(session)
        assert evaluate(session.ledger, numbers["wide"], 4, 2.0)


def test_tokens_are_each_trials_own(hold, study):
    with hold(study, options={"limits": Limits(tokens=10**9)}) as session:
        numbers = begun(session)
        evaluate(session.ledger, numbers["wide"], 4, 0.5)
        evaluate(session.ledger, numbers["long"], 8, 0.9)
        expected = 4 * 512 + 8 * 64
        assert spent(session.records, session.launch)["tokens"] == expected
    assert spent(session.records, session.launch)["tokens"] == expected
    with hold(study, options={"limits": Limits(tokens=sum(TOKENS.values()))}) as session:
        assert len(begun(session)) == 3, "exactly what they need is enough"


def test_the_plan_is_priced_by_each(study, corpus):
    planned = plan(resolve(study, corpus_spec=corpus))
    assert planned["tokens_total"] == sum(TOKENS.values())


def test_the_time_left_is_by_each_trials_own_work(hold, study):
    with hold(study) as session:
        numbers = begun(session)
        ledger = session.ledger
        assert seconds_left(session.records, 3, 0.0, 10.0) is None
        evaluate(ledger, numbers["long"], 8, 0.9)
        trained = 8 * 64  # from the first report on something is known
        found = seconds_left(session.records, 3, 0.0, 10.0)
        assert found == pytest.approx(10.0 * (sum(TOKENS.values()) - trained) / trained)
        last = {"step": 8, "tokens": 1024, "timestamp_ms": 8, "val/loss": 1.0}
        ledger.completed(numbers["short"], last, tokens=TOKENS["short"])
        found = seconds_left(session.records, 3, 0.0, 10.0)
    others = TOKENS["long"] + TOKENS["wide"] - trained
    assert found == pytest.approx(10.0 * others / (TOKENS["short"] + trained))


def test_a_pipe_gets_a_line_a_minute_and_a_terminal_what_runs(hold, study, monkeypatch):
    text = io.StringIO()
    progress = RunProgress(Console(file=text, width=200))
    with hold(study, listener=progress) as session:
        progress.planned(session.ledger)
        numbers = begun(session)
        evaluate(session.ledger, numbers["long"], 8, 0.9)
        assert "running" not in text.getvalue(), "the first minute is not over"
        monkeypatch.setattr("orchestrator.cli.progress.LINE_EVERY_S", 0.0)
        evaluate(session.ledger, numbers["long"], 16, 0.8)
        shown = io.StringIO()
        Console(file=shown, width=200, force_terminal=True).print(progress)
    line = next(line for line in text.getvalue().splitlines() if "running:" in line)
    assert re.match(r"\d\d:\d\d 0 of 3 done; running: .*long seed 0 50%.*; left \d+:\d\d$", line)
    assert "long seed 0 50%" in shown.getvalue()


def test_rung_lines_and_cautions_speak_of_each(hold, study):
    with hold(study) as session:
        found, lengths = rungs_of_launch(session.info.attributes, session.records)
    assert lengths == [8, 16, 32]
    assert "at 25%, 50% of each trial's own steps (8, 16, 32)" in rung_line(found, lengths)
    assert cautions(session.launch) == []


def test_workers_share_each_cells_micro_batches(study, corpus, home):
    """The base has 16 of them, the long cell but one."""
    launch = resolve(study, corpus_spec=corpus)
    with pytest.raises(BadInput, match=r"--workers 2 for 1 micro-batches .* of long"):
        require_sane(launch, Options(home=home, resources=Resources(workers=2)))
