"""The connection to one Redis: what goes there, what comes from there, and doing without it."""

import contextlib
import logging
import math
from collections import deque
from typing import Any, Final
from urllib.parse import unquote, urlsplit

import attrs
import coredis.exceptions
import trio
from coredis.connection import TCPConnection, TCPLocation

from triows._backoff import Backoff
from triows._nursery import unwrapped_nursery
from triows.redis import _scripts
from triows.redis._room import Room
from triows.redis._wire import Parcel, number_of, pack, unpack, unpack_published

logger = logging.getLogger("triows")

PAGE: Final = 1_000
"""Items of a room's log that are read at once."""

LARGEST_BATCH: Final = 1_000
"""Items that are published at once."""

CHANNELS: Final = 1_000
"""Channels that are subscribed to at once."""

LOST: Final = (
    coredis.exceptions.RedisError,
    OSError,
    TimeoutError,
    trio.BrokenResourceError,
    trio.ClosedResourceError,
)
"""What a connection that is lost, or never was, is told by."""


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


@attrs.define
class Outgoing:
    """An item that waits to be published, or how many of its room were lost before it could be."""

    room: str
    parcel: Parcel | None
    octets: bytes
    lost: int = 0


class Node:
    """One Redis, and the rooms that it keeps.

    Args:
        url: ``redis://`` or ``rediss://[USER:PASSWORD@]HOST[:PORT][/DATABASE]``.
        settings: the broker's.

    Raises:
        ValueError: *url* is malformed.
    """

    def __init__(self, url: str, settings: Settings) -> None:
        self.name, self._location, self._login = _parse(url)
        self.rooms: dict[str, Room] = {}
        self.is_up = True
        """Whether what is published goes there at once; hoped for until the first try fails."""
        self.losses = self.dropped = 0
        self.here: dict[tuple[str, str], int] = {}
        """Who is announced, by room and member, and how often."""
        self._settings = settings
        self._outgoing: deque[Outgoing] = deque()
        self._octets = 0
        self._in_flight = 0  # of the outgoing, how many the batch under way has
        self._batch = 0
        self._wake = trio.Event()
        self._roomy = trio.lowlevel.ParkingLot()
        self._connection: TCPConnection | None = None
        self._hashes: dict[str, bytes] = {}
        self._nursery: trio.Nursery | None = None

    # What rooms and publishers call.

    def open(self, room: Room) -> None:
        """Let a room hear of what is published."""
        self.rooms[room.name] = room
        if self._connection is not None:
            self._subscribe([room.name])
            self.attend(room)
        elif not self.is_up:
            room.go_local([])

    def close(self, room: Room) -> None:
        """Let it hear nothing more."""
        del self.rooms[room.name]
        if self._connection is not None:
            self._send("UNSUBSCRIBE", [room.name])

    @property
    def has_room(self) -> bool:
        """Whether a publisher need not wait: while Redis is away, none does."""
        return not self.is_up or self._octets < self._settings.backlog

    async def wait_for_room(self) -> None:
        """Wait until `has_room`."""
        while not self.has_room:
            await self._roomy.park()

    def publish(self, room: str, parcel: Parcel) -> None:
        """Publish when it can be; what no longer fits is dropped, oldest first."""
        octets = pack(parcel)
        self._outgoing.append(Outgoing(room, parcel, octets))
        self._octets += len(octets)
        if not self.is_up and self._octets > self._settings.backlog:
            self._drop()
        self._wake.set()

    def _drop(self) -> None:
        """Drop the oldest quarter of what is not under way; a note of how many takes its place."""
        under_way = [self._outgoing.popleft() for _ in range(self._in_flight)]
        lost: dict[str, Outgoing] = {}
        while self._outgoing and self._octets > self._settings.backlog * 3 // 4:
            one = self._outgoing.popleft()
            self._octets -= len(one.octets)
            lost.setdefault(one.room, Outgoing(one.room, None, b"")).lost += one.lost or 1
            if one.parcel is not None:
                self.dropped += 1
                if (room := self.rooms.get(one.room)) is not None:
                    room.note_dropped(1)
        self._outgoing.extendleft(reversed([*under_way, *lost.values()]))

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
        return await self._connection.create_request(
            b"EVALSHA", self._hashes[script], 0, self._settings.prefix, *args
        )

    # Its tasks.

    async def run(self) -> None:
        """Be connected whenever that is possible; cancelled in the end."""
        failures = 0
        async with unwrapped_nursery() as self._nursery:
            while True:
                try:
                    await self._serve()
                except* LOST as group:
                    logger.info("no connection to %s: %s", self.name, group.exceptions[0])
                was_up = self._connection is not None
                self._lose()
                failures = 0 if was_up else failures + 1
                await trio.sleep(self._settings.backoff.wait(failures))

    async def _serve(self) -> None:
        """Connect, and serve until the connection is lost."""
        connection = TCPConnection(
            self._location, stream_timeout=self._settings.timeout,
            connect_timeout=self._settings.timeout, **self._login,
        )  # fmt: skip
        async with trio.open_nursery() as nursery:
            await nursery.start(_run_until_lost, connection, nursery.cancel_scope)
            await self._load(connection)
            self._connection = connection
            self.is_up = True
            nursery.start_soon(self._hear, connection)
            for start in range(0, len(self.rooms), CHANNELS):
                self._subscribe(list(self.rooms)[start : start + CHANNELS])
            for room in self.rooms.values():
                room.lacks = True
                self.attend(room)
            nursery.start_soon(self._publish_all)
            nursery.start_soon(self._beat)

    async def _load(self, connection: TCPConnection) -> None:
        """Teach Redis the scripts; it may have forgotten them."""
        for script in _scripts.ALL:
            answer = await connection.create_request(b"SCRIPT LOAD", script)
            assert isinstance(answer, bytes)
            self._hashes[script] = answer

    def _lose(self) -> None:
        """Go on without Redis."""
        self._connection = None
        self.losses += self.is_up
        self.is_up = False
        waiting: dict[str, list[Parcel]] = {}
        for one in self._outgoing:
            if one.parcel is not None:
                waiting.setdefault(one.room, []).append(one.parcel)
        for room in self.rooms.values():
            room.go_local(waiting.get(room.name, []))
            self.attend(room)
        self._roomy.unpark_all()

    def _subscribe(self, names: list[str]) -> None:
        self._send("SUBSCRIBE", names)

    def _send(self, command: str, names: list[str]) -> None:
        assert self._connection is not None
        channels = [f"{self._settings.prefix}c:{name}" for name in names]
        with contextlib.suppress(*LOST):  # whoever reads from it learns it too
            self._connection.send_command(command.encode(), *channels)

    async def _hear(self, connection: TCPConnection) -> None:
        skipped = len(self._settings.prefix) + 2
        async for push in connection.push_messages:
            match push:
                case [b"message", bytes(channel), bytes(said)]:
                    room = self.rooms.get(channel.decode()[skipped:])
                    if room is not None:
                        room.arrive(*unpack_published(said))
                        self.attend(room)

    async def _publish_all(self) -> None:
        while True:
            if not self._outgoing:
                self._wake = trio.Event()
                await self._wake.wait()
            if not self._in_flight:
                self._in_flight = min(len(self._outgoing), LARGEST_BATCH)
                self._batch += 1
            await self.call(_scripts.PUBLISH, *self._arguments())
            for _ in range(self._in_flight):
                one = self._outgoing.popleft()
                self._octets -= len(one.octets)
                if one.parcel is not None and (room := self.rooms.get(one.room)) is not None:
                    room.expect(one.parcel)
            self._in_flight = 0
            self._roomy.unpark_all()

    def _arguments(self) -> list[Any]:
        settings = self._settings
        process = settings.process.hex()
        arguments: list[Any] = [process, self._batch, f"{process}.{self._batch}"]
        arguments += [settings.log, settings.retention]
        rooms: dict[str, tuple[int, list[bytes]]] = {}
        for at in range(self._in_flight):
            one = self._outgoing[at]
            lost, items = rooms.get(one.room, (0, []))
            if one.parcel is not None:
                items.append(one.octets)
            rooms[one.room] = (lost + one.lost, items)
        for name, (lost, items) in rooms.items():
            arguments += [name, lost, len(items), *items]
        return arguments

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
        except LOST as error:
            logger.info("cannot read the log of a room: %s", error)
        finally:
            room.has_worker = False

    async def _read(self, room: Room) -> None:
        connection, settings = self._connection, self._settings
        epoch, number, pieces = await self.call(
            _scripts.READ, room.name, room.position.epoch, room.position.number,
            f"{settings.process.hex()}-{trio.current_time()}", settings.history, PAGE,
            settings.retention,
        )  # fmt: skip
        if connection is self._connection:
            pairs = zip(pieces[::2], pieces[1::2], strict=True)
            entries = [(number_of(identity), unpack(item)) for identity, item in pairs]
            room.take_up(epoch.decode(), number, entries)

    async def _beat(self) -> None:
        """Find out when Redis does not answer, and say who is here."""
        while True:
            await self.announce(list(self.here))
            await trio.sleep(self._settings.timeout)

    async def announce(self, members: list[tuple[str, str]]) -> None:
        """Say that *members*, pairs of room and name, are there."""
        flat = [part for pair in members for part in pair]
        await self.call(_scripts.ANNOUNCE, math.ceil(3 * self._settings.timeout), *flat)

    async def take_back(self, room: str, member: str) -> None:
        """Say that one is there no more."""
        await self.call(_scripts.TAKE_BACK, room, member)

    async def members(self, room: str) -> list[str]:
        """Ask who is there."""
        return [one.decode() for one in await self.call(_scripts.MEMBERS, room)]

    @property
    def waiting_octets(self) -> int:
        """Octets of items that wait to be published."""
        return self._octets


async def _run_until_lost(
    connection: TCPConnection, scope: trio.CancelScope, task_status: trio.TaskStatus[None]
) -> None:
    """Drive a connection; then end what uses it."""
    await connection.run(task_status=task_status)
    scope.cancel()


def _parse(url: str) -> tuple[str, TCPLocation, dict[str, Any]]:
    parts = urlsplit(url)
    database = parts.path.strip("/") or "0"
    if parts.scheme not in {"redis", "rediss"} or not parts.hostname or not database.isdigit():
        raise ValueError(f"not redis://HOST[:PORT][/DATABASE]: {url.rpartition('@')[2][:80]!a}")
    port = parts.port or 6379
    login: dict[str, Any] = {"db": int(database)}
    if parts.username is not None or parts.password is not None:
        login["username"] = unquote(parts.username or "") or None
        login["password"] = unquote(parts.password or "")
    if parts.scheme == "rediss":
        import ssl  # noqa: PLC0415 - few need it

        login["ssl_context"] = ssl.create_default_context()
    name = f"{parts.hostname}:{port}/{database}"
    return name, TCPLocation(parts.hostname, port), login
