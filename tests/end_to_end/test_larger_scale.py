"""Real trainings: a search, the best of it at the next rung, and a search that is told of both; a
driver that is killed in between changes none of their points."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time

import optuna
import pytest

from orchestrator.stores.optuna_launches import LADDER, WARM_START
from tests.end_to_end.test_driver_killed import process, progress

FILE = """
from orchestrator.study import Study
from search_spaces.domains import Choice, Float
from search_spaces.overlay import overlay
from search_spaces.space import Space
from tests.fixtures.studies import TINY

LONG = {{"train.num_steps": 80, "train.eval_every": 5}}
STUDY = Study(
    name="{name}", question="?", baseline="the best point", held_fixed="the rest",
    scales={{"smoke": TINY, "long": overlay(TINY, LONG)}}, default_scale="{scale}",
    trials=6, seeds=(0,), **(dict(ladder=("smoke", "long"), ladder_points=3) if {ladder} else {{}}),
    warm_start={warm}, scale_seeds={{"long": (1,)}},
    space=Space(axes={{"moe.num_experts": Choice((2, 4, 8)), "moe.top_k": Choice((1, 2)),
                       "optim.learning_rate": Float(low=1e-4, high=1e-1, log=True)}}),
)
"""
STUDIES = {
    "below": {"scale": "smoke", "ladder": True, "warm": False},
    "told": {"scale": "long", "ladder": False, "warm": True},
}


@pytest.fixture
def files(tmp_path):
    for name, of in STUDIES.items():
        (tmp_path / f"{name}.py").write_text(FILE.format(name=name, **of))
    return {name: tmp_path / f"{name}.py" for name in STUDIES}


def killed(arguments, home, evaluations):
    driver = subprocess.Popen(
        process(arguments), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 200
    aim = progress(home) + evaluations
    while progress(home) < aim and driver.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    assert driver.poll() is None, "killed in the middle of a trial"
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.usefixtures("no_pdf", "ray_cluster")
def test_a_killed_driver_climbs_to_and_is_told_the_same(
    tmp_path, corpus, mlflow_template, moe_study, files
):
    (tmp_path / "whole").mkdir()
    shutil.copy(mlflow_template, tmp_path / "whole" / "mlflow.db")
    whole, broken = tmp_path / "whole", tmp_path / "broken"

    def arguments(home, study, *more):
        where = ("--home", str(home), "--corpus", corpus)
        alone = ("--cpus", "2", "--concurrency", "1", "--json")  # each draw knows all before it
        return ["run", str(files[study]), *where, *alone, *more]

    code, _, err = moe_study(*arguments(whole, "below"))
    assert code == 0, err
    shutil.copytree(whole, broken)
    found = {}
    for home in (whole, broken):
        for study, more in (("below", ("--scale", "long")), ("told", ())):
            asked = arguments(home, study, *more)
            if home is broken:
                killed(asked, home, 20)
            code, out, err = moe_study(*asked)
            assert code == 0, err
            told = json.loads(out)
            assert told["states"]["complete"] == (3 if study == "below" else 6)
            found[home, study] = [(t["params"], t["seed"], t["value"]) for t in told["trials"]]
    for study in STUDIES:
        assert found[whole, study] == found[broken, study]
    kept = {
        s.study_name: s.user_attrs
        for s in optuna.get_all_study_summaries(f"sqlite:///{broken}/optuna.db")
    }
    (upper,) = [of for of in kept.values() if LADDER in of]
    assert [params for params, _, _ in found[broken, "below"]] == upper[LADDER]["points"]
    (warm,) = [of for of in kept.values() if WARM_START in of]
    assert len(warm[WARM_START]) == 1, "three points of the upper rung say too little"
