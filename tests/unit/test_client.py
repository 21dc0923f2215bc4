"""The client: what it asks for, what it raises, and how it leaves."""

import errno
import socket
from functools import partial

import pytest
import trio
import trio.testing

import triows
from tests.conformance.transports import MemoryListener, in_memory, open_pair
from triows._client import open_websocket
from triows._connector import FAREWELL


async def echo(ws):
    """Send every message back."""
    async for message in ws:
        await ws.send(message)


@pytest.fixture
async def url(nursery):
    """An echo server over TCP."""
    server = await nursery.start(triows.serve, echo, 0)
    yield f"ws://127.0.0.1:{server.port}/"
    nursery.cancel_scope.cancel()


# What it asks for, and what it says of the connection.


async def test_text_and_binary(url):
    """Messages of both kinds come back as they were sent."""
    async with open_websocket(url) as ws:
        for message in ("text", b"\x00\xff"):
            await ws.send(message)
            assert await ws.receive() == message
        assert 0 < await ws.ping() < 10
    assert ws.close_reason == triows.CloseReason(1000, "")


async def test_request(scene, nursery):
    """The request names the host, and what it was told to."""

    async def serve():
        server = await scene.accept()
        await server.open()
        await server.receive_close()
        await server.aclose()
        return server

    nursery.start_soon(serve)
    async with scene.open(
        headers={"X-A": "b"}, origin="https://o.example", user_agent="me", subprotocols=["p"]
    ) as ws:
        request = ws.request
    assert request.target == "/chat?a=b"
    assert request.scheme == "ws"
    assert request.host == scene.url.split("/")[2]
    assert request.headers["x-a"] == "b"
    assert request.headers["user-agent"] == "me"
    assert request.origin == "https://o.example"
    assert request.subprotocols == ["p"]


async def test_response_and_addresses(nursery):
    """The server's answer, the subprotocol and both addresses are told."""

    def answer(_):
        return triows.Accept(headers={"X-A": "b"})

    server = await nursery.start(
        partial(triows.serve, echo, 0, on_request=answer, subprotocols=["p", "q"])
    )
    async with open_websocket(f"ws://localhost:{server.port}", subprotocols=["q"]) as ws:
        assert ws.response.status == 101
        assert ws.response.headers["x-a"] == "b"
        assert ws.subprotocol == "q"
        assert ws.remote == server.addresses[0]
        await ws.send("is it there?")
        await ws.receive()
        (theirs,) = server.connections
        assert ws.local == theirs.remote
        assert theirs.response is None
    nursery.cancel_scope.cancel()


async def test_a_given_stream_is_used_and_closed(warm):
    """A given stream is used instead of dialling, and closed in the end."""
    ours, theirs = open_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve_one, theirs, echo)
        async with open_websocket("ws://no.such.host.invalid/", stream=ours) as ws:
            await ws.send("a")
            assert await ws.receive() == "a"
            assert ws.remote is None
        nursery.cancel_scope.cancel()
    assert ours.is_closed


async def serve_one(stream, handler):
    """Serve one connection."""
    listener = MemoryListener()
    listener._offer.send_nowait(stream)  # one that was made elsewhere
    await triows.serve_listeners(handler, [listener])


# What it raises before there is a WebSocket.


