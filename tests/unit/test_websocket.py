"""The channel: what goes in and out, in which order, and how every wait ends."""

import contextlib
from functools import partial
from typing import Any

import pytest
import trio
import trio.testing

import triows
from tests.conformance.peer import BINARY, CLOSE, PING, PONG, TEXT, Frame
from tests.conformance.transports import reset
from tests.unit.conftest import (
    REQUEST,
    Connect,
    Pair,
    as_server,
    over_memory,
    over_tcp,
    over_virtual,
)
from triows import CloseReason, ConnectionBroken, KeepAlive, Limits
from triows._engine import Ponged


async def settle(pair: Pair) -> None:
    """Wait until every task waits, a kernel's round trip included."""
    await trio.testing.wait_all_tasks_blocked(0.02)


# Messages.


@pytest.mark.parametrize(
    ("message", "frame"),
    [
        ("", Frame(TEXT, b"")),
        ("grüße", Frame(TEXT, "grüße".encode())),
        (b"", Frame(BINARY, b"")),
        (b"octets", Frame(BINARY, b"octets")),
        (bytearray(b"octets"), Frame(BINARY, b"octets")),
        (memoryview(b"-octets-")[1:-1], Frame(BINARY, b"octets")),
        (memoryview(b"o-c-t-e-t-s")[::2], Frame(BINARY, b"octets")),
    ],
    ids=["empty text", "text", "empty binary", "bytes", "bytearray", "memoryview", "strided"],
)
async def test_str_goes_as_text_and_the_rest_as_binary(
    connect: Connect, message: Any, frame: Frame
):
    """What kind of message is sent follows from its type (RFC 6455 §5.6)."""
    pair = await connect()
    await pair.ws.send(message)
    assert await pair.peer.receive_frame() == frame


async def test_text_comes_as_str_and_binary_as_bytes(connect: Connect):
    """What type a message has follows from its kind."""
    pair = await connect()
    await pair.peer.send_frame(TEXT, "grüße".encode())
    await pair.peer.send_frame(BINARY, b"octets")
    assert [await pair.ws.receive(), await pair.ws.receive()] == ["grüße", b"octets"]


@pytest.mark.parametrize("message", [None, 1, ["a"], object()])
async def test_what_is_no_message_is_not_sent(connect: Connect, message: Any):
    """An object of another type is a TypeError, and the connection goes on."""
    pair = await connect()
    with pytest.raises(TypeError, match=type(message).__name__):
        await pair.ws.send(message)
    with pytest.raises(TypeError):
        pair.ws.send_nowait(message)
    await pair.ws.send("fine")
    assert await pair.peer.receive_frame() == Frame(TEXT, b"fine")


async def test_a_lone_surrogate_is_not_sent(connect: Connect):
    """Text that has no UTF-8 is an error of whoever sends it, and of no one else."""
    pair = await connect()
    with pytest.raises(UnicodeEncodeError):
        await pair.ws.send("\ud800")
    await pair.ws.send("fine")
    assert await pair.peer.receive_frame() == Frame(TEXT, b"fine")


async def test_a_buffer_may_be_changed_once_send_has_returned(connect: Connect):
    """What is sent is what the buffer held, not what it holds when it leaves."""
    pair = await connect()
    buffer = bytearray(b"before" * 20_000)
    expected = bytes(buffer)
    await pair.ws.send(buffer)
    buffer[:] = b"after!" * 20_000
    assert (await pair.peer.receive_frame()).payload == expected


async def test_octets_behind_the_handshake_are_frames(connect: Connect, role: str):
    """What came with the opening handshake's last segment is received first."""
    mask = None if role == "client" else b"abcd"
    leftover = _frame_octets(b"first", mask) + _frame_octets(b"second", mask)[:5]
    pair = await connect(leftover=leftover)
    await pair.peer.send(_frame_octets(b"second", mask)[5:])
    assert [await pair.ws.receive(), await pair.ws.receive()] == ["first", "second"]


def _frame_octets(payload: bytes, mask: bytes | None) -> bytes:
    from tests.conformance.peer import build_frame  # noqa: PLC0415 - the one use of it here

    return build_frame(TEXT, payload, mask=mask)


async def test_messages_arrive_in_order(connect: Connect):
    """A thousand small messages in one write come out one by one, as they were sent."""
    pair = await connect()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pair.peer.send, pair.text(*(b"%d" % number for number in range(1000))))
        received = [await pair.ws.receive() for _ in range(1000)]
    assert received == [str(number) for number in range(1000)]


