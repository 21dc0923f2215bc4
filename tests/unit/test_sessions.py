"""Sessions: sockets from elsewhere that a reactor adopts, with what was received on them."""

import socket
import ssl
import time

import pytest
import trio
import trio.testing

from tests.conformance.peer import BINARY, TEXT, Close, Frame, build_close, build_frame
from tests.sessions import WAYS, Notes, connect_pair, make_peer, open_session, running
from triows import Handler, Limits, Reactor, Request, SessionId, handler_fn, open_reactor

pytestmark = pytest.mark.usefixtures("warm_sessions")

WRAPPERS = {
    "socket": lambda plain: plain,
    "trio-socket": lambda plain: trio.socket.from_stdlib_socket(unblocked(plain)),
    "stream": lambda plain: trio.SocketStream(trio.socket.from_stdlib_socket(unblocked(plain))),
}


def unblocked(plain: socket.socket) -> socket.socket:
    """The same socket, as Trio wants it."""
    plain.setblocking(False)
    return plain


@pytest.mark.parametrize("threads", [0, 1, 3])
@pytest.mark.parametrize("when", ["before", "while"])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("wrapper", WRAPPERS)
async def test_any_plain_stream_socket_is_adopted(wrapper, way, when, threads) -> None:
    """Each kind of object around each kind of socket, before run and while it runs."""
    notes = Notes()
    reactor = Reactor(notes, threads=threads)
    ours, peer = open_session(way)
    address = ours.getpeername()
    given = WRAPPERS[wrapper](ours)
    session = reactor.add_session(given) if when == "before" else None
    async with running(reactor):
        if session is None:
            session = reactor.add_session(given)
        assert ours.fileno() == -1  # detached
        await peer.expect_echo(b"hello", TEXT)
        assert notes.lines == [("open", session), ("frame", session, b"hello")]
        (conn,) = notes.conns
        assert conn.id == session
        assert conn.remote == address
        assert conn.request is None
        assert conn.is_open
        await peer.send(build_close(1000))
        assert await peer.receive_close() == Close(1000)
        await peer.receive_eof()
        await notes.wait_for("close")
        assert notes.lines[2:] == [("close", session, 1000)]
        assert not conn.is_open


async def test_a_blocking_socket_does_not_block_the_loop() -> None:
    """What is adopted is no longer blocking, and small messages leave without delay."""
    ours, peer = open_session("tcp")
    assert ours.getblocking()
    reactor = Reactor(Notes())
    reactor.add_session(ours)
    ((adopted, *_),) = reactor._arrivals
    assert not adopted.getblocking()
    assert adopted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    async with running(reactor):
        await peer.expect_echo()


async def test_a_session_brings_its_request() -> None:
    """What is given as the request is the connection's, and says where it came from."""
    notes = Notes()
    request = Request(head=b"GET /x HTTP/1.1\r\n\r\n", scheme="ws", remote="there", is_upgrade=True)
    reactor = Reactor(notes)
    ours, peer = open_session()
    reactor.add_session(ours, request=request)
    async with running(reactor):
        await peer.expect_echo()
        assert notes.conns[0].request is request
        assert notes.conns[0].remote == "there"


PREFIXES = {
    "nothing": (b"", []),
    "frames": (build_frame(TEXT, b"one") + build_frame(BINARY, b"two"), [b"one", b"two"]),
    "200 KB of small ones": (build_frame(BINARY, b"x" * 94) * 2_000, [b"x" * 94] * 2_000),
    "one of 200 KB": (build_frame(BINARY, b"y" * 200_000), [b"y" * 200_000]),
    "fragments": (
        build_frame(TEXT, b"fr", fin=False)
        + build_frame(0, b"ag", fin=False)
        + build_frame(0, b"s"),
        [b"frags"],
    ),
}


@pytest.mark.parametrize("threads", [0, 1, 3])
@pytest.mark.parametrize("name", PREFIXES)
async def test_a_prefix_is_served_before_what_is_received(name, threads) -> None:
    """Whatever its size, also with more waiting in the socket already."""
    prefix, messages = PREFIXES[name]
    notes = Notes()
    reactor = Reactor(notes, threads=threads)
    ours, peer = open_session("tcp")
    await peer.send_frame(TEXT, b"behind")
    async with running(reactor):
        session = reactor.add_session_with_prefix(ours, prefix)
        for message in [*messages, b"behind"]:
            assert (await peer.receive_message()).payload == message
        assert notes.kinds() == ["open"] + ["frame"] * (len(messages) + 1)
        assert [line[2] for line in notes.lines[1:]] == [*messages, b"behind"]
        assert {line[1] for line in notes.lines} == {session}


