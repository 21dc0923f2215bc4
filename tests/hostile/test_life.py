"""What a server withstands while connections live and end (threat model, items 20-22, 29, 30)."""

import gc
import logging
import os
import random
import ssl
import struct
import weakref

import pytest
import trio
import trio.testing
import trustme

import triows
from tests.conformance.peer import (
    BINARY,
    CLOSE,
    PING,
    TEXT,
    Close,
    Frame,
    Peer,
    build_close,
    build_frame,
)
from tests.conformance.transports import MemoryListener
from tests.conftest import Serve


@pytest.mark.timed
async def test_item_20_both_close_at_once(serve: Serve):
    """Close frames that cross are one closing handshake, with one outcome on each side."""
    outcome: list[object] = []

    async def leave(ws: triows.WebSocket) -> None:
        await ws.receive()
        await ws.aclose(3001, "ours")
        outcome.append(ws.close_reason)

    peer = await (await serve(leave)).connect()
    await peer.send(build_frame(TEXT, b"go") + build_close(3002, b"theirs"))
    assert (await peer.receive_close()).code in {3001, 3002}
    await peer.receive_eof()
    await trio.testing.wait_all_tasks_blocked()
    assert len(outcome) == 1


async def test_item_30_what_ended_a_handler_is_let_go_of(serve: Serve):
    """Its exception, with the frames that it came through, does not wait for the peer's Close."""
    raised: list[weakref.ref[BaseException]] = []

    async def listen(ws: triows.WebSocket) -> None:
        try:
            await ws.receive()
        except triows.ConnectionBroken as error:
            raised.append(weakref.ref(error))
            raise

    peer = await (await serve(listen, limits=triows.Limits(max_message=99))).connect()
    gc.disable()
    try:
        await peer.send(build_frame(BINARY, bytes(100)))
        assert (await peer.receive_close()).code == 1009
        await trio.testing.wait_all_tasks_blocked(0.02)
        assert [error() for error in raised] == [None]
    finally:
        gc.enable()


@pytest.mark.timed
async def test_item_20_a_half_open_peer_is_dropped_by_keepalive(serve: Serve):
    """A peer that answers no Ping is gone after interval and timeout."""
    ends: list[tuple[float, int]] = []

    async def listen(ws: triows.WebSocket) -> None:
        try:
            await ws.receive()
        except triows.ConnectionBroken as error:
            ends.append((trio.current_time(), error.code))
            raise

    keepalive = triows.KeepAlive(interval=20.0, timeout=10.0)
    peer = await (await serve(listen, keepalive=keepalive)).connect()
    start = trio.current_time()
    assert (await peer.receive_frame()).opcode == PING
    assert trio.current_time() - start == pytest.approx(20, abs=0.1)
    await peer.receive_end()

    ((when, _),) = ends
    assert when - start == pytest.approx(30, abs=0.1)


@pytest.mark.timed
async def test_item_20_any_octet_is_a_sign_of_life(serve: Serve):
    """A peer whose frame is slow to arrive is not half-open."""
    limits = triows.Limits(message_timeout=10_000.0)
    peer = await (await serve(limits=limits)).connect()
    for octet in build_frame(BINARY, b"slow"):
        await peer.send(bytes([octet]))
        await trio.sleep(19)

    frames = [await peer.receive_frame()]
    while frames[-1].opcode == PING:
        frames.append(await peer.receive_frame())
    assert frames[-1] == Frame(BINARY, b"slow")


@pytest.mark.timed
async def test_item_20_a_peer_that_answers_pings_stays(serve: Serve):
    """Pongs alone keep a quiet connection open."""
    peer = await (await serve()).connect()
    for _ in range(10):
        ping = await peer.receive_frame()
        assert ping.opcode == PING
        await peer.send_frame(0xA, ping.payload)
    await peer.expect_echo()


