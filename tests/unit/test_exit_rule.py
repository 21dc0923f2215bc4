"""When `Reactor.run` returns: with the last listener, session and sender; what ends it early."""

import contextlib
import math
import os
import random
import threading

import pytest
import trio
import trio.testing

from tests.conformance.peer import CLOSE, build_close
from tests.sessions import GRACE, Notes, descriptors, open_session
from triows import Handler, Limits, Reactor, Response, Sender, SessionId, compiled
from triows._reactor import Driver

pytestmark = pytest.mark.usefixtures("warm_sessions")


class Run:
    """A reactor that runs in a task, and whether it has returned."""

    def __init__(self, reactor: Reactor, nursery: trio.Nursery) -> None:
        self.reactor = reactor
        self.scope = trio.CancelScope()
        self.is_over = trio.Event()
        reactor._grace = GRACE
        nursery.start_soon(self._run)

    async def _run(self) -> None:
        with self.scope:
            await self.reactor.run()
        self.is_over.set()

    async def goes_on(self) -> bool:
        """Whether it still runs once everything has come to rest."""
        await trio.testing.wait_all_tasks_blocked(0.02)
        return not self.is_over.is_set()


@pytest.mark.parametrize("threads", [0, 1, 2])
@pytest.mark.parametrize("is_python", [True, False], ids=["python", "compiled"])
@pytest.mark.parametrize("holders", range(8))
async def test_run_returns_with_the_last_of_listener_session_and_sender(
    holders, is_python, threads
) -> None:
    """Each set of them, and each order of going: the last one ends it, no other does."""
    chosen = [
        kind for bit, kind in enumerate(("listener", "session", "sender")) if holders >> bit & 1
    ]
    random.Random(threads + holders).shuffle(chosen)
    reactor = Reactor(Notes() if is_python else None, threads=threads)
    ours, peer = open_session()
    sender = reactor.sender() if "sender" in chosen else None
    if "session" in chosen:
        reactor.add_session(ours)
    if "listener" in chosen:
        await reactor.listen(0)
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            run = Run(reactor, nursery)
            for kind in chosen:
                assert await run.goes_on(), f"it ended before the {kind}"
                if kind == "listener":  # there is no way to stop one but to cancel all
                    run.scope.cancel()
                    break
                if kind == "session":
                    await peer.aclose()
                else:
                    sender.close()
            await run.is_over.wait()
    if sender is not None:
        sender.close()


@pytest.mark.parametrize("threads", [0, 1, 2])
@pytest.mark.parametrize("what", ["sender", "session", "listener"])
async def test_what_the_last_on_close_adds_keeps_it_going(what, threads) -> None:
    """A sender, a session or a listener that the last session's on_close brings."""
    next_ours, next_peer = open_session()
    added = trio.Event()

    class Adding(Handler):
        def on_close(self, conn, code, reason) -> None:
            if added.is_set():
                return
            added.set()
            if what == "sender":
                senders.append(reactor.sender())
            elif what == "session":
                reactor.add_session(next_ours)
            else:
                senders.append(reactor.sender())
                nursery.start_soon(listen)

    async def listen() -> None:
        await reactor.listen(0)
        senders.pop().close()

    senders = []
    reactor = Reactor(Adding(), threads=threads)
    ours, peer = open_session()
    reactor.add_session(ours)
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            run = Run(reactor, nursery)
            assert await run.goes_on()
            await peer.aclose()
            await added.wait()
            assert await run.goes_on()
            if what == "sender":
                senders.pop().close()
            elif what == "session":
                await next_peer.aclose()
            else:
                run.scope.cancel()
            await run.is_over.wait()


