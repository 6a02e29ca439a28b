"""A fair queue: owners take turns, and each owner's entries keep their order."""

from __future__ import annotations

from collections import deque
from typing import Generic, Protocol, TypeVar

__all__ = ["FairQueue"]

_REMEMBERED = 256


class _Numbered(Protocol):
    number: int
    owner: str


Entry = TypeVar("Entry", bound=_Numbered)


class FairQueue(Generic[Entry]):
    """Waiting entries, each with an ``owner`` and a ``number`` that grows with arrival. Not thread-safe.

    The next entry is the oldest one of the owner who was served longest ago; one who was never served comes before
    all who were, and among those the earlier arrival wins.
    """

    def __init__(self) -> None:
        self._waiting: dict[str, deque[Entry]] = {}
        self._served: dict[str, int] = {}
        self._turn = 0

    def __len__(self) -> int:
        return sum(map(len, self._waiting.values()))

    def __contains__(self, entry: Entry) -> bool:
        return entry in self._waiting.get(entry.owner, ())

    def push(self, entry: Entry) -> None:
        """Add an entry behind its owner's others, or before them if it was taken out and comes back."""
        entries = self._waiting.setdefault(entry.owner, deque())
        if entries and entry.number < entries[0].number:
            entries.appendleft(entry)
        else:
            entries.append(entry)

    def pop(self) -> Entry | None:
        """Take the next entry out; None if nothing waits."""
        order = self.order(1)
        if not order:
            return None
        entry = order[0]
        self.remove(entry)
        self._turn += 1
        self._served.pop(entry.owner, None)  # so that the dictionary stays in order of service
        self._served[entry.owner] = self._turn
        if len(self._served) > _REMEMBERED:
            del self._served[next(iter(self._served))]
        return entry

    def remove(self, entry: Entry) -> None:
        """Take an entry out wherever it is.

        Raises:
            ValueError: it does not wait here.
        """
        entries = self._waiting.get(entry.owner, deque())
        entries.remove(entry)
        if not entries:
            del self._waiting[entry.owner]

    def order(self, limit: int | None = None) -> list[Entry]:
        """The entries in the order in which they would be taken out if nothing else arrived.

        Args:
            limit: how many of them (None: all).
        """
        waiting = {owner: deque(entries) for owner, entries in self._waiting.items()}
        served, turn = dict(self._served), self._turn
        order: list[Entry] = []
        while waiting and (limit is None or len(order) < limit):
            owner = min(waiting, key=lambda o: (served.get(o, 0), waiting[o][0].number))
            order.append(waiting[owner].popleft())
            if not waiting[owner]:
                del waiting[owner]
            turn += 1
            served[owner] = turn
        return order
