"""The members of a channel in a loop that another thread drives.

Seen from Trio's thread it is an *audience* that is published to: entries queue under a lock,
bounded, and the loop is woken for the first of them. In the loop's thread it is the *stage* of
a topic: it takes the entries as long as there is room for them, and what a compiled handler
publishes there goes back to Trio's thread in one call for each batch. It ends with the loop.
"""

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Protocol

import trio

from triows._broadcast._backlog import Entry
from triows._broadcast._seat import Place
from triows._engine import PreparedMessage
from triows._reactor import Counts, Member, Topic
from triows._reactor._fanout import Fan

MOST_ITEMS = 1_024
MOST_OCTETS = 2**20
"""Entries that the loop has not taken at which publishers wait."""


class Thread(Protocol):
    """The driver of a loop in a thread."""

    @property
    def fan(self) -> Fan:
        """The loop's; for its own thread."""

    def post(self, call: Callable[[], None]) -> bool:
        """Have something done in the loop's thread; returns whether that is to come."""

    def tell_end(self, guest: "Outpost") -> bool:
        """Have `end` called there once the loop is closed; returns as `post`."""


class Troupe(Protocol):
    """The channel's side."""

    def make_entry(self, opcode: int, payload: bytes) -> Entry:
        """See `triows._reactor.Stage`."""

    def relay(self, origin: "Outpost", entries: Sequence[Entry]) -> None:
        """See `triows._reactor.Stage`."""

    def make_room(self) -> None:
        """Let publishers look again."""

    def retire(self, outpost: "Outpost") -> None:
        """Publish no more to a loop that is closed."""


class Outpost:
    """A channel's members in a loop of another thread.

    Args:
        troupe: the channel's.
        thread: drives the loop.
    """

    def __init__(self, troupe: Troupe, thread: Thread) -> None:
        self._troupe = troupe
        self._thread = thread
        self._token = trio.lowlevel.current_trio_token()
        self._lock = threading.Lock()
        self._entries: deque[Entry | _Order] = deque()
        self._leaving: deque[Place] = deque()
        self._octets = 0
        self._is_full = self._is_heard = self._is_over = False
        self.counts = Counts()
        self._topic: Topic | None = None
        self._members: dict[Place, Member] = {}
        if not thread.tell_end(self):
            self.end()

    # In Trio's thread: an audience.

    def __len__(self) -> int:
        """How many members there are, or were a moment ago."""
        topic = self._topic
        return 0 if topic is None else len(topic)

    def publish(self, entry: Entry) -> tuple[int, int, int]:
        """Have the loop give its members an entry; what they lose by that is counted there."""
        entry.prepared  # noqa: B018 - made here, once
        self._append(entry, entry.size)
        return len(self), 0, 0

    def order(self, call: Callable[[], None]) -> None:
        """Have something done in the loop's thread, in its place among what is published.

        At once, where the loop is closed: it finds no one there.
        """
        if not self._append(_Order(call), 0):
            call()

    def _append(self, entry: "Entry | _Order", size: int) -> bool:
        """Have the loop take something; returns whether there still is one."""
        with self._lock:
            if self._is_over:
                return False
            is_first = not self._entries
            self._entries.append(entry)
            self._octets += size
        if is_first:
            self._thread.post(self._take)
        return True

    def has_room(self, size: int) -> bool:
        """Say whether the loop has taken enough of what was published before."""
        with self._lock:
            has_room = not self._entries or (
                len(self._entries) < MOST_ITEMS and self._octets + size <= MOST_OCTETS
            )
            self._is_full |= not has_room
        return has_room

    def hasten(self) -> None:
        """Do nothing: the loop's thread waits for no more."""

    def skip(self, count: int) -> None:
        """See `Topic.skip`."""
        self.order(partial(self._skip, count))

    def hear(self, *, is_heard: bool) -> None:
        """See `Topic.hear`."""
        self._is_heard = is_heard
        self._thread.post(self._hear)

    def collect(self) -> None:
        """Do nothing: the loop's thread counts."""

    def leave(self, place: Place) -> None:
        """Let a member go."""
        self._leaving.append(place)
        self.order(self._leave_next)
        self._thread.post(self._take)  # others may be waited for because of it

    def adopt(self, place: Place) -> None:
        """Make a place one of the loop's thread; what it tells is told in Trio's."""
        on_end, place.on_room = place.on_end, self._take_more
        place.on_end = partial(self._forget, place, on_end)

    def _hop(self, call: Callable[[], None]) -> None:
        """Have something done in Trio's thread, if that still runs."""
        with contextlib.suppress(trio.RunFinishedError):
            self._token.run_sync_soon(call)

    # In the loop's thread: the stage of its topic.

    def join(
        self,
        slot: int,
        session: int,
        place: Place,
        greeting: Iterable[PreparedMessage] = (),
        *,
        publishes: bool,
    ) -> None:
        """Make a connection a member."""
        fan = self._thread.fan
        for message in greeting:
            fan.send(slot, session, message)
        self._members[place] = fan.join(self, slot, session, place, publishes=publishes)

    def open(self, topic: Topic) -> None:
        """See `Stage.open`."""
        self._topic = topic
        self._hear()

    def close(self, topic: Topic) -> None:
        """See `Stage.close`."""
        del topic
        self._topic = None

    def make_entry(self, opcode: int, payload: bytes) -> Entry:
        """See `Stage.make_entry`."""
        return self._troupe.make_entry(opcode, payload)

    def relay(self, topic: Topic, entries: Sequence[Entry]) -> None:
        """See `Stage.relay`."""
        del topic
        self._hop(partial(self._troupe.relay, self, list(entries)))

    def _forget(self, place: Place, on_end: Callable[[], None]) -> None:
        self._members.pop(place, None)
        self._hop(on_end)

    def _take_more(self) -> None:
        """Go on with what was published: a member has room."""
        self._thread.post(self._take)

    def _take(self) -> None:
        """Give the members what there is, as long as none has to be waited for."""
        while True:
            with self._lock:
                if not self._entries:
                    break
                entry = self._entries[0]
            if isinstance(entry, Entry) and not self._has_room(entry.size):
                break  # `_take_more` will come
            with self._lock:
                self._entries.popleft()
                self._octets -= entry.size
            if isinstance(entry, _Order):
                entry.call()
            elif self._topic is not None:
                self._topic.publish(entry)
        with self._lock:
            is_full, self._is_full = self._is_full, False
        if is_full:
            self._hop(self._troupe.make_room)

    def end(self) -> None:
        """Take what no one will be given any more: the loop is closed, and has no members."""
        while not self._is_over:
            self._take()
            with self._lock:
                self._is_over = not self._entries
        self._hop(partial(self._troupe.retire, self))

    def _has_room(self, size: int) -> bool:
        """Say whether no member has to be waited for, who is not about to leave."""
        while self._topic is not None and not self._topic.has_room(size):
            if not self._leaving:
                return False
            self._leave_next()
        return True

    def _skip(self, count: int) -> None:
        if self._topic is not None:
            self._topic.skip(count)

    def _hear(self) -> None:
        if self._topic is not None:
            self._topic.hear(is_heard=self._is_heard)

    def _leave_next(self) -> None:
        if self._leaving:
            member = self._members.pop(self._leaving.popleft(), None)
            if member is not None:
                self._thread.fan.leave(member)


class _Order:
    """Something that is to be done, among the entries."""

    __slots__ = ("call",)
    size = 0

    def __init__(self, call: Callable[[], None]) -> None:
        self.call = call
