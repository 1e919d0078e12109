"""The choices of a launch's axes, which may grow from one run to the next.

Optuna refuses a categorical distribution whose choices changed: a sampler that holds trials of both
would compare indices of two lists. Here the record keeps with each trial the widest list that was
known when the trial was made, and whoever reads several trials at once (the sampler's history, the
importances) sees all of them under the widest list of now, in which every earlier value stands. So
nothing is rewritten, and no value changes its meaning.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    check_distribution_compatibility,
)

from moe.config import ConfigError
from orchestrator.base.errors import BadInput
from orchestrator.stores.trial_record import TrialRecord
from search_spaces.domains import Choice, check_domain
from search_spaces.space import Space

_KINDS = {
    "categorical": CategoricalDistribution,
    "int": IntDistribution,
    "float": FloatDistribution,
}


class Choices:
    """The widest distribution of each path, over the trials of one launch."""

    def __init__(self, records: Iterable[TrialRecord] = ()) -> None:
        self._widest: dict[str, BaseDistribution] = {}
        self._seen: set[int] = set()
        for record in records:
            self.widened(record.distributions)

    @property
    def widest(self) -> dict[str, BaseDistribution]:
        return dict(self._widest)

    def widened(self, distributions: Mapping[str, BaseDistribution]) -> dict[str, BaseDistribution]:
        """The same with every choice that the launch knows or learns here.

        Raises BadInput where an axis is of another kind than before.
        """
        return {path: self._widen(path, own) for path, own in distributions.items()}

    def _widen(self, path: str, own: BaseDistribution) -> BaseDistribution:
        known = self._widest.setdefault(path, own)
        if known is own or known == own:
            return known
        if isinstance(known, CategoricalDistribution) and isinstance(own, CategoricalDistribution):
            union = tuple(dict.fromkeys((*known.choices, *own.choices)))
            if set(union) == set(own.choices):
                widest = own
            elif set(union) == set(known.choices):
                widest = known
            else:
                widest = CategoricalDistribution(_in_order(path, union))
            self._widest[path] = widest
            return widest
        try:
            check_distribution_compatibility(known, own)
        except ValueError as error:
            raise BadInput(
                f"an axis stays of one kind within a launch, for the sampler's sake; {path} was "
                f"{known}, received {own} ({error}). Undo the change of the space, or run it under "
                "another study name."
            ) from None
        return own

    def added(self, space: Mapping[str, BaseDistribution]) -> dict[str, list[Any]]:
        """By path, the choices of a space that no trial of the launch knew.

        Raises BadInput where the space lacks choices that trials had: their points would be in no
        search, and what the sampler learnt of them would be lost without a word.
        """
        found = {}
        for path, own in space.items():
            known = self._widest.get(path)
            if not isinstance(known, CategoricalDistribution):
                continue
            choices = own.choices if isinstance(own, CategoricalDistribution) else ()
            if gone := [value for value in known.choices if value not in choices]:
                raise BadInput(
                    "choices may be added to an axis within a launch, and none taken away; "
                    f"{path} lacks {', '.join(map(repr, gone))}, which earlier trials could have. "
                    "Put them back, or run the space under another study name: what is trained is "
                    "not trained again."
                )
            if new := [value for value in choices if value not in known.choices]:
                found[path] = new
        return found


def optuna_distributions(space: Space) -> dict[str, BaseDistribution]:
    """Every axis of a space, whether it exists at some point or not."""
    made: dict[str, BaseDistribution] = {}
    for path, plain in space.distributions().items():
        arguments = {name: value for name, value in plain.items() if name != "kind"}
        made[path] = _KINDS[plain["kind"]](**arguments)
    return made


def _in_order(path: str, values: tuple[Any, ...]) -> tuple[Any, ...]:
    """As a space lists them, where it can."""
    try:
        domain = check_domain(path, Choice(values))
    except ConfigError:
        return values
    return domain.values if isinstance(domain, Choice) else values
