"""Connections that a callback hands over to a task, with all that is theirs."""

import contextlib
from collections.abc import Callable
from typing import Any

import pytest
import trio
import trio.testing

import triows
import triows.testing
from tests.conformance.peer import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    Peer,
    build_frame,
    build_request,
)
from tests.sessions import open_session
from triows import ConnectionBroken

PATIENCE = 10.0

Given = Callable[[triows.Connection, memoryview, int], None]


class Promoter(triows.Handler):
    """Promotes a connection whose peer says so, echoes what others say, and notes the rest."""

    def __init__(self) -> None:
        self.given, self.taken = trio.open_memory_channel[triows.WebSocket](100)
        self.closed: list[int] = []

    def on_frame(self, conn: triows.Connection, payload: memoryview, opcode: int) -> None:
        """Echo, but promote at ``promote``, which is answered before."""
        if payload == b"promote":
            conn.send("before")
            self.given.send_nowait(conn.promote())
            assert not conn.is_open
            with pytest.raises(trio.ClosedResourceError):
                conn.promote()
        conn.echo()

    def on_close(self, conn: triows.Connection, code: int, reason: str) -> None:
        """Note it."""
        self.closed.append(code)


@pytest.fixture(params=[0, 1], ids=["inline", "threaded"])
def threads(request: pytest.FixtureRequest, warm: None) -> int:
    """Where the loop runs."""
    return request.param


@contextlib.asynccontextmanager
async def promoted(
    threads: int, behind: bytes = b"", *, is_answered: bool = True, **settings: Any
) -> Any:
    """A peer, and the WebSocket that its connection has become; *behind* came with the request."""
    handler = Promoter()
    settings.setdefault("deflate", None)
    async with triows.open_reactor(handler, threads=threads, **settings) as reactor:
        await reactor.listen(0)
        peer = Peer(await trio.open_tcp_stream("127.0.0.1", reactor.port), PATIENCE)
        await peer.handshake()
        await peer.send(build_frame(TEXT, b"first") + build_frame(TEXT, b"promote") + behind)
        with trio.fail_after(PATIENCE):
            ws = await handler.taken.receive()
        for expected in (b"first", b"before", b"promote") * is_answered:
            assert (await peer.receive_frame()).payload == expected
        try:
            yield ws, peer, handler, reactor
        finally:
            ws.abort("the test is over")
            await trio.aclose_forcefully(peer.stream)


async def test_what_was_not_handled_yet_comes_first(threads: int):
    """The rows of the same turn, in order; then what comes later, and answers to it."""
    messages = [b"%d" % number for number in range(300)]
    frames = b"".join(build_frame(TEXT, message) for message in messages)
    async with promoted(threads, frames) as (ws, peer, handler, _):
        assert [await ws.receive() for _ in messages] == [str(n) for n in range(300)]
        await peer.send_frame(BINARY, b"later")
        assert await ws.receive() == b"later"
        await ws.send("answer")
        assert (await peer.receive_frame()).payload == b"answer"
        await peer.send_frame(PING, b"?")
        assert (await peer.receive_frame()).opcode == PONG
    assert handler.closed == []


@pytest.mark.parametrize("cut", range(1, 21))
async def test_octets_behind_are_kept_wherever_they_are_cut(threads: int, cut: int):
    """A header that is not whole, a message in mid-fragment, in mid-character."""
    frames = build_frame(TEXT, "gr\N{LATIN SMALL LETTER U WITH DIAERESIS}".encode()[:3], fin=False)
    frames += build_frame(CONTINUATION, "\N{LATIN SMALL LETTER U WITH DIAERESIS}s".encode()[1:])
    async with promoted(threads, frames[:cut]) as (ws, peer, _, _):
        await trio.testing.wait_all_tasks_blocked(0.02)
        await peer.send(frames[cut:])
        assert await ws.receive() == "gr\N{LATIN SMALL LETTER U WITH DIAERESIS}s"


