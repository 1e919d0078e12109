"""A simulated study: a landscape of losses over the space of studies/search.py, and trials that are
written as rows, as the ledger leaves them. Nothing is trained."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from pathlib import Path

import optuna
from sqlalchemy import insert

from moe.metrics import STEP, TIMESTAMP_MS, TOKENS, TOKENS_PER_S, TRAIN_LOSS, VAL_LOSS
from orchestrator.base.home import Home
from orchestrator.stores.optuna_launches import launches_in
from orchestrator.stores.optuna_private import (
    TrialIntermediateValueModel,
    TrialModel,
    TrialParamModel,
    TrialUserAttributeModel,
    TrialValueModel,
    relational,
)
from orchestrator.stores.optuna_storage import open_storage
from orchestrator.stores.optuna_trials import OptunaTrials
from orchestrator.stores.trial_record import METRICS, MOE_DIGEST
from orchestrator.study.launch import Launch, Point
from orchestrator.study.resolve import resolve
from orchestrator.study.study import Study
from search_spaces.cells import Cell
from search_spaces.space import Infeasible
from studies.search import STUDY


def make_launch(folder: Path, trials: int) -> Launch:
    for i in range(40):
        text = f"document {i}\n" + "the quick brown fox jumps over the lazy dog\n" * 400
        (folder / f"part-{i}.txt").write_text(text)
    return resolve(STUDY, corpus_spec=f"files:{folder}/part-*.txt", trials=trials)


def make_grid_launch(folder: Path, cells: int) -> Launch:
    """A grid of learning rates, over the same text and scale."""
    make_launch(folder, 1)
    study = Study(
        name=f"grid-of-{cells}",
        question="What does the driver of a large grid cost?",
        baseline="rate-0",
        held_fixed="all but the learning rate",
        scales=STUDY.scales,
        cells=[
            Cell(name=f"rate-{i}", overrides={"optim.learning_rate": 1e-4 * (1 + i / cells)})
            for i in range(cells)
        ],
        seeds=(0,),
    )
    return resolve(study, corpus_spec=f"files:{folder}/part-*.txt")


def loss_of(point: Point, share: float) -> float:
    """A smooth landscape over the space of studies/search.py, and a curve that falls towards it.

    At the best point, 16 experts, Top-2, a learned token router, it ends at 2.
    """
    moe, rate = point.config.moe, point.config.optim.learning_rate
    loss = 2.0 + 0.08 * (4 - math.log2(moe.num_experts))
    loss += 0.03 * abs(moe.top_k - 2) + 0.02 * abs(moe.granularity - 2)
    loss += {"learned": 0.0, "frozen": 0.08, "random": 0.3}[moe.router]
    loss += {"token": 0.0, "sequence": 0.1}[moe.routing_unit]
    loss += 0.02 * (moe.gate == "switch")
    best_rate = 3e-3 * (1 + 0.2 * (moe.router == "frozen"))
    loss += 0.25 * math.log(rate / best_rate) ** 2
    return loss + 3.0 * math.exp(-4 * share)


def entry_of(point: Point, index: int, reports: int, now_s: float) -> dict[str, float]:
    share = (index + 1) / reports
    value = loss_of(point, share)
    return {
        STEP: round(share * point.config.train.num_steps),
        TOKENS: round(share * point.tokens),
        TIMESTAMP_MS: int(now_s * 1000),
        VAL_LOSS: value,
        TRAIN_LOSS: value,
        TOKENS_PER_S: 1e4,
        "router/load_entropy": 0.9,
        "router/confidence": 0.5,
    }


def fill(launch: Launch, home: Home, count: int) -> None:
    """`count` complete trials at random points, as the ledger leaves them; without MLflow runs."""
    storage = open_storage(home.optuna_storage, create=False)
    info = launches_in(storage)[-1]
    store = OptunaTrials(storage, info)
    records = store.records()
    pattern = records[0].attributes
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=len(records)))
    known = {record.cell_hash for record in records}
    tables = defaultdict(list)
    (first_id, first) = records[-1].trial_id + 1, len(records)
    now = datetime.now(UTC).replace(tzinfo=None)
    while len(tables[TrialModel]) < count:
        trial = study.ask()
        try:
            point = launch.sampled_point(launch.space.suggest(trial), launch.seeds[0])
        except Infeasible:
            continue
        if point.cell_hash in known:
            continue
        known.add(point.cell_hash)
        add_rows(tables, point, trial, pattern, info.study_id, first_id, first, now)
    with relational(storage).begin() as connection:
        for model, rows in tables.items():
            connection.execute(insert(model.__table__), rows)


def add_rows(tables, point, trial, pattern, study_id, first_id, first, now) -> None:
    index = len(tables[TrialModel])
    trial_id, own = first_id + index, {"trial_id": first_id + index}
    tables[TrialModel].append(
        {
            **own,
            "number": first + index,
            "study_id": study_id,
            "state": optuna.trial.TrialState.COMPLETE,
            "datetime_start": now,
            "datetime_complete": now + timedelta(minutes=10),
        }
    )
    accounting = point.accounting
    attributes = {
        **pattern,
        "cell": point.cell,
        "config_hash": point.config_hash,
        "cell_hash": point.cell_hash,
        "params_total": accounting.params_total,
        "params_active": accounting.params_active,
        "flops_per_token": accounting.flops_per_token,
        "mlflow.run_id": None,
        METRICS: {VAL_LOSS: loss_of(point, 1.0)},
        MOE_DIGEST: pattern[MOE_DIGEST],
    }
    for key, value in attributes.items():
        tables[TrialUserAttributeModel].append({**own, "key": key, "value_json": json.dumps(value)})
    for name, distribution in trial.distributions.items():
        tables[TrialParamModel].append(
            {
                **own,
                "param_name": name,
                "param_value": distribution.to_internal_repr(trial.params[name]),
                "distribution_json": optuna.distributions.distribution_to_json(distribution),
            }
        )
    finite = {"value_type": TrialValueModel.TrialValueType.FINITE}
    tables[TrialValueModel].append({**own, "objective": 0, "value": loss_of(point, 1.0), **finite})
    kind = TrialIntermediateValueModel.TrialIntermediateValueType.FINITE
    for i in range(5):
        entry = entry_of(point, i, 5, 0.0)
        tables[TrialIntermediateValueModel].append(
            {
                "trial_id": trial_id,
                "step": entry[STEP],
                "intermediate_value": entry[VAL_LOSS],
                "intermediate_value_type": kind,
            }
        )
