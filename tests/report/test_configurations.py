"""A launch whose study was edited between two runs: each configuration stands by itself."""

from __future__ import annotations

import dataclasses
import json

import pytest

from moe.metrics import STEP, TIMESTAMP_MS, VAL_LOSS
from orchestrator.base.errors import BadInput
from orchestrator.report.edited_study import edit_line
from orchestrator.report.known_spread import spread_of_record
from orchestrator.report.notebook import LaunchFrames
from orchestrator.report.page import render_report
from orchestrator.report.print_figures import _heading
from orchestrator.report.records import read_launch
from orchestrator.report.table_text import as_json, render
from orchestrator.report.tables import best_row
from orchestrator.stores.mlflow_client import connect
from orchestrator.study import Better, EarlyStopping
from orchestrator.study.resolve import resolve
from orchestrator.trials.spending import spent
from search_spaces.overlay import overlay

CLAIM = Better(id="c", statement="learned is better than dense", a="learned", b="dense")


def edited(study, **values):
    """The study with another base at its scale."""
    base = overlay(study.scales["smoke"], {k.replace("__", "."): v for k, v in values.items()})
    return dataclasses.replace(study, scales={"smoke": base})


def finish(session, count, loss):
    """Completes the next trials as if they had trained; `loss` of a point."""
    for _ in range(count):
        assignment = session.ledger.next()
        number, config = assignment.record.number, assignment.point.config
        session.ledger.started(number)
        value = loss(assignment.point)
        entry = {STEP: config.train.num_steps, TIMESTAMP_MS: 1, VAL_LOSS: value}
        session.ledger.progressed(number, entry)
        tokens = config.train.num_steps * config.train.batch_tokens
        session.ledger.completed(number, entry, tokens=tokens)


@pytest.fixture
def study(grid_study):
    return dataclasses.replace(grid_study, claims=(CLAIM,))


def loss_of(point):
    return {"dense": 3.0, "learned": 2.0, "frozen": 2.5}[point.cell] + point.seed / 100


def read_home(home, study):
    launch = read_launch(study.name, home=home)
    return launch, launch.table(study)


def test_a_claim_pairs_seeds_of_one_configuration_only(home, hold, study):
    """Both seeds before the edit, one after it: the new seed 0 is paired with nothing old."""
    with hold(study) as session:
        finish(session, 6, loss_of)
        assert session.table().judgement.verdicts[0].n == 2
    new = edited(study, optim__warmup_steps=5)
    with hold(new, seeds=(0,)) as session:
        finish(session, 3, lambda point: loss_of(point) + 10)
        own = session.table()
    _, table = read_home(home, new)
    assert [dataclasses.asdict(row) for row in own.rows] == [
        dataclasses.asdict(row) for row in table.rows
    ]
    (verdict,) = table.judgement.verdicts
    assert verdict.n == 1
    assert [(row.cell, row.n, row.seeds, row.is_older) for row in table.rows] == [
        ("dense", 1, [0], False),
        ("learned", 1, [0], False),
        ("frozen", 1, [0], False),
        ("dense (optim.warmup_steps=2)", 2, [0, 1], True),
        ("learned (optim.warmup_steps=2)", 2, [0, 1], True),
        ("frozen (optim.warmup_steps=2)", 2, [0, 1], True),
    ]
    assert table.rows[0].mean == pytest.approx(13.0)
    assert table.rows[3].mean == pytest.approx(3.005)
    for form in ("markdown", "latex", "csv", "json"):
        text = render(table, form).replace("\\_", "_")
        assert "dense (optim.warmup_steps=2)" in text
    assert "nothing is judged by them" in render(table, "markdown")
    assert "6 complete trials are of configurations that the study had before" in str(
        table.judgement.notes
    )


def test_the_spread_that_power_goes_by_is_of_one_configuration_only(home, hold, study):
    """Three seeds of before and two of now: paired across the edit they would lie 10 apart."""

    def apart(point):  # seeds of two cells differ
        return loss_of(point) + point.seed * (point.cell == "dense")

    with hold(study, seeds=(0, 1, 2)) as session:
        finish(session, 9, apart)

    def spread():
        found = spread_of_record(home.optuna_storage, home, study=study.name, scale="smoke")
        return found("learned", "dense", VAL_LOSS)

    assert spread().source.startswith("3 seeds of learned and dense")
    new = edited(study, optim__warmup_steps=5)
    with hold(new, seeds=(0, 1)) as session:
        finish(session, 6, lambda point: apart(point) + 10)
    told = spread()
    assert told.source.startswith("2 seeds of learned and dense")
    assert told.sd == pytest.approx(2**-0.5)