@pytest.mark.parametrize("threads", [0, 1])
@pytest.mark.parametrize("when", ["before", "while"])
async def test_a_prefix_may_be_cut_anywhere(when, threads) -> None:
    """Frames of which the prefix holds a part are joined with what is received."""
    octets = build_frame(TEXT, b"hello") + build_frame(BINARY, b"z" * 300) + build_frame(TEXT)
    cuts = [*range(18), 100, 310, *range(len(octets) - 8, len(octets) + 1)]
    reactor = Reactor(Notes(), threads=threads)
    pairs = [open_session() for _ in cuts]

    def add() -> None:
        for cut, (ours, _) in zip(cuts, pairs, strict=True):
            reactor.add_session_with_prefix(ours, octets[:cut])

    if when == "before":
        add()
    async with running(reactor):
        if when == "while":
            add()
        for cut, (_, peer) in zip(cuts, pairs, strict=True):
            await peer.send(octets[cut:])
            assert await peer.receive_frame() == Frame(TEXT, b"hello")
            assert await peer.receive_frame() == Frame(BINARY, b"z" * 300)
            assert await peer.receive_frame() == Frame(TEXT, b"")


@pytest.mark.parametrize("threads", [0, 1])
async def test_fragments_are_joined_and_control_frames_are_kept_back(threads) -> None:
    """With Pings and Pongs before, between and behind the fragments, on_frame sees the message."""
    notes = Notes()
    reactor = Reactor(notes, threads=threads)
    ours, peer = open_session()
    ping, pong = build_frame(9, b"p"), build_frame(10, b"unasked")
    octets = (
        ping + build_frame(TEXT, b"fra", fin=False) + pong + ping
        + build_frame(0, b"", fin=False) + build_frame(0, b"gments") + ping
    )  # fmt: skip
    async with running(reactor):
        session = reactor.add_session(ours)
        await peer.send_octet_by_octet(octets)
        answers = [await peer.receive_frame() for _ in range(4)]
        assert answers.count(Frame(10, b"p")) == 3
        assert answers.count(Frame(TEXT, b"fragments")) == 1
        assert notes.lines == [("open", session), ("frame", session, b"fragments")]


async def test_a_prefix_that_is_changed_later_is_served_as_it_was() -> None:
    """The octets are copied; any buffer of octets will do."""
    octets = bytearray(build_frame(TEXT, b"as it was"))
    reactor = Reactor(Notes())
    ours, peer = open_session()
    reactor.add_session_with_prefix(ours, memoryview(octets))
    octets[:] = bytes(len(octets))
    async with running(reactor):
        assert await peer.receive_message() == Frame(TEXT, b"as it was")


@pytest.mark.parametrize("threads", [0, 1])
async def test_a_bad_prefix_fails_its_session_alone(threads) -> None:
    """A prefix that breaks the protocol closes with its code, opened and closed once."""
    notes = Notes()
    reactor = Reactor(notes, threads=threads)
    bad, bad_peer = open_session()
    good, good_peer = open_session()
    async with running(reactor):
        session = reactor.add_session_with_prefix(bad, b"\xff" * 300_000)
        reactor.add_session_with_prefix(good, build_frame(TEXT, b"fine"))
        await bad_peer.receive_failure(1002)
        await bad_peer.aclose()
        assert await good_peer.receive_message() == Frame(TEXT, b"fine")
        await notes.wait_for("close")
        assert notes.kinds(session) == ["open", "close"]


