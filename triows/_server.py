"""The server: listeners, opening handshakes, a task for each connection, and their end.

Everything runs in the nursery of `serve`. Cancelling that is how a server is
stopped, and it is stopped in order: no more connections are accepted,
handshakes under way get a 503, handlers are cancelled, every peer gets a Close
with 1001 and has ``shutdown_grace`` seconds to answer it.

What a connection does cannot hurt the server. A handler that raises is logged
and its connection closed with 1011; that a peer goes away, even in the middle
of a ``send``, is no error at all.
"""

import contextlib
import math
import ssl
from collections.abc import Awaitable, Callable, Collection, Sequence
from functools import partial
from typing import Any, NoReturn, TypeAlias

import attrs
import trio

from triows._channel import ConnectionBroken
from triows._driver import Driver, Sink
from triows._engine import (
    Budget,
    PerMessageDeflate,
    ServerEngine,
    ServerHandshake,
    check_subprotocols,
)
from triows._faultlog import FaultLog, sift
from triows._hub import DriverName, Hub, check_driver, open_hub, shared_driver
from triows._listeners import open_listeners
from triows._nursery import unwrapped_nursery
from triows._opening import OnRequest, ServerOpening, check_origins
from triows._options import Deflate, KeepAlive, Limits, check_kind, check_settings
from triows._patience import PatientListener
from triows._reactor import NO_LOOP, LoopStatistics, Terms
from triows._spec import CloseCode
from triows._stream import StreamDriver, local_address, socket_address
from triows._warmup import warm_up_in_thread
from triows._websocket import Opening, WebSocket

Handler: TypeAlias = Callable[[WebSocket], Awaitable[object]]


@attrs.frozen(kw_only=True)
class ServerStatistics:
    """A snapshot of a server: counts since it started."""

    connections: int
    """Open now, handshakes under way included."""
    accepted: int
    opened: int
    """Handshakes that led to a WebSocket."""
    refused: int
    """Handshakes that were answered with something other than 101."""
    handler_failures: int
    loop: LoopStatistics
    """Of the reactor's loop that serves what it can; all zero where there is none."""


@attrs.frozen(kw_only=True)
class _Settings:
    """What `serve` was told."""

    handler: Handler
    on_request: OnRequest | None
    origins: Collection[str | None] | None
    subprotocols: Sequence[str]
    limits: Limits
    keepalive: KeepAlive
    deflate: Deflate | None
    has_reactor: bool
    shutdown_grace: float = attrs.field(validator=attrs.validators.ge(0))

    def __attrs_post_init__(self) -> None:
        check_kind("handler", self.handler, Callable)
        check_kind("on_request", self.on_request, Callable, None)
        check_settings(self.limits, self.keepalive, self.deflate)

    def make_handshake(self, *, scheme: str, remote: object) -> ServerHandshake:
        return ServerHandshake(
            self.limits,
            self.subprotocols,
            self.origins,
            deflate=self.deflate,
            scheme=scheme,
            remote=remote,
        )

    def make_deflate(self, handshake: ServerHandshake) -> PerMessageDeflate | None:
        if self.deflate is None or handshake.deflate is None:
            return None
        return PerMessageDeflate(
            self.deflate, handshake.deflate, is_server=True, limits=self.limits
        )


