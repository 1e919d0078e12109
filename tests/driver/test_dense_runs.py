"""A mixture that starts from a finished dense trial, through `run`; or is refused beforehand."""

from __future__ import annotations

import dataclasses

import pytest

from orchestrator.base.checkpoint_place import CheckpointPlace
from orchestrator.base.errors import BadInput
from orchestrator.base.home import Home
from orchestrator.driver.dense_runs import find_dense_runs
from orchestrator.driver.tune_loop import run
from orchestrator.report.table_text import footnotes
from orchestrator.report.tables import table_of
from orchestrator.study.launch import Launch
from orchestrator.study.resolve import resolve
from search_spaces.cells import Cell


@pytest.mark.usefixtures("ray_cluster")
def test_mixture_starts_from_a_dense_trial_of_this_home(hold, home, grid_study, corpus, tmp_path):
    dense = dataclasses.replace(
        grid_study,
        name="tiny-dense",
        baseline="dense",
        cells=[Cell(name="dense", overrides={"moe.num_experts": 0})],
        seeds=(0,),
    )
    mixture = dataclasses.replace(
        grid_study, baseline="learned", cells=[Cell(name="learned", overrides={"moe.top_k": 2})]
    )

    def asked(source: str, **more: object) -> Launch:
        overrides = {"moe.upcycled_from": source, **more}
        return resolve(mixture, overrides=overrides, corpus_spec=corpus)

    place = CheckpointPlace.of(home, None)
    with pytest.raises(BadInput, match="which is not complete in this home"):
        find_dense_runs(asked("0" * 16), home.optuna_storage, place)
    with hold(dense) as session:
        run(session)
    trained = session.records[0]
    source = trained.config_hash
    with pytest.raises(BadInput, match="as wide as it is"):
        find_dense_runs(asked(source, **{"moe.granularity": 2}), home.optuna_storage, place)
    elsewhere = CheckpointPlace.of(Home(tmp_path / "elsewhere"), None)
    with pytest.raises(BadInput, match="does not hold them"):
        find_dense_runs(asked(source), home.optuna_storage, elsewhere)
    assert not elsewhere.local_folder.exists(), "nothing is created"

    overrides = {"moe.upcycled_from": source}
    with hold(mixture, overrides=overrides, start_cluster=True) as session:
        run(session)
    assert [record.state for record in session.records] == ["complete"] * 2
    assert len({record.cell_hash for record in session.records}) == 1, "seeds make one row"
    for record in session.records:
        first = min(record.curve)
        assert record.curve[first] < trained.curve[first], "it begins with what was known"
    notes = footnotes(table_of("tiny-grid", "launch", session.records))
    assert any("dense model that had trained on 1,024 tokens" in note for note in notes)
