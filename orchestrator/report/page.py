"""`moe-study report`: one HTML file that needs nothing else, to read and to send.

The verdicts stand first, then the table, the charts, the cost, every trial with its run, and how to
get the same again. A section without data says why it is missing; no number is made up for it.
The plotting library travels in the file, compressed, since a reader may have no network.
"""

from __future__ import annotations

import base64
import gzip
import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from moe.metrics import describe
from orchestrator.base.errors import BadInput
from orchestrator.base.whole_files import whole
from orchestrator.report.cost import cost_rows
from orchestrator.report.recommendation import kept_lines
from orchestrator.report.recommendation_text import tables_of
from orchestrator.report.records import LaunchRecords
from orchestrator.report.sections import chart_sections
from orchestrator.report.table_columns import BASELINE, NOTHING, Column, columns_of
from orchestrator.report.table_text import footnotes
from orchestrator.report.tables import Row, Table
from orchestrator.report.verdict_text import remarks, verdict_word
from orchestrator.report.verdicts import Verdict
from orchestrator.stores.optuna_launches import RECOMMENDATION, WARM_START
from orchestrator.stores.trial_record import RUN_LINK, TrialRecord, count_states
from orchestrator.study.library import study_names
from orchestrator.study.study import Study

MISSING = "\N{EN DASH}"


def write_report(launch: LaunchRecords, study: Study, path: Path) -> Path:
    """The file is whole when it appears. Raises BadInput where it cannot be written."""
    text = render_report(launch, study)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole(path) as partial:
            partial.write_text(text, encoding="utf-8")
    except OSError as error:
        raise BadInput(
            f"-o names a file that can be written; received {path} ({error.strerror}). Name "
            "another."
        ) from None
    return path