async def test_async_for_ends_with_a_clean_close(connect: Connect):
    """The loop over a channel sees every message, then ends without an exception."""
    pair = await connect()
    await pair.peer.send(pair.text(b"one", b"two") + pair.close_frame(1000))
    assert [message async for message in pair.ws] == ["one", "two"]


# Statistics and names.


async def test_statistics_count_messages_and_octets(connect: Connect):
    """Payload octets count, headers do not; what waits is told apart from what was read."""
    pair = await connect()
    await pair.ws.send("grüße")
    await pair.ws.send(b"123")
    await pair.peer.send(pair.text(b"first", b"second", b"third"))
    assert await pair.ws.receive() == "first"
    await settle(pair)

    statistics = pair.ws.statistics()
    assert (statistics.messages_sent, statistics.octets_sent) == (2, 10)
    assert (statistics.messages_received, statistics.octets_received) == (3, 16)
    assert (statistics.unread_messages, statistics.unread_octets) == (2, 11)
    assert statistics.unsent_octets == 0
    assert statistics.tasks_waiting_to_send == 0


@over_virtual
async def test_statistics_show_what_is_stuck(connect: Connect):
    """Octets that the transport did not take, and tasks that wait for room."""
    pair = await connect(limits=Limits(send_queue_octets=1000))
    await pair.ws.send(bytes(300_000))
    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(pair.ws.send, b"stuck")
        await settle(pair)
        statistics = pair.ws.statistics()
        assert 1000 <= statistics.unsent_octets <= 300_014
        assert statistics.tasks_waiting_to_send == 3
        assert statistics.messages_sent == 1
        nursery.cancel_scope.cancel()


@over_memory
@as_server
async def test_a_channel_says_what_the_handshake_settled(connect: Connect):
    """Request, subprotocol and addresses are the opening's."""
    pair = await connect()
    assert pair.ws.request is REQUEST
    assert pair.ws.subprotocol is None
    assert pair.ws.local is None
    assert pair.ws.remote is None
    assert pair.ws.close_reason is None


@over_memory
async def test_the_repr_says_where_the_connection_stands(connect: Connect):
    """A channel shows its phase, then how it ended."""
    pair = await connect()
    assert "open" in repr(pair.ws)
    await pair.close(4000, b"why")
    await settle(pair)
    assert "4000" in repr(pair.ws)
    assert "why" in repr(pair.ws)


# Room to send.


@over_virtual
async def test_a_message_of_any_size_enters_whole_below_the_mark(connect: Connect):
    """Below the high-water mark a message enters whole; at it, the next one waits."""
    pair = await connect(limits=Limits(send_queue_octets=10))
    big = bytes(500_000)
    with trio.fail_after(1):
        await pair.ws.send(b"")
        await pair.ws.send(big)
    with trio.move_on_after(5) as scope:
        await pair.ws.send(b"waits")
    assert scope.cancelled_caught
    assert await pair.peer.receive_frame() == Frame(BINARY, b"")
    assert (await pair.peer.receive_frame()).payload == big
    await pair.ws.send(b"last")
    assert await pair.peer.receive_frame() == Frame(BINARY, b"last")


async def test_senders_are_served_in_order(connect: Connect, way: Any):
    """Those who wait for room get it in the order in which they asked."""
    pair = await connect(limits=Limits(send_queue_octets=1000), capacity=4096)
    sizes = [5, 200_000, 0, 70_000, 1, 3000]
    async with trio.open_nursery() as nursery:
        for turn in range(8):
            for size in sizes:
                nursery.start_soon(pair.ws.send, bytes([turn]) * size)
                await trio.testing.wait_all_tasks_blocked()
        arrived = [await pair.peer.receive_frame() for _ in range(8 * len(sizes))]
    assert [len(frame.payload) for frame in arrived] == sizes * 8


@over_virtual
async def test_a_new_sender_does_not_overtake_one_that_waits(connect: Connect):
    """Room that appears belongs to whoever waits for it, even for those who come by at once."""
    pair = await connect(limits=Limits(send_queue_octets=1000))
    await pair.ws.send(bytes(300_000))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pair.ws.send, b"waits")
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(pair.peer.receive_frame)
        while pair.ws.statistics().unsent_octets >= 1000:
            await trio.lowlevel.checkpoint()
        with contextlib.suppress(trio.WouldBlock):
            pair.ws.send_nowait(b"came by")
        await pair.ws.send(b"came later")
    order = [frame.payload for frame in await _receive_frames(pair, 2)]
    assert order[0] == b"waits"


async def _receive_frames(pair: Pair, count: int) -> list[Frame]:
    return [await pair.peer.receive_frame() for _ in range(count)]


