"""Launches side by side: what differs between them, their cells' differences, and their verdicts.

The first launch is what the others are compared with. Cells are the same where their names are. A
difference is paired by seed where both have at least two seeds in common, as within a launch: equal
seeds begin from the same weights and see the text in the same order. Else it is Welch's (1947).
Cells that were evaluated on different things have none, and trials that are the same run (one was
imported, or its result was reused) say nothing of how two launches differ: they have none either.
Holm's correction is over all differences.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from scipy import stats

from orchestrator.report.figure_data import CellTrials
from orchestrator.report.judge import Judgement, counted, main_digest
from orchestrator.report.records import LaunchRecords
from orchestrator.report.statistics import holm, mean_interval, paired_differences, two_sided_p
from orchestrator.stores.configurations import told_values
from orchestrator.stores.trial_record import COMMIT, TORCH, TrialRecord
from orchestrator.study.comparability import Evaluated, leaks_future, unlike

ALPHA = 0.05
_TOLD = (
    "study",
    "scale",
    "corpus",
    "corpus_digest",
    "metric",
    "baseline",
    "question",
    "held_fixed",
)


@dataclass(frozen=True, kw_only=True)
class LaunchDifference:
    """A cell of a later launch minus the same of the first. `kind` is "paired" or "Welch"; without
    numbers `reason` says why; `values` are the seeds' own, where they are paired."""

    kind: str | None
    estimate: float | None = None
    ci_low: float | None = None
    ci_high: float | None = None
    p_value: float | None = None
    p_adjusted: float | None = None
    decided: bool | None = None
    n: int = 0
    values: tuple[float, ...] = ()
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class ComparedCell:
    """One cell: of each launch its mean with interval (None where it has none), and of each later
    one the difference from the first. `differs`: paths of its configuration that are not alike."""

    cell: str
    means: tuple[Mapping[str, Any] | None, ...]
    differences: tuple[LaunchDifference | None, ...]
    differs: Mapping[str, tuple[Any, ...]]
    leaks_future: bool = False


