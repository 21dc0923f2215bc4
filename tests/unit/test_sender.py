"""`Sender`: order, bounds, wake-ups and ends, from tasks and from threads."""

import contextlib
import gc
import os
import struct
import threading
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
import trio
import trio.testing

from tests.conformance.peer import BINARY, TEXT, Close, Frame
from tests.sessions import Notes, open_session, running
from triows import Limits, Reactor, SessionId, warm_up
from triows._reactor import Outbox

SENDERS = 8
STAMP = struct.Struct("!2xLL")
"""A frame of 8 octets from the server: its header, who sent it, and as which."""

pytestmark = pytest.mark.usefixtures("warm_sessions")


def count_from(peers_octets: bytes) -> dict[int, list[int]]:
    """What each sender has sent, in the order in which it came."""
    came: dict[int, list[int]] = {}
    for who, number in STAMP.iter_unpack(peers_octets):
        came.setdefault(who, []).append(number)
    return came


async def receive_exactly(peer, size: int) -> bytes:
    """So many octets and no more."""
    octets = bytearray()
    while len(octets) < size:
        more = await peer.stream.receive_some(size - len(octets))
        assert more, "the connection ended"
        octets += more
    await peer.expect_nothing()
    return bytes(octets)


async def send_from_threads(threads: int, count: int) -> None:
    """Send from 8 threads at once to 2 connections each; check what arrives where."""
    reactor = Reactor(Notes(), threads=threads, limits=Limits(max_unsent=2**30))
    pairs = [open_session() for _ in range(4)]
    sessions = [reactor.add_session(ours) for ours, _ in pairs]
    peers = [peer for _, peer in pairs]
    received: dict[int, bytes] = {}

    def send(who: int) -> None:
        with reactor.sender() as sender:
            for number in range(count):
                for session in (sessions[who % 4], sessions[(who + 1) % 4]):
                    sender.send_from_thread(session, struct.pack("!LL", who, number))

    async def receive(index: int) -> None:
        size = STAMP.size * count * SENDERS // 2
        received[index] = await receive_exactly(peers[index], size)

    async with running(reactor, seconds=90), trio.open_nursery() as nursery:
        for index in range(4):
            nursery.start_soon(receive, index)
        for who in range(SENDERS):
            nursery.start_soon(trio.to_thread.run_sync, send, who)
    for index in range(4):
        expected = {
            who: list(range(count)) for who in range(SENDERS) if (index - who) % 4 in (0, 1)
        }
        assert count_from(received[index]) == expected
    assert reactor.statistics().total.dropped == 0


@pytest.mark.parametrize("threads", [0, 1, 3])
async def test_8_threads_lose_nothing_and_keep_their_order(threads) -> None:
    """What each thread sends to a connection arrives, once, in order."""
    await send_from_threads(threads, 2_500)  # to each of 2 connections


@pytest.mark.slow
@pytest.mark.parametrize("threads", [0, 1])
async def test_8_threads_of_100_000_sends_lose_nothing(threads) -> None:
    """The same at the size that is promised."""
    await send_from_threads(threads, 50_000)  # to each of 2 connections


async def test_tasks_keep_their_order() -> None:
    """What each task sends arrives in order, though the tasks wait for room all the time."""
    reactor = Reactor(Notes(), limits=Limits(sender_octets=500))
    ours, peer = open_session()
    session = reactor.add_session(ours)

    async def send(who: int) -> None:
        with reactor.sender() as sender:
            for number in range(200):
                await sender.send(session, struct.pack("!LL", who, number))

    async with running(reactor), trio.open_nursery() as nursery:
        for who in range(SENDERS):
            nursery.start_soon(send, who)
        came = count_from(await receive_exactly(peer, STAMP.size * SENDERS * 200))
    assert came == {who: list(range(200)) for who in range(SENDERS)}


async def test_sends_that_follow_each_other_wake_the_loop_once(monkeypatch) -> None:
    """However many messages are sent before the loop takes them, its eventfd is written once."""
    reactor = Reactor(Notes())
    ours, peer = open_session()
    writes = []
    write = os.eventfd_write

    def counting(descriptor: int, value: int) -> None:
        writes.append(descriptor)
        write(descriptor, value)

    async with running(reactor):
        session = reactor.add_session(ours)
        await peer.expect_echo()
        with reactor.sender() as sender:
            for _ in range(3):
                monkeypatch.setattr(os, "eventfd_write", counting)
                writes.clear()
                for _ in range(1_000):
                    sender.send_nowait(session, b"x")
                sender.close_session(SessionId(99))
                assert len(writes) == 1
                monkeypatch.undo()
                for _ in range(1_000):
                    assert await peer.receive_message() == Frame(BINARY, b"x")