async def test_a_large_message_under_way_is_kept(threads: int):
    """One that is received straight into its block."""
    frame = build_frame(BINARY, bytes(range(256)) * 2_000)
    async with promoted(threads, frame[:200_000]) as (ws, peer, _, _):
        await trio.testing.wait_all_tasks_blocked(0.02)
        await peer.send(frame[200_000:])
        assert await ws.receive() == bytes(range(256)) * 2_000


async def test_what_waits_to_be_sent_goes_out(threads: int):
    """The queue of a peer that did not read moves too, and what is sent follows it."""

    class Flooder(Promoter):
        def on_frame(self, conn: triows.Connection, payload: memoryview, opcode: int) -> None:
            conn.send(bytes(8_000_000))
            self.given.send_nowait(conn.promote())

    handler = Flooder()
    async with triows.open_reactor(handler, threads=threads, deflate=None) as reactor:
        await reactor.listen(0)
        peer = Peer(await trio.open_tcp_stream("127.0.0.1", reactor.port), PATIENCE)
        await peer.handshake()
        await peer.send_frame(TEXT, b"go")
        with trio.fail_after(PATIENCE):
            ws = await handler.taken.receive()
            while ws.statistics().unsent_octets < 1_000_000:  # noqa: ASYNC110 - it is moved yet
                await trio.sleep(0.001)
            with pytest.raises(trio.WouldBlock):
                ws.send_nowait("full")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(ws.send, "behind")
                assert len((await peer.receive_frame()).payload) == 8_000_000
                assert (await peer.receive_frame()).payload == b"behind"
        ws.abort("the test is over")
        await trio.aclose_forcefully(peer.stream)


async def test_it_outlives_its_reactor(threads: int):
    """It is a task's now: a reactor that ends says goodbye to the others."""
    async with promoted(threads) as (ws, peer, _, reactor):
        await ws.send("one")
        assert (await peer.receive_frame()).payload == b"one"
        await trio.testing.wait_all_tasks_blocked(0.02)
        assert reactor.statistics().total.connections == 0
        assert reactor.statistics().total.queued_octets == 0


async def test_both_may_close_it(threads: int):
    """With the closing handshake, whoever begins."""
    async with promoted(threads) as (ws, peer, handler, _):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ws.aclose, 4000, "done")
            assert (await peer.receive_frame()).opcode == CLOSE
            await peer.send_frame(CLOSE, (4000).to_bytes(2, "big"))
            await peer.receive_end()
        assert handler.closed == []
    async with promoted(threads) as (ws, peer, handler, _):
        await peer.send_frame(CLOSE, (4001).to_bytes(2, "big") + b"bye")
        with pytest.raises(ConnectionBroken) as caught:
            await ws.receive()
        assert (caught.value.code, caught.value.reason) == (4001, "bye")
        assert handler.closed == []


async def test_a_close_in_the_same_turn_is_the_websockets(threads: int):
    """What came before it can be received, then its code; `on_close` is not called."""
    behind = build_frame(TEXT, b"last") + build_frame(CLOSE, (4002).to_bytes(2, "big"))
    # A loop in a thread has answered the Close before it is given the handler's answers.
    async with promoted(threads, behind, is_answered=False) as (ws, _peer, handler, _):
        assert await ws.receive() == "last"
        with pytest.raises(ConnectionBroken) as caught:
            await ws.receive()
        assert caught.value.code == 4002
        with trio.fail_after(PATIENCE):
            await ws.aclose()
        assert handler.closed == []


async def test_a_fault_in_the_same_turn_is_the_websockets(threads: int):
    """The connection fails as any other."""
    limits = triows.Limits(close_timeout=0.3)
    fault = promoted(threads, build_frame(3), is_answered=False, limits=limits)
    async with fault as (ws, _peer, handler, _):
        with pytest.raises(ConnectionBroken) as caught, trio.fail_after(PATIENCE):
            await ws.receive()
        assert caught.value.code == 1002
        assert handler.closed == []


