"""Resolving a study over one scale, its corpora and overrides: everything that can be refused is
refused here, before anything is created."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from moe.config import ConfigError, TrialConfig
from orchestrator.base.errors import BadInput
from orchestrator.study.corpora import CORPUS_PATH, corpora_of, opened_corpora
from orchestrator.study.drawable import require_drawable
from orchestrator.study.followed_labels import followed_labels
from orchestrator.study.launch import Launch, Point
from orchestrator.study.measured import require_measured, with_metrics
from orchestrator.study.merged_cells import merge_equal, trained_as
from orchestrator.study.samplers import as_sampler
from orchestrator.study.study import Study
from orchestrator.study.tuning import require_tuning, trained_cells
from search_spaces.domains import Choice
from search_spaces.overlay import get, overlay
from search_spaces.space import Space

# What another option of the command line sets.
_RESERVED = {
    "train.seed": "--seeds",
    "data.corpus": "--corpus",
    "data.digest": "--corpus",
}


def resolve(
    study: Study,
    *,
    scale: str | None = None,
    seeds: Sequence[int] | None = None,
    overrides: Mapping[str, Any] | None = None,
    corpus_spec: str | None = None,
    trials: int | None = None,
    sampler: str | None = None,
    warm_start: bool = False,
    need_corpus: bool = True,
    draws: bool = True,
) -> Launch:
    """Everything that a launch will do, before anything is created.

    Without `draws` no point is drawn (`recommend` races those that are there), so that nothing is
    asked of the sampler: another may have drawn them, by an option of `run`.

    Raises BadInput on an unknown scale, a reserved or idle override, an infeasible cell or space,
    and (with `need_corpus`) a corpus that cannot be read.
    """
    scale = scale or study.default_scale
    if scale not in study.scales:
        raise BadInput(
            f"study {study.name} has the scales {', '.join(study.scales)}; received {scale!r}. "
            "Choose one with --scale."
        )
    overrides = dict(overrides or {})
    for path, option in _RESERVED.items():
        if path in overrides:
            raise BadInput(f"{path} is not set with --set; received {path}. Use {option}.")
    if trials is not None and study.is_grid:
        raise BadInput(
            f"--trials is for sampled studies, and {study.name} is a grid whose cells are all run; "
            f"received {trials}. Leave it out."
        )
    if sampler is not None:
        study = _with_sampler(study, sampler, scale)
    if warm_start:
        study = _warm_started(study, scale)
    asked_points = study.trials
    if study.rung_below(scale) is not None:
        # Nothing is drawn there: points come from the rung below, and are trained to their end.
        study = dataclasses.replace(study, first=(), prior={}, early_stopping=None)
        asked_points = study.ladder_points
    try:
        # Before the cells are made: a label router's column is one that this corpus has.
        default = study.scales[scale].data.corpus
        spec = default if corpus_spec is None else corpus_spec
        start = overlay(study.scales[scale], {CORPUS_PATH: spec})
        base = overlay(start, overrides)
        study.require_cells_of_claims(scale)
        space = with_metrics(study, study.space_over(base))
        cells = study.cells_over(base)
        study.require_comparable_claims(cells, base)
        asked_seeds = tuple(seeds if seeds is not None else study.seeds_at(scale))
        require_tuning(study, base, asked_seeds)
        specs = corpora_of(base, cells, space)
        if corpus_spec == default and spec not in specs:
            raise BadInput(_idle_message("--corpus", CORPUS_PATH))
        _refuse_idle(study, study.scales[scale], spec, overrides, space)
        corpora, unread = opened_corpora(specs, base.data.text_column)
        if unread and need_corpus:
            raise BadInput(next(iter(unread.values())))
        followed = followed_labels(cells, base, space, study.claims)
        cells, merged = merge_equal(cells, base, corpora, followed, study.tuned_over(base))
        launch = Launch(
            study=study,
            scale=scale,
            seeds=asked_seeds,
            overrides=overrides,
            corpus_spec=spec,
            corpus_specs=specs,
            corpora=corpora,
            unread=unread,
            base=base,
            cells=cells,
            merged=merged,
            space=space,
            trials=trials or asked_points,
            draws=draws,
        )
        _require_axes_of_rule(launch)
        if space is not None:
            space.check(base)
            launch.first_points()
            _ = launch.prior  # refused here, before anything is created
            _require_warm_start(launch)
            if draws and launch.rung_below is None:
                names = study.objectives or [study.metric]
                require_drawable(launch.sampler, space, names)
            _require_one_text(launch)
            _require_feasible_on_corpus(launch, [launch.base_point()])
        else:
            _require_feasible_on_corpus(launch, launch.points())
        require_measured(launch)
    except ConfigError as error:
        raise BadInput(f"study {study.name} at scale {scale}: {error}") from None
    return launch


def _with_sampler(study: Study, name: str, scale: str) -> Study:
    if study.is_grid:
        raise BadInput(
            f"--sampler is for sampled studies, and {study.name} is a grid whose cells are all "
            f"run; received {name!r}. Leave it out."
        )
    _require_search(study, scale, f"--sampler {name}")
    try:
        return dataclasses.replace(study, sampler=as_sampler(name))
    except ValueError as error:
        raise BadInput(f"--sampler: {error}") from None


def _warm_started(study: Study, scale: str) -> Study:
    if study.is_grid:
        raise BadInput(
            f"--warm-start is for sampled studies, and {study.name} is a grid whose cells are all "
            "run. Leave it out."
        )
    _require_search(study, scale, "--warm-start")
    try:
        return dataclasses.replace(study, warm_start=True)
    except ValueError as error:
        raise BadInput(f"--warm-start: {error}") from None


def _require_search(study: Study, scale: str, option: str) -> None:
    """Raises BadInput where an option is about drawing, at a scale where nothing is drawn."""
    if (below := study.rung_below(scale)) is not None:
        raise BadInput(
            f"at an upper rung of a ladder nothing is drawn: its points are the best of the rung "
            f"below; received {option} with --scale {scale} of {study.name}. Leave it out, or "
            f"search with it at --scale {below}."
        )


def _refuse_idle(
    study: Study,
    scale: TrialConfig,
    corpus_spec: str,
    overrides: Mapping[str, Any],
    space: Space | None,
) -> None:
    """An override, or a corpus, that changes no trial would promise a difference that the table
    does not have."""
    given = {**overrides, CORPUS_PATH: corpus_spec}
    trained = _all_trained(study, overlay(scale, given))
    for path, value in given.items():
        if value == get(scale, path):
            idle = space is not None and path in space.axes and path != CORPUS_PATH
        elif space is not None:
            idle = path in space.axes
        else:
            try:
                rest = overlay(scale, {p: v for p, v in given.items() if p != path})
                without = _all_trained(study, rest)
            except ConfigError:
                continue  # the others need this one, so it is not idle
            idle = trained == without
        if idle:
            option = "--corpus" if path == CORPUS_PATH else "--set"
            raise BadInput(_idle_message(option, path))


def _all_trained(study: Study, base: TrialConfig) -> list[tuple[str, ...]]:
    return [trained_as(cell.config(base)) for cell in trained_cells(study, base)]


def _idle_message(option: str, path: str) -> str:
    return (
        f"{option} changes what a study holds fixed; {path} is what this study varies, so setting "
        "it would change no trial. Leave it out, or write a study of your own."
    )


def _require_axes_of_rule(launch: Launch) -> None:
    """Raises BadInput where early stopping looks at what is no number, or does not move."""
    rule = launch.study.early_stopping
    moved: dict[str, list[Any]] = {}
    for path, domain in launch.space.axes.items() if launch.space else ():
        moved[path] = list(domain.values) if isinstance(domain, Choice) else [domain.low]
    for cell in launch.cells:
        for path, value in cell.overrides.items():
            moved.setdefault(path, []).append(value)
    numbers = [p for p, of in moved.items() if all(type(v) in (int, float) for v in of)]
    for path in rule.axes if rule else ():
        if path not in numbers:
            raise BadInput(
                "the band of early stopping is of axes of numbers that the study varies; received "
                f"{path!r}. Choose from {', '.join(numbers) or 'none: leave it out'}."
            )


def _require_warm_start(launch: Launch) -> None:
    """Raises BadInput where the sampler cannot be told of other launches."""
    if launch.is_warm_started and not launch.sampler.takes_earlier:
        raise BadInput(
            "a warm start is taken by the samplers gp and tpe, which learn from trials of others; "
            f"received one where {launch.sampler} draws. Leave the warm start out, or choose one "
            "of these."
        )


def _require_one_text(launch: Launch) -> None:
    """Raises BadInput where points of several texts would be set against another launch."""
    what = "a warm start" if launch.is_warm_started else "a rung of a ladder"
    if launch.searched_corpora and (launch.is_warm_started or launch.rung_below):
        raise BadInput(
            f"{what} is of a search on one text, since losses on different ones do not compare; "
            f"received one over {launch.corpus_text}. Leave it out, or search each text by itself: "
            "--corpus SPEC."
        )


def _require_feasible_on_corpus(launch: Launch, points: Sequence[Point]) -> None:
    """Raises BadInput where a router, or data.sequence_labels, asks for a label that its corpus
    does not have."""
    for point in points:
        moe, corpus = point.config.moe, launch.corpora.get(point.config.data.corpus)
        if point.config.data.text_column != launch.base.data.text_column:
            raise BadInput(
                "the text of a launch is one column of its corpora; cell "
                f"{point.cell} has data.text_column={point.config.data.text_column!r}. Set it "
                "for all: --set data.text_column=NAME."
            )
        if corpus is None:
            continue
        labels = corpus.labels
        if moe.follows_labels and not labels.has(moe.label_column):
            raise BadInput(
                f"a label router needs a label column of the corpus; cell {point.cell} asks "
                f"for {moe.label_column!r}, and {corpus.spec} has "
                f"{', '.join(labels.names()) or 'none'}. Set moe.label_column to "
                "one of these, or use another corpus."
            )
        for column in point.config.data.sequence_label_columns:
            if not labels.has(column):
                raise BadInput(
                    "data.sequence_labels names label columns of the corpus, joined by +; "
                    f"received {column!r}, and {corpus.spec} has "
                    f"{', '.join(labels.names()) or 'none'}. Name one of these, or none."
                )
