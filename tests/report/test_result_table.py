"""The table that is read: differences and the best row against references, columns, LaTeX."""

from __future__ import annotations

import csv
import io
import itertools
import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from scipy import stats
from statsmodels.stats.multitest import multipletests

from orchestrator.base.errors import BadInput
from orchestrator.cli import shown_tables
from orchestrator.report.evidence import Sampling
from orchestrator.report.judge import judge_launch
from orchestrator.report.latex_table import Precision, escaped
from orchestrator.report.row_contrasts import row_contrasts
from orchestrator.report.table_columns import columns_of, fitting, human
from orchestrator.report.table_text import footnotes, headings, of_cells, render
from orchestrator.report.tables import table_of
from orchestrator.report.verdict_text import interval_line, verdict_blocks
from orchestrator.stores.trial_record import (
    FLOPS_PER_TOKEN,
    MOE_DIGEST,
    PARAMS_ACTIVE,
    PARAMS_TOTAL,
    TrialRecord,
)
from orchestrator.study import Better, Equivalent, Study
from orchestrator.study.design import Fixed, Sequential
from search_spaces.cells import Cell
from studies.scales import SCALES

NOISE = np.random.default_rng(5).normal(0, 0.01, (3, 6))
LOSS = {"dense": 3.0, "wide_moe": 2.8, "frozen": 3.001}
STUDY = Study(
    name="planted",
    question="?",
    baseline="dense",
    held_fixed="all",
    scales=SCALES,
    cells=[Cell(name=name, overrides={}) for name in LOSS],
    claims=(
        Better(id="C1", statement="wide beats dense", a="wide_moe", b="dense"),
        Equivalent(id="C2", statement="frozen is dense", a="frozen", b="dense", margin=0.05),
    ),
)


def record(number, cell, seed, value, *, state="complete", params=None, curve=None, size=1.2e6):
    return TrialRecord(
        number=number,
        trial_id=number,
        state=state,
        cell=cell,
        seed=seed,
        config_hash=f"{cell}{seed}",
        cell_hash=cell,
        run_id=f"run-{cell}-{seed}",
        value=value if state == "complete" else None,
        tokens=1000,
        params=params or {},
        error=None,
        attempt=0,
        attributes={
            MOE_DIGEST: "code-1",
            PARAMS_TOTAL: size,
            PARAMS_ACTIVE: size / 2,
            FLOPS_PER_TOKEN: 6 * size,
        },
        curve=curve or {},
    )


def planted(seeds=6):
    kinds = {
        "dense": {"moe.num_experts": 0},
        "wide_moe": {"moe.num_experts": 4, "moe.router": "learned"},
        "frozen": {"moe.num_experts": 4, "moe.router": "frozen"},
    }
    return [
        record(10 * i + s, cell, s, loss + NOISE[i, s], params=kinds[cell], size=0.9e6 + 2e5 * i)
        for i, (cell, loss) in enumerate(LOSS.items())
        for s in range(seeds)
    ]


@pytest.fixture
def table():
    records = planted()
    judgement = judge_launch(STUDY, scale="cpu", records=records)
    about = {"scale": "cpu", "corpus": "files:my_text/*.txt", "corpus_digest": "0123456789"}
    return table_of("planted", "planted/cpu", records, judgement=judgement, about=about)


def searched():
    def point(number, name, value, rate, **changes):
        params = {"moe.router": "learned", "optim.learning_rate": rate}
        return record(number, f"learned-lr{rate}-{name}", 0, value, params=params, **changes)

    return [
        point(0, "aaaa", None, 1e-2, state="pruned", curve={2: 5.0}),
        point(1, "bbbb", 3.5, 2e-3),
        point(2, "cccc", None, 3e-2, state="pruned", curve={2: 4.0, 4: 4.5}),
        point(3, "dddd", 3.1, 4e-3),
    ]


def values_of(losses):
    return {
        cell: {seed: {"val/loss": float(x)} for seed, x in enumerate(row)}
        for cell, row in losses.items()
    }