async def test_one_that_is_aborted_at_once_leaves_nothing(threads: int):
    """Whether or not it has moved."""

    class Aborter(Promoter):
        def on_frame(self, conn: triows.Connection, payload: memoryview, opcode: int) -> None:
            ws = conn.promote()
            ws.abort("enough")
            self.given.send_nowait(ws)

    handler = Aborter()
    async with triows.open_reactor(handler, threads=threads) as reactor:
        await reactor.listen(0)
        peer = Peer(await trio.open_tcp_stream("127.0.0.1", reactor.port), PATIENCE)
        await peer.handshake()
        await peer.send_frame(TEXT, b"go")
        with trio.fail_after(PATIENCE):
            ws = await handler.taken.receive()
            with contextlib.suppress(trio.BrokenResourceError):
                assert await peer.stream.receive_some(1) == b""
            await ws.aclose()
        await trio.aclose_forcefully(peer.stream)


async def test_one_that_raises_after_it_closes_with_1011(threads: int):
    """The callback's connection it still is, until the callback has returned."""

    class Raiser(Promoter):
        def on_frame(self, conn: triows.Connection, payload: memoryview, opcode: int) -> None:
            self.given.send_nowait(conn.promote())
            raise ValueError("after promoting")

    handler = Raiser()
    async with triows.open_reactor(handler, threads=threads) as reactor:
        await reactor.listen(0)
        peer = Peer(await trio.open_tcp_stream("127.0.0.1", reactor.port), PATIENCE)
        await peer.handshake()
        await peer.send_frame(TEXT, b"go")
        frame = await peer.receive_frame()
        assert (frame.opcode, frame.payload[:2]) == (CLOSE, (1011).to_bytes(2, "big"))
        await trio.aclose_forcefully(peer.stream)
        with pytest.raises((ConnectionBroken, trio.ClosedResourceError)):
            with trio.fail_after(PATIENCE):
                await (await handler.taken.receive()).receive()


async def test_a_connection_is_promoted_from_a_task_too(threads: int):
    """Outside of callbacks, at any time."""
    offer, opened = trio.open_memory_channel[triows.Connection](1)

    class Keeper(triows.Handler):
        def on_open(self, conn: triows.Connection) -> None:
            offer.send_nowait(conn)

    handler = Keeper()
    async with triows.open_reactor(handler, threads=threads) as reactor:
        await reactor.listen(0)
        peer = Peer(await trio.open_tcp_stream("127.0.0.1", reactor.port), PATIENCE)
        await peer.handshake()
        with trio.fail_after(PATIENCE):
            ws = (await opened.receive()).promote()
            await ws.send("hello")
            assert (await peer.receive_frame()).payload == b"hello"
            await peer.send_frame(TEXT, b"hi")
            assert await ws.receive() == "hi"
            assert ws.request.path == "/chat"
        ws.abort("the test is over")
        await trio.aclose_forcefully(peer.stream)


async def test_a_channel_still_waits_for_it(threads: int):
    """Attached before it has moved: nothing is lost, and nobody publishes who cannot wait."""
    channel = triows.BroadcastChannel[str]()
    async with contextlib.AsyncExitStack() as stack:

        class Attaching(triows.Handler):
            """Promotes and attaches who comes."""

            def on_open(self, conn: triows.Connection) -> None:
                """Attach, and publish before it has moved."""
                self.ws = conn.promote()
                channel.attach(self.ws, triows.Policy.BLOCK, 3)
                channel.publish_nowait("at once")
                came.set()

        came, handler = trio.Event(), Attaching()
        reactor = await stack.enter_async_context(triows.open_reactor(handler, threads=threads))
        await reactor.listen(0)
        peer = Peer(await trio.open_tcp_stream("127.0.0.1", reactor.port), PATIENCE)
        stack.push_async_callback(trio.aclose_forcefully, peer.stream)
        await peer.handshake()
        with trio.fail_after(PATIENCE):
            await came.wait()
        stack.callback(handler.ws.abort, "the test is over")
        for number in range(9):
            await channel.publish(str(number))
        got = [(await peer.receive_frame()).payload for _ in range(10)]
        assert got == [b"at once", *(b"%d" % number for number in range(9))]
        async with triows.testing.memory_pair() as (_, ws):
            with pytest.raises(ValueError, match="BLOCK"):
                channel.attach(ws, publishes=True)


