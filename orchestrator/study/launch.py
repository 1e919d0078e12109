"""A launch: a study at one scale, on one corpus, under one set of overrides, resolved."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePath
from typing import Any

from moe.accounting import Accounting, account
from moe.config import ConfigError, TrialConfig
from moe.data.corpus import Corpus, open_corpus
from moe.data.prepare import data_digest
from moe.identity import cell_hash, config_hash
from orchestrator.base.errors import BadInput
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
_CORPUS_LIMIT = 100


@dataclass(frozen=True, kw_only=True)
class Point:
    """One trial to be: a cell at one seed."""

    cell: str
    overrides: Mapping[str, Any]
    config: TrialConfig
    config_hash: str | None
    cell_hash: str

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
    """Identity: `name`, which carries study, scale, corpus digest and overrides."""

    study: Study
    scale: str
    seeds: tuple[int, ...]
    overrides: Mapping[str, Any]
    corpus_spec: str
    corpus: Corpus | None
    unread: str | None = None  # why there is no corpus
    base: TrialConfig
    cells: tuple[Cell, ...]
    merged: Mapping[str, str]
    space: Space | None
    trials: int
    labels_kept: frozenset[str] = frozenset()  # kept apart though the study follows them not

    @property
    def corpus_digest(self) -> str | None:
        return self.corpus.digest if self.corpus else None

    @property
    def name(self) -> str:
        digest = (self.corpus_digest or "unread")[:8]
        return launch_name(self.study.name, self.scale, self.corpus_spec, digest, self.overrides)

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

    def point(self, cell: str, overrides: Mapping[str, Any], seed: int) -> Point:
        config = self._with_digest(overlay(self.base, {**overrides, "train.seed": seed}))
        return Point(
            cell=cell,
            overrides=dict(overrides),
            config=config,
            config_hash=config_hash(config) if config.data.digest else None,
            cell_hash=cell_hash(config),
        )

    def sampled_point(self, values: Mapping[str, Any], seed: int) -> Point:
        """A point of the space, named by its values, and by its hash where they were shortened.

        Raises search_spaces.space.Infeasible with the reason.
        """
        assert self.space is not None
        config = self._with_digest(self.space.config(self.base, values))
        short = {k: float(f"{v:.2g}") if type(v) is float else v for k, v in values.items()}
        name = f"{readable_name(short)[:_CELL_LIMIT]}-{cell_hash(config)[:4]}"
        return self.point(name, values, seed)

    def _with_digest(self, config: TrialConfig) -> TrialConfig:
        if self.corpus is None:
            return config
        data = dataclasses.replace(config.data, corpus=self.corpus_spec)
        try:
            labels = sequence_labels(data, self._followed_labels, self.corpus)
            data = dataclasses.replace(data, sequence_labels=labels)
            data = dataclasses.replace(data, digest=data_digest(data, self.corpus))
        except ConfigError:
            raise
        except (ValueError, OSError) as error:  # a row of the corpus, or the tokenizer's file
            raise BadInput(str(error)) from None
        return dataclasses.replace(config, data=data)

    @cached_property
    def _followed_labels(self) -> frozenset[str]:
        followed = followed_labels(self.cells, self.base, self.space, self.study.claims)
        return followed | self.labels_kept

    def with_all_labels_apart(self) -> Launch:
        """The same on tokens of version 1, of which no sequence mixes values of any label."""
        names = self.corpus.labels.names() if self.corpus else ()
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
        """Raises BadInput where a router, or data.sequence_labels, asks for a label that the corpus
        does not have."""
        if self.corpus is None:
            return
        labels = self.corpus.labels
        for point in points:
            moe = point.config.moe
            if moe.follows_labels and not labels.has(moe.label_column):
                raise BadInput(
                    f"a label router needs a label column of the corpus; cell {point.cell} asks "
                    f"for {moe.label_column!r}, and {self.corpus_spec} has "
                    f"{', '.join(labels.names()) or 'none'}. Set moe.label_column to "
                    "one of these, or use another corpus."
                )
            for column in point.config.data.sequence_label_columns:
                if not labels.has(column):
                    raise BadInput(
                        "data.sequence_labels names label columns of the corpus, joined by +; "
                        f"received {column!r}, and {self.corpus_spec} has "
                        f"{', '.join(labels.names()) or 'none'}. Name one of these, or none."
                    )


def launch_name(
    study: str, scale: str, corpus_spec: str, digest: str, overrides: Mapping[str, Any]
) -> str:
    kind, _, rest = corpus_spec.partition(":")
    corpus = f"{kind}:{PurePath(rest).name}" if rest else kind
    # Cut: MLflow takes names of 500 characters, Optuna 512. The digest tells corpora apart.
    corpus = re.sub(r"[^A-Za-z0-9_.:,*-]", "_", corpus)[:_CORPUS_LIMIT]
    name = f"{study}/{scale}/{corpus}@{digest}"
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
        study.require_cells_of_claims(scale)
        # Before the cells are made: a label router's column is one that this corpus has.
        spec = study.scales[scale].data.corpus if corpus_spec is None else corpus_spec
        start = overlay(study.scales[scale], {"data.corpus": spec})
        base = overlay(start, overrides)
        cells, merged = _merge_equal(study.cells_over(base), base)
        space = _with_metric(study, study.space_over(base))
        _refuse_idle(study, start, overrides, cells, space)
        corpus = unread = None
        try:
            corpus = open_corpus(spec)
        except (ValueError, OSError) as error:
            if need_corpus:
                raise BadInput(str(error)) from None
            unread = str(error)
        launch = Launch(
            study=study,
            scale=scale,
            seeds=tuple(seeds if seeds is not None else study.seeds_at(scale)),
            overrides=overrides,
            corpus_spec=spec,
            corpus=corpus,
            unread=unread,
            base=base,
            cells=cells,
            merged=merged,
            space=space,
            trials=trials or study.trials,
        )
        if space is not None:
            space.check(base)
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
    cells: Sequence[Cell], base: TrialConfig
) -> tuple[tuple[Cell, ...], dict[str, str]]:
    """Cells that are the same run over this base (all experts chosen: dense-active is dense-total)
    become one, under the first one's name; the others' names, with the one that stands for them."""
    kept: dict[tuple[str, ...], Cell] = {}
    merged = {}
    for cell in cells:
        key = _trained_as(cell.config(base))
        if key in kept:
            merged[cell.name] = kept[key].name
        else:
            kept[key] = cell
    return tuple(kept.values()), merged


def _trained_as(config: TrialConfig) -> tuple[str, ...]:
    """What a config trains while its tokens' digest is unknown: where they come from stands for
    it, which no hash holds."""
    data = config.data
    return cell_hash(config), data.corpus, data.tokenizer, "+".join(data.sequence_label_columns)


def _refuse_idle(
    study: Study,
    base: TrialConfig,
    overrides: Mapping[str, Any],
    cells: Sequence[Cell],
    space: Space | None,
) -> None:
    """An override that changes no trial would promise a difference that the table does not have."""
    trained = [_trained_as(cell.config(overlay(base, overrides))) for cell in cells]
    for path in overrides:
        if space is not None:
            idle = path in space.axes
        else:
            try:
                rest = overlay(base, {p: v for p, v in overrides.items() if p != path})
                without = [_trained_as(cell.config(rest)) for cell in study.cells_over(rest)]
            except ConfigError:
                continue  # the others need this one, so it is not idle
            idle = trained == without and get(base, path) != overrides[path]
        if idle:
            raise BadInput(
                f"--set changes what a study holds fixed; {path} is what this study varies, so "
                "setting it would change no trial. Leave it out, or write a study of your own."
            )


def mlflow_params(config: TrialConfig) -> dict[str, str]:
    return {path: str(value) for path, value in flatten(config).items()}
