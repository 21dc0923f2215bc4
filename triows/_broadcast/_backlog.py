"""What a subscriber has not received yet, bounded; a kind for each policy.

A backlog is offered every item that is published, and answers with what it has lost by
that. Where something was lost it keeps a *gap*, at its place between the items, so that
the subscriber is told. There are never more gaps than items and one.
"""

from collections import deque
from collections.abc import Hashable, Sequence
from typing import Any, Final, TypeAlias

from triows._broadcast._policies import Capacity, Lagged, Policy, octets_of
from triows._engine import PreparedMessage

CUT_OFF: Final = -1
"""What `Backlog.offer` returns for a subscriber that is to be cut off."""


def prepare(item: Any) -> PreparedMessage:
    """Return an item as a message; raises TypeError or UnicodeEncodeError if it is none."""
    return item if isinstance(item, PreparedMessage) else PreparedMessage(item)


class Entry:
    """An item on its way, one object for all subscribers.

    Args:
        item: as it was published.
        number: its number in its channel, from 1.
        epoch: what the number is of, where others than the channel give numbers.
        prepared: the item as a message, if that was asked for already.
    """

    __slots__ = ("_prepared", "epoch", "item", "number", "size")

    def __init__(
        self, item: Any, number: int, epoch: str = "", *, prepared: PreparedMessage | None = None
    ) -> None:
        self.item = item
        self.size = octets_of(item) if prepared is None else len(prepared.payload)
        """In octets."""
        self.number = number
        self.epoch = epoch
        self._prepared = prepared

    @property
    def prepared(self) -> PreparedMessage:
        """The item as a message; TypeError or UnicodeEncodeError if it is none."""
        if self._prepared is None:
            self._prepared = prepare(self.item)
        return self._prepared


class _Gap:
    """So many items were dropped here."""

    __slots__ = ("count",)

    def __init__(self, count: int) -> None:
        self.count = count


