"""The ablation table: a row a cell, with seeds, interval, parameters and the runs behind it.

Beside ours stands what a paper published, how the two rank the cells alike, and the verdicts on the
study's claims. `table_text` makes text of it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from statistics import fmean
from typing import TYPE_CHECKING, Any

from moe.metrics import (
    VAL_BITS_PER_BYTE,
    VAL_LOSS,
    VAL_PERPLEXITY,
    Metric,
    describe,
    on_test,
    perplexity,
)
from orchestrator.report.judge import Judgement, main_digest
from orchestrator.report.row_contrasts import Difference, RowContrasts
from orchestrator.report.statistics import RankCorrelation, kendall_tau, mean_interval, tau_interval
from orchestrator.stores.trial_record import (
    COMMIT,
    FLOPS_PER_TOKEN,
    PARAMS_ACTIVE,
    PARAMS_TOTAL,
    PROCESSOR,
    RUN_LINK,
    TORCH,
    UPCYCLED_TOKENS,
    TrialRecord,
)
from orchestrator.study.comparability import leaks_future
from orchestrator.study.corpora import corpus_label

if TYPE_CHECKING:  # it brings scipy's optimisers, which few tables need
    from orchestrator.report.front import Front, FrontPoint

Published = Mapping[str, Mapping[str, float]]  # cell -> corpus -> perplexity


@dataclass(frozen=True, kw_only=True)
class Stopped:
    """Where pruned trials without a complete one were last seen: the mean over them at the last
    step that all of them reached, on the validation split."""

    step: int
    value: float


@dataclass(frozen=True, kw_only=True)
class Row:
    """`perplexity` is that of the mean, where the table's metric is a loss; `published` the paper's
    perplexity of this cell, by corpus; `commits` are those of the code that trained it, where that
    was a checkout; `torch` and `processors` what it was trained with and on, where that is known.
    `leaks_future`: whether later tokens decide which experts earlier ones pass, None where its
    configuration is not known. `upcycled_tokens`: what the dense trial cost that it started from.
    `search_value` is the mean that a search goes by, where that is not `mean` (a test split).
    `corpus` is what it was trained and evaluated on, in a launch that has several. `params` are its
    values of what moves in the study, by path. `values` are those of its seeds, `sd` is their
    deviation. `difference` is from the baseline; `is_best`: whether it is decided to be better than
    every row that compares with it. `violates`: which constraints of the study, and by what mean.
    """

    cell: str
    n: int
    mean: float | None
    ci_low: float | None
    ci_high: float | None
    perplexity: float | None
    params_total: int
    params_active: int
    flops_per_token: int
    seeds: list[int]
    run_ids: list[str]
    states: dict[str, int]
    moe_digest: str
    commits: list[str]
    torch: list[str]
    processors: list[str]
    is_older: bool
    published: dict[str, float]
    corpus: str | None = None
    corpus_digest: str | None = None
    leaks_future: bool | None = None
    upcycled_tokens: int | None = None
    search_value: float | None = None
    params: dict[str, Any] = field(default_factory=dict)
    values: dict[int, float] = field(default_factory=dict)
    sd: float | None = None
    is_baseline: bool = False
    is_best: bool = False
    difference: Difference | None = None
    stopped: Stopped | None = None
    violates: str = ""

    @property
    def chosen_by(self) -> float | None:
        return self.mean if self.search_value is None else self.search_value

    @property
    def corpus_label(self) -> str:
        """Its corpus as a launch's name has it; empty where the launch has one."""
        if self.corpus is None:
            return ""
        return f"{corpus_label(self.corpus)}@{(self.corpus_digest or '')[:8]}"


