"""The trials of one launch as they are now, in one table.

`TrialTable` is changed by the ledger and by what writes and stops trials for it; all others get the
same table as `Trials`, which they can only ask.

What is asked often (while 10,000 trials wait) is kept up to date as trials change, so that no
question looks through all of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from orchestrator.stores.trial_record import FINISHED_STATES, TrialRecord
from orchestrator.study.launch import Launch
from orchestrator.trials.search_history import SearchHistory


class Trials:
    """Records by trial number. Iterating gives them in the order in which they were made."""

    def __init__(self, launch: Launch) -> None:
        self._batch_tokens = launch.base.train.batch_tokens
        self._records: dict[int, TrialRecord] = {}
        self._running: set[int] = set()
        self._begun: dict[int, int] = {}  # tokens of those handed out, whole
        self._history = SearchHistory(
            launch.sampler.history_limit,
            metric=launch.study.metric,
            objectives=launch.study.objectives,
            constraints=launch.study.constraints,
        )
        self._cell_hashes: set[str] = set()
        self._current: set[str] = set()
        self._tokens_committed = 0
        self._device_s_at_rest = 0.0

    def _count(self, number: int, sign: int) -> None:
        record = self._records.get(number)
        if record is not None:
            self._tokens_committed += sign * self._begun.get(number, self.tokens_of(record))
            if record.state != "running":
                self._device_s_at_rest += sign * record.device_s

    def __getitem__(self, number: int) -> TrialRecord:
        return self._records[number]

    def __contains__(self, number: int) -> bool:
        return number in self._records

    def __iter__(self) -> Iterator[TrialRecord]:
        return iter(self._records.values())

    def __len__(self) -> int:
        return len(self._records)

    @property
    def running(self) -> list[TrialRecord]:
        return [self._records[number] for number in sorted(self._running)]

    def waiting(self) -> list[TrialRecord]:
        return [record for record in self if record.state == "waiting"]

    def has_cell(self, cell_hash: str) -> bool:
        return cell_hash in self._cell_hashes

    @property
    def num_cells(self) -> int:
        """Configurations of the study as it is asked now, seeds apart."""
        return len(self._current)

    @property
    def shown_to_sampler(self) -> list[TrialRecord]:
        return self._history.records()

    def tokens_of(self, record: TrialRecord) -> int:
        return record.tokens_trained(self._batch_tokens)

    @property
    def num_begun(self) -> int:
        """Trials that were handed out and have not ended."""
        return len(self._begun)

    def has_begun(self, number: int) -> bool:
        return number in self._begun

    @property
    def tokens_committed(self) -> int:
        """What trials have trained in this launch; all of it for those that have begun."""
        return self._tokens_committed

    @property
    def device_s_at_rest(self) -> float:
        """Device seconds, by the record, of the trials that do not run."""
        return self._device_s_at_rest


class TrialTable(Trials):
    """The same, to be changed."""

    def __init__(self, launch: Launch, records: Iterable[TrialRecord] = ()) -> None:
        super().__init__(launch)
        for record in records:
            self.put(record)

    def put(self, record: TrialRecord) -> None:
        """A new trial, or one as it is from now on."""
        self._count(record.number, -1)
        self._records[record.number] = record
        self._cell_hashes.add(record.cell_hash)
        if not record.is_older:
            self._current.add(record.cell_hash)
            self._history.note(record)
        if record.state == "running":
            self._running.add(record.number)
        else:
            self._running.discard(record.number)
        if record.state in FINISHED_STATES:
            self._begun.pop(record.number, None)
        self._count(record.number, 1)

    def begin(self, number: int, tokens: int) -> None:
        """A trial was handed out, to be trained on so many tokens in all."""
        self._count(number, -1)
        self._begun[number] = tokens
        self._count(number, 1)

    def put_back(self, number: int) -> None:
        """A trial that was handed out waits again."""
        self._count(number, -1)
        self._begun.pop(number, None)
        self._count(number, 1)
