"""Points that a user asks for: by the command, by Optuna's own API, or by the study file."""

from __future__ import annotations

import dataclasses
import json
import re

import optuna
import pytest

from orchestrator.base.errors import BadInput
from orchestrator.stores.optuna_storage import open_storage
from orchestrator.study.resolve import resolve

GOOD = {"moe.num_experts": 6, "moe.top_k": 2, "moe.router": "frozen"}
OTHER = {"moe.num_experts": 8, "moe.top_k": 1, "moe.router": "random"}


def finish(session, limit=99):
    """Hands out and completes; the numbers in their order."""
    numbers = []
    while len(numbers) < limit and (found := session.ledger.next()):
        number = found.record.number
        session.ledger.started(number)
        entry = {"step": 8, "tokens": 1024, "timestamp_ms": 1, "val/loss": 3.0 - number / 100}
        session.ledger.completed(number, entry, tokens=1024)
        numbers.append(number)
    return numbers


def optunas_own(home, name):
    return optuna.load_study(
        study_name=name, storage=open_storage(home.optuna_storage, create=False)
    )


def test_a_trial_enqueued_in_optuna_is_taken_in_and_runs_next(hold, sampled_study, said, home):
    with hold(sampled_study, seeds=(0, 1), trials=3) as session:
        first = session.ledger.next()
        optunas_own(home, session.launch.name).enqueue_trial(GOOD)
        session.ledger._asked_at = float("-inf")  # a second has passed
        second, third = session.ledger.next(), session.ledger.next()
        assert first.record.params != GOOD
        assert second.record.params == third.record.params == GOOD
        assert (second.record.seed, third.record.seed) == (0, 1)
        assert second.record.run_id
        assert second.record.config_hash == second.point.config_hash
        for assignment in (first, second, third):
            session.ledger.started(assignment.record.number)
            entry = {"step": 8, "tokens": 1024, "timestamp_ms": 1, "val/loss": 3.0}
            session.ledger.completed(assignment.record.number, entry, tokens=1024)
        finish(session)
        assert len({r.cell_hash for r in session.records}) == 3, "it counts as a point"
    assert any("is the enqueued point" in line for line in said)
    trials = optunas_own(home, session.launch.name).get_trials()
    assert all(t.state.is_finished() for t in trials)
    assert [t.number for t in trials] == list(range(6))


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"moe.num_expert": 4}, "axes of its space.*moe.num_experts"),
        ({"moe.num_experts": 5}, "lies in its domain"),
        ({"moe.num_experts": "4"}, "lies in its domain"),
        ({"optim.beta1": 0.9}, "axes of its space"),
    ],
)
def test_one_that_cannot_be_is_told_failed_with_the_reason(
    hold, sampled_study, said, home, values, reason
):
    with hold(sampled_study, trials=1) as session:
        study = optunas_own(home, session.launch.name)
        study.enqueue_trial(values)
        assert finish(session) == [1], "the study goes on"
        trial = study.get_trials()[0]
        assert trial.state == optuna.trial.TrialState.FAIL
        assert re.search(reason, trial.user_attrs["error"])
    assert any("is refused" in line for line in said)
    assert session.exit_code == 0


def test_what_a_point_leaves_open_is_drawn_and_nothing_is_trained_twice(hold, sampled_study, home):
    with hold(sampled_study, trials=2) as session:
        study = optunas_own(home, session.launch.name)
        study.enqueue_trial({"moe.num_experts": 6})
        study.enqueue_trial(GOOD)
        study.enqueue_trial(GOOD)
        finish(session)
        assert session.records[0].params["moe.num_experts"] == 6
        found = [r.params for r in session.records]
        assert len({str(sorted(p.items())) for p in found}) == len(found)
        assert GOOD in found
        failed = [t for t in study.get_trials() if t.state == optuna.trial.TrialState.FAIL]
        assert failed
        assert "no point is trained twice" in failed[-1].user_attrs["error"]


