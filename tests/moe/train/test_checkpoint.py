from __future__ import annotations

import logging

import pytest
import torch

from moe.train.checkpoint import Checkpoint, Checkpoints, TrainerState, load_checkpoint
from moe.train.run_folder import Storage


def _checkpoint(config, step, final=False):
    state = TrainerState(
        generators=[{"cpu": torch.get_rng_state()}],
        step_log=torch.full((3, 4), float(step)),
        history={},
        device_s=1.5,
        moe_digests=["d"],
    )
    return Checkpoint(
        config=config,
        step=step,
        final=final,
        model={"weight": torch.full((2, 2), float(step))},
        optimizer=None if final else {"state": {0: {"step": torch.tensor(1.0)}}},
        trainer=state,
        curve=[{"step": step, "val/loss": 0.1 + 0.2}],
    )


@pytest.fixture
def config(make_config):
    return make_config()


@pytest.fixture
def checkpoints(tmp_path, config):
    return Checkpoints(Storage.at(tmp_path), config)


def test_checkpoint_is_read_as_it_was_saved(tmp_path, checkpoints, config):
    saved = _checkpoint(config, 4)
    location = checkpoints.save(saved, keep=2)
    assert location == tmp_path / "step_00000004"
    for found in (checkpoints.newest(), load_checkpoint(location)):
        assert found.config == config
        assert (found.step, found.final, found.curve) == (4, False, saved.curve)
        assert torch.equal(found.model["weight"], saved.model["weight"])
        assert found.optimizer["state"][0]["step"] == 1
        assert torch.equal(found.trainer.step_log, saved.trainer.step_log)
        assert torch.equal(found.trainer.generators[0]["cpu"], torch.get_rng_state())


def test_last_two_and_the_final_are_kept(tmp_path, checkpoints, config):
    for step in (2, 4, 6, 8):
        checkpoints.save(_checkpoint(config, step), keep=2)
    checkpoints.save(_checkpoint(config, 10, final=True), keep=2)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["final", "step_00000006", "step_00000008"]
    assert checkpoints.newest().final


@pytest.mark.parametrize("victim", ["manifest.json", "model.pt", "curve.json"])
def test_damaged_ones_are_passed_over_for_the_one_before(
    tmp_path, checkpoints, config, victim, caplog
):
    for step in (2, 4):
        checkpoints.save(_checkpoint(config, step), keep=2)
    checkpoints.save(_checkpoint(config, 6, final=True), keep=2)
    (tmp_path / "final" / victim).write_bytes(b"")
    file = tmp_path / "step_00000004" / victim
    file.write_bytes(file.read_bytes()[:-1])
    with caplog.at_level(logging.WARNING):
        assert checkpoints.newest().step == 2
    assert "final" in caplog.text
    assert "step_00000004" in caplog.text


def test_nothing_valid_is_nothing(tmp_path, checkpoints, config):
    assert checkpoints.newest() is None
    checkpoints.save(_checkpoint(config, 2), keep=1)
    (tmp_path / "step_00000002" / "manifest.json").unlink()
    assert checkpoints.newest() is None


def test_checkpoint_of_another_config_is_refused(tmp_path, checkpoints, config, make_config):
    checkpoints.save(_checkpoint(config, 2), keep=2)
    other = Checkpoints(Storage.at(tmp_path), make_config(seed=1))
    with pytest.raises(ValueError, match=r"of one config.*another folder"):
        other.newest()


def test_loading_runs_no_code(checkpoints, config):
    """A checkpoint whose tensors were exchanged for a pickle that calls a function."""

    class Payload:
        def __reduce__(self):
            return print, ("code from a checkpoint ran",)

    saved = _checkpoint(config, 2)
    saved.model["weight"] = Payload()
    checkpoints.save(saved, keep=2)
    with pytest.raises(ValueError, match=r"model\.pt of this one wants code to run"):
        checkpoints.newest()


def test_notes_are_of_this_config_and_damage_to_them_is_passed_over(
    tmp_path, checkpoints, make_config
):
    for step in (4, 8):
        checkpoints.note_evaluation({"step": step, "val/loss": 1.0})
    (tmp_path / "evaluations" / "00000008.json").write_text("{")
    assert checkpoints.noted_evaluations() == {4: {"step": 4, "val/loss": 1.0}}
    assert Checkpoints(Storage.at(tmp_path), make_config(seed=1)).noted_evaluations() == {}