def test_before_any_trial_of_the_edit_nothing_is_judged_by_old_ones(home, hold, study):
    with hold(study) as session:
        finish(session, 6, loss_of)
    new = edited(study, optim__warmup_steps=5)
    with hold(new) as session:
        finish(session, 1, loss_of)  # dense, seed 0
    _, table = read_home(home, new)
    assert table.judgement.verdicts[0].n == 0
    assert {row.cell for row in table.rows if row.n and not row.is_older} == {"dense"}


def test_readers_are_told_of_an_edit_that_was_not_run(home, hold, study, sampled_study):
    """Without the corpus, and without a word where the study is as it was."""
    with hold(study, overrides={"train.eval_every": 2}) as session:
        finish(session, 6, loss_of)
    launch = read_launch(study.name, home=home)

    def said(of):
        return edit_line(of, launch.info, launch.trials)

    assert said(study) is None
    assert "cell dense has optim.warmup_steps=5" in said(edited(study, optim__warmup_steps=5))
    assert said(edited(study, train__eval_every=8)) is None, "--set says otherwise"
    assert "no cell frozen" in said(dataclasses.replace(study, cells=study.cells[:2]))
    assert "no scale 'smoke'" in said(
        dataclasses.replace(study, scales={"cpu": study.scales["smoke"]}, default_scale="cpu")
    )
    with hold(sampled_study) as session:
        finish(session, 2, lambda point: 2.0)
    launch = read_launch(sampled_study.name, home=home)
    assert said(sampled_study) is None
    assert "train.eval_every=1" in said(edited(sampled_study, train__eval_every=1))


def test_an_edit_that_is_taken_back_has_its_rows_again(home, hold, study):
    with hold(study) as session:
        finish(session, 6, loss_of)
    with hold(edited(study, optim__warmup_steps=5)) as session:
        finish(session, 6, lambda point: loss_of(point) + 10)
    with hold(study) as session:
        assert session.ledger.next() is None
    _, table = read_home(home, study)
    now = {row.cell: row.mean for row in table.rows if not row.is_older}
    assert now == {
        "dense": pytest.approx(3.005),
        "learned": pytest.approx(2.005),
        "frozen": pytest.approx(2.505),
    }
    assert table.judgement.verdicts[0].n == 2
    assert "dense (optim.warmup_steps=5)" in {row.cell for row in table.rows if row.is_older}


def test_rows_of_analyze_are_of_the_configuration_that_they_were_measured_on(home, hold, study):
    from orchestrator.report.judge import analysis_folder

    with hold(study) as session:
        finish(session, 6, loss_of)
    with hold(edited(study, optim__warmup_steps=5)) as session:
        finish(session, 3, loss_of)
    launch, _ = read_home(home, study)
    old = next(r for r in launch.trials if r.asked_as == "learned" and r.seed == 0)
    new = next(r for r in launch.trials if r.cell == "learned" and r.seed == 0)
    row = {"probe": "p", "cell": "learned", "seed": 0, "layer": 0}
    rows = [
        {**row, "config_hash": old.config_hash},
        {**row, "config_hash": new.config_hash},
        row,  # of before rows said whose they are
        {**row, "seed": 1, "cell": "other"},
    ]
    folder = analysis_folder(home, launch.info.name)
    folder.mkdir(parents=True)
    (folder / "p.json").write_text(json.dumps(rows))
    assert launch.analysis() == [rows[1], rows[3]]
    frames = LaunchFrames(study=study, records=launch)
    assert frames.analysis_frame()[["cell", "is_older"]].values.tolist() == [
        ["learned (optim.warmup_steps=2)", True],
        ["learned", False],
        ["learned", True],
        ["other", False],
    ]
    older = frames.trials_frame().is_older
    assert older.sum() == frames.table_frame().query("is_older").n.sum() == 6


def test_old_trials_are_priced_as_they_were_trained(hold, study):
    with hold(study) as session:
        finish(session, 3, loss_of)
        left = session.ledger.next()  # interrupted after its first evaluation
        session.ledger.started(left.record.number)
        session.ledger.progressed(left.record.number, {STEP: 2, TIMESTAMP_MS: 1, VAL_LOSS: 3.0})
    bigger = edited(study, train__batch_tokens=512)
    with hold(bigger) as session:
        assert spent(session.records, session.launch)["tokens"] == 3 * 8 * 128 + 2 * 128
        trials = session.ledger.trials
        assert sum(trials.tokens_of(record) for record in trials) == 3 * 8 * 128 + 2 * 128


