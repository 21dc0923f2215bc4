"""The channel's promises, as a user sees them: each driver, both roles, with TLS and without.

What `serve` and `open_websocket` make talks over loopback to a peer that shares no code
with them. What can only be seen in virtual time, or from inside, is tested elsewhere
(tests/unit/test_websocket.py, tests/unit/test_parts.py). Another driver is another
entry in `DRIVERS`.
"""

import contextlib
import itertools
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
import trio.testing

import triows
from tests.conformance.peer import BINARY, CLOSE, PING, PONG, TEXT, Peer
from tests.conformance.raw_server import RawServer
from tests.conformance.transports import DRIVERS, reset
from tests.unit.conftest import CancelAt, Pair, ServingPeer
from triows import CloseReason, ConnectionBroken, KeepAlive, Limits

Contexts = tuple[ssl.SSLContext, ssl.SSLContext]
PATIENCE = 10.0
OVER = (trio.ClosedResourceError, trio.BrokenResourceError, trio.EndOfChannel)


@attrs.frozen
class Kind:
    """What drives a channel, which end it is, and what it goes over."""

    driver: str
    role: str
    is_secure: bool

    def __str__(self) -> str:
        return f"{self.driver}-{self.role}-{'tls' if self.is_secure else 'plain'}"


KINDS = [
    Kind(driver, role, is_secure)
    for driver, role, is_secure in itertools.product(DRIVERS, ["server", "client"], [False, True])
    if driver == "stream" or not is_secure  # the reactor takes plain sockets
]
Open = Callable[..., AbstractAsyncContextManager[Pair]]


@pytest.fixture(params=KINDS, ids=str)
def open_pair(request: pytest.FixtureRequest, warm: None, tls_contexts: Contexts) -> Open:
    """What opens a channel and its peer, for the time of a block."""
    open_one = open_server if request.param.role == "server" else open_client
    return partial(open_one, request.param, tls_contexts)


@asynccontextmanager
async def open_server(kind: Kind, contexts: Contexts, **options: Any) -> AsyncIterator[Pair]:
    """A channel that `serve` made."""
    offer, accepted = trio.open_memory_channel[triows.WebSocket](1)

    async def host(ws: triows.WebSocket) -> None:
        offer.send_nowait(ws)
        await trio.sleep_forever()

    server_context, client_context = contexts
    options["ssl_context"] = server_context if kind.is_secure else None
    serve = partial(triows.serve, host, 0, driver=kind.driver, **options)
    async with trio.open_nursery() as nursery:
        server = await nursery.start(serve)
        stream: Any = await trio.open_tcp_stream("127.0.0.1", server.port)
        if kind.is_secure:
            stream = trio.SSLStream(stream, client_context, server_hostname="server.example")
        peer = Peer(stream, PATIENCE)
        await peer.handshake()
        try:
            yield Pair(await accepted.receive(), peer, "server", start=lambda: None)
        finally:
            await trio.aclose_forcefully(stream)
            nursery.cancel_scope.cancel()


@asynccontextmanager
async def open_client(kind: Kind, contexts: Contexts, **options: Any) -> AsyncIterator[Pair]:
    """A channel that `open_websocket` made."""
    server_context, client_context = contexts
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    offer, accepted = trio.open_memory_channel[Any](1)

    async def accept() -> None:
        stream: Any = await listener.accept()
        if kind.is_secure:
            stream = trio.SSLStream(stream, server_context, server_side=True)
        await RawServer(stream, PATIENCE).open()
        offer.send_nowait(stream)

    url = f"ws{'s' * kind.is_secure}://127.0.0.1:{listener.socket.getsockname()[1]}/"
    context = client_context if kind.is_secure else None
    async with listener, trio.open_nursery() as nursery:
        nursery.start_soon(accept)
        async with triows.open_websocket(
            url, ssl_context=context, driver=kind.driver, **options
        ) as ws:
            stream = await accepted.receive()
            try:
                yield Pair(ws, ServingPeer(stream, PATIENCE), "client", start=lambda: None)
            finally:
                await trio.aclose_forcefully(stream)


async def settle() -> None:
    """Wait until every task waits, a kernel's round trip included."""
    await trio.testing.wait_all_tasks_blocked(0.02)