@attrs.define(eq=False, repr=False)
class Server:
    """A running server, as `serve` hands it to whoever started it."""

    _settings: _Settings
    _listeners: Sequence[trio.abc.Listener[Any]]
    _hub: Hub | None = None
    _budget: Budget = attrs.field(init=False)
    _websockets: set[WebSocket] = attrs.field(init=False, factory=set)
    _farewells: set[trio.CancelScope] = attrs.field(init=False, factory=set)
    _is_stopping: bool = attrs.field(init=False, default=False)
    _faults: FaultLog = attrs.field(init=False, factory=FaultLog)
    _counts: dict[str, int] = attrs.field(init=False)
    _addresses: list[Any] = attrs.field(init=False)
    nursery: trio.Nursery | None = attrs.field(init=False, default=None)
    """Where connections run; for `serve_listeners`."""

    def __attrs_post_init__(self) -> None:
        self._budget = Budget(self._settings.limits.max_incomplete)
        self._counts = dict.fromkeys(
            ("connections", "accepted", "opened", "refused", "handler_failures"), 0
        )
        listeners = [getattr(one, "transport_listener", one) for one in self._listeners]
        self._addresses = [one.socket.getsockname() for one in listeners if hasattr(one, "socket")]

    @property
    def addresses(self) -> list[Any]:
        """Where it listens, as the sockets give it; listeners without a socket are left out."""
        return list(self._addresses)

    @property
    def port(self) -> int:
        """The TCP port of the first listener that has one.

        Raises:
            ValueError: none has.
        """
        for address in self._addresses:
            if isinstance(address, tuple):
                return int(address[1])
        raise ValueError("this server listens on no TCP port")

    @property
    def connections(self) -> frozenset[WebSocket]:
        """The WebSockets that are open now."""
        return frozenset(self._websockets)

    def __repr__(self) -> str:
        """Say where it listens."""
        return f"<triows.Server at {self._addresses}, {len(self._websockets)} connections>"

    def statistics(self) -> ServerStatistics:
        """Return a snapshot of the server's counts."""
        loop = NO_LOOP if self._hub is None else self._hub.statistics()
        return ServerStatistics(loop=loop, **self._counts)

    # One connection.

    @trio.lowlevel.enable_ki_protection  # no connection is taken and then forgotten
    async def accept_from(self, listener: trio.abc.Listener[Any]) -> NoReturn:
        """Give each connection of a listener a task; closes the listener in the end."""
        assert self.nursery is not None
        async with PatientListener(listener) as patient:
            while True:
                self.nursery.start_soon(self.serve_connection, await patient.accept())

    async def serve_connection(self, stream: trio.abc.Stream) -> None:
        """Take a connection from accept to its end, or to a task of its handler's own.

        Raises only what is no Exception.
        """
        self._counts["accepted"] += 1
        self._counts["connections"] += 1
        opened = None
        try:
            try:
                opened = await self._open(stream)
                if opened is not None and not self._hand_over(*opened):
                    await self._host(*opened)
            finally:
                self._counts["connections"] -= opened is None  # else `_live` counts it off
                await trio.aclose_forcefully(stream)
        except BaseException as error:  # noqa: BLE001 - no connection may take the server down
            self._report("a connection failed", error)

    @trio.lowlevel.enable_ki_protection
    def _hand_over(self, ws: WebSocket, leftover: bytes) -> bool:
        """Have the loop serve a connection, and a new task handle it, if there is a loop for it.

        In this task what is awaited lies deep, and what the opening handshake needed is alive.
        """
        if not ws.start(leftover):
            return False
        assert self.nursery is not None
        self._note_opened(ws)
        self.nursery.start_soon(self._live, ws, name="triows connection")
        return True

    @trio.lowlevel.enable_ki_protection  # a task that is half started is never ended
    async def _host(self, ws: WebSocket, leftover: bytes) -> None:
        """Serve and handle a connection in this task and one beside it."""
        self._note_opened(ws)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ws.run, leftover)
            try:
                await self._live(ws)
            finally:  # wherever Ctrl-C struck there: else this would wait for the peer
                ws.abort("the handler was stopped")

    def _note_opened(self, ws: WebSocket) -> None:
        self._counts["opened"] += 1
        self._websockets.add(ws)

    @trio.lowlevel.disable_ki_protection
    async def _live(self, ws: WebSocket) -> None:
        """Run the handler, then close with the code that says how it ended.

        Raises only what is no Exception.

        All that the loop serves have a task with nothing but this around the handler: each
        coroutine more would take them, while they wait, some 300 octets.
        """
        code = CloseCode.GOING_AWAY
        try:
            try:
                await self._settings.handler(ws)
                code = CloseCode.NORMAL
            except BaseException as error:  # noqa: BLE001 - what is no fault is raised again
                code, rest = self._judge(ws, error)
                if rest is not None:
                    raise rest from None
            finally:
                await self._close(ws, code)
        except BaseException as error:  # noqa: BLE001 - no connection may take the server down
            self._report("a connection failed", error)
        finally:  # whatever stopped the handler, Ctrl-C at any point, ends the connection
            ws.abort("the handler was stopped")
            self._websockets.discard(ws)
            self._counts["connections"] -= 1

    def _report(self, what: str, error: BaseException) -> bool:
        """Log what is a fault in *error*, returning whether anything is; raise the rest."""
        fault, rest = sift(error)
        if fault is not None:
            self._faults.report(what, fault)
        if rest is not None:
            raise rest
        return fault is not None

    def _judge(self, ws: WebSocket, error: BaseException) -> tuple[CloseCode, BaseException | None]:
        """Return what to close with after what a handler raised, and what is to be raised again.

        The rest, which is a fault, is logged, unless it only says that the connection has ended.
        It is not held on to: it would live, with all that it came through, until the peer has
        closed.
        """
        code = CloseCode.NORMAL
        fault, rest = sift(error)
        if fault is not None and (ws.is_open or not _is_only_the_end(fault)):
            self._counts["handler_failures"] += 1
            self._faults.report("a handler failed", fault)
            code = CloseCode.INTERNAL_ERROR
        return (code if rest is None else CloseCode.GOING_AWAY), rest

    async def _close(self, ws: WebSocket, code: CloseCode) -> None:
        """Close in order even when cancelled; the deadline comes with the server's end."""
        is_hurried = code == CloseCode.GOING_AWAY or self._is_stopping
        grace = self._settings.shutdown_grace if is_hurried else math.inf
        with trio.CancelScope(shield=True) as farewell:
            farewell.deadline = trio.current_time() + grace
            self._farewells.add(farewell)
            try:
                await ws.aclose(code)
            finally:
                self._farewells.discard(farewell)

    async def stop_in_order(self) -> NoReturn:
        """Wait for the server to be cancelled, and put a deadline to what goes on."""
        try:
            await trio.sleep_forever()
        finally:
            self._is_stopping = True
            deadline = trio.current_time() + self._settings.shutdown_grace
            for farewell in self._farewells:
                farewell.deadline = min(farewell.deadline, deadline)

    # The opening handshake.

    async def _open(self, stream: trio.abc.Stream) -> tuple[WebSocket, bytes] | None:
        """Shake hands within the deadline; None if that led to no WebSocket."""
        settings = self._settings
        handshake = settings.make_handshake(
            scheme="wss" if isinstance(stream, trio.SSLStream) else "ws",
            remote=socket_address(stream, "getpeername"),
        )
        opening = ServerOpening(stream, handshake, settings.on_request, self._faults)
        is_open, is_refused = await opening.run(
            settings.limits.handshake_timeout,
            is_full=self._counts["connections"] > settings.limits.max_connections,
        )
        self._counts["refused"] += is_refused
        if not is_open:
            return None
        return self._make_websocket(stream, handshake, opening.subprotocol), handshake.leftover

    def _make_websocket(
        self, stream: trio.abc.Stream, handshake: ServerHandshake, subprotocol: str | None
    ) -> WebSocket:
        assert handshake.request is not None
        opening = Opening(
            request=handshake.request,
            subprotocol=subprotocol,
            local=local_address(stream),
            remote=handshake.request.remote,
        )
        make_driver = partial(self._make_driver, stream, self._settings.make_deflate(handshake))
        return WebSocket(make_driver, limits=self._settings.limits, opening=opening)

    def _make_driver(
        self, stream: trio.abc.Stream, deflate: PerMessageDeflate | None, sink: Sink
    ) -> Driver:
        settings = self._settings
        if self._hub is not None and isinstance(stream, trio.SocketStream):
            return self._hub.adopt(stream, sink, deflate)
        if settings.has_reactor and isinstance(stream, trio.SocketStream):
            terms = Terms(is_client=False, limits=settings.limits, keepalive=settings.keepalive)
            return shared_driver(stream, sink, terms, deflate)
        engine = ServerEngine(
            limits=settings.limits,
            keepalive=settings.keepalive,
            now=trio.current_time(),
            budget=self._budget,
            deflate=deflate,
        )
        return StreamDriver(stream, engine, sink)


