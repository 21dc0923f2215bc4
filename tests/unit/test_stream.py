"""The stream driver: what it does with transports, clocks and failures."""

import errno
import itertools
import os
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import trio
import trio.testing

import triows._stream
from tests.conformance.peer import BINARY, CLOSE, PING, PONG, TEXT, Frame, build_close
from tests.conformance.transports import MemoryStream, open_pair
from tests.unit.conftest import (
    REQUEST,
    Connect,
    Pair,
    as_client,
    as_server,
    over_memory,
    over_tcp,
    over_tls,
    over_virtual,
)
from triows import CloseReason, ConnectionBroken, KeepAlive, Limits, ServerEngine, WebSocket
from triows._options import NO_KEEPALIVE
from triows._stream import Bell, StreamDriver, plain_descriptor, shared_octets
from triows._websocket import Opening


async def settle() -> None:
    """Wait until every task waits, a kernel's round trip included."""
    await trio.testing.wait_all_tasks_blocked(0.02)


# Keepalive and deadlines.


@over_virtual
async def test_a_quiet_peer_that_answers_pings_lives(connect: Connect):
    """Over an hour of silence but for Pongs, nothing is dropped."""
    pair = await connect(keepalive=KeepAlive(interval=20, timeout=10))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pair.answer_pings)
        await trio.sleep(3600)
        assert pair.ws.is_open
        nursery.cancel_scope.cancel()


@over_virtual
async def test_a_peer_that_falls_silent_between_long_timeouts_is_pinged_in_time(connect: Connect):
    """An answered Ping starts the interval anew, also where that is shorter than the timeout."""
    pair = await connect(keepalive=KeepAlive(interval=5, timeout=100))
    times = []
    for _ in range(3):
        frame = await pair.peer.receive_frame()
        assert frame.opcode == PING
        times.append(trio.current_time())
        await pair.peer.send_frame(PONG, frame.payload)
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert gaps == [pytest.approx(5, abs=0.01)] * 2


@over_virtual
async def test_keepalive_spares_a_peer_that_we_do_not_listen_to(connect: Connect):
    """While reading is paused, silence is ours; once read again, the peer has its full time."""
    pair = await connect(
        keepalive=KeepAlive(interval=20, timeout=10),
        limits=Limits(receive_queue_messages=1),
        capacity=1024,
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pair.peer.send, pair.text(*[bytes(100)] * 100))
        await trio.sleep(1000)
        assert pair.ws.is_open
        for _ in range(100):
            await pair.ws.receive()
    start = trio.current_time()
    with pytest.raises(ConnectionBroken):
        await pair.ws.receive()
    assert trio.current_time() - start == pytest.approx(30, abs=0.1)


@over_virtual
async def test_keepalive_spares_a_peer_that_reads_slowly(connect: Connect):
    """A Ping may wait behind a long message for longer than its timeout: progress is life."""
    pair = await connect(keepalive=KeepAlive(interval=20, timeout=10), limits=Limits())
    message = bytes(4 * 2**20)
    await pair.ws.send(message)
    received = 0
    while received < len(message):
        received += len(await pair.peer.stream.receive_some(65_536))
        await trio.sleep(3)
    assert pair.ws.close_reason is None
    assert trio.current_time() > 100


@over_virtual
async def test_keepalive_drops_a_peer_that_stops_reading(connect: Connect):
    """A message that gets nowhere is no sign of life."""
    pair = await connect(keepalive=KeepAlive(interval=20, timeout=10))
    await pair.ws.send(bytes(4 * 2**20))
    start = trio.current_time()
    with pytest.raises(ConnectionBroken) as caught:
        await pair.ws.receive()
    assert caught.value.code == 1006
    assert trio.current_time() - start == pytest.approx(30, abs=0.1)


@over_virtual
async def test_a_message_that_is_never_finished_is_refused(connect: Connect):
    """From a message's first octet to its last there is `message_timeout`."""
    pair = await connect(limits=Limits(message_timeout=7))
    await trio.sleep(100)
    start = trio.current_time()
    await pair.peer.send_frame(TEXT, b"half", fin=False)
    frame = await pair.peer.receive_frame()
    assert (frame.opcode, frame.payload[:2]) == (CLOSE, (1008).to_bytes(2))
    assert trio.current_time() - start == pytest.approx(7, abs=0.01)


