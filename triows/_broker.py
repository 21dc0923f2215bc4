"""The seam between rooms and other machines: the `Broker` protocol, and the broker of one process.

`triows.Rooms` knows who is in a room here, and gives them what comes. A *broker* says what
comes: it takes what is published, numbers it, keeps a bounded log of it, and hands it to the
*end* that each `Rooms` opens for a room. `LocalBroker` does that for one process, at once.
What follows is what the protocol asks of a broker that reaches further, over Redis say, and
why it is as it is.

**Who numbers.** Every item of a room has a number, which the broker gives; consecutive, from 1,
within an *epoch*, a name for one life of the room's log. `Position(epoch, number)` is what a
subscriber that comes back shows to go on where it was, to this process or another. So the one
who numbers must be the one who keeps the log: for Redis that is a script, which increments the
number, appends to the stream, and publishes. An end is handed items in the order of their
numbers, those published here included: all processes see one order. The price is a round trip
to the broker before one's own item comes back, some 0.2 ms; two orders that differ from one
process to the next would cost more.

**Gaps.** An end that is handed an item whose number is not the next tells its subscribers, by
`triows.Lagged`: nothing is lost without a word. Where the broker's log reaches back far enough
it hands over what is missing first; the log is bounded in items for each room, and in rooms.
After a broken connection a broker reads each open room's log behind the last number that it has
handed over: from there on it is as if nothing had happened, or there is a gap of known size.

**While the other side is away** rooms go on here. `publish_nowait` then hands the item to the
ends of this process at once, under an epoch of its own, and keeps it, in a backlog bounded in
octets, for when the other side is back; what does not fit is dropped there, oldest first, and
counted. Back again, it publishes the backlog, takes up the shared epoch by `RoomEnd.begin`, and
skips what its own subscribers have had: each item carries the process that it came from.

**Nothing blocks.** Every method here but three is synchronous and does no I/O: a broker has a
task of its own that talks to its other side. `publish` waits for room, in the subscribers here
that must lose nothing, and in the broker's backlog. What comes from elsewhere cannot be made
to wait: a broker looks at `RoomEnd.has_room` and, where there is none, keeps the rest for
`RoomEnd.wait_for_room`, in bounds, beyond which it is a gap. One room's slow subscriber never
holds up another room.

**Batches.** A broker gathers what is published in a pass of Trio's scheduler and sends it in one
pipeline; what has come in one read it hands over in one go, by `RoomEnd.deliver_batch`. For
WebSockets, everything that is handed over in one go leaves in one system call for each member.

**What goes over the wire** is the broker's business: it is given items as they were published,
and those who share a broker agree on what these are: ``str`` and ``bytes`` by default.
"""

from collections import OrderedDict, deque
from collections.abc import Sequence
from typing import Any, Final, Protocol
from uuid import uuid4

import attrs
import trio

from triows._broadcast import Delivery


@attrs.frozen
class Position:
    """A place in a room's order: behind the item with this number."""

    epoch: str
    """Names one life of the room's log; numbers of different epochs have nothing in common."""
    number: int


class RoomEnd(Protocol):
    """A room as a broker sees it: its subscribers in one `triows.Rooms`."""

    def begin(self, position: Position, history: Sequence[Any] = ()) -> None:
        """Take up a numbering: the next item is the one behind *position*.

        Args:
            position: of the last item before.
            history: the items up to it, oldest first: what newcomers are given.
        """

    def has_room(self, item: Any) -> bool:
        """Say whether no subscriber would have to be waited for with this item."""

    async def wait_for_room(self, item: Any) -> None:
        """Wait until `has_room`, or the room is gone; a checkpoint."""

    def deliver(self, item: Any) -> Delivery:
        """Give the next item to every subscriber; there must be room."""

    def deliver_batch(self, items: Sequence[Any]) -> int:
        """Give the next items, one at least, to every subscriber, as far as there is room.

        Returns:
            How many that were.
        """

    def skip(self, count: int) -> None:
        """Tell every subscriber that so many items are missing, which have their numbers."""


class Link(Protocol):
    """A broker's side of an open room."""

    async def wait_ready(self) -> None:
        """Wait until `RoomEnd.begin` was called; a checkpoint.

        Not for long: while the other side is away a broker begins an epoch of its own.
        """

    def close(self) -> None:
        """Hand nothing more to the end; harmless twice."""


