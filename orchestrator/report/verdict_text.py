"""Verdicts as text: rows of a table, and blocks for a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from moe.metrics import describe
from orchestrator.report.findings import join
from orchestrator.report.judge import Judgement
from orchestrator.report.verdicts import Verdict
from orchestrator.study.registration import BEFORE

HEADINGS = (
    "claim",
    "verdict",
    "a minus b",
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


@dataclass(frozen=True, kw_only=True)
class Block:
    """A verdict for a narrow page: a heading, then lines. `depth`: 1 of a compound's part."""

    verdict: str
    heading: str
    lines: tuple[str, ...]
    depth: int = 0


def verdict_blocks(verdicts: Iterable[Verdict], *, width: int, depth: int = 0) -> list[Block]:
    """The verdicts with their parts, each with the two cells, the estimate with its interval drawn
    on an axis of `width` characters, and why. A compound's numbers are those of its parts."""
    blocks = []
    for verdict in verdicts:
        lines = [] if verdict.parts else [*_measured(verdict, width)]
        if why := _why(verdict):
            lines.append(f"why: {why}")
        heading = f"{verdict.id}: {verdict.statement}"
        word = verdict_word(verdict)
        blocks.append(Block(verdict=word, heading=heading, lines=tuple(lines), depth=depth))
        blocks += verdict_blocks(verdict.parts, width=width - 2, depth=depth + 1)
    return blocks


def _measured(verdict: Verdict, width: int) -> Iterator[str]:
    if verdict.estimate is None:
        return
    unit = describe(verdict.metric).unit if verdict.metric else "1"
    named = f"{verdict.metric} ({unit})" if unit != "1" else verdict.metric
    yield f"{verdict.compared}, {named}" if verdict.compared else str(named)
    margin = f", margin {verdict.margin:.4f}" if verdict.margin else ""
    shown = f", {_interval(verdict, sign='+')}" if verdict.ci_low is not None else ""
    yield f"{verdict.estimate:+.4f}{shown}{margin}, n = {verdict.n}"
    if drawn := interval_line(verdict, width):
        yield drawn


def interval_line(verdict: Verdict, width: int) -> str:
    """Estimate (o), interval (=), zero (|) and margin (:) on one axis of `width` characters, which
    is as long on both sides of zero; empty without an interval."""
    if verdict.estimate is None or verdict.ci_low is None or verdict.ci_high is None:
        return ""
    margin, half = verdict.margin or 0.0, (width - 1) // 2
    reach = max(abs(x) for x in (verdict.ci_low, verdict.ci_high, margin)) or 1.0

    def place(value: float) -> int:
        return half + round(value / reach * half)

    line = [" "] * (2 * half + 1)
    line[place(verdict.ci_low) : place(verdict.ci_high) + 1] = "=" * (
        place(verdict.ci_high) - place(verdict.ci_low) + 1
    )
    if margin:
        line[place(-margin)] = line[place(margin)] = ":"
    line[half] = "|"
    line[place(verdict.estimate)] = "o"
    return "".join(line).rstrip()


AXIS_LEGEND = "axis: o estimate, = interval, | zero, : margin"


def verdict_word(verdict: Verdict) -> str:
    """Its verdict, with what keeps it from being evidence."""
    return verdict.verdict if verdict.causal else f"{verdict.verdict} (not causal)"


def _why(verdict: Verdict) -> str:
    late = verdict.registered not in (None, BEFORE)
    return join(
        f"claim {verdict.registered}" if late else "",
        verdict.reason,
        _over_text(verdict),
        _with_causal_routes(verdict.with_causal_routes),
    )


def _over_text(verdict: Verdict) -> str:
    """What the spread over seeds does not hold: the documents are the same for all of them."""
    if verdict.text_error is None:
        return ""
    return f"standard error over {verdict.documents} documents {verdict.text_error:.4f}"


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
        verdict.compared or "-",
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


def _interval(verdict: Verdict, sign: str = "") -> str:
    if verdict.ci_low is None or verdict.ci_level is None:
        return "-"
    low, high = f"{verdict.ci_low:{sign}.4f}", f"{verdict.ci_high:{sign}.4f}"
    return f"{verdict.ci_level:.0%} [{low}, {high}]"


def _perplexity(verdict: Verdict) -> str:
    ratio = verdict.perplexity_ratio
    return "-" if ratio is None else f"{ratio[0] - 1:+.2%}"
