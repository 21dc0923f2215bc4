"""For tests of what is built on triows: connections in memory, without sockets.

Nothing here waits for anything but other tasks. Under a virtual clock, such as the
fixture ``autojump_clock`` of pytest-trio, keepalive and timeouts pass in no time.
"""

import errno
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import trio

from triows._client import open_websocket
from triows._kernels import ensure_warm
from triows._nursery import unwrapped_nursery
from triows._options import KeepAlive, Limits
from triows._server import serve_listeners
from triows._websocket import WebSocket

__all__ = ["MemoryServer", "memory_pair", "memory_server"]


@asynccontextmanager
async def memory_pair(
    *,
    handler: Callable[[WebSocket], Awaitable[Any]] | None = None,
    url: str = "ws://memory.test/",
    subprotocols: Sequence[str] = (),
    limits: Limits = Limits(),  # noqa: B008 - frozen
    keepalive: KeepAlive = KeepAlive(),  # noqa: B008 - frozen
    capacity: int = 65_536,
) -> AsyncIterator[tuple[WebSocket, WebSocket]]:
    """Connect a client and a server in memory; the block gets both, the client first.

    Both are what `open_websocket` and `serve` make, opening handshake included; only the
    network between them is not real. Leaving the block closes the client with 1000.

    Args:
        handler: what the server runs; by default nothing, so that the block can use the
            server's end itself. An exception that it raises is logged, and closes with
            1011, as in `serve`.
        url: what the client asks for.
        subprotocols: those that the client offers and the server speaks.
        limits: of both ends.
        keepalive: of both ends.
        capacity: octets under way in one direction at which a sender waits, 1 or more.

    Raises:
        ValueError: an argument is out of range.

    Cancelling ends both, after the client's closing handshake.
    """
    ensure_warm()  # in this thread: under a virtual clock waiting for another makes time pass
    ours, theirs = _open_streams(capacity)
    offer, accepted = trio.open_memory_channel[WebSocket](1)

    async def host(ws: WebSocket) -> None:
        offer.send_nowait(ws)
        if handler is None:
            await trio.sleep_forever()
        else:
            await handler(ws)

    serve = partial(serve_listeners, subprotocols=subprotocols, limits=limits, keepalive=keepalive)
    async with unwrapped_nursery() as nursery:
        await nursery.start(serve, host, [_OneConnection(theirs)])
        async with open_websocket(
            url, stream=ours, subprotocols=subprotocols, limits=limits, keepalive=keepalive
        ) as client:
            yield client, await accepted.receive()
        nursery.cancel_scope.cancel()


class MemoryServer:
    """A server in memory that can die and come back; see `memory_server`.

    Attributes:
        attempts: the times, by Trio's clock, at which someone dialled.
    """

    def __init__(self, capacity: int) -> None:
        self.attempts: list[float] = []
        self.is_up = True
        """Whether whoever dials is connected, not refused."""
        self._capacity = capacity
        self._ends: list[_End] = []
        self.listener = _MemoryListener()
        """Where the connections arrive."""

    async def dial(self, host: str, port: int) -> trio.abc.Stream:  # noqa: ARG002 - Dial's
        """Connect, whatever *host* and *port* are: for ``reconnecting(dial=server.dial)``.

        Raises:
            ConnectionRefusedError: the server is down.
        """
        await trio.lowlevel.checkpoint()
        self.attempts.append(trio.current_time())
        if not self.is_up:
            raise ConnectionRefusedError(errno.ECONNREFUSED, "the server is down")
        ours, theirs = _open_streams(self._capacity)
        self._ends.append(theirs)
        self.listener.offer(theirs)
        return ours

    def die(self) -> None:
        """Cut off every connection, losing what is under way, and refuse new ones."""
        self.is_up = False
        for end in self._ends:
            end.cut_off()
        self._ends.clear()

    def come_back(self) -> None:
        """Take connections again."""
        self.is_up = True