@over_virtual
async def test_a_waiting_sender_that_is_cancelled_lets_the_next_one_go_on(connect: Connect):
    """The turn of a task that gives up passes to the one behind it, and its message is gone."""
    pair = await connect(limits=Limits(send_queue_octets=1000))
    await pair.ws.send(bytes(300_000))
    scopes = [trio.CancelScope() for _ in range(3)]

    async def send(number: int) -> None:
        with scopes[number]:
            await pair.ws.send(b"%d" % number)

    async with trio.open_nursery() as nursery:
        for number in range(3):
            nursery.start_soon(send, number)
            await trio.testing.wait_all_tasks_blocked()
        scopes[0].cancel()
        scopes[1].cancel()
        await trio.testing.wait_all_tasks_blocked()
        await pair.peer.receive_frame()
        assert await pair.peer.receive_frame() == Frame(BINARY, b"2")


@over_virtual
async def test_send_nowait_never_waits(connect: Connect):
    """It queues while there is room and refuses when there is none, or others wait for it."""
    pair = await connect(limits=Limits(send_queue_octets=1000))
    pair.ws.send_nowait("first")
    pair.ws.send_nowait(bytes(300_000))
    with pytest.raises(trio.WouldBlock):
        pair.ws.send_nowait("second")
    assert [frame.payload[:5] for frame in await _receive_frames(pair, 2)] == [b"first", bytes(5)]
    pair.ws.send_nowait("third")
    assert await pair.peer.receive_frame() == Frame(TEXT, b"third")


@as_server
@over_tcp
async def test_sending_before_the_tasks_run_wakes_who_waits_then(connect: Connect):
    """A sender that waits for room before the driver has begun is woken once there is some."""
    pair = await connect(limits=Limits(send_queue_octets=1000), is_running=False)
    while pair.ws.statistics().unsent_octets < 1000:
        await pair.ws.send(bytes(10_000))
    received = bytearray()
    async with trio.open_nursery() as senders:
        senders.start_soon(pair.ws.send, b"waits")
        await trio.testing.wait_all_tasks_blocked()
        while True:
            with trio.move_on_after(0.05) as nothing_came:
                received += await pair.peer.stream.receive_some()
            if nothing_came.cancelled_caught:
                break
        pair.start()
        while not received.endswith(b"waits"):
            with trio.fail_after(5):
                received += await pair.peer.stream.receive_some()


# Receiving.


async def test_a_second_receiver_is_refused(connect: Connect):
    """Only one task may receive; the other is told, and the first one is not disturbed."""
    pair = await connect()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pair.ws.receive)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(trio.BusyResourceError):
            await pair.ws.receive()
        with pytest.raises(trio.BusyResourceError):
            pair.ws.receive_nowait()
        await pair.peer.send_frame(TEXT, b"for the first")
    await pair.peer.send_frame(TEXT, b"next")
    assert await pair.ws.receive() == "next"


async def test_receive_nowait_never_waits(connect: Connect):
    """It takes what is there, says when nothing is, and how it ended once it has."""
    pair = await connect()
    with pytest.raises(trio.WouldBlock):
        pair.ws.receive_nowait()
    await pair.peer.send(pair.text(b"one", b"two") + pair.close_frame(1000))
    await pair.leave()
    await settle(pair)
    assert [pair.ws.receive_nowait(), pair.ws.receive_nowait()] == ["one", "two"]
    with pytest.raises(trio.EndOfChannel):
        pair.ws.receive_nowait()


@over_virtual
@pytest.mark.parametrize("kind", ["messages", "octets"])
async def test_unread_messages_are_bounded(connect: Connect, kind: str):
    """At the bound the channel stops reading, and the peer has to wait; reading lets it go on."""
    limits = {
        "messages": Limits(receive_queue_messages=10),
        "octets": Limits(receive_queue_octets=100_000),
    }[kind]
    pair = await connect(limits=limits, capacity=4096)
    size = 10_000 if kind == "octets" else 1000
    sent = 0

    async def flood() -> None:
        nonlocal sent
        for number in range(100):
            await pair.peer.send_frame(BINARY, bytes([number]) * size)
            sent += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(flood)
        await settle(pair)
        assert sent < 40
        assert pair.ws.statistics().unread_messages <= 20
        received = [await pair.ws.receive() for _ in range(100)]
    assert received == [bytes([number]) * size for number in range(100)]