def test_differences_are_paired_t_intervals_with_holm_over_all_rows(table):
    rows = {row.cell: row for row in table.rows}
    losses = {cell: loss + NOISE[i] for i, (cell, loss) in enumerate(LOSS.items())}
    tests = {c: stats.ttest_rel(losses[c], losses["dense"]) for c in ("wide_moe", "frozen")}
    decided, adjusted, *_ = multipletests([t.pvalue for t in tests.values()], method="holm")
    for (cell, test), told, p in zip(tests.items(), decided, adjusted, strict=True):
        found = rows[cell].difference
        low, high = test.confidence_interval(0.95)
        assert found.estimate == pytest.approx((losses[cell] - losses["dense"]).mean())
        assert (found.ci_low, found.ci_high) == pytest.approx((low, high))
        assert (found.decided, found.p_adjusted) == (told, pytest.approx(p))
    assert [told.item() for told in decided] == [True, False]
    assert [row.is_baseline for row in table.rows] == [True, False, False]
    assert [row.is_best for row in table.rows] == [False, True, False]
    assert rows["dense"].difference is None


@pytest.mark.parametrize("design", [Fixed(), Sequential(max_seeds=20)], ids=["fixed", "sequential"])
def test_equal_cells_are_told_apart_in_few_studies(design):
    """Over 400 studies of four equal cells: some difference is decided in at most 5% (binomial
    bound at 1e-3: 9%), and some row is called the best in at most as many."""
    rng, marked, best = np.random.default_rng(1), 0, 0
    for _ in range(400):
        losses = dict(zip("abcd", 3 + rng.normal(0, 0.1, (4, 5)), strict=True))
        sampling = Sampling(order=range(5))
        found = row_contrasts(values_of(losses), "val/loss", "a", design=design, sampling=sampling)
        marked += any(d.decided for d in found.differences.values())
        best += bool(found.best)
    assert max(marked, best) <= stats.binom.isf(1e-3, 400, 0.05)


def test_the_best_row_is_named_only_where_it_beats_every_other():
    base = {"a": 3.0 + NOISE[0], "b": 2.5 + NOISE[1]}

    def found(losses):
        return row_contrasts(
            values_of(losses), "val/loss", "none", design=Fixed(), sampling=Sampling()
        )

    assert found(base).best == {"b"}
    assert found(base).differences == {}
    assert found({**base, "c": 2.5 + NOISE[2]}).best == frozenset()
    assert found({cell: values[:1] for cell, values in base.items()}).best == frozenset()
    assert found({**base, "c": [2.0]}).best == frozenset(), "one seed decides nothing"


def test_a_baseline_without_a_pair_gives_no_number():
    losses = values_of({"a": [3.0, 3.1], "b": [2.0, 2.1]})
    losses["b"] = {seed + 7: row for seed, row in losses["b"].items()}
    found = row_contrasts(losses, "val/loss", "a", design=Fixed(), sampling=Sampling())
    assert found.differences == {}
    one = values_of({"a": [3.0], "b": [2.0]})
    found = row_contrasts(one, "val/loss", "a", design=Fixed(), sampling=Sampling())
    assert (found.differences["b"].estimate, found.differences["b"].decided) == (-1.0, None)


def test_markdown_marks_baseline_best_and_decided(table):
    text = render(table, "markdown")
    rows = {line.split(" | ")[0]: line for line in text.splitlines() if line.startswith("| ")}
    assert "| baseline |" in rows["| dense"]
    assert re.search(
        r"\| \*\*2\.\d{4}\*\* \|.*\| -0\.\d{4} \[-0\.\d+, -0\.\d+\]\* \|", rows["| wide_moe"]
    )
    assert "]* |" not in rows["| frozen"]
    assert "Holm's correction over 2 differences (t test, alpha 0.05)" in text
    assert "Bold: decided to be better than every other row" in text
    assert headings(table)[-2:] == ["num_experts", "router"]
    assert rows["| dense"].count("| - |") == 1, "a dense model has no router"


def test_csv_and_json_hold_differences_and_what_moves(table):
    rows = list(csv.DictReader(io.StringIO(render(table, "csv"))))
    assert [row["moe.router"] for row in rows] == ["", "learned", "frozen"]
    assert [row["difference_decided"] for row in rows] == ["", "True", "False"]
    found = json.loads(render(table, "json"))["rows"][1]
    assert found["is_best"]
    assert found["difference"]["ci_high"] < 0
    assert found["params"] == {"moe.num_experts": 4, "moe.router": "learned"}
    with pytest.raises(BadInput, match="csv has every field"):
        render(table, "csv", columns=["cell"])


