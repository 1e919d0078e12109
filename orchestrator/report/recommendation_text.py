"""A recommendation in words and tables, from the JSON that its launch keeps: the same on a
terminal, on the report's page and among the results, where the study's space is not at hand."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

Told = Mapping[str, Any]  # Recommendation.as_json

FINALIST_HEADINGS = (
    "finalist",
    "looked like",
    "race mean",
    "seeds",
    "behind the winner",
    "interval",
    "how it ended",
)
EFFECT_HEADINGS = ("instead of the recommended", "would cost (below 0: gain)", "95% interval")
AXIS_HEADINGS = (
    "axis",
    "recommended",
    "believed best",
    "leaving it costs at least (below 0: gains)",
    "95% interval",
    "for",
)


def lines_of(told: Told) -> list[str]:
    """For people: the answer first."""
    winner = told["winner"]
    if winner is None and told["is_over"]:
        return [f"nothing is recommended: {told['nothing_because']}"]
    if winner is None:
        left = sum(one["why"] == "in the race" for one in told["finalists"])
        return [f"the race goes on: {left} of {len(told['finalists'])} points are left"]
    found = [
        f"recommended: {winner['cell']} ({_values(winner['params'])})",
        _how_good(told["metric"], winner, _seeds_of(told, winner["cell"])),
        _beside(told),
    ]
    if leaking := told.get("not_causal"):
        found.append(_leak_line(winner["cell"], leaking))
    if ends := told.get("at_ends"):
        found.append(_ends_line(winner["params"], ends))
    return [*found, *_effect_lines(told)]


def _how_good(metric: str, winner: Told, race_seeds: int) -> str:
    looked = f"it looked like {winner['chosen_at']:.4f} when it was chosen"
    raced = f"{winner['race_mean']:.4f} over {race_seeds} seeds of the race"
    sure = winner["confirmed"]
    if sure is None:
        return f"{metric}: {looked}, {raced}; not confirmed yet"
    if sure["ci_low"] is None:
        return f"{sure['metric']}: {sure['mean']:.4f} at one fresh seed; {looked}"
    return (
        f"{sure['metric']}: {sure['mean']:.4f} [{sure['ci_low']:.4f}, {sure['ci_high']:.4f}] over "
        f"{sure['n']} seeds that nothing was chosen by; on {metric} {looked}, {raced}"
    )


def _leak_line(winner: str, leaking: Sequence[str]) -> str:
    """A search goes to where later tokens tell a router what is to come, if its space lets it."""
    who = "the recommended point" if winner in leaking else f"of the finalists {', '.join(leaking)}"
    verb = "is" if winner in leaking or len(leaking) == 1 else "are"
    return (
        f"not causal: {who} {verb} routed by what stands later in a text, which no model that "
        "writes it can know; such a loss compares with others of its kind only. A space without it "
        "routes sequences by a prefix: moe.sequence_representation=prefix, train.loss_start"
    )


def _ends_line(params: Mapping[str, Any], ends: Mapping[str, Sequence[Any]]) -> str:
    """The best of a domain may be the best of what was asked alone."""
    said = ", ".join(
        f"{path}={_short(params[path])} ({_short(low)} to {_short(high)})"
        for path, (low, high) in ends.items()
    )
    return (
        f"at an end of what was searched: {said}; what lies beyond was not tried. A study of "
        "another name, with wider domains, asks for it"
    )


def _beside(told: Told) -> str:
    others = [one for one in told["finalists"] if one["cell"] in told["not_told_apart"]]
    if not others:
        return f"every other finalist is decided against, at {told['alpha']:.0%} of all races"
    named = ", ".join(map(_named, others))
    return f"cannot be told apart from it at {told['alpha']:.0%} of all races: {named}"


def _named(one: Told) -> str:
    if one["difference"] is None:
        return f"{one['cell']} (no two seeds in common)"
    return f"{one['cell']} ({one['difference']:+.4f} over {one['n']} seeds)"


def _seeds_of(told: Told, cell: str) -> int:
    return next(one["n"] for one in told["finalists"] if one["cell"] == cell)


def _effect_lines(told: Told) -> Iterator[str]:
    """What is told of each axis; then of its other values and of pairs those whose intervals leave
    out nothing."""
    said = {(one["path"], one["leaving_for"]) for one in _axes(told)}
    others = [one for one in told["effects"] if (one["path"], one["value"]) not in said]
    clear = [one for one in others if _is_clear(one)]
    pairs = [one for one in told["interactions"] if _is_clear(one)]
    yield from _axis_lines(told)
    for one in clear:
        yield f"{_change(one)} would {_cost_or_gain(one)}"
    for one in pairs:
        yield f"{_change(one)} together would {_cost_or_gain(one)} beside what each does by itself"
    if unclear := len(others) - len(clear):
        yield f"of {unclear} of the other values of axes the cost cannot be told from none"
    if unclear_pairs := len(told["interactions"]) - len(pairs):
        yield f"of {unclear_pairs} pairs of values what they do together is not told from the sum"
    if told["effects_left_out"]:
        yield f"not told: {told['effects_left_out']}"


def _axis_lines(told: Told) -> Iterator[str]:
    """Of each axis, the one that is dearest to leave first."""
    for one in sorted(_axes(told), key=lambda one: -one["cost"]):
        value, best, other = (_short(one[key]) for key in ("value", "best", "leaving_for"))
        believed = "believed best" if best == value else f"though {best} is believed best"
        yield f"{one['path']}={value}, {believed}: {other} instead would {_cost_or_gain(one)}"


def _axes(told: Told) -> Sequence[Told]:
    """None in what was kept before 2026-11-27."""
    return told.get("axes") or ()


def _is_clear(one: Told) -> bool:
    return one["low"] > 0 or one["high"] < 0


def _change(one: Told) -> str:
    first = f"{one['path']}={_short(one['value'])}"
    return f"{first} and {one['other']}={_short(one['other_value'])}" if one["other"] else first


def _cost_or_gain(one: Told) -> str:
    """What follows "would": a cost that is clearly below 0 is a gain. One that cannot be told from
    none keeps its signs."""
    cost, low, high = one["cost"], one["low"], one["high"]
    if high < 0:
        return f"be better by {-cost:.4f} [{-high:.4f}, {-low:.4f}]"
    if low > 0:
        return f"cost {cost:.4f} [{low:.4f}, {high:.4f}]"
    return f"cost {cost:+.4f} [{low:+.4f}, {high:+.4f}], which cannot be told from none"


def tables_of(told: Told) -> list[tuple[Sequence[str], list[list[str]]]]:
    """Headings and rows: who took part, the axes of the winner, what other values would cost. Only
    those that have rows."""
    tables = (
        (FINALIST_HEADINGS, finalist_rows(told)),
        (AXIS_HEADINGS, axis_rows(told)),
        (EFFECT_HEADINGS, effect_rows(told)),
    )
    return [(headings, rows) for headings, rows in tables if rows]


def finalist_rows(told: Told) -> list[list[str]]:
    return [
        [
            one["cell"],
            _number(one["chosen_at"]),
            _number(one["mean"]),
            str(one["n"]),
            _number(one["difference"], sign="+"),
            _interval(one["ci_low"], one["ci_high"]),
            one["why"],
        ]
        for one in told["finalists"]
    ]


def effect_rows(told: Told) -> list[list[str]]:
    """Of each other value of each axis; then of the pairs that cost more or less together."""
    pairs = [one for one in told["interactions"] if _is_clear(one)]
    return [
        [_change(one), _number(one["cost"], sign="+"), _interval(one["low"], one["high"])]
        for one in (*told["effects"], *pairs)
    ]


def axis_rows(told: Told) -> list[list[str]]:
    """Of each axis of the recommended point, in their order."""
    return [
        [
            one["path"],
            str(_short(one["value"])),
            str(_short(one["best"])),
            _number(one["cost"], sign="+"),
            _interval(one["low"], one["high"]),
            str(_short(one["leaving_for"])),
        ]
        for one in _axes(told)
    ]


def since_line(told: Told, ended: int, cells: Collection[str]) -> str | None:
    """What is to be said where the study was edited, or trials have ended, since it was told:
    `ended` and `cells` are of the launch's trials as the study is now."""
    again = f"`moe-study recommend {told['study']}` tells again"
    if any(one["cell"] not in cells for one in told["finalists"]):
        return (
            "the study was edited since this was told, and has these points no more (nor do values "
            f"of before compare with those of now): {again}"
        )
    more = ended - told["by_trials"]
    if more <= 0:
        return None
    return f"since this was told more trials have ended ({more}): {again}"


def _values(params: Mapping[str, Any]) -> str:
    return ", ".join(f"{path}={value}" for path, value in params.items())


def _number(value: float | None, sign: str = "") -> str:
    return "" if value is None else f"{value:{sign}.4f}"


def _interval(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f"[{low:+.4f}, {high:+.4f}]"


def _short(value: Any) -> Any:
    return float(f"{value:.3g}") if type(value) is float else value
