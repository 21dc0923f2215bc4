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
import tracemalloc
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
import trio.testing

import triows
from triows._reactor._loop import SWEEP_INTERVAL

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


@attrs.define
class Memory:
    """The octets that a block took, at the most, over what was taken before it."""

    peak: int = 0


Measured = Callable[[], contextlib.AbstractContextManager[Memory]]


@contextlib.contextmanager
def traced() -> Iterator[Memory]:
    """Trace what Python's allocator gives out, to both ends."""
    memory = Memory()
    tracemalloc.start()
    try:
        yield memory
        memory.peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@contextlib.contextmanager
def resident() -> Iterator[Memory]:
    """Watch the process: its resident octets at the peak, and those reserved in the end."""
    memory = Memory()
    Path("/proc/self/clear_refs").write_text("5")  # starts the peak anew: proc(5)
    before = process_sizes()
    yield memory
    after = process_sizes()
    memory.peak = max(after["VmHWM"] - before["VmRSS"], after["VmData"] - before["VmData"])


def process_sizes(pid: int | str = "self") -> dict[str, int]:
    """The sizes that the kernel tells of a process, in octets: this one, or that with a *pid*."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    pairs = [line.split() for line in lines if line.endswith(" kB")]
    return {name.rstrip(":"): 1024 * int(size) for name, size, _ in pairs}


async def echo(ws: triows.WebSocket) -> None:
    """Send every message back."""
    async for message in ws:
        await ws.send(message)


@attrs.define(eq=False)
class MemoryWire:
    """Connections in memory, under a virtual clock; only the stream driver takes them."""

    driver: str = "stream"
    patience: float = 3600.0
    """Virtual seconds to wait for anything that should happen."""
    silence: float = 0.01
    """Virtual seconds after which nothing more is to be expected."""
    lateness: float = 0.0
    """Virtual seconds by which a deadline may be missed, beyond what a test allows."""
    is_virtual: bool = True
    measured: Measured = traced
    """Measures the memory that a block takes."""
    connections: list[trio.abc.Stream] = attrs.field(factory=list)
    """The client's end of every connection made."""
    _listener: MemoryListener | None = None

    async def start(self, nursery: trio.Nursery, handler: Any, options: Any) -> triows.Server:
        """Start a server in *nursery*."""
        self._listener = MemoryListener()
        options = {"driver": self.driver, **options}
        serve = partial(triows.serve_listeners, handler or echo, [self._listener], **options)
        return await nursery.start(serve)

    async def connect(self) -> trio.abc.HalfCloseableStream:
        """Connect to the server that was started last."""
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
    silence: float = 0.01
    """Seconds after which nothing more is to be expected."""
    lateness: float = 0.0
    """Seconds by which a deadline may be missed, beyond what a test allows."""
    is_virtual: bool = False
    measured: Measured = traced
    """Measures the memory that a block takes."""
    connections: list[trio.abc.Stream] = attrs.field(factory=list)
    """The client's end of every connection made."""
    _address: Any = None

    async def start(self, nursery: trio.Nursery, handler: Any, options: Any) -> Any:
        """Start a server on a free port, in *nursery*."""
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        self._address = listeners[0].socket.getsockname()
        options = {"driver": self.driver, **options}
        serve = partial(triows.serve_listeners, handler or echo, listeners, **options)
        return await nursery.start(serve)

    async def connect(self) -> trio.abc.HalfCloseableStream:
        """Connect to the server that was started last."""
        stream = await trio.open_tcp_stream(*self._address[:2])
        self.connections.append(stream)
        return stream


@attrs.define(eq=False)
class ReactorWire(TcpWire):
    """Connections over loopback to a reactor that echoes."""

    driver: str = "reactor"
    measured: Measured = resident
    threads: int = 1
    callbacks: triows.Handler | None = None
    """What echoes instead of the loop itself."""

    async def start(self, nursery: trio.Nursery, handler: Any, options: Any) -> Any:
        """Start a reactor on a free port, in *nursery*."""
        assert handler is None, "the reactor only echoes: name this test in NOT_OVER_THE_REACTOR"
        reactor = triows.Reactor(self.callbacks, threads=self.threads, **options)
        (self._address,) = await reactor.listen(0)
        return await nursery.start(reactor.run)


