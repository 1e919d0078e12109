"""The table as a paper prints it: booktabs, the mean with its spread, a caption that says what the
numbers are of.

It needs the package booktabs, and nothing else. What a reader of the table must know stands in its
caption; footnotes stand in comments as well, so that nothing is lost where a caption is cut.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from moe.metrics import describe
from orchestrator.base.errors import BadInput
from orchestrator.report.table_columns import DECIDED, NOT_CAUSAL, NOTHING, VIOLATES, Column
from orchestrator.report.tables import Row, Table
from orchestrator.report.verdict_text import remarks, verdict_word
from orchestrator.report.verdicts import Verdict
from orchestrator.study.corpora import corpus_label

SPREADS = ("interval", "sd")
# Replaced in one pass, since some replacements hold what others replace.
_SPECIAL = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    NOT_CAUSAL: r"$^{\dagger}$",  # of text mode there are bitmaps alone
    VIOLATES: r"$^{\ddagger}$",
    **{each: f"\\{each}" for each in "&%$#_{}"},
}
_PATTERN = re.compile("|".join(map(re.escape, _SPECIAL)))


@dataclass(frozen=True, kw_only=True)
class Precision:
    """`spread` behind a mean: "interval" (plus or minus half of it) or "sd" in brackets.

    Raises BadInput for others, and for digits that no float has.
    """

    spread: str = "interval"
    digits: int = 4

    def __post_init__(self) -> None:
        if self.spread not in SPREADS:
            raise BadInput(
                f"--spread is one of {', '.join(SPREADS)}; received {self.spread!r}. Choose one."
            )
        if not 0 <= self.digits <= 12:
            raise BadInput(f"--digits is a whole number from 0 to 12; received {self.digits}.")


def latex(
    table: Table,
    columns: Sequence[Column],
    notes: Sequence[str],
    precision: Precision,
    is_whole: bool,
) -> str:
    """A `table*` environment, as wide as the page, and one for the verdicts. `is_whole`: no columns
    were chosen, so that those that say again what others say are left out: a grid's axes, which
    its cells' names tell, the full name of a sampled point, perplexity, FLOPs."""
    if is_whole:
        columns = [column for column in columns if column.name not in _said_again(table)]
    columns = [column for column in columns if column.name != "interval"]  # behind the mean
    align = "".join("l" if column.is_text else "r" for column in columns)
    rows = [" & ".join(_cell(row, c, table, precision) for c in columns) for row in table.rows]
    titles = " & ".join(_heading(column, table) for column in columns)
    return "\n".join(
        [
            f"% {table.study} ({table.launch})",
            r"% \usepackage{booktabs}",
            *(f"% {note}" for note in notes),
            *latex_environment(
                align, titles, rows, caption(table, precision), f"tab:{table.study}"
            ),
            *(_verdicts(table, precision) if table.judgement and table.judgement.verdicts else []),
            "",
        ]
    )


def caption(table: Table, precision: Precision) -> str:
    """What the numbers are: metric, unit, seeds, spread, differences, design, corpus, code."""
    measure = describe(table.metric)
    unit = "" if measure.unit == "1" else f" in {measure.unit}"
    counts = sorted({row.n for row in table.rows if row.n})
    seeds = "" if not counts else f" over {_range(counts)} seeds"
    spread = (
        "half the width of its 95% interval"
        if precision.spread == "interval"
        else ("the standard deviation over seeds in brackets")
    )
    sign = r"$\pm$ " if precision.spread == "interval" else "with "
    scale, corpus = table.about.get("scale"), table.about.get("corpus")
    at = f" at scale {scale}" if scale else ""
    parts = [
        f"{escaped(table.study + at)}: {escaped(table.metric + unit)}, mean{seeds} "
        f"{sign}{escaped(spread)}."
    ]
    judged = table.judgement
    if judged and judged.contrasts.differences:
        parts.append(
            f"Difference: from {escaped(judged.contrasts.baseline)}, paired by seed, $\\pm$ half "
            f"the width of its interval; $^{{{DECIDED}}}$ told from 0 after Holm's correction over "
            f"{len(judged.contrasts.differences)} differences ({escaped(judged.design_kind)})."
        )
    if any(row.is_best for row in table.rows):
        parts.append("Bold: decided to be better than every other row.")
    if any(row.leaks_future for row in table.rows):
        parts.append(r"$^{\dagger}$ not causal: later tokens route earlier ones.")
    if any(row.violates for row in table.rows):
        bounds = escaped(table.about.get("constraints") or "")
        parts.append(rf"$^{{\ddagger}}$ violates a constraint on the mean over seeds ({bounds}).")
    if corpus:
        digest = str(table.about.get("corpus_digest") or "")[:8]
        parts.append(f"Corpus {escaped(corpus_label(corpus))}{f' ({digest})' if digest else ''}.")
    if commits := sorted({commit for row in table.rows for commit in row.commits}):
        parts.append(f"Code of commit {', '.join(commit[:10] for commit in commits)}.")
    if judged:
        parts += [escaped(remark) for remark in remarks(judged)]
    return " ".join(parts)


