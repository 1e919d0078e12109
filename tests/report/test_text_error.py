"""A difference over documents: its standard error, and verdicts that hold over seeds alone."""

from __future__ import annotations

import numpy as np
import pytest

from moe.train.document_losses import DocumentLosses
from orchestrator.report.evidence import Sampling
from orchestrator.report.text_error import LEAST_DOCUMENTS, TextError, text_error
from orchestrator.report.verdict_text import verdict_rows
from orchestrator.report.verdicts import judge
from orchestrator.study import Better, Equivalent

CLAIM = Better(id="B", statement="a beats b", a="a", b="b")


def run(loss_D, tokens_D, split="val"):
    return DocumentLosses(
        split=split,
        document_D=np.arange(len(tokens_D)),
        loss_sum_D=np.asarray(loss_D) * tokens_D,
        tokens_D=np.asarray(tokens_D),
    )


def sample(rng, documents=80, spread=0.05):
    """Two cells of three seeds: b is 0.02 nats worse in the mean, more or less by document."""
    tokens_D = 128 * rng.integers(1, 6, documents)
    base_D, differs_D = rng.normal(3, 0.5, documents), rng.normal(-0.02, spread, documents)
    noise = rng.normal(0, 0.001, (2, 3))
    a = {s: run(base_D + differs_D + noise[0, s], tokens_D) for s in range(3)}
    b = {s: run(base_D + noise[1, s], tokens_D) for s in range(3)}
    return a, b


def test_it_is_the_spread_over_samples_of_documents():
    estimates, errors = [], []
    for i in range(400):
        a, b = sample(np.random.default_rng(i))
        found = text_error(a, b)
        total = sum(a[s].loss_sum_D.sum() - b[s].loss_sum_D.sum() for s in a) / 3
        estimates.append(total / a[0].tokens_D.sum())
        errors.append(found.error)
        assert found.documents == 80
    assert np.mean(errors) == pytest.approx(np.std(estimates), rel=0.1)
    covered = np.abs(np.array(estimates) + 0.02) < 1.96 * np.array(errors)
    assert 0.91 <= covered.mean() <= 0.985


def test_it_needs_the_same_documents_and_enough_of_them():
    a, b = sample(np.random.default_rng(0))
    assert text_error(a, {7: b[0]}) is None, "no seed in common"
    other = {s: run(r.loss_sum_D / r.tokens_D, r.tokens_D, split="test") for s, r in b.items()}
    assert text_error(a, other) is None
    short = {s: run(np.ones(80), np.full(80, 64)) for s in b}
    assert text_error(a, short) is None
    few = LEAST_DOCUMENTS - 1
    tiny = {0: run(np.ones(few), np.full(few, 64))}
    assert text_error(tiny, tiny) is None


def test_losses_are_read_as_they_were_written(tmp_path):
    a, _ = sample(np.random.default_rng(0))
    (tmp_path / "losses.parquet").write_bytes(a[0].to_parquet())
    again = DocumentLosses.read(tmp_path / "losses.parquet")
    assert again.split == "val"
    for name in ("document_D", "loss_sum_D", "tokens_D"):
        assert np.array_equal(getattr(again, name), getattr(a[0], name))
    (tmp_path / "losses.parquet").write_bytes(b"cut")
    assert DocumentLosses.read(tmp_path / "losses.parquet") is None
    assert DocumentLosses.read(tmp_path / "none") is None


@pytest.mark.parametrize(
    ("claim", "mean", "error", "verdict", "over_text"),
    [
        (CLAIM, -0.02, 0.002, "supported", True),
        (CLAIM, -0.02, 0.02, "supported", False),
        (CLAIM, 0.02, 0.02, "refuted", False),
        (
            Equivalent(id="E", statement="alike", a="a", b="b", margin=0.03),
            0.0,
            0.005,
            "supported",
            True,
        ),
        (
            Equivalent(id="E", statement="alike", a="a", b="b", margin=0.03),
            0.02,
            0.006,
            "supported",
            False,
        ),
        (CLAIM, -0.02, None, "supported", True),
    ],
)
def test_a_verdict_that_holds_over_seeds_alone_says_so(claim, mean, error, verdict, over_text):
    wobble = (0.0005, -0.0005, 0.0002, -0.0002, 0.0)
    values = {
        "a": {s: {"val/loss": 3 + mean + w} for s, w in enumerate(wobble)},
        "b": {s: {"val/loss": 3.0} for s in range(5)},
    }
    text = None if error is None else TextError(error=error, documents=300)
    (found,) = judge([claim], values, sampling=Sampling(text=lambda a, b, metric: text))
    assert found.verdict == verdict
    assert found.text_error == error
    assert ("over seeds only" in found.reason) == (not over_text)
    assert found.to_dict()["documents"] == (None if error is None else 300)
    shown = "standard error over 300 documents" in verdict_rows([found])[0][-1]
    assert shown == (error is not None)