def test_threads_wake_the_loop_once() -> None:
    """Of all that 8 threads send before the loop takes it, the first alone wakes it."""
    wakes = []
    outbox = Outbox(2**20)
    outbox.put((1, b"before", BINARY))
    outbox.attach(lambda: wakes.append(1))
    assert len(wakes) == 1

    def put(who: int) -> None:
        for number in range(500):
            outbox.put((who, struct.pack("!L", number), BINARY))

    for expected in (1, 2):
        with ThreadPoolExecutor(SENDERS) as pool:
            list(pool.map(put, range(SENDERS)))
        assert len(wakes) == expected
        items = [item for item in outbox.take() if item[1] != b"before"]
        for who in range(SENDERS):
            mine = [payload for session, payload, _ in items if session == who]
            assert mine == [struct.pack("!L", number) for number in range(500)]


def test_a_send_from_a_signals_handler_does_not_swallow_the_wake_up() -> None:
    """A send that interrupts another, in the same thread, neither hangs nor leaves both unseen."""
    wakes = []
    outbox = Outbox(2**20)
    outbox.attach(lambda: wakes.append(len(outbox._items)))

    class Interrupted(bytes):
        def __len__(self) -> int:  # asked for in the midst of the first send
            if not is_nested:
                is_nested.append(True)
                outbox.put((2, b"inner", BINARY))
            return super().__len__()

    is_nested: list[bool] = []
    outbox.put((1, Interrupted(b"outer"), BINARY))

    assert wakes
    assert [session for session, *_ in outbox.take()] == [1, 2]


async def test_the_bound_is_in_octets() -> None:
    """At sender_octets a send would block; a message of any size enters whole below that."""
    reactor = Reactor(Notes(), limits=Limits(sender_octets=1_000))
    ours, peer = open_session()
    session = reactor.add_session(ours)
    with reactor.sender() as sender:
        sender.send_nowait(session, bytes(100))
        sender.send_nowait(session, bytes(50_000))
        with pytest.raises(trio.WouldBlock):
            sender.send_nowait(session, b"")
        sender.close_session(SessionId(12345))  # is let through

        async with running(reactor):
            assert await peer.receive_message() == Frame(BINARY, bytes(100))
            assert await peer.receive_message() == Frame(BINARY, bytes(50_000))
            sender.send_nowait(session, "there is room again")
            assert await peer.receive_message() == Frame(TEXT, b"there is room again")
            await peer.expect_nothing()
            assert reactor.statistics().total.dropped == 1


async def test_send_waits_for_room_and_cancelled_sends_nothing() -> None:
    """A task that finds no room waits; what it wanted to send when cancelled is not sent."""
    reactor = Reactor(Notes(), limits=Limits(sender_octets=100))
    ours, peer = open_session()
    session = reactor.add_session(ours)
    with reactor.sender() as sender:
        sender.send_nowait(session, bytes(100))
        with trio.CancelScope() as already:
            already.cancel()
            await sender.send(session, b"never")
        async with trio.open_nursery() as nursery:
            impatient = trio.CancelScope()

            async def give_up() -> None:
                with impatient:
                    await sender.send(session, b"never")

            nursery.start_soon(give_up)
            nursery.start_soon(sender.send, session, b"patient")
            await trio.testing.wait_all_tasks_blocked()
            impatient.cancel()
            await trio.testing.wait_all_tasks_blocked()
            assert impatient.cancelled_caught
            async with running(reactor):
                assert await peer.receive_message() == Frame(BINARY, bytes(100))
                assert await peer.receive_message() == Frame(BINARY, b"patient")
                await peer.expect_nothing()


async def test_a_send_is_a_checkpoint() -> None:
    """Whether it waits for room or not."""
    reactor = Reactor(Notes())
    async with running(reactor):
        with reactor.sender() as sender, trio.testing.assert_checkpoints():
            await sender.send(SessionId(1), b"x")


async def test_a_thread_waits_for_room_and_times_out() -> None:
    """A thread that finds no room waits so long, or until there is some."""
    reactor = Reactor(Notes(), limits=Limits(sender_octets=100))
    ours, peer = open_session()
    session = reactor.add_session(ours)
    with reactor.sender() as sender:
        sender.send_nowait(session, bytes(100))
        with pytest.raises(TimeoutError, match="did not take"):
            sender.send_from_thread(session, b"never", timeout=0.01)
        with pytest.raises(TimeoutError):
            sender.send_from_thread(session, b"never", timeout=0)
        async with trio.open_nursery() as nursery:
            send = partial(sender.send_from_thread, session, b"patient", timeout=20)
            nursery.start_soon(trio.to_thread.run_sync, send)
            await wait_until(lambda: reactor._outboxes[0]._room._waiters)
            async with running(reactor):
                assert await peer.receive_message() == Frame(BINARY, bytes(100))
                assert await peer.receive_message() == Frame(BINARY, b"patient")
                await peer.expect_nothing()


