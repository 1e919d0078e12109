"""Verdicts as rows of text, the same in every table that lists them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from orchestrator.report.findings import join
from orchestrator.report.judge import Judgement
from orchestrator.report.verdicts import Verdict
from orchestrator.study.registration import BEFORE

HEADINGS = (
    "claim",
    "verdict",
    "estimate",
    "interval",
    "effect",
    "perplexity",
    "n",
    "margin",
    "statement",
    "why",
)


def verdict_rows(verdicts: Iterable[Verdict], *, parts: bool = False) -> list[list[str]]:
    """A row a claim, in the order of HEADINGS; with `parts`, a compound's parts below it.

    The estimate of a claim on the loss is in nats, beside it as a change of perplexity; its effect
    is in standard deviations of a seed's difference.
    """
    rows = []
    for verdict in verdicts:
        rows.append(_row(verdict))
        if parts:
            rows += verdict_rows(verdict.parts, parts=True)
    return rows


def verdict_word(verdict: Verdict) -> str:
    """Its verdict, with what keeps it from being evidence."""
    return verdict.verdict if verdict.causal else f"{verdict.verdict} (not causal)"


def _why(verdict: Verdict) -> str:
    late = verdict.registered not in (None, BEFORE)
    return join(
        f"claim {verdict.registered}" if late else "",
        verdict.reason,
        _with_causal_routes(verdict.with_causal_routes),
    )


def _with_causal_routes(verdict: Verdict | None) -> str:
    """The same claim of the same weights, routed by what came before alone."""
    if verdict is None:
        return ""
    if verdict.estimate is None:
        return f"with causal routes {verdict.verdict}"
    bounds = _interval(verdict)
    shown = "" if bounds == "-" else f", {bounds}"
    return f"with causal routes {verdict.verdict}: {verdict.estimate:+.4f}{shown}"


def remarks(judgement: Judgement) -> list[str]:
    """What must stand beside the verdicts: that they are no evidence, and what was left out."""
    lines = [] if judgement.evidence else [f"Not evidence: {judgement.evidence_reason}."]
    if judgement.verdicts:
        lines.append(f"Design: {judgement.design}.")
    if judgement.exploratory:
        lines.append(f"Exploratory: {judgement.exploratory}.")
    if before := [v.id for v in judgement.verdicts if v.registered == BEFORE]:
        named = "All claims" if len(before) == len(judgement.verdicts) else ", ".join(before)
        lines.append(f"Registered before the data: {named}.")
    return [*lines, *(f"{note}." for note in judgement.notes)]


def markdown_table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"

    return [line(headings), "|" + " --- |" * len(headings), *map(line, rows)]


def _row(verdict: Verdict) -> list[str]:
    return [
        verdict.id,
        verdict_word(verdict),
        _number(verdict.estimate),
        _interval(verdict),
        "-" if verdict.effect is None else f"{verdict.effect:+.1f} sd",
        _perplexity(verdict),
        str(verdict.n),
        _number(verdict.margin),
        verdict.statement,
        _why(verdict),
    ]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _interval(verdict: Verdict) -> str:
    if verdict.ci_low is None or verdict.ci_level is None:
        return "-"
    return f"{verdict.ci_level:.0%} [{verdict.ci_low:.4f}, {verdict.ci_high:.4f}]"


def _perplexity(verdict: Verdict) -> str:
    ratio = verdict.perplexity_ratio
    return "-" if ratio is None else f"{ratio[0] - 1:+.2%}"
