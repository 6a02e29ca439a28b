from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from normviz.engine.fair_queue import FairQueue


@dataclass(frozen=True)
class Entry:
    owner: str
    number: int


def fill(owners: str) -> tuple[FairQueue[Entry], list[Entry]]:
    queue: FairQueue[Entry] = FairQueue()
    entries = [Entry(owner, number) for number, owner in enumerate(owners, 1)]
    for entry in entries:
        queue.push(entry)
    return queue, entries


def drain(queue: FairQueue[Entry]) -> list[Entry]:
    taken = []
    while (entry := queue.pop()) is not None:
        taken.append(entry)
    return taken


def test_one_owner_is_served_in_order() -> None:
    queue, entries = fill("aaaa")
    assert drain(queue) == entries


def test_owners_take_turns() -> None:
    queue, _ = fill("aaabc")
    assert "".join(e.owner for e in drain(queue)) == "abcaa"


def test_one_who_was_served_waits_for_those_who_were_not() -> None:
    queue, _ = fill("a")
    assert queue.pop() == Entry("a", 1)
    queue.push(Entry("a", 2))
    queue.push(Entry("b", 3))
    assert queue.pop() == Entry("b", 3)
    queue.push(Entry("c", 4))
    assert [e.owner for e in drain(queue)] == ["c", "a"]


def test_entry_that_comes_back_is_first_of_its_owner() -> None:
    queue, entries = fill("aa")
    assert queue.pop() == entries[0]
    queue.push(entries[0])
    assert drain(queue) == entries


def test_removal() -> None:
    queue, entries = fill("aba")
    queue.remove(entries[0])
    assert entries[0] not in queue
    assert entries[2] in queue
    assert len(queue) == 2
    with pytest.raises(ValueError, match="not in deque"):
        queue.remove(entries[0])
    with pytest.raises(ValueError, match="not in deque"):
        queue.remove(Entry("nobody", 1))
    assert drain(queue) == [entries[1], entries[2]]
    assert len(queue) == 0


@settings(max_examples=60, deadline=None)
@given(owners=st.text("abcd", max_size=14), served=st.text("abcd", max_size=4))
def test_order_foretells_what_pop_takes(owners: str, served: str) -> None:
    queue, _ = fill(served)
    drain(queue)
    for number, owner in enumerate(owners, 100):
        queue.push(Entry(owner, number))
    order = queue.order()
    assert queue.order(3) == order[:3]
    assert drain(queue) == order
    assert sorted(order, key=lambda e: e.number) == [Entry(o, n) for n, o in enumerate(owners, 100)]
    for owner in set(owners):
        mine = [e.number for e in order if e.owner == owner]
        assert mine == sorted(mine)
    # Fairness: while an owner waits, no other is served twice more often than once between two of its turns.
    for i, entry in enumerate(order):
        between = order[:i] if entry.owner not in {e.owner for e in order[:i]} else []
        counts = {owner: sum(e.owner == owner for e in between) for owner in set(owners)}
        assert max(counts.values(), default=0) <= 1