@over_virtual
async def test_a_client_waits_for_the_server_to_drop_tcp_so_long(connect: Connect, role: str):
    """After both Closes a server drops TCP at once, a client after `close_timeout` (§7.1.1)."""
    pair = await connect(limits=Limits(close_timeout=7))
    start = trio.current_time()
    await pair.peer.send(pair.close_frame())
    assert (await pair.peer.receive_frame()).opcode == CLOSE
    await pair.peer.receive_end()
    expected = 7 if role == "client" else 0
    assert trio.current_time() - start == pytest.approx(expected, abs=0.01)


@over_virtual
async def test_the_watch_does_not_spin(connect: Connect, monkeypatch: pytest.MonkeyPatch):
    """A connection that idles for hours looks at its deadlines a few times an interval."""
    pair = await connect(keepalive=KeepAlive(interval=20, timeout=10))
    calls = 0
    engine = pair.ws._driver._engine
    handle = engine.handle_timeout

    def count(now: float) -> Any:
        nonlocal calls
        calls += 1
        return handle(now)

    monkeypatch.setattr(engine, "handle_timeout", count)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pair.answer_pings)
        await trio.sleep(10_000)
        nursery.cancel_scope.cancel()
    assert 10_000 / 20 <= calls + 1 < 3 * 10_000 / 20


# Failing and ending.


@over_virtual
async def test_after_a_fault_the_peer_may_still_read_the_close(connect: Connect, way: Any):
    """The Close for a fault is followed by the transport's end, not overtaken by it (§7.1.7)."""
    pair = await connect(capacity=1_000_000)
    await pair.peer.send(pair.frame(3) + bytes(500_000))
    assert (await pair.peer.receive_frame()).opcode == CLOSE
    start = trio.current_time()
    assert await pair.peer.receive_end() == b""
    assert trio.current_time() - start <= triows._stream.LINGER + 0.01


@over_tcp
async def test_after_a_fault_tcp_is_half_closed(connect: Connect):
    """The peer reads the Close and the end, though it never stops sending (§7.1.7)."""
    pair = await connect()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pair.peer.send, pair.frame(3) + bytes(500_000))
        assert (await pair.peer.receive_frame()).opcode == CLOSE
        await pair.peer.receive_eof()
    await pair.peer.aclose()
    with trio.fail_after(2):
        await pair.ws.aclose()


@as_server
@over_virtual
async def test_what_is_owed_goes_out_though_the_peer_half_closes(connect: Connect):
    """A peer that closes, and ends its side, still gets what was queued, then the Close."""
    pair = await connect(capacity=1024)
    pair.ws.send_nowait(bytes(100_000))
    await pair.peer.send(pair.close_frame(1000))
    stream: Any = getattr(pair.peer.stream, "transport_stream", pair.peer.stream)
    if isinstance(pair.peer.stream, MemoryStream):
        await stream.send_eof()
    await settle()
    assert (await pair.peer.receive_frame()).payload == bytes(100_000)
    assert (await pair.peer.receive_frame()).opcode == CLOSE
    await pair.peer.receive_eof()


async def test_a_write_that_fails_leaves_time_to_read_the_last_words(connect: Connect):
    """A peer that sends its Close and is gone before we write is heard all the same."""
    pair = await connect(is_running=False)
    await pair.peer.send(pair.text(b"last") + pair.close_frame(4000, b"words"))
    pair.ws._driver.is_broken = True
    pair.start()
    assert await pair.ws.receive() == "last"
    with pytest.raises(ConnectionBroken) as caught:
        await pair.ws.receive()
    assert (caught.value.code, caught.value.reason) == (4000, "words")


async def test_a_transport_that_broke_before_the_tasks_ran_ends_the_connection(connect: Connect):
    """Even where reading does not notice, the connection ends a moment later."""
    pair = await connect(is_running=False)
    pair.ws._driver.is_broken = True
    with pytest.raises(ConnectionBroken) as caught:
        await pair.ws.send("x")
    assert caught.value.code == 1006
    pair.start()
    with trio.fail_after(3), pytest.raises(ConnectionBroken):
        await pair.ws.receive()


