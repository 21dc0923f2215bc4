"""The client: dial, shake hands, hand out a WebSocket, and close it.

What goes wrong before there is a WebSocket comes out as what it is: `OSError`
where there is no connection, TLS included, `trio.TooSlowError` where it takes too
long, a `HandshakeError` where the peer is no WebSocket server or will not be one
now. No frame has been sent then, and the transport was dropped.

The connection is driven by the loop that the run's clients share, or by a task in a
nursery that no one sees: what the block raises leaves it as it was raised.
"""

import contextlib
import math
import os
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial

import attrs
import trio

from triows._driver import Driver, Sink
from triows._engine import USER_AGENT, ClientEngine, ClientHandshake, FieldsLike, Request
from triows._errors import HandshakeRejected, InvalidHandshake
from triows._hub import DriverName, check_driver, shared_driver
from triows._nursery import unwrapped_nursery
from triows._options import KeepAlive, Limits
from triows._spec import CloseCode
from triows._stream import StreamDriver, socket_address
from triows._url import URL
from triows._warmup import warm_up_in_thread
from triows._websocket import Opening, WebSocket

FAREWELL = 1.0
"""Seconds that the closing handshake of a cancelled block may still take."""

_ANSWER_SIZE = 16_384
"""Octets of one receive while the server's answer is awaited."""


@attrs.frozen(kw_only=True)
class _Settings:
    """What `open_websocket` was told, but for the handshake."""

    url: URL
    ssl_context: ssl.SSLContext | None
    limits: Limits
    keepalive: KeepAlive
    has_reactor: bool
    connect_timeout: float = attrs.field(validator=attrs.validators.gt(0))


@asynccontextmanager
async def open_websocket(  # noqa: PLR0913 - each is a setting of its own, by keyword
    url: str,
    *,
    stream: trio.abc.Stream | None = None,
    ssl_context: ssl.SSLContext | None = None,
    headers: FieldsLike = (),
    subprotocols: Sequence[str] = (),
    origin: str | None = None,
    user_agent: str | None = USER_AGENT,
    limits: Limits = Limits(),  # noqa: B008 - frozen
    keepalive: KeepAlive = KeepAlive(),  # noqa: B008 - frozen
    driver: DriverName = "auto",
    connect_timeout: float = 10.0,
) -> AsyncIterator[WebSocket]:
    """Connect to a WebSocket server, for the time of an ``async with`` block (RFC 6455 §4.1).

    The connection closes when the block is left: with 1000; with 1011 if the block raised
    an exception; with 1001 if it was cancelled or interrupted. The exception comes out as
    it was raised.

    Args:
        url: ``ws://`` or ``wss://``, without credentials and fragment. The name may be an
            international one.
        stream: connected already, to use instead of dialling; closed in the end. With
            ``wss`` TLS is spoken over it.
        ssl_context: for ``wss``; by default `ssl.create_default_context`, which checks the
            server's certificate and its name.
        headers: further header fields of the request.
        subprotocols: those to offer, the one liked best first; see `WebSocket.subprotocol`.
        origin: the Origin to send; browsers do, others need not.
        user_agent: the User-Agent to send unless *headers* has one; None for none.
        limits: what the server may make this side hold or wait for;
            ``handshake_timeout`` covers all between the TCP connection and the 101.
        keepalive: when to ping a quiet server.
        driver: "auto" takes the fastest there is; "stream" the one for any stream, which
            takes TLS and what is no socket in any case.
        connect_timeout: seconds for looking up the name and connecting.

    Raises:
        ValueError: an argument is malformed; nothing was dialled, *stream* left as it was.
        OSError: there is no such host, nothing listens there, the network failed, or TLS
            did: then it is an `ssl.SSLError`.
        trio.TooSlowError: connecting, or TLS and the opening handshake, took too long.
        HandshakeRejected: the server answered with another status than 101.
        InvalidHandshake: it answered with something else, or not at all.

    In all these cases no frame was sent, and no connection is left.

    Cancelling, while connecting, drops the connection at once. In the block, the closing
    handshake may still take one second, after which the connection is dropped.
    """
    parsed = URL.parse(url)
    settings = _Settings(
        url=parsed,
        ssl_context=ssl_context if parsed.scheme == "wss" else None,
        limits=limits,
        keepalive=keepalive,
        has_reactor=check_driver(driver),
        connect_timeout=connect_timeout,
    )
    handshake = ClientHandshake(
        parsed.authority,
        parsed.target,
        key=os.urandom(16),
        limits=limits,
        headers=headers,
        subprotocols=subprotocols,
        origin=origin,
        user_agent=user_agent,
    )
    ws = await _open(settings, handshake, stream)
    async with _serving(ws, handshake.leftover):
        try:
            yield ws
        except BaseException as error:
            await _leave(ws, error)
            raise
        await ws.aclose()


@asynccontextmanager
async def _serving(ws: WebSocket, leftover: bytes) -> AsyncIterator[None]:
    """Serve a connection for the block, by whose end it has ended."""
    if ws.start(leftover):
        try:
            yield
        finally:
            ws.abort("the block was left")
    else:
        async with unwrapped_nursery() as nursery:
            nursery.start_soon(ws.run, leftover)
            yield