async def serve(  # noqa: PLR0913 - each is a setting of its own, by keyword
    handler: Handler,
    port: int,
    *,
    host: str | bytes | None = "127.0.0.1",
    ssl_context: ssl.SSLContext | None = None,
    on_request: OnRequest | None = None,
    origins: Collection[str | None] | None = None,
    subprotocols: Sequence[str] = (),
    limits: Limits = Limits(),  # noqa: B008 - frozen
    keepalive: KeepAlive = KeepAlive(),  # noqa: B008 - frozen
    deflate: Deflate | None = Deflate(),  # noqa: B008 - frozen
    driver: DriverName = "auto",
    handler_nursery: trio.Nursery | None = None,
    backlog: int | None = None,
    shutdown_grace: float = 5.0,
    task_status: trio.TaskStatus[Server] = trio.TASK_STATUS_IGNORED,
) -> NoReturn:
    """Listen on a TCP port and serve WebSockets until cancelled (RFC 6455).

    Kernels that are not compiled yet are compiled, or loaded, before it listens.

    Args:
        handler: ``async def handler(ws)``, run as a task for each connection. When it
            returns, the connection closes with 1000; when it raises, with 1011.
        port: 0 picks a free one, see `Server.port`.
        host: the address or name to listen on; None for every address of the machine.
        ssl_context: for wss.
        on_request: called, and awaited if it is asynchronous, with each opening request
            and with each plain GET or HEAD. It answers with None to let things take their
            course, with `Accept` to choose the subprotocol and add headers, or with an
            `HTTPResponse` to send instead.
        origins: the Origins that may open a WebSocket, each as ``https://example.org`` with
            its port if it has one, and None for requests without; by default all may.
        subprotocols: those that the server speaks, the one it likes best first.
        limits: what a peer may make this side hold or wait for.
        keepalive: when to ping a quiet peer.
        deflate: how messages are compressed with peers that offer it (RFC 7692); None for
            not at all.
        driver: "auto" takes the fastest there is; "stream" the one for any stream.
        handler_nursery: where connections run; by default in a nursery of serve's own.
        backlog: of the listening sockets, see `trio.open_tcp_listeners`.
        shutdown_grace: seconds that peers have for the closing handshake once cancelled.
        task_status: ``started`` gets the `Server`.

    Raises:
        OSError: the port cannot be listened on.
        TypeError, ValueError: an argument is of the wrong kind, or out of range.

    Cancelling stops accepting, answers handshakes under way with 503, cancels handlers,
    closes every connection with 1001 and waits for the peers up to *shutdown_grace*.
    """
    check_driver(driver)
    check_kind("ssl_context", ssl_context, ssl.SSLContext, None)
    await warm_up_in_thread()
    listeners: Sequence[trio.abc.Listener[Any]]
    listeners = await open_listeners(port, host=host, backlog=backlog)
    if ssl_context is not None:
        listeners = [trio.SSLListener(one, ssl_context) for one in listeners]
    await serve_listeners(
        handler,
        listeners,
        on_request=on_request,
        origins=origins,
        subprotocols=subprotocols,
        limits=limits,
        keepalive=keepalive,
        deflate=deflate,
        driver=driver,
        handler_nursery=handler_nursery,
        shutdown_grace=shutdown_grace,
        task_status=task_status,
    )