@over_memory
async def test_a_stream_that_refuses_octets_breaks_the_connection(connect: Connect):
    """When `send_all` fails, senders are told at once, and the rest a moment later."""
    pair = await connect()
    stream: Any = pair.ws._driver._stream
    stream.outgoing.is_cut = True
    await pair.ws.send("queued")
    await settle()
    with pytest.raises(ConnectionBroken) as caught:
        await pair.ws.send("refused")
    assert caught.value.code == 1006
    pair.ws._driver.flush()
    with pytest.raises(ConnectionBroken):
        await pair.ws.receive()
    assert pair.ws.statistics().unsent_octets == 0


class Scripted(trio.abc.Stream):
    """A stream that raises what it is told to."""

    def __init__(self, **errors: BaseException) -> None:
        self.errors = errors
        self.is_closed = False

    async def _do(self, what: str) -> None:
        await trio.lowlevel.checkpoint()
        if what in self.errors:
            raise self.errors[what]
        await trio.sleep_forever()

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Raise what sending is to raise, or never return."""
        await self._do("send")

    async def wait_send_all_might_not_block(self) -> None:
        """As sending does."""
        await self._do("send")

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Raise what receiving is to raise, or never return."""
        await self._do("receive")
        return b""

    async def aclose(self) -> None:
        """Close."""
        self.is_closed = True
        await trio.lowlevel.checkpoint()


def websocket_on(stream: trio.abc.Stream) -> WebSocket:
    """A server's channel on *stream*."""
    engine = ServerEngine(keepalive=NO_KEEPALIVE, now=trio.current_time())
    return WebSocket(
        partial(StreamDriver, stream, engine), limits=Limits(), opening=Opening(request=REQUEST)
    )


@pytest.mark.parametrize("error", [trio.BrokenResourceError("why"), OSError(5, "why")])
@pytest.mark.parametrize("what", ["send", "receive"])
async def test_errors_of_the_transport_are_its_end(
    warm: None, autojump_clock: Any, what: str, error: Exception
):
    """Whatever a stream raises because of its peer is 1006, with a word why."""
    stream = Scripted(**{what: error})
    ws = websocket_on(stream)
    ws.send_nowait("x")
    await ws.run(b"")
    with pytest.raises(ConnectionBroken, match="why") as caught:
        await ws.receive()
    assert caught.value.code == 1006
    assert stream.is_closed


async def test_a_stream_with_a_bug_ends_the_connection_and_shows_it(
    warm: None, autojump_clock: Any
):
    """An error that is no transport's comes out of `run`; no one is left waiting."""
    stream = Scripted(receive=RuntimeError("bug"))
    ws = websocket_on(stream)
    outcomes: list[int] = []

    async def receive() -> None:
        try:
            await ws.receive()
        except ConnectionBroken as error:
            outcomes.append(error.code)

    async def run() -> None:
        with pytest.raises(ExceptionGroup) as caught:
            await ws.run(b"")
        assert caught.group_contains(RuntimeError, match="bug")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive)
        nursery.start_soon(run)
    assert outcomes == [1006]
    with pytest.raises(ConnectionBroken):
        await ws.receive()
    await ws.aclose()
    assert stream.is_closed


async def test_a_farewell_that_fails_is_no_error(warm: None, autojump_clock: Any):
    """A transport that breaks while it is closed has been closed."""
    ours, theirs = open_pair()
    ws = websocket_on(ours)

    async def fail() -> None:
        del ours.aclose  # type: ignore[method-assign]
        await trio.lowlevel.checkpoint()
        raise trio.BrokenResourceError

    ours.aclose = fail  # type: ignore[method-assign]
    await theirs.send_all(build_close(1000))
    await ws.run(b"")
    assert ours.is_closed
    assert ws.close_reason == CloseReason(1000)


# Plain sockets.


@as_server
@over_tcp
async def test_a_message_leaves_in_the_call_that_sends_it(connect: Connect):
    """On a plain socket `send_nowait` writes at once: no other task has to run."""
    pair = await connect()
    await settle()
    pair.ws.send_nowait("now")
    os.set_blocking(pair.peer.stream.socket.fileno(), False)
    deadline = time.monotonic() + 2
    received = b""
    while not received and time.monotonic() < deadline:
        try:
            received = os.read(pair.peer.stream.socket.fileno(), 100)
        except BlockingIOError:
            continue
    assert received == b"\x81\x03now"


@over_tcp
async def test_an_idle_connection_has_no_writer(connect: Connect):
    """The task that writes is started by the first octets that the kernel does not take."""
    pair = await connect()
    await pair.ws.send("small")
    await pair.peer.receive_frame()
    assert not pair.ws._driver._is_writer_started
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pair.ws.send, bytes(4 * 2**20))
        assert len((await pair.peer.receive_frame()).payload) == 4 * 2**20
    assert pair.ws._driver._is_writer_started


