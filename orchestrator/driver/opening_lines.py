"""What a driver says as it takes hold of a launch: what is new, missing, or worth a second look."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from optuna.storages import BaseStorage

from orchestrator.driver.ladder import climb_lines, known_pairs, pair_lines
from orchestrator.report.rungs import rung_line, rungs_of_launch
from orchestrator.stores.optuna_launches import LADDER, WARM_START
from orchestrator.stores.optuna_trials import OptunaTrials
from orchestrator.study.cautions import cautions
from orchestrator.study.chosen_values import Choices
from orchestrator.trials.earlier_launches import lacking_lines, warm_start_lines

if TYPE_CHECKING:
    from orchestrator.driver.session import Session


def grown_lines(added: Mapping[str, list[Any]]) -> Iterator[str]:
    """Of axes that have got more choices since the launch began."""
    for path, values in added.items():
        yield (
            f"{path} has the new choices {', '.join(map(str, values))}: earlier trials were drawn "
            "without them, and the sampler goes on with what it knows"
        )


def opening_lines(session: Session, storage: BaseStorage) -> Iterator[str]:
    for corpus in session.launch.corpora.values():
        yield from corpus.notes
    yield from session.tokens.lines()
    if kept := session.launch.labels_kept:
        yield (
            f"no sequence mixes values of {', '.join(sorted(kept))}, as in earlier launches on "
            "this corpus here: results go together; a new home keeps apart what a study follows"
        )
    for name, other in session.launch.merged.items():
        yield f"cell {name} is the same configuration as {other}: trained once, as {other}"
    yield from cautions(session.launch)
    if not session.options.recommending:  # which draws nothing
        yield from filter(None, [session.launch.sampler_line])
    info = session.info
    if session.launch.is_warm_started and not session.options.recommending:
        yield from warm_start_lines(session.launch, info.attributes[WARM_START])
        yield from lacking_lines(session.launch, info.attributes[WARM_START])
    yield from climb_lines(session.launch, info.attributes.get(LADDER))
    if session.launch.rung_below is not None:
        pairs = known_pairs(session.launch, session.options.home, session.options.storage_url)
        yield from pair_lines(session.launch, pairs)
    if (race := session.race) is not None and not race.is_over:
        yield (
            f"race: {race.budget.finalists} finalists on {race.budget.race} trainings at fresh "
            f"seeds, and {race.budget.confirm} more of the one that is left"
        )
    if (choices := Choices.of(info.attributes)) is not None:
        yield from choices.lines()
    for record in session.ledger.queue.unknown:
        yield f"trial {record.number} ({record.cell}) waits, but the study no longer has it"
    found, lengths = rungs_of_launch(
        info.attributes,
        session.records,
        launch=info.name,
        others=OptunaTrials.alike(storage, info),
    )
    if found:
        yield rung_line(found, lengths)