def echo_in_place(_conn: triows.Connection, _payload: memoryview, _opcode: int) -> triows.Response:
    """Send every message back."""
    return triows.Response.ECHO


CALLBACKS: dict[str, Any] = {"threads": 0, "callbacks": triows.handler_fn(echo_in_place)}
"""A reactor whose handler is in Python, and runs in Trio's thread."""

RATE = 20
"""How much faster than real time it goes over a `QuickWire`."""


@attrs.define(eq=False)
class QuickWire(ReactorWire):
    """The same on a clock that runs fast, since a reactor's cannot jump.

    The reactor's own clock is the machine's: its deadlines are made shorter instead.
    """

    patience: float = 10.0 * RATE
    silence: float = 0.01 * RATE
    lateness: float = (2 * SWEEP_INTERVAL + 0.25) * RATE

    async def start(self, nursery: trio.Nursery, handler: Any, options: Any) -> Any:
        """Start a reactor with deadlines in real time; that of the handshake is Trio's."""
        limits = options.pop("limits", triows.Limits())
        keepalive = options.pop("keepalive", triows.KeepAlive())
        options["limits"] = attrs.evolve(
            limits,
            message_timeout=limits.message_timeout / RATE,
            close_timeout=limits.close_timeout / RATE,
        )
        options["keepalive"] = triows.KeepAlive(
            interval=keepalive.interval / RATE, timeout=keepalive.timeout / RATE
        )
        return await super().start(nursery, handler, options)


def reset(stream: trio.abc.Stream) -> None:
    """Cut *stream* off as a reset does: what is under way is lost."""
    if isinstance(stream, MemoryStream):
        stream.reset()
        return
    assert isinstance(stream, trio.SocketStream)
    stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    stream.socket.close()


Wire = MemoryWire | TcpWire

DRIVERS = ("stream", "reactor")
"""The drivers that a behavioural test with a handler of its own runs over."""


def run_in_virtual_time(main: Callable[[], Awaitable[Any]], *, clock: Any, **options: Any) -> Any:
    """Run a test as pytest-trio does, on a clock that jumps when every task waits."""
    clock = clock or trio.testing.MockClock(autojump_threshold=0)
    return trio.run(main, clock=clock, **options)


def run_in_quick_time(main: Callable[[], Awaitable[Any]], *, clock: Any, **options: Any) -> Any:
    """Run a test as pytest-trio does, on a clock that runs `RATE` times as fast."""
    clock = clock or trio.testing.MockClock(rate=RATE)
    return trio.run(main, clock=clock, **options)


WIRES = [
    pytest.param(MemoryWire, id="memory", marks=pytest.mark.trio(run=run_in_virtual_time)),
    *(pytest.param(partial(TcpWire, driver), id=f"tcp-{driver}") for driver in DRIVERS),
]
"""What the fixture ``wire`` goes through."""

REACTOR_WIRES = [
    pytest.param(ReactorWire, id="reactor"),
    pytest.param(partial(ReactorWire, threads=0), id="reactor-inline"),
    pytest.param(partial(ReactorWire, **CALLBACKS), id="reactor-callback"),
]
"""What it goes through besides where a server is tested that echoes."""

QUICK_WIRES = [
    pytest.param(wire, id=name, marks=pytest.mark.trio(run=run_in_quick_time))
    for wire, name in [
        (QuickWire, "reactor"),
        (partial(QuickWire, **CALLBACKS), "reactor-callback"),
    ]
]
"""What it goes through, besides memory, where a server is tested over time."""

in_memory = pytest.mark.parametrize("wire", WIRES[:1], indirect=True)
"""For tests of clients that need the virtual clock, or octets counted exactly."""