class Backlog:
    """Items in order; the base of all, and as it is that of ``Policy.BLOCK``.

    Args:
        capacity: its bound.
        policy: the subscriber's.
    """

    __slots__ = ("_entries", "_gap", "_most", "_most_octets", "items", "octets")

    def __init__(self, capacity: Capacity, policy: Policy) -> None:
        del policy
        self._most = capacity.items
        self._most_octets = capacity.octets
        self._entries: deque[Entry | _Gap] = deque()
        self._gap = 0  # before the first of them
        self.items = self.octets = 0

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to take or to tell."""
        return not (self._gap or self._entries)

    def fits(self, size: int) -> bool:
        """Say whether an item of *size* octets finds room."""
        items = self.items
        return not items or (items < self._most and size <= self._most_octets - self.octets)

    def end_that_fits(self, entries: Sequence[Entry]) -> Sequence[Entry]:
        """Return the end of *entries* that there is room for while this is empty."""
        octets = count = 0
        for entry in reversed(entries):
            is_too_much = count == self._most or entry.size > self._most_octets - octets
            if count and is_too_much:
                break
            octets += entry.size
            count += 1
        return entries[len(entries) - count :]

    def offer(self, entry: Entry) -> int:
        """Take an item; returns how many were lost by that, or CUT_OFF."""
        if not self.fits(entry.size):
            return self._overflow(entry)
        self._entries.append(entry)
        self.items += 1
        self.octets += entry.size
        return 0

    def skip(self, count: int) -> None:
        """Note that *count* items, behind those offered, were lost before they came here."""
        last = self._entries[-1] if self._entries else None
        if last is None:
            self._gap += count
        elif isinstance(last, _Gap):
            last.count += count
        else:
            self._entries.append(_Gap(count))

    def take(self) -> Entry:
        """Return the next item; there must be something.

        Raises:
            Lagged: there is a gap before it.
        """
        if self._entries and isinstance(self._entries[0], _Gap):
            self._take_gap()
        if self._gap:
            count, self._gap = self._gap, 0
            raise Lagged(count)
        return self._pop()

    def clear(self) -> None:
        """Forget everything."""
        self._entries.clear()
        self.items = self.octets = self._gap = 0

    def _overflow(self, entry: Entry) -> int:
        raise AssertionError(f"no one has looked whether there is room for {entry!r}")

    def _pop(self) -> Entry:
        entry = self._entries.popleft()
        assert isinstance(entry, Entry)
        self.items -= 1
        self.octets -= entry.size
        return entry

    def _take_gap(self) -> None:
        gap = self._entries.popleft()
        assert isinstance(gap, _Gap)
        self._gap += gap.count


class OldestDropped(Backlog):
    """That of ``Policy.DROP_OLDEST``."""

    __slots__ = ()

    def _overflow(self, entry: Entry) -> int:
        lost = 0
        while not self.fits(entry.size):
            if isinstance(self._entries[0], _Gap):
                self._take_gap()
            else:
                self._pop()
                lost += 1
        self._gap += lost
        self.offer(entry)
        return lost


class NewestDropped(Backlog):
    """That of ``Policy.DROP_NEWEST``."""

    __slots__ = ()

    def _overflow(self, entry: Entry) -> int:
        del entry
        self.skip(1)
        return 1


class CutOff(Backlog):
    """That of ``Policy.DISCONNECT``."""

    __slots__ = ()

    def _overflow(self, entry: Entry) -> int:
        del entry
        return CUT_OFF


class Latest(Backlog):
    """That of ``Policy.LATEST``: one item for each key, in the order in which keys came to wait.

    An item that is replaced leaves no gap. Where there is no room for another key, the one
    that has waited longest makes room, which is one. Where an item has become so large that
    there is no room for it in its key's place, the others make room likewise.
    """

    __slots__ = ("_by_key", "_key")

    def __init__(self, capacity: Capacity, policy: Policy) -> None:
        super().__init__(capacity, policy)
        self._key = policy.key or _one_key
        self._by_key: dict[Hashable, Entry] = {}

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to take or to tell."""
        return not (self._gap or self._by_key)

    def offer(self, entry: Entry) -> int:
        """Take an item; returns how many were lost by that."""
        key = self._key(entry.item)
        by_key = self._by_key
        replaced = by_key.get(key)
        lost = 0
        if replaced is not None:
            lost = 1
            self.octets -= replaced.size
            self.items -= 1
        while not self.fits(entry.size):
            self._drop_first_but(key)
            lost += 1
        by_key[key] = entry  # an old key keeps its place
        self.items += 1
        self.octets += entry.size
        return lost

    def skip(self, count: int) -> None:
        """See `Backlog.skip`; the gap is told before anything that waits."""
        self._gap += count

    def clear(self) -> None:
        """Forget everything."""
        super().clear()
        self._by_key.clear()

    def take(self) -> Entry:
        """See `Backlog.take`."""
        if self._gap:
            count, self._gap = self._gap, 0
            raise Lagged(count)
        return self._pop()

    def _pop(self) -> Entry:
        entry = self._by_key.pop(next(iter(self._by_key)))
        self.items -= 1
        self.octets -= entry.size
        return entry

    def _drop_first_but(self, key: Hashable) -> None:
        """Drop the item that has waited longest, but not that of *key*, which is counted out."""
        first = next(one for one in self._by_key if one != key)
        entry = self._by_key.pop(first)
        self.items -= 1
        self.octets -= entry.size
        self._gap += 1


def _one_key(_: object) -> Hashable:
    return None


_Kind: TypeAlias = type[Backlog]

KINDS: Final[dict[str, _Kind]] = {
    Policy.BLOCK.name: Backlog,
    Policy.DROP_OLDEST.name: OldestDropped,
    Policy.DROP_NEWEST.name: NewestDropped,
    Policy.LATEST.name: Latest,
    Policy.DISCONNECT.name: CutOff,
}
"""The kind of backlog that each policy has."""