def test_a_search_shows_what_moves_and_pruned_points_last():
    table = table_of("search", "search/cpu", searched(), best_first=True)
    assert headings(table)[:2] == ["point", "learning_rate"]
    text = [[c.text(row) for c in columns_of(table, ["point", "val/loss"])] for row in table.rows]
    assert text == [
        ["dddd", "3.1000"],
        ["bbbb", "3.5000"],
        ["cccc", "(4.5000 at 4)"],
        ["aaaa", "(5.0000 at 2)"],
    ]
    assert any(
        "last validation value of pruned trials" in note
        for note in footnotes(
            table_of(
                "s",
                "s",
                searched(),
                best_first=True,
                judgement=judge_launch(STUDY, scale="cpu", records=searched()),
            )
        )
    )


def test_rows_and_columns_are_chosen_and_sorted(table):
    assert [r.cell for r in of_cells(table, ["fro*", "dense"], None).rows] == ["frozen", "dense"]
    assert next(r.cell for r in of_cells(table, None, "val/loss").rows) == "wide_moe"
    by_size = of_cells(table, None, "-total")
    assert [r.cell for r in by_size.rows] == ["frozen", "wide_moe", "dense"]
    assert [r.cell for r in of_cells(table, None, "router").rows][-1] == "dense", "none comes last"
    text = render(table, "markdown", columns=["cell", "total"])
    assert "| cell | total |\n" in text
    for choose in (
        lambda: of_cells(table, ["nothing*"], None),
        lambda: of_cells(table, None, "nothing"),
        lambda: columns_of(table, ["cell", "nothing"]),
        lambda: columns_of(table, ["cell", "cell"]),
        lambda: columns_of(table, []),
    ):
        with pytest.raises(BadInput, match="received"):
            choose()


def test_a_column_has_one_unit():
    write = human([186_690, 1_180_000, 20])
    assert [write(x) for x in (186_690, 1_180_000, 20, 0)] == [
        "0.19M",
        "1.18M",
        "0.000020M",
        "0.00M",
    ]
    assert human([3.0])(3.0) == "3"
    assert human([2.5e12])(2.5e12) == "2.50T"


@pytest.mark.parametrize("width", [40, 60, 80, 120, 200])
def test_a_terminal_leaves_out_columns_and_cuts_no_value(table, monkeypatch, width):
    shown = io.StringIO()
    console = Console(file=shown, width=width, force_terminal=True, color_system=None)
    monkeypatch.setattr(shown_tables, "output", console)
    shown_tables.print_table(table)
    text = shown.getvalue()
    kept, left_out = fitting(columns_of(table), table.rows, width)
    assert kept[0].name == "cell"
    assert {"val/loss"} <= {column.name for column in kept}
    for column, row in itertools.product(kept, table.rows):
        assert column.text(row) in text
    assert ("Left out for want of room" in text) == bool(left_out)
    joined = re.sub(r"\s+", " ", text)
    for column in left_out:
        assert re.search(rf"Left out for want of room: .*{re.escape(column.name)}", joined)
    assert max(map(len, text.splitlines())) <= width
    assert "**" not in text
    assert "\N{HORIZONTAL ELLIPSIS}" not in text
    assert "wide_moe minus dense, val/loss (nats/token)" in joined


def test_a_block_draws_the_interval_between_zero_and_margin(table):
    better, equivalent = table.judgement.verdicts
    line = interval_line(better, 61)
    assert line.index("=") < line.index("o") < line.rindex("=") < line.index("|") == 30
    line = interval_line(equivalent, 61)
    assert [i for i, letter in enumerate(line) if letter == ":"] == [0, 60]
    assert 0 < line.index("=") < 30 < line.index("o") or "o" in line
    first, second = verdict_blocks(table.judgement.verdicts, width=61)
    assert first.verdict == "supported"
    assert first.lines[0] == "wide_moe minus dense, val/loss (nats/token)"
    assert first.lines[1].endswith("n = 6")
    assert "95% [-" in first.lines[1]
    assert "margin 0.0500" in second.lines[1]
    assert "90% [" in second.lines[1]
    told = better.to_dict()
    assert (told["a"], told["b"], told["compared"]) == ("wide_moe", "dense", "wide_moe minus dense")