@over_virtual
async def test_empty_messages_count_against_the_bound(connect: Connect):
    """Messages without octets cannot pile up either."""
    pair = await connect(limits=Limits(receive_queue_messages=10), capacity=64)
    with trio.move_on_after(5) as scope:
        await pair.peer.send(pair.text(b"") * 100_000)
    assert scope.cancelled_caught
    assert pair.ws.statistics().unread_messages <= 10 + 65_536 // len(pair.text(b""))


async def test_control_frames_are_served_while_the_application_is_slow(connect: Connect):
    """A Ping behind unread messages is answered as long as these are below the bound."""
    pair = await connect()
    await pair.peer.send(pair.text(*[b"unread"] * 100) + pair.frame(PING, b"there?"))
    assert await pair.peer.receive_frame() == Frame(PONG, b"there?")


async def test_a_message_at_its_limit_is_received_by_a_small_queue(connect: Connect):
    """A message larger than the receive queue is still received."""
    pair = await connect(limits=Limits(receive_queue_octets=1))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pair.peer.send_frame, BINARY, bytes(2**20))
        assert await pair.ws.receive() == bytes(2**20)


@over_virtual
async def test_closing_while_reading_is_paused_does_not_wait_for_the_application(connect: Connect):
    """A Close that stands behind unread messages is heard once this side closes."""
    pair = await connect(limits=Limits(receive_queue_messages=1), capacity=1024)

    async def talk() -> None:
        await pair.peer.send(pair.text(*[bytes(100)] * 500) + pair.close_frame())
        await pair.leave()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(talk)
        await settle(pair)
        start = trio.current_time()
        await pair.ws.aclose()
        assert trio.current_time() - start < 1


# How it ends.


@pytest.mark.parametrize("code", [1000, 1001, None])
async def test_a_clean_end_is_the_end_of_the_channel(connect: Connect, code: int | None):
    """1000, 1001 and no code at all are EndOfChannel, as often as one asks."""
    pair = await connect()
    await pair.close(code, b"bye" if code else b"")
    for _ in range(2):
        with pytest.raises(trio.EndOfChannel):
            await pair.ws.receive()
    assert pair.ws.close_reason == CloseReason(code or 1005, "bye" if code else "")


@pytest.mark.parametrize("code", [1002, 1003, 1007, 1011, 1014, 3000, 4999])
async def test_another_code_breaks_the_channel(connect: Connect, code: int):
    """ConnectionBroken says the peer's code and reason."""
    pair = await connect()
    await pair.close(code, b"because")
    for _ in range(2):
        with pytest.raises(ConnectionBroken) as caught:
            await pair.ws.receive()
        assert (caught.value.code, caught.value.reason) == (code, "because")
    assert isinstance(caught.value, trio.BrokenResourceError)
    assert pair.ws.close_reason == CloseReason(code, "because")


async def test_messages_before_the_peers_close_stay_readable(connect: Connect):
    """Even once the transport has gone, what came before is received first."""
    pair = await connect()
    await pair.peer.send(pair.text(b"one", b"two"))
    await pair.close(4000)
    await settle(pair)
    assert [await pair.ws.receive(), await pair.ws.receive()] == ["one", "two"]
    with pytest.raises(ConnectionBroken):
        await pair.ws.receive()


@pytest.mark.parametrize("code", [1000, 4000])
async def test_sending_after_the_peers_close_fails_with_its_code(connect: Connect, code: int):
    """A clean close too leaves no one to send to."""
    pair = await connect()
    await pair.close(code, b"gone")
    await settle(pair)
    for call in (partial(pair.ws.send, "x"), pair.ws.ping):
        with pytest.raises(ConnectionBroken) as caught:
            await call()
        assert (caught.value.code, caught.value.reason) == (code, "gone")
    with pytest.raises(ConnectionBroken):
        pair.ws.send_nowait("x")
    assert pair.ws.statistics().messages_sent == 0


async def test_use_after_closing_here_is_an_error_of_its_own(connect: Connect):
    """After `aclose`, every call but `aclose` is a ClosedResourceError."""
    pair = await connect()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pair.answer_close)
        await pair.ws.aclose()
    for call in (partial(pair.ws.send, "x"), pair.ws.receive, pair.ws.ping):
        with pytest.raises(trio.ClosedResourceError):
            await call()
    for call_nowait in (partial(pair.ws.send_nowait, "x"), pair.ws.receive_nowait):
        with pytest.raises(trio.ClosedResourceError):
            call_nowait()
    await pair.ws.aclose()


