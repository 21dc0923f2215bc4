"""Reactors: listeners, opening handshakes, and the loops that serve what they open.

Trio accepts and shakes hands; from the 101 on a socket belongs to a loop. See
`triows._reactor` for the loops.
"""

import contextlib
import enum
import socket
import time
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from functools import partial
from typing import Any, Final, NoReturn, Protocol, TypedDict, Unpack

import attrs
import trio

from triows._adoption import Adoptable, adopt, peer_of
from triows._driver import Sink
from triows._engine import PerMessageDeflate, Request, ServerHandshake, check_subprotocols
from triows._faultlog import FaultLog
from triows._hub import shared_hub, why_no_reactor
from triows._listeners import open_listeners
from triows._nursery import unwrapped_nursery
from triows._opening import OnRequest, ServerOpening, check_origins
from triows._options import Deflate, KeepAlive, Limits, check_kind, check_settings
from triows._patience import EXHAUSTED, back_off
from triows._reactor import (
    NO_LOOP,
    CallbackLoop,
    CompiledHandler,
    Connection,
    CourierDriver,
    Driver,
    Handler,
    Home,
    InlineDriver,
    Loop,
    LoopStatistics,
    Outbox,
    Seat,
    Session,
    SessionId,
    Terms,
    ThreadDriver,
    check_plain,
    handler_fn,
)
from triows._sender import Sender
from triows._warmup import warm_up_in_thread
from triows._websocket import Opening, WebSocket

NO_REQUEST: Final = Request(head=b"GET / HTTP/1.1\r\n\r\n", is_upgrade=False)
"""What `WebSocket.request` is for an adopted session that came without one and was promoted."""

ACCEPTS: Final = 64
"""Connections accepted before others run."""


class Channel(Protocol):
    """What a reactor needs of a `triows.BroadcastChannel`."""

    def stage(self) -> Home:
        """Return what its topics know it by."""

    def make_place(self) -> Seat:
        """Make a connection's place there."""