async def fill(ws: triows.WebSocket) -> None:
    """Send to a peer that does not read, until there is no room."""
    for _ in range(2):
        with contextlib.suppress(trio.WouldBlock):
            while True:
                ws.send_nowait(bytes(2**18))
        await settle()


# How it ends.


@pytest.mark.parametrize("code", [1000, 1001, None])
async def test_a_clean_end_is_the_end_of_the_channel(open_pair: Open, code: int | None):
    """1000, 1001 and no code end an ``async for``; sending says the code."""
    async with open_pair() as pair:
        await pair.peer.send(pair.text(b"one", b"two"))
        await pair.close(code)
        assert [message async for message in pair.ws] == ["one", "two"]
        with pytest.raises(ConnectionBroken) as caught:
            await pair.ws.send("x")
        assert caught.value.code == (code or 1005)
        assert pair.ws.close_reason == CloseReason(code or 1005)


@pytest.mark.parametrize("code", [1002, 1011, 3000, 4999])
async def test_another_end_is_broken(open_pair: Open, code: int):
    """What came before stays readable; then the peer's code and reason are told."""
    async with open_pair() as pair:
        await pair.peer.send(pair.text(b"before"))
        await pair.close(code, b"because")
        await settle()
        assert await pair.ws.receive() == "before"
        for call in (pair.ws.receive, partial(pair.ws.send, "x"), pair.ws.ping):
            with pytest.raises(ConnectionBroken) as caught:
                await call()
            assert (caught.value.code, caught.value.reason) == (code, "because")


async def test_use_after_a_local_close_is_an_error_of_its_own(open_pair: Open):
    """Every call but `aclose` raises `ClosedResourceError`; `aclose` does nothing more."""
    async with open_pair() as pair:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pair.answer_close)
            await pair.ws.aclose(4000, "ours")
        for name, call in calls(pair.ws).items():
            if name not in {"aclose", "cancel_on_close"}:
                with pytest.raises(trio.ClosedResourceError):
                    await call()
        await pair.ws.aclose(4001)
        assert pair.ws.close_reason == CloseReason(4000, "ours")


async def test_a_second_receiver_is_busy(open_pair: Open):
    """The first is not disturbed."""
    async with open_pair() as pair, trio.open_nursery() as nursery:
        nursery.start_soon(pair.ws.receive)
        await settle()
        for call in (pair.ws.receive, partial(pair.ws.receive_batch, 1), parts_of(pair.ws)):
            with pytest.raises(trio.BusyResourceError):
                await call()
        await pair.peer.send(pair.text(b"for the first"))


ENDS = ["close", "fault", "end", "reset", "local", "abort"]


@pytest.mark.parametrize("how", ENDS)
async def test_every_waiter_wakes_at_the_end(open_pair: Open, how: str):
    """Those who receive, send, wait for a Pong, for the floor or for the end itself."""
    outcomes: list[str] = []

    async def wait(name: str, call: Callable[[], Awaitable[Any]]) -> None:
        try:
            await call()
        except OVER as error:
            outcomes.append(f"{name}: {type(error).__name__}")
        else:
            outcomes.append(f"{name}: returned")

    async with open_pair() as pair:
        waiting = {name: call for name, call in calls(pair.ws).items() if name in WAITING}
        with trio.fail_after(PATIENCE):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(wait, "ping", pair.ws.ping)
                await settle()
                await fill(pair.ws)
                for name, call in waiting.items():
                    nursery.start_soon(wait, name, call)
                await settle()
                assert not outcomes
                await end(pair, how)
    error = "ClosedResourceError" if how == "local" else "ConnectionBroken"
    waited = {f"{name}: {error}" for name in {"ping", *waiting} - {"cancel_on_close"}}
    assert set(outcomes) == waited | {"cancel_on_close: returned"}


WAITING = {"receive", "send", "open_message", "cancel_on_close"}


async def end(pair: Pair, how: str) -> None:
    """End the connection in one of its ways; what the channel sends is not read, if it can be."""
    stream: Any = pair.peer.stream
    if how == "close":
        await pair.peer.send(pair.close_frame(4000))
        await read_all(pair)
    elif how == "fault":
        await pair.peer.send(pair.frame(3))
        await read_all(pair)
    elif how == "end":
        await trio.aclose_forcefully(stream)
    elif how == "reset":
        reset(getattr(stream, "transport_stream", stream))
    elif how == "local":
        with trio.move_on_after(0):
            await pair.ws.aclose()
    else:
        pair.ws.abort("enough")


