"""What a reactor with a handler in Python withstands (threat model, item 30).

What concerns memory, slots and slow peers has its tests where batches of callbacks are
tested: tests/unit/test_callback_batches.py.
"""

import logging
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import trio

import triows
from tests.conformance.peer import TEXT, Frame, build_close, build_frame
from tests.conformance.transports import ReactorWire
from tests.conftest import Served
from triows import Connection, Handler

ERRORS = [
    ValueError("bug"),
    MemoryError(),
    RecursionError(),
    ExceptionGroup("group", [KeyError("bug")]),
]


class Faulty(Handler):
    """Echoes, and raises where the test says, for the connection that the test names."""

    def __init__(self, where: str, error: Exception) -> None:
        self.where = where
        self.error = error
        self.victim = 0
        self.closed: list[tuple[int, int]] = []

    def _pass(self, where: str, conn: Connection) -> None:
        if where == self.where and conn.data == "victim":
            raise self.error

    def on_open(self, conn: Connection) -> None:
        """Say hello to each, and make every second a victim."""
        self.victim += 1
        if self.victim % 2 == 0:
            conn.data = "victim"
        self._pass("on_open", conn)

    def on_frame(self, conn: Connection, payload: memoryview, opcode: int) -> None:
        """Echo."""
        conn.echo()
        self._pass("on_frame", conn)

    def on_close(self, conn: Connection, code: int, reason: str) -> None:
        """Note it."""
        self.closed.append((conn.id, code))
        self._pass("on_close", conn)


Start = Callable[[Handler], Awaitable[Served]]


@pytest.fixture
async def start(nursery: trio.Nursery, warm: None) -> AsyncIterator[Start]:
    """What starts a reactor with a handler in Python; peers are closed before it."""
    wires = []

    async def start(handler: Handler) -> Served:
        wires.append(ReactorWire(threads=0, callbacks=handler))
        return Served(await wires[-1].start(nursery, None, {}), wires[-1])

    yield start
    for stream in [stream for wire in wires for stream in wire.connections]:
        await trio.aclose_forcefully(stream)


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("where", ["on_open", "on_frame", "on_close"])
async def test_item_30_a_callback_that_raises_closes_its_own_connection(
    start: Start, where: str, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    """Its peer gets 1011 without details, the log says so once, and everyone else is served."""
    handler = Faulty(where, error)
    served = await start(handler)
    bystander = await served.connect()
    peer = await served.connect()

    await peer.send(build_frame(TEXT, b"1") + build_frame(TEXT, b"2"))
    if where == "on_close":
        assert await peer.receive_message() == Frame(TEXT, b"1")
        assert await peer.receive_message() == Frame(TEXT, b"2")
        await peer.send(build_close(1000))
        assert (await peer.receive_close()).code == 1000
        await peer.receive_end()
    else:
        close = await peer.receive_failure(1011)
        assert "bug" not in close.reason
    await bystander.expect_echo()

    failures = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert [bool(record.exc_info) for record in failures] == [True]
    assert f"{where} failed" in failures[0].getMessage()
    await peer.stream.aclose()
    with trio.fail_after(5):
        while not handler.closed:
            await bystander.expect_echo()
    assert [code for _, code in handler.closed] == [1000 if where == "on_close" else 1011]


async def test_item_30_many_that_raise_among_many_that_do_not(start: Start) -> None:
    """Every second connection fails at its first message; each of the others is echoed to."""
    handler = Faulty("on_frame", ValueError("bug"))
    served = await start(handler)
    peers = [await served.connect() for _ in range(40)]
    for peer in peers:
        await peer.send_frame(TEXT, b"m")

    for fine, failing in zip(peers[::2], peers[1::2], strict=True):
        assert await fine.receive_message() == Frame(TEXT, b"m")
        await failing.receive_failure(1011)
    assert served.server.statistics().total.handler_failures == 20
    assert isinstance(served.server, triows.Reactor)
