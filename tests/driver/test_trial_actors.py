"""Which trials have an actor of their own, and what Ray shows of it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from moe.config import TrialConfig
from orchestrator.cluster.connection import Resources
from orchestrator.driver import trial_actors
from orchestrator.driver.trial_actors import shares_actors
from orchestrator.driver.tune_loop import run
from studies import scales


@dataclasses.dataclass
class Based:
    """Of a launch, what is asked about."""

    base: TrialConfig


@pytest.mark.parametrize(
    ("base", "resources", "shared"),
    [
        (scales.SMOKE, Resources(), True),
        (scales.CPU, Resources(), True),
        (scales.GPU, Resources(), False),
        (scales.GPU, Resources(gpus_per_worker=1), False),
        (scales.GPU, Resources(gpus_per_worker=0.5, workers=8), True),
        (scales.PAPER, Resources(gpus_per_worker=1, workers=8), False),
    ],
)
def test_a_short_trial_shares_its_actor(base, resources, shared):
    assert shares_actors(Based(base), resources) is shared


def test_a_long_trial_s_actors_carry_its_name(home, hold, grid_study, ray_cluster, monkeypatch):
    """Of both its workers, one pair of processes a trial."""
    import ray

    monkeypatch.setattr(trial_actors, "LONG_FLOPS", {"cpu": 1.0})
    study = dataclasses.replace(grid_study, cells=grid_study.cells[:2], seeds=(0,))
    with hold(study, options={"resources": Resources(workers=2)}) as session:
        run(session)
    assert {record.state for record in session.records} == {"complete"}
    logs = Path(ray._private.worker._global_node.get_logs_dir_path())
    named = [
        line.removeprefix(":actor_name:")
        for path in logs.glob("worker-*.out")
        for line in path.read_text().splitlines()
        if line.startswith(":actor_name:")
    ]
    for record in session.records:
        title = f"{study.name}, {record.cell}, seed {record.seed}"
        assert named.count(title) == 1
        assert named.count(f"{title}, worker 1") == 1