async def read_all(pair: Pair) -> None:
    """Read until the channel's Close and its end."""
    while (await pair.peer.receive_frame()).opcode != CLOSE:
        pass
    if pair.role == "client":
        await trio.aclose_forcefully(pair.peer.stream)


async def test_a_second_closer_waits_and_a_cancelled_one_drops_the_transport(open_pair: Open):
    """Neither returns before the end; cancelling either is the end."""
    async with open_pair(limits=Limits(close_timeout=100)) as pair:
        over: list[int] = []

        async def close(number: int) -> None:
            await pair.ws.aclose(4000 + number)
            over.append(number)

        with trio.fail_after(PATIENCE):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(close, 0)
                await settle()
                nursery.start_soon(close, 1)
                await settle()
                assert not over
                with trio.move_on_after(0) as scope:
                    await pair.ws.aclose()
        assert scope.cancelled_caught
        assert sorted(over) == [0, 1]
        assert pair.ws.close_reason is not None
        assert pair.ws.close_reason.code == 1006


async def test_a_simultaneous_close_has_one_outcome(open_pair: Open):
    """Close frames that cross are one handshake: the reason is the peer's, on every call."""
    async with open_pair() as pair, trio.open_nursery() as nursery:
        nursery.start_soon(pair.ws.aclose, 3001, "ours")
        await pair.close(3002, b"theirs")
        await pair.ws.aclose()
        assert pair.ws.close_reason == CloseReason(3002, "theirs")


async def test_item_20_a_half_open_peer_ends_the_connection(open_pair: Open):
    """A peer that has vanished without a word is given up after interval and timeout."""
    async with open_pair(keepalive=KeepAlive(interval=0.2, timeout=0.2)) as pair:
        start = trio.current_time()
        with pytest.raises(ConnectionBroken) as caught, trio.fail_after(PATIENCE):
            await pair.ws.receive()
        assert caught.value.code == 1006
        assert trio.current_time() - start >= 0.3


async def test_item_21_a_half_close_is_abnormal(open_pair: Open):
    """What came before is delivered; without a Close there is no clean end."""
    async with open_pair() as pair:
        await pair.peer.send(pair.text(b"before"))
        stream: Any = pair.peer.stream
        await getattr(stream, "transport_stream", stream).send_eof()
        assert await pair.ws.receive() == "before"
        with pytest.raises(ConnectionBroken) as caught:
            await pair.ws.receive()
        assert caught.value.code == 1006


async def test_item_20_a_reset_in_mid_frame_is_abnormal(open_pair: Open):
    """Half a frame is no message."""
    async with open_pair() as pair:
        await pair.peer.send(pair.text(b"before") + pair.text(bytes(1000))[:500])
        assert await pair.ws.receive() == "before"
        stream: Any = pair.peer.stream
        reset(getattr(stream, "transport_stream", stream))
        with pytest.raises(ConnectionBroken) as caught:
            await pair.ws.receive()
        assert caught.value.code == 1006


async def test_a_block_ends_with_the_connection(open_pair: Open):
    """`cancel_on_close` cancels what lives for the connection."""
    async with open_pair() as pair, trio.open_nursery() as nursery:
        nursery.start_soon(pair.close, 1000)
        with trio.fail_after(PATIENCE):
            async with pair.ws.cancel_on_close() as scope:
                await trio.sleep_forever()
        assert scope.cancelled_caught


# Trio's contract.


def calls(ws: triows.WebSocket) -> dict[str, Callable[[], Awaitable[Any]]]:
    """Every asynchronous call that a channel has."""

    async def open_message() -> None:
        async with ws.open_message(text=True) as message:
            await message.send("part")

    async def cancel_on_close() -> None:
        async with ws.cancel_on_close():
            await trio.sleep_forever()

    return {
        "receive": ws.receive,
        "receive_batch": partial(ws.receive_batch, 2),
        "receive_parts": parts_of(ws),
        "send": partial(ws.send, "message"),
        "open_message": open_message,
        "ping": ws.ping,
        "cancel_on_close": cancel_on_close,
        "send_close": ws.send_close,
        "aclose": ws.aclose,
    }


def parts_of(ws: triows.WebSocket) -> Callable[[], Awaitable[list[Any]]]:
    """A call that receives a message in parts."""

    async def receive_parts() -> list[Any]:
        async with ws.receive_parts() as message:
            return [part async for part in message]

    return receive_parts


