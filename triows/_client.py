"""The client: a WebSocket for the time of a block.

The connection is driven by the loop that the run's clients share, or by a task in a
nursery that no one sees: what the block raises leaves it as it was raised.
"""

import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import trio

from triows._connector import CONNECT_TIMEOUT, leave, make_connector
from triows._engine import USER_AGENT, FieldsLike
from triows._hub import DriverName
from triows._nursery import unwrapped_nursery
from triows._options import Deflate, KeepAlive, Limits
from triows._proxy import ProxySetting
from triows._websocket import WebSocket


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
    proxy: ProxySetting = True,
    proxy_ssl_context: ssl.SSLContext | None = None,
    max_redirects: int = 5,
    limits: Limits = Limits(),  # noqa: B008 - frozen
    keepalive: KeepAlive = KeepAlive(),  # noqa: B008 - frozen
    deflate: Deflate | Sequence[Deflate] | None = Deflate(),  # noqa: B008 - frozen
    driver: DriverName = "auto",
    connect_timeout: float = CONNECT_TIMEOUT,
) -> AsyncIterator[WebSocket]:
    """Connect to a WebSocket server, for the time of an ``async with`` block (RFC 6455 §4.1).

    The connection closes when the block is left: with 1000; with 1011 if the block raised
    an exception; with 1001 if it was cancelled or interrupted. The exception comes out as
    it was raised.

    Args:
        url: ``ws://`` or ``wss://``, without credentials and fragment. The name may be an
            international one.
        stream: connected already, to use instead of dialling; closed in the end. With
            ``wss`` TLS is spoken over it. No proxy is used, no redirect followed.
        ssl_context: for ``wss``; by default `ssl.create_default_context`, which checks the
            server's certificate and its name.
        headers: further header fields of the request.
        subprotocols: those to offer, the one liked best first; see `WebSocket.subprotocol`.
        origin: the Origin to send; browsers do, others need not.
        user_agent: the User-Agent to send unless *headers* has one; None for none.
        proxy: the URL of a proxy, ``http://``, ``https://``, ``socks5://`` or ``socks5h://``,
            with ``user:password@`` if it wants them. True for what ``HTTPS_PROXY``,
            ``HTTP_PROXY``, ``ALL_PROXY`` and ``NO_PROXY`` say; None for none. The two kinds of
            SOCKS5, of which the second has names looked up by the proxy, need the extra
            ``triows[socks]``.
        proxy_ssl_context: for an ``https`` proxy, as *ssl_context* for the server.
        max_redirects: how many redirects are followed, 0 for none. None leads from ``wss`` to
            ``ws``. To another scheme, host or port *headers* do not go along, but
            *subprotocols*, *origin* and *ssl_context* do.
        limits: what the server may make this side hold or wait for;
            ``handshake_timeout`` covers all between the TCP connection and the 101.
        keepalive: when to ping a quiet server.
        deflate: how messages are compressed if the server agrees (RFC 7692); several are
            offered in order, the one liked best first; None for not at all.
        driver: "auto" takes the fastest there is; "stream" the one for any stream, which
            takes TLS and what is no socket in any case.
        connect_timeout: seconds for looking up the name and connecting, proxy included.

    Raises:
        TypeError, ValueError: an argument, or the variable that names the proxy, is of the
            wrong kind or malformed; nothing was dialled, *stream* left as it was.
        OSError: there is no such host, nothing listens there, the network failed, or TLS
            did: then it is an `ssl.SSLError`. The same for the proxy.
        ProxyError: the proxy did not connect to the server.
        ModuleNotFoundError: the extra for SOCKS5 is needed and missing.
        trio.TooSlowError: connecting, or TLS and the opening handshake, took too long.
        HandshakeRejected: the server answered with another status than 101; if it
            redirects to where it may not, `RedirectRefused`.
        InvalidHandshake: it answered with something else, or not at all.

    In all these cases no frame was sent, and no connection is left.

    Cancelling, while connecting, drops the connection at once. In the block, the closing
    handshake may still take one second, after which the connection is dropped.
    """
    connector = make_connector(
        url,
        ssl_context=ssl_context,
        headers=headers,
        subprotocols=subprotocols,
        deflate=deflate,
        origin=origin,
        user_agent=user_agent,
        proxy=proxy if stream is None else None,
        proxy_ssl_context=proxy_ssl_context,
        max_redirects=max_redirects,
        limits=limits,
        keepalive=keepalive,
        driver=driver,
        connect_timeout=connect_timeout,
    )
    ws, leftover = await connector.open(WebSocket, stream)
    async with _serving(ws, leftover):
        try:
            yield ws
        except BaseException as error:
            await leave(ws, error)
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