@pytest.mark.parametrize(
    ("url", "options"),
    [
        ("ws://127.0.0.1:1/#f", {}),
        ("ws://127.0.0.1:1/", {"headers": {"Host": "b"}}),
        ("ws://127.0.0.1:1/", {"headers": {"X": "a\r\nb"}}),
        ("ws://127.0.0.1:1/", {"subprotocols": ["a b"]}),
        ("ws://127.0.0.1:1/", {"origin": "a\nb"}),
        ("ws://127.0.0.1:1/", {"connect_timeout": 0}),
    ],
)
async def test_bad_arguments(url, options):
    """What is malformed is refused before anything is dialled; a given stream is left alone."""
    ours, _ = open_pair()
    with pytest.raises(ValueError, match=r"\S"):
        async with open_websocket(url, stream=ours, **options):
            pass
    assert not ours.is_closed


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"url": b"ws://127.0.0.1:1/"}, "a URL"),
        ({"headers": "X: a"}, "header fields"),
        ({"headers": {"X": 1}}, "'X': 1"),
        ({"headers": [("X", "a", "b")]}, "header fields"),
        ({"subprotocols": "chat"}, "subprotocols"),
        ({"ssl_context": True}, "ssl_context"),
        ({"proxy": False}, "proxy"),
        ({"limits": None}, "limits"),
        ({"keepalive": 20}, "keepalive"),
        ({"deflate": True}, "deflate"),
        ({"deflate": [15]}, "deflate"),
    ],
    ids=str,
)
async def test_arguments_of_the_wrong_kind(options, named):
    """What is of the wrong kind is refused by its name, before anything is dialled."""
    with pytest.raises(TypeError, match=named):
        async with open_websocket(**{"url": "ws://127.0.0.1:1/"} | options):
            pass


async def test_nothing_listens():
    """A refused connection is a ConnectionRefusedError that names the host, and no group."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        with pytest.raises(ConnectionRefusedError, match=f"127.0.0.1:{port}") as caught:
            async with open_websocket(f"ws://127.0.0.1:{port}/"):
                pass
    assert caught.value.errno == errno.ECONNREFUSED


async def test_no_such_host(monkeypatch):
    """A name that is none is an OSError that names it."""

    async def getaddrinfo(*_, **__):
        await trio.lowlevel.checkpoint()
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(trio.socket, "getaddrinfo", getaddrinfo)
    monkeypatch.setattr(trio._highlevel_open_tcp_stream, "getaddrinfo", getaddrinfo)
    with pytest.raises(socket.gaierror, match=r"to a\.example: Name") as caught:
        async with open_websocket("ws://a.example/"):
            pass
    assert caught.value.errno == socket.EAI_NONAME


async def test_several_reasons(monkeypatch):
    """Where each address fails in its own way, all are told in one OSError."""

    async def open_tcp_stream(*_):
        await trio.lowlevel.checkpoint()
        errors = [OSError(errno.ECONNREFUSED, "x"), OSError(errno.ENETUNREACH, "y"), OSError("z")]
        raise OSError("all failed") from ExceptionGroup("all failed", errors)

    monkeypatch.setattr(trio, "open_tcp_stream", open_tcp_stream)
    with pytest.raises(OSError, match="refused; Network is unreachable; z") as caught:
        async with open_websocket("ws://a.example/"):
            pass
    assert type(caught.value) is OSError


async def test_connecting_takes_too_long(monkeypatch, autojump_clock, warm):
    """A server that cannot be reached in time is a TooSlowError."""

    async def open_tcp_stream(*_):
        await trio.sleep_forever()

    monkeypatch.setattr(trio, "open_tcp_stream", open_tcp_stream)
    with pytest.raises(trio.TooSlowError, match="connecting to a took more than 3"):
        async with open_websocket("ws://a/", connect_timeout=3):
            pass
    assert trio.current_time() == 3


@pytest.mark.parametrize("scheme", ["ws", "wss"])
async def test_the_handshake_takes_too_long(scheme, autojump_clock, warm):
    """A server that does not answer in time is a TooSlowError, and dropped."""
    ours, _ = open_pair()
    with pytest.raises(trio.TooSlowError, match="handshake with a took more than 10"):
        async with open_websocket(f"{scheme}://a/", stream=ours):
            pass
    assert trio.current_time() == 10
    assert ours.is_closed


async def test_a_refusal_without_end(autojump_clock, warm):
    """A refusal whose body does not end in time is a refusal all the same."""
    ours, theirs = open_pair()
    await theirs.send_all(b"HTTP/1.1 503 \r\n\r\nsor")
    with pytest.raises(triows.HandshakeRejected) as caught:
        async with open_websocket("ws://a/", stream=ours):
            pass
    assert (caught.value.status, caught.value.body) == (503, b"sor")
    assert trio.current_time() == 10


async def test_a_refusal_before_the_request(warm):
    """What a server says before it drops the connection is heard, if it takes no request."""
    ours, theirs = open_pair()
    await theirs.send_all(b"HTTP/1.1 503 \r\nContent-Length: 0\r\n\r\n")
    theirs.incoming.is_cut = True
    with pytest.raises(triows.HandshakeRejected):
        async with open_websocket("ws://a/", stream=ours):
            pass


@pytest.mark.parametrize("cut", ["close", "reset"])
async def test_a_server_that_hangs_up(cut, warm):
    """A server that ends the connection instead of answering is an invalid handshake."""
    ours, theirs = open_pair()
    await theirs.send_all(b"HTTP/1.1 1")
    getattr(theirs, cut)()
    with pytest.raises(triows.InvalidHandshake, match="before its answer was whole"):
        async with open_websocket("ws://a/", stream=ours):
            pass


async def test_cancelled_while_connecting(autojump_clock, warm):
    """Cancelling the opening handshake drops the connection at once."""
    ours, _ = open_pair()
    with trio.move_on_after(1) as scope:
        async with open_websocket("ws://a/", stream=ours):
            pass
    assert scope.cancelled_caught
    assert ours.is_closed
    assert trio.current_time() == 1


# How it leaves.


class Marked(Exception):  # noqa: N818 - it is no error of anything
    """What a test's block raises."""