CALLS = [
    *("receive", "receive_batch", "receive_parts"),
    *("send", "open_message", "ping"),
    *("cancel_on_close", "send_close", "aclose"),
]


@pytest.mark.parametrize("is_ready", [True, False], ids=["ready", "waiting"])
@pytest.mark.parametrize("name", CALLS)
async def test_every_call_is_a_checkpoint(open_pair: Open, name: str, is_ready: Any):
    """Whether or not it has to wait, each call can be cancelled and lets others run."""
    async with open_pair() as pair:

        async def answer() -> None:
            if not is_ready:
                await settle()
            await pair.peer.send(pair.text(b"one", b"two", b"three"))
            with contextlib.suppress(trio.BrokenResourceError, AssertionError):
                while (frame := await pair.peer.receive_frame()).opcode != CLOSE:
                    if frame.opcode == PING:
                        await pair.peer.send_frame(PONG, frame.payload)
                await pair.peer.send(pair.frame(CLOSE, frame.payload))
            if pair.role == "client":
                await trio.aclose_forcefully(pair.peer.stream)

        async with trio.open_nursery() as nursery:
            if name == "cancel_on_close":
                nursery.start_soon(pair.close)
            else:
                if not is_ready:
                    await fill(pair.ws)
                nursery.start_soon(answer)
            if is_ready:
                await settle()
            with trio.testing.assert_checkpoints():
                await calls(pair.ws)[name]()
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize("name", ["aclose", "cancel_on_close"])
async def test_what_returns_after_the_end_is_a_checkpoint_too(open_pair: Open, name: str):
    """A call that has nothing left to wait for still lets others run."""
    async with open_pair() as pair:
        await pair.close(1000)
        await pair.ws.aclose()
        with trio.testing.assert_checkpoints():
            await calls(pair.ws)[name]()


@pytest.mark.parametrize("name", CALLS)
async def test_a_call_in_a_cancelled_scope_does_nothing(open_pair: Open, name: str):
    """Cancelled before it begins, a call is cancelled, and nothing of it was done."""
    async with open_pair() as pair:
        await pair.peer.send(pair.text(b"waits"))
        await settle()
        with trio.CancelScope() as scope:
            scope.cancel()
            await calls(pair.ws)[name]()
        assert scope.cancelled_caught
        if name != "aclose":
            assert pair.ws.statistics().messages_sent == 0
            assert await pair.ws.receive() == "waits"
            await pair.ws.send("next")
            assert (await pair.peer.receive_frame()).payload == b"next"


async def test_loops_that_never_wait_let_others_run(open_pair: Open):
    """Neither a sender with room nor a receiver with messages keeps the others waiting."""
    ran = 0

    async def count() -> None:
        nonlocal ran
        while True:
            ran += 1
            await trio.lowlevel.checkpoint()

    async with open_pair() as pair, trio.open_nursery() as nursery:
        await pair.peer.send(pair.text(*[b"x"] * 90))
        await settle()
        nursery.start_soon(count)
        for _ in range(30):
            await pair.ws.send("x")
            await pair.ws.receive()
            await pair.ws.receive_batch(1)
        nursery.cancel_scope.cancel()
    assert ran >= 80


# Cancellation.

SIZES = [1, 125, 126, 65_535, 65_536, 2**20, 2**25]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("in_parts", [False, True], ids=["whole", "in parts"])
async def test_item_29_a_cancelled_send_sent_nothing(open_pair: Open, size: int, in_parts: Any):
    """At its n-th checkpoint, for each n, to a slow reader: an exception means no, a return yes."""
    async with open_pair(limits=Limits(send_queue_octets=1000)) as pair:
        sent, arrived, number = [], [], 0

        async def send(octets: bytes) -> None:
            if in_parts:
                async with pair.ws.open_message(text=False) as message:
                    await message.send(octets)
            else:
                await pair.ws.send(octets)
            sent.append(octets[:9])

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read_slowly, pair, arrived)
            attempt = CancelAt(-1)
            while attempt.steps >= number - 1 and pair.ws.is_open:
                octets = b"%d" % (number % 10) + bytes(size - 1)
                attempt = CancelAt(number)
                await attempt.run(send(octets))
                number += 1
            await pair.ws.aclose()
        assert arrived == sent
        assert number > 2


