"""All the nodes together: a `triows.Broker`."""

import contextlib
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from hashlib import blake2b
from typing import Any, Final

import attrs
import trio

from triows._backoff import Backoff
from triows._broadcast import Delivery
from triows._broker import Link, RoomEnd
from triows._nursery import unwrapped_nursery
from triows.redis._connection import LOST
from triows.redis._node import Node, Settings
from triows.redis._room import Room

_UNKNOWN: Final = Delivery()


@attrs.frozen(kw_only=True)
class RedisStatistics:
    """A snapshot of a broker."""

    is_up: bool
    """Whether every node is connected."""
    losses: int
    """How often a connection was lost."""
    waiting_octets: int
    """Of items that wait to be published."""
    dropped: int
    """Items that were not published to other processes, having waited for too long a time."""
    rooms: int
    """Rooms that are open here."""


class RedisBroker:
    """A `triows.Broker` over one or more Redis nodes; see `open_redis_broker`."""

    def __init__(self, nodes: Sequence[Node], settings: Settings) -> None:
        self._nodes = nodes
        self._settings = settings
        self._serial = 0

    # Broker.

    def open(self, room: str, end: RoomEnd) -> Link:
        """See `Broker.open`.

        Raises:
            UnicodeEncodeError: *room* has half a character in it; nothing was opened.
        """
        room.encode()
        node = self._node_of(room)
        found = node.rooms.get(room)
        if found is None:
            settings = self._settings
            found = Room(room, settings.process, settings.history, settings.queue, self._serial)
            found.add(end)
            node.open(found)
        else:
            found.add(end)
        return _RedisLink(node, found, end, self._settings.timeout)

    def publish_nowait(self, room: str, item: Any) -> Delivery:
        """See `Broker.publish_nowait`: of Redis's answer nothing is known yet.

        Raises:
            trio.WouldBlock: a subscriber here that must lose nothing has no room, or the
                backlog has none; nothing was published.
            TypeError: *item* is neither ``str`` nor octets.
            UnicodeEncodeError: it, or *room*, has half a character in it.
        """
        node = self._node_of(room)
        found = node.rooms.get(room)
        if not node.has_room or (found is not None and self._must_wait(node, found, item)):
            raise trio.WouldBlock
        return self._publish(node, found, room, item)

    async def publish(self, room: str, item: Any) -> Delivery:
        """See `Broker.publish`: waits for subscribers here, and for the backlog.

        Raises:
            TypeError: *item* is neither ``str`` nor octets.
            UnicodeEncodeError: it, or *room*, has half a character in it.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        node = self._node_of(room)
        while True:
            found = node.rooms.get(room)
            if not node.has_room:
                await node.wait_for_room()
            elif found is not None and self._must_wait(node, found, item):
                node.attend(found)
                await _wait_for_room(found, item)
            else:
                break
        delivery = self._publish(node, found, room, item)
        await trio.lowlevel.cancel_shielded_checkpoint()
        return delivery

    # What is known.

    def statistics(self) -> RedisStatistics:
        """Return a snapshot."""
        nodes = self._nodes
        return RedisStatistics(
            is_up=all(node.is_up for node in nodes),
            losses=sum(node.losses for node in nodes),
            waiting_octets=sum(node.waiting_octets for node in nodes),
            dropped=sum(node.dropped for node in nodes),
            rooms=sum(len(node.rooms) for node in nodes),
        )

    # Presence.

    @asynccontextmanager
    async def announce(self, room: str, member: str) -> AsyncIterator[None]:
        """Be known to be in a room, to all processes, for the time of an ``async with`` block.

        It holds for three times the broker's timeout, and is said again once in each timeout.
        So that long after this process has died, or has lost Redis, it is forgotten.

        Args:
            room: which need not be open.
            member: who; also known to be there while another process says so.

        Raises:
            UnicodeEncodeError: one of them has half a character in it.

        Cancelling leaves the block, as leaving it does.
        """
        (room + member).encode()
        node, key = self._node_of(room), (room, member)
        node.here[key] = node.here.get(key, 0) + 1
        try:
            with contextlib.suppress(*LOST):  # it is said again
                await node.announce([key])
            yield
        finally:
            node.here[key] -= 1
            if not node.here[key]:
                del node.here[key]
                with trio.move_on_after(1, shield=True), contextlib.suppress(*LOST):
                    await node.take_back(room, member)

    async def members(self, room: str) -> list[str]:
        """Return who is announced in a room, by whichever process, each once, in no order.

        Raises:
            ConnectionError: Redis is away.
        """
        try:
            return await self._node_of(room).members(room)
        except LOST as error:
            raise ConnectionError(f"Redis does not say who is there: {error}") from error

    # Inside.

    def _node_of(self, room: str) -> Node:
        """Choose the node with the highest hash: when one is added, no room moves but to it."""
        if len(self._nodes) == 1:
            return self._nodes[0]
        return max(
            self._nodes,
            key=lambda node: blake2b(f"{node.name} {room}".encode(), digest_size=8).digest(),
        )

    def _must_wait(self, node: Node, room: Room, item: Any) -> bool:
        if not node.is_up and not room.is_idle:
            return True
        for end in room.ends:  # noqa: SIM110 - for each item; a generator costs more
            if not end.has_room(item):
                return True
        return False

    def _publish(self, node: Node, found: Room | None, room: str, item: Any) -> Delivery:
        if found is None:
            room.encode()
        parcel = node.publish(room, self._serial + 1, item)
        self._serial += 1
        if found is not None and not node.is_up:
            return found.publish_here(parcel)
        return _UNKNOWN


async def _wait_for_room(room: Room, item: Any) -> None:
    """Wait for who has no room for an item, or for those that are before it."""
    full = [end for end in room.ends if not end.has_room(item)]
    if full:
        await full[0].wait_for_room(item)
    else:
        await room.emptied.park()


class _RedisLink:
    """A broker's side of a room that is open."""

    def __init__(self, node: Node, room: Room, end: RoomEnd, patience: float) -> None:
        self._node = node
        self._room = room
        self._end = end
        self._patience = patience

    async def wait_ready(self) -> None:
        """See `Link.wait_ready`: where Redis says nothing in time, the room begins without it."""
        with trio.move_on_after(self._patience):
            await self._room.ready.wait()
        if not self._room.ready.is_set():
            self._room.go_local([])

    def close(self) -> None:
        """See `Link.close`."""
        if self._end in self._room.ends:
            del self._room.ends[self._end]
            if not self._room.ends:
                self._node.close(self._room)