async def wait_until(condition) -> None:
    """Let threads run until the condition holds."""
    with trio.fail_after(10):
        while not condition():  # noqa: ASYNC110 - of threads, which set no event
            await trio.sleep(0.001)


async def test_tasks_of_another_run_wait_for_room_too() -> None:
    """A sender may be used in a second run of Trio's, in a thread of its own."""
    reactor = Reactor(Notes(), limits=Limits(sender_octets=100))
    ours, peer = open_session()
    session = reactor.add_session(ours)
    with reactor.sender() as sender:
        sender.send_nowait(session, b"first")
        sender.send_nowait(session, b"first")

        async def send() -> None:
            await sender.send(session, b"waited")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            nursery.start_soon(trio.to_thread.run_sync, trio.run, send)
            await wait_until(lambda: len(reactor._outboxes[0]._lots) == 2)
            async with running(reactor):
                came = [(await peer.receive_message()).payload for _ in range(4)]
    assert came == [b"first"] * 2 + [b"waited"] * 2


@pytest.mark.parametrize("threads", [0, 1])
async def test_sends_to_no_one_are_dropped_and_counted(threads) -> None:
    """A session that never was, that has ended, or that is closing, gets nothing; no error."""
    notes = Notes()
    reactor = Reactor(notes, threads=threads)
    ours, peer = open_session()
    gone, gone_peer = open_session()
    with reactor.sender() as sender:
        async with running(reactor):
            session, ended = reactor.add_session(ours), reactor.add_session(gone)
            await sender.send(ended, b"still there")  # the loop knows its sessions from now on
            assert await gone_peer.receive_message() == Frame(BINARY, b"still there")
            await gone_peer.aclose()
            await notes.wait_for("close")
            for nowhere in (ended, SessionId(10**9), SessionId(0), SessionId(-1)):
                await sender.send(nowhere, b"x")
                sender.close_session(nowhere)
            sender.close_session(session, 4000, "enough")
            await sender.send(session, b"too late")
            assert await peer.receive_close() == Close(4000, "enough")
            await peer.expect_nothing()
            await wait_until(lambda: reactor.statistics().total.dropped == 9)


async def test_what_connections_drop_is_counted() -> None:
    """A callback's send after its close is dropped, and counted, with threads too."""
    for threads in (0, 1):
        notes = Notes()
        reactor = Reactor(notes, threads=threads)
        ours, peer = open_session()
        async with running(reactor):
            reactor.add_session(ours)
            await peer.expect_echo()
            (conn,) = notes.conns
            conn.close()
            conn.send(b"dropped")
            assert await peer.receive_close() == Close(1000)
            await peer.finish()
            await notes.wait_for("close")
            conn.send(b"dropped")
            conn.close()
            assert reactor.statistics().total.dropped == 2


async def test_a_send_right_behind_add_session_finds_the_session() -> None:
    """Who was given a session's id can send to it at once, whatever the loop's thread does."""
    reactor = Reactor(Notes(), threads=1)
    with reactor.sender() as sender:
        async with running(reactor):
            for _ in range(300):
                ours, peer = open_session()
                sender.send_nowait(reactor.add_session(ours), b"welcome")
                assert await peer.receive_message() == Frame(BINARY, b"welcome")
                await peer.aclose()
            assert reactor.statistics().total.dropped == 0


@pytest.mark.parametrize("look", [1, 2, 3])
def test_a_send_that_comes_between_calls_and_outbox_is_not_lost(look) -> None:
    """The loop takes what was sent before it adds sessions, so that none is sent to too early."""
    reactor = Reactor(Notes())
    ours, theirs = open_session()
    sender = reactor.sender()
    reactor.run_once(0)
    driver = reactor._drivers[0]

    done: list[SessionId] = []
    looks: list[bool] = []

    class Meddled(deque):
        def __bool__(self) -> bool:
            """Look for calls, just before another thread makes one, and sends."""
            has_calls = len(self) > 0
            looks.append(has_calls)
            if len(looks) == look:
                done.append(reactor.add_session(ours))
                sender.send_nowait(done[0], b"x")
            return has_calls

    driver._calls = Meddled()
    for _ in range(4):
        reactor.run_once(0)
    assert done
    assert theirs.stream.socket.fileno() >= 0
    assert reactor.statistics().total.dropped == 0
    assert reactor.statistics().total.messages_sent == 1
    sender.close()
    reactor.close()


