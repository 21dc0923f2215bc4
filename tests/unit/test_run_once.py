"""`Reactor.run_once`: a reactor in someone else's loop, without Trio."""

import asyncio
import select
import socket
import threading
import time

import pytest
import trio

from tests.conformance.peer import build_close, build_frame
from tests.sessions import connect_pair, descriptors
from triows import (
    Handler,
    KeepAlive,
    Limits,
    Reactor,
    Request,
    SessionId,
    handler_fn,
    open_reactor,
)

pytestmark = pytest.mark.usefixtures("warm_sessions")


class Echo(Handler):
    """Echoes, and notes what it is called with."""

    def __init__(self) -> None:
        self.lines = []

    def on_open(self, conn) -> None:
        """Note it."""
        self.lines.append("open")

    def on_frame(self, conn, payload, opcode) -> None:
        """Note it and send it back."""
        self.lines.append(bytes(payload))
        conn.echo()

    def on_close(self, conn, code, reason) -> None:
        """Note it."""
        self.lines.append(code)


@pytest.fixture
def echo():
    """A reactor that echoes, and is closed."""
    reactor = Reactor(Echo(), threads=0)
    yield reactor
    reactor.close()


def receive(theirs: socket.socket, size: int) -> bytes:
    """So many octets, or a timeout."""
    theirs.settimeout(10)
    return theirs.recv(size, socket.MSG_WAITALL)


def test_a_tick_serves_what_is_ready(echo) -> None:
    """Without Trio anywhere: sessions, prefix, messages, closing; it says when all is done."""
    ours, theirs = connect_pair()
    assert echo.run_once(0) is False
    echo.add_session_with_prefix(ours, build_frame(1, b"hi"))
    assert echo.run_once(0) is True
    assert receive(theirs, 4) == b"\x81\x02hi"
    theirs.sendall(build_frame(2, b"x" * 300))
    assert echo.run_once(10) is True
    assert receive(theirs, 304) == b"\x82\x7e\x01\x2c" + b"x" * 300
    theirs.sendall(build_close(1000))
    assert echo.run_once(10) is False
    assert receive(theirs, 4) == b"\x88\x02\x03\xe8"
    assert receive(theirs, 1) == b""
    assert echo._handler.lines == ["open", b"hi", b"x" * 300, 1000]


def test_in_a_select_loop_of_ours(echo) -> None:
    """Fileno says when to call, for sessions, messages and what threads send."""
    pairs = [connect_pair() for _ in range(3)]
    stop = threading.Event()
    inbox = {theirs: b"" for _, theirs in pairs}

    def loop() -> None:
        while not stop.is_set():
            readable, _, _ = select.select([echo.fileno(), *inbox], [], [], 5)
            for one in readable:
                if one in inbox:
                    inbox[one] += one.recv(1_000)
                else:
                    echo.run_once(0)
            if all(len(octets) >= 10 for octets in inbox.values()):
                stop.set()

    sessions = [echo.add_session(ours) for ours, _ in pairs]
    for _, theirs in pairs:
        theirs.sendall(build_frame(1, b"abc"))

    def send() -> None:
        with echo.sender() as sender:
            for session in sessions:
                sender.send_from_thread(session, b"xyz")

    thread = threading.Thread(target=send)
    thread.start()
    loop()
    thread.join()
    for octets in inbox.values():
        assert sorted([octets[:5], octets[5:]]) == [b"\x81\x03abc", b"\x82\x03xyz"]


def test_in_an_asyncio_loop(echo) -> None:
    """A loop of asyncio's watches fileno and calls; its own streams are the clients."""

    async def talk(reader, writer, index: int) -> None:
        for number in range(20):
            message = b"%d-%03d" % (index, number)
            writer.write(build_frame(1, message))
            assert await reader.readexactly(2 + len(message)) == b"\x81\x05" + message
        writer.write(build_close(1000))
        assert await reader.read() == b"\x88\x02\x03\xe8"
        writer.close()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.add_reader(echo.fileno(), echo.run_once, 0)
        clients = []
        for index in range(5):
            ours, theirs = connect_pair()
            echo.add_session(ours)
            clients.append(talk(*await asyncio.open_unix_connection(sock=theirs), index))
        async with asyncio.timeout(20):
            await asyncio.gather(*clients)
        loop.remove_reader(echo.fileno())

    asyncio.run(main())
    assert echo.run_once(0) is False
    assert echo._handler.lines.count(1000) == 5


