"""Reactors: listeners, opening handshakes, and the loops that serve what they open.

Trio accepts and shakes hands; from the 101 on a socket belongs to a loop. See
`triows._reactor` for the loops.
"""

import contextlib
import errno
import logging
import os
import select
import socket
import sys
from collections.abc import AsyncIterator, Collection, Iterator, Sequence
from typing import Any, Final

import attrs
import trio

from triows._engine import ServerHandshake, check_subprotocols
from triows._faultlog import FaultLog
from triows._nursery import unwrapped_nursery
from triows._opening import OnRequest, ServerOpening
from triows._options import KeepAlive, Limits
from triows._reactor import (
    NO_LOOP,
    CallbackLoop,
    CompiledHandler,
    Driver,
    Handler,
    InlineDriver,
    Loop,
    LoopStatistics,
    ThreadDriver,
)
from triows._warmup import warm_up_in_thread

logger = logging.getLogger("triows")

ACCEPTS: Final = 64
"""Connections accepted before others run."""

BACK_OFF: Final = 0.1
"""Seconds for which nothing is accepted once the machine has run out of something."""

EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


def why_no_reactor() -> str:
    """Say why there is no reactor here; empty if there is."""
    if os.environ.get("TRIOWS_DRIVER") == "stream":
        return "TRIOWS_DRIVER=stream rules the reactor out"
    # Others have an epoll too, but no kernels for it are declared there (`triows._kernels`).
    if sys.platform != "linux" or not (hasattr(select, "epoll") and hasattr(os, "eventfd")):
        return "the reactor needs the epoll of Linux, which this system does not have"
    return ""


@attrs.frozen(kw_only=True)
class ReactorStatistics:
    """A snapshot of a reactor."""

    accepted: int
    """TCP connections, ever."""
    refused: int
    """Handshakes that were answered, but not with 101."""
    handshakes: int
    """Under way now."""
    loops: tuple[LoopStatistics, ...]

    @property
    def total(self) -> LoopStatistics:
        """What the loops have counted together."""
        return sum(self.loops[1:], start=self.loops[0]) if self.loops else NO_LOOP


