"""A launch judged: its trials, and its rows of `analyze`, against what the study claims."""

from __future__ import annotations

import functools
import hashlib
import json
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from moe.metrics import TEST_LOSS, VAL_LOSS, on_test
from moe.train.document_losses import DocumentLosses
from orchestrator.base.errors import BadInput
from orchestrator.base.home import Home
from orchestrator.report.evidence import Sampling
from orchestrator.report.judged_split import judged_metric, with_causal_routes
from orchestrator.report.row_contrasts import RowContrasts, row_contrasts
from orchestrator.report.text_error import TextError, text_error
from orchestrator.report.verdicts import Verdict, judge
from orchestrator.stores.trial_record import FINISHED_STATES, TrialRecord
from orchestrator.study.claims import All, Claim, Specialises, measured_by
from orchestrator.study.comparability import Evaluated
from orchestrator.study.design import Fixed
from orchestrator.study.registration import DESIGN, History, design_remarks, standing
from orchestrator.study.study import Study

# Why the verdicts of a scale are no evidence, whatever their intervals say.
NO_EVIDENCE = {
    "smoke": "scale smoke shows that things work, and is too small to say anything about mixtures",
}


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """Verdicts in the order of the study's claims, and what a reader must know beside them.

    `evidence` is False at a scale that is too small, with the reason in `evidence_reason`.
    `exploratory` says why the verdicts are not those of the design that was registered. `leaking`
    are cells whose routes depend on later tokens, so that their losses are of no causal model.
    `contrasts` set the table's rows against each other, by the test that `design_kind` names.
    """

    verdicts: tuple[Verdict, ...]
    evidence: bool
    evidence_reason: str | None
    notes: tuple[str, ...] = ()
    design: str = ""
    exploratory: str | None = None
    leaking: tuple[str, ...] = ()
    contrasts: RowContrasts = field(default_factory=RowContrasts)
    design_kind: str = ""

    def to_dict(self) -> dict[str, Any]:
        """The keys that the JSON of `claims` and of `table` share."""
        return {
            "evidence": self.evidence,
            "evidence_reason": self.evidence_reason,
            "notes": list(self.notes),
            "design": self.design,
            "exploratory": self.exploratory is not None,
            "exploratory_reason": self.exploratory,
            "claims": [verdict.to_dict() for verdict in self.verdicts],
        }


def judge_launch(
    study: Study,
    *,
    scale: str,
    records: Sequence[TrialRecord],
    rows: Sequence[Mapping[str, Any]] = (),
    history: History = (),
    losses: Callable[[TrialRecord], DocumentLosses | None] | None = None,
) -> Judgement:
    """Every claim of `study` on one launch's trials and on `rows` of `moe-study analyze`.

    Complete trials alone count, and of one code digest: the one that trained the most of them.
    `history` is what was registered of the launch (`orchestrator.study.registration`); `losses`
    gives what a trial's run has left of its losses by document.
    """
    older = [r for r in records if r.is_older]
    records = sorted((r for r in records if not r.is_older), key=lambda r: r.number)
    judged = counted(records)
    evaluated = _evaluated(study, scale, records)
    seeds = _seeds_of_design(study, history)
    sampling = Sampling(
        order=tuple(dict.fromkeys(r.seed for r in records)),
        running=_to_come(study, records, seeds),
        seeds=seeds,
        evaluated=evaluated,
        **({} if losses is None else {"text": _by_document(judged, losses)}),
    )
    claims = [measured_by(c, lambda name: judged_metric(name, judged)) for c in study.claims]
    values = values_of(judged, study.metric)
    verdicts = judge(
        claims,
        values,
        specialization_rows=rows,
        design=study.design,
        sampling=sampling,
        causally=with_causal_routes(values, sampling),
    )
    reason = NO_EVIDENCE.get(scale)
    return Judgement(
        verdicts=tuple(
            replace(verdict, registered=standing(history, claim, metric=study.metric))
            for verdict, claim in zip(verdicts, study.claims, strict=True)
        ),
        evidence=reason is None,
        evidence_reason=reason,
        notes=(
            *design_remarks(history, study),
            *_split(study, scale, judged_metric(study.metric, judged)),
            *_older(older),
            *_other_code(records, main_digest(records)),
            *_unanalysed(study, rows),
        ),
        design=_design_text(study, seeds),
        exploratory=_exploratory(study, judged, seeds),
        leaking=tuple(cell for cell, how in evaluated.items() if not how.is_causal),
        contrasts=row_contrasts(
            values,
            judged_metric(study.metric, records),
            study.baseline,
            design=study.design,
            sampling=sampling,
            barred=frozenset(r.cell for r in judged if r.violates),
        ),
        design_kind=f"{'t test' if isinstance(study.design, Fixed) else 'e-process'}, alpha "
        f"{study.design.alpha:g}",
    )