@pytest.mark.usefixtures("no_tracebacks")
async def test_item_20_a_hundred_resets_in_mid_frame(serve: Serve):
    """Connections that are cut off at any octet take none with them."""
    served = await serve()
    bystander = await served.connect()
    frame = build_frame(BINARY, b"never finished")
    for number in range(100):
        peer = await served.connect()
        await peer.send(frame[: number % len(frame)])
        peer.reset()
        if number % 10 == 0:
            await bystander.expect_echo()
    await bystander.expect_echo()


async def test_item_21_a_half_close_delivers_what_came_before(serve: Serve):
    """The handler reads all that was received, and may still answer before the end."""
    received: list[str | bytes] = []
    codes: list[int] = []

    async def listen(ws: triows.WebSocket) -> None:
        try:
            async for message in ws:
                received.append(message)  # noqa: PERF401 - what came before an exception counts
        except triows.ConnectionBroken as error:
            codes.append(error.code)

    peer = await (await serve(listen)).connect()
    await peer.send(b"".join(build_frame(BINARY, bytes([number])) for number in range(100)))
    await peer.end()
    await peer.receive_end()
    await trio.testing.wait_all_tasks_blocked(0.01)

    assert received == [bytes([number]) for number in range(100)]
    assert codes == [1006]


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """A certificate authority of our own."""
    return trustme.CA()


async def test_item_21_tls_cut_without_close_notify_is_abnormal(
    authority: trustme.CA, warm: None, autojump_clock: object, nursery: trio.Nursery
):
    """An attacker who can cut TCP cannot make it look like a normal closure."""
    seen: list[object] = []

    async def listen(ws: triows.WebSocket) -> None:
        try:
            async for message in ws:
                seen.append(message)  # noqa: PERF401 - what came before an exception counts
            seen.append("clean end")
        except triows.ConnectionBroken as error:
            seen.append(error.code)

    server_context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("server.example").configure_cert(server_context)
    client_context = ssl.create_default_context()
    authority.configure_trust(client_context)
    listener = MemoryListener()
    listeners = [trio.SSLListener(listener, server_context)]
    await nursery.start(triows.serve_listeners, listen, listeners)

    raw = listener.connect()
    stream = trio.SSLStream(raw, client_context, server_hostname="server.example")
    peer = Peer(stream)  # type: ignore[arg-type]  # TLS has no half-close, and none is asked for
    await peer.handshake()
    await peer.send_frame(TEXT, b"over TLS")
    await trio.testing.wait_all_tasks_blocked()
    raw.close()
    await trio.testing.wait_all_tasks_blocked()

    assert seen == ["over TLS", 1006]


@pytest.mark.usefixtures("no_tracebacks")
async def test_item_22_a_peer_that_stops_reading_blocks_its_own_sender_only(serve: Serve):
    """What is queued for a deaf peer is bounded, and others are served meanwhile."""
    sent = 0

    async def flood(ws: triows.WebSocket) -> None:
        nonlocal sent
        if await ws.receive() == "flood":
            while True:
                await ws.send(bytes(1000))
                sent += 1
        await ws.send("served")

    served = await serve(flood)
    deaf = await served.connect()
    await deaf.send_frame(TEXT, b"flood")
    await trio.testing.wait_all_tasks_blocked(0.05)
    so_far = sent
    other = await served.connect()
    await other.send_frame(TEXT, b"hello")

    assert await other.receive_message() == Frame(TEXT, b"served")
    assert sent == so_far
    assert sent < 20_000


async def test_item_29_cancelled_sends_leave_the_stream_whole(serve: Serve):
    """Of 500 sends to a slow reader, those that returned arrive, and no part of the others."""
    accepted: list[int] = []
    cancelled: list[int] = []

    async def send_impatiently(ws: triows.WebSocket) -> None:
        for number in range(500):
            payload = struct.pack("!I", number) + bytes(20_000 + number)
            with trio.move_on_after(0.0005) as scope:
                await ws.send(payload)
                accepted.append(number)
            if scope.cancelled_caught:
                cancelled.append(number)

    peer = await (await serve(send_impatiently)).connect()
    arrived = []
    while (frame := await peer.receive_frame()).opcode != CLOSE:
        (number,) = struct.unpack("!I", frame.payload[:4])
        assert len(frame.payload) == 20_004 + number
        arrived.append(number)
        await trio.sleep(0.001)

    assert arrived == accepted
    assert cancelled
    assert len(accepted) + len(cancelled) == 500


