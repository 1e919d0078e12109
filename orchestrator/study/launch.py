"""A launch: a study at one scale, on its corpora, under one set of overrides, resolved."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from moe.accounting import Accounting, account
from moe.config import ConfigError, TrialConfig
from moe.data.corpus import Corpus
from moe.data.prepare import data_digest
from moe.identity import config_and_cell_hash
from orchestrator.base.errors import BadInput
from orchestrator.study.corpora import (
    CORPUS_PATH,
    corpus_label,
    joint_digest,
    joint_label,
)
from orchestrator.study.followed_labels import followed_labels, sequence_labels
from orchestrator.study.samplers import Auto, Gp, Sampler
from orchestrator.study.study import Study
from orchestrator.surrogate.earlier_searches import Earlier
from search_spaces.cells import Cell, readable_name
from search_spaces.overlay import overlay
from search_spaces.space import Space

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
        return self.config.train.num_tokens


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
    followed_beside: frozenset[str] = frozenset()  # by the study that its cells are tuned for
    earlier: tuple[Earlier, ...] = ()  # searches of the home that its sampler is told of
    draws: bool = True  # whether points are: not where a search is raced, or results taken in

    @property
    def is_read(self) -> bool:
        """Whether every corpus that a trial trains on could be read."""
        return set(self.corpus_specs) <= set(self.corpora)

    @property
    def sampler(self) -> Sampler:
        """Who draws points, "auto" having chosen."""
        sampler = self.study.sampler
        if self.space is None or not isinstance(sampler, Auto):
            return sampler
        return sampler.chosen_for(self.space, self.trials, len(self.seeds))

    @property
    def prior(self) -> dict[str, Any]:
        """What the study believes to be good, in the types of its axes.

        Raises ConfigError where a value is none of its axis, and where the sampler takes no prior.
        """
        if self.space is None or not self.study.prior or not self.draws:
            return {}
        if not self.sampler.takes_prior:
            raise ConfigError(
                "a prior is taken by the sampler gp, which `auto` chooses for launches of at most "
                f"{Gp.history_limit} trials; received one where {self.sampler} draws. Leave the "
                "prior out, or choose gp."
            )
        return self.space.require_within(self.study.prior)

    @property
    def is_warm_started(self) -> bool:
        """Whether its sampler is told of earlier launches; at an upper rung nothing is drawn."""
        return self.study.warm_start and self.rung_below is None and self.draws

    @property
    def rung_below(self) -> str | None:
        """The scale whose best points this launch confirms; None of a search of its own."""
        return self.study.rung_below(self.scale)

    @property
    def sampler_line(self) -> str | None:
        """Whom "auto" chose, and why; None where the study or an option names one, and where no
        point is drawn."""
        sampler = self.study.sampler
        is_drawn = self.space is not None and self.draws and not self.rung_below
        if not is_drawn or not isinstance(sampler, Auto):
            return None
        return sampler.line(self.space, self.trials, len(self.seeds))

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
        return self._base_point

    @cached_property
    def _base_point(self) -> Point:
        return self.point("base", {}, self.seeds[0])

    def points_ahead(self) -> list[Point]:
        """What can be looked at before a trial is chosen: a grid's trials, or the base points."""
        return self.points() if self.study.is_grid else self.base_points()

    def base_points(self) -> list[Point]:
        """The scale itself on each corpus that points of a sampled study may have."""
        return [self.point("base", {CORPUS_PATH: s}, self.seeds[0]) for s in self.corpus_specs]

    def point(self, cell: str, overrides: Mapping[str, Any], seed: int) -> Point:
        config = self._with_digest(overlay(self.base, {**overrides, "train.seed": seed}))
        return self._point_of(lambda cell_hash: cell, overrides, config)

    def _point_of(
        self, name: Callable[[str], str], overrides: Mapping[str, Any], config: TrialConfig
    ) -> Point:
        corpus = self.corpora.get(config.data.corpus)
        config_hash, cell_hash = config_and_cell_hash(config)
        return Point(
            cell=name(cell_hash),
            overrides=dict(overrides),
            config=config,
            config_hash=config_hash,
            cell_hash=cell_hash,
            corpus_digest=corpus.digest if corpus else None,
        )

    def sampled_point(self, values: Mapping[str, Any], seed: int) -> Point:
        """A point of the space, named by its values, and by its hash where they were shortened.

        Raises search_spaces.space.Infeasible with the reason.
        """
        assert self.space is not None
        config = self._with_digest(self.space.config(self.base, values))
        config = dataclasses.replace(config, train=dataclasses.replace(config.train, seed=seed))
        short = {k: float(f"{v:.2g}") if type(v) is float else v for k, v in values.items()}
        if CORPUS_PATH in short:
            short[CORPUS_PATH] = corpus_label(short[CORPUS_PATH], _CELL_LIMIT // 2)
        name = readable_name(short)[:_CELL_LIMIT]
        return self._point_of(lambda cell_hash: f"{name}-{cell_hash[:4]}", values, config)

    def first_points(self) -> list[Point]:
        """What the study wants tried before anything is drawn, each once, at the first seed.

        Raises ConfigError where one is none of the space, or infeasible.
        """
        if self.space is None:
            return []
        points: dict[str, Point] = {}
        for values in self.study.first:
            try:
                point = self.sampled_point(self.space.require_within(values), self.seeds[0])
            except ConfigError as error:
                raise ConfigError(f"the point first={dict(values)}: {error}") from None
            points.setdefault(point.cell_hash, point)
        return list(points.values())

    def _with_digest(self, config: TrialConfig) -> TrialConfig:
        """With the digest of its own corpus under its own tokenizer; "" where it was not read."""
        return with_digest(config, self.corpora, self.followed)

    @cached_property
    def followed(self) -> frozenset[str]:
        """Labels whose values no sequence mixes, where the corpus has them."""
        own = followed_labels(self.cells, self.base, self.space, self.study.claims)
        return own | self.labels_kept | self.followed_beside

    def with_all_labels_apart(self) -> Launch:
        """The same on tokens of version 1, of which no sequence mixes values of any label."""
        names = {name for corpus in self.corpora.values() for name in corpus.labels.names()}
        return dataclasses.replace(self, labels_kept=frozenset(names))


def with_digest(
    config: TrialConfig, corpora: Mapping[str, Corpus], followed: frozenset[str]
) -> TrialConfig:
    """With the digest of its corpus under its tokenizer, if that was read; `followed` labels are
    kept apart. Raises BadInput where the text or the tokenizer cannot be read, or is another than
    the config names."""
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
