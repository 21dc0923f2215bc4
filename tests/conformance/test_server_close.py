"""How a server ends a connection (RFC 6455 §7; conformance items 42-47)."""

import pytest
import trio
import trio.testing

import triows
from tests.conformance.peer import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    Close,
    Frame,
    build_close,
    build_frame,
)
from tests.conftest import Serve

pytestmark = pytest.mark.usefixtures("no_tracebacks")

ALLOWED = [1000, 1001, 1002, 1003, *range(1007, 1015), 3000, 3999, 4000, 4999]
FORBIDDEN = [0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 9999, 65_535]


async def test_item_42_an_empty_close_is_answered(serve: Serve):
    """A Close without a code gets one without a code, or 1000 (§5.5.1)."""
    peer = await (await serve()).connect()
    await peer.send(build_close())
    assert await peer.receive_close() in [Close(None), Close(1000)]


async def test_item_42_the_server_drops_tcp_first(serve: Serve):
    """Once both Close frames went, the server ends TCP and the client only follows (§7.1.1)."""
    peer = await (await serve()).connect()
    start = trio.current_time()
    await peer.send(build_close(1000))
    await peer.receive_close()
    await peer.receive_eof()
    assert trio.current_time() - start < 2


@pytest.mark.parametrize("code", ALLOWED)
async def test_item_43_an_allowed_code_is_echoed(serve: Serve, code: int):
    """The answer to a Close has its code (§5.5.1)."""
    peer = await (await serve()).connect()
    await peer.send(build_close(code, b"because"))
    assert (await peer.receive_close()).code == code
    await peer.receive_eof()


@pytest.mark.parametrize("code", FORBIDDEN)
async def test_item_43_a_forbidden_code_is_a_protocol_error(serve: Serve, code: int):
    """Codes that may not be sent, or mean nothing, are answered with 1002 (§7.4)."""
    peer = await (await serve()).connect()
    await peer.send(build_close(code))
    assert (await peer.receive_close()).code == 1002
    await peer.receive_eof()


async def test_item_44_a_close_of_one_octet_is_a_protocol_error(serve: Serve):
    """A Close has no payload, or at least a code (§5.5.1)."""
    peer = await (await serve()).connect()
    await peer.send_frame(CLOSE, b"\x03")
    assert (await peer.receive_close()).code == 1002
    await peer.receive_eof()


@pytest.mark.parametrize("reason", [b"\xff", b"ok\xc3", b"\xed\xa0\x80", b"\xc0\xaf"])
async def test_item_44_a_reason_that_is_not_utf_8_is_an_invalid_payload(
    serve: Serve, reason: bytes
):
    """The reason is text, and is checked as text is."""
    peer = await (await serve()).connect()
    await peer.send(build_close(1000, reason))
    assert (await peer.receive_close()).code == 1007
    await peer.receive_eof()


@pytest.mark.parametrize("reason", [b"x" * 123, "ü".encode() * 61 + b"x"], ids=["ASCII", "UTF-8"])
async def test_item_44_a_reason_of_123_octets_is_fine(serve: Serve, reason: bytes):
    """The longest reason leaves room for the code in a control frame."""
    peer = await (await serve()).connect()
    await peer.send(build_close(1000, reason))
    assert (await peer.receive_close()).code == 1000


async def test_item_44_a_reason_of_124_octets_is_a_protocol_error(serve: Serve):
    """One octet more does not fit a control frame (§5.5)."""
    peer = await (await serve()).connect()
    await peer.send(build_close(1000, b"x" * 124))
    assert (await peer.receive_close()).code == 1002
    await peer.receive_eof()


@pytest.mark.parametrize(
    "after",
    [
        build_frame(TEXT, b"late"),
        build_frame(PING, b"late"),
        build_close(1001),
        build_frame(TEXT, b"\xff"),
        b"\xff" * 100,
    ],
    ids=["text", "ping", "close", "bad text", "junk"],
)
async def test_item_45_nothing_is_sent_after_close(serve: Serve, after: bytes):
    """What follows a Close is not echoed, answered or found fault with (§5.5.1)."""
    peer = await (await serve()).connect()
    await peer.send(build_close(1000) + after)
    assert (await peer.receive_close()).code == 1000
    await peer.receive_end()


async def test_item_45_what_came_before_close_is_answered(serve: Serve):
    """Messages that arrive in one write with the Close may be echoed before it, in order."""
    peer = await (await serve()).connect()
    await peer.send(build_frame(TEXT, b"first") + build_close(1000))
    frame = await peer.receive_frame()
    if frame.opcode == TEXT:
        assert frame == Frame(TEXT, b"first")
        frame = await peer.receive_frame()
    assert frame.opcode == CLOSE
    await peer.receive_eof()


async def test_item_45_a_close_in_mid_message_is_echoed(serve: Serve):
    """A message that will never end does not hold up the Close, nor is it delivered."""
    peer = await (await serve()).connect()
    await peer.send_frame(TEXT, b"unfinished", fin=False)
    await peer.send(build_close(1000))
    assert (await peer.receive_close()).code == 1000
    await peer.receive_eof()