@pytest.mark.parametrize("threads", [0, 1, 3])
async def test_on_open_is_once_and_first_in_all_ways_in(threads) -> None:
    """Accepted, adopted before and while it runs, with and without a prefix, ended at once."""
    hello = build_frame(TEXT, b"hello")
    notes = Notes()
    reactor = Reactor(notes, threads=threads)
    pairs = [open_session() for _ in range(5)]
    early = [reactor.add_session(pairs[0][0]), reactor.add_session_with_prefix(pairs[1][0], hello)]
    async with running(reactor):
        (address,) = await reactor.listen(0)
        late = [
            reactor.add_session(pairs[2][0]),
            reactor.add_session_with_prefix(pairs[3][0], hello),
            reactor.add_session_with_prefix(pairs[4][0], hello + build_close(1000)),
        ]
        accepted = make_peer(socket.create_connection(address))
        await accepted.handshake()
        await accepted.expect_echo()
        await accepted.aclose()
        for index in (0, 2):
            await pairs[index][1].expect_echo()
        for index in (1, 3):
            assert await pairs[index][1].receive_message() == Frame(TEXT, b"hello")
        await notes.wait_for("close", 2)
        assert notes.kinds().count("open") == 6
        for session in early + late:
            assert notes.kinds(session)[:2] == ["open", "frame"]
        for session in {line[1] for line in notes.lines}:
            assert notes.kinds(session)[0] == "open"
            assert notes.kinds(session).count("open") == 1
        assert notes.kinds(late[2]) == ["open", "frame", "close"]


@pytest.mark.parametrize("threads", [0, 1])
async def test_sessions_added_by_callbacks_are_opened_later(threads) -> None:
    """From on_open, on_frame and on_close: none of these callbacks runs inside another."""
    waiting = [open_session() for _ in range(4)]
    peers = [peer for _, peer in waiting]

    class Adopting(Notes):
        def adopt(self, conn) -> None:
            if waiting:
                self.note("adopt", reactor.add_session_with_prefix(waiting.pop(0)[0], hello))

        def on_open(self, conn) -> None:
            super().on_open(conn)
            with self.alone():
                if len(self.conns) in (1, 4):
                    self.adopt(conn)

        def on_frame(self, conn, payload, opcode) -> None:
            super().on_frame(conn, payload, opcode)
            with self.alone():
                if len(self.conns) == 2:
                    self.adopt(conn)

        def on_close(self, conn, code, reason) -> None:
            super().on_close(conn, code, reason)
            with self.alone():
                self.adopt(conn)

    hello = build_frame(TEXT, b"hello")
    notes = Adopting()
    reactor = Reactor(notes, threads=threads)
    first, first_peer = open_session()
    async with running(reactor):
        reactor.add_session(first)
        assert await peers[0].receive_message() == Frame(TEXT, b"hello")
        assert await peers[1].receive_message() == Frame(TEXT, b"hello")
        await first_peer.aclose()
        assert await peers[2].receive_message() == Frame(TEXT, b"hello")
        assert await peers[3].receive_message() == Frame(TEXT, b"hello")
    opened = [line[1] for line in notes.lines if line[0] == "open"]
    adopted = [line[1] for line in notes.lines if line[0] == "adopt"]
    assert opened[1:] == adopted
    assert len(adopted) == 4


async def test_ids_are_unique_and_never_used_again() -> None:
    """Hundreds of sessions that follow each other in few slots have different ids."""
    notes = Notes()
    reactor = Reactor(notes, threads=0, limits=Limits(max_connections=4))
    ids = []
    async with running(reactor):
        for _ in range(100):
            pairs = [open_session() for _ in range(3)]
            ids += [reactor.add_session(ours) for ours, _ in pairs]
            for _, peer in pairs:
                await peer.expect_echo()
                await peer.aclose()
            await notes.wait_for("close", len(ids))
    assert len(set(ids)) == 300
    assert [line[1] for line in notes.lines if line[0] == "open"] == ids


async def test_sessions_are_dealt_out_to_the_loops() -> None:
    """Before run and while it runs, each of three loops gets a third."""
    for when in ("before", "while"):
        reactor = Reactor(Notes(), threads=3)
        pairs = [open_session() for _ in range(6)]
        if when == "before":
            sessions = [reactor.add_session(ours) for ours, _ in pairs]
        async with running(reactor):
            if when == "while":
                sessions = []
                for ours, peer in pairs:
                    sessions.append(reactor.add_session(ours))
                    await peer.expect_echo()
            for _, peer in pairs:
                await peer.expect_echo()
            assert [one.connections for one in reactor.statistics().loops] == [2, 2, 2]
            assert len(set(sessions)) == 6


async def test_an_accepted_connections_id_is_a_senders_too() -> None:
    """Whichever way a connection came, its id reaches it."""
    notes = Notes()
    async with open_reactor(notes, shutdown_grace=0.1) as reactor:
        (address,) = await reactor.listen(0)
        peer = make_peer(socket.create_connection(address))
        await peer.handshake()
        await notes.wait_for("open")
        with reactor.sender() as sender:
            await sender.send(notes.conns[0].id, "welcome")
            assert await peer.receive_message() == Frame(TEXT, b"welcome")
            sender.close_session(SessionId(notes.conns[0].id), 1001, "bye")
            assert await peer.receive_close() == Close(1001, "bye")
        await peer.aclose()