async def test_compression_goes_on_with_its_context(threads: int):
    """What is compressed refers to what was sent and received before the move."""

    class Chatty(Promoter):
        def on_frame(self, conn: triows.Connection, payload: memoryview, opcode: int) -> None:
            conn.send("text that comes again and again " * 40)
            if payload[:7] == b"promote":
                self.given.send_nowait(conn.promote())

    handler = Chatty()
    async with triows.open_reactor(handler, threads=threads) as reactor:
        await reactor.listen(0)
        async with triows.open_websocket(f"ws://127.0.0.1:{reactor.port}/") as client:
            text = "text that comes again and again " * 40
            await client.send(text)
            await client.send("promote" + text)
            await client.send(text)
            with trio.fail_after(PATIENCE):
                ws = await handler.taken.receive()
                assert await ws.receive() == text
                await ws.send(text)
                await ws.send(text + "!")
                for expected in (text, text, text, text + "!"):
                    assert await client.receive() == expected
                await client.send(text + "?")
                assert await ws.receive() == text + "?"
            async with trio.open_nursery() as nursery:
                nursery.start_soon(ws.aclose)
                assert [message async for message in client] == []


@pytest.mark.parametrize("first", ["echo", "promote"])
async def test_a_compressed_message_that_promotes_is_echoed(threads: int, first: str):
    """Asked for before the promotion or after it, it goes before what the WebSocket sends."""

    class Echo(Promoter):
        def on_frame(self, conn: triows.Connection, payload: memoryview, opcode: int) -> None:
            if first == "echo":
                conn.echo()
            self.given.send_nowait(conn.promote())
            if first == "promote":
                conn.echo()

    handler = Echo()
    async with triows.open_reactor(handler, threads=threads, deflate=triows.Deflate()) as reactor:
        await reactor.listen(0)
        async with triows.open_websocket(f"ws://127.0.0.1:{reactor.port}/") as client:
            assert client.deflate is not None
            await client.send("again and again " * 40)
            with trio.fail_after(PATIENCE):
                ws = await handler.taken.receive()
                await ws.send("behind it")
                assert await client.receive() == "again and again " * 40
                assert await client.receive() == "behind it"


async def test_what_is_not_to_be_compressed_is_not_before_the_move_either(threads: int):
    """What is said of a message holds for those too that are sent at once."""
    answers = (None, False, True)

    class Hasty(triows.Handler):
        def on_frame(self, conn: triows.Connection, payload: memoryview, opcode: int) -> None:
            ws = conn.promote()
            for compress in answers:
                ws.send_nowait(bytes(1_000), compress=compress)
            ws.send_nowait(bytes(3_000))

    deflate = triows.Deflate(threshold=2_000)
    async with triows.open_reactor(Hasty(), threads=threads, deflate=deflate) as reactor:
        await reactor.listen(0)
        peer = Peer(await trio.open_tcp_stream("127.0.0.1", reactor.port), PATIENCE)
        field = (b"Sec-WebSocket-Extensions", b"permessage-deflate")
        await peer.handshake(build_request(b"GET /chat HTTP/1.1", field))
        await peer.send_frame(TEXT, b"promote")
        frames = [await peer.receive_message() for _ in range(4)]
        assert [frame.is_compressed for frame in frames] == [False, False, True, True]
        await peer.send_frame(CLOSE, b"\x03\xe8")
        assert (await peer.receive_frame()).opcode == CLOSE
        await trio.aclose_forcefully(peer.stream)


def test_without_trio_there_is_nothing_to_be_promoted_to(warm_sessions: None):
    """`run_once` is for other loops: their tasks could not use a WebSocket."""
    caught: list[type[BaseException]] = []

    class Asker(triows.Handler):
        def on_open(self, conn: triows.Connection) -> None:
            try:
                conn.promote()
            except RuntimeError as error:
                caught.append(type(error))

    reactor = triows.Reactor(Asker(), threads=0)
    ours, _ = open_session()
    reactor.add_session(ours)
    reactor.run_once(0)
    reactor.close()
    assert caught == [RuntimeError]
