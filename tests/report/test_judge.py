"""A launch judged, and its table: planted records, no store."""

from __future__ import annotations

import csv
import io
import json
import math
from datetime import UTC, datetime

import pytest
from scipy import stats

from orchestrator.base.errors import BadInput
from orchestrator.base.home import Home
from orchestrator.report.judge import analysis_folder, judge_launch, main_digest, read_analysis
from orchestrator.report.table_text import render
from orchestrator.report.tables import table_of
from orchestrator.stores.trial_record import (
    FLOPS_PER_TOKEN,
    METRICS,
    MOE_DIGEST,
    PARAMS_ACTIVE,
    PARAMS_TOTAL,
)
from orchestrator.stores.trial_record import TrialRecord as Record
from orchestrator.study import Better, Specialises, Study
from orchestrator.study.registration import register
from search_spaces.cells import Cell
from studies.scales import SCALES

STUDY = Study(
    name="judged",
    question="Is a better than b?",
    baseline="b",
    held_fixed="all",
    scales=SCALES,
    cells=[Cell(name=name, overrides={}) for name in "abc"],
    claims=(
        Better(id="X1", statement="a beats b", a="a", b="b"),
        Specialises(
            id="X2",
            statement="experts of a go with topics",
            cell="a",
            labels=("topic",),
            at_least=0,
        ),
    ),
    published={"a": {"wiki": 10.0, "web": 20.0}, "b": {"wiki": 11.0}, "c": {"wiki": 9.0}},
)
HISTORY = register((), STUDY, range(4), now=datetime(2026, 11, 25, tzinfo=UTC), results=0)


def record(number, cell, seed, value, *, state="complete", digest="code-1") -> Record:
    return Record(
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
        params={},
        error=None,
        attempt=0,
        attributes={
            MOE_DIGEST: digest,
            PARAMS_TOTAL: 2_000_000,
            PARAMS_ACTIVE: 1_000_000,
            FLOPS_PER_TOKEN: 6_000_000,
            METRICS: {"router/load_entropy": 0.9},
        },
    )


@pytest.fixture
def records():
    means = {"a": 3.0, "b": 3.1, "c": 3.2}
    return [
        record(10 * i + seed, cell, seed, mean + 0.2 * seed + 0.001 * ((seed * (i + 2)) % 3))
        for i, (cell, mean) in enumerate(means.items())
        for seed in range(4)
    ]


def rows_of(cell, excess=0.2):
    return [
        {
            "probe": "corpus:topic",
            "cell": cell,
            "seed": seed,
            "layer": layer,
            "nmi": excess + 0.05 + 0.001 * seed,
            "nmi_null_mean": 0.05,
        }
        for seed in range(4)
        for layer in (0, 1, None)
    ]


def table(records, *, scale="cpu", rows=()):
    judgement = judge_launch(STUDY, scale=scale, records=records, rows=rows)
    return table_of("judged", "judged/cpu", records, published=STUDY.published, judgement=judgement)


def test_claims_are_judged_on_complete_trials(records):
    judged = judge_launch(STUDY, scale="cpu", records=records, rows=rows_of("a"), history=HISTORY)
    first, second = judged.verdicts
    assert (first.verdict, first.n) == ("supported", 4)
    assert (second.verdict, second.metric) == ("supported", "nmi")
    assert judged.evidence
    assert judged.notes == ()
    stopped = [record(90 + seed, "b", seed, None, state="pruned") for seed in range(2)]
    kept = [r for r in records if (r.cell, r.seed) not in {("b", 0), ("b", 1)}]
    assert judge_launch(STUDY, scale="cpu", records=kept + stopped).verdicts[0].n == 2


def test_nothing_at_smoke_scale_is_evidence(records):
    judged = judge_launch(STUDY, scale="smoke", records=records)
    assert not judged.evidence
    assert judged.to_dict()["evidence"] is False
    assert "scale smoke" in judged.evidence_reason
    assert judged.verdicts[0].verdict == "supported"


def test_what_was_not_analysed_stays_undecided_and_is_named(records):
    judged = judge_launch(STUDY, scale="cpu", records=records, history=HISTORY)
    assert judged.verdicts[1].verdict == "undecided"
    assert "no analysed probe" in judged.verdicts[1].reason
    assert judged.notes == (
        "nothing was analysed: claims about specialisation need `moe-study analyze judged "
        "--probe SPEC`",
    )