@pytest.mark.parametrize("threads", [0, 1])
async def test_a_grace_without_end_ends_with_the_last_peer(threads) -> None:
    """What an on_close adds while peers are told to go is closed, though no deadline is set."""
    next_ours, next_peer = open_session()

    class Adding(Handler):
        def on_close(self, conn, code, reason) -> None:
            if next_ours.fileno() >= 0:
                reactor.add_session(next_ours)

    reactor = Reactor(Adding(), threads=threads, shutdown_grace=math.inf)
    ours, peer = open_session()
    reactor.add_session(ours)
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            await nursery.start(reactor.run)
            nursery.cancel_scope.cancel()
            with trio.CancelScope(shield=True):
                assert (await peer.receive_frame()).opcode == CLOSE
                await peer.aclose()
                await next_peer.receive_end()


@pytest.mark.parametrize("threads", [0, 1, 2])
async def test_on_close_has_come_when_run_returns(threads) -> None:
    """However the last session ends, run returns after its on_close, not before."""
    for ending in ("closed", "hung up", "reset"):
        notes = Notes()
        reactor = Reactor(notes, threads=threads)
        ours, peer = open_session("tcp")
        reactor.add_session(ours)
        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                run = Run(reactor, nursery)
                await peer.expect_echo()
                if ending == "closed":
                    await peer.send(build_close(1001))
                elif ending == "hung up":
                    await peer.aclose()
                else:
                    peer.reset()
                await run.is_over.wait()
        assert notes.kinds() == ["open", "frame", "close"]
        assert notes.lines[-1][2] == (1001 if ending == "closed" else 1006)


async def test_a_sender_that_comes_at_the_last_moment_is_refused_or_kept() -> None:
    """Between the decision to end and the end no sender is given out that holds nothing."""
    for _ in range(50):
        reactor = Reactor(Notes(), threads=0)
        ours, peer = open_session()
        reactor.add_session(ours)
        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                run = Run(reactor, nursery)
                await peer.expect_echo()
                await peer.aclose()
                while not run.is_over.is_set():
                    try:
                        sender = reactor.sender()
                    except RuntimeError:
                        break
                    await trio.lowlevel.checkpoint()
                    sender.send_nowait(SessionId(1), b"")  # or it raises
                    sender.close()
                    await trio.lowlevel.checkpoint()


async def test_a_sender_that_is_taken_while_the_reactor_looks_is_kept(monkeypatch) -> None:
    """A thread that gets one when the last connection has been found gone gets one that works."""
    real = Driver.is_empty.fget
    taken: list[Sender] = []

    def is_empty(driver) -> bool:
        if not real(driver):
            return False
        if not taken:
            thread = threading.Thread(target=lambda: taken.append(reactor.sender()))
            thread.start()
            thread.join()
        return True

    monkeypatch.setattr(Driver, "is_empty", property(is_empty))
    reactor = Reactor(threads=0)
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            run = Run(reactor, nursery)
            assert await run.goes_on()
            taken[0].send_nowait(SessionId(1), b"to no one")
            assert await run.goes_on()
            taken[0].close()
            await run.is_over.wait()


async def test_senders_from_a_thread_meet_the_end_in_order() -> None:
    """A thread that takes and closes senders all the time: each works until it is closed."""
    for threads in (0, 1):
        reactor = Reactor(Notes(), threads=threads)

        def take(reactor=reactor) -> None:
            with contextlib.suppress(RuntimeError):
                while True:
                    with reactor.sender() as sender:
                        sender.send_nowait(SessionId(1), b"")

        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                for _ in range(3):
                    nursery.start_soon(trio.to_thread.run_sync, take)
                await reactor.run()
                nursery.cancel_scope.deadline = trio.current_time() + 5
        assert not reactor._uses


async def test_a_reactor_runs_once() -> None:
    """Twice, at once or one after the other, and after run_once: RuntimeError."""
    reactor = Reactor(Notes())
    await reactor.run()
    with pytest.raises(RuntimeError, match="runs once"):
        await reactor.run()
    with pytest.raises(RuntimeError, match="runs once"):
        reactor.run_once(0)

    other = Reactor(Notes(), threads=1)
    with other.sender():
        async with trio.open_nursery() as nursery:
            await nursery.start(other.run)
            with pytest.raises(RuntimeError, match="runs once"):
                await other.run()
            nursery.cancel_scope.cancel()

    by_hand = Reactor(Notes())
    by_hand.run_once(0)
    with pytest.raises(RuntimeError, match="runs once"):
        await by_hand.run()
    by_hand.close()


