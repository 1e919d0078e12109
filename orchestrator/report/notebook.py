"""A launch as pandas frames, for an analyst who needs no command line (docs/notebook.md).

from orchestrator.report import load
launch = load("quickstart", home="moe-runs")
launch.table_frame()
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from orchestrator.base.home import Home
from orchestrator.report.judge import read_analysis
from orchestrator.report.page import render_report
from orchestrator.report.pareto import pareto_points
from orchestrator.report.records import LaunchRecords, read_launch
from orchestrator.report.verdicts import Verdict
from orchestrator.stores.configurations import named_rows
from orchestrator.stores.trial_record import FLOPS_PER_TOKEN, PARAMS_ACTIVE, PARAMS_TOTAL, RUN_LINK
from orchestrator.study.library import load_study
from orchestrator.study.study import Study

_ROW_KEYS = ("cell", "n", "mean", "ci_low", "ci_high", "perplexity")
_COUNTS = (PARAMS_TOTAL, PARAMS_ACTIVE, FLOPS_PER_TOKEN)


@dataclass(frozen=True, kw_only=True)
class LaunchFrames:
    """What is missing is a missing value in a frame, never a number."""

    study: Study
    records: LaunchRecords

    @property
    def name(self) -> str:
        return self.records.info.name

    def trials_frame(self) -> pd.DataFrame:
        """A row a trial: state, value, params by their own names, final metrics, run."""
        rows = [
            {
                "number": r.number,
                "cell": r.cell,
                "seed": r.seed,
                "state": r.state,
                "value": r.value,
                "tokens": r.tokens,
                **{key: r.attributes[key] for key in _COUNTS},
                **r.params,
                **r.metrics,
                "config_hash": r.config_hash,
                "mlflow_run_id": r.run_id,
                "mlflow_link": r.attributes.get(RUN_LINK),
                "started": r.started,
                "ended": r.ended,
                "error": r.error,
                "is_older": r.is_older,
            }
            for r in self.records.trials
        ]
        frame = pd.DataFrame(rows, columns=None if rows else ["number"])
        return frame.set_index("number").sort_index()

    def table_frame(self) -> pd.DataFrame:
        """A row a cell, as `moe-study table` has it, with a column a published corpus, and
        `corpus` where the launch has several. `is_older`: of a configuration that the study had
        before; nothing is judged by it. `violates`: which constraints, where the study has some."""
        table = self.records.table(self.study)
        rows = []
        for row in table.rows:
            values = asdict(row)
            rows.append(
                {
                    **{key: values[key] for key in (*_ROW_KEYS, *_COUNTS)},
                    **({"corpus": row.corpus} if table.has_corpora else {}),
                    **{f"published {corpus}": x for corpus, x in row.published.items()},
                    "seeds": row.seeds,
                    "run_ids": row.run_ids,
                    "moe_digest": row.moe_digest,
                    "is_older": row.is_older,
                    **({"violates": row.violates} if table.about.get("constraints") else {}),
                }
            )
        return pd.DataFrame(rows)

    def curves_frame(self) -> pd.DataFrame:
        """A row an evaluation, in long form: number, cell, seed, state, step, value."""
        rows = [
            (r.number, r.cell, r.seed, r.state, step, value)
            for r in self.records.trials
            for step, value in sorted(r.curve.items())
        ]
        return pd.DataFrame(rows, columns=["number", "cell", "seed", "state", "step", "value"])

    def claims_frame(self) -> pd.DataFrame:
        """A row a claim, and one a part of a compound (`part_of` names it)."""
        verdicts = self.records.judgement(self.study).verdicts
        rows = [row for verdict in verdicts for row in _claim_rows(verdict, None)]
        return pd.DataFrame(rows, columns=list(rows[0]) if rows else ["id", "verdict"])

    def analysis_frame(self) -> pd.DataFrame:
        """The rows of `moe-study analyze`, of all probes; no `layer` on means over layers. Those of
        configurations that the study had before are named and marked as in `table_frame`."""
        rows = read_analysis(self.records.home, self.name)
        return pd.DataFrame(named_rows(rows, self.records.trials))

    def pareto_frame(self) -> pd.DataFrame:
        """A row a cell, the cheapest first, and whether it is on the front of value and FLOPs."""
        return pd.DataFrame(
            [
                asdict(p)
                for p in pareto_points(
                    self.records.trials, self.records.home, metric=self.records.judged_metric
                )
            ]
        )

    def is_evidence(self) -> bool:
        """Whether the scale is large enough for the verdicts to say anything."""
        return self.records.judgement(self.study).evidence

    def report(self) -> str:
        """The page of `moe-study report`, as HTML."""
        return render_report(self.records, self.study)


def load(
    study: str,
    *,
    home: str | Path | None = None,
    optuna_storage: str | None = None,
    scale: str | None = None,
    corpus: str | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> LaunchFrames:
    """The newest launch of a study (a name, or the path of its file) that fits what is asked for.

    `home` is as on the command line: MOE_STUDY_HOME, or ./moe-runs. Raises BadInput where there is
    no such study or launch, saying which there are.
    """
    loaded = load_study(study)
    records = read_launch(
        loaded.name,
        home=Home.at(home),
        optuna_storage=optuna_storage,
        scale=scale,
        corpus=corpus,
        overrides=overrides,
    )
    return LaunchFrames(study=loaded, records=records)


def _claim_rows(verdict: Verdict, part_of: str | None) -> list[dict[str, Any]]:
    values = {key: value for key, value in verdict.to_dict().items() if key != "parts"}
    own = {"part_of": part_of, **values}
    return [own, *(row for part in verdict.parts for row in _claim_rows(part, verdict.id))]