FAULTS = {
    "opcode": (1002, lambda pair: pair.frame(3)),
    "text": (1007, lambda pair: pair.text(b"\xff")),
    "size": (1009, lambda pair: pair.frame(BINARY, declared=2**30)),
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_fault_of_the_peer_breaks_the_channel(connect: Connect, fault: str):
    """The exception has the code that the peer is told; what came before stays readable."""
    code, build = FAULTS[fault]
    pair = await connect()
    await pair.peer.send(pair.text(b"before") + build(pair))
    frame = await pair.peer.receive_frame()
    assert (frame.opcode, frame.payload[:2]) == (CLOSE, code.to_bytes(2))
    assert await pair.ws.receive() == "before"
    with pytest.raises(ConnectionBroken) as caught:
        await pair.ws.receive()
    assert caught.value.code == code
    with pytest.raises(ConnectionBroken):
        await pair.ws.send("x")


async def _end(pair: Pair, how: str) -> None:
    """End the connection in one of the ways in which it can end."""
    if how == "peer's close":
        await pair.close(4000)
    elif how == "peer's fault":
        await pair.peer.send(pair.frame(3))
    elif how == "end of the transport":
        await pair.peer.aclose()
    elif how == "reset":
        stream = pair.peer.stream
        reset(getattr(stream, "transport_stream", stream))
    elif how == "local close":
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pair.leave)
            await pair.peer.send(pair.close_frame())
            await pair.ws.aclose()
    else:
        pair.ws.abort("enough")


ENDS = [
    "peer's close",
    "peer's fault",
    "end of the transport",
    "reset",
    "local close",
    "abort",
]


@pytest.mark.parametrize("how", ENDS)
@pytest.mark.parametrize("what", ["receive", "send", "ping"])
async def test_every_wait_ends_with_the_connection(connect: Connect, what: str, how: str):
    """Receivers, senders without room and those who wait for a Pong are told, whatever the end."""
    pair = await connect(limits=Limits(send_queue_octets=1000), capacity=4096)
    expected = trio.ClosedResourceError if how == "local close" else ConnectionBroken
    outcomes: list[BaseException] = []

    async def wait() -> None:
        call = {"receive": pair.ws.receive, "ping": pair.ws.ping, "send": _send_until_full}[what]
        try:
            await (call(pair) if what == "send" else call())
        except (trio.BrokenResourceError, trio.ClosedResourceError, trio.EndOfChannel) as error:
            outcomes.append(error)

    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            for _ in range(1 if what == "receive" else 3):
                nursery.start_soon(wait)
            await settle(pair)
            await _end(pair, how)
    assert len(outcomes) in {1, 3}
    assert all(isinstance(error, expected) for error in outcomes), outcomes


async def _send_until_full(pair: Pair) -> None:
    while True:
        await pair.ws.send(bytes(100_000))


@pytest.mark.parametrize("how", ["end of the transport", "reset"])
async def test_a_lost_transport_is_abnormal(connect: Connect, how: str):
    """Without a Close frame the code is 1006, and no message is lost that came before."""
    pair = await connect()
    await pair.peer.send(pair.text(b"before"))
    await settle(pair)
    await _end(pair, how)
    assert await pair.ws.receive() == "before"
    with pytest.raises(ConnectionBroken) as caught:
        await pair.ws.receive()
    assert caught.value.code == 1006
    assert pair.ws.close_reason is not None
    assert pair.ws.close_reason.code == 1006


@over_virtual
async def test_a_silent_peer_ends_every_wait(connect: Connect):
    """When keepalive gives up, receivers, senders and pings are told, at the promised time."""
    keepalive = KeepAlive(interval=20, timeout=10)
    pair = await connect(keepalive=keepalive, limits=Limits(send_queue_octets=1000), capacity=4096)
    outcomes: list[tuple[float, int]] = []
    start = trio.current_time()

    async def wait(call: Any) -> None:
        try:
            await call()
        except ConnectionBroken as error:
            outcomes.append((trio.current_time() - start, error.code))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait, pair.ws.ping)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(wait, pair.ws.receive)
        nursery.start_soon(wait, partial(_send_until_full, pair))
    assert outcomes == [(pytest.approx(30, abs=0.01), 1006)] * 3


# Ping.


async def test_ping_measures_the_round_trip(connect: Connect, nursery: trio.Nursery):
    """The payload goes out as given, and the time until its Pong comes back."""
    pair = await connect()
    times: list[float] = []

    async def ping() -> None:
        times.append(await pair.ws.ping(b"payload"))

    nursery.start_soon(ping)
    assert await pair.peer.receive_frame() == Frame(PING, b"payload")
    await trio.sleep(0.05)
    await pair.peer.send_frame(PONG, b"payload")
    await settle(pair)
    assert times == [pytest.approx(0.05, abs=0.04)]


