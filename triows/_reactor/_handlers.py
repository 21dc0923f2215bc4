"""Handlers in Python, as users write them, and the connections that they are given."""

import inspect
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, NewType, TypeAlias

import trio

from triows._engine import (
    PerMessageDeflate,
    PreparedMessage,
    Request,
    Response,
    close_payload,
)
from triows._options import check_kind
from triows._spec import CloseCode, Opcode

if TYPE_CHECKING:
    from triows._reactor._callbacks import Callbacks
    from triows._reactor._topics import Home, Seat
    from triows._websocket import WebSocket

SessionId = NewType("SessionId", int)
"""Names a connection of a reactor for as long as the process lives; see `Connection.id`."""

Data: TypeAlias = str | bytes | bytearray | memoryview | PreparedMessage


class Handler:
    """What a reactor calls: override what you need.

    Callbacks are plain functions, called one after the other and never one inside another,
    in Trio's thread. While one runs, nothing else of that thread does. One that raises
    closes its own connection with 1011, and no other; the log says so.
    """

    def on_open(self, conn: "Connection") -> None:
        """Learn of a connection: once for each, and before anything else of it."""

    def on_frame(self, conn: "Connection", payload: memoryview, opcode: int) -> None:
        """Handle a whole data message: joined from its fragments, text that is UTF-8.

        Args:
            conn: it came from.
            payload: a writable view of the octets, valid until this returns. Change it and
                `Connection.echo` sends what you made of it. Copy what you keep.
            opcode: `Opcode.TEXT` or `Opcode.BINARY`.
        """

    def on_close(self, conn: "Connection", code: int, reason: str) -> None:
        """Learn that a connection has ended: once for each that was opened.

        Args:
            conn: of no further use.
            code: the peer's close code; 1005 if it gave none, 1006 if there was no closing
                handshake; this side's own where this side failed the connection (RFC 6455
                §7.1.5, §7.1.7).
            reason: what goes with it.
        """


FrameFunction: TypeAlias = Callable[["Connection", memoryview, int], Response | None]


class FunctionHandler(Handler):
    """See `handler_fn`."""

    def __init__(self, function: FrameFunction) -> None:
        self.function = function

    def on_frame(self, conn: "Connection", payload: memoryview, opcode: int) -> None:
        """Call the function, and do what it returns."""
        response = self.function(conn, payload, opcode)
        if response is not None:
            obey(conn, response)


def obey(conn: "Connection", response: Response) -> None:
    """Do what a `FrameFunction` returned."""
    if response == Response.ECHO:
        conn.echo()
    elif response == Response.CLOSE:
        conn.close()
    elif response != Response.DISCARD:
        raise ValueError(f"the handler returned {response!r}, not a Response")


def handler_fn(function: FrameFunction) -> Handler:
    """Make a handler of one function, called as `Handler.on_frame`.

    Args:
        function: returns None, or a `Response` to have it done.

    Raises:
        TypeError: it is no function, or an asynchronous one.
    """
    check_kind("function", function, Callable)
    check_plain(function, "function")
    return FunctionHandler(function)


def check_plain(function: object, name: str) -> None:
    """Raise a TypeError for what would never run, since nothing awaits it."""
    if inspect.iscoroutinefunction(function):
        raise TypeError(
            f"{name} is asynchronous, but callbacks are plain functions; `triows.serve` has "
            "handlers that wait, and so has `Connection.promote`"
        )


