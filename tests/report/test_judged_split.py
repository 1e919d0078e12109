"""Tables and claims are on the test split; what a search goes by is on the validation split."""

from __future__ import annotations

import dataclasses
import math

import pytest

from orchestrator.report.evidence import Sampling
from orchestrator.report.judge import judge_launch
from orchestrator.report.judged_split import judged_metric, on_judged_split, with_causal_routes
from orchestrator.report.tables import table_of
from orchestrator.report.verdict_text import verdict_rows
from orchestrator.stores.trial_record import (
    CONFIG,
    FLOPS_PER_TOKEN,
    METRICS,
    MOE_DIGEST,
    PARAMS_ACTIVE,
    PARAMS_TOTAL,
    TrialRecord,
)
from orchestrator.study import All, Better, Equivalent, Study
from orchestrator.study.claims import measured_by
from orchestrator.study.comparability import Evaluated
from search_spaces.cells import Cell
from search_spaces.domains import Choice
from search_spaces.space import Space
from studies.scales import SCALES

SEQUENCE = {"moe.num_experts": 4, "moe.top_k": 2, "moe.routing_unit": "sequence"}


def record(number, cell, seed, metrics, told=None, **fields):
    return TrialRecord(
        number=number,
        trial_id=number,
        state="complete",
        cell=cell,
        seed=seed,
        config_hash=f"{cell}{seed}",
        cell_hash=cell,
        run_id=None,
        value=metrics["val/loss"],
        tokens=1000,
        params={},
        error=None,
        attempt=0,
        attributes={
            MOE_DIGEST: "code",
            PARAMS_TOTAL: 2,
            PARAMS_ACTIVE: 1,
            FLOPS_PER_TOKEN: 6,
            METRICS: metrics,
            CONFIG: told or {},
        },
        **fields,
    )


def launch(test, val, told=None):
    """Five seeds of cells `a` and `b`, whose losses on both splits are given by cell."""
    return [
        record(
            10 * i + seed,
            cell,
            seed,
            {"val/loss": val[cell] + wobble, "test/loss": test[cell] + wobble * (2 - i)},
            told=(told or {}).get(cell),
        )
        for i, cell in enumerate("ab")
        for seed, wobble in enumerate((0.0, 0.01, -0.01, 0.02, -0.02))
    ]


STUDY = Study(
    name="split",
    question="Is a better than b?",
    baseline="b",
    held_fixed="all",
    scales=SCALES,
    cells=[Cell(name=name, overrides={}) for name in "ab"],
    claims=(
        Better(id="X", statement="a beats b", a="a", b="b"),
        All(
            id="Y",
            statement="both",
            parts=(
                Better(id="Y.1", statement="a beats b", a="a", b="b"),
                Equivalent(
                    id="Y.2", statement="alike", a="a", b="b", margin=0.5, metric="train/loss"
                ),
            ),
        ),
    ),
)
SEARCH = Study(
    name="search",
    question="Which is best?",
    baseline="b",
    held_fixed="all",
    scales=SCALES,
    space=Space(axes={"moe.top_k": Choice((1, 2))}),
    trials=2,
)


def test_claims_and_tables_go_by_the_test():
    records = launch(test={"a": 3.0, "b": 3.5}, val={"a": 3.5, "b": 3.0})
    judged = on_judged_split(records, "val/loss")
    verdict, compound = judge_launch(STUDY, scale="cpu", records=judged).verdicts
    assert (verdict.verdict, verdict.metric) == ("supported", "test/loss")
    assert verdict.estimate == pytest.approx(-0.5)
    assert compound.parts[0].metric == "test/loss"
    table = table_of("split", "split/cpu", judged, metric=judged_metric("val/loss", judged))
    assert [(row.cell, pytest.approx(row.mean)) for row in table.rows] == [("a", 3.0), ("b", 3.5)]
    assert table.rows[0].perplexity == pytest.approx(math.exp(3.0))


def test_where_one_result_has_no_test_all_are_on_validation():
    records = launch(test={"a": 3.0, "b": 3.5}, val={"a": 3.5, "b": 3.0})
    without = [*records, record(99, "b", 9, {"val/loss": 3.0})]
    assert judged_metric("val/loss", without) == "val/loss"
    assert on_judged_split(without, "val/loss") == without
    assert judge_launch(STUDY, scale="cpu", records=without).verdicts[0].verdict == "refuted"