def escaped(text: str) -> str:
    return _PATTERN.sub(lambda found: _SPECIAL[found[0]], text)


def _said_again(table: Table) -> set[str]:
    paths = {path for row in table.rows for path in row.params}
    axes = {*paths, *(path.rpartition(".")[2] for path in paths)}
    moved = {"cell"} if table.best_first and paths else axes
    return {"perplexity", "FLOPs/token", *moved}


def latex_environment(
    align: str, titles: str, rows: Sequence[str], caption: str, label: str
) -> list[str]:
    """A table as wide as the page; all of it is LaTeX already."""
    return [
        r"\begin{table*}",
        r"  \centering\small",
        f"  \\caption{{{caption}}}",
        f"  \\label{{{label}}}",
        f"  \\begin{{tabular}}{{{align}}}",
        r"    \toprule",
        f"    {titles} \\\\",
        r"    \midrule",
        *(f"    {row} \\\\" for row in rows),
        r"    \bottomrule",
        r"  \end{tabular}",
        r"\end{table*}",
    ]


def _heading(column: Column, table: Table) -> str:
    unit = describe(table.metric).unit
    if column.name == "n":
        return "$n$"
    if column.name in (table.metric, "difference") and unit != "1":
        return escaped(f"{column.heading} ({unit})")
    return escaped(column.heading)


def _cell(row: Row, column: Column, table: Table, precision: Precision) -> str:
    if column.name == table.metric and row.mean is not None:
        half = None if row.ci_low is None else row.mean - row.ci_low
        return number(row.mean, half, row.sd, precision, bold=row.is_best)
    found = row.difference
    if column.name == "difference" and found is not None:
        half = None if found.ci_low is None else (found.ci_high - found.ci_low) / 2
        mark = DECIDED if found.decided else ""
        plain = Precision(digits=precision.digits)
        return number(found.estimate, half, None, plain, sign="+", mark=mark)
    text = column.text(row)
    return "--" if text == NOTHING else escaped(text)


def number(
    mean: float,
    half: float | None,
    sd: float | None,
    precision: Precision,
    *,
    sign: str = "",
    mark: str = "",
    bold: bool = False,
) -> str:
    """A mean with its spread, in LaTeX."""
    digits = precision.digits
    shown = f"{mean:{sign}.{digits}f}"
    shown = f"\\mathbf{{{shown}}}" if bold else shown
    raised = f"^{{{mark}}}" if mark else ""
    if precision.spread == "sd":
        return f"${shown}{raised}$" + ("" if sd is None else f" (${sd:.{digits}f}$)")
    return f"${shown}{raised}" + ("$" if half is None else f" \\pm {half:.{digits}f}$")


def _verdicts(table: Table, precision: Precision) -> list[str]:
    judged = table.judgement
    assert judged is not None
    rows = [" & ".join(_claim(verdict, precision)) for verdict in judged.verdicts]
    titles = "claim & statement & verdict & difference & $n$"
    text = (
        "Verdicts on what was claimed, Holm-corrected over all claims, with the interval of each."
    )
    spread = r"l p{0.4\linewidth} l r r"
    return ["", *latex_environment(spread, titles, rows, text, f"tab:{table.study}-claims")]


def _claim(verdict: Verdict, precision: Precision) -> list[str]:
    shown = "--"
    if verdict.estimate is not None:
        shown = f"${verdict.estimate:+.{precision.digits}f}$"
        if verdict.ci_low is not None and verdict.ci_level is not None:
            ends = (
                f"{verdict.ci_low:+.{precision.digits}f}, {verdict.ci_high:+.{precision.digits}f}"
            )
            shown += f" {verdict.ci_level * 100:.0f}\\% $[{ends}]$"
    compared = f" ({verdict.compared})" if verdict.compared else ""
    return [
        escaped(verdict.id),
        escaped(verdict.statement + compared),
        escaped(verdict_word(verdict)),
        shown,
        str(verdict.n),
    ]


def _range(counts: Sequence[int]) -> str:
    return f"$n = {counts[0]}$" if len(counts) == 1 else f"$n = {counts[0]}$ to ${counts[-1]}$"
