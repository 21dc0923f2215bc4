"""From a URL to a WebSocket: dial, shake hands, follow redirects (RFC 6455 §4.1).

What goes wrong before there is a WebSocket comes out as what it is, see `open_websocket`.
No frame has been sent then, and the transport was dropped.
"""

import contextlib
import math
import os
import ssl
from collections.abc import Sequence
from functools import partial
from typing import Any, TypedDict, TypeVar, Unpack

import attrs
import trio

from triows._dialing import Dial, Dialer, start_tls
from triows._driver import Driver, Sink
from triows._engine import (
    USER_AGENT,
    ClientEngine,
    ClientHandshake,
    FieldsLike,
    Headers,
    PerMessageDeflate,
    Request,
)
from triows._errors import HandshakeRejected, InvalidHandshake, RedirectRefused
from triows._hub import DriverName, check_driver, shared_driver
from triows._options import Deflate, KeepAlive, Limits, check_kind
from triows._proxy import ProxySetting
from triows._reactor import Terms
from triows._redirects import is_redirect, redirected
from triows._spec import CloseCode
from triows._stream import StreamDriver, socket_address
from triows._url import URL
from triows._warmup import warm_up_in_thread
from triows._websocket import Opening, WebSocket

FAREWELL = 1.0
"""Seconds that the closing handshake of a cancelled block may still take."""

CONNECT_TIMEOUT = 10.0
"""Seconds that looking up a name and connecting may take."""

_ANSWER_SIZE = 16_384
"""Octets of one receive while the server's answer is awaited."""

WebSocketT = TypeVar("WebSocketT", bound=WebSocket)


def _offers(deflate: Deflate | Sequence[Deflate] | None) -> tuple[Deflate, ...]:
    if deflate is None:
        return ()
    if isinstance(deflate, Sequence):
        for one in deflate:
            check_kind("deflate", one, Deflate)
        return tuple(deflate)
    check_kind("deflate", deflate, Deflate, Sequence, None)
    return (deflate,)


class ConnectOptions(TypedDict, total=False):
    """How a server is connected to; see `open_websocket`."""

    ssl_context: ssl.SSLContext | None
    headers: FieldsLike
    subprotocols: Sequence[str]
    origin: str | None
    user_agent: str | None
    max_redirects: int
    limits: Limits
    keepalive: KeepAlive
    deflate: Deflate | Sequence[Deflate] | None
    proxy: ProxySetting
    proxy_ssl_context: ssl.SSLContext | None
    driver: DriverName
    connect_timeout: float


