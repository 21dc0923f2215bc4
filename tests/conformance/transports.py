"""Ways to reach a server: a bounded pipe in memory, or TCP on loopback.

The pipe behaves as a socket does where it matters to a server: it holds a
bounded number of octets, so that a peer that does not read is felt; it can be
half-closed; and it can be cut off, as a reset cuts TCP. It knows nothing of
WebSocket.
"""

import contextlib
import operator
import socket
import struct
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from typing import Any

import attrs
import pytest
import trio
import trio.testing

CAPACITY = 65_536
"""Octets that one direction of a pipe holds before its writer waits."""


class Pipe:
    """One direction: octets that were written and not yet read."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        self.capacity = capacity
        self.octets = bytearray()
        self.is_ended = False
        """The writer promised to write no more."""
        self.is_cut = False
        """The reader has gone, or the connection was reset."""
        self._changed = trio.lowlevel.ParkingLot()

    def change(self) -> None:
        """Wake whoever waits for this pipe, to look again."""
        self._changed.unpark_all()

    async def put(self, octets: bytes | bytearray | memoryview) -> None:
        """Append *octets*, waiting whenever the pipe is full."""
        rest = memoryview(bytes(octets))
        while True:
            if self.is_ended:
                raise trio.ClosedResourceError("this direction was ended")
            if self.is_cut:
                raise trio.BrokenResourceError("the other side has gone")
            room = max(0, self.capacity - len(self.octets))
            self.octets += rest[:room]
            rest = rest[room:]
            self.change()
            if not rest:
                return
            await self._changed.park()

    async def get(self, max_octets: int) -> bytes:
        """Take up to *max_octets*, waiting for the first; empty at the end."""
        while not self.octets:
            if self.is_cut:
                raise trio.BrokenResourceError("connection reset")
            if self.is_ended:
                return b""
            await self._changed.park()
        taken = bytes(self.octets[:max_octets])
        del self.octets[:max_octets]
        self.change()
        return taken

    async def wait_room(self) -> None:
        """Wait until a write could make progress."""
        while len(self.octets) >= self.capacity and not (self.is_cut or self.is_ended):
            await self._changed.park()


class MemoryStream(trio.abc.HalfCloseableStream):
    """One end of a connection in memory."""

    def __init__(self, incoming: Pipe, outgoing: Pipe) -> None:
        self.incoming = incoming
        self.outgoing = outgoing
        self.is_closed = False
        self._busy: set[str] = set()

    @contextlib.contextmanager
    def _alone(self, verb: str) -> Iterator[None]:
        """Refuse a second task that does the same thing to this end."""
        if verb in self._busy:
            raise trio.BusyResourceError(f"another task is already {verb}")
        if self.is_closed:
            raise trio.ClosedResourceError("this end was closed")
        self._busy.add(verb)
        try:
            yield
            if self.is_closed:
                raise trio.ClosedResourceError("this end was closed meanwhile")
        except trio.BrokenResourceError:
            if self.is_closed:
                raise trio.ClosedResourceError("this end was closed meanwhile") from None
            raise
        finally:
            self._busy.discard(verb)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Write all of *data*, waiting for room."""
        with self._alone("sending"):
            await trio.lowlevel.checkpoint()
            await self.outgoing.put(data)

    async def wait_send_all_might_not_block(self) -> None:
        """Wait for room in the outgoing pipe."""
        with self._alone("sending"):
            await trio.lowlevel.checkpoint()
            if self.outgoing.is_ended:
                raise trio.ClosedResourceError("this direction was ended")
            await self.outgoing.wait_room()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Read what is there, waiting for the first octet; empty at the end."""
        if max_bytes is not None and operator.index(max_bytes) < 1:
            raise ValueError("max_bytes must be at least 1")
        with self._alone("receiving"):
            await trio.lowlevel.checkpoint()
            return await self.incoming.get(max_bytes or CAPACITY)

    async def send_eof(self) -> None:
        """End the outgoing direction; the incoming one stays open."""
        with self._alone("sending"):
            self.outgoing.is_ended = True
            self.outgoing.change()
            await trio.lowlevel.checkpoint()

    def close(self) -> None:
        """Close both directions at once, without waiting."""
        self.is_closed = True
        self.outgoing.is_ended = True
        self.incoming.is_cut = True
        self.outgoing.change()
        self.incoming.change()

    def reset(self) -> None:
        """Cut the connection off, losing what is under way, as TCP's RST does."""
        self.outgoing.octets.clear()
        self.outgoing.is_cut = True
        self.close()

    async def aclose(self) -> None:
        """Close both directions."""
        self.close()
        await trio.lowlevel.checkpoint()


