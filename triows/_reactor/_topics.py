"""Topics: the members of a channel that one loop serves, and what is published to them.

Nearly all members take what they are sent at once. For them Python gathers what is
published in a pass into one batch, and a kernel hands it over (`triows._kernels._fanout`).
What a member does not take at once waits in its *seat*, which is the channel's and knows
the member's policy; while something waits there, the member is *slow*: the kernel knows
nothing of it, and Python offers it each entry. When its connection has sent all that it
had, it is fed from its seat, and with an empty seat it is among the quick ones again.

All of this belongs to the thread that drives the loop.
"""

import ctypes
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np

from triows._engine import Header, PreparedMessage, parse_header
from triows._kernels import topics as t
from triows._reactor._blocks import free

if TYPE_CHECKING:
    from triows._reactor._fanout import Fan

FEED: Final = 65_536
"""Octets that a connection is fed at a time."""

CUT_OFF: Final = -1
"""What `Seat.offer` returns for a member that is to be cut off."""


class Entry(Protocol):
    """A published message, as a channel keeps it."""

    @property
    def prepared(self) -> PreparedMessage:
        """Its frame."""

    @property
    def size(self) -> int:
        """Its octets."""


class Seat(Protocol):
    """A member's place in its channel: what waits for it, under its policy."""

    most_items: int
    most_octets: float
    """What may wait: so much may be on its way in one batch."""
    on_room: Callable[[], None]
    """Called when something was taken that publishers may wait for."""
    on_end: Callable[[], None]
    """Called by `end`."""

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits."""

    def has_room(self, size: int) -> bool:
        """Say whether publishers need not wait for it with *size* octets."""

    def offer(self, entry: Any) -> int:
        """Take an entry; returns how many were lost by that, or CUT_OFF."""

    def skip(self, count: int) -> None:
        """Be told that so many items were lost before they came to the channel."""

    def take(self, octets: int) -> list[PreparedMessage]:
        """Take what waits, some *octets* of it and one message at least."""

    def end(self) -> None:
        """Take note that the connection is no member any more."""


class Counts:
    """What a channel counts, some of it in its topics."""

    __slots__ = ("closed", "dropped", "offered", "published")

    def __init__(self) -> None:
        self.published = self.offered = self.dropped = self.closed = 0

    def add(self, others: "Counts") -> None:
        """Add what was counted elsewhere."""
        self.published += others.published
        self.offered += others.offered
        self.dropped += others.dropped
        self.closed += others.closed


class Stage(Protocol):
    """A channel, as its topics see it."""

    counts: Counts

    def open(self, topic: "Topic") -> None:
        """Take note that there is a topic of it."""

    def close(self, topic: "Topic") -> None:
        """Take note that it is gone."""

    def make_entry(self, opcode: int, payload: bytes) -> Any:
        """Make an entry of a message that a compiled handler has published."""

    def relay(self, topic: "Topic", entries: Sequence[Any]) -> None:
        """Give what a compiled handler has published in a topic to those who are elsewhere."""


class Home(Stage, Protocol):
    """A channel, as connections see it."""

    def outpost_in(self, thread: Any) -> Any:
        """Return the stage that a loop in another thread has."""


class Member:
    """A connection in a topic."""

    __slots__ = ("index", "is_gone", "seat", "session", "slot", "topic")

    def __init__(self, topic: "Topic", slot: int, session: int, seat: Seat) -> None:
        self.topic = topic
        self.slot = slot
        self.session = session
        self.seat = seat
        self.is_gone = False
        self.index = -1
        """Its row among the quick members; -1 while it is slow."""


class Topic:
    """The members of one channel in a loop.

    Args:
        fan: the loop's.
        index: its row in the table.
        stage: its channel.
    """

    def __init__(self, fan: "Fan", index: int, stage: Stage) -> None:
        self._fan = fan
        self.index = index
        self.stage = stage
        self._quick: list[Member] = []
        self.slow: dict[Member, None] = {}
        self._rows = np.zeros((8, t.MEMBER_FIELDS), np.int64)
        self._row: Any = None
        self._entries: list[Any] = []
        self._sent: list[Any] = []
        self._octets = 0
        self._most_items, self._most_octets = _MOST_ITEMS, FEED
        self._is_heard = False
        self._counts = stage.counts

    def __len__(self) -> int:
        return len(self._quick) + len(self.slow)

    def move(self, row: Any) -> None:
        """Take the topic's row in the table, which has a new one."""
        self._row = row
        self._row[t.MEMBERS] = self._rows.ctypes.data

    # Members.

    def add(self, slot: int, session: int, seat: Seat) -> Member:
        """Make a connection a member; it must be open."""
        member = Member(self, slot, session, seat)
        self._most_items = min(self._most_items, seat.most_items)
        self._most_octets = int(min(self._most_octets, seat.most_octets))
        self._add_quick(member)
        return member

    def remove(self, member: Member) -> None:
        """Let a member go."""
        if member.index >= 0:
            self._remove_quick(member)
        else:
            del self.slow[member]
            self._listen()
        if not len(self):
            self._most_items, self._most_octets = _MOST_ITEMS, FEED

    def hear(self, *, is_heard: bool) -> None:
        """Say whether what compiled handlers publish is for others than this loop's members."""
        self._is_heard = is_heard
        self._listen()

    def _listen(self) -> None:
        self._row[t.IS_HEARD] = bool(self._is_heard or self.slow)

    def _add_quick(self, member: Member) -> None:
        if len(self._quick) == len(self._rows):
            self._rows = np.concatenate((self._rows, np.zeros_like(self._rows)))
            self._row[t.MEMBERS] = self._rows.ctypes.data
        member.index = len(self._quick)
        self._quick.append(member)
        # What was published before is not for it, or was in its seat.
        at = sum(len(one.prepared.frame) for one in self._entries)
        self._rows[member.index] = (member.slot, at, 0)
        self._row[t.MEMBER_COUNT] = len(self._quick)

    def _remove_quick(self, member: Member) -> None:
        """Put the last quick member into the place of one."""
        last = self._quick.pop()
        if last is not member:
            self._quick[member.index] = last
            self._rows[member.index] = self._rows[last.index]
            last.index = member.index
        member.index = -1
        self._row[t.MEMBER_COUNT] = len(self._quick)

    # Publishing.

    def publish(self, entry: Any) -> tuple[int, int, int]:
        """Give every member an entry; returns how many they were, lost something, were cut off."""
        if self._quick and self._is_full_for(entry.size):
            self._fan.flush()  # before that makes more than seats have room for
        # Only now: those that were found slow by that may have been cut off, or may be fed.
        count = len(self._quick) + len(self.slow)
        if self._quick:
            self._entries.append(entry)
            self._octets += entry.size
            self._fan.gathered += 1
            if len(self._entries) == 1:
                self._fan.note(self)
        self._counts.offered += count
        return (count, *self._offer(self.slow, (entry,))) if self.slow else (count, 0, 0)

    def publish_here(self, opcode: int, payload: bytes) -> None:
        """Publish what a compiled handler has published of a message that Python inflated."""
        entry = self.stage.make_entry(opcode, payload)
        self._counts.published += 1
        self.publish(entry)
        if self._is_heard:
            self.stage.relay(self, [entry])

    def hasten(self) -> None:
        """Take note that no more is about to be published: what was can go."""
        if self._entries:
            self._fan.is_whole = True

    def skip(self, count: int) -> None:
        """Tell every member that *count* items were lost before they came to the channel."""
        self._fan.flush()
        for member in [*self._quick, *self.slow]:
            member.seat.skip(count)
            if member.index >= 0 and not member.seat.is_empty:
                self.make_slow(member)
                self._fan.feed(member.slot)

    def has_room(self, size: int) -> bool:
        """Say whether no member that blocks has to be waited for with *size* octets."""
        if self._is_full_for(size):
            self._fan.flush()
        return not self.slow or all(member.seat.has_room(size) for member in self.slow)

    def _is_full_for(self, size: int) -> bool:
        if not self._entries:
            return self._fan.is_full
        return len(self._entries) >= self._most_items or self._octets + size > self._most_octets

    def take_batch(self) -> bytearray:
        """Take what was gathered, as frames; `attend` is to follow."""
        self._sent, self._entries = self._entries, []
        self._octets = 0
        return _NOTHING.join([one.prepared.frame for one in self._sent])

    def unsent_for(self, member: Member) -> Iterator[PreparedMessage]:
        """Give a quick member now what was gathered for all, ahead of them."""
        if member.index < 0 or not self._entries:
            return
        row = self._rows[member.index]
        at = 0
        for entry in self._entries:
            if at >= row[t.MEMBER_AT]:
                yield entry.prepared
            at += len(entry.prepared.frame)
        row[t.MEMBER_AT] = at

    def _offer(self, members: Iterable[Member], entries: Sequence[Any]) -> tuple[int, int]:
        dropped = closed = 0
        for member in tuple(members):
            for i, entry in enumerate(entries):
                if member.is_gone:
                    break
                lost = member.seat.offer(entry)
                if lost > 0:
                    self._counts.dropped += lost
                    dropped += 1
                elif lost == CUT_OFF:
                    self._counts.closed += len(entries) - i
                    closed += 1
                    self._fan.cut_off(member)
                    break
        return dropped, closed

    # After a kernel.

    @property
    def has_news(self) -> bool:
        """Whether the kernel has left something to be done here."""
        row = self._row
        return bool(row[t.SLOW_COUNT] or row[t.UNSENT_SIZE])

    def attend(self) -> list[Member]:
        """Seat those that were found slow, and give on what compiled handlers have published.

        Returns the members that were seated.
        """
        published = self._take_published()
        seated: list[Member] = []
        if published:
            self._counts.offered += len(self.slow) * len(published)
            self._offer(self.slow, published)
        if self._row[t.SLOW_COUNT]:
            self._row[t.SLOW_COUNT] = 0
            seated = self._seat_slow(published)
        if published and self._is_heard:
            self.stage.relay(self, published)
        return seated

    def forget_batch(self) -> None:
        """Forget what was sent: all had it, or have it in their seats."""
        self._sent = []

    def _take_published(self) -> list[Any]:
        row = self._row
        size = row[t.UNSENT_SIZE]
        if not size:
            return []
        octets = ctypes.string_at(row[t.UNSENT], size)
        row[t.UNSENT_SIZE] = row[t.UNSENT_DONE] = 0
        self.collect()
        return [self.stage.make_entry(*one) for one in _split(octets)]

    def collect(self) -> None:
        """Count what compiled handlers have published."""
        self._counts.published += self._row[t.PUBLISHED]
        self._counts.offered += self._row[t.OFFERED]
        self._row[t.PUBLISHED] = self._row[t.OFFERED] = 0

    def _seat_slow(self, published: Sequence[Any]) -> list[Member]:
        seated = []
        rows = self._rows[: len(self._quick)]
        for index in np.flatnonzero(rows[:, t.MEMBER_SLOW])[::-1].tolist():
            _, at, mark = rows[index].tolist()
            rest = [*published]
            if mark == t.BY_BATCH:
                rest = [*self._sent, *published]
            ends = accumulate(len(one.prepared.frame) for one in rest)
            done = bisect_right(list(ends), at)
            member = self._quick[index]
            self.make_slow(member)
            seated.append(member)
            self._offer((member,), rest[done:])
        return seated

    def make_slow(self, member: Member) -> None:
        """Let what is published wait for a member, in its seat, until `feed` empties that."""
        self._remove_quick(member)
        self.slow[member] = None
        self._listen()
        self._fan.seat(member)

    def feed(self, member: Member) -> list[PreparedMessage]:
        """Take what waits for a slow member, which may be quick again then."""
        messages = member.seat.take(FEED)
        if member.seat.is_empty:
            del self.slow[member]
            self._listen()
            self._fan.unseat(member)
            self._add_quick(member)
        return messages

    def close(self) -> None:
        """Give back what the kernel holds, and forget what no one is to be sent."""
        self.collect()
        self._fan.gathered -= len(self._entries)
        free(self._row[t.UNSENT])


def _split(octets: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the opcode and the payload of each of a server's whole frames."""
    at = 0
    while at < len(octets):
        header = parse_header(octets, at)
        assert isinstance(header, Header)
        start = at + header.header_size
        at = start + header.payload_size
        yield header.opcode, octets[start:at]


_NOTHING: Final = bytearray()

_MOST_ITEMS: Final = 1_024
"""Entries of a batch, whatever its members have room for."""