@over_tcp
async def test_writing_changes_hands_without_losing_order(connect: Connect):
    """Messages keep their order while sends go now directly and now through the writer."""
    pair = await connect()
    sizes = [10, 500_000, 10, 10, 2_000_000, 0, 70_000, 10]

    async def send() -> None:
        for turn in range(5):
            for size in sizes:
                await pair.ws.send(bytes([turn]) * size)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        for turn in range(5):
            for size in sizes:
                assert (await pair.peer.receive_frame()) == Frame(BINARY, bytes([turn]) * size)


FAILURES: dict[str, tuple[str, Callable[..., Any]]] = {
    "EPIPE": ("writev", lambda *_: (_ for _ in ()).throw(BrokenPipeError(errno.EPIPE, "pipe"))),
    "ETIMEDOUT": ("readv", lambda *_: (_ for _ in ()).throw(TimeoutError(errno.ETIMEDOUT, "time"))),
}


@over_tcp
@pytest.mark.parametrize("failure", FAILURES)
async def test_errors_of_a_socket_are_its_end(
    connect: Connect, monkeypatch: pytest.MonkeyPatch, failure: str
):
    """What a system call says of the peer's absence is 1006, and reaches who waits."""
    pair = await connect()
    await settle()
    name, fail = FAILURES[failure]
    monkeypatch.setattr(os, name, fail)
    await pair.ws.send("x")
    if name == "writev":
        monkeypatch.undo()
        with pytest.raises(ConnectionBroken):
            await pair.ws.send("y")
    else:
        await pair.peer.send_frame(TEXT, b"unread")
    with trio.fail_after(3), pytest.raises(ConnectionBroken) as caught:
        await pair.ws.receive()
    assert caught.value.code == 1006


@over_tcp
async def test_a_false_alarm_is_no_end(connect: Connect, monkeypatch: pytest.MonkeyPatch):
    """A socket that turns out to have nothing to read, or no room, is waited for again."""
    pair = await connect()
    await settle()
    read, write = os.readv, os.writev
    alarms = []

    def readv(descriptor: int, buffers: Any) -> int:
        if alarms.count("read") < 3:
            alarms.append("read")
            raise BlockingIOError
        return read(descriptor, buffers)

    def writev(descriptor: int, buffers: Any) -> int:
        if alarms.count("write") < 3:
            alarms.append("write")
            raise BlockingIOError
        return write(descriptor, buffers)

    monkeypatch.setattr(os, "readv", readv)
    monkeypatch.setattr(os, "writev", writev)
    await pair.peer.send_frame(TEXT, b"in")
    assert await pair.ws.receive() == "in"
    await pair.ws.send("out")
    assert await pair.peer.receive_frame() == Frame(TEXT, b"out")
    assert len(alarms) == 6


@over_tcp
@pytest.mark.parametrize("step", [1, 7, 1000])
async def test_short_writes_are_continued(
    connect: Connect, monkeypatch: pytest.MonkeyPatch, step: int
):
    """However little the kernel takes at a time, everything arrives in order."""
    pair = await connect()
    write = os.writev
    monkeypatch.setattr(os, "writev", lambda fd, parts: write(fd, [bytes(parts[0][:step])]))
    for number in range(10):
        await pair.ws.send(bytes([number]) * 2000)
    for number in range(10):
        assert await pair.peer.receive_frame() == Frame(BINARY, bytes([number]) * 2000)


@over_tcp
@pytest.mark.parametrize("busy", [False, True], ids=["reading", "writing"])
async def test_a_socket_that_is_closed_from_outside_ends_the_connection(
    connect: Connect,
    busy: Any,
):
    """Closing the transport under the channel is no way to end it, but does not hang it."""
    pair = await connect()
    if busy:
        pair.ws.send_nowait(bytes(10_000_000))
    await settle()
    stream: Any = pair.ws._driver._stream
    await stream.aclose()
    with trio.fail_after(3), pytest.raises(ConnectionBroken) as caught:
        await pair.ws.receive()
    assert caught.value.code == 1006


