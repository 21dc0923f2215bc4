"""`Response.DELIVER`: what a compiled handler leaves to Python, in Trio's thread and in others."""

import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest
import trio
import trio.testing

from tests.conformance.peer import BINARY, TEXT, Close, Frame, build_close, build_frame
from tests.sessions import Notes, descriptors, open_session, running
from triows import Handler, KeepAlive, Limits, Reactor, Response, compiled, handler_fn
from triows._reactor import _courier
from triows._reactor._courier import CourierDriver

pytestmark = pytest.mark.usefixtures("warm_sessions")

THREADS = pytest.mark.parametrize("threads", [0, 1, 3])


@compiled
def sift(payload, opcode):
    """Deliver text; echo binary messages, but for empty ones, which close."""
    if opcode == 1:
        return Response.DELIVER
    if len(payload) == 0:
        return Response.CLOSE
    payload[0] = 33
    return Response.ECHO


@THREADS
async def test_only_what_is_delivered_reaches_python(threads) -> None:
    """The compiled handler answers the rest itself; each reply comes."""
    notes = Notes()
    reactor = Reactor(notes, compiled=sift, threads=threads)
    ours, peer = open_session()
    async with running(reactor):
        session = reactor.add_session(ours)
        for size in (10, 3_000, 100_000):
            await peer.send_frame(BINARY, b"b" * size)
            assert await peer.receive_message() == Frame(BINARY, b"!" + b"b" * (size - 1))
            await peer.expect_echo(b"t" * size, TEXT)
        await peer.send_frame(BINARY)
        assert await peer.receive_close() == Close(1000)
        await peer.finish()
        await peer.aclose()
        await notes.wait_for("close")
        assert notes.thread == threading.get_ident()  # Trio's
        assert [line[2] for line in notes.lines if line[0] == "frame"] == [
            b"t" * size for size in (10, 3_000, 100_000)
        ]
        assert notes.kinds(session)[0] == "open"
        assert notes.kinds(session)[-1] == "close"


@THREADS
async def test_deliveries_are_in_order_with_open_first_and_close_last(threads) -> None:
    """For each of many connections that talk at once, in batches cut anywhere."""
    notes = Notes()
    reactor = Reactor(notes, compiled=sift, threads=threads)
    pairs = [open_session() for _ in range(12)]
    count = 150

    async def talk(peer) -> None:
        octets = b"".join(build_frame(TEXT, b"%d" % number) for number in range(count))
        octets += build_close(4321)
        for start in range(0, len(octets), 333):
            await peer.send(octets[start : start + 333])
            await trio.lowlevel.checkpoint()

    async with running(reactor):
        sessions = [reactor.add_session(ours) for ours, _ in pairs]
        async with trio.open_nursery() as nursery:
            for _, peer in pairs:
                nursery.start_soon(talk, peer)
        await notes.wait_for("close", len(pairs))
    for session in sessions:
        mine = [line for line in notes.lines if line[1] == session]
        frames = [("frame", session, b"%d" % number) for number in range(count)]
        assert mine == [("open", session), *frames, ("close", session, 4321)]


@THREADS
async def test_delivered_messages_are_echoed_as_they_were_left(threads) -> None:
    """Changed, short and long, with what was sent before; the opcode stays."""

    def answer(conn, payload, opcode) -> None:
        payload[:] = bytes(payload).upper()
        conn.send(b"%d" % len(payload))
        conn.echo()

    reactor = Reactor(handler_fn(answer), compiled=sift, threads=threads)
    ours, peer = open_session()
    async with running(reactor):
        reactor.add_session(ours)
        for size in (0, 1, 126, 70_000, 500_000):
            await peer.send_frame(TEXT, b"a" * size)
            assert await peer.receive_message() == Frame(BINARY, b"%d" % size)
            assert await peer.receive_message() == Frame(TEXT, b"A" * size)