def test_what_a_tick_has_no_time_for_keeps_fileno_readable() -> None:
    """Callbacks that take longer than a tick's budget go on in the next, which fileno asks for."""
    seen = []

    def slowly(conn, payload, opcode) -> None:
        time.sleep(0.000_5)
        seen.append(bytes(payload))

    reactor = Reactor(handler_fn(slowly), threads=0)
    ours, theirs = connect_pair()
    reactor.add_session(ours)
    reactor.run_once(0)
    theirs.sendall(build_frame(2, b"x") * 200)
    ticks = 0
    while select.select([reactor.fileno()], [], [], 0)[0]:
        reactor.run_once(0)
        ticks += 1
    assert len(seen) == 200
    assert ticks > 2
    reactor.close()


def test_a_thread_ends_the_waiting(echo) -> None:
    """run_once returns when a thread has sent something, long before its timeout."""
    ours, theirs = connect_pair()
    session = echo.add_session(ours)
    echo.run_once(0)
    with echo.sender() as sender:
        assert not select.select([echo.fileno()], [], [], 0)[0]
        sender.send_nowait(session, b"look")
        assert select.select([echo.fileno()], [], [], 0)[0]
        assert echo.run_once(60)
        assert receive(theirs, 6) == b"\x82\x04look"
        timer = threading.Timer(0.05, sender.send_nowait, (session, b"wake"))
        timer.start()
        before = time.monotonic()
        assert echo.run_once(60)
        assert time.monotonic() - before < 30
        timer.join()
    assert receive(theirs, 6) == b"\x82\x04wake"


def test_a_timeout_is_kept(echo) -> None:
    """With nothing to do it waits so long, and no longer; 0 does not wait."""
    ours, _theirs = connect_pair()
    echo.add_session(ours)
    echo.run_once(0)
    for timeout in (0, 0.05, 0.4):
        before = time.monotonic()
        echo.run_once(timeout)
        assert timeout - 0.01 <= time.monotonic() - before < timeout + 5


def test_deadlines_are_kept() -> None:
    """A quiet peer is pinged, and dropped, by calls alone."""
    handler = Echo()
    reactor = Reactor(handler, keepalive=KeepAlive(interval=0.05, timeout=0.05))
    ours, theirs = connect_pair()
    reactor.add_session(ours)
    until = time.monotonic() + 20
    while reactor.run_once(0.05):
        assert time.monotonic() < until
    assert receive(theirs, 2) == b"\x89\x00"
    assert handler.lines[0] == "open"
    assert len(handler.lines) == 2
    reactor.close()


def test_an_open_sender_is_something_to_go_on_for(echo) -> None:
    """It says True while there is a sender, and False after."""
    with echo.sender():
        assert echo.run_once(0) is True
    assert echo.run_once(0) is False


def test_with_threads_it_is_refused() -> None:
    """A reactor with threads drives itself; nothing is opened in vain."""
    before = descriptors()
    for reactor in (Reactor(), Reactor(Echo(), threads=2)):
        with pytest.raises(RuntimeError, match="threads=0"):
            reactor.run_once(0)
        with pytest.raises(RuntimeError, match="threads=0"):
            reactor.fileno()
        reactor.close()
    assert descriptors() <= before


async def test_while_run_drives_it_is_refused() -> None:
    """So are fileno and close: who runs a reactor cancels it."""
    async with open_reactor(Echo()) as reactor:
        for refused in (lambda: reactor.run_once(0), reactor.fileno, reactor.close):
            with pytest.raises(RuntimeError, match=r"runs once|cancel it"):
                refused()
        (address,) = await reactor.listen(0)
        stream = await trio.open_tcp_stream(*address)
        await stream.aclose()
    reactor.close()  # after the end it is harmless


async def test_a_reactor_that_listens_is_refused() -> None:
    """Nothing would be accepted, before or after the first tick."""
    listening = Reactor(Echo())
    await listening.listen(0)
    with pytest.raises(RuntimeError, match="accepts no connections"):
        listening.run_once(0)
    listening.close()
    ticking = Reactor(Echo())
    ticking.run_once(0)
    with pytest.raises(RuntimeError, match="accepts no connections"):
        await ticking.listen(0)
    ticking.close()