async def test_pings_have_payloads_of_their_own(connect: Connect, nursery: trio.Nursery):
    """By default no two Pings look the same, also where the application took a name."""
    pair = await connect()
    for payload in (b"triows 1", b"triows 2", None, None):
        nursery.start_soon(pair.ws.ping, payload)
        await trio.testing.wait_all_tasks_blocked()
    payloads = [frame.payload for frame in await _receive_frames(pair, 4)]
    assert len(set(payloads)) == 4


async def test_a_pong_answers_the_pings_before_it(connect: Connect):
    """A peer may answer only the newest of several Pings (RFC 6455 §5.5.3)."""
    pair = await connect()
    async with trio.open_nursery() as nursery:
        for payload in (b"1", b"2", b"3"):
            nursery.start_soon(pair.ws.ping, payload)
            await trio.testing.wait_all_tasks_blocked()
        await _receive_frames(pair, 3)
        await pair.peer.send_frame(PONG, b"2")
        await settle(pair)
        assert len(nursery.child_tasks) == 1
        await pair.peer.send_frame(PONG, b"3")


async def test_a_ping_that_was_given_up_leaves_no_trace(connect: Connect, nursery: trio.Nursery):
    """A late Pong is ignored, and the payload may be used again."""
    pair = await connect()
    with trio.move_on_after(0.02):
        await pair.ws.ping(b"same")
    await pair.peer.receive_frame()
    await pair.peer.send_frame(PONG, b"same")
    await settle(pair)
    async with trio.open_nursery() as pings:
        pings.start_soon(pair.ws.ping, b"same")
        assert await pair.peer.receive_frame() == Frame(PING, b"same")
        await pair.peer.send_frame(PONG, b"same")


@over_memory
async def test_a_payload_may_be_used_again_at_the_instant_of_its_pong(connect: Connect):
    """A Ping that takes the payload of one just answered still gets its own Pong."""
    pair = await connect()

    async def answer() -> None:
        assert await pair.peer.receive_frame() == Frame(PING, b"same")
        await pair.peer.send_frame(PONG, b"same")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(pair.ws.ping, b"same")
        assert await pair.peer.receive_frame() == Frame(PING, b"same")
        nursery.start_soon(answer)
        pair.ws.deliver([Ponged(b"same")])
        with trio.fail_after(5):
            await pair.ws.ping(b"same")


async def test_unasked_pongs_are_ignored(connect: Connect):
    """A Pong that answers nothing changes nothing (RFC 6455 §5.5.3)."""
    pair = await connect()
    await pair.peer.send(pair.frame(PONG, b"who asked?") * 100 + pair.text(b"message"))
    assert await pair.ws.receive() == "message"


@pytest.mark.parametrize("payload", [bytes(126), b"taken"])
async def test_a_ping_that_cannot_be_told_apart_or_is_too_long_is_refused(
    connect: Connect, nursery: trio.Nursery, payload: bytes
):
    """Nothing is sent for it, and it leaves nothing behind."""
    pair = await connect()
    nursery.start_soon(pair.ws.ping, b"taken")
    assert await pair.peer.receive_frame() == Frame(PING, b"taken")
    with pytest.raises(ValueError, match="ping"):
        await pair.ws.ping(payload)
    await pair.ws.send("next")
    assert await pair.peer.receive_frame() == Frame(TEXT, b"next")


@over_virtual
async def test_pings_to_a_deaf_peer_do_not_pile_up(connect: Connect):
    """A Ping waits for room as a message does, so that giving up and trying again is bounded."""
    pair = await connect(limits=Limits(send_queue_octets=1000), capacity=1024)
    for _ in range(1000):
        with trio.move_on_after(1):
            await pair.ws.ping()
    assert pair.ws.statistics().unsent_octets < 1100


@over_virtual
async def test_a_ping_that_waits_for_room_goes_out_in_its_turn(connect: Connect):
    """Pings and messages that wait for room leave in the order in which they asked."""
    pair = await connect(limits=Limits(send_queue_octets=1000), capacity=1024)
    await pair.ws.send(bytes(100_000))
    async with trio.open_nursery() as nursery:
        for call in (partial(pair.ws.send, "a"), partial(pair.ws.ping, b"b")):
            nursery.start_soon(call)
            await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(pair.ws.send, "c")
        frames = await _receive_frames(pair, 4)
        assert [frame.payload for frame in frames[1:]] == [b"a", b"b", b"c"]
        await pair.peer.send_frame(PONG, b"b")


# Closing.