@pytest.mark.parametrize("threads", [1, 3])
async def test_python_lagging_behind_holds_the_peers_up(threads, monkeypatch) -> None:
    """While the handler is slow, memory is bounded: the loop waits, and the peers with it."""
    most = 50_000
    monkeypatch.setattr(_courier, "UNDELIVERED", most)
    monkeypatch.setattr(_courier, "BUDGET", 0.0)
    held = []

    class Slow(Handler):
        def on_frame(self, conn, payload, opcode) -> None:
            held.append(sum(held_by(driver) for driver in reactor._drivers))

    def held_by(driver) -> int:
        return sum(octets for _, octets in list(driver._events))

    reactor = Reactor(Slow(), threads=threads)
    ours, peer = open_session()
    octets = build_frame(BINARY, b"x" * 1_000) * 3_000
    async with running(reactor):
        reactor.add_session(ours)
        await peer.send(octets)
        while len(held) < 3_000:  # noqa: ASYNC110 - what comes, comes from threads
            await trio.sleep(0.001)
    turn = 2**20 + 2**16  # what one turn may add to it, once it may
    assert max(held) < most + turn
    assert len(octets) > 2 * (most + turn)


async def test_a_slow_handler_is_not_given_more_for_each_it_has_handled(monkeypatch) -> None:
    """What is still to be handled counts until it is: a little room is not all of it."""
    monkeypatch.setattr(_courier, "UNDELIVERED", 1_000)
    reactor = Reactor(Handler(), threads=1)
    driver = await make_driver(reactor)
    driver._events.extend([(lambda: None, 600)] * 3)
    driver._undelivered = 1_800
    monkeypatch.setattr(_courier, "LOOK_EVERY", 1)

    driver._deliver_some(-1)

    assert driver._undelivered == 1_200
    driver._events.clear()
    driver.close()
    reactor.close()


async def make_driver(reactor: Reactor) -> CourierDriver:
    """A driver as the reactor makes them, which no one runs."""
    (driver,) = reactor._make_drivers(0)
    assert isinstance(driver, CourierDriver)
    return driver


async def test_a_batch_wakes_trio_once() -> None:
    """One run_sync_soon for all that comes while Trio sleeps or is at it, and not one less."""
    reactor = Reactor(Handler(), threads=1)
    driver = await make_driver(reactor)
    wakes = []

    class Token:
        def run_sync_soon(self, function) -> None:
            wakes.append(function)

    driver._token = Token()
    handled = []

    def bring(count: int) -> None:
        for number in range(count):
            driver._collector.events.append((lambda number=number: handled.append(number), 1))
        driver._after_turns()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(driver._deliver_all, trio.CancelScope())
        await trio.testing.wait_all_tasks_blocked()
        bring(200)
        bring(200)
        assert len(wakes) == 1
        wakes.pop()()
        await trio.testing.wait_all_tasks_blocked()
        assert len(handled) == 400
        bring(1)
        assert len(wakes) == 1
        nursery.cancel_scope.cancel()
    driver.close()
    reactor.close()


@pytest.mark.parametrize("budget", [-1, 1])
async def test_what_comes_while_the_last_is_handled_is_not_forgotten(budget, monkeypatch) -> None:
    """A batch that is handed over during the last callback of the one before is handled too."""
    monkeypatch.setattr(_courier, "BUDGET", budget)  # whether the task gives way before it
    monkeypatch.setattr(_courier, "LOOK_EVERY", 1)
    reactor = Reactor(Handler(), threads=1)
    driver = await make_driver(reactor)
    driver._token = trio.lowlevel.current_trio_token()
    handled = []

    def last() -> None:
        handled.append("last")
        driver._collector.events.append((lambda: handled.append("more"), 1))
        # Between the look for more and the sleep, as a thread can at any moment.
        driver._after_turns()

    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            scope = trio.CancelScope()
            nursery.start_soon(driver._deliver_all, scope)
            await trio.testing.wait_all_tasks_blocked()
            for _ in range(3):
                driver._collector.events.append((last, 1))
                driver._after_turns()
                await trio.testing.wait_all_tasks_blocked()
            scope.cancel()
    assert handled == ["last", "more"] * 3
    driver.close()
    reactor.close()


