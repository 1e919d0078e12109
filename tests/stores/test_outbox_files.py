"""The outbox: nothing lost, nothing out of order, and a torn line is no line."""

from __future__ import annotations

import pytest

from orchestrator.stores.outbox_files import OutboxFile, OutboxHeld


def entries(outbox):
    return [entry["n"] for entry, _ in outbox.pending()]


def test_entries_come_back_in_order_and_only_until_delivered(tmp_path):
    outbox = OutboxFile(tmp_path / "a.jsonl")
    for n in range(5):
        outbox.append({"n": n})
    offsets = [offset for _, offset in outbox.pending()]
    outbox.mark_delivered(offsets[2])
    assert entries(outbox) == [3, 4]


def test_a_new_driver_goes_on_where_the_dead_one_stopped(tmp_path):
    outbox = OutboxFile(tmp_path / "a.jsonl")
    for n in range(3):
        outbox.append({"n": n})
    outbox.mark_delivered(next(outbox.pending())[1])
    outbox.close()  # the kernel does it for a killed driver
    assert entries(OutboxFile(tmp_path / "a.jsonl")) == [1, 2]


def test_half_a_line_is_dropped_and_the_next_entry_is_whole(tmp_path):
    path = tmp_path / "a.jsonl"
    first = OutboxFile(path)
    first.append({"n": 0})
    first.close()
    with path.open("ab") as file:
        file.write(b'{"n": 1, "torn')
    outbox = OutboxFile(path)
    outbox.append({"n": 2})
    assert entries(outbox) == [0, 2]


@pytest.mark.parametrize("left", ["", "12x", "99999"])
def test_an_offset_that_a_power_cut_damaged_sends_all_again(tmp_path, left):
    outbox = OutboxFile(tmp_path / "a.jsonl")
    outbox.append({"n": 0})
    outbox.append({"n": 1})
    outbox.close()
    (tmp_path / "a.offset").write_text(left)
    assert entries(OutboxFile(tmp_path / "a.jsonl")) == [0, 1]


def test_a_delivered_spool_is_emptied_and_takes_new_entries(tmp_path):
    outbox = OutboxFile(tmp_path / "a.jsonl")
    outbox.append({"n": 0})
    for _, offset in outbox.pending():
        outbox.mark_delivered(offset)
    assert outbox.undelivered_bytes == 0
    assert outbox.path.stat().st_size == 0
    outbox.append({"n": 1})
    assert entries(outbox) == [1]


def test_entries_written_while_others_are_delivered_are_kept(tmp_path):
    outbox = OutboxFile(tmp_path / "a.jsonl")
    outbox.append({"n": 0})
    seen = []
    for entry, offset in outbox.pending():
        seen.append(entry["n"])
        if entry["n"] == 0:
            outbox.append({"n": 1})
        outbox.mark_delivered(offset)
    assert seen == [0, 1]
    assert entries(outbox) == []


def test_two_processes_never_deliver_one_spool(tmp_path):
    outbox = OutboxFile(tmp_path / "a.jsonl")
    with pytest.raises(OutboxHeld, match=r"delivers a\.jsonl"):
        OutboxFile(tmp_path / "a.jsonl")
    outbox.close()
    OutboxFile(tmp_path / "a.jsonl").close()


def test_what_is_refused_for_good_is_kept(tmp_path):
    outbox = OutboxFile(tmp_path / "a.jsonl")
    outbox.set_aside([{"n": 0}, {"n": 1}], "RESOURCE_DOES_NOT_EXIST")
    assert outbox.rejected == 2
    assert "RESOURCE_DOES_NOT_EXIST" in outbox.rejected_path.read_text()
