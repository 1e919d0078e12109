"""A launch: a study at one scale, on its corpora, under one set of overrides, resolved."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from moe.accounting import Accounting, account
from moe.config import ConfigError, TrialConfig
from moe.data.corpus import Corpus
from moe.data.prepare import data_digest
from moe.identity import cell_hash, config_hash
from orchestrator.base.errors import BadInput
from orchestrator.study.corpora import (
    CORPUS_PATH,
    corpora_of,
    corpus_label,
    joint_digest,
    joint_label,
    opened_corpora,
)
from orchestrator.study.followed_labels import followed_labels, sequence_labels
from orchestrator.study.study import Study
from search_spaces.cells import Cell, readable_name
from search_spaces.overlay import flatten, get, overlay
from search_spaces.space import Rule, Space

# What another option of the command line sets.
_RESERVED = {
    "train.seed": "--seeds",
    "data.corpus": "--corpus",
    "data.digest": "--corpus",
}
_NEEDED = {"experts": "experts", "scores": "a router that scores experts"}
_NAME_LIMIT = 120
_CELL_LIMIT = 90


@dataclass(frozen=True, kw_only=True)
class Point:
    """One trial to be: a cell at one seed."""

    cell: str
    overrides: Mapping[str, Any]
    config: TrialConfig
    config_hash: str | None
    cell_hash: str
    corpus_digest: str | None = None

    @property
    def seed(self) -> int:
        return self.config.train.seed

    @property
    def accounting(self) -> Accounting:
        return account(self.config)

    @property
    def tokens(self) -> int:
        return self.config.train.num_steps * self.config.train.batch_tokens


@dataclass(frozen=True, kw_only=True)
class Launch:
    """Identity: `name`, which carries study, scale, corpora and overrides.

    `corpus_spec` is the corpus of every cell that names none; `corpus_specs` are those that trials
    train on, and `corpora` holds those of them that could be read.
    """

    study: Study
    scale: str
    seeds: tuple[int, ...]
    overrides: Mapping[str, Any]
    corpus_spec: str
    corpus_specs: tuple[str, ...]
    corpora: Mapping[str, Corpus]
    unread: Mapping[str, str] = field(default_factory=dict)  # why a spec has no corpus
    base: TrialConfig
    cells: tuple[Cell, ...]
    merged: Mapping[str, str]
    space: Space | None
    trials: int
    labels_kept: frozenset[str] = frozenset()  # kept apart though the study follows them not

    @property
    def is_read(self) -> bool:
        """Whether every corpus that a trial trains on could be read."""
        return set(self.corpus_specs) <= set(self.corpora)

    @property
    def has_corpora(self) -> bool:
        """Whether trials train on different text, so that their losses do not compare."""
        if self.is_read:
            return len({corpus.digest for corpus in self.corpora.values()}) > 1
        return len(self.corpus_specs) > 1

    @property
    def searched_corpora(self) -> tuple[str, ...]:
        """Those that points of a sampled study choose from; none where they have one."""
        varied = self.space is not None and CORPUS_PATH in self.space.axes
        return self.corpus_specs if varied else ()

    @property
    def corpus_digest(self) -> str | None:
        """Of the one corpus, or of all together; None where one was not read."""
        if not self.is_read:
            return None
        return joint_digest([self.corpora[spec].digest for spec in self.corpus_specs])

    @property
    def corpus_text(self) -> str:
        """Its corpora, for people."""
        return ", ".join(self.corpus_specs)

    @property
    def corpus_option(self) -> str | None:
        """What `--corpus` is to say for this launch to come about again; None where nothing."""
        named = (CORPUS_PATH in cell.overrides for cell in self.cells)
        varied = all(named) if self.space is None else CORPUS_PATH in self.space.axes
        if varied and self.corpus_spec == self.study.scales[self.scale].data.corpus:
            return None
        return self.corpus_spec

    @property
    def name(self) -> str:
        digest = (self.corpus_digest or "unread")[:8]
        label = joint_label(self.corpus_specs)
        return launch_name(self.study.name, self.scale, label, digest, self.overrides)

    def points(self) -> list[Point]:
        """The grid's trials, seed-major: every cell has one result before any has two."""
        return [
            self.point(cell.name, cell.overrides, seed)
            for seed in self.seeds
            for cell in self.cells
        ]

    @cached_property
    def feasible_points(self) -> list[dict[str, Any]] | None:
        """Values of every feasible point of a space that can be enumerated, else None."""
        return self.space.feasible_points(self.base) if self.space else None

    def base_point(self) -> Point:
        """The scale itself: what a sampled study's points are changes of."""
        return self.point("base", {}, self.seeds[0])

    def base_points(self) -> list[Point]:
        """The scale itself on each corpus that points of a sampled study may have."""
        return [self.point("base", {CORPUS_PATH: s}, self.seeds[0]) for s in self.corpus_specs]

    def point(self, cell: str, overrides: Mapping[str, Any], seed: int) -> Point:
        config = self._with_digest(overlay(self.base, {**overrides, "train.seed": seed}))
        corpus = self.corpora.get(config.data.corpus)
        return Point(
            cell=cell,
            overrides=dict(overrides),
            config=config,
            config_hash=config_hash(config) if config.data.digest else None,
            cell_hash=cell_hash(config),
            corpus_digest=corpus.digest if corpus else None,
        )

    def sampled_point(self, values: Mapping[str, Any], seed: int) -> Point:
        """A point of the space, named by its values, and by its hash where they were shortened.

        Raises search_spaces.space.Infeasible with the reason.
        """
        assert self.space is not None
        config = self._with_digest(self.space.config(self.base, values))
        short = {k: float(f"{v:.2g}") if type(v) is float else v for k, v in values.items()}
        if CORPUS_PATH in short:
            short[CORPUS_PATH] = corpus_label(short[CORPUS_PATH], _CELL_LIMIT // 2)
        name = f"{readable_name(short)[:_CELL_LIMIT]}-{cell_hash(config)[:4]}"
        return self.point(name, values, seed)

    def first_points(self) -> list[Point]:
        """What the study wants tried before anything is drawn, each once, at the first seed.

        Raises ConfigError where one is none of the space, or infeasible.
        """
        if self.space is None:
            return []
        points: dict[str, Point] = {}
        for values in self.study.first:
            point = self.sampled_point(self.space.require_within(values), self.seeds[0])
            points.setdefault(point.cell_hash, point)
        return list(points.values())

    def _with_digest(self, config: TrialConfig) -> TrialConfig:
        """With the digest of its own corpus under its own tokenizer; "" where it was not read."""
        return _with_digest(config, self.corpora, self._followed_labels)

    @cached_property
    def _followed_labels(self) -> frozenset[str]:
        followed = followed_labels(self.cells, self.base, self.space, self.study.claims)
        return followed | self.labels_kept

    def with_all_labels_apart(self) -> Launch:
        """The same on tokens of version 1, of which no sequence mixes values of any label."""
        names = {name for corpus in self.corpora.values() for name in corpus.labels.names()}
        return dataclasses.replace(self, labels_kept=frozenset(names))

    def require_metric(self) -> None:
        """Raises BadInput where a cell's trials would not have the metric that they are judged by.

        A sampled study's space has a rule instead.
        """
        measure = self.study.measure
        for cell in self.cells:
            if not measure.is_measured(cell.config(self.base).moe):
                raise BadInput(
                    f"every cell has the metric of its study; {measure.name} is of runs with "
                    f"{_NEEDED[measure.needs]}, and cell {cell.name} is none. Leave it out, or "
                    "choose another metric, and claim this one where it is measured."
                )

    def require_feasible_on_corpus(self, points: Sequence[Point]) -> None:
        """Raises BadInput where a router, or data.sequence_labels, asks for a label that its corpus
        does not have."""
        for point in points:
            moe, corpus = point.config.moe, self.corpora.get(point.config.data.corpus)
            if point.config.data.text_column != self.base.data.text_column:
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


def _with_digest(
    config: TrialConfig, corpora: Mapping[str, Corpus], followed: frozenset[str]
) -> TrialConfig:
    corpus = corpora.get(config.data.corpus)
    if corpus is None:
        return config
    try:
        labels = sequence_labels(config.data, followed, corpus)
        data = dataclasses.replace(config.data, sequence_labels=labels)
        digest = data_digest(data, corpus)
    except ConfigError:
        raise
    except (ValueError, OSError) as error:  # a row of the corpus, or the tokenizer's file
        raise BadInput(str(error)) from None
    if config.data.digest not in ("", digest):
        raise BadInput(
            "data.digest is computed from the corpus, its tokenizer and its split, and a config "
            f"that names one has that text and no other; received {config.data.digest}, where "
            f"{config.data.corpus} has {digest}. Leave it out, or restore the text."
        )
    return dataclasses.replace(config, data=dataclasses.replace(data, digest=digest))


def launch_name(
    study: str, scale: str, corpus: str, digest: str, overrides: Mapping[str, Any]
) -> str:
    """`corpus` is a CORPUS SPEC, or the label of several."""
    # Cut: MLflow takes names of 500 characters, Optuna 512. The digest tells corpora apart.
    name = f"{study}/{scale}/{corpus_label(corpus)}@{digest}"
    if overrides:
        text = ",".join(f"{path}={value}" for path, value in sorted(overrides.items()))
        if len(text) > _NAME_LIMIT:
            exact = hashlib.sha256(json.dumps(dict(overrides), sort_keys=True).encode())
            text = f"{text[:_NAME_LIMIT]}~{exact.hexdigest()[:8]}"
        name += f"/{text}"
    return name


def resolve(
    study: Study,
    *,
    scale: str | None = None,
    seeds: Sequence[int] | None = None,
    overrides: Mapping[str, Any] | None = None,
    corpus_spec: str | None = None,
    trials: int | None = None,
    need_corpus: bool = True,
) -> Launch:
    """Everything that a launch will do, before anything is created.

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
    try:
        # Before the cells are made: a label router's column is one that this corpus has.
        default = study.scales[scale].data.corpus
        spec = default if corpus_spec is None else corpus_spec
        start = overlay(study.scales[scale], {CORPUS_PATH: spec})
        base = overlay(start, overrides)
        study.require_cells_of_claims(scale)
        space = _with_metric(study, study.space_over(base))
        cells = study.cells_over(base)
        study.require_comparable_claims(cells, base)
        specs = corpora_of(base, cells, space)
        if corpus_spec == default and spec not in specs:
            raise BadInput(_idle_message("--corpus", CORPUS_PATH))
        _refuse_idle(study, study.scales[scale], spec, overrides, cells, space)
        corpora, unread = opened_corpora(specs, base.data.text_column)
        if unread and need_corpus:
            raise BadInput(next(iter(unread.values())))
        followed = followed_labels(cells, base, space, study.claims)
        cells, merged = _merge_equal(cells, base, corpora, followed)
        launch = Launch(
            study=study,
            scale=scale,
            seeds=tuple(seeds if seeds is not None else study.seeds_at(scale)),
            overrides=overrides,
            corpus_spec=spec,
            corpus_specs=specs,
            corpora=corpora,
            unread=unread,
            base=base,
            cells=cells,
            merged=merged,
            space=space,
            trials=trials or study.trials,
        )
        if space is not None:
            space.check(base)
            launch.first_points()
            launch.require_feasible_on_corpus([launch.base_point()])
        else:
            launch.require_metric()
            launch.require_feasible_on_corpus(launch.points())
    except ConfigError as error:
        raise BadInput(f"study {study.name} at scale {scale}: {error}") from None
    return launch


def _with_metric(study: Study, space: Space | None) -> Space | None:
    """The space without the points whose runs would not have the study's metric."""
    measure = study.measure
    if space is None or not measure.needs:
        return space
    rule = Rule(
        holds=lambda config: measure.is_measured(config.moe),
        reason=f"{measure.name} is of runs with {_NEEDED[measure.needs]}",
    )
    return dataclasses.replace(space, rules=(*space.rules, rule))


def _merge_equal(
    cells: Sequence[Cell],
    base: TrialConfig,
    corpora: Mapping[str, Corpus],
    followed: frozenset[str],
) -> tuple[tuple[Cell, ...], dict[str, str]]:
    """Cells that are the same run over this base (all experts chosen: dense-active is dense-total;
    two corpora of the same text) become one, under the first one's name; the others' names, with
    the one that stands for them."""
    kept: dict[tuple[str, ...], Cell] = {}
    merged = {}
    for cell in cells:
        config = _with_digest(cell.config(base), corpora, followed)
        key = (cell_hash(config),) if config.data.digest else _trained_as(config)
        if key in kept:
            merged[cell.name] = kept[key].name
        else:
            kept[key] = cell
    return tuple(kept.values()), merged


def _trained_as(config: TrialConfig) -> tuple[str, ...]:
    """What a config trains while its tokens' digest is unknown: where they come from stands for
    it, which no hash holds."""
    data = config.data
    labels = "+".join(data.sequence_label_columns)
    return cell_hash(config), data.corpus, data.text_column, data.tokenizer, labels


def _refuse_idle(
    study: Study,
    scale: TrialConfig,
    corpus_spec: str,
    overrides: Mapping[str, Any],
    cells: Sequence[Cell],
    space: Space | None,
) -> None:
    """An override, or a corpus, that changes no trial would promise a difference that the table
    does not have."""
    given = {**overrides, CORPUS_PATH: corpus_spec}
    trained = [_trained_as(cell.config(overlay(scale, given))) for cell in cells]
    for path, value in given.items():
        if value == get(scale, path):
            idle = space is not None and path in space.axes and path != CORPUS_PATH
        elif space is not None:
            idle = path in space.axes
        else:
            try:
                rest = overlay(scale, {p: v for p, v in given.items() if p != path})
                without = [_trained_as(cell.config(rest)) for cell in study.cells_over(rest)]
            except ConfigError:
                continue  # the others need this one, so it is not idle
            idle = trained == without
        if idle:
            option = "--corpus" if path == CORPUS_PATH else "--set"
            raise BadInput(_idle_message(option, path))


def _idle_message(option: str, path: str) -> str:
    return (
        f"{option} changes what a study holds fixed; {path} is what this study varies, so setting "
        "it would change no trial. Leave it out, or write a study of your own."
    )


def mlflow_params(config: TrialConfig) -> dict[str, str]:
    return {path: str(value) for path, value in flatten(config).items()}