async def expect_close(scene, code):
    """Be a server that awaits a Close with *code*, and closes in good order."""
    server = await scene.accept()
    await server.open()
    assert (await server.receive_close()).code == code
    await server.send_close(code)
    await server.end()
    assert await server.receive_end() == b""


async def be_silent(scene):
    """Be a server that opens the WebSocket and never says anything again."""
    server = await scene.accept()
    await server.open()
    await server.receive_end()


async def test_leaving_closes_with_1000(scene, nursery):
    """Leaving the block is a closing handshake with 1000."""
    nursery.start_soon(expect_close, scene, 1000)
    async with scene.open() as ws:
        pass
    assert ws.close_reason == triows.CloseReason(1000, "")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Marked("alone"), 1011),
        (ExceptionGroup("a group of one", [Marked("inner")]), 1011),
        (ExceptionGroup("a group", [Marked("one"), KeyError("two")]), 1011),
        (KeyboardInterrupt(), 1001),
    ],
    ids=["alone", "group-of-one", "group", "interrupt"],
)
async def test_what_the_block_raises_comes_out(scene, error, code):
    """The block's exception is the one that comes out, untouched, after a Close that tells."""
    error.__context__ = context = LookupError("before")
    caught = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(expect_close, scene, code)
        try:
            async with scene.open() as ws:
                raise error  # noqa: TRY301 - that is what is tried out
        except BaseException as raised:  # noqa: BLE001 - an interrupt among them
            caught = raised
    assert caught is error
    assert caught.__context__ is context
    assert caught.__cause__ is None
    assert not caught.__suppress_context__
    assert ws.close_reason.code == code


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::trio.TrioDeprecationWarning")
def test_groups_stay_groups_without_strict_groups(warm):
    """A run without strict groups does not take the block's group apart."""
    group = ExceptionGroup("mine", [Marked()])
    caught = []

    async def main():
        ours, theirs = open_pair()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve_one, theirs, echo)
            try:
                async with open_websocket("ws://a/", stream=ours):
                    raise group
            except ExceptionGroup as raised:
                caught.append(raised)
            nursery.cancel_scope.cancel()

    trio.run(main, strict_exception_groups=False)
    assert caught == [group]


@in_memory
async def test_an_internal_error_comes_out_alone(scene, nursery, monkeypatch):
    """What goes wrong inside triows ends the block and comes out as it is, in no group."""

    async def break_down(*_):
        await trio.lowlevel.checkpoint()
        raise Marked

    monkeypatch.setattr("triows._stream.StreamDriver.run", break_down)
    nursery.start_soon(be_silent, scene)
    with pytest.raises(Marked):
        async with scene.open():
            await trio.sleep_forever()
    nursery.cancel_scope.cancel()


async def test_a_cancelled_block_says_1001(scene, nursery):
    """A block that is cancelled says that it goes away, and waits for the answer."""
    nursery.start_soon(expect_close, scene, 1001)
    with trio.CancelScope() as scope:
        async with scene.open() as ws:
            scope.cancel()
            await ws.receive()
    assert scope.cancelled_caught
    assert ws.close_reason.code == 1001