def still_works(ours: socket.socket, theirs: socket.socket) -> bool:
    """Whether a pair of sockets is as it was."""
    theirs.sendall(b"still")
    return ours.fileno() >= 0 and ours.recv(100) == b"still" and ours.getblocking()


@pytest.mark.parametrize("stage", ["new", "running"])
async def test_what_is_no_session_is_refused_and_left_alone(stage, tls_contexts) -> None:
    """TLS, datagrams, packets, unconnected, listening and closed sockets, and other objects."""
    server_context, _ = tls_contexts
    reactor = Reactor(Notes(), threads=0)

    def refuse(given, error, match) -> None:
        with pytest.raises(error, match=match):
            reactor.add_session(given)

    async with running(reactor) if stage == "running" else trio.open_nursery():
        ours, theirs = connect_pair("tcp")
        stream = trio.SocketStream(trio.socket.from_stdlib_socket(unblocked(ours)))
        refuse(trio.SSLStream(stream, server_context, server_side=True), TypeError, "SSLStream")
        ours.setblocking(True)
        refuse(trio.StapledStream(stream, stream), TypeError, "StapledStream")
        assert still_works(ours, theirs)

        tls_ours, _ = connect_pair("tcp")
        unblocked(tls_ours)
        wrapped = server_context.wrap_socket(
            tls_ours, server_side=True, do_handshake_on_connect=False
        )
        refuse(wrapped, TypeError, "SSLSocket")
        assert isinstance(wrapped, ssl.SSLSocket)
        assert wrapped.fileno() >= 0
        wrapped.close()

        for kind in (socket.SOCK_DGRAM, socket.SOCK_SEQPACKET):
            ours, theirs = socket.socketpair(type=kind)
            with ours, theirs:
                refuse(ours, ValueError, "stream socket")
                assert still_works(ours, theirs)

        with socket.socket() as unconnected:
            refuse(unconnected, ValueError, "not connected")
            unconnected.bind(("127.0.0.1", 0))
            unconnected.listen()
            refuse(unconnected, ValueError, "not connected")
            assert unconnected.fileno() >= 0
            assert unconnected.getblocking()
        refuse(unconnected, ValueError, "not connected")  # closed
        refuse(7, TypeError, "int")
        refuse(None, TypeError, "NoneType")
        assert reactor.statistics().total.connections == 0
        assert not reactor._arrivals


async def test_a_prefix_must_be_octets() -> None:
    """Text or a number in its place is a TypeError, and the socket is as it was."""
    reactor = Reactor(Notes())
    ours, theirs = connect_pair()
    for bad in ("text", 7, None):
        with pytest.raises(TypeError):
            reactor.add_session_with_prefix(ours, bad)
    assert still_works(ours, theirs)


@pytest.mark.parametrize("threads", [0, 1, 3])
async def test_a_full_reactor_refuses_sessions(threads) -> None:
    """One more than max_connections is an error, before run and in it; later there is room."""
    notes = Notes()
    reactor = Reactor(notes, threads=threads, limits=Limits(max_connections=2))
    pairs = [open_session() for _ in range(2)]
    more, theirs = connect_pair()
    for ours, _ in pairs:
        reactor.add_session(ours)
    with pytest.raises(RuntimeError, match="full: it has 2"):
        reactor.add_session(more)
    async with running(reactor):
        with pytest.raises(RuntimeError, match="full: it has 2"):
            reactor.add_session(more)
        assert still_works(more, theirs)
        await pairs[0][1].aclose()
        await notes.wait_for("close")
        session = reactor.add_session(more)
        await make_peer(theirs).expect_echo()
        assert ("open", session) in notes.lines


async def test_the_last_ones_place_is_free_in_its_on_close() -> None:
    """With room for one, a session can be replaced by the on_close of the one before."""
    spare = [open_session() for _ in range(5)]
    peers = [peer for _, peer in spare]

    class Replacing(Handler):
        def on_close(self, conn, code, reason) -> None:
            if spare:
                reactor.add_session(spare.pop(0)[0])

    reactor = Reactor(Replacing(), limits=Limits(max_connections=1))
    ours, peer = open_session()
    reactor.add_session(ours)
    async with running(reactor):
        for one in [peer, *peers]:
            await one.send_frame(9, b"there")
            assert await one.receive_frame() == Frame(10, b"there")
            await one.aclose()


