"""The connection to one Redis: what goes there, what comes from there, and doing without it."""

import logging
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import attrs
import coredis.exceptions
import trio

from triows._backoff import Backoff
from triows._nursery import unwrapped_nursery
from triows.redis import _scripts
from triows.redis._connection import LOST, Address, Connection
from triows.redis._outbox import Outbox
from triows.redis._room import Room
from triows.redis._wire import Parcel, unpack_bundle, unpack_logged, unpack_published

logger = logging.getLogger("triows")

PAGE: Final = 2**20
"""Octets of a room's log at which no more of it is read at once."""

CHANNELS: Final = 1_000
"""Channels that are subscribed to at once."""

PACE: Final = 0.001
"""Seconds from one batch to the next, at the least: what comes in between goes together."""


@attrs.frozen(kw_only=True)
class Settings:
    """How a broker uses its nodes; see `open_redis_broker`."""

    process: bytes
    prefix: str
    history: int
    log: int
    retention: int
    backlog: int
    queue: int
    backoff: Backoff
    timeout: float


class Node:
    """One Redis, and the rooms that it keeps.

    Args:
        url: as in `open_redis_broker`.
        settings: the broker's.

    Raises:
        ValueError: *url* is malformed.
    """

    def __init__(self, url: str, settings: Settings) -> None:
        self._address = Address.parse(url)
        self.name = self._address.name
        self.rooms: dict[str, Room] = {}
        self.is_up = True
        """Whether what is published goes there at once; hoped for until the first try fails."""
        self.losses = self.dropped = 0
        self.here: dict[tuple[str, str], int] = {}
        """Who is announced, by room and member, and how often."""
        self._settings = settings
        self._process = settings.process.hex()
        self._skipped = len(f"{settings.prefix}c:".encode())
        self._outbox = Outbox(settings.backlog)
        self._wake = trio.lowlevel.ParkingLot()
        self._roomy = trio.lowlevel.ParkingLot()
        self._is_under_way = False
        self._connection: Connection | None = None
        self._nursery: trio.Nursery | None = None

    # What rooms and publishers call.

    def open(self, room: Room) -> None:
        """Let a room hear of what is published."""
        self.rooms[room.name] = room
        if self._connection is not None:
            self._send_names(b"SUBSCRIBE", [room.name])
            self.attend(room)
        elif not self.is_up:
            room.go_local([])

    def close(self, room: Room) -> None:
        """Let it hear nothing more."""
        del self.rooms[room.name]
        room.close()
        if self._connection is not None:
            self._send_names(b"UNSUBSCRIBE", [room.name])

    @property
    def has_room(self) -> bool:
        """Whether a publisher need not wait: while Redis is away, none does."""
        return not self.is_up or self._outbox.has_room

    async def wait_for_room(self) -> None:
        """Wait until `has_room`."""
        while not self.has_room:
            await self._roomy.park()

    def publish(self, room: str, serial: int, item: Any) -> Parcel:
        """Publish when it can be; what no longer fits is dropped, oldest first.

        Raises:
            TypeError, UnicodeEncodeError: it cannot be sent; nothing was done.
        """
        parcel = self._outbox.append(room, self._settings.process, serial, item)
        if not self.is_up:
            for one in self._outbox.drop():
                self.dropped += 1
                if (known := self.rooms.get(one.room)) is not None:
                    known.echoes.note_dropped(one.parcel)
        if self._wake and not self._is_under_way:
            self._wake.unpark_all()
        return parcel

    def attend(self, room: Room) -> None:
        """See to it that a room gets what it lacks, and waits for who has no room."""
        if self._nursery is None or room.has_worker:
            return
        if room.full_ends or (room.lacks and self._connection is not None):
            room.has_worker = True
            self._nursery.start_soon(self._work, room)

    async def call(self, script: str, *args: Any) -> Any:
        """Run a script; raises one of `LOST` where that cannot be."""
        if self._connection is None:
            raise coredis.exceptions.ConnectionError(f"{self.name} is away")
        return await self._connection.call(script, *args)

    async def flush(self) -> None:
        """Wait until what waits to be published is, or Redis is away."""
        while self.is_up and self._outbox:
            await self._roomy.park()

    @property
    def waiting_octets(self) -> int:
        """Octets of items that wait to be published."""
        return self._outbox.octets

    # Its tasks.

    async def run(self) -> None:
        """Be connected whenever that is possible; cancelled in the end."""
        waits = 0
        async with unwrapped_nursery() as self._nursery:
            while True:
                began = trio.current_time()
                with _telling(f"no connection to Redis at {self.name}"):
                    await self._serve()
                if self._connection is not None and self._has_lasted(began):
                    waits = 0
                self._lose()
                await trio.sleep(self._settings.backoff.wait(waits))
                waits += 1

    def _has_lasted(self, since: float) -> bool:
        return trio.current_time() - since >= self._settings.backoff.healthy

    async def _serve(self) -> None:
        """Connect, and serve until the connection is lost."""
        settings = self._settings
        stream = await self._address.dial(settings.timeout)
        connection = Connection(stream, settings.timeout, settings.prefix, self._take_push)
        async with trio.open_nursery() as nursery:
            await nursery.start(connection.run)
            await connection.begin(self._address)
            self._connection = connection
            self.is_up = True
            names = list(self.rooms)
            for start in range(0, len(names), CHANNELS):
                self._send_names(b"SUBSCRIBE", names[start : start + CHANNELS])
            for room in self.rooms.values():
                room.lacks = True
                self.attend(room)
            nursery.start_soon(self._publish_all, connection)
            nursery.start_soon(self._beat)

    def _lose(self) -> None:
        """Go on without Redis."""
        self._connection = None
        self.losses += self.is_up
        self.is_up = False
        waiting: dict[str, list[Parcel]] = {}
        for one in self._outbox.waiting():
            waiting.setdefault(one.room, []).append(one.parcel)
        for room in self.rooms.values():
            room.go_local(waiting.get(room.name, []))
            self.attend(room)
        self._roomy.unpark_all()

    def _send_names(self, command: bytes, names: list[str]) -> None:
        assert self._connection is not None
        with _telling("cannot subscribe"):  # whoever reads from it learns it too
            self._connection.send_names(command, [name.encode() for name in names])

    def _take_push(self, push: list[Any]) -> None:
        match push:
            case [b"message", bytes(channel), bytes(said)]:
                self._pass_on(channel, said)

    def _pass_on(self, channel: bytes, said: bytes) -> None:
        try:
            name = channel[self._skipped :].decode()
            epoch, before, bundle = unpack_published(said)
            parcels = unpack_bundle(bundle, self._outbox.sent_to(name))
        except ValueError as error:
            logger.warning("what someone else has published to Redis is ignored: %s", error)
            return
        if parcels and (room := self.rooms.get(name)) is not None:
            room.arrive(epoch, before, parcels)
            self.attend(room)

    async def _publish_all(self, connection: Connection) -> None:
        """Publish what waits: what comes while a batch is under way goes in the next one."""
        began = -math.inf
        while True:
            if self._is_under_way or not self._outbox:
                await self._wake.park()
                continue
            if (ahead := began + PACE - trio.current_time()) > 0:
                await trio.sleep(ahead)
            began = trio.current_time()
            self._publish_batch(connection)

    def _publish_batch(self, connection: Connection) -> None:
        settings = self._settings
        arguments, batch = self._outbox.begin_batch(), self._outbox.batch
        connection.ask_script(
            self._take_answer, _scripts.PUBLISH, f"{self._process}.{batch}", self._process,
            batch, settings.log, settings.retention, *arguments,
        )  # fmt: skip
        self._is_under_way = True  # the answer comes later

    def _take_answer(self, answer: Any) -> None:
        """Note that the batch under way was taken; one that was not is sent again."""
        self._is_under_way = False
        if isinstance(answer, Exception):
            raise answer
        for name, parcels in self._outbox.end_batch().items():
            if (room := self.rooms.get(name)) is not None:
                room.echoes.expect(parcels)
        if self._outbox:
            self._wake.unpark_all()
        self._roomy.unpark_all()

    async def _work(self, room: Room) -> None:
        """Get a room what it lacks, until it lacks nothing or Redis is away."""
        try:
            while self.rooms.get(room.name) is room:
                room.drain()
                if full := room.full_ends:
                    await full[0].wait_for_room(room.next_item)
                elif room.lacks and self._connection is not None:
                    await self._read(room)
                else:
                    return
        except LOST as error:  # `_beat` finds out whether the connection is any good
            logger.info("cannot read the log of a room: %s", error)
        finally:
            room.has_worker = False

    async def _read(self, room: Room) -> None:
        connection, settings, after = self._connection, self._settings, room.position
        epoch, number, first, entries = await self.call(
            _scripts.READ, os.urandom(16).hex(), room.name, after.epoch,
            after.number, settings.history, PAGE, settings.retention,
        )  # fmt: skip
        if connection is self._connection:
            is_known = epoch.decode() == after.epoch
            logged = unpack_logged(entries, after.number if is_known else 0)
            if not is_known:
                logged = logged[max(0, len(logged) - settings.history) :]
            room.take_up(epoch.decode(), number, first, logged)

    # Presence.

    async def _beat(self) -> None:
        """Find out when Redis does not answer, and say who is here."""
        while True:
            await self.announce(list(self.here))
            await trio.sleep(self._settings.timeout)

    async def announce(self, members: list[tuple[str, str]]) -> None:
        """Say that *members*, pairs of room and name, are there, but for who leaves meanwhile."""
        for start in range(0, len(members) or 1, CHANNELS):
            some = [pair for pair in members[start : start + CHANNELS] if pair in self.here]
            flat = [part for pair in some for part in pair]
            holds = round(3_000 * self._settings.timeout)
            await self.call(_scripts.ANNOUNCE, self._process, holds, *flat)

    async def take_back(self, room: str, member: str) -> None:
        """Say that one is there no more."""
        await self.call(_scripts.TAKE_BACK, self._process, room, member)

    async def members(self, room: str) -> list[str]:
        """Ask who is there."""
        return [one.decode() for one in await self.call(_scripts.MEMBERS, room)]


@contextmanager
def _telling(what: str) -> Iterator[None]:
    """Take the loss of a connection for news."""
    try:
        yield
    except* LOST as group:
        logger.info("%s: %s", what, group.exceptions[0])
