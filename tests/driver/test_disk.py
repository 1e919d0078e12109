"""Disks that are full, read-only or damaged: one clear message, nothing half-written, and the same
command goes on once they are mended. The disks are real file systems of a few megabytes."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import subprocess

import pytest
from mlflow.tracking import MlflowClient

from moe.data.layout import verify
from moe.metrics import VAL_LOSS
from orchestrator.base.errors import BadInput, StudyError
from orchestrator.driver.tune_loop import run

OVERRIDES = {"train.num_steps": 60, "train.eval_every": 10}


def entry(step, loss):
    return {"step": step, "tokens": step * 128, "timestamp_ms": 1000 + step, VAL_LOSS: loss}


class Disk:
    def __init__(self, folder):
        self.folder = folder
        self._filler = folder / "filler"

    def fill(self):
        with contextlib.suppress(OSError), self._filler.open("wb", buffering=0) as file:
            while file.write(b"\0" * 4096):
                pass
        assert shutil.disk_usage(self.folder).free == 0

    def free(self):
        self._filler.unlink()


@contextlib.contextmanager
def read_only(folder):
    """Whatever is written through this path is refused; who had a file open keeps it."""
    if subprocess.run(["mount", "--bind", folder, folder], capture_output=True).returncode:
        pytest.skip("a read-only mount cannot be made here: that takes root")
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", folder], check=True)
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.fixture
def mount():
    """Makes a folder a small disk of its own: `mount(folder, size)`."""
    mounted = []

    def mount_at(folder, size):
        folder.mkdir(parents=True, exist_ok=True)
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
        if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
            pytest.skip("a small disk cannot be mounted here: that takes root")
        mounted.append(folder)
        return Disk(folder)

    yield mount_at
    for folder in mounted:
        subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.fixture
def one_cell(grid_study):
    cells = [cell for cell in grid_study.cells if cell.name == "learned"]
    return dataclasses.replace(grid_study, cells=cells, seeds=(0,))


def history(home, record):
    found = MlflowClient(home.mlflow_uri).get_metric_history(record.run_id, VAL_LOSS)
    return {metric.step: metric.value for metric in found}


@pytest.mark.usefixtures("ray_cluster")
def test_a_disk_full_at_a_checkpoint_ends_the_run_and_the_same_command_goes_on(
    home, hold, one_cell, mount
):
    disk = mount(home.checkpoints, "4m")
    filled = []

    def fill_it(record, metrics):
        if metrics is not None and not filled:
            filled.append(metrics["step"])
            disk.fill()

    def drive(listener=None):
        with hold(one_cell, overrides=OVERRIDES, listener=listener) as session:
            sessions.append(session)
            run(session)

    sessions = []
    with pytest.raises(StudyError, match=r"No space left on device.*the same command") as raised:
        drive(fill_it)
    assert raised.value.exit_code == 1
    assert [r.state for r in sessions[0].records] == ["waiting"]
    assert not list(home.checkpoints.rglob(".tmp-*"))
    disk.free()
    drive()
    assert [(r.state, max(r.curve)) for r in sessions[1].records] == [("complete", 60)]
    assert history(home, sessions[1].records[0]) == sessions[1].records[0].curve


def test_a_home_that_fills_up_under_the_driver_loses_nothing(home, hold, one_cell, mount, tmp_path):
    template = tmp_path / "mlflow.db"
    shutil.move(home.root / "mlflow.db", template)
    disk = mount(home.root, "8m")
    shutil.copy(template, home.root / "mlflow.db")
    numbers = []

    def drive():
        with hold(one_cell) as session:
            numbers.append(session.ledger.next().record.number)
            session.ledger.started(numbers[-1])
            session.ledger.progressed(numbers[-1], entry(2, 3.0))
            disk.fill()
            for step in range(4, 4000, 2):
                session.ledger.progressed(numbers[-1], entry(step, 2.5))

    with pytest.raises(StudyError, match=r"(disk is full|No space left).*the same command"):
        drive()
    disk.free()
    with hold(one_cell) as session:
        (number,) = numbers
        assert session.ledger.trials[number].state == "waiting"
        assert session.ledger.next().record.number == number
        session.ledger.started(number)
        session.ledger.progressed(number, entry(3998, 2.0))
        session.ledger.completed(number, entry(4000, 1.0), tokens=1)
        record = session.ledger.trials[number]
    assert not session.undelivered
    told = history(home, record)
    assert (told[2], told[3998], told[4000]) == (3.0, 2.0, 1.0)
    assert {step: told[step] for step in record.curve} == record.curve


def test_a_disk_too_small_to_begin_is_refused_and_left_empty(moe_study, corpus, mount, tmp_path):
    mount(tmp_path / "disk", "64k")
    home = tmp_path / "disk" / "home"
    code, out, err = moe_study("run", "quickstart", "--corpus", corpus, "--home", home)
    assert (code, out) == (2, "")
    assert "has room" in err
    assert "Traceback" not in err
    assert list((tmp_path / "disk").iterdir()) == []


def test_a_home_that_became_read_only_is_still_read(moe_study, home, hold, one_cell, monkeypatch):
    with hold(one_cell) as session:
        number = session.ledger.next().record.number
        session.ledger.started(number)
        session.ledger.completed(number, entry(8, 2.0), tokens=1)
    monkeypatch.setattr("orchestrator.cli.parameters.load_study", lambda name: one_cell)
    with read_only(home.root):
        for command in ("status", "table", "claims"):
            code, out, err = moe_study(command, "tiny-grid", "--home", home.root)
            assert (code, "Traceback" in err) == (0, False), err
            assert "tiny-grid" in out
        with pytest.raises(BadInput, match=r"must be writable.*Read-only"), hold(one_cell):
            pytest.fail("a read-only home was held")
    with hold(one_cell) as session:
        assert session.ledger.next() is None


def test_damaged_tokens_are_prepared_again(hold, one_cell):
    with hold(one_cell) as session:
        folder = session.tokens.of(session.launch.points()[0])
    largest = max(folder.iterdir(), key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 0xFF
    largest.write_bytes(content)
    with pytest.raises(ValueError, match=largest.name):
        verify(folder)
    with hold(one_cell) as session:
        assert session.tokens.of(session.launch.points()[0]) == folder
    verify(folder)