class Broker(Protocol):
    """Takes what is published to rooms, and hands it to all who have them open, in order."""

    def open(self, room: str, end: RoomEnd) -> Link:
        """Hand over what is published to *room* from now on."""

    def publish_nowait(self, room: str, item: Any) -> Delivery:
        """Publish to a room, wherever it is open.

        Returns:
            What became of the item among the subscribers in this process, as far as that is
            known at once: a broker that numbers elsewhere knows nothing yet.

        Raises:
            trio.WouldBlock: it would have to wait; nothing was published.
        """

    async def publish(self, room: str, item: Any) -> Delivery:
        """Publish to a room, waiting for room; otherwise as `publish_nowait`.

        Cancelling: ``Cancelled`` means that nothing was published.
        """


class LocalBroker:
    """The broker of one process, of one Trio run.

    Args:
        history: items of each room that its log keeps; 0 for none.
        idle_rooms: rooms that no one has open whose logs are kept, those used last: for
            members who come back.

    Raises:
        ValueError: one of them is negative.
    """

    def __init__(self, history: int = 0, idle_rooms: int = 0) -> None:
        if history < 0 or idle_rooms < 0:
            raise ValueError(f"history {history} and idle_rooms {idle_rooms} must be 0 or more")
        self._history = history
        self._idle_rooms = idle_rooms if history else 0  # with nothing in them
        self._open: dict[str, _Room] = {}
        self._idle: OrderedDict[str, _Room] = OrderedDict()

    def open(self, room: str, end: RoomEnd) -> Link:
        """See `Broker.open`."""
        found = self._open.get(room)
        if found is None:
            found = self._idle.pop(room, None) or _Room(self._history)
            self._open[room] = found
        end.begin(Position(found.epoch, found.number), tuple(found.log))
        return _LocalLink(self, room, found, end)

    def publish_nowait(self, room: str, item: Any) -> Delivery:
        """See `Broker.publish_nowait`; the item has reached every subscriber on return."""
        found = self._find(room)
        if found is None:
            return Delivery()
        if found.turn.locked() or not all(end.has_room(item) for end in found.ends):
            raise trio.WouldBlock
        return found.deliver(item)

    async def publish(self, room: str, item: Any) -> Delivery:
        """See `Broker.publish`; publishers to a room are served in order."""
        await trio.lowlevel.checkpoint_if_cancelled()
        delivery = Delivery()
        while (found := self._find(room)) is not None:
            async with found.turn:
                while lacking := [end for end in found.ends if not end.has_room(item)]:
                    await lacking[0].wait_for_room(item)
                if found is self._find(room):  # else all have left it, and perhaps begun another
                    delivery = found.deliver(item)
                    break
        await trio.lowlevel.cancel_shielded_checkpoint()
        return delivery

    def _find(self, room: str) -> "_Room | None":
        return self._open.get(room) or self._idle.get(room)

    def close_end(self, name: str, room: "_Room", end: RoomEnd) -> None:
        """Take an end out of its room, and the room out of those that are open."""
        del room.ends[end]
        if room.ends:
            return
        del self._open[name]
        self._idle[name] = room
        while len(self._idle) > self._idle_rooms:
            self._idle.popitem(last=False)


class _Room:
    """A room's log and who has it open."""

    def __init__(self, history: int) -> None:
        self.epoch = uuid4().hex
        self.number = 0
        self.log: deque[Any] = deque(maxlen=history)
        self.ends: dict[RoomEnd, None] = {}
        self.turn = trio.Lock()

    def deliver(self, item: Any) -> Delivery:
        oldest = self.log[0] if len(self.log) == self.log.maxlen != 0 else _NOTHING
        self.number += 1
        self.log.append(item)
        delivery = Delivery()
        for i, end in enumerate(tuple(self.ends)):
            try:
                delivery += end.deliver(item)
            except Exception:
                if i == 0:  # nothing was published
                    self._take_back(oldest)
                    raise
                end.skip(1)  # others have it; here it cannot be sent
        return delivery

    def _take_back(self, oldest: Any) -> None:
        """Forget the last item, for which the *oldest* had to go, if any had to."""
        self.number -= 1
        if self.log:
            self.log.pop()
        if oldest is not _NOTHING:
            self.log.appendleft(oldest)


_NOTHING: Final = object()


class _LocalLink:
    def __init__(self, broker: LocalBroker, name: str, room: _Room, end: RoomEnd) -> None:
        self._broker = broker
        self._name = name
        self._room = room
        self._end: RoomEnd | None = end
        room.ends[end] = None

    async def wait_ready(self) -> None:
        await trio.lowlevel.checkpoint()

    def close(self) -> None:
        if self._end is not None:
            end, self._end = self._end, None
            self._broker.close_end(self._name, self._room, end)