@trio.lowlevel.enable_ki_protection  # else Ctrl-C may strike where blocks are left
async def serve_listeners(  # noqa: PLR0913, D417 - the arguments of `serve`
    handler: Handler,
    listeners: Sequence[trio.abc.Listener[Any]],
    *,
    on_request: OnRequest | None = None,
    origins: Collection[str | None] | None = None,
    subprotocols: Sequence[str] = (),
    limits: Limits = Limits(),  # noqa: B008 - frozen
    keepalive: KeepAlive = KeepAlive(),  # noqa: B008 - frozen
    deflate: Deflate | None = Deflate(),  # noqa: B008 - frozen
    driver: DriverName = "auto",
    handler_nursery: trio.Nursery | None = None,
    shutdown_grace: float = 5.0,
    task_status: trio.TaskStatus[Server] = trio.TASK_STATUS_IGNORED,
) -> NoReturn:
    """Serve WebSockets on listeners of any kind, which it closes in the end.

    Args:
        listeners: TCP, TLS, Unix or anything else that accepts streams.

    The other arguments, and cancelling, are those of `serve`.
    """
    try:
        has_reactor = check_driver(driver)
        settings = _Settings(
            handler=handler,
            on_request=on_request,
            origins=check_origins(origins),
            subprotocols=check_subprotocols(subprotocols),
            limits=limits,
            keepalive=keepalive,
            deflate=deflate,
            has_reactor=has_reactor,
            shutdown_grace=shutdown_grace,
        )
        await warm_up_in_thread()
        async with contextlib.AsyncExitStack() as stack:
            hub = None
            if has_reactor and handler_nursery is None:  # else connections may outlive this
                hub = await stack.enter_async_context(open_hub(limits, keepalive))
            server = Server(settings, listeners, hub)
            nursery = await stack.enter_async_context(unwrapped_nursery())
            nursery.start_soon(server.stop_in_order)
            server.nursery = handler_nursery or nursery
            for listener in listeners:
                nursery.start_soon(server.accept_from, listener)
            task_status.started(server)
    finally:
        for listener in listeners:
            await trio.aclose_forcefully(listener)
    raise AssertionError("a server only ends by an exception")


def _is_only_the_end(error: BaseException) -> bool:
    """Whether *error* says no more than that the connection has ended."""
    if isinstance(error, BaseExceptionGroup):
        return all(map(_is_only_the_end, error.exceptions))
    return isinstance(error, ConnectionBroken | trio.EndOfChannel)
