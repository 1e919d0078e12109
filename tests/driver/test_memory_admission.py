"""A trial whose worker cannot fit its memory is refused before anything is made."""

from __future__ import annotations

import json

import pytest

from moe.memory import estimate
from orchestrator.base.errors import BadInput
from orchestrator.cluster.connection import Resources
from orchestrator.driver import memory_admission
from orchestrator.driver.memory_admission import memory_here, require_memory
from orchestrator.study.library import load_study
from orchestrator.study.plan import Given, plan
from orchestrator.study.resolve import resolve


@pytest.fixture(scope="module")
def grid(corpus):
    return resolve(load_study("quickstart"), corpus_spec=corpus)


@pytest.fixture(scope="module")
def search(corpus):
    return resolve(load_study("search"), corpus_spec=corpus)


def test_a_plan_tells_the_peak_of_every_cell(grid):
    planned = plan(grid, given=Given(device="cuda", workers=2))
    peaks = {cell["cell"]: cell["peak_memory_bytes"] for cell in planned["cells"]}
    assert planned["peak_memory_bytes"] == max(peaks.values())
    for point in grid.points():
        assert peaks[point.cell] == estimate(point.config, device="cuda", workers=2).peak


def test_a_grid_with_a_cell_too_large_is_refused_by_name(grid):
    peaks = {point.cell: estimate(point.config).peak for point in grid.points()}
    largest = max(peaks, key=peaks.get)
    assert require_memory(grid, Resources(), peaks[largest]) is None
    assert require_memory(grid, Resources(), None) is None
    with pytest.raises(BadInput, match=r"^cell .*train\.micro_batch_tokens=\d+") as refused:
        require_memory(grid, Resources(), peaks[largest] * 0.8)
    assert refused.value.args[0].startswith("cell ")
    with pytest.raises(BadInput, match="more cells"):
        require_memory(grid, Resources(), 1e6)


def test_a_search_is_refused_where_no_point_fits_and_warned_of_some(search):
    peaks = sorted(estimate(p.config).peak for p in memory_admission.typical_points(search))
    assert require_memory(search, Resources(), peaks[-1]) is None
    assert "points that were drawn cannot fit" in require_memory(
        search, Resources(), peaks[len(peaks) // 2] * 0.8
    )
    with pytest.raises(BadInput, match="none of"):
        require_memory(search, Resources(), peaks[0] / 2)


def test_workers_share_a_host_and_trials_a_gpu(monkeypatch):
    monkeypatch.setattr(memory_admission, "host_bytes", lambda: 100)
    monkeypatch.setattr(memory_admission, "gpu_bytes", lambda: 80)
    assert memory_here(Resources(workers=4)) == 25
    assert memory_here(Resources(workers=4, gpus_per_worker=2)) == 80
    assert memory_here(Resources(gpus_per_worker=0.25)) == 20


def test_the_command_refuses_and_creates_nothing(moe_study, corpus, tmp_path):
    """A model of a hundred terabytes."""
    home = tmp_path / "home"
    wide = ["--set", "model.d_model=65536", "--set", "model.num_layers=400"]
    asked = ["quickstart", "--corpus", corpus, "--home", str(home), *wide]
    code, _, err = moe_study("run", *asked)
    assert code == 2, err
    assert "must fit the memory" in err
    assert not home.exists()
    code, out, _ = moe_study("plan", *asked, "--json")
    assert code == 0
    assert json.loads(out)["peak_memory_bytes"] > 1e13