@pytest.mark.parametrize(
    ("code", "reason", "payload"),
    [
        (1000, "", b"\x03\xe8"),
        (1005, "", b""),
        (4999, "grüße", b"\x13\x87" + "grüße".encode()),
        (3000, "x" * 123, b"\x0b\xb8" + b"x" * 123),
    ],
)
async def test_aclose_sends_its_code_and_reason(
    connect: Connect, code: int, reason: str, payload: bytes
):
    """The Close frame says what `aclose` was told, and `aclose` returns once all is over."""
    pair = await connect()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pair.ws.aclose, code, reason)
        assert (await pair.answer_close()).payload == payload


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        *((code, "") for code in (-1, 0, 999, 1004, 1006, 1015, 2999, 5000, 70_000)),
        *((1000, "x" * 124), (1000, "ü" * 62), (1005, "a reason")),
    ],
)
async def test_aclose_refuses_what_may_not_be_sent(connect: Connect, code: int, reason: str):
    """A code or reason that RFC 6455 §7.4 forbids is a ValueError, and nothing is done."""
    pair = await connect()
    with pytest.raises(ValueError, match="close"):
        await pair.ws.aclose(code, reason)
    await pair.ws.send("still open")
    assert await pair.peer.receive_frame() == Frame(TEXT, b"still open")


async def test_async_with_closes_with_1000(connect: Connect):
    """Leaving the block is a normal closure."""
    pair = await connect()
    async with trio.open_nursery() as nursery:

        async def use() -> None:
            async with pair.ws:
                await pair.ws.send("hello")

        nursery.start_soon(use)
        await pair.peer.receive_frame()
        assert (await pair.answer_close()).payload == b"\x03\xe8"


async def test_a_second_closer_waits_too(connect: Connect):
    """Every `aclose` returns when the connection has ended; the first one's code counts."""
    pair = await connect()
    over: list[int] = []

    async def close(number: int) -> None:
        await pair.ws.aclose(4000 + number)
        over.append(number)

    async with trio.open_nursery() as nursery:
        for number in range(3):
            nursery.start_soon(close, number)
            await trio.testing.wait_all_tasks_blocked()
        assert over == []
        assert (await pair.answer_close()).payload == (4000).to_bytes(2)
    assert sorted(over) == [0, 1, 2]
    assert pair.ws.close_reason == CloseReason(4000)


@over_virtual
async def test_what_was_sent_before_closing_is_delivered(connect: Connect):
    """Queued messages leave before the Close; nothing leaves behind it."""
    pair = await connect(capacity=4096)
    async with trio.open_nursery() as nursery:
        for number in range(5):
            pair.ws.send_nowait(bytes([number]) * 10_000)
        nursery.start_soon(pair.ws.aclose)
        frames = await _receive_frames(pair, 5)
        assert [frame.payload for frame in frames] == [bytes([n]) * 10_000 for n in range(5)]
        await pair.answer_close()


async def test_closing_discards_what_is_unread(connect: Connect):
    """A local close throws away what has not been received, and what still comes."""
    pair = await connect()
    await pair.peer.send(pair.text(b"unread"))
    await settle(pair)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pair.ws.aclose)
        frame = await pair.peer.receive_frame()
        assert frame.opcode == CLOSE
        await pair.peer.send(pair.text(b"late") + pair.close_frame())
        await pair.peer.aclose()
    with pytest.raises(trio.ClosedResourceError):
        pair.ws.receive_nowait()
    assert pair.ws.statistics().unread_messages == 0


@over_virtual
async def test_a_deaf_peer_is_dropped_after_the_close_timeout(connect: Connect):
    """A peer that reads nothing holds up `aclose` for so long and no longer."""
    pair = await connect(limits=Limits(close_timeout=7), capacity=1024)
    pair.ws.send_nowait(bytes(100_000))
    start = trio.current_time()
    await pair.ws.aclose()
    assert trio.current_time() - start == pytest.approx(7, abs=0.01)
    assert pair.ws.close_reason is not None
    assert pair.ws.close_reason.code == 1006


async def test_cancelling_aclose_drops_the_transport(connect: Connect, way: Any):
    """The peer gets no time at all, whoever of those who wait is cancelled."""
    pair = await connect(limits=Limits(close_timeout=100), capacity=4096)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pair.ws.aclose)
        await trio.testing.wait_all_tasks_blocked()
        with trio.move_on_after(0) as scope:
            await pair.ws.aclose()
    assert scope.cancelled_caught
    await pair.peer.receive_end()
    assert pair.ws.close_reason is not None
    assert pair.ws.close_reason.code == 1006