def test_a_callback_cannot_tick_or_close() -> None:
    """Either is a RuntimeError in the callback, and nothing nests."""
    refused = []

    def drive(conn, payload, opcode) -> None:
        for refuse in (lambda: reactor.run_once(0), reactor.close):
            with pytest.raises(RuntimeError, match="may not drive"):
                refuse()
            refused.append(refuse)
        conn.echo()

    reactor = Reactor(handler_fn(drive))
    ours, theirs = connect_pair()
    reactor.add_session_with_prefix(ours, build_frame(1, b"x"))
    reactor.run_once(0)
    assert receive(theirs, 3) == b"\x81\x01x"
    theirs.sendall(build_frame(1, b"y"))
    reactor.run_once(10)
    assert receive(theirs, 3) == b"\x81\x01y"
    assert len(refused) == 4
    reactor.close()


def test_close_says_goodbye_and_leaves_nothing() -> None:
    """Peers get what was sent, then 1001; on_close is called; every descriptor is closed."""
    before = descriptors()
    handler = Echo()
    reactor = Reactor(handler)
    ours, theirs = connect_pair()
    late, late_theirs = connect_pair()
    session = reactor.add_session(ours)
    reactor.run_once(0)
    sender = reactor.sender()
    sender.send_nowait(session, b"last")
    reactor.add_session(late)
    reactor.close()
    reactor.close()
    farewell = receive(theirs, 1_000)
    assert farewell.startswith(b"\x82\x04last\x88")
    assert farewell[8:10] == b"\x03\xe9"
    assert len(farewell) == 8 + farewell[7]
    assert receive(late_theirs, 1) == b""
    theirs.close()
    late_theirs.close()
    with pytest.raises(trio.BrokenResourceError):
        sender.send_nowait(session, b"")
    sender.close()
    with pytest.raises(RuntimeError, match="runs once"):
        reactor.run_once(0)
    assert handler.lines.count("open") == len([line for line in handler.lines if line != "open"])
    assert descriptors() <= before


def test_an_end_that_is_interrupted_leaves_nothing() -> None:
    """What a callback raises in the midst of close comes out, and all is closed nevertheless."""
    before = descriptors()

    class Interrupted(Handler):
        def on_close(self, conn, code, reason) -> None:
            raise KeyboardInterrupt

    def interrupt() -> None:
        raise KeyboardInterrupt

    for is_early in (False, True):
        reactor = Reactor(Interrupted())
        ours, theirs = connect_pair()
        reactor.add_session(ours)
        reactor.run_once(0)
        sender = reactor.sender()
        if is_early:
            reactor._drivers[0]._calls.append(interrupt)
        with pytest.raises(KeyboardInterrupt):
            reactor.close()
        with pytest.raises(trio.BrokenResourceError):
            sender.send_nowait(SessionId(1), b"")
        sender.close()
        theirs.close()
    assert descriptors() <= before


def test_a_tick_that_is_interrupted_loses_no_send(echo) -> None:
    """What a thread has sent leaves with the next tick, though an on_open tore this one."""

    class Interrupted(Handler):
        def on_open(self, conn) -> None:
            if conn.request is not None:
                raise KeyboardInterrupt

    reactor = Reactor(Interrupted())
    (ours, theirs), (more, _) = connect_pair(), connect_pair()
    session = reactor.add_session(ours)
    reactor.run_once(0)
    with reactor.sender() as sender:
        sender.send_nowait(session, b"sent")
        reactor.add_session(more, request=Request(head=b"", scheme="ws", remote=None))
        with pytest.raises(KeyboardInterrupt):
            reactor.run_once(0)
        sender.send_nowait(session, b"behind it")
        reactor.run_once(0)
    assert theirs.recv(100) == b"\x82\x04sent\x82\x09behind it"
    reactor.close()


def test_full_reactors_refuse_by_hand_too(echo) -> None:
    """max_connections holds."""
    reactor = Reactor(Echo(), limits=Limits(max_connections=1))
    (ours, _), (more, _) = connect_pair(), connect_pair()
    reactor.add_session(ours)
    reactor.run_once(0)
    with pytest.raises(RuntimeError, match="full"):
        reactor.add_session(more)
    reactor.close()