def render_report(launch: LaunchRecords, study: Study, *, mlflow: str | None = None) -> str:
    """The page as text: equal for equal records. `mlflow`: where MLflow's page is now, if that is
    not where it was when the trials ran."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    table = launch.table(study)
    sections = chart_sections(launch, study.design)
    figures = {name: chart for section in sections for name, chart in section.figures.items()}
    environment = Environment(
        loader=PackageLoader("orchestrator.report", "assets"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    assert table.judgement is not None
    return environment.get_template("report.html.j2").render(
        style=_asset("report.css"),
        script=_asset("report.js"),
        sort_script=_asset("sort.js"),
        plotly=_packed_plotly() if figures else "",
        figures=json.dumps(figures, allow_nan=False).replace("<", "\\u003c"),
        about=_about(launch, study),
        states=[(s, n) for s, n in count_states(launch.trials).items() if n],
        remarks=remarks(table.judgement),
        evidence=table.judgement.evidence,
        verdicts=[_verdict(verdict) for verdict in table.judgement.verdicts],
        recommendation=_recommendation(launch),
        table=_table(table, launch.trials),
        sections=sections,
        cost=cost_rows(launch.trials),
        trials=[_trial(r, mlflow) for r in sorted(launch.trials, key=lambda r: r.number)],
        reproduce=_reproduce(launch),
        missing=MISSING,
    )


def _about(launch: LaunchRecords, study: Study) -> dict[str, Any]:
    given = launch.info.attributes
    ended = max((r.ended for r in launch.trials if r.ended), default=None)
    return {
        "study": launch.info.study,
        "launch": launch.info.name,
        "question": given.get("question", study.question),
        "baseline": given.get("baseline", study.baseline),
        "held_fixed": given.get("held_fixed", study.held_fixed),
        "scale": given["scale"],
        "metric": launch.metric,
        "sampled": given["sampled"],
        "ended": ended.strftime("%Y-%m-%d %H:%M") if ended else None,
    }


def _verdict(verdict: Verdict) -> dict[str, Any]:
    ratio = verdict.perplexity_ratio
    return {
        "id": verdict.id,
        "statement": verdict.statement,
        "verdict": verdict.verdict,
        "word": verdict_word(verdict),
        "registered": verdict.registered,
        "compared": verdict.compared,
        "effect": None if verdict.effect is None else f"{verdict.effect:+.1f} sd",
        "metric": verdict.metric,
        "estimate": _number(verdict.estimate),
        "interval": None
        if verdict.ci_low is None or verdict.ci_level is None
        else f"{verdict.ci_level:.0%} [{verdict.ci_low:.4f}, {verdict.ci_high:.4f}]",
        "perplexity": None if ratio is None else f"{ratio[0] - 1:+.2%}",
        "n": verdict.n,
        "margin": _number(verdict.margin),
        "p": None if verdict.p_adjusted is None else f"{verdict.p_adjusted:.2g}",
        "reason": verdict.reason,
        "drawing": _drawing(verdict),
        "parts": [_verdict(part) for part in verdict.parts],
    }


def _drawing(verdict: Verdict) -> dict[str, Any] | None:
    """Estimate, interval, zero and margin on one axis, in percent of its width, with the numbers
    that stand below it and what the ends mean."""
    if verdict.estimate is None or verdict.ci_low is None or verdict.ci_high is None:
        return None
    margin = verdict.margin or 0.0
    ends = [verdict.ci_low, verdict.ci_high, 0.0, margin, -margin]
    reach = 1.1 * max(abs(min(ends)), abs(max(ends))) or 1.0

    def place(value: float) -> float:
        return round(50 + 50 * value / reach, 3)

    better = describe(verdict.metric).better if verdict.metric else None
    sides = {"lower": (verdict.a, verdict.b), "higher": (verdict.b, verdict.a)}.get(better or "")
    return {
        "low": place(verdict.ci_low),
        "high": place(verdict.ci_high),
        "mean": place(verdict.estimate),
        "margin_low": place(-margin),
        "margin_high": place(margin),
        "ends": (f"{-reach:+.4f}", f"{reach:+.4f}"),
        "sides": sides if verdict.metric and verdict.compared else None,
        "text": f"{verdict.compared}: {verdict.estimate:+.4f}, interval from "
        f"{verdict.ci_low:+.4f} to {verdict.ci_high:+.4f}, zero in the middle"
        + (f", margin {margin:.4f} on both sides" if margin else ""),
    }


def _recommendation(launch: LaunchRecords) -> dict[str, Any] | None:
    told = launch.info.attributes.get(RECOMMENDATION)
    if told is None:
        return None
    return {
        "lines": kept_lines(told, launch.trials),
        "tables": [{"headings": headings, "rows": rows} for headings, rows in tables_of(told)],
    }


def _table(table: Table, records: Sequence[TrialRecord]) -> dict[str, Any]:
    number_of = {r.run_id: r.number for r in records if r.run_id}
    columns = columns_of(table)
    return {
        "headings": [(column.heading, column.is_text) for column in columns],
        "rows": [
            {
                "is_baseline": row.is_baseline,
                "is_faint": bool(row.stopped or row.is_older),
                "cells": [_table_cell(row, column, table) for column in columns],
                "runs": [
                    (seed, number_of[run])
                    for seed, run in zip(row.seeds, row.run_ids, strict=False)
                    if run in number_of
                ],
            }
            for row in table.rows
        ],
        "notes": footnotes(table, with_remarks=False),
    }


def _table_cell(row: Row, column: Column, table: Table) -> dict[str, Any]:
    """`key` is what a click on the heading sorts by; empty comes last."""
    text, key = column.text(row), column.key(row)
    return {
        "text": MISSING if text == NOTHING else text,
        "key": "" if key is None else key,
        "is_best": row.is_best and column.name == table.metric,
        "is_mark": text == BASELINE,
    }


def _trial(record: TrialRecord, mlflow: str | None) -> dict[str, Any]:
    link = record.attributes.get(RUN_LINK)
    if link and mlflow:
        link = f"{mlflow}/#/{link.partition('/#/')[2]}"
    return {
        "number": record.number,
        "cell": record.cell,
        "seed": record.seed,
        "state": record.state,
        "value": _number(record.value),
        "tokens": f"{record.tokens:,}" if record.tokens else None,
        "run_id": record.run_id,
        "link": link,
        "config_hash": record.config_hash,
        "reason": record.reason,
    }


def _reproduce(launch: LaunchRecords) -> dict[str, Any]:
    given = launch.info.attributes
    current = [r for r in launch.trials if not r.is_older]
    seeds = sorted({r.seed for r in current})
    study = launch.info.study
    named = study if study in study_names() else f"{study}.py"
    command = ["moe-study", "run", named, "--scale", given["scale"]]
    command += ["--seeds", ",".join(map(str, seeds))] if seeds else []
    if given["sampled"] and current:
        command += ["--trials", str(len({r.cell_hash for r in current}))]
    command += ["--warm-start"] if given.get(WARM_START) is not None else []
    option = given.get("corpus_option", given["corpus"])
    command += ["--corpus", option] if option else []
    for path, value in given["overrides"].items():
        command += [
            "--set",
            f"{path}={json.dumps(value) if value is True or value is False else value}",
        ]
    return {
        "command": shlex.join(command),
        "corpus": given["corpus"],
        "corpus_digest": given["corpus_digest"],
        "corpora": dict(launch.info.corpora),
        "drivers": given.get("drivers", []),
        "notes": list(_reproduce_notes(given)),
    }


def _reproduce_notes(given: Mapping[str, Any]) -> Iterable[str]:
    if any(driver.get("git.dirty") == "true" for driver in given.get("drivers", [])):
        yield "The code had changes that are in no commit: the commit alone does not give it back."
    if given["sampled"]:
        yield (
            "A sampled search is drawn as results arrive: the same command searches the same "
            "space, and each point it found is repeated exactly by its run's config.json."
        )


def _number(value: float | None) -> str | None:
    return None if value is None else f"{value:.4f}"


@cache
def _packed_plotly() -> str:
    """plotly.js, gzipped: a third of its size even as base64; the page unpacks it."""
    from plotly.offline import get_plotlyjs

    return base64.b64encode(gzip.compress(get_plotlyjs().encode(), 9, mtime=0)).decode()


def _asset(name: str) -> str:
    return resources.files("orchestrator.report").joinpath("assets", name).read_text("utf-8")