@THREADS
async def test_a_raising_callback_closes_its_own_with_1011(threads, caplog) -> None:
    """What it has sent before goes out; what came behind is not handled; others go on."""

    def fail(conn, payload, opcode) -> None:
        conn.send(b"before")
        conn.echo()
        if payload == b"bad":
            raise ValueError("planned")

    reactor = Reactor(handler_fn(fail), compiled=sift, threads=threads)
    (ours, peer), (other_ours, other) = open_session(), open_session()
    async with running(reactor):
        reactor.add_session(ours)
        reactor.add_session(other_ours)
        await peer.send(build_frame(TEXT, b"bad") + build_frame(TEXT, b"behind"))
        assert await peer.receive_message() == Frame(BINARY, b"before")
        await peer.receive_failure(1011)
        await other.send_frame(TEXT, b"good")
        assert await other.receive_message() == Frame(BINARY, b"before")
        assert await other.receive_message() == Frame(TEXT, b"good")
    assert [record.getMessage() for record in caplog.records] == ["on_frame failed"]


@pytest.mark.parametrize("threads", [1, 2])
async def test_cancelled_with_messages_undelivered(threads) -> None:
    """What was taken over is handled, and each connection's end told, before run ends."""
    gate = []

    class Counting(Notes):
        def on_frame(self, conn, payload, opcode) -> None:
            self.note("frame", conn.id, bytes(payload))
            if not gate:
                gate.append(True)
                reactor._nursery.cancel_scope.cancel()  # hundreds wait to be delivered

    notes = Counting()
    reactor = Reactor(notes, threads=threads)
    pairs = [open_session() for _ in range(3)]
    before = threading.active_count()
    with trio.fail_after(10):
        reactor._grace = 0.1
        for ours, _ in pairs:
            reactor.add_session_with_prefix(ours, build_frame(TEXT, b"x") * 500)
        await reactor.run()
    for session in {line[1] for line in notes.lines}:
        kinds = notes.kinds(session)
        assert kinds[0] == "open"
        assert kinds[-1] == "close"
        assert set(kinds[1:-1]) <= {"frame"}
    assert notes.kinds().count("open") == notes.kinds().count("close") > 0
    assert threading.active_count() <= before + threads + 1  # Trio keeps idle ones for a while


@THREADS
async def test_debug_overwrites_what_a_callback_keeps(threads) -> None:
    """A view that is used after its callback shows nothing of the message; the echo is whole."""
    kept = []

    def keep(conn, payload, opcode) -> None:
        kept.append(payload)
        conn.echo()

    reactor = Reactor(handler_fn(keep), threads=threads, debug=True)
    ours, peer = open_session()
    async with running(reactor):
        reactor.add_session(ours)
        for size in (5, 300, 100_000):
            await peer.expect_echo(b"s" * size)
    assert [bytes(view) for view in kept] == [b"\xdb" * size for size in (5, 300, 100_000)]


@THREADS
async def test_echo_is_for_the_message_being_handled(threads) -> None:
    """Anywhere else it is a RuntimeError: in on_open and on_close, outside, of another."""
    refused = []

    class Greedy(Handler):
        def try_echo(self, conn) -> None:
            with pytest.raises(RuntimeError, match="on_frame"):
                conn.echo()
            refused.append(conn)

        def on_open(self, conn) -> None:
            conns.append(conn)
            self.try_echo(conn)

        def on_frame(self, conn, payload, opcode) -> None:
            for other in conns:
                if other is not conn:
                    self.try_echo(other)
            conn.echo()

        def on_close(self, conn, code, reason) -> None:
            self.try_echo(conn)
            done.set()

    conns, done = [], trio.Event()
    handler = Greedy()
    reactor = Reactor(handler, threads=threads)
    (ours, peer), (other_ours, other) = open_session(), open_session()
    async with running(reactor):
        reactor.add_session(ours)
        reactor.add_session(other_ours)
        while len(conns) < 2:  # noqa: ASYNC110 - of loops that differ in their order
            await trio.sleep(0.001)
        await other.expect_echo()
        await peer.expect_echo()
        handler.try_echo(conns[0])
        await peer.aclose()
        await done.wait()
        assert len(refused) == 2 + 2 + 1 + 1