@asynccontextmanager
async def open_redis_broker(
    *urls: str,
    prefix: str = "triows:",
    history: int = 100,
    log: int = 10_000,
    retention: int = 86_400,
    backlog: int = 2**24,
    queue: int = 10_000,
    backoff: Backoff = Backoff(first=0.1, longest=5.0),  # noqa: B008 - frozen
    timeout: float = 5.0,  # noqa: ASYNC109 - of each call to Redis
) -> AsyncIterator[RedisBroker]:
    """Join `triows.Rooms` of several processes, over Redis, for the time of the block.

        async with open_redis_broker("redis://127.0.0.1:6379") as broker:
            rooms = triows.Rooms(history=100, broker=broker)

    Processes that share a broker use the same *urls*, in any order, and the same *prefix*. All
    get the items of a room in one order. See `triows.redis` for how, and the how-to guide
    "Scale to several machines" for what is promised.

    Args:
        urls: ``redis://``, or ``rediss://`` for TLS, then ``[USER:PASSWORD@]HOST[:PORT]`` and
            perhaps ``/DATABASE``; or ``redis+unix:///PATH[?db=DATABASE]``. Of several independent
            nodes, each has its share of the rooms.
        prefix: of all keys and channels.
        history: items of each room that newcomers can be given, 0 or more: as for the `Rooms`.
        log: items of each room that Redis keeps at the least for those who were away, 1 or more.
        retention: seconds after which a room that no one uses is forgotten.
        backlog: octets that may wait to be published: at which publishers wait, and over which
            the oldest are dropped while Redis is away.
        queue: items of each room that may wait here for a slow subscriber; beyond that they
            are read from the log when there is room.
        backoff: when to connect again; it never gives up.
        timeout: seconds that Redis may take for an answer.

    Raises:
        ValueError: an argument is malformed, or there is no URL.

    It does not wait for Redis, and does not mind when it is away. Leaving the block waits until
    what waits to be published is, if Redis is there, for *timeout* at the most.

    Cancelling ends it at once; what is not published then is lost.
    """
    if not urls or history < 0 or min(log, retention, backlog, queue, timeout) <= 0:
        raise ValueError("there is a node at least; log, retention, backlog, queue, timeout > 0")
    settings = Settings(
        process=os.urandom(16), prefix=prefix, history=history, log=log, retention=retention,
        backlog=backlog, queue=queue, backoff=backoff, timeout=timeout,
    )  # fmt: skip
    nodes = [Node(url, settings) for url in urls]
    async with unwrapped_nursery() as nursery:
        for node in nodes:
            nursery.start_soon(node.run)
        yield RedisBroker(nodes, settings)
        with trio.move_on_after(timeout):
            for node in nodes:
                await node.flush()
        nursery.cancel_scope.cancel()
