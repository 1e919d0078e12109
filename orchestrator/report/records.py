"""Reading what the stores say: the newest launch of a study in a home, and its trials.

Readers need the Optuna storage, and for claims the study's file and what `analyze` left in the
home; neither the study's corpus nor Ray.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from moe.metrics import Metric, describe
from orchestrator.base.errors import BadInput
from orchestrator.base.home import Home
from orchestrator.report.judge import Judgement, judge_launch, read_analysis
from orchestrator.report.judged_split import judged_metric, on_judged_split
from orchestrator.report.rank_agreement import agreement_text, rank_agreement
from orchestrator.report.tables import Table, table_of
from orchestrator.report.text_error import losses_of
from orchestrator.stores.configurations import rows_of, told_apart
from orchestrator.stores.importances import Importance, importances
from orchestrator.stores.optuna_launches import (
    LADDER,
    REGISTRATIONS,
    WARM_START,
    LaunchInfo,
    launches_in,
    origin_lines,
)
from orchestrator.stores.optuna_storage import open_storage, trouble_named
from orchestrator.stores.optuna_trials import OptunaTrials
from orchestrator.stores.trial_record import TrialRecord
from orchestrator.stores.violations import marked
from orchestrator.study.chosen_values import Choices
from orchestrator.study.constraints import constraints_of, listed
from orchestrator.study.study import Study

if TYPE_CHECKING:
    from orchestrator.report.front import Front

Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, kw_only=True)
class LaunchRecords:
    home: Home
    info: LaunchInfo
    trials: list[TrialRecord]
    store: OptunaTrials | None = None

    @classmethod
    def of(
        cls,
        home: Home,
        info: LaunchInfo,
        trials: Iterable[TrialRecord],
        store: OptunaTrials | None = None,
    ) -> LaunchRecords:
        """With trials of older configurations told apart, those marked that violate a constraint,
        and final values of the judged split."""
        told = told_apart(trials, info.attributes, home)
        told = marked(told, constraints_of(info.attributes))
        judged = on_judged_split(told, info.attributes["metric"])
        return cls(home=home, info=info, trials=judged, store=store)

    @property
    def metric(self) -> str:
        return self.info.attributes["metric"]

    @property
    def measure(self) -> Metric:
        """The metric with its direction."""
        return describe(self.metric)

    @property
    def judged_metric(self) -> str:
        """What tables, figures of final values and claims show: the metric, or that on the test."""
        return judged_metric(self.metric, self.trials)

    @property
    def tuned_paths(self) -> frozenset[str]:
        """What was chosen for each cell by itself: by such a value no two cells are told apart."""
        choices = Choices.of(self.info.attributes)
        return frozenset(choices.axes if choices else ())

    def importances(self) -> dict[str, Importance]:
        """Of a sampled study's parameters; empty of a grid, and where there is too little."""
        several = len(set(self.info.corpora.values())) > 1  # whose losses do not compare
        if self.store is None or several or not self.info.attributes["sampled"]:
            return {}
        older = {record.number for record in self.trials if record.is_older}
        return importances(self.store, without=older, nuisance=self.info.nuisance)

    def fronts(self) -> tuple[Front, ...]:
        """Of a search with several objectives, one a corpus; none of others."""
        if not self.info.objectives:
            return ()
        from orchestrator.report.front import fronts_of  # brings scipy's optimisers

        return fronts_of(self.trials, self.info.objectives)

    def analysis(self) -> list[Mapping[str, Any]]:
        """Rows of `analyze`, of the configurations that the study has now. Raises BadInput where a
        file of them is damaged."""
        return rows_of(read_analysis(self.home, self.info.name), self.trials)

    def judgement(self, study: Study, rows: Rows | None = None) -> Judgement:
        """What this launch says of the study's claims, with what was analysed of it: `rows`, or
        those that the home has."""
        return judge_launch(
            study,
            scale=self.info.attributes["scale"],
            records=self.trials,
            rows=self.analysis() if rows is None else rows,
            history=self.info.attributes.get(REGISTRATIONS) or (),
            losses=lambda record: losses_of(self.home, record),
        )

    def table(self, study: Study, rows: Rows | None = None) -> Table:
        """The one place in which a launch's table is made; `rows` as for `judgement`."""
        return table_of(
            self.info.study,
            self.info.name,
            self.trials,
            metric=self.judged_metric,
            best_first=self.info.attributes["sampled"],
            published=study.published,
            judgement=self.judgement(study, rows),
            fronts=self.fronts(),
            about={
                **{k: self.info.attributes.get(k) for k in ("scale", "corpus", "corpus_digest")},
                "constraints": listed(constraints_of(self.info.attributes)),
            },
            origin=self.origin_lines(),
        )

    def origin_lines(self) -> list[str]:
        """Where its points come from, if not from its study or its own search alone, and of other
        launches whether the order there is the order here, over the points that both ran."""
        lines, of = origin_lines(self.info.attributes), self.info.attributes
        climbed = [of[LADDER]["from"]] if LADDER in of else []
        for name in [*climbed, *(of.get(WARM_START) or ())]:
            other = self.store.beside(name) if self.store is not None else None
            if other is None:
                continue
            found = rank_agreement(
                self.trials, told_apart(other.records(), other.info.attributes, self.home)
            )
            told = agreement_text(found) if found else "too few points in common to tell"
            lines.append(f"Order here and in {name}: {told}.")
        return lines


def read_launch(study: str, **asked: Any) -> LaunchRecords:
    """The newest of `read_launches`, which takes the same options."""
    return next(read_launches(study, **asked))


def read_launches(
    study: str | None,
    *,
    home: Home,
    optuna_storage: str | None = None,
    scale: str | None = None,
    corpus: str | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Iterator[LaunchRecords]:
    """Launches of `study` (None: of all) that fit what is asked for, the newest first.

    Each is read as it is asked for. Raises BadInput where there is none, saying which there are.
    """
    if optuna_storage is None:
        home.require_exists()
    url = home.optuna_storage if optuna_storage is None else optuna_storage
    storage = open_storage(url, create=False)
    with trouble_named(url):
        launches = launches_in(storage)
    asked = {"scale": scale, "overrides": dict(overrides) if overrides else None}
    fitting = [
        info
        for info in launches
        if study in (None, info.study)
        and all(value is None or info.attributes[key] == value for key, value in asked.items())
        and (corpus is None or corpus in (info.attributes["corpus"], *info.corpora))
    ]
    if not fitting:
        names = ", ".join(info.name for info in launches) or "none"
        raise BadInput(
            f"status and tables read a launch that was run; received {study or 'any study'!r}, and "
            f"the launches here are: {names}. Run the study, or name its --home, --scale, --corpus "
            "and --set."
        )
    for info in reversed(fitting):
        store = OptunaTrials(storage, info)
        with trouble_named(url):
            trials = store.records()
        yield LaunchRecords.of(home, info, trials, store)