def test_points_over_another_base_stand_apart(home, hold, sampled_study):
    study = dataclasses.replace(sampled_study, trials=2)
    with hold(study) as session:
        finish(session, 2, lambda point: 1.0)
    new = edited(study, train__num_steps=16)
    with hold(new, trials=3) as session:
        finish(session, 1, lambda point: 2.0)
    _, table = read_home(home, new)
    done = [(row.mean, row.is_older) for row in table.rows if row.n]
    assert done == [(2.0, False), (1.0, True), (1.0, True)]
    assert all("(train.num_steps=8)" in row.cell for row in table.rows if row.is_older)


def test_a_sampler_learns_nothing_from_points_over_another_base(home, hold, sampled_study):
    """As many points as are asked for are drawn over the base of now, the first as if alone."""
    study = dataclasses.replace(sampled_study, trials=2)
    with hold(study) as session:
        finish(session, 2, lambda point: 1.0)
        assert [r.value for r in session.ledger.trials.shown_to_sampler] == [1.0, 1.0]
        first = [dict(r.params) for r in session.records]
    with hold(edited(study, train__num_steps=16)) as session:
        assert session.ledger.trials.shown_to_sampler == []
        finish(session, 2, lambda point: 2.0)
        assert session.ledger.next() is None
        trials = session.ledger.trials
        assert [r.value for r in trials.shown_to_sampler] == [2.0, 2.0]
        assert (len(trials), trials.num_cells) == (4, 2)
        assert dict(session.records[2].params) == first[0]
        assert best_row(session.records, study.measure)[1] == 2.0
        assert {r.number for r in session.read().trials if r.is_older} == {0, 1}
    asked = resolve(edited(study, train__num_steps=32), corpus_spec=session.launch.corpus_spec)
    with pytest.raises(BadInput, match="no point is trained twice"):
        session.search.enqueue(session.launch, first[0])
    assert session.search.enqueue(asked, first[0]) == 4, "over another base it is another point"
    session.search.refuse(session.search.enqueued()[0], "asked for in a test")
    with hold(study) as session:  # taken back
        assert [r.value for r in session.ledger.trials.shown_to_sampler] == [1.0, 1.0]
        assert session.ledger.next() is None


@pytest.mark.parametrize("kind", ["grid", "sampled"])
def test_early_stopping_compares_within_a_configuration(hold, grid_study, sampled_study, kind):
    """Better values over another base stop nothing; worse ones would let everything go on."""
    rule = EarlyStopping(first_rung=0.25, reduction_factor=2)
    one_seed = {"seeds": (0,), "early_stopping": rule}
    study = dataclasses.replace(grid_study if kind == "grid" else sampled_study, **one_seed)

    def reach_rung(session, value):
        number = session.ledger.next().record.number
        session.ledger.started(number)
        ends = session.ledger.judged(number, 2, value)
        session.ledger.progressed(number, {STEP: 2, TIMESTAMP_MS: 1, VAL_LOSS: value})
        return ends

    with hold(study) as session:
        assert not reach_rung(session, 1.0)
        assert not reach_rung(session, 0.5)
    with hold(edited(study, optim__warmup_steps=5)) as session:
        assert not reach_rung(session, 5.0), "the first of its base goes on"
        assert reach_rung(session, 6.0), "the second is compared with it"
    with hold(edited(study, optim__warmup_steps=5)) as session:
        assert not reach_rung(session, 4.0), "a later driver reads the same from the record"


def test_a_failure_before_an_edit_is_no_failure_of_the_study_now(hold, study):
    with hold(study, seeds=(0,)) as session:
        number = session.ledger.next().record.number
        session.ledger.started(number)
        session.ledger.failed(number, "diverged")
        finish(session, 2, loss_of)
        assert session.exit_code == 1
    with hold(edited(study, optim__warmup_steps=5), seeds=(0,)) as session:
        finish(session, 3, loss_of)
        assert session.exit_code == 0


def test_a_file_of_an_edited_launch_makes_the_table_of_its_home(home, hold, study, tmp_path):
    from orchestrator.archive import container
    from orchestrator.archive.archived_launch import pack, read, records_of
    from orchestrator.archive.export_launch import export_launch

    with hold(study) as session:
        finish(session, 6, loss_of)
    new = edited(study, optim__warmup_steps=5)
    with hold(new, seeds=(0,)) as session:
        finish(session, 3, lambda point: loss_of(point) + 10)
    launch, table = read_home(home, new)
    file = tmp_path / "edited.moe-study"
    container.write(file, pack(export_launch(launch, connect(home.mlflow_uri))))
    with records_of(read(file)) as archived:
        assert as_json(archived.table(new)) == as_json(table)
    assert "--seeds 0 " in render_report(launch, new), "what was asked last is had again"
    note = _heading(launch, "", "").note
    assert "6 of configurations that the study had before are left out" in " ".join(note.split())
    assert "other code" not in note
