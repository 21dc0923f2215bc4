"""Sessions as embedders have them: connected sockets, past a handshake that no one here saw."""

import contextlib
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import trio

from tests.conformance.peer import Peer
from triows import Handler, Reactor

WAYS = ("tcp", "tcp6", "unix")
GRACE = 0.1

_opened: list[socket.socket] = []


def connect_pair(way: str = "unix") -> tuple[socket.socket, socket.socket]:
    """Two ends of a connection, the server's first; the fixture ``warm_sessions`` closes both."""
    pair = socket.socketpair() if way == "unix" else _connect_over_tcp(way)
    _opened.extend(pair)
    return pair


def close_pairs() -> None:
    """Close what is left of all pairs."""
    while _opened:
        _opened.pop().close()


def _connect_over_tcp(way: str) -> tuple[socket.socket, socket.socket]:
    family, host = (socket.AF_INET6, "::1") if way == "tcp6" else (socket.AF_INET, "127.0.0.1")
    with socket.socket(family) as listening:
        listening.bind((host, 0))
        listening.listen()
        theirs = socket.create_connection(listening.getsockname()[:2])
        ours, _ = listening.accept()
    return ours, theirs


def make_peer(theirs: socket.socket) -> Peer:
    """The client's end, for a task of Trio's."""
    theirs.setblocking(False)
    return Peer(trio.SocketStream(trio.socket.from_stdlib_socket(theirs)))


def open_session(way: str = "unix") -> tuple[socket.socket, Peer]:
    """The server's end of a session, and the peer at the other."""
    ours, theirs = connect_pair(way)
    return ours, make_peer(theirs)


class Notes(Handler):
    """Echoes, and notes every callback as a line; fails if one runs inside another."""

    def __init__(self) -> None:
        self.lines: list[tuple] = []
        self.conns: list = []
        self.changed = trio.lowlevel.ParkingLot()
        self.thread = None
        self._is_busy = False

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Check that no other callback is running."""
        assert not self._is_busy, "callbacks nest"
        assert self.thread in (None, threading.get_ident()), "callbacks come from two threads"
        self.thread = threading.get_ident()
        self._is_busy = True
        try:
            yield
        finally:
            self._is_busy = False

    def on_open(self, conn) -> None:
        """Note the connection."""
        with self.alone():
            self.conns.append(conn)
            self.note("open", conn.id)

    def on_frame(self, conn, payload, opcode) -> None:
        """Note the message and send it back."""
        with self.alone():
            self.note("frame", conn.id, bytes(payload))
            conn.echo()

    def on_close(self, conn, code, reason) -> None:
        """Note the end."""
        with self.alone():
            self.note("close", conn.id, code)

    def note(self, *line) -> None:
        """Add a line, and wake who waits for one."""
        self.lines.append(line)
        self.changed.unpark_all()

    async def wait_for(self, kind: str, count: int = 1) -> None:
        """Wait until so many lines of a kind are there."""
        while sum(line[0] == kind for line in self.lines) < count:
            await self.changed.park()

    def kinds(self, session: int | None = None) -> list[str]:
        """The kinds of the lines, those of one session or all."""
        return [line[0] for line in self.lines if session in (None, line[1])]


@contextlib.asynccontextmanager
async def running(reactor: Reactor, *, seconds: float = 10) -> AsyncIterator[Reactor]:
    """Run a reactor for the block, which may take so many seconds; its end is quick.

    It does not end by itself meanwhile.
    """
    let_go = reactor.hold()
    reactor._grace = min(reactor._grace, GRACE)  # peers of these tests do not answer a goodbye
    with trio.fail_after(seconds):
        async with trio.open_nursery() as nursery:
            await nursery.start(reactor.run)
            try:
                yield reactor
            finally:
                let_go()
                nursery.cancel_scope.cancel()


def descriptors() -> set[str]:
    """What this process has open, but for what Trio keeps: by number and kind."""
    found = set()
    for path in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            found.add(f"{path.name} {path.readlink()}")
    return found