@over_tcp
async def test_a_descriptor_is_forgotten_before_it_is_closed(connect: Connect):
    """A channel that has ended never writes to a number that may be another connection's."""
    pair = await connect()
    pair.ws.abort("over")
    await pair.ws.aclose()
    assert pair.ws._driver._descriptor is None
    pair.ws._driver.flush()


@over_tcp
@as_server
async def test_shutting_down_a_socket_that_has_gone_is_its_end(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
):
    """If the transport cannot be half-closed after a fault, nothing more is waited for."""
    pair = await connect()
    await settle()
    stream: Any = pair.ws._driver._stream

    def fail(_how: int) -> None:
        raise OSError(errno.ENOTCONN, "not connected")

    monkeypatch.setattr(stream.socket, "shutdown", fail)
    await pair.peer.send(pair.frame(3))
    await pair.peer.receive_end()
    with trio.fail_after(1):
        await pair.ws.aclose()


# TLS.


@over_tls
async def test_tls_cut_without_a_farewell_is_abnormal(connect: Connect):
    """Who cuts TCP cannot pretend that the peer has closed (threat model, item 21)."""
    pair = await connect()
    await pair.peer.send(pair.text(b"before"))
    await settle()
    tls: Any = pair.peer.stream
    tls.transport_stream.close()
    assert await pair.ws.receive() == "before"
    with pytest.raises(ConnectionBroken) as caught:
        await pair.ws.receive()
    assert caught.value.code == 1006


@over_tls
async def test_a_tls_farewell_without_a_close_is_abnormal_too(connect: Connect):
    """close_notify ends the transport, not the WebSocket: 1006 (RFC 6455 §7.1.5)."""
    pair = await connect()
    await pair.peer.aclose()
    with pytest.raises(ConnectionBroken) as caught:
        await pair.ws.receive()
    assert caught.value.code == 1006


@over_tls
@as_server
async def test_a_clean_end_over_tls_has_its_farewell(connect: Connect):
    """After both Closes the peer gets close_notify: what it read was all there was."""
    pair = await connect()
    await pair.peer.send(pair.close_frame())
    assert (await pair.peer.receive_frame()).opcode == CLOSE
    await pair.peer.receive_eof()


@over_tls
@as_client
async def test_a_peer_that_takes_no_farewell_does_not_hold_up_the_end(connect: Connect):
    """close_notify too is bounded by a deadline: the peer need not read it."""
    pair = await connect(limits=Limits(close_timeout=5), capacity=1024)
    start = trio.current_time()
    await pair.peer.send(pair.close_frame())
    await pair.ws.aclose()
    assert trio.current_time() - start <= 5 + triows._stream.LINGER + 0.01


# Small parts.


async def test_a_bell_that_rang_early_is_heard():
    """Ringing before anyone listens is remembered, once."""
    bell = Bell()
    bell.ring()
    bell.ring()
    with trio.fail_after(1):
        await bell.wait()
    with trio.move_on_after(0.01) as scope:
        await bell.wait()
    assert scope.cancelled_caught


async def test_a_bell_wakes_who_listens():
    """Ringing wakes the sleeper; a sleeper that was cancelled is forgotten."""
    bell = Bell()
    with trio.move_on_after(0.01):
        await bell.wait()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bell.wait)
        await trio.testing.wait_all_tasks_blocked()
        bell.ring()


async def test_all_connections_of_a_run_share_a_receive_buffer():
    """An idle connection owns no buffer."""
    assert shared_octets() is shared_octets()
    assert len(shared_octets()) == triows._stream.RECEIVE_SIZE


async def test_only_plain_sockets_are_written_to_directly():
    """Everything but a plain socket goes through its own methods."""
    ours, _ = open_pair()
    assert plain_descriptor(ours) is None
    one, other = trio.socket.socketpair()
    with one, other:
        assert plain_descriptor(trio.SocketStream(one)) == one.fileno()


async def test_unix_sockets_are_plain_too(warm: None):
    """A connection over a Unix socket works as over TCP."""
    one, other = trio.socket.socketpair()
    with other:
        ws = websocket_on(trio.SocketStream(one))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ws.run, b"")
            await ws.send("hello")
            assert await other.recv(100) == b"\x81\x05hello"
            ws.abort("over")


def test_pair_is_what_its_tests_think(role: str):
    """The peer's frames are masked if it plays the client, and only then."""
    unused: Any = None
    frame = Pair(unused, unused, role, unused).frame(TEXT, b"x")
    assert bool(frame[1] & 0x80) == (role == "server")