def _seeds_of_design(study: Study, history: History) -> tuple[int, ...] | None:
    """Those that a fixed design is judged on; None where none were registered."""
    if not isinstance(study.design, Fixed) or not history:
        return None
    design = history[-1][DESIGN]
    return tuple(design["seeds"]) if design["kind"] == "fixed" else None


def _design_text(study: Study, seeds: Sequence[int] | None) -> str:
    if not isinstance(study.design, Fixed) or seeds is None:
        return str(study.design)
    return f"{Fixed(seeds=max(2, len(seeds)), alpha=study.design.alpha)} ({_numbers(seeds)})"


def _to_come(
    study: Study, records: Sequence[TrialRecord], seeds: Sequence[int] | None
) -> set[tuple[str, int]]:
    """Cells and seeds without a result that may yet have one."""
    ended = {(r.cell, r.seed) for r in records if r.state in FINISHED_STATES}
    begun = {(r.cell, r.seed) for r in records}
    asked = {(cell, seed) for cell in {r.cell for r in records} for seed in seeds or ()}
    return (begun | asked) - ended


def _exploratory(
    study: Study, counted: Sequence[TrialRecord], seeds: Sequence[int] | None
) -> str | None:
    if not study.claims or seeds is None:
        return None
    cells = {cell for claim in study.claims for cell in claim.cells}
    more = sorted({r.seed for r in counted if r.cell in cells} - set(seeds))
    if not more:
        return None
    return (
        f"the design is fixed at seeds {_numbers(seeds)}, and {_numbers(more)} came on top: "
        "looking again with more seeds decides equal cells far more often than its alpha says"
    )


def _numbers(seeds: Sequence[int]) -> str:
    return ", ".join(map(str, seeds))


def _evaluated(study: Study, scale: str, records: Sequence[TrialRecord]) -> dict[str, Evaluated]:
    """How the values of each cell come about: as its trials say, or where they are too old to, as
    the study has it."""
    newest = {r.cell: r for r in records}
    if all(r.config is not None for r in newest.values()):
        return {cell: Evaluated.of_record(r.config, r.corpus_digest) for cell, r in newest.items()}
    base = study.scales.get(scale)
    if base is None or not study.is_grid:
        return {}
    return {cell.name: Evaluated.of(cell.config(base)) for cell in study.cells_over(base)}


def main_digest(records: Sequence[TrialRecord]) -> str:
    """The code (`moe_digest`) of most complete trials, the newest of equals; "" without any."""
    complete = [r for r in records if r.state == "complete" and not r.is_older]
    counts = Counter(r.code for r in complete)
    newest = {r.code: r.number for r in sorted(complete, key=lambda r: r.number)}
    return max(counts, key=lambda digest: (counts[digest], newest[digest]), default="")


def counted(records: Sequence[TrialRecord]) -> list[TrialRecord]:
    """The complete trials of the code that trained the most of them, in order of number."""
    digest = main_digest(records)
    complete = [r for r in records if r.state == "complete" and math.isfinite(r.value)]
    kept = [r for r in complete if r.code == digest and not r.is_older]
    return sorted(kept, key=lambda r: r.number)


