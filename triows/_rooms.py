"""Rooms: broadcast channels by name, made at the first join, gone with the last member."""

from collections.abc import AsyncIterator, Hashable, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Generic, TypeVar

import attrs
import trio
from trio.lowlevel import enable_ki_protection

from triows._broadcast import (
    ATTACHED,
    Attachment,
    BroadcastChannel,
    Capacity,
    Delivery,
    Policy,
    Subscription,
    Target,
    Tell,
)
from triows._broker import Broker, Link, LocalBroker, Position

T = TypeVar("T")


@attrs.frozen
class Presence:
    """Someone came into a room, or left it."""

    room: str
    member: Hashable
    is_here: bool
    """Whether *member* is in the room from now on."""


class Membership(trio.abc.ReceiveChannel[T], Generic[T]):
    """What `Rooms.join` gives: the room's items, and a way to publish to it."""

    def __init__(
        self,
        room: "_Room[T]",
        member: Hashable,
        subscription: Subscription[T],
        after: Position | None,
    ) -> None:
        self._room = room
        self._subscription = subscription
        self._after = after
        self.member = member
        """Who joined."""

    @property
    def name(self) -> str:
        """The room's."""
        return self._room.name

    @property
    def members(self) -> tuple[Hashable, ...]:
        """Who is in the room now, each once, in the order in which they came."""
        return tuple(self._room.members)

    @property
    def position(self) -> Position:
        """Behind the item received last: what a later `Rooms.join` can go on from."""
        after, subscription = self._after, self._subscription
        if after is not None and self._is_old:
            return after
        return Position(subscription.epoch, subscription.number)

    @property
    def subscription(self) -> Subscription[T]:
        """The subscription that it receives by."""
        return self._subscription

    async def receive(self) -> T:
        """Receive the next item; see `Subscription.receive`."""
        while True:
            item = await self._subscription.receive()
            if not self._is_old:
                return item

    def receive_nowait(self) -> T:
        """Receive the next item if there is one; see `Subscription.receive_nowait`."""
        while True:
            item = self._subscription.receive_nowait()
            if not self._is_old:
                return item

    @property
    def _is_old(self) -> bool:
        """Whether the last item was had before joining, from a process ahead of this one."""
        after, last = self._after, self._subscription
        return after is not None and last.epoch == after.epoch and last.number <= after.number

    async def publish(self, item: T) -> Delivery:
        """Publish to the room, this member included; see `Rooms.publish`."""
        return await self._room.broker.publish(self.name, item)

    def publish_nowait(self, item: T) -> Delivery:
        """Publish to the room, this member included; see `Rooms.publish_nowait`."""
        return self._room.broker.publish_nowait(self.name, item)

    async def aclose(self) -> None:
        """Receive nothing more; leaving the block leaves the room."""
        await self._subscription.aclose()

    def __repr__(self) -> str:
        return f"<triows.Membership of {self.member!r} in {self.name!r}>"


