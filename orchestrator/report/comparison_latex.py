"""Launches side by side as a paper prints them: cells with their differences, then verdicts.

Long names would leave the page: a launch is what it was called on the command line, and the caption
says its scale, corpus, seeds and code. A launch that does not compare has no column of differences,
and the caption says why.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from statistics import stdev
from typing import Any

from moe.metrics import describe
from orchestrator.base.errors import BadInput
from orchestrator.report.comparison import ComparedCell, Comparison, LaunchDifference
from orchestrator.report.comparison_text import comparison_lines, labels_of, name_of
from orchestrator.report.latex_table import Precision, escaped, latex_environment, number
from orchestrator.report.table_columns import DECIDED, NOT_CAUSAL
from orchestrator.study.corpora import corpus_label

_WELCH = r"\mathrm{w}"


def as_latex(
    comparison: Comparison, *, precision: Precision | None = None, cells: Sequence[str] = ()
) -> str:
    """`cells`: patterns of those to show, all without any. Raises BadInput where none is left."""
    precision = precision or Precision()
    labels = labels_of(comparison)
    shown = [c for c in comparison.cells if not cells or _matches(c.cell, cells)]
    if not shown:
        known = ", ".join(cell.cell for cell in comparison.cells)
        raise BadInput(
            f"--cells names cells of the launches; received {', '.join(cells)}, and "
            f"these are {known}. Correct the patterns."
        )
    compared = [
        i
        for i in range(1, len(labels))
        if any(c.differences[i - 1] and c.differences[i - 1].estimate is not None for c in shown)
    ]
    numbers = [_numbers(shown, i) for i in range(len(labels))]
    titles = ["cell", *labels, *(f"${labels[i]} - A$" for i in compared)]
    rows = [" & ".join(_row(cell, compared, numbers, precision)) for cell in shown]
    lines = [
        r"% \usepackage{booktabs}",
        *(f"% {line}" for line in _comments(comparison)),
        *latex_environment(
            "l" + "r" * (len(titles) - 1),
            " & ".join(titles),
            rows,
            " ".join(_caption(comparison, shown, compared, numbers)),
            "tab:compare",
        ),
        *_verdicts(comparison, labels),
    ]
    return "\n".join([*lines, ""])


def _matches(cell: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(cell, pattern) for pattern in patterns)


def _numbers(cells: Sequence[ComparedCell], launch: int) -> set[int]:
    """Of seeds behind the means of one launch."""
    return {mean["n"] for cell in cells if (mean := cell.means[launch]) is not None}


def _row(
    cell: ComparedCell, compared: Sequence[int], numbers: Sequence[set[int]], precision: Precision
) -> Iterator[str]:
    yield escaped(name_of(cell))
    for mean, of_launch in zip(cell.means, numbers, strict=True):
        yield _mean(mean, len(of_launch) > 1, precision)
    for i in compared:
        yield _difference(cell.differences[i - 1], precision)


def _mean(mean: Mapping[str, Any] | None, tells_n: bool, precision: Precision) -> str:
    if mean is None:
        return "--"
    half = None if mean["ci_low"] is None else mean["mean"] - mean["ci_low"]
    sd = None if len(mean["values"]) < 2 else stdev(mean["values"])
    text = number(mean["mean"], half, sd, precision)
    return f"{text} ($n = {mean['n']}$)" if tells_n else text


def _difference(found: LaunchDifference | None, precision: Precision) -> str:
    if found is None or found.estimate is None:
        return "--"
    half = None if found.ci_low is None else (found.ci_high - found.ci_low) / 2
    marks = (DECIDED if found.decided else "", _WELCH if found.kind == "Welch" else "")
    mark = ",".join(filter(None, marks))
    return number(
        found.estimate, half, None, Precision(digits=precision.digits), sign="+", mark=mark
    )


def _caption(
    comparison: Comparison,
    cells: Sequence[ComparedCell],
    compared: Sequence[int],
    numbers: Sequence[set[int]],
) -> Iterator[str]:
    unit = describe(comparison.metric).unit
    yield (
        f"{escaped(comparison.metric)}{'' if unit == '1' else f' ({escaped(unit)})'}: "
        "mean over seeds with its 95\\% interval."
    )
    for label, told, n in zip(labels_of(comparison), comparison.launches, numbers, strict=True):
        seeds = f"$n = {next(iter(n))}$" if len(n) == 1 else f"{told['complete']} trials"
        commits = ", ".join(commit[:10] for commit in told["commits"])
        about = (
            f"scale {told['scale']}, {corpus_label(str(told['corpus']))} "
            f"({str(told['corpus_digest'])[:8]})"
            f"{f', commit {commits}' if commits else ''}"
        )
        yield f"{label}: {escaped(told['place'])}, {escaped(about)}, {seeds}."
    tested = [d for cell in cells for d in cell.differences if d and d.decided is not None]
    if compared:
        welch = any(d.kind == "Welch" for d in tested)
        others = f" ($^{{{_WELCH}}}$: by Welch, no two seeds are shared)" if welch else ""
        yield (
            "Differences are from A, $\\pm$ half the width of their 95\\% interval, paired by seed"
            f"{others}; $^{{{DECIDED}}}$ told from 0 after Holm's correction."
        )
    for i, label in enumerate(labels_of(comparison)[1:], 1):
        reasons = {d.reason for cell in cells if (d := cell.differences[i - 1]) and d.reason}
        if i not in compared and reasons:
            yield f"{label} has no difference: {escaped('; '.join(sorted(reasons)))}."
    if any(cell.leaks_future for cell in cells):
        yield f"{escaped(NOT_CAUSAL)} not causal: later tokens route earlier ones."
    for note in comparison.notes:
        for label, told in zip(labels_of(comparison), comparison.launches, strict=True):
            note = note.replace(told["launch"], label)
        yield escaped(f"{note}.")
    paths = {path for cell in cells for path in cell.differs}
    if paths:
        yield f"Configurations differ in {escaped(', '.join(sorted(paths)))}."


def _comments(comparison: Comparison) -> Iterator[str]:
    """What the caption has no room for: full names, what differs and how, remarks."""
    for label, told in zip(labels_of(comparison), comparison.launches, strict=True):
        yield f"{label}: {told['launch']}"
    for title, _, rows in comparison_lines(comparison):
        if title == "What differs":
            yield from (f"differs: {' | '.join(row)}" for row in rows)


def _verdicts(comparison: Comparison, labels: Sequence[str]) -> list[str]:
    if not comparison.claims:
        return []
    rows = [
        " & ".join([escaped(c.id), escaped(c.statement), *(escaped(v or "--") for v in c.verdicts)])
        for c in comparison.claims
    ]
    titles = " & ".join(["claim", "statement", *labels])
    align = r"l p{0.4\linewidth}" + " l" * len(labels)
    text = "Verdicts on the claims of the study in each launch."
    return ["", *latex_environment(align, titles, rows, text, "tab:compare-claims")]