class Reactor:
    """Serves WebSockets with a compiled handler.

    Args:
        handler: made by `compiled`; None echoes.
        threads: loops, each in a thread of its own; 0 for one in Trio's own thread, which
            costs more per message where there are few connections.
        on_request, origins, subprotocols, limits, keepalive, shutdown_grace: as in `serve`.

    Raises:
        TypeError: *handler* is not compiled.
        ValueError: *threads* is negative.
        RuntimeError: there is no epoll here, or ``TRIOWS_DRIVER=stream`` rules it out.
    """

    def __init__(
        self,
        handler: Handler | CompiledHandler | None = None,
        *,
        threads: int | None = None,
        on_request: OnRequest | None = None,
        origins: Collection[str | None] | None = None,
        subprotocols: Sequence[str] = (),
        limits: Limits = Limits(),  # noqa: B008 - frozen
        keepalive: KeepAlive = KeepAlive(),  # noqa: B008 - frozen
        shutdown_grace: float = 5.0,
    ) -> None:
        if handler is not None and not isinstance(handler, Handler | CompiledHandler):
            raise TypeError(
                f"the handler must be a triows.Handler or made by triows.compiled, not {handler!r}"
            )
        if why_no_reactor():
            raise RuntimeError(why_no_reactor())
        if threads is None:
            threads = 0 if isinstance(handler, Handler) else 1
        if threads < 0:
            raise ValueError(f"threads is {threads}, not 0 or more")
        self._handler = handler
        self._threads = threads
        self._on_request = on_request
        self._origins = origins
        self._subprotocols = check_subprotocols(subprotocols)
        self._limits = limits
        self._keepalive = keepalive
        self._grace = shutdown_grace
        self._faults = FaultLog()
        self._drivers: list[Driver] = []
        self._nursery: trio.Nursery | None = None
        self._sockets: list[socket.socket] = []
        self._uses = 0
        self._is_idle = trio.Event()
        self._accepted = self._refused = self._handshakes = self._sessions = 0

    # What is known.

    @property
    def addresses(self) -> list[Any]:
        """Where it listens."""
        return [one.getsockname() for one in self._sockets]

    @property
    def port(self) -> int:
        """The TCP port of the first listening socket.

        Raises:
            ValueError: it does not listen.
        """
        if not self._sockets:
            raise ValueError("this reactor listens on no port")
        return int(self.addresses[0][1])

    def statistics(self) -> ReactorStatistics:
        """Return a snapshot; before the first `run` there are no loops in it."""
        return ReactorStatistics(
            accepted=self._accepted,
            refused=self._refused,
            handshakes=self._handshakes,
            loops=tuple(driver.statistics() for driver in self._drivers),
        )

    # What it does.

    async def listen(
        self, port: int, *, host: str | bytes | None = "127.0.0.1", backlog: int | None = None
    ) -> list[Any]:
        """Listen on a TCP port, now or as soon as `run` does.

        Args:
            port: 0 picks a free one.
            host: the address or name to listen on; None for every address of the machine.
            backlog: see `trio.open_tcp_listeners`.

        Returns:
            The addresses that it listens on because of this call.

        Raises:
            OSError: the port cannot be listened on.
        """
        opened = []
        for listener in await trio.open_tcp_listeners(port, host=host, backlog=backlog):
            listening = socket.socket(fileno=listener.socket.detach())
            listening.setblocking(False)
            opened.append(listening)
            self._sockets.append(listening)
            if self._nursery is not None:
                self._start_accepting(listening)
        return [one.getsockname() for one in opened]

    async def run(
        self, *, task_status: trio.TaskStatus["Reactor"] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Serve until there is neither a listener nor a connection.

        Kernels and the handler are compiled, or loaded, before anything is accepted.

        Args:
            task_status: ``started`` gets the reactor once it serves.

        Raises:
            RuntimeError: it runs already.
            OSError: epoll failed.

        Cancelling stops accepting, answers handshakes under way with 503, closes every
        connection with 1001 and waits for the peers up to ``shutdown_grace``.
        """
        if self._nursery is not None:
            raise RuntimeError("this reactor runs already")
        try:
            await warm_up_in_thread()
            address = 0
            if isinstance(self._handler, CompiledHandler):
                address = await trio.to_thread.run_sync(self._handler.resolve)
            self._drivers = self._make_drivers(address)
            async with unwrapped_nursery() as self._nursery:
                for driver in self._drivers:
                    self._nursery.start_soon(driver.run)
                for listening in self._sockets:
                    self._start_accepting(listening)
                task_status.started(self)
                await self._wait_until_idle()
                for driver in self._drivers:
                    driver.finish()
        finally:
            self._nursery = None
            for listening in self._sockets:
                listening.close()
            self._sockets.clear()

    async def run_echo(
        self,
        port: int = 0,
        *,
        host: str | bytes | None = "127.0.0.1",
        task_status: trio.TaskStatus["Reactor"] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Listen and run: the whole of an echo server, if there is no handler.

        Args, errors and cancelling are those of `listen` and `run`.
        """
        await self.listen(port, host=host)
        await self.run(task_status=task_status)

    @contextlib.contextmanager
    def _in_use(self) -> Iterator[None]:
        """Keep `run` from ending, for the block."""
        self._uses += 1
        try:
            yield
        finally:
            self._stop_using()

    def _stop_using(self) -> None:
        self._uses -= 1
        if not self._uses:
            self._is_idle.set()

    async def _wait_until_idle(self) -> None:
        while self._uses:
            self._is_idle = trio.Event()
            await self._is_idle.wait()

    def _make_drivers(self, handler: int) -> list[Driver]:
        kind = ThreadDriver if self._threads else InlineDriver
        return [kind(self._make_loop(handler), self._grace) for _ in range(max(1, self._threads))]

    def _make_loop(self, compiled: int) -> Loop:
        if isinstance(self._handler, Handler):
            return CallbackLoop(
                self._handler, self._limits, self._keepalive, self._faults.report, compiled=compiled
            )
        return Loop(compiled, self._limits, self._keepalive)

    # Accepting.

    def _start_accepting(self, listening: socket.socket) -> None:
        assert self._nursery is not None
        self._uses += 1  # now, not when the task runs: `run` may look before that
        self._nursery.start_soon(self._accept, listening)

    async def _accept(self, listening: socket.socket) -> None:
        """Accept in batches until cancelled; the machine's troubles are waited out."""
        try:
            while True:
                await trio.lowlevel.wait_readable(listening)
                for _ in range(ACCEPTS):
                    try:
                        connection, _ = listening.accept()
                    except BlockingIOError:
                        break
                    except OSError as error:
                        if error.errno not in EXHAUSTED:
                            continue  # the connection's trouble, not ours: accept(2)
                        logger.warning("cannot accept: %s; trying again soon", error.strerror)
                        await trio.sleep(BACK_OFF)
                        break
                    self._start_opening(connection)
        finally:
            self._stop_using()

    def _start_opening(self, connection: socket.socket) -> None:
        assert self._nursery is not None
        connection.setblocking(False)
        if connection.family != socket.AF_UNIX:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._accepted += 1
        stream = trio.SocketStream(trio.socket.from_stdlib_socket(connection))
        self._nursery.start_soon(self._open, stream)

    async def _open(self, stream: trio.SocketStream) -> None:
        """Shake hands and give the socket to a loop; raises only what is no Exception."""
        with self._in_use():
            try:
                handshake = await self._shake_hands(stream)
                if handshake is not None:
                    driver = min(self._drivers, key=lambda one: one.connections)
                    request = handshake.request
                    assert request is not None
                    descriptor = stream.socket.detach()
                    self._sessions += 1
                    driver.add(
                        descriptor, handshake.leftover, request, request.remote, self._sessions
                    )
            except Exception as error:  # noqa: BLE001 - no connection may take the reactor down
                self._faults.report("a connection failed", error)
            finally:
                await trio.aclose_forcefully(stream)

    async def _shake_hands(self, stream: trio.SocketStream) -> ServerHandshake | None:
        """Shake hands within the deadline; returns None where that led to no WebSocket."""
        handshake = ServerHandshake(
            self._limits, self._subprotocols, self._origins, remote=_peer(stream)
        )
        opening = ServerOpening(stream, handshake, self._on_request, self._faults)
        self._handshakes += 1
        try:
            taken = self._handshakes + sum(one.connections for one in self._drivers)
            is_open, is_refused = await opening.run(
                self._limits.handshake_timeout, is_full=taken > self._limits.max_connections
            )
        finally:
            self._handshakes -= 1
        self._refused += is_refused
        return handshake if is_open else None


@contextlib.asynccontextmanager
async def open_reactor(
    handler: Handler | CompiledHandler | None = None, **settings: Any
) -> AsyncIterator[Reactor]:
    """Run a reactor for the block; leaving it closes every connection with 1001.

    Args:
        handler: as in `Reactor`.
        **settings: the others of `Reactor`.
    """
    reactor = Reactor(handler, **settings)
    async with unwrapped_nursery() as nursery:
        with reactor._in_use():  # noqa: SLF001 - of this module
            await nursery.start(reactor.run)
            try:
                yield reactor
            finally:
                nursery.cancel_scope.cancel()


def _peer(stream: trio.SocketStream) -> Any:
    try:
        return stream.socket.getpeername()
    except OSError:
        return None