@dataclass(frozen=True, kw_only=True)
class Table:
    """`rank_correlation`: by published corpus, Kendall's tau of our means with its perplexities.

    Rows of one corpus stand together: a loss on one text says nothing about another. `about` says
    what a caption or a footnote needs of the launch: `scale`, `corpus`, `corpus_digest`,
    `constraints`. `fronts` are those of a search with several objectives, one a corpus. `origin`
    says where its points come from, if not from its own search alone.
    """

    study: str
    launch: str
    metric: str
    rows: list[Row]
    rank_correlation: dict[str, RankCorrelation] = field(default_factory=dict)
    judgement: Judgement | None = None
    best_first: bool = False
    about: Mapping[str, Any] = field(default_factory=dict)
    origin: Sequence[str] = ()
    sorted_by: str | None = None  # a column that was asked for
    run_links: Mapping[str, str] = field(default_factory=dict)  # of a run, on MLflow's page
    fronts: tuple[Front, ...] = ()

    @property
    def has_mixed_code(self) -> bool:
        return len({row.moe_digest for row in self.rows} - {""}) > 1

    @property
    def has_corpora(self) -> bool:
        return len({row.corpus_digest for row in self.rows}) > 1

    @cached_property
    def front_points(self) -> dict[tuple[str, str], FrontPoint]:
        """By cell and code: what a row is in all objectives."""
        return {(p.cell, p.code): p for front in self.fronts for p in front.points}

    @property
    def published_corpora(self) -> list[str]:
        return list(dict.fromkeys(corpus for row in self.rows for corpus in row.published))


def table_of(
    study: str,
    launch: str,
    records: Sequence[TrialRecord],
    *,
    metric: str = "val/loss",
    best_first: bool = False,
    published: Published | None = None,
    judgement: Judgement | None = None,
    about: Mapping[str, Any] | None = None,
    fronts: tuple[Front, ...] = (),
    origin: Sequence[str] = (),
) -> Table:
    """Rows in the order in which cells were first asked for, or (a sampled study's) best first, of
    each corpus by itself: those over the most seeds, then those over fewer, which are not ranked
    against them. What was pruned at every seed stands below, what went furthest first; of a sampled
    study above it what violates a constraint.

    Trials are pooled by configuration and by the digest of the code that trained them: results of
    different code become different rows, each with its digest. A trial that never started stands
    with its cell's first row.
    """
    numbered = sorted(records, key=lambda r: r.number)
    first: dict[str, str] = {}
    for record in numbered:
        if record.code:
            first.setdefault(record.cell_hash, record.code)
    groups: dict[tuple[str, str], list[TrialRecord]] = {}
    for record in numbered:
        digest = record.code or first.get(record.cell_hash, "")
        groups.setdefault((record.cell_hash, digest), []).append(record)
    measure = describe(metric)
    rows = [_row(group, digest, published or {}, measure) for (_, digest), group in groups.items()]
    main = main_digest(records)
    if judgement:
        rows = [_contrasted(row, judgement.contrasts, main) for row in rows]
    if best_first:
        rows.sort(
            key=lambda row: (-row.n, math.inf if (v := row.chosen_by) is None else measure.cost(v))
        )
    corpora = list(dict.fromkeys(r.corpus_digest for r in numbered))
    rows.sort(
        key=lambda row: (
            row.is_older,
            corpora.index(row.corpus_digest),
            (1, -row.stopped.step, measure.cost(row.stopped.value))
            if row.stopped
            else (0, best_first and bool(row.violates)),
        )
    )
    return Table(
        study=study,
        launch=launch,
        metric=metric,
        rows=rows,
        rank_correlation=_rank_correlation(rows, main, measure),
        judgement=judgement,
        best_first=best_first,
        about=about or {},
        fronts=fronts,
        origin=tuple(origin),
        run_links={r.run_id: r.attributes[RUN_LINK] for r in records if r.attributes.get(RUN_LINK)},
    )


def best_row(records: Sequence[TrialRecord], measure: Metric) -> tuple[str, float, int] | None:
    """Cell, mean and number of seeds of the best point so far, among those over the most seeds that
    violate no constraint."""
    groups: dict[tuple[str, str], dict[int, TrialRecord]] = {}
    for record in sorted(records, key=lambda r: r.number):
        if record.state == "complete" and not record.is_older and not record.violates:
            group = groups.setdefault((record.cell_hash, record.code), {})
            group[record.seed] = record
    if not groups:
        return None
    found = [
        (-len(group), sum(r.value for r in group.values()) / len(group), next(iter(group.values())))
        for group in groups.values()
    ]
    n, mean, first = min(found, key=lambda one: (one[0], measure.cost(one[1])))
    return first.cell, mean, -n