def test_a_grid_takes_none(hold, grid_study, home):
    with hold(grid_study, seeds=(0,)) as session:
        study = optunas_own(home, session.launch.name)
        study.enqueue_trial({"moe.router": "hash"})
        assert len(finish(session)) == 3
        assert "a grid takes no points" in study.get_trials()[-1].user_attrs["error"]


def test_a_driver_killed_while_it_takes_one_in_takes_it_again(
    hold, sampled_study, home, monkeypatch
):
    from orchestrator.stores import enqueued

    class KilledError(Exception):
        pass

    def killed(*_):
        raise KilledError

    with hold(sampled_study, trials=1) as session:
        optunas_own(home, session.launch.name).enqueue_trial(GOOD)
        with monkeypatch.context() as patch:
            patch.setattr(enqueued, "CELL", "nothing yet")
            patch.setattr(type(session.search._storage), "set_trial_user_attr", killed)
            with pytest.raises(KilledError):
                session.ledger.next()
    with hold(sampled_study, trials=1, seeds=(0, 1)) as session:
        assert len(finish(session)) == 2
        assert [r.params for r in session.records] == [GOOD, GOOD]
        assert sorted(r.seed for r in session.records) == [0, 1]


def test_points_known_to_be_good_come_first(hold, sampled_study, corpus):
    study = dataclasses.replace(sampled_study, first=[GOOD, OTHER, GOOD])
    with hold(study, trials=3, seeds=(0, 1)) as session:
        finish(session, limit=4)
        assert [r.params for r in session.records] == [GOOD, GOOD, OTHER, OTHER]
    with hold(study, trials=3, seeds=(0, 1)) as session:
        finish(session)
        assert len(session.records) == 6, "and each once"
    bad = dataclasses.replace(sampled_study, first=[{**GOOD, "moe.num_experts": 5}])
    with pytest.raises(BadInput, match="lies in its domain"):
        resolve(bad, corpus_spec=corpus)
    part = dataclasses.replace(sampled_study, first=[{"moe.num_experts": 6}])
    with pytest.raises(BadInput, match="holds the axes that exist there"):
        resolve(part, corpus_spec=corpus)
    with pytest.raises(ValueError, match="first is for sampled studies"):
        dataclasses.replace(sampled_study, space=None, cells=[], first=[GOOD])


STUDY = """
import dataclasses
from orchestrator.study import Study
from search_spaces.domains import Choice
from search_spaces.space import Space
from tests.fixtures.studies import TINY
STUDY = Study(name="asked", question="?", baseline="?", held_fixed="?", scales={"smoke": TINY},
    space=Space(axes={"moe.num_experts": Choice((2, 4)), "moe.top_k": Choice((2, 4))}),
    trials=1, seeds=(0,))
"""


def test_the_command_enqueues_a_point_once(moe_study, tmp_path, home, corpus):
    file = tmp_path / "asked.py"
    file.write_text(STUDY)

    def enqueue(*values):
        return moe_study(
            *(
                "enqueue",
                file,
                "--point",
                *values,
                "--home",
                home.root,
                "--corpus",
                corpus,
                "--json",
            )
        )

    code, out, _ = enqueue("moe.num_experts=4", "moe.top_k=4")
    assert code == 0
    assert json.loads(out)["trial"] == 0
    code, _, err = enqueue("moe.num_experts=4", "moe.top_k=4")
    assert (code, "no point is trained twice" in err) == (2, True)
    code, _, err = enqueue("moe.num_experts=2", "moe.top_k=4")
    assert (code, "must not exceed" in err) == (2, True)
    code, _, err = enqueue("moe.num_experts=3")
    assert (code, "lies in its domain" in err) == (2, True)
    code, _, err = moe_study("enqueue", "quickstart", "--point", "moe.top_k=1")
    assert (code, "is a grid" in err) == (2, True)
