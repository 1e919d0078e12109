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

from orchestrator.errors import BadInput
from orchestrator.report import charts
from orchestrator.report.claims import Verdict
from orchestrator.report.cost import cost_rows
from orchestrator.report.figure_data import (
    MOST_SAMPLED,
    complete_cells,
    curve_of,
    differences_of,
    interval_of,
    load_of,
    specializations,
    tokens_per_step,
)
from orchestrator.report.judge import read_analysis
from orchestrator.report.labels import label_of, probe_name, word_form_note
from orchestrator.report.pareto import pareto_points
from orchestrator.report.records import LaunchRecords
from orchestrator.report.tables import Table, body, footnotes, headings
from orchestrator.report.verdict_text import remarks
from orchestrator.study import Study
from orchestrator.trial import (
    REUSED_FROM,
    RUN_LINK,
    TrialRecord,
    count_states,
)

MISSING = "–"


def write_report(launch: LaunchRecords, study: Study, path: Path) -> Path:
    """The file is whole when it appears. Raises BadInput where it cannot be written."""
    text = render_report(launch, study)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f"{path.name}.partial")
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        raise BadInput(
            f"-o names a file that can be written; received {path} ({error.strerror}). Name another."
        ) from None
    return path


def render_report(launch: LaunchRecords, study: Study) -> str:
    """The page as text: equal for equal records."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    table = launch.table(study)
    figures, sections = _figures(launch)
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
        plotly=_packed_plotly() if figures else "",
        figures=json.dumps(figures, allow_nan=False).replace("<", "\\u003c"),
        about=_about(launch, study),
        states=[(s, n) for s, n in count_states(launch.trials).items() if n],
        remarks=remarks(table.judgement),
        evidence=table.judgement.evidence,
        verdicts=[_verdict(verdict) for verdict in table.judgement.verdicts],
        table=_table(table, launch.trials),
        sections=sections,
        importance_missing=_importance_missing(launch),
        cost=cost_rows(launch.trials),
        trials=[_trial(record) for record in sorted(launch.trials, key=lambda r: r.number)],
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


def _drawing(verdict: Verdict) -> dict[str, float] | None:
    """Estimate, interval, zero and margin on one line, in percent of its width."""
    if verdict.estimate is None or verdict.ci_low is None or verdict.ci_high is None:
        return None
    margin = verdict.margin or 0.0
    ends = [verdict.ci_low, verdict.ci_high, 0.0, margin, -margin]
    reach = 1.1 * max(abs(min(ends)), abs(max(ends))) or 1.0

    def place(value: float) -> float:
        return round(50 + 50 * value / reach, 3)

    return {
        "low": place(verdict.ci_low),
        "high": place(verdict.ci_high),
        "mean": place(verdict.estimate),
        "margin_low": place(-margin),
        "margin_high": place(margin),
    }


def _table(table: Table, records: Sequence[TrialRecord]) -> dict[str, Any]:
    number_of = {r.run_id: r.number for r in records if r.run_id}
    return {
        "headings": headings(table),
        "rows": [
            {
                "cells": [MISSING if cell == "-" else cell for cell in cells],
                "runs": [
                    (seed, number_of[run])
                    for seed, run in zip(row.seeds, row.run_ids, strict=False)
                    if run in number_of
                ],
            }
            for row, cells in zip(table.rows, body(table), strict=True)
        ],
        "notes": footnotes(table, with_remarks=False),
    }


def _figures(launch: LaunchRecords) -> tuple[dict[str, charts.Figure], list[dict[str, Any]]]:
    """Charts by name, and the sections that show them."""
    cells = complete_cells(launch)
    per_step = {cell.name: tokens_per_step(cell.trials, launch.home) for cell in cells}
    by_tokens = bool(cells) and all(per_step.values())
    x_of = {name: tokens if by_tokens else 1.0 for name, tokens in per_step.items()}
    x_label = "training tokens" if by_tokens else "optimiser step"
    figures: dict[str, charts.Figure] = {}
    sections: list[dict[str, Any]] = []

    def section(
        title: str,
        how: str,
        shown: Mapping[str, charts.Figure],
        missing: str,
        steps: Mapping[str, Any] | None = None,
    ) -> None:
        figures.update(shown)
        sections.append(
            {"title": title, "how": how, "figures": list(shown), "missing": missing, "steps": steps}
        )

    metric, label = launch.metric, label_of(launch.metric)
    is_loss = metric == "val/loss"
    reference = launch.info.attributes.get("baseline")
    curves = [c for cell in cells if (c := curve_of(cell, x_of[cell.name], is_loss))]
    y_label = "validation perplexity" if is_loss else label
    section(
        "Curves",
        "A line a cell: the mean over its seeds; the band goes from the lowest to the highest "
        "seed. Tap a name to hide it, twice to see it alone."
        + (f" The {MOST_SAMPLED} best cells are shown." if _is_cut(launch) else ""),
        {
            "curves": charts.curves_chart(
                curves, reference, x_label=x_label, y_label=y_label, log_scale=is_loss
            )
        }
        if curves
        else {},
        "No complete trial has a curve yet.",
    )
    ends = {}
    if cells:
        ends["means"] = charts.forest_chart([interval_of(c) for c in cells], label=label, zero=False)
    if differences := differences_of(cells, reference):
        ends["differences"] = charts.forest_chart(
            differences, label=f"difference in {label} from {reference}", zero=True
        )
    section(
        "Cells at the end of training",
        "Means with their intervals; differences from the baseline are paired by seed.",
        ends,
        "No trial is complete yet.",
    )
    loads = [x for cell in cells if (x := load_of(cell, launch.home, x_of[cell.name]))]
    ceiling = max((float(charts.load_ratio(load).max()) for load in loads), default=0.0)
    ceiling = max(2.0, round(ceiling + 0.05, 1))
    maps = {
        f"load-{i}": charts.load_chart(load, len(load.x_E) - 1, ceiling)
        for i, load in enumerate(loads)
    }
    section(
        "Expert load",
        "How much more than an even share each expert gets, by layer. Experts are ranked by their "
        "load over the whole training, in each seed and layer, and averaged by rank: expert 0 of "
        "one seed has nothing to do with expert 0 of another.",
        maps,
        "No routing arrays of complete mixtures are in this home.",
        steps={
            name: {
                "at": [f"{x:,.0f} {x_label}" for x in load.x_E],
                "z": charts.load_ratio(load).round(4).tolist(),
            }
            for name, load in zip(maps, loads, strict=True)
        },
    )
    _specialization_sections(launch, cells, section)
    if importances := launch.importances():
        section(
            "Importance",
            "How much of reaching the best trials each parameter explains (PED-ANOVA, as Optuna "
            "Dashboard shows it), over complete trials; a parameter counts where a trial has it.",
            {"importance": charts.importance_chart(importances)},
            "",
        )
    points = pareto_points(launch.trials, launch.home)
    front = [point.cell for point in points if point.on_front]
    section(
        "Quality against compute",
        "The Pareto front: no other cell reaches as low a value for as few training FLOPs. "
        + (f"On it: {', '.join(front)}." if front else "")
        + " Means over seeds; differences smaller than their intervals decide nothing.",
        {"pareto": charts.pareto_chart(points, metric=label)} if points else {},
        "No complete trial says how many tokens it was trained on.",
    )
    return figures, sections


def _specialization_sections(launch: LaunchRecords, cells: Any, section: Any) -> None:
    rows = read_analysis(launch.home, launch.info.name)
    for number, probe in enumerate(dict.fromkeys(row["probe"] for row in rows)):
        of_probe = [row for row in rows if row["probe"] == probe]
        panels = specializations(cells, of_probe)
        section(
            f"What experts specialise in: {probe_name(probe)}",
            f"Information that the chosen experts carry about the label; {word_form_note(of_probe)}.",
            {
                f"specialization-{number}-{i}": charts.specialization_chart(panel)
                for i, panel in enumerate(panels)
            },
            "The analysed cells are none of the complete ones.",
        )
    if not rows:
        section(
            "What experts specialise in",
            "",
            {},
            f"Nothing was analysed: moe-study analyze {launch.info.study} --probe corpus:syntax",
        )


def _is_cut(launch: LaunchRecords) -> bool:
    complete = {r.cell_hash for r in launch.trials if r.state == "complete"}
    return bool(launch.info.attributes.get("sampled")) and len(complete) > MOST_SAMPLED


def _importance_missing(launch: LaunchRecords) -> str | None:
    if not launch.info.attributes["sampled"]:
        return (
            "A grid asks about cells, and the claims and differences above answer; shares of "
            "importance are for sampled studies."
        )
    return None if launch.importances() else "Too few complete trials to tell parameters apart."


def _trial(record: TrialRecord) -> dict[str, Any]:
    return {
        "number": record.number,
        "cell": record.cell,
        "seed": record.seed,
        "state": record.state,
        "value": _number(record.value),
        "tokens": f"{record.tokens:,}" if record.tokens else None,
        "run_id": record.run_id,
        "link": record.attributes.get(RUN_LINK),
        "config_hash": record.config_hash,
        "reason": record.error or _reused(record),
    }


def _reused(record: TrialRecord) -> str | None:
    source = record.attributes.get(REUSED_FROM)
    return f"reused from run {source}" if source else None


def _reproduce(launch: LaunchRecords) -> dict[str, Any]:
    given = launch.info.attributes
    seeds = sorted({r.seed for r in launch.trials})
    command = ["moe-study", "run", launch.info.study, "--scale", given["scale"]]
    command += ["--seeds", ",".join(map(str, seeds))] if seeds else []
    if given["sampled"] and launch.trials:
        command += ["--trials", str(len({r.cell_hash for r in launch.trials}))]
    command += ["--corpus", given["corpus"]]
    for path, value in given["overrides"].items():
        command += ["--set", f"{path}={json.dumps(value) if value is True or value is False else value}"]
    return {
        "command": shlex.join(command),
        "corpus": given["corpus"],
        "corpus_digest": given["corpus_digest"],
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
    text = resources.files("plotly").joinpath("package_data", "plotly.min.js").read_bytes()
    return base64.b64encode(gzip.compress(text, 9, mtime=0)).decode()


def _asset(name: str) -> str:
    return resources.files("orchestrator.report").joinpath("assets", name).read_text("utf-8")


