"""The same of a search and its race: `killed_ledger.py` with points that are drawn.

    python killed_search.py FOLDER CORPUS MLFLOW_TEMPLATE EVERY

One driver searches, races the best points and keeps the recommendation. Wherever drivers are
killed, the trials, their values and what is recommended are those of one that was left alone: no
point is drawn otherwise, and no seed of the race is trained twice or left out.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import optuna
from killed_ledger import TINY, begun, deaths
from mlflow.tracking import MlflowClient

from moe.metrics import VAL_LOSS
from orchestrator.base.home import Home
from orchestrator.driver.recommending import Asked, Racer, effects_of, ends_of
from orchestrator.report.recommendation import Recommendation
from orchestrator.stores import mlflow_client
from orchestrator.stores.experiment_names import find_experiment
from orchestrator.stores.optuna_launches import RECOMMENDATION
from orchestrator.stores.optuna_trials import OptunaTrials
from orchestrator.stores.parent_run import PARENT
from orchestrator.stores.trial_record import RUN_ID
from orchestrator.study import Study
from orchestrator.study.launch import Launch, Point
from orchestrator.study.resolve import resolve
from search_spaces.domains import Choice
from search_spaces.space import Space

STUDY = Study(
    name="searched",
    question="Does a kill between two writes change what is recommended?",
    baseline="the best point",
    held_fixed="all but the axes",
    scales={"smoke": TINY},
    space=Space(axes={"moe.top_k": Choice((1, 2)), "optim.beta1": Choice((0.8, 0.85, 0.9))}),
    trials=4,
    seeds=(0,),
    sampler="tpe",
)
RACE = Asked(trainings=6)


def loss_of(point: Point) -> float:
    noise = 0.02 * ((point.seed * 7919 + point.overrides["moe.top_k"]) % 5 - 2)
    return 3.0 - 0.3 * point.overrides["moe.top_k"] + point.overrides["optim.beta1"] + noise


def drive(home: Home, launch: Launch) -> None:
    """`run` and `recommend`, Ray left out."""
    for recommending in (False, True):

        def racer_of(search: OptunaTrials, wanted: bool = recommending) -> Racer | None:
            return Racer(launch, home, search.info.attributes, RACE) if wanted else None

        ledger, search, tracking = begun(home, launch, racer_of)
        while assignment := ledger.next():
            number, loss = assignment.record.number, loss_of(assignment.point)
            ledger.started(number)
            entry = {"step": 4, "tokens": 512, "timestamp_ms": 4000, VAL_LOSS: loss}
            ledger.completed(number, entry, tokens=512)
        if (racer := racer_of(search)) is not None:
            search.keep(RECOMMENDATION, recommended(launch, racer, list(ledger.trials)))
        tracking.close("FINISHED")


def recommended(launch: Launch, racer: Racer, trials: list[Any]) -> dict[str, Any]:
    race = racer.race(trials)
    params = next(r.params for r in trials if r.cell_hash == race.winner.point)
    effects, ends = effects_of(launch, trials, params), ends_of(launch.space, params)
    told = Recommendation.of("searched", launch.name, VAL_LOSS, race, trials, effects, ends)
    return told.as_json()


def told(home: Home, launch: Launch) -> dict[str, Any]:
    """What the stores' own clients see."""
    client = MlflowClient(home.mlflow_uri)
    runs = client.search_runs([find_experiment(client, launch.name).experiment_id])
    study = optuna.load_study(study_name=launch.name, storage=home.optuna_storage)
    of_run = {run.info.run_id: run for run in runs if PARENT not in run.data.tags}
    trials = [
        (trial.params, trial.user_attrs["seed"], trial.state.name, trial.value)
        for trial in study.trials
    ]
    own = [of_run[trial.user_attrs[RUN_ID]] for trial in study.trials]
    logged = [(run.info.status, run.data.metrics[VAL_LOSS]) for run in own]
    return {
        "trials": sorted(trials, key=str),
        "logged": sorted(logged, key=str),
        "runs": len(of_run),
        "recommended": study.user_attrs.get(RECOMMENDATION),
    }


def main() -> None:
    folder, corpus, template, every = Path(sys.argv[1]), *sys.argv[2:4], int(sys.argv[4])
    mlflow_client.quiet()
    launch = resolve(STUDY, corpus_spec=corpus)
    empty, whole = Home(folder / "empty"), Home(folder / "whole")
    for home in (empty, whole):
        home.create()
        shutil.copy(template, home.root / "mlflow.db")
    drive(whole, launch)
    expected = json.loads(json.dumps(told(whole, launch)))

    def checked(home: Home) -> list[str]:
        seen = json.loads(json.dumps(told(home, launch)))
        return [key for key, value in expected.items() if seen[key] != value]

    found = deaths(folder, empty, every, lambda home: drive(home, launch), checked)
    print(json.dumps({**found, "trials": len(expected["trials"])}))


if __name__ == "__main__":
    main()
