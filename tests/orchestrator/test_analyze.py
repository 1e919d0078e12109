"""`analyze` on models that a launch trained: rows for scripts, kept where claims find them."""

from __future__ import annotations

import dataclasses
import json
import sys

import pyarrow.parquet as pq
import pytest

from orchestrator import cli
from orchestrator.report.judge import analysis_folder, read_analysis
from orchestrator.run import run
from search_spaces.cells import Cell

KEYS = {
    "cell", "seed", "layer", "nmi", "nmi_null_mean", "nmi_null_high", "p_value", "purity", "n_units"
}  # fmt: skip


@pytest.mark.usefixtures("ray_cluster")
def test_rows_of_every_cell_with_experts_against_planted_labels(
    home, hold, grid_study, monkeypatch, capsys, tmp_path
):
    label = {"moe.router": "label", "moe.top_k": 1, "moe.routing_unit": "sequence"}
    cells = [*grid_study.cells, Cell(name="by-label", overrides=label)]
    study = dataclasses.replace(grid_study, cells=cells)
    with hold(study, seeds=(0,), overrides={"data.holdout_fraction": 0.4}) as session:
        run(session)
    assert session.exit_code == 0
    monkeypatch.setattr("orchestrator.cli.options.load_study", lambda name: study)
    arguments = ["analyze", "tiny-grid", "--probe", "corpus:language", "--home", str(home.root)]
    monkeypatch.setattr(sys, "argv", ["moe-study", *arguments, "--permutations", "99", "--json"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert not ended.value.code
    told = json.loads(capsys.readouterr().out)
    assert told["study"] == "tiny-grid"
    assert told["probe"] == "corpus:language"
    assert {row["cell"] for row in told["rows"]} == {"learned", "frozen", "by-label"}
    assert all(set(row) >= KEYS for row in told["rows"])
    planted = [row for row in told["rows"] if row["cell"] == "by-label" and row["layer"] is None]
    assert planted[0]["nmi"] == pytest.approx(1.0)
    assert read_analysis(home, session.launch.name) == told["rows"]
    (kept,) = analysis_folder(home, session.launch.name).glob("*.shares.parquet")
    shares = pq.read_table(kept).to_pylist()
    of_one = [row for row in shares if row["cell"] == "by-label" and row["key"] in ("en", "xx")]
    assert {row["share"] for row in of_one} == {0.0, 1.0}, "each language to its expert"


def test_a_probe_that_cannot_be_read_is_one_message(home, hold, grid_study, monkeypatch, capsys):
    with hold(grid_study, seeds=(0,)):
        pass
    monkeypatch.setattr("orchestrator.cli.options.load_study", lambda name: grid_study)
    arguments = ["analyze", "tiny-grid", "--probe", "table:no.tsv:a:b", "--home", str(home.root)]
    monkeypatch.setattr(sys, "argv", ["moe-study", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert "moe-study:" in capsys.readouterr().err
