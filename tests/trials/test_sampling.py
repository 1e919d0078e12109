"""What the sampler is shown of a long study."""

from __future__ import annotations

import dataclasses
import random

import optuna
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.samplers import TPESampler
from optuna.trial import create_trial

from orchestrator.stores.trial_record import TrialRecord
from orchestrator.trials.search_history import BoundedHistory
from orchestrator.trials.search_state import study_of


def trial(number, state, value=None, **attributes):
    fields = dict.fromkeys(field.name for field in dataclasses.fields(TrialRecord))
    own = {"number": number, "state": state, "value": value, "attributes": attributes}
    return TrialRecord(**{**fields, **own})


def shown(history):
    return [record.number for record in history.records()]


def test_the_sampler_draws_as_in_a_study_that_holds_the_trials():
    """Optuna's samplers look at numbers and states in more ways than one."""
    rate = FloatDistribution(1e-4, 1.0, log=True)
    distributions = {"k": CategoricalDistribution((1, 2)), "rate": rate}
    choice = random.Random(0)
    whole = optuna.create_study(sampler=TPESampler(seed=0))
    records = []
    for number in range(30):
        params = {"k": 2, "rate": 10 ** choice.uniform(-4, -2)}
        value = 3 - 20 * params["rate"]
        whole.add_trial(create_trial(params=params, distributions=distributions, value=value))
        record = trial(number, "complete", value)
        own = {"params": params, "distributions": distributions, "curve": {}}
        records.append(dataclasses.replace(record, **own))
    drawn = study_of(records, TPESampler(seed=0))
    for _ in range(3):
        assert whole.ask(distributions).params == drawn.ask(distributions).params


def test_a_short_history_is_shown_whole():
    history = BoundedHistory(8)
    for number in range(8):
        history.note(trial(number, "waiting"))
        history.note(trial(number, "running"))
        history.note(trial(number, "pruned" if number % 3 else "complete", float(-number)))
    assert shown(history) == list(range(8))


def test_a_long_one_by_its_best_quarter_and_its_newest():
    history = BoundedHistory(8)
    values = {5: 0.1, 30: 0.2}
    for number in range(100):
        history.note(trial(number, "complete", values.get(number, 1.0 + number)))
    history.note(trial(99, "complete", 199.0))  # told again
    assert shown(history) == [5, 30, 94, 95, 96, 97, 98, 99]


def test_the_order_of_endings_makes_no_difference():
    """A restarted driver reads them by number, and is to draw what the dead one would have."""
    values = {number: float((number * 37) % 100) for number in range(100)}
    by_number, by_ending = BoundedHistory(8), BoundedHistory(8)
    for number in values:
        by_number.note(trial(number, "complete", values[number]))
    for number in random.Random(0).sample(sorted(values), 100):
        by_ending.note(trial(number, "running"))
        by_ending.note(trial(number, "complete", values[number]))
    assert shown(by_number) == shown(by_ending)


def test_a_trial_that_diverged_is_shown_and_one_that_failed_otherwise_is_not():
    history = BoundedHistory(8)
    for number in range(10):
        history.note(trial(number, "waiting"))
    history.note(trial(3, "running"))
    history.note(trial(4, "failed"))
    history.note(trial(5, "failed", diverged_at_step=7))
    history.note(trial(9, "complete", 1.0))
    assert shown(history) == [5, 9, 0, 1, 2, 3, 6, 7, 8]