class Rooms(Generic[T]):
    """Broadcast channels by name.

    A room is made when the first member joins, and gone with the last. Anyone may be in
    many rooms, and in one more than once.

    Args:
        history: the items published last that a newcomer is given first.
        broker: who carries items; by default a `LocalBroker` of this object's own, whose
            rooms have as much history.

    Raises:
        ValueError: *history* is negative.
    """

    def __init__(self, history: int = 0, broker: Broker | None = None) -> None:
        self._history = history
        self._broker: Broker = LocalBroker(history) if broker is None else broker
        self._rooms: dict[str, _Room[T]] = {}
        self._watched: dict[str | None, _Watched] = {}

    # Being in a room.

    @asynccontextmanager
    @enable_ki_protection
    async def join(
        self,
        name: str,
        member: Hashable = None,
        *,
        policy: Policy = Policy.BLOCK,
        capacity: int | Capacity = 256,
        after: Position | None = None,
    ) -> AsyncIterator[Membership[T]]:
        """Be in a room for the time of an ``async with`` block.

        Args:
            name: of the room.
            member: who joins, for `members` and `watch`; by default the membership itself.
            policy: as in `BroadcastChannel.subscribe`.
            capacity: as in `BroadcastChannel.subscribe`.
            after: a `Membership.position` to go on behind, from this process or another that
                shares the broker, instead of the whole history. Where the history does not
                reach back to it, or was begun anew, receiving starts with `Lagged`.

        Raises:
            What `BroadcastChannel.subscribe` raises.

        Cancelling, on entering: no one has joined.
        """
        room = self._enter(name)
        try:
            await room.link.wait_ready()
            async with room.channel.subscribe(
                policy, capacity, after=room.number_of(after)
            ) as subscription:
                membership = Membership(room, member, subscription, after)
                if member is None:
                    membership.member = membership
                self._appear(room, membership.member)
                try:
                    yield membership
                finally:
                    self._disappear(room, membership.member)
        finally:
            self._leave(room)

    @enable_ki_protection
    def attach(
        self,
        name: str,
        target: Target,
        member: Hashable = None,
        *,
        policy: Policy = Policy.DISCONNECT,
        capacity: int | Capacity = ATTACHED,
        lagged: Tell | None = None,
    ) -> Attachment:
        """Have a WebSocket be in a room, and sent what is published there, until it closes.

        With a broker whose rooms take a moment to begin, it is sent what is published from
        then on.

        Args:
            name: of the room.
            target: as in `BroadcastChannel.attach`.
            member: who joins; by default the connection.
            policy: as in `BroadcastChannel.attach`.
            capacity: as in `BroadcastChannel.attach`.
            lagged: as in `BroadcastChannel.attach`.

        Returns:
            What ends it, in a ``with`` block or by `Attachment.detach`.

        Raises:
            What `BroadcastChannel.attach` raises, or TypeError where *member* cannot be
            hashed; then no one has joined.
        """
        member = target if member is None else member
        hash(member)  # fails now, if it does, while no one has joined
        room = self._enter(name)
        try:
            attachment = room.channel.attach(target, policy, capacity, lagged=lagged)
        except BaseException:
            self._leave(room)
            raise
        self._appear(room, member)

        def leave() -> None:
            self._disappear(room, member)
            self._leave(room)

        attachment.call_on_detach(leave)
        return attachment

    def members(self, name: str) -> tuple[Hashable, ...]:
        """Return who is in a room now, each once, in the order in which they came."""
        room = self._rooms.get(name)
        return () if room is None else tuple(room.members)

    @asynccontextmanager
    @enable_ki_protection
    async def watch(
        self, name: str | None = None, capacity: int = 1_024
    ) -> AsyncIterator[Subscription[Presence]]:
        """Receive who joins and leaves, for the time of an ``async with`` block.

        What `members` returns first thing in the block is who was there before the first
        `Presence`. A watcher never holds up who joins: one that lags behind is told so, by
        `Lagged`, and asks for `members` again.

        Args:
            name: of a room, which need not exist; None for all.
            capacity: items that may wait to be received.

        Cancelling, on entering: nothing is watched.
        """
        watched = self._watched.setdefault(name, _Watched())
        watched.uses += 1
        try:
            async with watched.channel.subscribe(Policy.DROP_OLDEST, capacity) as subscription:
                yield subscription
        finally:
            watched.uses -= 1
            if not watched.uses:
                del self._watched[name]

    # Publishing.

    def publish_nowait(self, name: str, item: T) -> Delivery:
        """Publish to a room, whoever is in it, without waiting for any.

        Returns:
            What became of it; of nobody, if there is no such room.

        Raises:
            trio.WouldBlock: a member under ``Policy.BLOCK`` has no room for it, or the broker
                has none; nothing was published.
        """
        return self._broker.publish_nowait(name, item)

    async def publish(self, name: str, item: T) -> Delivery:
        """Publish to a room, waiting for members under ``Policy.BLOCK``.

        Returns as `publish_nowait` does.

        Cancelling: ``Cancelled`` means that nothing was published.
        """
        return await self._broker.publish(name, item)

    # What is known.

    def __contains__(self, name: object) -> bool:
        return name in self._rooms

    def __iter__(self) -> Iterator[str]:
        return iter(tuple(self._rooms))

    def __len__(self) -> int:
        return len(self._rooms)

    def __repr__(self) -> str:
        return f"<triows.Rooms, {len(self)} rooms>"

    # Inside.

    def _enter(self, name: str) -> "_Room[T]":
        room = self._rooms.get(name)
        if room is None:
            room = self._rooms[name] = _Room(name, self._history, self._broker)
        room.uses += 1
        return room

    def _leave(self, room: "_Room[T]") -> None:
        room.uses -= 1
        if not room.uses:
            del self._rooms[room.name]
            room.link.close()
            room.channel.close()

    def _appear(self, room: "_Room[T]", member: Hashable) -> None:
        count = room.members.get(member, 0)
        room.members[member] = count + 1
        if not count:
            self._tell(Presence(room.name, member, is_here=True))

    def _disappear(self, room: "_Room[T]", member: Hashable) -> None:
        room.members[member] -= 1
        if not room.members[member]:
            del room.members[member]
            self._tell(Presence(room.name, member, is_here=False))

    def _tell(self, presence: Presence) -> None:
        for watched in (presence.room, None):
            if watched in self._watched:
                self._watched[watched].channel.publish_nowait(presence)


class _Watched:
    """What those are told who watch a room, or all."""

    def __init__(self) -> None:
        self.channel = BroadcastChannel[Presence]()
        self.uses = 0


class _Room(Generic[T]):
    """A room: a `triows._broker.RoomEnd`."""

    def __init__(self, name: str, history: int, broker: Broker) -> None:
        self.name = name
        self.broker = broker
        self.channel = BroadcastChannel[T](history)
        self.members: dict[Hashable, int] = {}
        self.uses = 0
        self.link: Link = broker.open(name, self)

    def number_of(self, position: Position | None) -> int | None:
        """Return where in the channel's numbering a position is: -1 where it is of another."""
        if position is None:
            return None
        return position.number if position.epoch == self.channel.epoch else -1

    def begin(self, position: Position, history: Sequence[Any] = ()) -> None:
        self.channel.begin(position.number, history, position.epoch)

    def has_room(self, item: T) -> bool:
        return self.channel.has_room(item)

    async def wait_for_room(self, item: T) -> None:
        await self.channel.wait_for_room(item)

    def deliver(self, item: T) -> Delivery:
        return self.channel.publish_nowait(item)

    def deliver_batch(self, items: Sequence[T]) -> int:
        return self.channel.publish_batch(items)

    def skip(self, count: int) -> None:
        self.channel.skip(count)
