"""Which claims, under which design and metric, stood in the record before the data did.

A launch keeps a history: an entry when it is first run, and one more whenever its study then says
something else, each with its date and the number of results that were there. Nothing is taken out.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from orchestrator.study.claims import Claim
from orchestrator.study.design import Sequential
from orchestrator.study.study import Study

AT, RESULTS, METRIC, DESIGN, CLAIMS = "at", "results", "metric", "design", "claims"
Entry = Mapping[str, Any]
History = Sequence[Entry]

BEFORE = "before the data"
_WORDS = ("statement", "of_interest")


def claim_as_json(claim: Claim) -> dict[str, Any]:
    """All that decides its verdict: its kind, cells, metric and margins, those of its parts too."""
    return {"kind": type(claim).__name__, **_plain(claim)}


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        told = {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {"kind": type(value).__name__, **told} if isinstance(value, Claim) else told
    if isinstance(value, tuple | list):
        return [_plain(one) for one in value]
    return value


def design_entry(study: Study, seeds: Sequence[int], history: History) -> dict[str, Any]:
    """The design as the record keeps it. One of the launch's own seeds is that of its first run,
    from the first that has two seeds on: what came before could have no verdict."""
    design = study.design
    if isinstance(design, Sequential):
        return {"kind": "sequential", **dataclasses.asdict(design)}
    known = [entry[DESIGN] for entry in history if _is_kin(entry[DESIGN], study)]
    if known and len(known[-1]["seeds"]) > 1:
        return {**known[-1], "alpha": design.alpha}
    number = len(seeds) if design.seeds is None else design.seeds
    chosen = [*seeds][:number]
    more = (seed for seed in range(20_000) if seed not in chosen)
    chosen += [next(more) for _ in range(number - len(chosen))]
    return {
        "kind": "fixed",
        "seeds": chosen,
        "alpha": design.alpha,
        "of_launch": design.seeds is None,
    }


def _is_kin(told: Mapping[str, Any], study: Study) -> bool:
    """Whether it is a fixed design of as many seeds as the study asks for."""
    asked = study.design.seeds
    if told["kind"] != "fixed" or told["of_launch"] != (asked is None):
        return False
    return asked is None or len(told["seeds"]) == asked


def _is_registered(told: Mapping[str, Any], study: Study) -> bool:
    if isinstance(study.design, Sequential):
        return told == {"kind": "sequential", **dataclasses.asdict(study.design)}
    return _is_kin(told, study) and told["alpha"] == study.design.alpha


def register(
    history: History, study: Study, seeds: Sequence[int], *, now: datetime, results: int
) -> list[dict[str, Any]]:
    """The history with what the study says now, where it says something new.

    `results` are the launch's complete trials, or, where these are more, those of other launches
    of the home that stand for its own: whoever made the claims may have seen them. A study that
    never claimed anything has no history.
    """
    entry = {
        AT: now.isoformat(),
        RESULTS: results,
        METRIC: study.metric,
        DESIGN: design_entry(study, seeds, history),
        CLAIMS: {claim.id: claim_as_json(claim) for claim in study.claims},
    }
    kept = [dict(one) for one in history]
    if not kept and not study.claims:
        return kept
    said = (METRIC, DESIGN, CLAIMS)
    if kept and all(kept[-1][key] == entry[key] for key in said):
        return kept
    return [*kept, entry]


def standing(history: History, claim: Claim, *, metric: str) -> str:
    """Since when a claim stands in the record as it is now, its statement's wording apart."""
    if not history:
        return "never registered"
    now = _tested(claim_as_json(claim))
    since = None
    for entry in reversed(history):
        known = entry[CLAIMS].get(claim.id)
        if known is None or _tested(known) != now or entry[METRIC] != metric:
            break
        since = entry
    if since is None:
        return "changed since the last run, and not yet registered"
    if since[RESULTS] == 0:
        return BEFORE
    first = next((e for e in history if claim.id in e[CLAIMS]), since)
    what = "added" if first is since else "changed"
    return f"{what} {since[AT][:10]}, after {since[RESULTS]} results"


def _tested(told: Any) -> Any:
    """Without what no test reads."""
    if isinstance(told, Mapping):
        return {key: _tested(value) for key, value in told.items() if key not in _WORDS}
    return [_tested(value) for value in told] if isinstance(told, list) else told


def design_remarks(history: History, study: Study) -> list[str]:
    """What a reader must know of the design's own history."""
    if not study.claims:
        return []
    if not history:
        return [
            "claims and design were not registered before the data: nothing in the record says "
            "that they were there first"
        ]
    lines = []
    first = history[0]
    if first[RESULTS]:
        lines.append(
            f"claims were registered on {first[AT][:10]}, when {first[RESULTS]} results were there "
            "already"
        )
    changes = [
        (before, after)
        for before, after in itertools.pairwise(history)
        if before[DESIGN] != after[DESIGN] and after[RESULTS]
    ]
    lines += [
        f"the design was changed on {after[AT][:10]}, after {after[RESULTS]} results"
        for _, after in changes
    ]
    if not _is_registered(history[-1][DESIGN], study):
        lines.append("the study's design is not the one that was registered when it last ran")
    gone = sorted({i for e in history for i in e[CLAIMS]} - {c.id for c in study.claims})
    if gone:
        lines.append(f"claims that were registered and are no longer made: {', '.join(gone)}")
    return lines


def tag_text(history: History, limit: int) -> str:
    """The newest entry, in a tag: claims by their ids and a digest where they are too long."""
    if not history:
        return ""
    entry = {**history[-1], "entries": len(history)}
    text = json.dumps(entry, sort_keys=True)
    if len(text) <= limit:
        return text
    exact = hashlib.sha256(json.dumps(entry[CLAIMS], sort_keys=True).encode()).hexdigest()
    return json.dumps({**entry, CLAIMS: sorted(entry[CLAIMS]), "sha256": exact})[:limit]