async def test_item_45_a_closing_server_still_waits_for_the_answer(serve: Serve):
    """After the server's Close, data is discarded and Pings need no answer; Close ends it."""

    async def leave(ws: triows.WebSocket) -> None:
        await ws.receive()
        await ws.aclose(3001, "enough")

    peer = await (await serve(leave)).connect()
    await peer.send_frame(TEXT, b"go")
    assert await peer.receive_close() == Close(3001, "enough")

    await peer.send_frame(BINARY, b"crossed the Close")
    await peer.send_frame(BINARY, b"half", fin=False)
    await peer.send_frame(CONTINUATION, b"half")
    await peer.send(build_close(3001))
    await peer.receive_eof()


@pytest.mark.parametrize(
    "begun", [b"", build_frame(BINARY, b"cut off")[:-3]], ids=["idle", "mid-frame"]
)
async def test_item_46_a_half_close_ends_the_connection(serve: Serve, begun: bytes):
    """A client that ends TCP without Close is let go, and the server lives."""
    served = await serve()
    peer = await served.connect()
    start = trio.current_time()
    await peer.send(begun)
    await peer.end()
    await peer.receive_end()

    assert trio.current_time() - start < 2
    await (await served.connect()).expect_echo()


async def test_item_46_what_was_sent_before_a_half_close_is_delivered(serve: Serve):
    """The handler sees every whole message, and then a defined end."""
    seen: list[object] = []
    over = trio.Event()

    async def listen(ws: triows.WebSocket) -> None:
        try:
            seen.append(await ws.receive())
            seen.append(await ws.receive())
            await ws.receive()
        except triows.ConnectionBroken as error:
            seen.append(error.code)
        finally:
            over.set()

    peer = await (await serve(listen)).connect()
    await peer.send(build_frame(TEXT, b"one") + build_frame(BINARY, b"two"))
    await peer.end()
    with trio.fail_after(peer.patience):
        await over.wait()

    assert seen == ["one", b"two", 1006]


@pytest.mark.parametrize(
    "begun", [b"", b"\x82", build_frame(BINARY, declared=9000, payload=b"x" * 99)]
)
async def test_item_46_a_reset_in_mid_frame_hurts_no_other(serve: Serve, begun: bytes):
    """A connection that is cut off takes no other with it."""
    served = await serve()
    bystander = await served.connect()
    peer = await served.connect()
    await peer.send(begun)
    await trio.testing.wait_all_tasks_blocked(0.001)
    peer.reset()

    await bystander.expect_echo()
    await (await served.connect()).expect_echo()


@pytest.mark.timed
@pytest.mark.parametrize(
    "bad",
    [
        build_frame(TEXT, b"\xff"),
        build_frame(3),
        build_frame(BINARY, declared=2**40),
        build_close(999),
    ],
    ids=["text", "opcode", "size", "code"],
)
async def test_item_47_a_peer_silent_after_an_error_is_dropped(serve: Serve, bad: bytes):
    """A peer that never answers the Close for its fault is dropped by timeout."""
    served = await serve(limits=triows.Limits(close_timeout=3.0))
    peer = await served.connect()
    start = trio.current_time()
    await peer.send(bad)
    await peer.receive_close()
    await peer.receive_eof()

    assert trio.current_time() - start <= 3.1 + served.wire.lateness


@pytest.mark.timed
async def test_item_47_a_peer_that_ignores_our_close_is_dropped(serve: Serve):
    """A peer that talks on instead of answering Close is dropped by the same timeout."""

    async def leave(ws: triows.WebSocket) -> None:
        """Close at once."""

    peer = await (await serve(leave, limits=triows.Limits(close_timeout=3.0))).connect()
    assert (await peer.receive_close()).code == 1000
    start = trio.current_time()

    async def talk_on() -> None:
        try:
            while True:
                await peer.send_frame(TEXT, b"what?")
                await trio.sleep(0.25)
        except trio.BrokenResourceError:
            pass

    async with trio.open_nursery() as nursery:
        nursery.start_soon(talk_on)
        await peer.receive_end()

    assert 2.9 <= trio.current_time() - start <= 3.5


async def test_a_ping_before_close_is_answered(serve: Serve):
    """A Ping that arrives with the Close behind it is answered, or overtaken by it."""
    peer = await (await serve()).connect()
    await peer.send(build_frame(PING, b"last") + build_close(1000))
    frame = await peer.receive_frame()
    assert frame == Frame(PONG, b"last") or frame.opcode == CLOSE


async def test_a_handler_that_returns_closes_with_1000(serve: Serve):
    """The end of the handler is a normal closure."""

    async def leave(ws: triows.WebSocket) -> None:
        """Say nothing."""

    peer = await (await serve(leave)).connect()
    assert (await peer.receive_close()).code == 1000
    await peer.finish()