@pytest.mark.parametrize(
    "error", [ValueError("bug"), MemoryError(), ExceptionGroup("g", [KeyError()])]
)
async def test_item_30_a_handler_that_raises_closes_its_own_connection(
    serve: Serve, error: Exception, caplog: pytest.LogCaptureFixture
):
    """The failure is logged, its peer gets 1011 without details, and the server lives."""

    async def handler(ws: triows.WebSocket) -> None:
        if await ws.receive() == "raise":
            raise error
        await ws.send("fine")

    served = await serve(handler)
    bystander = await served.connect()
    peer = await served.connect()
    await peer.send_frame(TEXT, b"raise")
    close = await peer.receive_failure(1011)
    assert "bug" not in close.reason
    assert any(record.levelno >= logging.ERROR and record.exc_info for record in caplog.records)

    await bystander.send_frame(TEXT, b"hello")
    assert await bystander.receive_message() == Frame(TEXT, b"fine")
    assert (await bystander.receive_close()).code == 1000


@pytest.mark.usefixtures("no_tracebacks")
async def test_a_handler_that_lets_the_channel_break_is_no_error(serve: Serve):
    """A peer that vanishes under a handler that does not care shows nowhere in the log."""

    async def listen(ws: triows.WebSocket) -> None:
        while True:
            await ws.receive()

    served = await serve(listen)
    for ending in (b"", build_close(1000), build_close(4000), build_frame(3)):
        peer = await served.connect()
        await peer.send(ending)
        peer.reset()
    peer = await served.connect()
    await peer.send(build_close(1000))
    assert await peer.receive_close() == Close(1000)


async def test_item_30_a_hundred_that_raise_among_a_thousand_that_echo(
    serve: Serve, caplog: pytest.LogCaptureFixture
):
    """Handlers that raise at random moments take nothing from the others: no message is lost.

    The stream driver, which has nothing that connections share, has a fifth of them.
    """
    seed = int(os.environ.get("TRIOWS_SEED", random.randrange(2**32)))
    print(f"TRIOWS_SEED={seed}")
    chance = random.Random(seed)
    caplog.set_level(logging.CRITICAL)
    echoed = failed = 0
    begun = trio.Event()

    async def echo_or_raise(ws: triows.WebSocket) -> None:
        async for message in ws:
            if message == "raise":
                await trio.sleep(chance.random() * 0.1)
                raise ValueError(message)
            await ws.send(message)

    async def talk(peer: Peer, number: int) -> None:
        nonlocal echoed
        await begun.wait()
        for turn in range(3):
            message = struct.pack("!II", number, turn) * chance.choice([1, 10, 1000])
            await trio.sleep(chance.random() * 0.1)
            await peer.send_frame(BINARY, message)
            assert await peer.receive_message() == Frame(BINARY, message)
            echoed += 1

    async def provoke(peer: Peer) -> None:
        nonlocal failed
        await begun.wait()
        await peer.send_frame(TEXT, b"raise")
        await peer.receive_failure(1011)
        failed += 1

    served = await serve(echo_or_raise)
    raising = 100 if served.wire.driver == "reactor" else 20
    async with trio.open_nursery() as nursery:
        for number in range(11 * raising):
            peer = await served.connect()
            peer.patience = 60.0
            if number % 11:
                nursery.start_soon(talk, peer, number)
            else:
                nursery.start_soon(provoke, peer)
        begun.set()
    assert (echoed, failed) == (30 * raising, raising)
    assert served.server.statistics().handler_failures == raising