@attrs.frozen(kw_only=True)
class Connector:
    """Opens connections to a server, each in the same way; see `open_websocket`.

    Raises:
        ValueError: a setting is malformed.
    """

    url: URL
    dialer: Dialer
    ssl_context: ssl.SSLContext | None = None
    headers: Headers = attrs.field(factory=Headers, converter=Headers)
    subprotocols: Sequence[str] = ()
    deflate: Sequence[Deflate] = attrs.field(default=Deflate(), converter=_offers)
    origin: str | None = None
    user_agent: str | None = USER_AGENT
    limits: Limits = attrs.field(factory=Limits)
    keepalive: KeepAlive = attrs.field(factory=KeepAlive)
    max_redirects: int = attrs.field(default=5, validator=attrs.validators.ge(0))
    driver: DriverName = "auto"
    _has_reactor: bool = attrs.field(init=False)

    @_has_reactor.default
    def _look_for_reactor(self) -> bool:
        return check_driver(self.driver)

    def __attrs_post_init__(self) -> None:
        check_kind("limits", self.limits, Limits)
        check_kind("keepalive", self.keepalive, KeepAlive)
        check_kind("ssl_context", self.ssl_context, ssl.SSLContext, None)
        self._make_handshake()  # refuses what is malformed while nothing was dialled
        self.dialer.check(self.url)

    async def open(
        self, kind: type[WebSocketT], stream: trio.abc.Stream | None = None
    ) -> tuple[WebSocketT, bytes]:
        """Connect, shake hands and follow redirects.

        Args:
            kind: what to make.
            stream: to use instead of dialling; then no redirect is followed.

        Returns:
            The WebSocket, not running yet, and the octets that came behind the 101.

        Cancelling drops the connection at once.
        """
        if stream is not None:
            return await self.open_once(kind, stream)
        connector, hops = self, 0
        while True:
            try:
                return await connector.open_once(kind)
            except HandshakeRejected as rejected:
                if not (self.max_redirects and is_redirect(rejected)):
                    raise
                if hops == self.max_redirects:
                    raise RedirectRefused(rejected, f"there were {hops} before it") from None
                connector = connector.follow(rejected)
                hops += 1

    def follow(self, rejected: HandshakeRejected) -> "Connector":
        """Make what opens the connection that a redirect leads to.

        To another origin no header fields of the application's go along: any of them may be
        a secret.

        Raises:
            RedirectRefused: it must not be followed.
        """
        url = redirected(self.url, rejected)
        try:
            if url.origin == self.url.origin:
                return attrs.evolve(self, url=url)
            return attrs.evolve(self, url=url, headers=())
        except ValueError as error:
            raise RedirectRefused(rejected, str(error)) from None

    def _make_handshake(self) -> ClientHandshake:
        return ClientHandshake(
            self.url.authority,
            self.url.target,
            key=os.urandom(16),
            limits=self.limits,
            headers=self.headers,
            subprotocols=self.subprotocols,
            deflate=self.deflate,
            origin=self.origin,
            user_agent=self.user_agent,
        )

    async def open_once(
        self, kind: type[WebSocketT], stream: trio.abc.Stream | None = None
    ) -> tuple[WebSocketT, bytes]:
        """Connect and shake hands; drops the transport if that fails."""
        handshake = self._make_handshake()
        try:
            await warm_up_in_thread()
            if stream is None:
                stream = await self.dialer.open(self.url)
            return await self._upgrade(kind, handshake, stream), handshake.leftover
        except BaseException:
            if stream is not None:
                await trio.aclose_forcefully(stream)
            raise

    async def _upgrade(
        self, kind: type[WebSocketT], handshake: ClientHandshake, stream: trio.abc.Stream
    ) -> WebSocketT:
        """Make a WebSocket of a connection, within the time for that."""
        with trio.move_on_after(self.limits.handshake_timeout):
            if self.url.scheme == "wss":
                stream = await start_tls(stream, self.url.host, self.ssl_context, "the server")
            await _shake_hands(stream, handshake)
            return self._make_websocket(kind, handshake, stream)
        raise self._overdue(handshake)

    def _overdue(self, handshake: ClientHandshake) -> Exception:
        """Say what became of a handshake whose time is over."""
        try:
            handshake.receive_eof()
        except HandshakeRejected as rejected:
            return rejected  # it is one, even if its body does not end
        except InvalidHandshake:
            pass
        what = (
            "TLS and the opening handshake" if self.url.scheme == "wss" else "the opening handshake"
        )
        limit = self.limits.handshake_timeout
        return trio.TooSlowError(f"{what} with {self.url.authority} took more than {limit} seconds")

    def _make_websocket(
        self, kind: type[WebSocketT], handshake: ClientHandshake, stream: trio.abc.Stream
    ) -> WebSocketT:
        remote = socket_address(stream, "getpeername")
        opening = Opening(
            request=Request(head=handshake.request_octets(), scheme=self.url.scheme, remote=remote),
            response=handshake.response,
            subprotocol=handshake.subprotocol,
            local=socket_address(stream, "getsockname"),
            remote=remote,
        )
        make_driver = partial(self._make_driver, handshake, stream)
        return kind(make_driver, limits=self.limits, opening=opening)

    def _make_driver(
        self, handshake: ClientHandshake, stream: trio.abc.Stream, sink: Sink
    ) -> Driver:
        deflate = None
        if handshake.deflate is not None:
            deflate = PerMessageDeflate(*handshake.deflate, is_server=False, limits=self.limits)
        if self._has_reactor and isinstance(stream, trio.SocketStream):
            terms = Terms(is_client=True, limits=self.limits, keepalive=self.keepalive)
            return shared_driver(stream, sink, terms, deflate)
        engine = ClientEngine(
            limits=self.limits,
            keepalive=self.keepalive,
            now=trio.current_time(),
            deflate=deflate,
        )
        return StreamDriver(stream, engine, sink)


def make_connector(
    url: str, *, dial: Dial | None = None, **options: Unpack[ConnectOptions]
) -> Connector:
    """Make what opens connections to *url*, from the arguments of `open_websocket`.

    Raises:
        ValueError: an argument is malformed.
    """
    dialer = Dialer(
        dial=dial,
        proxy=options.pop("proxy", True),
        proxy_ssl_context=options.pop("proxy_ssl_context", None),
        connect_timeout=options.pop("connect_timeout", CONNECT_TIMEOUT),
        limits=options.get("limits", Limits()),
    )
    settings: Any = options  # without what the dialer has got, which mypy cannot follow
    return Connector(url=URL.parse(url), dialer=dialer, **settings)


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


async def leave(ws: WebSocket, error: BaseException) -> None:
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
