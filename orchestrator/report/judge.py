"""A launch judged: its trials, and its rows of `analyze`, against what the study claims."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.base.errors import BadInput
from orchestrator.base.home import Home
from orchestrator.report.verdicts import Verdict, judge
from orchestrator.stores.trial_record import TrialRecord
from orchestrator.study.claims import All, Claim, Specialises
from orchestrator.study.study import Study

# Why the verdicts of a scale are no evidence, whatever their intervals say.
NO_EVIDENCE = {
    "smoke": "scale smoke shows that things work, and is too small to say anything about mixtures",
}


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """Verdicts in the order of the study's claims, and what a reader must know beside them.

    `evidence` is False at a scale that is too small, with the reason in `evidence_reason`.
    """

    verdicts: tuple[Verdict, ...]
    evidence: bool
    evidence_reason: str | None
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The keys that the JSON of `claims` and of `table` share."""
        return {
            "evidence": self.evidence,
            "evidence_reason": self.evidence_reason,
            "notes": list(self.notes),
            "claims": [verdict.to_dict() for verdict in self.verdicts],
        }


def judge_launch(
    study: Study,
    *,
    scale: str,
    records: Sequence[TrialRecord],
    rows: Sequence[Mapping[str, Any]] = (),
) -> Judgement:
    """Every claim of `study` on one launch's trials and on `rows` of `moe-study analyze`.

    Complete trials alone count, and of one code digest: the one that trained the most of them.
    """
    digest = main_digest(records)
    older = [r for r in records if r.is_older]
    records = [r for r in records if not r.is_older]
    counted = [r for r in records if r.state == "complete" and r.code == digest]
    reason = NO_EVIDENCE.get(scale)
    return Judgement(
        verdicts=tuple(
            judge(
                study.claims,
                values_of(counted, study.metric),
                specialization_rows=rows,
                corpora={r.cell: r.corpus_digest for r in counted if r.corpus_digest},
            )
        ),
        evidence=reason is None,
        evidence_reason=reason,
        notes=(*_older(older), *_other_code(records, digest), *_unanalysed(study, rows)),
    )


def main_digest(records: Sequence[TrialRecord]) -> str:
    """The code (`moe_digest`) of most complete trials, the newest of equals; "" without any."""
    complete = [r for r in records if r.state == "complete" and not r.is_older]
    counts = Counter(r.code for r in complete)
    newest = {r.code: r.number for r in sorted(complete, key=lambda r: r.number)}
    return max(counts, key=lambda digest: (counts[digest], newest[digest]), default="")


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