def test_trials_of_other_code_are_left_out_and_named(records):
    mixed = [*records, record(99, "b", 9, 0.1, digest="code-2"), record(98, "a", 9, 9.0)]
    assert main_digest(mixed) == "code-1"
    judged = judge_launch(STUDY, scale="cpu", records=mixed, rows=rows_of("a"), history=HISTORY)
    assert judged.verdicts[0].n == 4
    assert judged.notes == (
        "1 complete trials of other code (code-2) are not judged; the verdicts are on code code-1",
    )
    newer = [record(1, "a", 0, 3.0), record(2, "a", 0, 3.0, digest="code-2")]
    assert main_digest(newer) == "code-2"
    assert main_digest([]) == ""


def test_a_trial_that_never_started_stands_with_its_cell(records):
    waiting = [record(50, "a", 4, None, state="waiting", digest=None)]
    waiting += [record(51, "d", 0, None, state="waiting", digest=None)]
    made = table([*waiting, *records])
    states = {row.cell: row.states for row in made.rows}
    assert states["a"] == {"complete": 4, "waiting": 1}
    assert [row.cell for row in made.rows].count("a") == 1
    assert "code" not in render(made, "markdown").splitlines()[2]


def test_the_order_of_cells_is_that_of_one_code(records):
    """Also its interval, in which a seed of other code would be one that the cells share."""
    others = [record(90 + i, c, i, 9.0 - i, digest="code-2") for i in range(2) for c in "ac"]
    expected = table(records).rank_correlation["wiki"]
    assert expected.seeds == 4
    assert table([*records, *others]).rank_correlation["wiki"] == expected


def test_table_has_published_values_rank_correlation_and_verdicts(records):
    found = json.loads(render(table(records), "json"))
    assert {"study", "metric", "rows", "claims", "evidence", "rank_correlation"} <= found.keys()
    row = found["rows"][0]
    assert row["published"] == {"wiki": 10.0, "web": 20.0}
    assert {"cell", "n", "mean", "ci_low", "ci_high", "params_total", "run_ids"} <= row.keys()
    reference = stats.kendalltau([3.0, 3.1, 3.2], [10.0, 11.0, 9.0])
    wiki = found["rank_correlation"]["wiki"]
    assert (wiki["tau"], wiki["n"]) == (pytest.approx(reference.statistic), 3)
    assert found["rank_correlation"]["web"]["tau"] is None
    claim = found["claims"][0]
    assert {"id", "statement", "verdict", "estimate", "ci_low", "ci_high", "n", "margin"} <= (
        claim.keys()
    )
    assert claim["perplexity_ratio"][0] == pytest.approx(math.exp(claim["estimate"]))


def test_markdown_lists_the_claims_under_the_rows(records):
    text = render(table(records, scale="smoke"), "markdown")
    lines = text.splitlines()
    header = next(line for line in lines if line.startswith("| cell"))
    assert "published wiki" in header
    assert "[0](runs:/run-a-0)" in text
    assert any(line.startswith("Kendall's tau") and "over 3 cells" in line for line in lines)
    assert any(line.startswith("Not evidence: scale smoke") for line in lines)
    claim = next(line for line in lines if line.startswith("| X1"))
    assert "| supported |" in claim
    assert "95% [" in claim
    assert "-9." in claim  # the change of perplexity, in percent
    widths = {line.count(" | ") for line in lines if line.startswith("| X")}
    assert len(widths) == 1


def test_csv_has_a_column_a_published_corpus(records):
    rows = list(csv.DictReader(io.StringIO(render(table(records, scale="smoke"), "csv"))))
    assert [row["published_wiki"] for row in rows] == ["10.0", "11.0", "9.0"]
    assert [row["published_web"] for row in rows] == ["20.0", "", ""]
    assert {row["evidence"] for row in rows} == {"False"}


def test_a_table_without_claims_or_published_values_is_as_before(records):
    plain = render(table_of("plain", "plain/cpu", records), "markdown")
    assert "published" not in plain
    assert "| claim" not in plain


def test_rows_of_analyze_are_read_from_the_launchs_own_folder(tmp_path):
    home = Home(tmp_path)
    assert read_analysis(home, "judged/cpu") == []
    folder = analysis_folder(home, "judged/cpu")
    assert folder.parent == tmp_path / "analysis"
    folder.mkdir(parents=True)
    for cell in "ab":
        (folder / f"{cell}.json").write_text(json.dumps(rows_of(cell)))
    assert read_analysis(home, "judged/cpu") == rows_of("a") + rows_of("b")
    assert read_analysis(home, "judged/gpu") == []


@pytest.mark.parametrize("text", ["{", "{}", '[{"cell": "a"}]'])
def test_a_damaged_analysis_is_named(tmp_path, text):
    home = Home(tmp_path)
    folder = analysis_folder(home, "judged/cpu")
    folder.mkdir(parents=True)
    (folder / "bad.json").write_text(text)
    with pytest.raises(BadInput, match=r"bad\.json"):
        read_analysis(home, "judged/cpu")