@asynccontextmanager
async def memory_server(
    handler: Callable[[WebSocket], Awaitable[Any]],
    *,
    capacity: int = 65_536,
    **settings: Any,
) -> AsyncIterator[MemoryServer]:
    """Serve in memory for the time of the block, to clients that dial `MemoryServer.dial`.

    Args:
        handler: what is run for each connection, as in `serve`.
        capacity: octets under way in one direction at which a sender waits, 1 or more.
        settings: further ones of `serve_listeners`.

    Cancelling ends the server as it does `serve`.
    """
    ensure_warm()  # in this thread: under a virtual clock waiting for another makes time pass
    server = MemoryServer(capacity)
    serve = partial(serve_listeners, handler, [server.listener], **settings)
    async with unwrapped_nursery() as nursery:
        await nursery.start(serve)
        yield server
        nursery.cancel_scope.cancel()


class _MemoryListener(trio.abc.Listener["_End"]):
    """A listener at which connections arrive that were dialled."""

    def __init__(self) -> None:
        self._offer, self._arrivals = trio.open_memory_channel[_End](math.inf)

    def offer(self, end: "_End") -> None:
        """Let a connection arrive."""
        self._offer.send_nowait(end)

    async def accept(self) -> "_End":
        return await self._arrivals.receive()

    async def aclose(self) -> None:
        await self._arrivals.aclose()


class _OneConnection(trio.abc.Listener["_End"]):
    """A listener at which one connection arrives."""

    def __init__(self, stream: "_End") -> None:
        self._streams = [stream]

    async def accept(self) -> "_End":
        await trio.lowlevel.checkpoint()
        if not self._streams:
            await trio.sleep_forever()
        return self._streams.pop()

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


class _Pipe:
    """One direction: octets that were written and not read yet."""

    def __init__(self, capacity: int) -> None:
        self.octets = bytearray()
        self.capacity = capacity
        self.is_ended = False
        """The writer will write no more."""
        self.is_cut = False
        """The reader will read no more."""
        self.changed = trio.lowlevel.ParkingLot()

    def end(self) -> None:
        """Note that the writer will write no more."""
        self.is_ended = True
        self.changed.unpark_all()

    def cut(self) -> None:
        """Note that the reader will read no more."""
        self.is_cut = True
        self.changed.unpark_all()


class _End(trio.abc.HalfCloseableStream):
    """One end of a connection."""

    def __init__(self, incoming: _Pipe, outgoing: _Pipe) -> None:
        self._incoming = incoming
        self._outgoing = outgoing

    def cut_off(self) -> None:
        """End both directions here, losing what is under way, as the death of a machine does."""
        self._outgoing.octets.clear()
        self._outgoing.end()
        self._incoming.cut()

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await trio.lowlevel.checkpoint()
        pipe, rest = self._outgoing, bytes(data)
        while True:
            self._check_open(pipe.is_ended)
            if pipe.is_cut:
                raise trio.BrokenResourceError("the other end was closed")
            room = pipe.capacity - len(pipe.octets)
            pipe.octets += rest[:room]
            rest = rest[room:]
            pipe.changed.unpark_all()
            if not rest:
                return
            await pipe.changed.park()

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()
        pipe = self._outgoing
        while len(pipe.octets) >= pipe.capacity and not (pipe.is_ended or pipe.is_cut):
            await pipe.changed.park()

    async def send_eof(self) -> None:
        self._outgoing.end()
        await trio.lowlevel.checkpoint()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        await trio.lowlevel.checkpoint()
        pipe = self._incoming
        while not pipe.octets:
            self._check_open(pipe.is_cut)
            if pipe.is_ended:
                return b""
            await pipe.changed.park()
        taken = bytes(pipe.octets[:max_bytes])
        del pipe.octets[:max_bytes]
        pipe.changed.unpark_all()
        return taken

    async def aclose(self) -> None:
        self._outgoing.end()
        self._incoming.cut()
        await trio.lowlevel.checkpoint()

    def _check_open(self, is_closed: bool) -> None:  # noqa: FBT001 - it is all that it takes
        if is_closed:
            raise trio.ClosedResourceError("this end was closed")


def _open_streams(capacity: int) -> tuple[_End, _End]:
    """Make two connected ends."""
    if capacity < 1:
        raise ValueError(f"a capacity is 1 or more, not {capacity}")
    there, back = _Pipe(capacity), _Pipe(capacity)
    return _End(back, there), _End(there, back)