def test_one_of_an_older_configuration_neither_decides_nor_shows_another_split():
    records = launch(test={"a": 3.0, "b": 3.5}, val={"a": 3.5, "b": 3.0})
    older = record(0, "before", 0, {"val/loss": 1.0}, is_older=True)
    judged = on_judged_split([older, *records], "val/loss")
    table = table_of("split", "split/cpu", judged, metric=judged_metric("val/loss", judged))
    assert [row.mean for row in table.rows if row.is_older] == [None]


def test_a_search_is_ordered_by_what_it_went_by_and_shows_the_test():
    records = launch(test={"a": 3.6, "b": 3.4}, val={"a": 3.0, "b": 3.5})
    judged = on_judged_split(records, "val/loss")
    table = table_of("search", "search/cpu", judged, metric="test/loss", best_first=True)
    assert [row.cell for row in table.rows] == ["a", "b"]
    assert table.rows[0].mean == pytest.approx(3.6)
    (note,) = judge_launch(SEARCH, scale="cpu", records=judged).notes
    assert "test/loss, of text that nothing chose by" in note
    plain = [dataclasses.replace(r, attributes=r.attributes | {METRICS: {}}) for r in records]
    (note,) = judge_launch(SEARCH, scale="cpu", records=plain).notes
    assert "look better than they are" in note


def test_a_claim_on_whole_sequences_is_judged_on_causal_routes_too():
    """a's leak is worth 0.5 nats: with it a beats b, without it b beats a."""
    records = launch(
        test={"a": 3.0, "b": 3.2}, val={"a": 3.0, "b": 3.2}, told={"a": SEQUENCE, "b": {}}
    )
    records = [
        dataclasses.replace(
            r,
            attributes=r.attributes
            | {
                METRICS: r.metrics
                | {name: r.metrics[name.removesuffix("_causal")] + 0.5 for name in names}
            },
        )
        if r.cell == "a" and (names := ("val/loss_causal", "test/loss_causal"))
        else r
        for r in records
    ]
    judged = judge_launch(STUDY, scale="cpu", records=on_judged_split(records, "val/loss"))
    verdict = judged.verdicts[0]
    assert (verdict.verdict, verdict.causal) == ("supported", False)
    again = verdict.with_causal_routes
    assert (again.verdict, again.causal) == ("refuted", True)
    assert again.estimate == pytest.approx(0.3)
    assert verdict.to_dict()["with_causal_routes"]["verdict"] == "refuted"
    assert "with causal routes refuted: +0.3000" in verdict_rows([verdict])[0][-1]


def test_without_such_cells_or_such_losses_there_is_no_second_verdict():
    for told in ({"a": {}, "b": {}}, {"a": SEQUENCE, "b": {}}):
        records = launch(test={"a": 3.0, "b": 3.2}, val={"a": 3.0, "b": 3.2}, told=told)
        verdict = judge_launch(STUDY, scale="cpu", records=records).verdicts[0]
        assert verdict.with_causal_routes is None


def test_only_the_losses_of_leaking_cells_change():
    losses = {0: {"val/loss": 1.0, "val/loss_causal": 2.0, "train/loss": 3.0}}
    values = {"leaks": losses, "token": {0: {"val/loss": 1.5}}, "old": {0: {"val/loss": 1.0}}}
    how = {
        name: Evaluated(text=None, tokens="", alike={}, is_causal=name == "token")
        for name in values
    }
    changed, sampling, cells = with_causal_routes(values, Sampling(evaluated=how))
    assert cells == {"leaks"}
    assert changed["leaks"][0] == {"val/loss": 2.0, "val/loss_causal": 2.0, "train/loss": 3.0}
    assert (changed["token"], changed["old"]) == (values["token"], values["old"])
    assert {name: e.is_causal for name, e in sampling.evaluated.items()} == {
        "leaks": True,
        "token": True,
        "old": False,
    }


def test_every_metric_of_a_claim_is_replaced():
    claim = measured_by(STUDY.claims[1], {"val/loss": "test/loss", "train/loss": "val/loss"}.get)
    assert [part.metric for part in claim.parts] == ["test/loss", "val/loss"]