async def test_after_the_end_sessions_are_refused() -> None:
    """A reactor that has ended, or was closed, takes no session, and the socket is as it was."""
    ours, theirs = connect_pair()
    reactor = Reactor(Notes())
    await reactor.run()
    with pytest.raises(RuntimeError, match="has ended"):
        reactor.add_session(ours)
    closed = Reactor(Notes())
    closed.close()
    with pytest.raises(RuntimeError, match="has ended"):
        closed.add_session_with_prefix(ours, b"x")
    with pytest.raises(RuntimeError, match="has ended"):
        await closed.listen(0)
    assert still_works(ours, theirs)


async def test_sessions_of_a_reactor_that_never_ran_are_closed_with_it() -> None:
    """Close ends what was adopted and never served."""
    reactor = Reactor(Notes())
    ours, peer = open_session()
    reactor.add_session(ours)
    await reactor.listen(0)
    reactor.close()
    await peer.receive_eof()
    assert reactor.addresses == []


@pytest.mark.parametrize("threads", [0, 1])
async def test_a_raising_callback_hurts_its_own_session_alone(threads, caplog) -> None:
    """1011 for one whose on_open or on_frame raises; on_close may raise too; one line each."""

    class Raising(Notes):
        def on_open(self, conn) -> None:
            super().on_open(conn)
            if len(self.conns) == 1:
                raise ValueError("on_open's")

        def on_frame(self, conn, payload, opcode) -> None:
            super().on_frame(conn, payload, opcode)
            if payload == b"raise":
                raise ExceptionGroup("on_frame's", [ValueError(), MemoryError()])

        def on_close(self, conn, code, reason) -> None:
            super().on_close(conn, code, reason)
            raise KeyError("on_close's")

    notes = Raising()
    reactor = Reactor(notes, threads=threads)
    async with running(reactor):
        bad, bad_peer = open_session()
        good, good_peer = open_session()
        hello = build_frame(TEXT, b"never handled")
        sessions = [reactor.add_session_with_prefix(bad, hello), reactor.add_session(good)]
        await bad_peer.receive_failure(1011)
        await bad_peer.aclose()
        await good_peer.expect_echo()
        await good_peer.send_frame(TEXT, b"raise")
        await good_peer.send_frame(TEXT, b"never handled")
        await good_peer.receive_failure(1011)
        await good_peer.aclose()
        await notes.wait_for("close", 2)
        third, third_peer = open_session()
        reactor.add_session(third)
        await third_peer.expect_echo()
    assert notes.kinds(sessions[0]) == ["open", "close"]
    assert notes.kinds(sessions[1]) == ["open", "frame", "frame", "close"]
    said = [record.getMessage() for record in caplog.records]
    assert sorted(said) == ["on_close failed"] * 3 + ["on_frame failed", "on_open failed"]


@pytest.mark.parametrize("threads", [0, 1])
async def test_sent_octets_precede_the_echo(threads) -> None:
    """What a callback sends, before or after it asks for the echo, leaves before that."""

    def answer(conn, payload, opcode) -> None:
        conn.send(b"first")
        payload[:] = bytes(payload).upper()
        conn.echo()
        conn.send("second")

    reactor = Reactor(handler_fn(answer), threads=threads)
    ours, peer = open_session()
    async with running(reactor):
        reactor.add_session(ours)
        for size in (5, 300, 100_000):
            await peer.send_frame(TEXT, b"x" * size)
            assert await peer.receive_message() == Frame(BINARY, b"first")
            assert await peer.receive_message() == Frame(TEXT, b"second")
            assert await peer.receive_message() == Frame(TEXT, b"X" * size)


async def test_a_peer_that_went_before_it_was_adopted() -> None:
    """A peer that hung up in the meantime is opened and closed like any other, at once."""
    notes = Notes()
    reactor = Reactor(notes)
    ours, theirs = connect_pair("tcp")
    theirs.close()
    async with running(reactor):
        before = time.monotonic()
        session = reactor.add_session(ours)
        await notes.wait_for("close")
        assert notes.lines == [("open", session), ("close", session, 1006)]
        assert time.monotonic() - before < 5