async def _leave(ws: WebSocket, error: BaseException) -> None:
    """Close after *error*, which is what comes out of the block whatever happens here."""
    code = CloseCode.INTERNAL_ERROR if isinstance(error, Exception) else CloseCode.GOING_AWAY
    is_cancelled = trio.current_effective_deadline() == -math.inf
    try:
        with trio.CancelScope(shield=is_cancelled) as farewell:
            if is_cancelled:
                farewell.deadline = trio.current_time() + FAREWELL
            await ws.aclose(code)
    except trio.Cancelled:
        pass  # the transport was dropped; the next checkpoint will raise it again


# From the URL to the WebSocket.


async def _open(
    settings: _Settings, handshake: ClientHandshake, stream: trio.abc.Stream | None
) -> WebSocket:
    """Connect and shake hands; drops the transport if that fails."""
    try:
        await warm_up_in_thread()
        if stream is None:
            stream = await _dial(settings)
        return await _upgrade(settings, handshake, stream)
    except BaseException:
        if stream is not None:
            await trio.aclose_forcefully(stream)
        raise


async def _dial(settings: _Settings) -> trio.SocketStream:
    """Connect to the first address of the host that answers (RFC 8305)."""
    url = settings.url
    try:
        with trio.move_on_after(settings.connect_timeout):
            return await trio.open_tcp_stream(url.host, url.port)
    except OSError as error:
        raise _flattened(error, url) from error.__cause__
    raise trio.TooSlowError(
        f"connecting to {url.authority} took more than {settings.connect_timeout} seconds"
    )


def _flattened(error: OSError, url: URL) -> OSError:
    """Say what went wrong with which host, in one error for all of the host's addresses."""
    words = f"cannot connect to {url.authority}: "
    if not isinstance(error.__cause__, ExceptionGroup):
        return type(error)(error.errno, words + (error.strerror or str(error)))
    causes = [one for one in error.__cause__.exceptions if isinstance(one, OSError)]
    words += "; ".join({os.strerror(one.errno) if one.errno else str(one): 0 for one in causes})
    numbers = {one.errno for one in causes}
    number = numbers.pop() if len(numbers) == 1 else None
    return OSError(words) if number is None else OSError(number, words)


async def _upgrade(
    settings: _Settings, handshake: ClientHandshake, stream: trio.abc.Stream
) -> WebSocket:
    """Make a WebSocket of a connection, within the time for that."""
    with trio.move_on_after(settings.limits.handshake_timeout):
        if settings.url.scheme == "wss":
            stream = await _start_tls(settings, stream)
        await _shake_hands(stream, handshake)
        return _make_websocket(settings, handshake, stream)
    raise _overdue(settings, handshake)


async def _start_tls(
    settings: _Settings, stream: trio.abc.Stream
) -> trio.SSLStream[trio.abc.Stream]:
    """Do the TLS handshake."""
    context = settings.ssl_context or ssl.create_default_context()
    name = settings.url.host.removesuffix(".")  # RFC 6066 §3
    over_tls = trio.SSLStream(stream, context, server_hostname=name)
    try:
        await over_tls.do_handshake()
    except trio.BrokenResourceError as error:
        if isinstance(error.__cause__, ssl.SSLError):
            raise error.__cause__ from None
        raise ConnectionResetError("the server broke off the TLS handshake") from error
    return over_tls


async def _shake_hands(stream: trio.abc.Stream, handshake: ClientHandshake) -> None:
    """Send the request and read the answer, which must be the right one."""
    with contextlib.suppress(trio.BrokenResourceError):  # it may have said why before
        await stream.send_all(handshake.request_octets())
    while True:
        try:
            octets = await stream.receive_some(_ANSWER_SIZE)
        except trio.BrokenResourceError:
            octets = b""
        if not octets:
            handshake.receive_eof()
        if handshake.receive(octets) is not None:
            return


def _overdue(settings: _Settings, handshake: ClientHandshake) -> Exception:
    """Say what became of a handshake whose time is over."""
    try:
        handshake.receive_eof()
    except HandshakeRejected as rejected:
        return rejected  # it is one, even if its body does not end
    except InvalidHandshake:
        pass
    url, limit = settings.url, settings.limits.handshake_timeout
    what = "TLS and the opening handshake" if url.scheme == "wss" else "the opening handshake"
    return trio.TooSlowError(f"{what} with {url.authority} took more than {limit} seconds")


def _make_websocket(
    settings: _Settings, handshake: ClientHandshake, stream: trio.abc.Stream
) -> WebSocket:
    remote = socket_address(stream, "getpeername")
    opening = Opening(
        request=Request(head=handshake.request_octets(), scheme=settings.url.scheme, remote=remote),
        response=handshake.response,
        subprotocol=handshake.subprotocol,
        local=socket_address(stream, "getsockname"),
        remote=remote,
    )
    make_driver = partial(_make_driver, settings, stream)
    return WebSocket(make_driver, limits=settings.limits, opening=opening)


def _make_driver(settings: _Settings, stream: trio.abc.Stream, sink: Sink) -> Driver:
    if settings.has_reactor and isinstance(stream, trio.SocketStream):
        return shared_driver(
            stream, sink, is_client=True, limits=settings.limits, keepalive=settings.keepalive
        )
    engine = ClientEngine(
        limits=settings.limits, keepalive=settings.keepalive, now=trio.current_time()
    )
    return StreamDriver(stream, engine, sink)
