"""How a sampler of others is asked in a search of ours, so that nothing holds it back.

Numbers that a space lists are told as ordered, by their ranks. Where a peer knows no conditions it
draws all axes, and those that do not exist at its point are dropped. A point that it draws twice is
answered at once by what is known of it, and costs no trial; it hears of one that cannot be trained,
and draws again.
"""

from __future__ import annotations

import random
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from orchestrator.study.samplers import Sampler, Search
from search_spaces.domains import Choice, Domain
from search_spaces.drawing import with_values

Values = Mapping[str, Any]


class Peer(Sampler):
    """One that keeps what it knows in an object of its own, made anew for the first point.

    It speaks of codes: ranks of a choice's values, numbers of a range.
    """

    package: ClassVar[str]

    def __init__(self, trials: int) -> None:
        self.trials = trials

    @abstractmethod
    def begin(self, seed: int) -> None: ...
    @abstractmethod
    def ask(self) -> tuple[Any, Values]:
        """A handle, and the codes of a point."""

    @abstractmethod
    def answer(self, handle: Any, value: float | None) -> None:
        """None where it cannot be trained."""

    @abstractmethod
    def attached(self, values: Values) -> Any:
        """The handle of a point that it did not draw."""

    def suggestions(self, search: Search, *, seed: int, index: int) -> Iterator[Values]:
        if index == 0:
            self.space, self.costs, self._open = search.space, [], None
            self.is_refusing = bool(search.space.rules)
            self.begin(seed % 2**31)
        else:
            self._hear_of(search.records[-1])
        known = {_key(record.params): record.value for record in search.records}
        while True:
            handle, codes = self.ask()
            values = with_values(self.space, self._decoded(codes), random.Random(0))
            self._open = handle, values
            yield values
            self.answer(handle, known.get(_key(values)))

    def _hear_of(self, record: Any) -> None:
        handle, values = self._open
        if _key(values) != _key(record.params):  # it was drawn at random instead
            handle = self.attached(record.params)
        self.costs.append(record.value)
        self.answer(handle, record.value)

    @property
    def worst(self) -> float:
        return max(self.costs, default=0.0)

    def _decoded(self, codes: Values) -> dict[str, Any]:
        return {path: _value(self.space.axes[path], code) for path, code in codes.items()}

    def codes_of(self, values: Values, *, whole: bool) -> dict[str, Any]:
        """With a code in the middle for axes that do not exist there, where it is to be whole."""
        return {
            path: _code(domain, values[path]) if path in values else _middle(domain)
            for path, domain in self.space.axes.items()
            if whole or path in values
        }


def _key(values: Values) -> tuple[tuple[str, Any], ...]:
    return tuple(sorted(values.items()))


def _value(domain: Domain, code: Any) -> Any:
    if isinstance(domain, Choice):
        return domain.values[int(code)]
    return min(max(type(domain.low)(code), domain.low), domain.high)


def _code(domain: Domain, value: Any) -> Any:
    return domain.values.index(value) if isinstance(domain, Choice) else value


def _middle(domain: Domain) -> Any:
    if isinstance(domain, Choice):
        return len(domain.values) // 2
    middle = (domain.low * domain.high) ** 0.5 if domain.log else (domain.low + domain.high) / 2
    return type(domain.low)(middle)