def open_pair(capacity: int = CAPACITY) -> tuple[MemoryStream, MemoryStream]:
    """Two connected ends, each direction holding up to *capacity* octets."""
    there, back = Pipe(capacity), Pipe(capacity)
    return MemoryStream(back, there), MemoryStream(there, back)


class MemoryListener(trio.abc.Listener[MemoryStream]):
    """Where `connect` makes connections that `accept` hands to a server."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        self.capacity = capacity
        self._offer, self._backlog = trio.open_memory_channel[MemoryStream](2**20)

    def connect(self) -> MemoryStream:
        """Make a connection at once and return the client's end of it."""
        client, server = open_pair(self.capacity)
        self._offer.send_nowait(server)
        return client

    async def accept(self) -> MemoryStream:
        """Wait for the next connection and return the server's end of it."""
        try:
            return await self._backlog.receive()
        except trio.EndOfChannel:
            raise trio.ClosedResourceError("the listener was closed") from None

    async def aclose(self) -> None:
        """Refuse further connections."""
        self._offer.close()
        await self._backlog.aclose()


@attrs.define(eq=False)
class MemoryWire:
    """Connections in memory, under a virtual clock; only the stream driver takes them."""

    driver: str = "stream"
    patience: float = 3600.0
    """Virtual seconds to wait for anything that should happen."""
    is_virtual: bool = True
    connections: list[trio.abc.Stream] = attrs.field(factory=list)
    """The client's end of every connection made."""
    _listener: MemoryListener | None = None

    async def listen(self) -> trio.abc.Listener[trio.abc.Stream]:
        """Return a listener, for a server to accept from."""
        self._listener = MemoryListener()
        await trio.lowlevel.checkpoint()
        return self._listener

    async def connect(self) -> trio.abc.HalfCloseableStream:
        """Connect to the last listener."""
        assert self._listener is not None
        await trio.lowlevel.checkpoint()
        stream = self._listener.connect()
        self.connections.append(stream)
        return stream


@attrs.define(eq=False)
class TcpWire:
    """Connections over loopback, in real time."""

    driver: str
    patience: float = 10.0
    """Seconds to wait for anything that should happen."""
    is_virtual: bool = False
    connections: list[trio.abc.Stream] = attrs.field(factory=list)
    """The client's end of every connection made."""
    _listener: trio.SocketListener | None = None

    async def listen(self) -> trio.abc.Listener[trio.abc.Stream]:
        """Return a listener on a free port, for a server to accept from."""
        (self._listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        return self._listener

    async def connect(self) -> trio.abc.HalfCloseableStream:
        """Connect to the last listener."""
        assert self._listener is not None
        stream = await trio.open_tcp_stream(*self._listener.socket.getsockname()[:2])
        self.connections.append(stream)
        return stream


def reset(stream: trio.abc.Stream) -> None:
    """Cut *stream* off as a reset does: what is under way is lost."""
    if isinstance(stream, MemoryStream):
        stream.reset()
        return
    assert isinstance(stream, trio.SocketStream)
    stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    stream.socket.close()


Wire = MemoryWire | TcpWire

DRIVERS = ("stream",)
"""The drivers that a behavioural test runs over."""


def run_in_virtual_time(main: Callable[[], Awaitable[Any]], *, clock: Any, **options: Any) -> Any:
    """Run a test as pytest-trio does, on a clock that jumps when every task waits."""
    clock = clock or trio.testing.MockClock(autojump_threshold=0)
    return trio.run(main, clock=clock, **options)


WIRES = [
    pytest.param(MemoryWire, id="memory", marks=pytest.mark.trio(run=run_in_virtual_time)),
    *(pytest.param(partial(TcpWire, driver), id=f"tcp-{driver}") for driver in DRIVERS),
]
"""What the fixture ``wire`` goes through."""

in_memory = pytest.mark.parametrize("wire", WIRES[:1], indirect=True)
"""For tests that need the virtual clock, or octets counted exactly."""

over_tcp = pytest.mark.parametrize("wire", WIRES[1:], indirect=True)
"""For tests of what only a socket can do."""