@pytest.mark.parametrize("threads", [0, 1])
async def test_a_connections_properties(threads) -> None:
    """Its data is the user's; buffered counts what the peer does not take; repr says how it is."""
    notes = Notes()
    limits = Limits(max_unsent=2**30)
    reactor = Reactor(notes, threads=threads, limits=limits, keepalive=KeepAlive(interval=60))
    ours, peer = open_session()
    async with running(reactor):
        reactor.add_session(ours)
        await peer.expect_echo()
        (conn,) = notes.conns
        assert conn.data is None
        conn.data = {"user": 7}
        assert notes.conns[0].data == {"user": 7}
        assert repr(conn) == f"<triows.Connection {conn.id} open>"
        assert conn.buffered == 0
        conn.send(bytes(3_000_000))
        while not conn.buffered:  # noqa: ASYNC110 - what the loop's thread does sets no event
            await trio.sleep(0.001)
        assert conn.buffered < 3_000_011
        assert await peer.receive_message() == Frame(BINARY, bytes(3_000_000))
        conn.close(4000, "done")
        assert repr(conn) == f"<triows.Connection {conn.id} closing>"
        assert await peer.receive_close() == Close(4000, "done")
        await peer.finish(4000)
        await notes.wait_for("close")
        assert repr(conn) == f"<triows.Connection {conn.id} closed>"
        assert conn.buffered == 0


INTERRUPTED = textwrap.dedent("""
    import os, signal, socket, threading
    import trio, triows
    from tests.conformance.peer import build_frame
    from tests.sessions import descriptors

    class Interrupting(triows.Handler):
        def {callback}(self, conn, *rest):
            os.kill(os.getpid(), signal.SIGINT)
            for _ in range(10**7):
                pass
            print("not interrupted", flush=True)

    async def main():
        reactor = triows.Reactor(Interrupting(), threads={threads}, shutdown_grace=0.1)
        ours, theirs = socket.socketpair()
        sockets.append(theirs)
        senders.append(reactor.sender())
        reactor.add_session_with_prefix(ours, build_frame(1, b"x") + build_frame(8))
        await reactor.run()

    triows.warm_up()
    senders, sockets = [], []
    trio.run(trio.to_thread.run_sync, int)  # so that Trio's own are there
    before = descriptors()
    try:
        trio.run(main)
    except KeyboardInterrupt:
        print("interrupted")
    sockets[0].close()
    try:
        senders[0].send_nowait(1, b"")
    except trio.BrokenResourceError:
        senders[0].close()
    left = descriptors() - before
    print("left", sorted(left), [t.name for t in threading.enumerate() if not t.daemon])
""")


@pytest.mark.parametrize("callback", ["on_open", "on_frame", "on_close"])
@pytest.mark.parametrize("threads", [0, 1])
def test_ctrl_c_in_a_callback_ends_the_run_and_leaves_nothing(callback, threads) -> None:
    """KeyboardInterrupt strikes in the callback and comes out of trio.run; nothing stays open."""
    script = INTERRUPTED.format(callback=callback, threads=threads)
    done = subprocess.run(
        [sys.executable, "-W", "ignore::ResourceWarning", "-c", script],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=Path(__file__).parents[2],
        check=False,
    )
    assert done.stdout.splitlines() == ["interrupted", "left [] ['MainThread']"], done.stderr


async def test_a_raising_base_exception_ends_the_run() -> None:
    """What is no Exception comes out of run, and both loop and sockets are closed."""

    def leave(conn, payload, opcode) -> None:
        raise SystemExit(3)

    before = descriptors()
    for threads in (0, 1):
        reactor = Reactor(handler_fn(leave), threads=threads, shutdown_grace=0.1)
        ours, peer = open_session()
        reactor.add_session_with_prefix(ours, build_frame(TEXT, b"x"))
        with trio.fail_after(10), pytest.raises(SystemExit):
            await reactor.run()
        assert (await peer.receive_end())[:1] in (b"\x88", b"")
        await trio.aclose_forcefully(peer.stream)
    assert descriptors() <= before