@in_memory
async def test_a_cancelled_block_does_not_wait_long(scene, nursery):
    """A server that does not answer holds a cancelled block up for a moment only."""
    nursery.start_soon(be_silent, scene)
    with trio.move_on_after(5) as scope:
        async with scene.open() as ws:
            await ws.receive()
    assert scope.cancelled_caught
    assert trio.current_time() == 5 + FAREWELL
    assert ws.close_reason.code == 1006


@in_memory
async def test_an_error_in_a_cancelled_block_comes_out(scene, nursery):
    """What a cancelled block raises is not lost to the cancellation."""
    nursery.start_soon(be_silent, scene)
    with trio.CancelScope() as scope, pytest.raises(Marked):  # noqa: PT012 - a block is tested
        async with scene.open():
            scope.cancel()
            raise Marked
    assert trio.current_time() == FAREWELL


@in_memory
@pytest.mark.parametrize("error", [None, Marked()])
async def test_cancelled_while_closing(scene, nursery, error):
    """Cancelling the closing handshake drops the connection at once; an error is not lost."""
    nursery.start_soon(be_silent, scene)
    caught = []
    with trio.move_on_after(3):
        try:
            async with scene.open():
                if error is not None:
                    raise error
        except Marked as raised:
            caught.append(raised)
    assert caught == ([] if error is None else [error])
    assert trio.current_time() == 3


@in_memory
async def test_a_server_that_does_not_answer_the_close(scene, nursery):
    """A server that does not answer the Close is dropped after close_timeout."""
    nursery.start_soon(be_silent, scene)
    async with scene.open(limits=triows.Limits(close_timeout=7)) as ws:
        pass
    assert trio.current_time() == 7
    assert ws.close_reason.code == 1006


@in_memory
async def test_a_deaf_server_is_dropped(scene, nursery):
    """A server that answers no Ping is dropped after interval + timeout."""
    nursery.start_soon(be_silent, scene)
    keepalive = triows.KeepAlive(interval=4, timeout=2)
    with pytest.raises(triows.ConnectionBroken):
        async with scene.open(keepalive=keepalive) as ws:
            await ws.receive()
    assert trio.current_time() == 6


async def test_the_server_closes_first(meet):
    """A server's Close ends the messages, and the block goes on."""
    async with meet() as (ws, server):
        await server.send_close(1000, b"enough")
        assert [message async for message in ws] == []
        assert (await server.receive_close()).code == 1000
    assert ws.close_reason == triows.CloseReason(1000, "enough")


async def test_send_close_leaves_the_other_direction_open(meet):
    """After send_close messages still come, until the server's Close; none can be sent."""
    async with meet() as (ws, server):
        await ws.send_close(3000, "done")
        with pytest.raises(trio.ClosedResourceError):
            await ws.send("more")
        with pytest.raises(trio.ClosedResourceError):
            await ws.send_close()
        close = await server.receive_close()
        assert (close.code, close.reason) == (3000, "done")
        await server.send_frame(1, b"last words")
        await server.send_close(1000)
        assert [message async for message in ws] == ["last words"]


@in_memory
async def test_send_close_gives_no_more_time_than_aclose(meet):
    """A server that goes on and on after send_close is dropped after close_timeout."""
    async with meet(limits=triows.Limits(close_timeout=5)) as (ws, _):
        await ws.send_close()
        with pytest.raises(triows.ConnectionBroken) as caught:
            await ws.receive()
        assert caught.value.code == 1006
        assert trio.current_time() == 5


# The key of the opening handshake (RFC 6455 §4.1).


def test_the_opening_key_is_fresh(warm):
    """Each opening handshake has a key of its own."""

    async def ask():
        ours, theirs = open_pair()
        with trio.move_on_after(1):
            async with open_websocket("ws://a/", stream=ours):
                pass
        return await theirs.receive_some()

    async def main():
        return [await ask() for _ in range(3)]

    assert len(set(trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0)))) == 3