@dataclass(frozen=True, kw_only=True)
class ComparedClaim:
    """A claim's verdict in each launch, None where the launch has no such claim."""

    id: str
    statement: str
    verdicts: tuple[str | None, ...]

    @property
    def changed(self) -> bool:
        return len({verdict for verdict in self.verdicts if verdict is not None}) > 1


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """`launches` are names and what is told of each; `differs` what is not alike in them."""

    metric: str
    launches: tuple[Mapping[str, Any], ...]
    differs: Mapping[str, tuple[Any, ...]]
    cells: tuple[ComparedCell, ...]
    claims: tuple[ComparedClaim, ...]
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The JSON of `moe-study compare`."""
        found = asdict(self)
        for told, claim in zip(found["claims"], self.claims, strict=True):
            told["changed"] = claim.changed
        return found


def compare(
    launches: Sequence[LaunchRecords],
    judgements: Sequence[Judgement | None],
    places: Sequence[str],
) -> Comparison:
    """`places` say where each was found; `judgements` are None where its study is not at hand."""
    metrics = {launch.judged_metric for launch in launches}
    metric = launches[0].judged_metric
    told = tuple(_told(launch, at) for launch, at in zip(launches, places, strict=True))
    cells = _cells(launches, metric if len(metrics) == 1 else None)
    notes = []
    if len(metrics) > 1:
        notes.append(f"judged by different metrics ({', '.join(sorted(metrics))}): no differences")
    if missing := [t["launch"] for t, j in zip(told, judgements, strict=True) if j is None]:
        notes.append(f"no study file here for {', '.join(missing)}: its verdicts are left out")
    notes += _without_evidence([t["launch"] for t in told], judgements)
    return Comparison(
        metric=metric,
        launches=told,
        differs=_differs(told, [*_TOLD, "overrides", "code", "commits", "torch", "seeds"]),
        cells=cells,
        claims=_claims(judgements),
        notes=tuple(notes),
    )


def _without_evidence(
    names: Sequence[str], judgements: Sequence[Judgement | None]
) -> Iterator[str]:
    """A line for each reason, whichever launches have it."""
    of: dict[str, list[str]] = {}
    for name, judgement in zip(names, judgements, strict=True):
        if judgement is not None and not judgement.evidence:
            of.setdefault(judgement.evidence_reason, []).append(name)
    for reason, named in of.items():
        once = list(dict.fromkeys(named))
        yield f"{', '.join(once)} {'is' if len(once) == 1 else 'are'} no evidence: {reason}"


def launch_cells(launch: LaunchRecords) -> list[CellTrials]:
    """Complete trials by cell: of the code that trained the most, and as asked now."""
    groups: dict[str, dict[int, TrialRecord]] = {}
    for record in counted(launch.trials):
        groups.setdefault(record.cell, {})[record.seed] = record
    return [
        CellTrials(name=name, trials=[of[seed] for seed in sorted(of)])
        for name, of in groups.items()
    ]


def _told(launch: LaunchRecords, place: str) -> dict[str, Any]:
    given, complete = launch.info.attributes, counted(launch.trials)
    return {
        "launch": launch.info.name,
        "place": place,
        **{key: given.get(key) for key in _TOLD},
        "metric": launch.judged_metric,
        "overrides": dict(given.get("overrides") or {}),
        "code": main_digest(launch.trials)[:8],
        "commits": sorted({c for r in complete if (c := r.attributes.get(COMMIT))}),
        "torch": sorted({v for r in complete if (v := r.attributes.get(TORCH))}),
        "seeds": sorted({r.seed for r in complete}),
        "complete": len(complete),
        "trials": len(launch.trials),
    }


def _differs(told: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> dict[str, tuple[Any, ...]]:
    found = {key: tuple(of.get(key) for of in told) for key in keys}
    return {key: values for key, values in found.items() if any(v != values[0] for v in values)}


def _cells(launches: Sequence[LaunchRecords], metric: str | None) -> tuple[ComparedCell, ...]:
    by_launch = [_looked_at(launch) for launch in launches]
    names = list(dict.fromkeys(name for cells in by_launch for name in cells))
    found = {
        name: [_difference(by_launch[0].get(name), of.get(name), metric) for of in by_launch[1:]]
        for name in names
    }
    tested = [d for of in found.values() for d in of if d and d.p_value is not None]
    adjusted = dict(zip(map(id, tested), holm([d.p_value for d in tested]), strict=True))
    cells = []
    for name in names:
        cells_of = [of.get(name) for of in by_launch]
        configs = [dict(of.config or {}) if of else None for of in cells_of]
        known = [config for config in configs if config is not None]
        paths = sorted({path for config in known for path in config})
        cells.append(
            ComparedCell(
                cell=name,
                means=tuple(_mean(of) for of in cells_of),
                differences=tuple(_decided(d, adjusted) for d in found[name]),
                differs={
                    path: tuple("-" if c is None else c.get(path, "default") for c in configs)
                    for path in paths
                    if len({str(config.get(path, "default")) for config in known}) > 1
                },
                leaks_future=any(map(leaks_future, known)),
            )
        )
    return tuple(cells)


@dataclass(frozen=True, kw_only=True)
class _Cell:
    """`config`: what tells its configuration from others, None where nothing does; `text`: the
    digest of what it was trained and evaluated on."""

    trials: Sequence[TrialRecord]
    config: Mapping[str, Any] | None
    text: str | None


def _looked_at(launch: LaunchRecords) -> dict[str, _Cell]:
    text = launch.info.attributes.get("corpus_digest")
    return {
        cell.name: _Cell(
            trials=cell.trials,
            config=told_values(cell.trials[0], launch.home),
            text=cell.corpus_digest or text,
        )
        for cell in launch_cells(launch)
    }


def _mean(cell: _Cell | None) -> dict[str, Any] | None:
    if cell is None:
        return None
    found = mean_interval([r.final for r in cell.trials])
    return {
        **{"n": found.n, "mean": found.mean, "ci_low": found.low, "ci_high": found.high},
        "values": [r.final for r in cell.trials],
    }


def _difference(a: _Cell | None, b: _Cell | None, metric: str | None) -> LaunchDifference | None:
    if a is None or b is None:
        return None
    if metric is None:
        return LaunchDifference(kind=None, reason="different metrics")
    if (why := _unlike(a, b, metric)) is not None:
        return LaunchDifference(kind=None, reason=f"evaluated on {why}")
    runs = [{(r.config_hash, r.final) for r in cell.trials} for cell in (a, b)]
    if runs[0] & runs[1]:
        return LaunchDifference(kind=None, reason="the same runs")
    first, second = ({r.seed: r.final for r in cell.trials} for cell in (a, b))
    pairs = paired_differences(second, first)
    if len(pairs) > 1:
        of = mean_interval(pairs.values())
        p = float(two_sided_p(of.mean, of.sd, of.n))
        return LaunchDifference(
            kind="paired",
            estimate=of.mean,
            ci_low=of.low,
            ci_high=of.high,
            p_value=p,
            n=of.n,
            values=tuple(pairs.values()),
        )
    values = list(second.values()), list(first.values())
    estimate = sum(values[0]) / len(values[0]) - sum(values[1]) / len(values[1])
    n = min(map(len, values))
    if n < 2:
        return LaunchDifference(kind=None, estimate=estimate, n=n, reason="one seed: no interval")
    test = stats.ttest_ind(*values, equal_var=False)
    low, high = test.confidence_interval(1 - ALPHA)
    return LaunchDifference(
        kind="Welch",
        estimate=estimate,
        ci_low=float(low),
        ci_high=float(high),
        p_value=float(test.pvalue),
        n=n,
    )


def _unlike(a: _Cell, b: _Cell, metric: str) -> str | None:
    if a.config is None or b.config is None:
        return "what an old record does not tell"
    return unlike(*(Evaluated.of_record(cell.config or {}, cell.text) for cell in (a, b)), metric)


def _decided(
    found: LaunchDifference | None, adjusted: Mapping[int, float]
) -> LaunchDifference | None:
    if found is None or id(found) not in adjusted:
        return found
    p = adjusted[id(found)]
    return LaunchDifference(**{**asdict(found), "p_adjusted": p, "decided": p <= ALPHA})


def _claims(judgements: Sequence[Judgement | None]) -> tuple[ComparedClaim, ...]:
    verdicts = [{v.id: v for v in j.verdicts} if j else {} for j in judgements]
    statements = {v.id: v.statement for of in reversed(verdicts) for v in of.values()}
    return tuple(
        ComparedClaim(
            id=name,
            statement=statement,
            verdicts=tuple(of[name].verdict if name in of else None for of in verdicts),
        )
        for name, statement in sorted(statements.items())
    )