async def read_slowly(pair: Pair, arrived: list[bytes]) -> None:
    """Take the beginnings of whole messages until the Close, resting before each."""
    begun = b""
    while (frame := await pair.peer.receive_frame()).opcode != CLOSE:
        await trio.sleep(0.01)
        begun = begun or frame.payload
        if frame.fin:
            arrived.append(begun[:9])
            begun = b""
    await pair.peer.send(pair.frame(CLOSE, frame.payload))
    if pair.role == "client":
        await trio.aclose_forcefully(pair.peer.stream)


@pytest.mark.parametrize("name", ["receive", "receive_batch", "receive_parts"])
@pytest.mark.parametrize("when", ["waiting", "woken"])
async def test_item_29_a_cancelled_receive_loses_nothing(open_pair: Open, name: str, when: str):
    """At its n-th checkpoint, for each n, with the message there or still to come."""
    async with open_pair() as pair:
        for number, is_there in itertools.product(range(4), [True, False]):
            attempt = CancelAt(number, when)
            received: list[Any] = []

            async def receive(attempt: CancelAt = attempt, received: Any = received) -> None:
                result = await attempt.run(calls(pair.ws)[name]())
                if not attempt.was_cancelled:
                    received += result if isinstance(result, list) else [result]

            async with trio.open_nursery() as nursery:
                if not is_there:
                    nursery.start_soon(receive)
                    await settle()
                await pair.peer.send(pair.text(b"message"))
                await settle()
                if is_there:
                    nursery.start_soon(receive)
            if name != "receive_parts" or attempt.steps <= 1:
                while pair.ws.statistics().unread_messages:
                    received.append(await pair.ws.receive())
                assert received == ["message"]


@pytest.mark.parametrize("name", CALLS)
async def test_item_29_cancelled_calls_leak_nothing(open_pair: Open, name: str):
    """Connections with a cancelled call leave no task and no descriptor behind."""

    async def use_one(number: int) -> None:
        async with open_pair() as pair:
            await CancelAt(number % 4).run(_awaited(calls(pair.ws)[name]()))
            pair.ws.abort("over")

    for number in range(2):
        await use_one(number)
    await settle()
    before = _held()
    for number in range(6):
        await use_one(number)
    await settle()
    assert _held() == before


async def _awaited(call: Awaitable[Any]) -> None:
    with contextlib.suppress(*OVER), trio.move_on_after(0.05):
        await call


def _held() -> tuple[int, int]:
    tasks = trio.lowlevel.current_statistics().tasks_living
    return tasks, len(list(Path("/proc/self/fd").iterdir()))


# What is bounded, and what goes on when the application is slow.


async def test_item_22_unread_messages_are_bounded(open_pair: Open):
    """In number and in octets: then the peer has to wait, and nothing is lost."""
    limits = Limits(receive_queue_messages=10, receive_queue_octets=100_000)
    async with open_pair(limits=limits) as pair, trio.open_nursery() as nursery:
        frames = [pair.frame(BINARY, bytes([number]) * 100_000) for number in range(200)]
        nursery.start_soon(pair.peer.send, b"".join(frames))
        await settle()
        statistics = pair.ws.statistics()
        assert statistics.unread_messages <= 10
        assert statistics.unread_octets <= 200_000
        for number in range(200):
            assert await pair.ws.receive() == bytes([number]) * 100_000


async def test_control_frames_are_served_while_the_application_is_slow(open_pair: Open):
    """A Ping behind messages that no one receives has its Pong."""
    async with open_pair() as pair:
        await pair.peer.send(pair.text(*[b"unread"] * 100) + pair.frame(PING, b"there?"))
        frame = await pair.peer.receive_frame()
        assert (frame.opcode, frame.payload) == (PONG, b"there?")


async def test_keepalive_bears_a_slow_application(open_pair: Open):
    """A peer is not given up because we have stopped reading what it says."""
    limits, keepalive = Limits(receive_queue_messages=1), KeepAlive(interval=0.1, timeout=0.1)
    async with open_pair(limits=limits, keepalive=keepalive) as pair:
        await pair.peer.send(pair.frame(TEXT, b"unread") * 10)
        await trio.sleep(0.5)
        assert pair.ws.close_reason is None
        for _ in range(10):
            assert await pair.ws.receive() == "unread"