async def test_a_closed_sender_raises() -> None:
    """After close every method raises ClosedResourceError, at once; close is harmless."""
    reactor = Reactor(Notes())
    sender = reactor.sender()
    twin = sender.clone()
    sender.close()
    sender.close()
    with pytest.raises(trio.ClosedResourceError):
        sender.send_nowait(SessionId(1), b"")
    with pytest.raises(trio.ClosedResourceError):
        await sender.send(SessionId(1), b"")
    with pytest.raises(trio.ClosedResourceError):
        sender.send_from_thread(SessionId(1), b"")
    with pytest.raises(trio.ClosedResourceError):
        sender.close_session(SessionId(1))
    with pytest.raises(trio.ClosedResourceError):
        sender.clone()
    twin.send_nowait(SessionId(1), b"is another one")
    twin.close()
    reactor.close()


async def test_who_waits_in_a_sender_that_is_closed_is_told() -> None:
    """A task and a thread that wait for room get ClosedResourceError; a clone's go on waiting."""
    reactor = Reactor(Notes(), limits=Limits(sender_octets=1))
    sender = reactor.sender()
    twin = sender.clone()
    sender.send_nowait(SessionId(1), b"")
    outcomes = []

    async def send(one) -> None:
        with pytest.raises(trio.ClosedResourceError):
            await one.send(SessionId(1), b"")
        outcomes.append(one)

    def send_from_thread() -> None:
        with pytest.raises(trio.ClosedResourceError):
            sender.send_from_thread(SessionId(1), b"")
        outcomes.append(sender)

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send, sender)
            nursery.start_soon(send, twin)
            nursery.start_soon(trio.to_thread.run_sync, send_from_thread)
            await wait_until(lambda: reactor._outboxes[0]._room._waiters)
            sender.close()
            await wait_until(lambda: len(outcomes) == 2)
            await trio.testing.wait_all_tasks_blocked()
            assert outcomes == [sender, sender]
            twin.close()
    reactor.close()


async def check_is_broken(sender) -> None:
    """Every way to send says that the reactor has ended."""
    with pytest.raises(trio.BrokenResourceError):
        sender.send_nowait(SessionId(1), b"")
    with pytest.raises(trio.BrokenResourceError):
        await sender.send(SessionId(1), b"")
    with pytest.raises(trio.BrokenResourceError):
        sender.send_from_thread(SessionId(1), b"")
    with pytest.raises(trio.BrokenResourceError):
        sender.close_session(SessionId(1))


@pytest.mark.parametrize("threads", [0, 1, 2])
async def test_a_sender_that_outlives_the_reactor_raises(threads) -> None:
    """After shutdown every way to send raises BrokenResourceError; no new sender can be had."""
    reactor = Reactor(Notes(), threads=threads)
    with reactor.sender() as sender:
        async with running(reactor):
            sender.send_nowait(SessionId(1), b"")
        await check_is_broken(sender)
        with pytest.raises(RuntimeError, match="has ended"):
            reactor.sender()
    with pytest.raises(trio.ClosedResourceError):
        sender.send_nowait(SessionId(1), b"")


def test_a_sender_that_outlives_trios_run_raises() -> None:
    """After trio.run has returned: the same, and closing it is harmless."""
    warm_up()
    senders = []

    async def main() -> None:
        reactor = Reactor(Notes(), threads=1)
        async with running(reactor):
            senders.append(reactor.sender())

    trio.run(main)
    (sender,) = senders
    trio.run(check_is_broken, sender)
    with pytest.raises(trio.BrokenResourceError):
        sender.send_nowait(SessionId(1), b"")
    sender.close()


async def test_who_waits_when_the_reactor_ends_is_told() -> None:
    """Threads and tasks that wait for room at that moment get BrokenResourceError."""
    reactor = Reactor(Notes(), limits=Limits(sender_octets=1))
    sender = reactor.sender()
    sender.send_nowait(SessionId(1), b"")
    outcomes = []

    async def send() -> None:
        with pytest.raises(trio.BrokenResourceError):
            await sender.send(SessionId(1), b"")
        outcomes.append("task")

    def send_from_thread() -> None:
        with pytest.raises(trio.BrokenResourceError):
            sender.send_from_thread(SessionId(1), b"")
        outcomes.append("thread")

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            for _ in range(3):
                nursery.start_soon(trio.to_thread.run_sync, send_from_thread)
            await wait_until(lambda: len(reactor._outboxes[0]._room._waiters) == 3)
            await trio.testing.wait_all_tasks_blocked()
            reactor.close()  # it never ran
    assert sorted(outcomes) == ["task", "thread", "thread", "thread"]
    sender.close()


