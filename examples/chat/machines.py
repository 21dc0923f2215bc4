"""The other machines: what is said goes round over Redis, and comes back in one order for all.

Of a room its messages and its signs of life go round, and who is in it. Names and sessions do not:
they are each machine's own.
"""

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Final, Protocol

import attrs
import trio

import triows
from chat.protocol import Event, Refused, encode
from triows.redis import RedisBroker, open_redis_broker

SIGNS: Final = 1_000
"""Signs of life of a room that Redis keeps, for machines whose connection was lost for a moment."""


class Room(Protocol):
    """What comes from other machines goes there."""

    name: str

    def begin(self, log: str, number: int, events: Sequence[Event]) -> None:
        """Go on behind message *number* of *log*; *events* are the last ones up to it."""

    def take(self, event: Event) -> None:
        """Be told the next message."""

    def skip(self, count: int) -> None:
        """Be told that so many messages are missing."""

    def show(self, event: Event) -> None:
        """Be told what is true for the moment."""


class _End:
    """A room as a broker sees it: no one here is waited for."""

    def __init__(self, room: Room) -> None:
        self.room = room

    def begin(self, position: triows.Position, history: Sequence[str] = ()) -> None:
        """See `triows.RoomEnd`."""
        self.room.begin(position.epoch, position.number, [json.loads(item) for item in history])

    def has_room(self, item: str) -> bool:  # noqa: ARG002
        """See `triows.RoomEnd`."""
        return True

    async def wait_for_room(self, item: str) -> None:  # noqa: ARG002
        """See `triows.RoomEnd`."""
        await trio.lowlevel.checkpoint()

    def deliver(self, item: str) -> triows.Delivery:
        """See `triows.RoomEnd`."""
        self.room.take(json.loads(item))
        return triows.Delivery()

    def deliver_batch(self, items: Sequence[str]) -> int:
        """See `triows.RoomEnd`."""
        for item in items:
            self.deliver(item)
        return len(items)

    def skip(self, count: int) -> None:
        """See `triows.RoomEnd`."""
        self.room.skip(count)


class _Signs(_End):
    """The same for signs of life, which have no past."""

    def begin(self, position: triows.Position, history: Sequence[str] = ()) -> None:
        """See `triows.RoomEnd`."""

    def deliver(self, item: str) -> triows.Delivery:
        """See `triows.RoomEnd`."""
        self.room.show(json.loads(item))
        return triows.Delivery()

    def skip(self, count: int) -> None:
        """See `triows.RoomEnd`."""


@attrs.define(eq=False)
class Machines:
    """What a directory shares with those on other machines."""

    _said: RedisBroker
    _signs: RedisBroker
    _nursery: trio.Nursery
    _links: dict[Room, list[triows.Link]] = attrs.field(factory=dict)
    _here: dict[tuple[str, str], trio.CancelScope] = attrs.field(factory=dict)

    async def meet(self, room: Room) -> list[str]:
        """Hear what is said in a room from now on; returns who is there on any machine."""
        if room not in self._links:
            self._links[room] = [
                self._said.open(room.name, _End(room)),
                self._signs.open(room.name, _Signs(room)),
            ]
        for link in self._links[room]:
            await link.wait_ready()
        return await self.members(room)

    def part(self, room: Room) -> None:
        """Hear nothing more of it."""
        for link in self._links.pop(room, ()):
            link.close()

    async def members(self, room: Room) -> list[str]:
        """Return who is in a room on any machine; no one while Redis is away."""
        try:
            return await self._said.members(room.name)
        except ConnectionError:
            return []

    def say(self, room: Room, event: Event) -> None:
        """Send a message round.

        Raises:
            Refused: there is too much to say.
        """
        try:
            self._said.publish_nowait(room.name, encode(event))
        except trio.WouldBlock:
            raise Refused("rate", "slowly: the chat has too much to do") from None

    def sign(self, room: Room, event: Event) -> None:
        """Send round what is true for the moment, unless there is too much to say."""
        with suppress(trio.WouldBlock):
            self._signs.publish_nowait(room.name, encode(event))

    def announce(self, room: Room, nick: str) -> None:
        """Let all machines know that someone is in a room."""
        scope = self._here[room.name, nick] = trio.CancelScope()
        self._nursery.start_soon(self._stay, scope, room.name, nick)

    def withdraw(self, room: Room, nick: str) -> None:
        """Let them know that it is so no more."""
        self._here.pop((room.name, nick)).cancel()

    async def _stay(self, scope: trio.CancelScope, room: str, nick: str) -> None:
        with scope:
            async with self._said.announce(room, nick):
                await trio.sleep_forever()


@asynccontextmanager
async def open_machines(urls: Sequence[str], history: int) -> AsyncIterator[Machines]:
    """Join the other machines for the time of an ``async with`` block.

    Args:
        urls: of the Redis servers that all share.
        history: messages of each room that it remembers.
    """
    async with (
        open_redis_broker(*urls, prefix="chat:", history=history) as said,
        open_redis_broker(*urls, prefix="chat-signs:", history=0, log=SIGNS) as signs,
        trio.open_nursery() as nursery,
    ):
        yield Machines(said, signs, nursery)
        nursery.cancel_scope.cancel()