def values_of(
    records: Sequence[TrialRecord], metric: str
) -> dict[str, dict[int, dict[str, float]]]:
    """cell -> seed -> metric -> final value."""
    values: dict[str, dict[int, dict[str, float]]] = {}
    for record in records:
        found = {metric: record.value, **record.metrics}
        values.setdefault(record.cell, {})[record.seed] = found
    return values


def analysis_folder(home: Home, launch_name: str) -> Path:
    """Where `moe-study analyze` puts the rows of one launch, a file a probe.

    A launch's name is no path, so the folder is its fingerprint, as for its artifacts.
    """
    fingerprint = hashlib.sha256(launch_name.encode()).hexdigest()[:12]
    return home.root / "analysis" / fingerprint


def read_analysis(home: Home, launch_name: str) -> list[dict[str, Any]]:
    """All rows of a launch's probes; none where nothing was analysed.

    Raises BadInput naming a file that does not hold rows.
    """
    rows: list[dict[str, Any]] = []
    for path in sorted(analysis_folder(home, launch_name).glob("*.json")):
        try:
            found = json.loads(path.read_text())
        except (OSError, ValueError):
            found = None
        if not isinstance(found, list) or not all(_is_row(row) for row in found):
            raise BadInput(
                f"an analysis is a JSON list of rows with probe, cell, seed and layer; received "
                f"{path}, which is not. Remove it, and run `moe-study analyze` again."
            )
        rows += found
    return rows


def _is_row(row: Any) -> bool:
    return isinstance(row, dict) and {"probe", "cell", "seed", "layer"} <= row.keys()


def _by_document(
    counted: Sequence[TrialRecord], losses: Callable[[TrialRecord], DocumentLosses | None]
) -> Callable[[str, str, str], TextError | None]:
    @functools.cache
    def of_cell(cell: str) -> dict[int, DocumentLosses]:
        found = {r.seed: losses(r) for r in counted if r.cell == cell}
        return {seed: of_run for seed, of_run in found.items() if of_run is not None}

    def of_pair(a: str, b: str, metric: str) -> TextError | None:
        if metric not in (VAL_LOSS, TEST_LOSS):
            return None
        split = metric.partition("/")[0]
        own, other = (
            {seed: of_run for seed, of_run in of_cell(cell).items() if of_run.split == split}
            for cell in (a, b)
        )
        return text_error(own, other)

    return of_pair


def _split(study: Study, scale: str, judged: str) -> list[str]:
    """Where values come from that a search, or early stopping, has chosen by; or has not."""
    if judged != study.metric:
        return [f"values are {judged}, of text that nothing chose by; curves are {study.metric}"]
    if study.is_grid or on_test(judged) is None:
        return []
    if (below := study.rung_below(scale)) is not None:
        return [
            f"points were chosen by values at the rung {below}, and none by these ({judged}); the "
            "best of several by these looks a little better than it is"
        ]
    return [
        f"values are those by which points were chosen ({judged}), so the best of them look better "
        "than they are; data.test_fraction holds out text that shows by how much"
    ]


def _older(records: Sequence[TrialRecord]) -> list[str]:
    complete = sum(r.state == "complete" for r in records)
    if not complete:
        return []
    return [
        f"{complete} complete trials are of configurations that the study had before: not judged"
    ]


def _other_code(records: Sequence[TrialRecord], digest: str) -> list[str]:
    others = Counter(r.code for r in records if r.state == "complete")
    left_out = others.total() - others.pop(digest, 0)
    if not left_out:
        return []
    return [
        f"{left_out} complete trials of other code ({', '.join(d[:8] for d in sorted(others))}) "
        f"are not judged; the verdicts are on code {digest[:8]}"
    ]


def _unanalysed(study: Study, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    if rows or not any(_needs_rows(claim) for claim in study.claims):
        return []
    return [
        "nothing was analysed: claims about specialisation need `moe-study analyze "
        f"{study.name} --probe SPEC`"
    ]


def _needs_rows(claim: Claim) -> bool:
    if isinstance(claim, All):
        return any(_needs_rows(part) for part in claim.parts)
    return isinstance(claim, Specialises)