def _rank_correlation(
    rows: Sequence[Row], digest: str, measure: Metric
) -> dict[str, RankCorrelation]:
    """Over the cells that both have; ours from the code that trained the most of the launch, on one
    corpus of ours each time. None where ours is not measured on held-out text: a paper's
    perplexities have nothing to rank it by.
    """
    losses = (VAL_LOSS, VAL_PERPLEXITY, VAL_BITS_PER_BYTE)
    if measure.name not in (*losses, *map(on_test, losses)):
        return {}
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.corpus_label, []).append(row)
    found = {}
    for label, group in groups.items():
        kept = [r for r in group if r.mean is not None and r.moe_digest == digest]
        ours = {row.cell: row.mean for row in kept}
        values = {row.cell: row.values for row in kept}
        for corpus in dict.fromkeys(corpus for row in group for corpus in row.published):
            published = {r.cell: r.published[corpus] for r in group if corpus in r.published}
            name = f"{corpus}, ours on {label}" if len(groups) > 1 else corpus
            tau = kendall_tau(ours, published)
            if tau.tau is not None and (bounds := tau_interval(values, published)) is not None:
                low, high, seeds = bounds
                tau = replace(tau, ci_low=low, ci_high=high, seeds=seeds)
            found[name] = tau
    return found


def _row(records: list[TrialRecord], digest: str, published: Published, measure: Metric) -> Row:
    first = records[0]
    complete = {r.seed: r for r in records if r.state == "complete"}
    values = [r.final for r in complete.values() if r.final is not None]
    estimate = mean_interval(values) if values else None
    on_validation = [r.value for r in complete.values() if r.is_on_test]
    states: dict[str, int] = {}
    for record in records:
        states[record.state] = states.get(record.state, 0) + 1
    return Row(
        cell=first.cell,
        n=len(complete),
        mean=estimate.mean if estimate else None,
        ci_low=estimate.low if estimate else None,
        ci_high=estimate.high if estimate else None,
        perplexity=perplexity(estimate.mean) if estimate and measure.is_loss else None,
        params_total=first.attributes[PARAMS_TOTAL],
        params_active=first.attributes[PARAMS_ACTIVE],
        flops_per_token=first.attributes[FLOPS_PER_TOKEN],
        seeds=sorted(complete),
        run_ids=[r.run_id for _, r in sorted(complete.items()) if r.run_id],
        states=states,
        moe_digest=digest,
        commits=_told(COMMIT, complete.values()),
        torch=_told(TORCH, complete.values()),
        processors=_told(PROCESSOR, complete.values()),
        is_older=first.is_older,
        published=dict(published.get(first.cell, {})),
        corpus=first.corpus,
        corpus_digest=first.corpus_digest,
        leaks_future=None if first.config is None else leaks_future(first.config),
        upcycled_tokens=first.attributes.get(UPCYCLED_TOKENS),
        search_value=fmean(on_validation) if on_validation else None,
        params=dict(first.params),
        values={s: r.final for s, r in sorted(complete.items()) if r.final is not None},
        sd=estimate.sd if estimate else None,
        stopped=_stopped(records),
        violates=next((r.violates for r in complete.values() if r.violates), ""),
    )


def _contrasted(row: Row, contrasts: RowContrasts, digest: str) -> Row:
    """With what the judged values say of it: those of the code that trained the most."""
    if row.is_older or row.moe_digest != digest:
        return row
    said = {
        "is_baseline": row.cell == contrasts.baseline,
        "is_best": row.cell in contrasts.best,
        "difference": contrasts.differences.get(row.cell),
    }
    return replace(row, **said) if any(said.values()) else row


def _stopped(records: Sequence[TrialRecord]) -> Stopped | None:
    pruned = [r.curve for r in records if r.state == "pruned" and r.curve]
    shared = set.intersection(*map(set, pruned)) if pruned else set()
    if not shared or any(r.state in ("complete", "running", "waiting") for r in records):
        return None
    step = max(shared)
    return Stopped(step=step, value=sum(curve[step] for curve in pruned) / len(pruned))


def _told(key: str, records: Iterable[TrialRecord]) -> list[str]:
    told = {r.attributes.get(key) for r in records}
    return sorted(told - {None, ""})