class Stage(enum.Enum):
    """How far a reactor has come."""

    NEW = enum.auto()
    STARTING = enum.auto()
    RUNNING = enum.auto()
    BY_HAND = enum.auto()
    OVER = enum.auto()


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
    """Serves WebSockets with a handler that is called for each message; runs once.

    Args:
        handler: a `Handler`, or a function made by `compiled`; None echoes.
        compiled: a function that is asked first, and hands those messages to *handler*
            that it answers with `Response.DELIVER`.
        threads: loops, each in a thread of its own; 0 for one in Trio's own thread. By
            default 0 for a `Handler`, which is called there in any case, and 1 without.
        on_request, origins, subprotocols, limits, keepalive, shutdown_grace: as in `serve`.
        deflate: how messages are compressed with peers that offer it (RFC 7692). By default
            not at all: a loop that compresses does it for one connection while all others
            wait, at many times the price of a message that is answered in place.
        channel: a `triows.BroadcastChannel` that every connection is attached to, under
            ``Policy.DISCONNECT``, and that compiled handlers publish to by
            ``Response.PUBLISH``.
        debug: show when a payload is used after its callback: what was kept of it is
            overwritten. Costs a copy of each.

    Raises:
        TypeError: *handler* is neither, or its callbacks are asynchronous; *compiled* is not
            compiled; a setting is of the wrong kind.
        ValueError: *threads* or *shutdown_grace* is negative, or a setting malformed.
        RuntimeError: there is no epoll here, or ``TRIOWS_DRIVER=stream`` rules it out.
    """

    def __init__(  # noqa: PLR0913 - each is a setting of its own, by keyword
        self,
        handler: Handler | CompiledHandler | None = None,
        *,
        compiled: CompiledHandler | None = None,
        threads: int | None = None,
        on_request: OnRequest | None = None,
        origins: Collection[str | None] | None = None,
        subprotocols: Sequence[str] = (),
        limits: Limits = Limits(),  # noqa: B008 - frozen
        keepalive: KeepAlive = KeepAlive(),  # noqa: B008 - frozen
        deflate: Deflate | None = None,
        shutdown_grace: float = 5.0,
        channel: Channel | None = None,
        debug: bool = False,
    ) -> None:
        self._handler, self._compiled = _sorted_handlers(handler, compiled)
        check_kind("on_request", on_request, Callable, None)
        check_settings(limits, keepalive, deflate)
        if why_no_reactor():
            raise RuntimeError(why_no_reactor())
        if threads is None:
            threads = 1 if self._handler is None else 0
        if threads < 0:
            raise ValueError(f"threads is {threads}, not 0 or more")
        if not shutdown_grace >= 0:
            raise ValueError(f"shutdown_grace is {shutdown_grace}, not 0 or more")
        if self._handler is None and self._compiled is None and deflate is not None:
            self._compiled = _ECHO
        self._channel = channel
        self._is_debugging = debug
        self._threads = threads
        self._on_request = on_request
        self._origins = check_origins(origins)
        self._subprotocols = check_subprotocols(subprotocols)
        self._limits = limits
        self._keepalive = keepalive
        self._deflate = deflate
        self._grace = shutdown_grace
        self._faults = FaultLog(time.monotonic)  # loops in threads know no other
        self._drivers: list[Driver] = []
        self._nursery: trio.Nursery | None = None
        self._sockets: list[socket.socket] = []
        self._outboxes = [Outbox(limits.sender_octets) for _ in range(max(1, threads))]
        self._arrivals: list[tuple[socket.socket, bytes, Request | None, int]] = []
        self._stage = Stage.NEW
        # One item for each. Appended and popped without a lock, since the garbage collector
        # and signals' handlers close senders too, at any moment of any thread.
        self._uses: list[None] = []
        self._token: trio.lowlevel.TrioToken | None = None
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
            ValueError: it is not in 0..65535.
            RuntimeError: the reactor has ended, or `run_once` drives it.
        """
        self._check_listening()
        opened = []
        listeners = await open_listeners(port, host=host, backlog=backlog)
        try:
            self._check_listening()  # some time has passed
        except RuntimeError:
            for listener in listeners:
                listener.socket.close()
            raise
        for listener in listeners:
            listening = socket.socket(fileno=listener.socket.detach())
            listening.setblocking(False)
            opened.append(listening)
            self._sockets.append(listening)
            if self._nursery is not None:
                self._start_accepting(listening)
        return [one.getsockname() for one in opened]

    def add_session(self, sock: Adoptable, *, request: Request | None = None) -> SessionId:
        """Adopt a socket on which the opening handshake is over (RFC 6455 §4.2.2).

        Args:
            sock: a connected TCP or Unix stream socket, the server's side of a WebSocket
                without extensions, with no octets sent or received since the 101; or what
                Trio wraps around one. The reactor's from now on: the object given is
                detached.
            request: for `Connection.request`.

        Returns:
            The connection's id. Before `run` it is adopted as soon as that runs.

        Raises:
            TypeError: *sock* is something else, a TLS stream for instance.
            ValueError: it is not connected, or not a stream.
            RuntimeError: the reactor is full (``Limits.max_connections``), or has ended.

        After an error the socket is as it was.
        """
        return self.add_session_with_prefix(sock, b"", request=request)

    def add_session_with_prefix(
        self,
        sock: Adoptable,
        prefix: bytes | bytearray | memoryview,
        *,
        request: Request | None = None,
    ) -> SessionId:
        """Adopt a socket together with octets that were received behind the request.

        Args:
            sock: as in `add_session`.
            request: as in `add_session`.
            prefix: of any size; copied, and served before anything else is received.

        Returns and raises as `add_session` does.
        """
        self._check_going()
        prefix = bytes(memoryview(prefix))  # no longer the caller's to change
        taken = len(self._arrivals) + self._handshakes + self._count_connections()
        if taken >= self._limits.max_connections:
            raise RuntimeError(f"the reactor is full: it has {taken} connections")
        adopted = adopt(sock)
        session = self._number()
        if self._stage in (Stage.NEW, Stage.STARTING):
            self._arrivals.append((adopted, prefix, request, session))
        else:
            self._admit(adopted, prefix, request, session)
        return session

    def sender(self) -> Sender:
        """Make a `Sender`, which keeps `run` from ending until it is closed; from any thread.

        Raises:
            RuntimeError: the reactor has ended.
        """
        sender = Sender(self)
        try:
            self._check_going()  # now that it counts, for this may be any thread
        except RuntimeError:
            sender.close()
            raise
        return sender

    @trio.lowlevel.enable_ki_protection  # the tasks and callbacks of it are not
    async def run(
        self, *, task_status: trio.TaskStatus["Reactor"] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Serve until there is no listener, no connection and no open `Sender`.

        Kernels and the handler are compiled, or loaded, before anything is accepted.

        Args:
            task_status: ``started`` gets the reactor once it serves.

        Raises:
            RuntimeError: it ran before.
            OSError: epoll failed.

        Cancelling stops accepting, answers handshakes under way with 503, closes every
        connection with 1001 and waits for the peers up to ``shutdown_grace``.
        """
        self._check_new()
        self._stage = Stage.STARTING
        try:
            await warm_up_in_thread()
            address = 0
            if self._compiled is not None:
                address = await trio.to_thread.run_sync(self._compiled.resolve)
            self._token = trio.lowlevel.current_trio_token()
            self._drivers = self._make_drivers(address)
            async with unwrapped_nursery() as self._nursery:
                for driver in self._drivers:
                    self._nursery.start_soon(driver.run)
                for listening in self._sockets:
                    self._start_accepting(listening)
                self._stage = Stage.RUNNING
                self._admit_arrivals()
                task_status.started(self)
                self._look()
                await self._is_idle.wait()
                for driver in self._drivers:
                    driver.finish()
        finally:
            self._stage = Stage.OVER
            self._nursery = None
            self._drop_everything()

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

    def run_once(self, timeout: float) -> bool:
        """Serve what is ready, outside Trio: one tick of someone else's loop.

        Sessions are adopted, messages handled, sends sent, deadlines kept. For that the
        loop is called at least a few times a second; between the calls `fileno` is readable
        when there is something to do. `close` ends it. The first call compiles what has not
        been.

        Args:
            timeout: seconds to wait for something to do; 0 not to wait.

        Returns:
            Whether there is a connection or an open `Sender`.

        Raises:
            RuntimeError: `run` drives this reactor, or did, or it has threads or listens,
                or a callback calls this.
            OSError: epoll failed.
        """
        self._start_by_hand()
        self._drivers[0].turn(timeout)
        return bool(self._uses) or not self._drivers[0].is_empty

    def fileno(self) -> int:
        """Return the descriptor to wait for between calls of `run_once`; errors as there."""
        self._start_by_hand()
        return self._drivers[0].fileno()

    def close(self) -> None:
        """End what `run_once` has served: peers are told 1001, and dropped; harmless twice.

        Raises:
            RuntimeError: `run` drives this reactor: cancel that; or a callback calls this.
        """
        if self._stage in (Stage.STARTING, Stage.RUNNING):
            raise RuntimeError("run drives this reactor: cancel it")
        for driver in self._drivers:
            driver.check_idle()
        is_by_hand = self._stage is Stage.BY_HAND
        self._stage = Stage.OVER
        try:
            if is_by_hand:
                self._drivers[0].close()
        finally:
            self._drop_everything()

    def _check_going(self) -> None:
        if self._stage is Stage.OVER:
            raise RuntimeError("this reactor has ended")

    def _check_listening(self) -> None:
        self._check_going()
        if self._stage is Stage.BY_HAND:
            raise RuntimeError("run_once accepts no connections: add sessions")

    def _check_new(self) -> None:
        if self._stage is not Stage.NEW:
            raise RuntimeError("a reactor runs once")

    def _start_by_hand(self) -> None:
        if self._stage is Stage.BY_HAND:
            return
        if self._threads:
            raise RuntimeError("run_once is for a reactor without threads: give it threads=0")
        self._check_new()
        if self._sockets:
            raise RuntimeError("run_once accepts no connections: this reactor listens")
        address = self._compiled.resolve() if self._compiled is not None else 0
        self._drivers = [Driver(self._make_loop(address), self._grace, self._outboxes[0])]
        if self._channel is not None:
            self._drivers[0].host(self._channel.stage(), self._channel.make_place)
        self._stage = Stage.BY_HAND
        self._admit_arrivals()

    def _drop_everything(self) -> None:
        for outbox in self._outboxes:
            outbox.close()
        for arrival, *_ in self._arrivals:
            arrival.close()
        self._arrivals.clear()
        for listening in self._sockets:
            listening.close()
        self._sockets.clear()

    # What keeps it from ending.

    def hold(self) -> Callable[[], None]:
        """Keep `run` from ending, until what is returned is called, by any thread."""
        self._uses.append(None)
        return self._let_go

    def _let_go(self) -> None:
        self._uses.pop()
        if not self._uses:
            self._look_soon()

    def _look(self) -> None:
        """End if nothing keeps it, or have the loops that do say when they are empty."""
        if self._uses or self._stage is not Stage.RUNNING:
            return
        busy = [driver for driver in self._drivers if not driver.is_empty]
        if not busy:
            self._stage = Stage.OVER  # now, not when `run` goes on: no one may come in between
            if self._uses:  # someone has, in a thread, and may have got a sender
                self._stage = Stage.RUNNING
                return
            self._is_idle.set()
        for driver in busy:
            driver.watch(self._look_soon)

    def _look_soon(self) -> None:
        """Look in Trio's thread: for any."""
        if self._token is not None:
            with contextlib.suppress(trio.RunFinishedError):
                self._token.run_sync_soon(self._look)

    def rouse_senders(self) -> None:
        """Have all that wait for room look whether their sender was closed."""
        for outbox in self._outboxes:
            outbox.rouse()

    # Loops.

    def outbox_of(self, session: int) -> Outbox:
        """Return the outbox of the loop that serves a session."""
        return self._outboxes[session % len(self._outboxes)]

    def _number(self) -> SessionId:
        """Number a session of the loop that has the fewest; modulo their count, it says which."""
        index = self._sessions % len(self._outboxes)
        if self._drivers:
            index = min(range(len(self._drivers)), key=lambda one: self._drivers[one].connections)
        self._sessions += 1
        return SessionId(self._sessions * len(self._outboxes) + index)

    def _admit(
        self,
        adopted: socket.socket,
        prefix: bytes,
        request: Request | None,
        session: int,
        *,
        deflate: PerMessageDeflate | None = None,
    ) -> None:
        remote = request.remote if request is not None else peer_of(adopted)
        driver = self._drivers[session % len(self._drivers)]
        driver.add(adopted.detach(), prefix, request, remote, session, deflate=deflate)
        self._look()

    def _admit_arrivals(self) -> None:
        arrivals, self._arrivals = self._arrivals, []
        for arrival in arrivals:
            self._admit(*arrival)

    def _count_connections(self) -> int:
        return sum(one.connections for one in self._drivers)

    def _make_drivers(self, compiled: int) -> list[Driver]:
        made: list[Driver] = []
        try:
            for outbox in self._outboxes:
                made.append(self._make_driver(compiled, outbox))  # noqa: PERF401 - may fail halfway
        except BaseException:
            for driver in made:
                driver.close()
            raise
        return made

    def _make_driver(self, compiled: int, outbox: Outbox) -> Driver:
        driver = self._make_bare_driver(compiled, outbox)
        if self._channel is not None:
            driver.host(self._channel.stage(), self._channel.make_place)
        return driver

    def _make_bare_driver(self, compiled: int, outbox: Outbox) -> Driver:
        if not self._threads:
            return InlineDriver(self._make_loop(compiled), self._grace, outbox)
        if self._handler is None:
            return ThreadDriver(self._make_loop(compiled), self._grace, outbox)
        make_loop = partial(self._make_callback_loop, compiled=compiled)
        report, debug = self._faults.report, self._is_debugging
        return CourierDriver(
            make_loop,
            self._handler,
            report,
            self._grace,
            outbox,
            debug=debug,
            promote=self._promote,
        )

    def _make_loop(self, compiled: int) -> Loop:
        if self._handler is not None or self._deflate is not None:
            return self._make_callback_loop(self._handler or handler_fn(_refuse), compiled)
        return Loop(compiled, self._limits, self._keepalive)

    def _make_callback_loop(self, handler: Handler, compiled: int) -> CallbackLoop:
        return CallbackLoop(
            handler,
            self._limits,
            self._keepalive,
            self._faults.report,
            compiled=compiled,
            debug=self._is_debugging,
            promote=self._promote,
        )

    def _promote(self, conn: Connection) -> tuple[WebSocket, Session]:
        """Make what a connection is to become: a WebSocket of the loop that a run shares."""
        hub = shared_hub()
        terms = Terms(is_client=False, limits=self._limits, keepalive=self._keepalive)
        made: list[Session] = []

        def make_driver(sink: Sink) -> Session:
            made.append(hub.adopt(-1, sink, terms, None))
            return made[0]

        opening = Opening(request=conn.request or NO_REQUEST, remote=conn.remote)
        ws = WebSocket(make_driver, limits=self._limits, opening=opening)
        return ws, made[0]

    # Accepting.

    def _start_accepting(self, listening: socket.socket) -> None:
        assert self._nursery is not None
        let_go = self.hold()  # now, not when the task runs: `run` may look before that
        self._nursery.start_soon(self._accept, listening, let_go)

    async def _accept(self, listening: socket.socket, let_go: Callable[[], None]) -> None:
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
                        await back_off(error)
                        break
                    self._start_opening(connection)
        finally:
            let_go()

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
        let_go = self.hold()
        try:
            handshake = await self._shake_hands(stream)
            if handshake is not None:
                accepted = socket.socket(fileno=stream.socket.detach())
                about = (handshake.leftover, handshake.request, self._number())
                self._admit(accepted, *about, deflate=self._make_deflate(handshake))
        except Exception as error:  # noqa: BLE001 - no connection may take the reactor down
            self._faults.report("a connection failed", error)
        finally:
            let_go()
            await trio.aclose_forcefully(stream)

    def _make_deflate(self, handshake: ServerHandshake) -> PerMessageDeflate | None:
        if self._deflate is None or handshake.deflate is None:
            return None
        return PerMessageDeflate(
            self._deflate, handshake.deflate, is_server=True, limits=self._limits
        )

    async def _shake_hands(self, stream: trio.SocketStream) -> ServerHandshake | None:
        """Shake hands within the deadline; returns None where that led to no WebSocket."""
        handshake = ServerHandshake(
            self._limits,
            self._subprotocols,
            self._origins,
            deflate=self._deflate,
            remote=peer_of(stream),
        )
        opening = ServerOpening(stream, handshake, self._on_request, self._faults)
        self._handshakes += 1
        try:
            taken = self._handshakes + self._count_connections()
            is_open, is_refused = await opening.run(
                self._limits.handshake_timeout, is_full=taken > self._limits.max_connections
            )
        finally:
            self._handshakes -= 1
        self._refused += is_refused
        return handshake if is_open else None