@pytest.mark.parametrize("threads", [0, 1])
async def test_threads_that_send_all_the_time_are_told_of_the_end(threads) -> None:
    """8 threads in full flight all get BrokenResourceError when the reactor is cancelled."""
    reactor = Reactor(Notes(), threads=threads, limits=Limits(sender_octets=2_000))
    ended = []

    def send() -> None:
        with reactor.sender() as sender, contextlib.suppress(trio.BrokenResourceError):
            while True:
                sender.send_from_thread(SessionId(77), b"x" * 100)
        ended.append(threading.get_ident())

    with trio.fail_after(20):
        async with trio.open_nursery() as nursery, running(reactor):
            for _ in range(SENDERS):
                nursery.start_soon(trio.to_thread.run_sync, send)
            await wait_until(lambda: reactor.statistics().total.dropped > 1_000)
        assert len(ended) == SENDERS


@pytest.mark.parametrize("threads", [0, 1])
async def test_what_was_sent_before_the_end_leaves_before_the_goodbye(threads) -> None:
    """Messages that a sender took are sent, though the reactor is cancelled the next moment."""
    reactor = Reactor(Notes(), threads=threads)
    ours, peer = open_session()
    async with running(reactor):
        session = reactor.add_session(ours)
        await peer.expect_echo()
        with reactor.sender() as sender:
            for _ in range(10):
                sender.send_nowait(session, b"in flight")

        async def hear() -> None:
            for _ in range(10):
                assert await peer.receive_message() == Frame(BINARY, b"in flight")
            assert (await peer.receive_close()).code == 1001
            await peer.finish(1001)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(hear)
            await trio.lowlevel.checkpoint()
            reactor._nursery.cancel_scope.cancel()


@pytest.mark.parametrize("threads", [0, 1])
async def test_run_lasts_while_a_clone_lives(threads) -> None:
    """The last of several senders, whichever it is, lets run return."""
    reactor = Reactor(Notes(), threads=threads)
    sender = reactor.sender()
    is_over = trio.Event()

    async def run() -> None:
        await reactor.run()
        is_over.set()

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run)
            await wait_until(lambda: reactor.statistics().loops)
            twin = sender.clone()
            sender.close()
            await trio.testing.wait_all_tasks_blocked(0.02)
            assert not is_over.is_set()
            await trio.to_thread.run_sync(twin.close)
            await is_over.wait()


@pytest.mark.parametrize("threads", [0, 1])
async def test_a_forgotten_sender_is_closed_by_the_garbage_collector(threads) -> None:
    """A sender that no one can reach any more does not keep run from returning."""
    reactor = Reactor(Notes(), threads=threads)
    cycle = [reactor.sender()]
    cycle.append(cycle)
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            await nursery.start(reactor.run)
            await trio.testing.wait_all_tasks_blocked(0.01)
            assert reactor._stage.name == "RUNNING"
            del cycle
            await trio.to_thread.run_sync(gc.collect)  # in any thread


def test_bad_messages_are_refused() -> None:
    """What is no message, or no close code, raises at once."""
    reactor = Reactor(Notes())
    with reactor.sender() as sender:
        with pytest.raises(TypeError, match="not int"):
            sender.send_nowait(SessionId(1), 5)
        with pytest.raises(ValueError, match="opcode 9"):
            sender.send_nowait(SessionId(1), b"", 9)
        with pytest.raises(ValueError, match="1006"):
            sender.close_session(SessionId(1), 1006)
        with pytest.raises(ValueError, match="12"):
            sender.close_session(SessionId(1), 1000, "x" * 124)
    reactor.close()


async def test_what_can_change_is_copied() -> None:
    """A bytearray that is changed after it was sent arrives as it was."""
    reactor = Reactor(Notes())
    ours, peer = open_session()
    session = reactor.add_session(ours)
    payload = bytearray(b"as it was")
    with reactor.sender() as sender:
        sender.send_nowait(session, payload)
        sender.send_nowait(session, memoryview(payload)[:5], TEXT)
        payload[:] = b"different"
        async with running(reactor):
            assert await peer.receive_message() == Frame(BINARY, b"as it was")
            assert await peer.receive_message() == Frame(TEXT, b"as it")