@compiled
def deliver(payload, opcode):
    """Leave everything to Python."""
    return Response.DELIVER


@pytest.mark.parametrize("threads", [0, 1, 2])
async def test_cancelling_at_any_moment_leaks_nothing(threads) -> None:
    """No descriptor and no thread stays behind, whatever was under way."""
    await trio.to_thread.run_sync(lambda: None)
    moments = random.Random(threads)
    before, threads_before = descriptors(), threading.active_count()
    for round_ in range(25):
        reactor = Reactor(Notes(), compiled=deliver if round_ % 2 else None, threads=threads)
        delay = moments.random() * 0.02 if round_ > 3 else 0.0
        pairs = [open_session() for _ in range(4)]
        sender = reactor.sender()
        sessions = [reactor.add_session(ours) for ours, _ in pairs[:2]]
        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                run = Run(reactor, nursery)

                async def disturb(reactor=reactor, pairs=pairs, sender=sender, sessions=sessions):
                    with contextlib.suppress(RuntimeError, trio.BrokenResourceError):
                        (address,) = await reactor.listen(0)
                        stream = await trio.open_tcp_stream(*address)
                        async with stream:
                            for ours, _ in pairs[2:]:
                                sessions.append(reactor.add_session(ours))
                            while True:
                                for session in sessions:
                                    await sender.send(session, b"x" * 1_000)
                                    await pairs[0][1].send_frame(2, b"y" * 100)

                nursery.start_soon(disturb)
                await trio.sleep(delay)
                run.scope.cancel()
                await run.is_over.wait()
                nursery.cancel_scope.cancel()
        sender.close()
        for ours, peer in pairs:
            ours.close()
            await trio.aclose_forcefully(peer.stream)
        assert not reactor._uses
    assert descriptors() <= before
    assert threading.active_count() <= threads_before + 2  # Trio keeps idle ones for a while


async def test_a_loop_that_cannot_be_made_leaves_nothing(monkeypatch) -> None:
    """Out of descriptors at the third loop: run raises, and the two before it are closed."""
    before = descriptors()
    reactor = Reactor(Notes(), threads=3)
    ours, peer = open_session()
    reactor.add_session(ours)
    make, made = os.eventfd, []

    def eventfd(*arguments: int) -> int:
        if len(made) == 2:
            raise OSError(24, "Too many open files")
        made.append(make(*arguments))
        return made[-1]

    monkeypatch.setattr(os, "eventfd", eventfd)
    with pytest.raises(OSError, match="Too many"):
        await reactor.run()
    await peer.receive_eof()
    await trio.aclose_forcefully(peer.stream)
    assert descriptors() <= before


async def test_a_listener_that_comes_too_late_is_closed() -> None:
    """listen, if the reactor ends while it looks up the name, raises and listens nowhere."""
    reactor = Reactor(Notes())
    opened = []
    open_listeners = trio.open_tcp_listeners

    async def slowly(*arguments, **settings):
        opened.extend(await open_listeners(*arguments, **settings))
        reactor.close()
        return opened

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trio, "open_tcp_listeners", slowly)
        with pytest.raises(RuntimeError, match="has ended"):
            await reactor.listen(0)
    assert [one.socket.fileno() for one in opened] == [-1]


async def test_limits_hold_for_the_callback_api(monkeypatch) -> None:
    """A peer that does not read what it is sent ends over max_unsent; on_close is told 1013."""
    notes = Notes()
    reactor = Reactor(notes, limits=Limits(max_unsent=100_000))
    ours, _peer = open_session()
    session = reactor.add_session(ours)
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            run = Run(reactor, nursery)
            with reactor.sender() as sender:
                for _ in range(100):
                    await sender.send(session, bytes(10_000))
            await run.is_over.wait()
    assert notes.lines == [("open", session), ("close", session, 1013)]
