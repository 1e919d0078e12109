"""What a launch would do and cost, before anything runs."""

from __future__ import annotations

import random
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moe.data.layout import read_meta
from moe.data.sources.mixed_corpora import Mixture, Obtained, obtained_parts
from moe.memory import estimate
from orchestrator.base.errors import BadInput
from orchestrator.study.corpus_notes import corpus_notes
from orchestrator.study.launch import Launch, Point
from orchestrator.study.tuning import tuning_launch
from search_spaces.space import Infeasible

_COST_SAMPLE = 64


@dataclass(frozen=True, kw_only=True)
class Given:
    """What each trial is to be given: the memory of a worker hangs on it."""

    device: str = "cpu"
    workers: int = 1
    shard: bool = False

    def peak_of(self, point: Point) -> int:
        """Bytes of a worker at its peak, estimated."""
        return estimate(
            point.config, device=self.device, workers=self.workers, shard=self.shard
        ).peak


def plan(launch: Launch, prepared: Path | None = None, given: Given = Given()) -> dict[str, Any]:
    """The JSON of `moe-study plan`. A sampled study's FLOPs are estimated, from random points.

    `prepared` is a folder of prepared tokens: what a mixture came to stands there, if it was run.
    """
    if launch.study.is_grid:
        points = sample = launch.points()
        trials, tokens, flops = _totals(points)
        estimated = False
    else:
        points = []
        sample = typical_points(launch)
        trials = _num_points(launch) * len(launch.seeds)
        _, sampled_tokens, sampled_flops = _totals(sample)
        tokens = sampled_tokens * trials // len(sample)
        flops = sampled_flops * trials // len(sample)
        estimated = True
    return {
        "study": launch.study.name,
        "scale": launch.scale,
        "seeds": list(launch.seeds),
        "trials": trials,
        "tokens_total": tokens,
        "flops_total": flops,
        "peak_memory_bytes": max(map(given.peak_of, sample)),
        "device": given.device,
        "workers": given.workers,
        "cells": [_cell(launch, cell.name, points, given) for cell in launch.cells],
        "launch": launch.name if launch.is_read else None,
        "question": launch.study.question,
        "baseline": launch.study.baseline,
        "corpus": launch.corpus_text,
        "corpus_digest": launch.corpus_digest,
        "corpora": {spec: _digest(launch, spec) for spec in launch.corpus_specs},
        "mixtures": _mixtures(launch, prepared),
        "estimated": estimated,
        "sampler": None if launch.study.is_grid else str(launch.sampler),
        "notes": corpus_notes(launch, points),
        "merged": dict(launch.merged),
    }


@dataclass(frozen=True, kw_only=True)
class TuningCost:
    """What it costs to try the values of a grid's cells. A value changes neither the tokens nor the
    FLOPs of a trial."""

    launch: str | None
    seeds: tuple[int, ...]
    trials: int
    tokens_total: int
    flops_total: int


def tuning_cost(launch: Launch) -> TuningCost | None:
    """None where the study tunes nothing."""
    if not launch.study.tune:
        return None
    tuning = tuning_launch(launch)
    trials, tokens, flops = _totals(tuning.points())
    return TuningCost(
        launch=tuning.name if launch.is_read else None,
        seeds=tuning.seeds,
        trials=trials,
        tokens_total=tokens,
        flops_total=flops,
    )


def _num_points(launch: Launch) -> int:
    """Points that a sampled launch will have: those asked for, or all where there are fewer."""
    assert launch.space is not None
    if not launch.space.is_enumerable:
        return launch.trials
    found: set[str] = set()
    for values in launch.space.points():
        with suppress(Infeasible):
            found.add(launch.sampled_point(values, launch.seeds[0]).cell_hash)
        if len(found) == launch.trials:
            break
    return len(found)


def _totals(points: list[Point]) -> tuple[int, int, int]:
    tokens = sum(point.tokens for point in points)
    flops = sum(point.tokens * point.accounting.flops_per_token for point in points)
    return len(points), tokens, flops


def _cell(launch: Launch, name: str, points: list[Point], given: Given) -> dict[str, Any]:
    own = [point for point in points if point.cell == name]
    accounting = own[0].accounting
    return {
        "cell": name,
        "overrides": dict(own[0].overrides),
        "corpus": own[0].config.data.corpus,
        "config_hash": {str(point.seed): point.config_hash for point in own},
        "params_total": accounting.params_total,
        "params_active": accounting.params_active,
        "flops_per_token": accounting.flops_per_token,
        "peak_memory_bytes": given.peak_of(own[0]),
    }


def _digest(launch: Launch, spec: str) -> str | None:
    corpus = launch.corpora.get(spec)
    return corpus.digest if corpus else None


def _mixtures(launch: Launch, tokens: Path | None) -> list[dict[str, Any]]:
    """Of each mixture the share of its text that each part was asked for, and where it is prepared
    the share of the training tokens that it came to."""
    points = launch.points_ahead()
    prepared = {point.config.data.digest: point.config.data.corpus for point in points}
    found = []
    for digest, spec in prepared.items():
        corpus = launch.corpora.get(spec)
        if corpus is None or not isinstance(corpus.source, Mixture):
            continue
        obtained: dict[str, Obtained] = {}
        if tokens is not None:
            with suppress(ValueError, OSError):  # not prepared yet
                obtained = {p.name: p for p in obtained_parts(read_meta(tokens / digest))}
        parts = [
            {
                "part": part.name,
                "spec": part.spec,
                "asked": float(part.share),
                "obtained": obtained[part.name].share if obtained else None,
                "tokens": obtained[part.name].tokens if obtained else None,
            }
            for part in corpus.source.parts
        ]
        found.append({"corpus": spec, "digest": digest, "parts": parts})
    return found


def typical_points(launch: Launch) -> list[Point]:
    """A grid's cells; of a space random points, and the base where none are found."""
    if launch.space is None:
        seed = launch.seeds[0]
        return [launch.point(cell.name, cell.overrides, seed) for cell in launch.cells]
    generator, seed = random.Random(0), launch.seeds[0]
    points: list[Point] = []
    for _ in range(20 * _COST_SAMPLE):
        with suppress(Infeasible):
            points.append(launch.sampled_point(launch.space.draw(generator), seed))
        if len(points) == _COST_SAMPLE:
            return points
    if launch.feasible_points:
        sample = generator.sample(
            launch.feasible_points, min(_COST_SAMPLE, len(launch.feasible_points))
        )
        return [launch.sampled_point(values, seed) for values in sample]
    return points or [launch.base_point()]


def write_configs(launch: Launch, folder: Path) -> list[Path]:
    """One resolved config a trial, for `python -m moe.train`. Raises BadInput if it is sampled."""
    if not launch.study.is_grid:
        raise BadInput(
            f"--write-configs needs a grid; {launch.study.name} is sampled, and its points are "
            "drawn as results arrive. Run it, and take config.json from a run's artifacts."
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        written = []
        for point in launch.points():
            path = folder / f"{point.cell}-seed{point.seed}.json"
            path.write_text(point.config.to_json())
            written.append(path)
    except OSError as error:
        raise BadInput(
            f"--write-configs names a folder that can be written; received {folder} "
            f"({error.strerror}). Name another."
        ) from None
    return written
