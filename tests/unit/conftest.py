"""A channel at one end of a stream, an independent peer at the other, and no handshake.

A test that takes ``connect`` runs over every way (a pipe in memory, TLS over such
a pipe, TCP on loopback) and for both roles of the channel. Memory and TLS run
under a virtual clock that jumps whenever every task waits.
"""

import contextlib
import os
import shutil
import socket
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
import trio.testing

from tests.conformance.peer import CLOSE, PING, TEXT, Frame, Peer, build_frame, xor
from tests.conformance.transports import open_pair, run_in_virtual_time
from triows import (
    ClientEngine,
    KeepAlive,
    Limits,
    PerMessageDeflate,
    Request,
    ServerEngine,
    WebSocket,
)
from triows._kernels import cache_directory
from triows._options import NO_KEEPALIVE
from triows._stream import StreamDriver
from triows._websocket import Opening

REQUEST = Request(head=b"", scheme="ws", remote=None, is_upgrade=True)


@pytest.fixture(scope="session")
def cold_start(warm: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A cache that ``triows warmup --clear`` has filled anew, and what that printed."""
    root = tmp_path_factory.mktemp("cold_start")
    full = cache_directory()
    assert full is not None
    shutil.copytree(full, root / full.name)
    output = subprocess.check_output(
        [sys.executable, "-m", "triows", "warmup", "--clear"],
        env={**os.environ, "TRIOWS_CACHE_DIR": str(root)},
        stderr=subprocess.STDOUT,
        text=True,
        timeout=100,
    )
    return root, output


class ServingPeer(Peer):
    """The peer of a client: it masks nothing, and holds the client to masking (§5.1)."""

    async def send_frame(self, opcode: int, payload: bytes = b"", **wrongs: object) -> None:
        """Send one frame; the keywords are those of `build_frame`."""
        await self.send(build_frame(opcode, payload, **{"mask": None, **wrongs}))

    async def receive_frame(self) -> Frame:
        """The next frame, refused if it is not masked or its length not minimal."""
        first, second = await self._take(2)
        assert second & 0x80, "a client must mask"
        assert not first & (0x30 if self.extension else 0x70), "reserved bits without negotiation"
        size = second & 0x7F
        if size >= 126:
            least, width = (126, 2) if size == 126 else (65_536, 8)
            size = int.from_bytes(await self._take(width))
            assert size >= least, "length not minimal"
        mask = await self._take(4)
        opcode, fin = first & 0x0F, bool(first & 0x80)
        assert opcode < CLOSE or (fin and size < 126)
        return Frame(opcode, xor(await self._take(size), mask), fin, bool(first & 0x40))


@attrs.define(eq=False)
class Pair:
    """A running channel and its peer."""

    ws: WebSocket
    peer: Peer
    role: str
    start: Callable[[], None]
    """Serves the connection, where `connect` was told not to."""

    def frame(self, opcode: int, payload: bytes = b"", **wrongs: Any) -> bytes:
        """A frame as the peer would send it."""
        if self.role == "client":
            wrongs = {"mask": None, **wrongs}
        return build_frame(opcode, payload, **wrongs)

    def text(self, *messages: bytes) -> bytes:
        """Text messages as the peer would send them."""
        return b"".join(self.frame(TEXT, message) for message in messages)

    def close_frame(self, code: int | None = 1000, reason: bytes = b"") -> bytes:
        """A Close frame as the peer would send it."""
        return self.frame(CLOSE, b"" if code is None else code.to_bytes(2, "big") + reason)

    async def close(self, code: int | None = 1000, reason: bytes = b"") -> None:
        """Close from the peer's side, as its role has to; what the channel sends is thrown away."""
        await self.peer.send(self.close_frame(code, reason))
        await self.leave()

    async def leave(self) -> None:
        """Read until the channel's Close; a server then drops the transport, a client waits."""
        while (await self.peer.receive_frame()).opcode != CLOSE:
            pass
        if self.role == "client":
            await self.peer.aclose()
        else:
            await self.peer.receive_end()

    async def answer_close(self) -> Frame:
        """Receive the channel's Close, which must be next, and answer it."""
        frame = await self.peer.receive_frame()
        assert frame.opcode == CLOSE, frame
        with contextlib.suppress(trio.BrokenResourceError):
            await self.peer.send(self.frame(CLOSE, frame.payload))
        if self.role == "client":
            await self.peer.aclose()
        else:
            await self.peer.receive_end()
        return frame

    async def answer_pings(self) -> None:
        """Answer every Ping until the connection ends, and take no notice of the rest."""
        with contextlib.suppress(
            trio.BrokenResourceError, trio.ClosedResourceError, AssertionError
        ):
            while True:
                frame = await self.peer.receive_frame()
                if frame.opcode == PING:
                    await self.peer.send_frame(0xA, frame.payload)


Streams = tuple[trio.abc.Stream, Any]


@attrs.frozen
class Way:
    """What lies between the channel and its peer."""

    name: str
    tls: "Callable[[], tuple[ssl.SSLContext, ssl.SSLContext]] | None" = None

    @property
    def is_virtual(self) -> bool:
        """Whether time is, and nothing outside this process is involved."""
        return self.name != "tcp"

    async def open(self, capacity: int) -> Streams:
        """Make a connection: the channel's end, and the peer's."""
        if self.name == "tcp":
            return await _open_tcp(capacity)
        ours, theirs = open_pair(capacity)
        if self.tls is None:
            return ours, theirs
        server_context, client_context = self.tls()
        secured = trio.SSLStream(ours, server_context, server_side=True)
        peer = trio.SSLStream(theirs, client_context, server_hostname="server.example")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(secured.do_handshake)
            nursery.start_soon(peer.do_handshake)
        return secured, peer


async def _open_tcp(capacity: int) -> Streams:
    listening = trio.socket.socket()
    connecting = trio.socket.socket()
    capacity = max(capacity, 65_536)  # with less than a segment of loopback, TCP crawls
    for one in (listening, connecting):
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, capacity)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, capacity)
    with listening:
        await listening.bind(("127.0.0.1", 0))
        listening.listen()
        await connecting.connect(listening.getsockname())
        accepted, _ = await listening.accept()
    return trio.SocketStream(accepted), trio.SocketStream(connecting)


