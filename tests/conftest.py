"""Fixtures that every suite shares: a warm process, and servers to talk to.

The transport of a test is its ``wire``: connections in memory under a virtual
clock that jumps whenever every task waits, or TCP on loopback in real time.
"""

import logging
import os
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import attrs
import hypothesis
import pytest
import trio
import trustme

import triows
from tests.conformance.peer import Answer, Peer
from tests.conformance.raw_server import RawServer, Scene, set_scene
from tests.conformance.transports import (
    QUICK_WIRES,
    REACTOR_WIRES,
    WIRES,
    MemoryListener,
    Wire,
)
from tests.not_over_the_reactor import NOT_OVER_THE_REACTOR
from tests.sessions import close_pairs

hypothesis.settings.register_profile("triows", deadline=None)  # others use the machine too
hypothesis.settings.load_profile("triows")


@attrs.frozen
class Served:
    """A server that runs for as long as the test."""

    server: Any
    """A `triows.Server`, or a `triows.Reactor`."""
    wire: Wire

    async def open(self) -> Peer:
        """A connection on which nothing has been said yet."""
        return Peer(await self.wire.connect(), self.wire.patience, self.wire.silence)

    async def connect(self, request: bytes | None = None) -> Peer:
        """A connection with its opening handshake done."""
        peer, _ = await self.shake_hands(request)
        return peer

    async def shake_hands(self, request: bytes | None = None) -> tuple[Peer, Answer]:
        """A connection with its opening handshake done, and the server's answer."""
        peer = await self.open()
        return peer, await peer.handshake(request)


Serve = Callable[..., Awaitable[Served]]
Meet = Callable[..., AbstractAsyncContextManager[tuple["triows.WebSocket", RawServer]]]


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the machine's proxies are, tests connect to themselves."""
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def warm() -> None:
    """Compile or load every kernel, so that a virtual clock never waits for a thread."""
    triows.warm_up()


@pytest.fixture(scope="session")
def tls_contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Contexts of a server called ``server.example`` and of a client that trusts it."""
    authority = trustme.CA()
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("server.example", "127.0.0.1").configure_cert(server)
    client = ssl.create_default_context()
    authority.configure_trust(client)
    return server, client


@pytest.fixture
def warm_sessions(warm: None) -> Iterator[None]:
    """A warm process; afterwards, what the test has opened in `tests.sessions` is closed."""
    yield
    close_pairs()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Choose the transports of a test that does not choose them itself."""
    chosen = [mark.args[0] for mark in metafunc.definition.iter_markers("parametrize")]
    if "wire" not in metafunc.fixturenames or "wire" in chosen:
        return
    is_timed, is_opening, is_octets = (
        (mark := metafunc.definition.get_closest_marker(name)) is not None and mark.args != (False,)
        for name in ("timed", "opening", "octets")
    )
    wires = WIRES[:1] if is_timed else WIRES
    reactors = QUICK_WIRES if is_timed else REACTOR_WIRES
    if is_opening:
        wires, reactors = WIRES[:1], reactors[:1]
    elif is_octets:
        wires, reactors = WIRES[::2], REACTOR_WIRES[::2]
    if "serve" in metafunc.fixturenames and metafunc.function.__name__ not in NOT_OVER_THE_REACTOR:
        wires = wires + reactors
    metafunc.parametrize("wire", wires, indirect=True)


@pytest.fixture
def wire(request: pytest.FixtureRequest, warm: None) -> Wire:
    """Each transport in turn."""
    return request.param()


@pytest.fixture
def memory_listener() -> MemoryListener:
    """A listener whose connections are pipes in memory."""
    return MemoryListener()


def start_on(wire: Wire, nursery: trio.Nursery) -> Serve:
    """A function that starts a server on *wire*, in *nursery*; without a handler it echoes."""

    async def start(handler: Any = None, **options: Any) -> Served:
        return Served(await wire.start(nursery, handler, options), wire)

    return start


@pytest.fixture
async def serve(wire: Wire, nursery: trio.Nursery) -> AsyncIterator[Serve]:
    """What starts a server, over each transport in turn; peers are closed before it."""
    yield start_on(wire, nursery)
    for stream in wire.connections:
        await trio.aclose_forcefully(stream)


@pytest.fixture
def no_tracebacks(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Fail a test during which the default log level showed a traceback."""
    yield
    shown = [
        record
        for record in caplog.get_records("call")
        if record.levelno >= logging.WARNING and (record.exc_info or record.exc_text)
    ]
    assert not shown, [record.getMessage() for record in shown]


@pytest.fixture
async def scene(wire: Wire) -> Scene:
    """A raw server to connect to, over each transport in turn."""
    return await set_scene(wire)


@pytest.fixture
def meet(scene: Scene) -> Meet:
    """What opens a WebSocket to a raw server; the block gets both ends.

    The raw server's end is dropped before the client leaves its own block.
    """

    @asynccontextmanager
    async def meeting(
        octets: bytes = b"", **options: Any
    ) -> AsyncIterator[tuple[triows.WebSocket, RawServer]]:
        opened, wait_opened = trio.open_memory_channel[RawServer](1)

        async def serve() -> None:
            server = await scene.accept()
            await server.open(octets)
            opened.send_nowait(server)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            async with scene.open(**options) as ws:
                server = await wait_opened.receive()
                try:
                    yield ws, server
                finally:
                    await trio.aclose_forcefully(server.stream)

    return meeting
