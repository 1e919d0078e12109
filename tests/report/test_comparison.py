"""Launches side by side: differences against references, what differs, what has no difference."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests

from orchestrator.base.errors import BadInput
from orchestrator.base.home import Home
from orchestrator.report.comparison import ComparedClaim, compare
from orchestrator.report.comparison_latex import as_latex
from orchestrator.report.comparison_text import _changed, as_markdown, difference_text
from orchestrator.report.latex_table import Precision
from orchestrator.report.print_figures import compared_cells
from orchestrator.report.records import LaunchRecords
from orchestrator.stores.optuna_launches import LaunchInfo
from orchestrator.stores.trial_record import CONFIG, MOE_DIGEST, TrialRecord

NOISE = np.random.default_rng(3).normal(0, 0.01, (2, 2, 6))
EXPORT = Path(__file__).parents[2] / "docs" / "results" / "quickstart.moe-study"


def launch(tmp_path, losses, *, name="a", seeds=range(6), digest="text-1", run="", **config):
    """`losses`: cell -> a value a seed."""
    trials = [
        TrialRecord(
            number=100 * i + seed,
            trial_id=100 * i + seed,
            state="complete",
            cell=cell,
            seed=seed,
            config_hash=f"{run or name}-{cell}-{seed}",
            cell_hash=f"{run or name}-{cell}",
            run_id=None,
            value=float(value),
            tokens=100,
            params={},
            error=None,
            attempt=1,
            attributes={MOE_DIGEST: "code-1", CONFIG: {"data.digest": digest, **config}},
            curve={1: float(value) + 1, 2: float(value)},
        )
        for i, (cell, values) in enumerate(losses.items())
        for seed, value in zip(seeds, values, strict=False)
    ]
    about = {"study": "s", "scale": "cpu", "metric": "val/loss", "sampled": False, "baseline": "x"}
    about |= {"corpus": "stdlib", "corpus_digest": digest, "overrides": {}}
    info = LaunchInfo(study_id=1, name=f"s/cpu/{name}", attributes=about)
    return LaunchRecords(home=Home(tmp_path), info=info, trials=trials)


def compared(*launches):
    return compare(launches, [None] * len(launches), [x.info.name for x in launches])


def test_differences_are_paired_where_seeds_are_shared_and_holm_counts_all(tmp_path):
    losses = {"x": 3 + NOISE[0, 0], "y": 3 + NOISE[0, 1]}
    later = {"x": 2.9 + NOISE[1, 0], "y": 3 + NOISE[1, 1]}
    found = compared(
        launch(tmp_path, losses),
        launch(tmp_path, later, name="b", **{"optim.learning_rate": 0.1}),
    )
    tests = {cell: stats.ttest_rel(later[cell], losses[cell]) for cell in "xy"}
    decided, adjusted, *_ = multipletests([t.pvalue for t in tests.values()], method="holm")
    for cell, told, p in zip(found.cells, decided, adjusted, strict=True):
        (d,) = cell.differences
        low, high = tests[cell.cell].confidence_interval(0.95)
        assert (d.kind, d.n) == ("paired", 6)
        assert d.estimate == pytest.approx(np.mean(later[cell.cell] - losses[cell.cell]))
        assert (d.ci_low, d.ci_high, d.p_adjusted) == pytest.approx((low, high, p))
        assert d.decided == told
        assert cell.differs == {"optim.learning_rate": ("default", 0.1)}
    assert decided.tolist() == [True, False]


def test_other_seeds_are_compared_by_welchs_test(tmp_path):
    a, b = 3 + NOISE[0, 0][:3], 2.9 + NOISE[1, 0][:5]
    found = compared(
        launch(tmp_path, {"x": a}), launch(tmp_path, {"x": b}, name="b", seeds=range(10, 15))
    )
    ((d,),) = [cell.differences for cell in found.cells]
    test = stats.ttest_ind(b, a, equal_var=False)
    low, high = test.confidence_interval(0.95)
    assert (d.kind, d.n, d.p_value) == ("Welch", 3, pytest.approx(test.pvalue))
    assert (d.ci_low, d.ci_high) == pytest.approx((low, high))
    assert found.differs["seeds"] == ([0, 1, 2], [10, 11, 12, 13, 14])
    assert difference_text(d).endswith("*, Welch")


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"digest": "text-2"}, "different text"),
        ({"model.context_length": 8}, "different model.context_length"),
        ({"run": "a"}, "the same runs"),
    ],
)
def test_what_does_not_compare_has_no_number_but_a_reason(tmp_path, changes, why):
    losses = {"x": 3 + NOISE[0, 0]}
    ((cell,), *_) = [
        compared(launch(tmp_path, losses), launch(tmp_path, losses, name="b", **changes)).cells
    ]
    (d,) = cell.differences
    assert (d.estimate, d.ci_low, d.decided) == (None, None, None)
    assert why in d.reason
    assert why in difference_text(d)


def test_a_cell_that_one_launch_lacks_and_one_seed(tmp_path):
    found = compared(
        launch(tmp_path, {"x": [3.0], "y": [2.0]}),
        launch(tmp_path, {"x": [2.5]}, name="b"),
        launch(tmp_path, {"y": [2.1]}, name="c"),
    )
    x, y = found.cells
    assert x.differences[0].estimate == -0.5
    assert "one seed" in difference_text(x.differences[0])
    assert (x.differences[1], y.differences[0], y.means[1]) == (None, None, None)
    assert "no study file here for s/cpu/a, s/cpu/b, s/cpu/c" in as_markdown(found)
    assert r"\begin{tabular}{lrrrrr}" in as_latex(found), "each has a cell of A's"


def test_in_latex_a_launch_is_what_it_was_called_and_what_does_not_compare_is_said_once(tmp_path):
    losses = {"x": 3 + NOISE[0, 0], "y": 3 + NOISE[0, 1]}
    later = {"x": 2.9 + NOISE[1, 0], "y": 3 + NOISE[1, 1]}
    launches = [
        launch(tmp_path, losses, name="a-name-too-long-for-a-page"),
        launch(tmp_path, later, name="b", **{"optim.learning_rate": 0.1}),
        launch(tmp_path, later, name="c", digest="text-2"),
    ]
    found = compare(launches, [None] * 3, ["ours", "theirs", "file.moe-study"])
    text = as_latex(found, precision=Precision(digits=2))
    shown = "\n".join(line for line in text.splitlines() if not line.startswith("%"))
    assert "cell & A & B & C & $B - A$" in shown
    assert shown.count("different text") == 1
    assert "C has no difference: evaluated on different text" in shown
    assert "A: ours, scale cpu, stdlib (text-1), $n = 6$." in shown
    assert "Configurations differ in" in shown
    assert "optim.learning\\_rate" in shown
    assert "a-name-too-long" not in shown
    (x,) = [line for line in shown.splitlines() if line.lstrip().startswith("x &")]
    d = found.cells[0].differences[0]
    half = (d.ci_high - d.ci_low) / 2
    assert f"${d.estimate:+.2f}^{{*}} \\pm {half:.2f}$" in x
    only = as_latex(found, cells=["y*"])
    assert "x &" not in only
    with pytest.raises(BadInput, match="received z, and these are x, y"):
        as_latex(found, cells=["z"])


def test_verdicts_say_where_they_are_others_and_where_open():
    def told(*verdicts):
        claim = ComparedClaim(id="c", statement="s", verdicts=verdicts)
        return _changed(claim, "ABC")

    assert told("supported", "refuted", "undecided") == "changed in B, open in C"
    assert told("supported", "supported", "undecided") == "open in C"
    assert told("undecided", "supported", None) == "decided in B"
    assert told(None, "refuted", "supported") == "changed in C"
    assert told("supported", "supported", None) == ""


def test_the_differences_are_drawn_with_their_intervals(tmp_path):
    launches = [
        launch(tmp_path, {"x": 3 + NOISE[0, 0], "y": 3 + NOISE[0, 1]}),
        launch(tmp_path, {"x": 2.9 + NOISE[1, 0], "y": 3 + NOISE[1, 1]}, name="b"),
    ]
    found = compared(*launches)
    ax = compared_cells(found, launches).get_axes()[1]
    middles = [x for line in ax.lines if line.get_label() == "_mean" for x in line.get_xdata()]
    assert middles == pytest.approx([cell.differences[0].estimate for cell in found.cells])


def test_the_command_compares_files_and_homes_and_refuses_with_one_line(moe_study, tmp_path):
    drawn = tmp_path / "both.svg"
    code, out, _ = moe_study("compare", EXPORT, EXPORT, "--curves", drawn, "--json")
    found = json.loads(out)
    assert code == 0
    assert found["differs"] == {}
    assert {d["reason"] for cell in found["cells"] for d in cell["differences"]} == {
        "the same runs"
    }
    assert [claim["changed"] for claim in found["claims"]] == [False, False]
    assert b"<svg" in drawn.read_bytes()[:500]
    for wrong in (
        ("compare", EXPORT),
        ("compare", EXPORT, "nothing", "--home", tmp_path / "none"),
        ("compare", EXPORT, EXPORT, "--curves", "it.gif"),
        ("compare", EXPORT, EXPORT, "--format", "csv"),
        ("compare", EXPORT, EXPORT, "--differences", tmp_path / "d.pdf"),
        ("compare", EXPORT, tmp_path / "none.moe-study"),
    ):
        code, out, err = moe_study(*wrong)
        assert (code, out, err.count("moe-study:")) == (2, "", 1), wrong
