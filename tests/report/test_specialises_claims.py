"""Planted rows of `analyze`: claims of specialisation, what they follow and what is missing."""

from __future__ import annotations

import numpy as np
import pytest

from orchestrator.report.evidence import probe_labels
from orchestrator.study import Specialises
from tests.report.planted_claims import WEAK, one


def rows(cell: str, means, probe: str = "corpus:topic", null: float = 0.01, layers: int = 2):
    """Rows of `analyze`, layers evenly around the mean; the closing row must not count as one."""
    return [
        {
            "cell": cell,
            "seed": seed,
            "layer": layer,
            "probe": probe,
            "nmi": null + mean + (9.0 if layer is None else 0.002 * (layer - (layers - 1) / 2)),
            "nmi_null_mean": null,
            "conditional_information": 0.5 * mean,
            "conditional_null_mean": 0.0,
        }
        for seed, mean in enumerate(means)
        for layer in (*range(layers), None)
    ]


@pytest.mark.parametrize(
    ("means", "verdict"),
    [
        ([0.03, 0.04, 0.05, 0.04], "supported"),
        ([0.30, 0.31, 0.32, 0.33], "refuted"),
        ([-0.02, -0.03, -0.02, -0.03], "refuted"),
        ([0.0, 0.01, -0.01, 0.0], "undecided"),
        ([0.08, 0.12, 0.1, 0.11], "undecided"),
    ],
)
def test_weak_specialisation(means, verdict):
    found = one(WEAK, {}, specialization_rows=rows("seq", means))
    assert found.verdict == verdict
    assert found.estimate == pytest.approx(np.mean(means))
    assert (found.n, found.metric, found.ci_level) == (4, "nmi", pytest.approx(0.9))
    assert found.perplexity_ratio is None


def test_specialisation_above_a_threshold_and_a_control():
    claim = Specialises(
        id="C11.syntax",
        statement="syntax specialisation beyond a random router's",
        cell="tok",
        labels=("syntax",),
        at_least=0.05,
        control="random",
    )
    data = rows("tok", [0.20, 0.21, 0.22], "conllu:x/*.conllu") + rows(
        "random", [0.02, 0.02, 0.03], "conllu:x/*.conllu"
    )
    found = one(claim, {}, specialization_rows=data)
    assert found.verdict == "supported"
    assert found.estimate == pytest.approx(np.mean([0.18, 0.19, 0.19]))
    assert claim.cells == ("tok", "random")
    beyond = Specialises(
        id="w",
        statement="s",
        cell="tok",
        labels=("syntax",),
        at_least=0.2,
        measure="conditional_information",
    )
    found = one(beyond, {}, specialization_rows=data)
    assert (found.verdict, found.metric) == ("refuted", "conditional_information")
    assert found.estimate == pytest.approx(0.105)


def test_specialisation_on_several_probes_must_hold_on_each():
    claim = Specialises(
        id="C11", statement="s", cell="seq", labels=("topic", "subject"), at_least=0.0
    )
    data = rows("seq", [0.1, 0.11, 0.12]) + rows(
        "seq", [-0.1, -0.11, -0.12], "table:m.tsv:q:subject=a,b"
    )
    found = one(claim, {}, specialization_rows=data)
    assert found.verdict == "refuted"
    assert [part.verdict for part in found.parts] == ["supported", "refuted"]
    assert "m.tsv" in found.parts[1].reason


def test_specialisation_without_rows():
    found = one(WEAK, {})
    assert (found.verdict, found.reason) == (
        "undecided",
        "no analysed probe has labels called topic",
    )
    found = one(WEAK, {}, specialization_rows=rows("tok", [0.1, 0.2]))
    assert found.reason == "cell seq was not analysed; probe corpus:topic"
    found = one(WEAK, {}, specialization_rows=rows("seq", [0.1]))
    assert found.reason == "one seed: no interval; probe corpus:topic"
    assert (found.n, found.estimate, found.ci_low) == (1, pytest.approx(0.1), None)
    broken = rows("seq", [0.1, 0.2])
    broken[4]["nmi"] = None
    found = one(WEAK, {}, specialization_rows=broken)
    assert found.reason.startswith("cell seq, seed 1: nmi or nmi_null_mean is missing")


def test_probe_labels():
    assert probe_labels("corpus:topic") == "topic"
    assert probe_labels("conllu:../pud/*.conllu") == "syntax"
    assert probe_labels("table:../sib/eng.tsv:text:category") == "category"
    assert probe_labels("table:../m.parquet:question:subject=anatomy,algebra") == "subject"
