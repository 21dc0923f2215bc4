"""A channel as topics see it, and the topics as the channel sees them."""

from collections.abc import Callable, Sequence
from typing import Protocol

from triows._broadcast._backlog import Entry
from triows._broadcast._outpost import Outpost, Thread
from triows._reactor import Counts
from triows._spec import Opcode


class Audience(Protocol):
    """Some members of a channel, to whom it publishes as to one."""

    def __len__(self) -> int: ...

    def publish(self, entry: Entry) -> tuple[int, int, int]:
        """Give them an entry; returns how many they were, lost something, were cut off."""

    def has_room(self, size: int) -> bool:
        """Say whether none has to be waited for with an item of *size* octets."""

    def hasten(self) -> None:
        """Take note that no more is about to be published: what was can go."""

    def skip(self, count: int) -> None:
        """Tell them that so many items are missing."""

    def hear(self, *, is_heard: bool) -> None:
        """Say whether there are others for whom compiled handlers publish."""

    def collect(self) -> None:
        """Count what compiled handlers have published."""


class Troupe:
    """The audiences of a channel: a `triows._reactor.Stage`, for loops in Trio's thread.

    Args:
        relay: gives to others what a compiled handler has published in an audience.
        make_room: lets publishers that wait look again.
    """

    def __init__(
        self, relay: Callable[[Audience, Sequence[Entry]], None], make_room: Callable[[], None]
    ) -> None:
        self.counts = Counts()
        self.audiences: tuple[Audience, ...] = ()
        """Another one when they change, who may do so while each is told something."""
        self._outposts: dict[Thread, Outpost] = {}
        self._relay = relay
        self.make_room = make_room
        self._has_others = False

    def __len__(self) -> int:
        """How many members there are."""
        return sum(map(len, self.audiences))

    def open(self, topic: Audience) -> None:
        """See `Stage.open`."""
        self.audiences = (*self.audiences, topic)
        self._tell()

    def close(self, topic: Audience) -> None:
        """See `Stage.close`."""
        self.audiences = tuple(one for one in self.audiences if one is not topic)
        self._tell()

    def make_entry(self, opcode: int, payload: bytes) -> Entry:
        """See `Stage.make_entry`."""
        item = str(payload, "utf-8") if opcode == Opcode.TEXT else payload
        return Entry(item, 0)

    def relay(self, topic: Audience, entries: Sequence[Entry]) -> None:
        """See `Stage.relay`."""
        self._relay(topic, entries)

    def note_others(self, *, has_others: bool) -> None:
        """Say whether the channel has a use for what compiled handlers publish."""
        if has_others is not self._has_others:
            self._has_others = has_others
            self._tell()

    def publish(self, entry: Entry, origin: Audience | None = None) -> tuple[int, int, int]:
        """Give an entry to all members, but to those of its *origin*; returns as `Audience`."""
        count = dropped = closed = 0
        for audience in self.audiences:
            if audience is not origin:
                offered, lost, cut_off = audience.publish(entry)
                count += offered
                dropped += lost
                closed += cut_off
        return count, dropped, closed

    def has_room(self, size: int) -> bool:
        """Say whether no member has to be waited for with an item of *size* octets."""
        for audience in self.audiences:  # noqa: SIM110 - for each item; a generator costs more
            if not audience.has_room(size):
                return False
        return True

    def hasten(self) -> None:
        """See `Audience.hasten`."""
        for audience in self.audiences:
            audience.hasten()

    def skip(self, count: int) -> None:
        """Tell all members that so many items are missing."""
        for audience in self.audiences:
            audience.skip(count)

    def collect(self) -> Counts:
        """Return what was counted, in all threads."""
        for audience in self.audiences:
            audience.collect()
        total = Counts()
        for counts in (self.counts, *(one.counts for one in self._outposts.values())):
            total.add(counts)
        return total

    def outpost_in(self, thread: Thread) -> Outpost:
        """Return the audience in a loop of another thread, which is made if there is none."""
        outpost = self._outposts.get(thread)
        if outpost is None:
            outpost = self._outposts[thread] = Outpost(self, thread)
            self.open(outpost)
        return outpost

    def retire(self, outpost: Outpost) -> None:
        """Publish no more to a loop that is closed; what was counted there stays counted."""
        self.close(outpost)
        self._outposts = {at: one for at, one in self._outposts.items() if one is not outpost}
        self.counts.add(outpost.counts)
        self.make_room()

    def _tell(self) -> None:
        is_heard = self._has_others or len(self.audiences) > 1
        for audience in self.audiences:
            audience.hear(is_heard=is_heard)