async def test_closing_at_once_from_both_sides_has_one_outcome(connect: Connect):
    """Close frames that cross are one handshake; both calls return, the reason is the peer's."""
    pair = await connect()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pair.ws.aclose, 3001, "ours")
        await pair.close(3002, b"theirs")
    assert pair.ws.close_reason == CloseReason(3002, "theirs")


async def test_closing_after_the_peer_has_closed_only_waits(connect: Connect):
    """`aclose` behind the peer's Close sends nothing, and keeps the peer's reason."""
    pair = await connect()
    await pair.close(4000, b"theirs")
    await pair.ws.aclose(4001, "ours")
    assert pair.ws.close_reason == CloseReason(4000, "theirs")


@over_virtual
async def test_an_aborted_connection_ends_at_once(connect: Connect):
    """Nothing is sent, the peer sees the end, and the reason is 1006 with a word why."""
    pair = await connect()
    pair.ws.abort("enough")
    with pytest.raises(ConnectionBroken) as caught:
        await pair.ws.receive()
    assert (caught.value.code, caught.value.reason) == (1006, "enough")
    assert await pair.peer.receive_end() == b""


async def test_aborting_before_the_tasks_run_is_remembered(connect: Connect):
    """A connection that is aborted before it is served ends as soon as it is."""
    pair = await connect(is_running=False, leftover=b"")
    pair.ws.abort("enough")
    with trio.fail_after(5):
        await pair.ws.run(b"")
    await pair.ws.aclose()
    pair.ws.abort("again")
    assert pair.ws.close_reason == CloseReason(1006, "enough")


# Trio's contract.


async def test_every_call_is_a_checkpoint(connect: Connect):
    """Whether or not it has to wait, each call lets others run and can be cancelled."""
    pair = await connect()
    await pair.peer.send(pair.text(b"one", b"two"))
    await settle(pair)
    with trio.testing.assert_checkpoints():
        await pair.ws.receive()
    with trio.testing.assert_checkpoints():
        await pair.ws.send("there is room")
    await pair.peer.receive_frame()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pair.answer_close)
        with trio.testing.assert_checkpoints():
            await pair.ws.aclose()
    with trio.testing.assert_checkpoints():
        await pair.ws.aclose()


@pytest.mark.parametrize("call", ["send", "receive", "ping", "aclose"])
async def test_a_call_in_a_cancelled_scope_does_nothing(connect: Connect, call: str):
    """Cancelled before it begins, a call is cancelled even where it need not wait."""
    pair = await connect()
    await pair.peer.send(pair.text(b"waits"))
    await settle(pair)
    calls = {"send": partial(pair.ws.send, "never"), "ping": pair.ws.ping}
    with trio.CancelScope() as scope:
        scope.cancel()
        await calls.get(call, getattr(pair.ws, call))()
    assert scope.cancelled_caught
    if call == "aclose":
        await pair.peer.receive_end()
    else:
        assert await pair.ws.receive() == "waits"
        await pair.ws.send("next")
        assert await pair.peer.receive_frame() == Frame(TEXT, b"next")


async def test_a_sender_that_never_waits_lets_others_run(connect: Connect):
    """A loop over `send` with room, or over `receive` with messages, hogs nothing."""
    pair = await connect()
    ran = 0

    async def count() -> None:
        nonlocal ran
        while True:
            ran += 1
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        await pair.peer.send(pair.text(*[b"x"] * 50))
        await settle(pair)
        nursery.start_soon(count)
        for _ in range(50):
            await pair.ws.send("x")
            await pair.ws.receive()
        nursery.cancel_scope.cancel()
    assert ran >= 90


def test_connection_broken_belongs_to_trios_errors():
    """Who handles Trio's errors, or triows', handles these."""
    error = ConnectionBroken(1011, "na\nïve")
    assert isinstance(error, trio.BrokenResourceError)
    assert isinstance(error, triows.TriowsError)
    assert "\n" not in str(error)


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda ws: ws.ping("now"), "payload of a ping"),
        (lambda ws: ws.aclose(1000, b"bye"), "close reason"),
        (lambda ws: ws.aclose("1000"), "close code"),
        (lambda ws: ws.send_close(1000, None), "close reason"),
    ],
    ids=["ping", "reason", "code", "send_close"],
)
async def test_arguments_of_the_wrong_kind(connect: Connect, call: Any, named: str):
    """They are refused by their names; nothing is sent, and the connection stays open."""
    pair = await connect()
    with pytest.raises(TypeError, match=named):
        await call(pair.ws)
    await pair.ws.send("still open")
    assert await pair.peer.receive_frame() == Frame(TEXT, b"still open")