def _echo(_payload: Any, _opcode: int) -> int:
    """Answer with the message: what a loop does by itself where there is no handler at all."""
    return 1


_ECHO: Final = CompiledHandler(_echo)


def _sorted_handlers(
    handler: object, compiled: object
) -> tuple[Handler | None, CompiledHandler | None]:
    """Tell the handler in Python from the compiled one; TypeError for one of another kind."""
    if compiled is None and isinstance(handler, CompiledHandler):
        handler, compiled = None, handler
    if handler is not None and not isinstance(handler, Handler):
        raise TypeError(
            f"the handler must be a triows.Handler or made by triows.compiled, not {handler!r}"
        )
    if compiled is not None and not isinstance(compiled, CompiledHandler):
        raise TypeError(f"compiled must be made by triows.compiled, not be {compiled!r}")
    for name in ("on_open", "on_frame", "on_close"):
        check_plain(getattr(handler, name, None), f"{type(handler).__name__}.{name}")
    return handler, compiled


def _refuse(*_: object) -> NoReturn:
    """Stand where a compiled handler has no other behind it."""
    raise RuntimeError("the compiled handler answered DELIVER, but there is no other handler")


class ReactorSettings(TypedDict, total=False):
    """What a `Reactor` takes by name."""

    compiled: CompiledHandler | None
    threads: int | None
    on_request: OnRequest | None
    origins: Collection[str | None] | None
    subprotocols: Sequence[str]
    limits: Limits
    keepalive: KeepAlive
    deflate: Deflate | None
    shutdown_grace: float
    channel: Channel | None
    debug: bool


@contextlib.asynccontextmanager
async def open_reactor(
    handler: Handler | CompiledHandler | None = None, **settings: Unpack[ReactorSettings]
) -> AsyncIterator[Reactor]:
    """Run a reactor for the block; leaving it closes every connection with 1001.

    Args:
        handler: as in `Reactor`.
        **settings: the others of `Reactor`.
    """
    reactor = Reactor(handler, **settings)
    async with unwrapped_nursery() as nursery:
        let_go = reactor.hold()
        try:
            await nursery.start(reactor.run)
            yield reactor
        finally:
            nursery.cancel_scope.cancel()
            let_go()