VIRTUAL = pytest.mark.trio(run=run_in_virtual_time)
WAYS = [
    pytest.param("memory", marks=VIRTUAL),
    pytest.param("tls", marks=VIRTUAL),
    pytest.param("tcp"),
]
over_memory = pytest.mark.parametrize("way", WAYS[:1], indirect=True)
over_virtual = pytest.mark.parametrize("way", WAYS[:2], indirect=True)
over_tcp = pytest.mark.parametrize("way", WAYS[2:], indirect=True)
over_tls = pytest.mark.parametrize("way", WAYS[1:2], indirect=True)
as_server = pytest.mark.parametrize("role", ["server"])
as_client = pytest.mark.parametrize("role", ["client"])


@pytest.fixture(params=WAYS)
def way(
    request: pytest.FixtureRequest,
    warm: None,
    tls_contexts: tuple[ssl.SSLContext, ssl.SSLContext],
) -> Way:
    """Each transport in turn."""
    return Way(request.param, (lambda: tls_contexts) if request.param == "tls" else None)


@pytest.fixture(params=["server", "client"])
def role(request: pytest.FixtureRequest) -> str:
    """Which end the channel is."""
    return request.param


Connect = Callable[..., Awaitable[Pair]]


@pytest.fixture
async def connect(way: Way, role: str, nursery: trio.Nursery) -> AsyncIterator[Connect]:
    """What makes a running channel and its peer."""
    pairs: list[Pair] = []

    async def connect(
        *,
        limits: Limits = Limits(),  # noqa: B008 - frozen
        keepalive: KeepAlive = NO_KEEPALIVE,
        leftover: bytes = b"",
        capacity: int = 65_536,
        is_running: bool = True,
        deflate: PerMessageDeflate | None = None,
    ) -> Pair:
        ours, theirs = await way.open(capacity)
        make = ServerEngine if role == "server" else ClientEngine
        now = trio.current_time()
        engine = make(limits=limits, keepalive=keepalive, now=now, deflate=deflate)
        ws = WebSocket(
            partial(StreamDriver, ours, engine), limits=limits, opening=Opening(request=REQUEST)
        )
        patience = 3600.0 if way.is_virtual else 10.0
        peer = (Peer if role == "server" else ServingPeer)(theirs, patience)
        peer.extension = "permessage-deflate" if deflate else ""
        pairs.append(Pair(ws, peer, role, partial(nursery.start_soon, ws.run, leftover)))
        if is_running:
            pairs[-1].start()
        return pairs[-1]

    yield connect
    for pair in pairs:
        pair.ws.abort("the test is over")
        await trio.aclose_forcefully(pair.peer.stream)


class CancelAt:
    """Awaits a coroutine and cancels it at its *n*-th checkpoint, counted from 1.

    Args:
        n: which; 0 cancels before the coroutine begins.
        when: "waiting", as the task is put to sleep there; "woken", when it has
            been woken but has not run yet, so that only a later checkpoint can be
            the one that raises.

    Attributes:
        steps: the checkpoints that the coroutine went through.
        was_cancelled: whether it raised ``Cancelled``.
    """

    def __init__(self, n: int, when: str = "waiting") -> None:
        self.n = n
        self.when = when
        self.steps = 0
        self.was_cancelled = False
        self._scope = trio.CancelScope()

    async def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Drive *coroutine* to its end; returns what it returns."""
        result = None
        with self._scope:
            if self.n == 0:
                self._scope.cancel()
            result = await _Steps(coroutine, self._step)
        self.was_cancelled = self._scope.cancelled_caught
        return result

    def _step(self, when: str) -> None:
        self.steps += when == "waiting"
        if self.steps == self.n and when == self.when:
            self._scope.cancel()


class _Steps:
    """A coroutine that reports each time that it gives way, and each time that it goes on."""

    def __init__(self, coroutine: Coroutine[Any, Any, Any], report: Any) -> None:
        self._coroutine = coroutine
        self._report = report

    def __await__(self) -> Generator[Any, Any, Any]:
        step, argument = self._coroutine.send, None
        while True:
            try:
                message = step(argument)
            except StopIteration as end:
                return end.value
            self._report("waiting")
            try:
                step, argument = self._coroutine.send, (yield message)
            except BaseException as error:  # noqa: BLE001 - handed on to whom it is for
                step, argument = self._coroutine.throw, error
            self._report("woken")