class Connection:
    """A connection of a reactor, as its handler sees it.

    Its methods are for Trio's thread, or the one that calls `Reactor.run_once`, in
    callbacks and outside them; other threads use a `Sender`. None of them waits, none
    raises because the connection has ended: what is sent then is dropped, and counted.
    """

    __slots__ = (
        "_answer",
        "_callbacks",
        "_deflate",
        "_id",
        "_phase",
        "_remote",
        "_request",
        "_slot",
        "data",
    )

    def __init__(
        self,
        callbacks: "Callbacks",
        slot: int,
        session: int,
        request: Request | None,
        remote: Any,
        *,
        deflate: PerMessageDeflate | None = None,
    ) -> None:
        self._callbacks = callbacks
        self._slot = slot
        self._id = session
        self._phase = OPEN
        self._answer = NO_MESSAGE  # what is to be done about the message that is being handled
        self._request = request
        self._remote = remote
        self._deflate = deflate
        self.data: Any = None
        """Yours."""

    def __repr__(self) -> str:
        """Say which one it is, and whether it is open."""
        states = {PROMOTED: "promoted", OPEN: "open", CLOSED: "closed"}
        state = states.get(self._phase, "closing")
        return f"<triows.Connection {self._id} {state}>"

    @property
    def id(self) -> SessionId:
        """What a `Sender` calls it; no other connection of the reactor ever has the same."""
        return SessionId(self._id)

    @property
    def request(self) -> Request | None:
        """The opening request; None for an adopted session that came without."""
        return self._request

    @property
    def remote(self) -> Any:
        """The peer's address when the connection was opened, as from ``getpeername``."""
        return self._remote

    @property
    def is_open(self) -> bool:
        """Whether messages can be sent."""
        return self._phase == OPEN

    @property
    def buffered(self) -> int:
        """Octets that were sent and that the kernel has not taken yet, as of the last turn."""
        return self._callbacks.buffered(self)

    def echo(self) -> None:
        """Send the message being handled back, as it is when the callback returns.

        In place, without a copy, unless it came compressed, and behind whatever the callback
        sends and publishes.

        Raises:
            RuntimeError: this is not in an ``on_frame`` of this connection.
        """
        if self._answer < 0:
            raise RuntimeError(NO_ECHO)
        self._answer = _ECHO

    def send(
        self, payload: Data, opcode: int | None = None, *, compress: bool | None = None
    ) -> None:
        """Send a message; it is copied at once and leaves when the callback has returned.

        Args:
            payload: text, octets, or a `PreparedMessage`.
            opcode: by default TEXT for a ``str``, BINARY for octets, its own for a
                `PreparedMessage`. Octets sent as TEXT must be UTF-8, and are not checked.
            compress: as in `WebSocket.send`.

        Raises:
            TypeError, ValueError: there is no such message.
        """
        message, opcode = as_message(payload, opcode, compress)
        self._callbacks.send(self, message, opcode)

    def close(self, code: int = CloseCode.NORMAL, reason: str = "") -> None:
        """Start the closing handshake (RFC 6455 §7.1.2): no message is handled after that.

        Raises:
            ValueError: no peer may be sent that code, or the reason is over 123 octets.
        """
        payload = close_payload(code, reason)
        if self._phase == OPEN:
            self._callbacks.send(self, payload, Opcode.CLOSE)
            self._phase = CLOSING

    def promote(self) -> "WebSocket":
        """Hand the connection over to a task, with all that has not been handled of it.

        Messages of the same turn that have not been handled yet come first, what is there of
        the next one is kept, and so is what waits to be sent. No callback is called for this
        connection any more, ``on_close`` neither; a `Sender` no longer reaches it, and it
        leaves the channels that it was attached to. It is no longer the reactor's: it ends when
        the task closes it, or with Trio's run.

        In ``on_frame`` the message being handled can still be answered with `echo`, which
        goes before what the WebSocket sends.

        Returns:
            The WebSocket, served already: ``async with conn.promote() as ws`` in a task, or
            ``nursery.start_soon(chat, conn.promote())``.

        Raises:
            trio.ClosedResourceError: the connection is closing, has ended, or was promoted.
            RuntimeError: there is no run of Trio's, as under `Reactor.run_once`.
        """
        if self._phase != OPEN:
            raise trio.ClosedResourceError("this connection is not open here any more")
        ws: WebSocket = self._callbacks.promote(self)
        return ws

    def join(
        self,
        stage: "Home",
        seat: "Seat",
        greeting: Iterable[PreparedMessage],
        *,
        publishes: bool,
    ) -> Callable[[], None] | None:
        """Become a member of a channel's topic: for channels (`BroadcastChannel.attach`)."""
        return self._callbacks.join(self, stage, seat, greeting, publishes=publishes)


PROMOTED, OPEN, CLOSING, FAILED, CLOSED = -1, 0, 1, 2, 3
"""A connection's phases: in `CLOSING` and `FAILED` this side has ended it, without or with an
error; `PROMOTED`, it is a task's."""

NO_MESSAGE = -1
"""A connection's answer while none of its messages is being handled."""

NO_ECHO = "echo() is for on_frame, of the connection whose message it is"

_ECHO = int(Response.ECHO)
_KINDS = (Opcode.TEXT, Opcode.BINARY)


def as_message(
    payload: Data,
    opcode: int | None,
    compress: bool | None,  # noqa: FBT001 - as `Connection.send` was given it
) -> tuple[bytes | bytearray | memoryview | PreparedMessage, int]:
    """Return a message and its opcode: octets, or prepared where it was or more is to be said.

    Raises:
        TypeError: *payload* is neither text nor octets.
        ValueError: *opcode* is that of no message.
    """
    if isinstance(payload, str):
        payload = payload.encode()
        opcode = Opcode.TEXT if opcode is None else opcode
    elif isinstance(payload, PreparedMessage):
        if opcode in (None, payload.opcode):
            return payload, payload.opcode
        payload = payload.payload
    elif isinstance(payload, memoryview):
        is_plain = payload.contiguous and payload.format == "B" and payload.ndim == 1
        payload = payload if is_plain else payload.tobytes()
    elif not isinstance(payload, bytes | bytearray):
        raise TypeError(f"a message is str or bytes, not {type(payload).__name__}")
    if opcode is None:
        opcode = Opcode.BINARY
    if opcode not in _KINDS:
        raise ValueError(f"opcode {opcode} is that of no message: TEXT or BINARY")
    if compress is None:
        return payload, opcode
    prepared = PreparedMessage(payload, compress=compress)
    prepared.opcode = int(opcode)
    return prepared, opcode
