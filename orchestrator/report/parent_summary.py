"""What MLflow's page of a launch's parent run says: verdicts and table, as text and numbers."""

from __future__ import annotations

from collections.abc import Iterator

from moe.metrics import describe
from orchestrator.report.cost import cost_rows
from orchestrator.report.records import LaunchRecords
from orchestrator.report.table_columns import columns_of
from orchestrator.report.table_text import violation_notes
from orchestrator.report.tables import Table
from orchestrator.report.verdict_text import markdown_table, remarks, verdict_word
from orchestrator.report.verdicts import Verdict
from orchestrator.stores.parent_run import TAG_LIMIT
from orchestrator.stores.trial_record import count_states

_COLUMNS = ("cell", "point", "n", "interval", "difference")
_MORE = "\n\nThe whole table is the artifact table.md, the verdicts are claims.json, and all of it "
_MORE += "is report.html."


def description(launch: LaunchRecords, table: Table) -> str:
    """Markdown within the limit of a tag: question, verdicts, then as many rows as have room."""
    given = launch.info.attributes
    lines = [
        f"**{given['question']}**",
        "",
        f"Baseline: {given['baseline']}. Held fixed: {given['held_fixed']}",
        "",
    ]
    judged = table.judgement
    if judged is not None:
        lines += [f"- {_line(verdict)}" for verdict in judged.verdicts]
        lines += ["", *remarks(judged), ""]
    for note in violation_notes(table):
        lines += [note, ""]
    names = {*_COLUMNS, table.metric}
    columns = [column for column in columns_of(table) if column.name in names]
    rows = [[column.text(row) for column in columns] for row in table.rows]
    lines += markdown_table([column.heading for column in columns], rows)
    text = "\n".join(lines)
    if len(text) + len(_MORE) > TAG_LIMIT:
        text = text[: TAG_LIMIT - len(_MORE) - 1].rpartition("\n")[0]
    return text + _MORE


def verdicts_text(table: Table) -> str:
    """Verdicts and what must stand beside them, as markdown paragraphs; empty without claims."""
    judged = table.judgement
    if judged is None or not judged.verdicts:
        return ""
    lines = [*(f"- {_line(verdict)}" for verdict in judged.verdicts), "", *remarks(judged), "", ""]
    return "\n".join(lines)


def metrics(launch: LaunchRecords, table: Table) -> dict[str, float]:
    """Numbers of the launch: the best row's mean, trials by state, claims by verdict, device time.
    What is not known is not among them."""
    found = {f"trials/{state}": float(n) for state, n in count_states(launch.trials).items()}
    judged = table.judgement
    for verdict in judged.verdicts if judged else ():
        key = f"claims/{verdict.verdict}"
        found[key] = found.get(key, 0.0) + 1
    measure = describe(table.metric)
    ranked = [row for row in table.rows if not row.is_older and not row.violates]
    means = [row.mean for row in ranked if row.mean is not None]
    if means and not table.has_corpora:
        found[f"best/{table.metric}"] = min(means, key=measure.cost)
    cost = cost_rows(launch.trials)[-1]
    found["cost/tokens_total"] = float(cost.tokens)
    if cost.device_s is not None:
        found["cost/device_s_total"] = cost.device_s
    return found


def params(launch: LaunchRecords) -> dict[str, str]:
    """What makes the launch the one that it is, which never changes."""
    given = launch.info.attributes
    fixed = {
        key: str(given[key]) for key in ("study", "scale", "corpus", "corpus_digest", "metric")
    }
    return {**fixed, **{path: str(value) for path, value in given["overrides"].items()}}


def _line(verdict: Verdict) -> str:
    return f"**{verdict_word(verdict)}** {verdict.id}: {verdict.statement}" + "".join(
        _shown(verdict)
    )


def _shown(verdict: Verdict) -> Iterator[str]:
    if verdict.estimate is None:
        return
    yield (
        f" ({verdict.compared}: {verdict.estimate:+.4f}"
        if verdict.compared
        else (f" ({verdict.estimate:+.4f}")
    )
    if verdict.ci_low is not None and verdict.ci_level is not None:
        yield f", {verdict.ci_level:.0%} [{verdict.ci_low:+.4f}, {verdict.ci_high:+.4f}]"
    yield ")"