def test_latex_says_what_its_numbers_are(table):
    text = render(table, "latex")
    assert text.count(r"\begin{tabular}") == text.count(r"\end{tabular}") == 2
    for line in text.splitlines():
        assert line.startswith("%") or line.count("%") == line.count(r"\%")
    (row,) = [line for line in text.splitlines() if line.strip().startswith(r"wide\_moe")]
    mean, half = re.search(r"\$\\mathbf\{(.+?)\} \\pm (.+?)\$", row).groups()
    of_row = table.rows[1]
    assert (mean, half) == (f"{of_row.mean:.4f}", f"{of_row.mean - of_row.ci_low:.4f}")
    found = of_row.difference
    assert f"${found.estimate:+.4f}^{{*}} \\pm {found.estimate - found.ci_low:.4f}$" in row
    caption = next(line for line in text.splitlines() if r"\caption" in line)
    for part in (
        "scale cpu",
        "nats/token",
        "$n = 6$",
        "from dense, paired by seed",
        "Design: fixed",
        r"Corpus files:*.txt (01234567)",
        "Holm's correction over 2",
    ):
        assert part in caption
    assert r"wide\_moe minus dense" in text
    assert r"95\% $[" in text
    assert "num\\_experts" not in text, "a grid's names tell its axes"
    text = render(
        table,
        "latex",
        columns=["cell", "router", "val/loss"],
        precision=Precision(spread="sd", digits=2),
    )
    assert r"cell & router & val/loss (nats/token) \\" in text
    assert f"$\\mathbf{{{of_row.mean:.2f}}}$ (${of_row.sd:.2f}$)" in text
    for wrong in ({"spread": "range"}, {"digits": -1}):
        with pytest.raises(BadInput, match="received"):
            Precision(**wrong)


def test_latex_escapes_in_one_pass():
    assert escaped(r"a\b_c{d}~^<>|&%$#") == (
        r"a\textbackslash{}b\_c\{d\}\textasciitilde{}\textasciicircum{}"
        r"\textless{}\textgreater{}\textbar{}\&\%\$\#"
    )


@pytest.mark.skipif(not shutil.which("pdflatex"), reason="no LaTeX here")
@pytest.mark.parametrize("sampled", [False, True])
def test_latex_compiles(table, tmp_path, sampled):
    if sampled:
        table = table_of("s_1", "s_1/cpu", searched(), best_first=True, judgement=table.judgement)
    document = r"\documentclass[twocolumn]{article}\usepackage[T1]{fontenc}\usepackage{booktabs}"
    text = f"{document}\\begin{{document}}\n{render(table, 'latex')}\\end{{document}}\n"
    (tmp_path / "it.tex").write_text(text)
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "it.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout[-3000:]
    assert "Overfull" not in done.stdout, "wider than the page"
    assert (tmp_path / "it.pdf").stat().st_size > 5000


def test_the_commands_read_an_export_and_refuse_with_one_line(moe_study, tmp_path):
    export = Path(__file__).parents[2] / "docs" / "results" / "quickstart.moe-study"
    options = ("--cells", "token-*", "--sort", "val/loss", "--columns", "cell,n,difference")
    code, out, _ = moe_study("table", export, *options)
    rows = [line for line in out.splitlines() if line.startswith("| token-")]
    assert (code, len(rows), rows[0].split(" | ")[0]) == (0, 3, "| token-learned")
    code, out, _ = moe_study("figure", export, "loss", "--format", "svg", "-o", tmp_path / "it.svg")
    assert (code, out) == (0, f"{tmp_path / 'it.svg'}\n")
    assert b"<svg" in (tmp_path / "it.svg").read_bytes()[:500]
    for wrong in (
        ("table", export, "--columns", "cell,none"),
        ("table", export, "--sort", "none"),
        ("table", export, "--cells", "none*"),
        ("table", export, "--spread", "range"),
        ("table", export, "--digits", "99"),
        ("table", export, "--format", "csv", "--columns", "cell"),
        ("figure", export, "none"),
        ("figure", export, "loss", "--format", "gif"),
        ("figure", export, "loss", "--width", "1e9"),
        ("figure", export, "loss", "--style", "comic"),
        ("figure", export, "loss", "-o", export / "under_a_file.pdf"),
    ):
        code, out, err = moe_study(*wrong)
        assert (code, out, err.count("moe-study:")) == (2, "", 1), wrong
        assert "received" in err
