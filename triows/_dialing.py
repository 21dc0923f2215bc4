"""From a URL to a stream of octets: TCP or a proxy's tunnel, then TLS.

What goes wrong comes out as what it is: `OSError` where there is no connection, TLS
included; `ProxyError` where a proxy would not make one; `trio.TooSlowError`. No stream is
left open then.
"""

import os
import ssl
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeAlias

import attrs
import trio

from triows._engine import USER_AGENT, TunnelHandshake
from triows._errors import ProxyError
from triows._options import Limits
from triows._proxy import Proxy, ProxySetting, choose_proxy
from triows._url import URL

if TYPE_CHECKING:
    import python_socks

Dial: TypeAlias = Callable[[str, int], Awaitable[trio.abc.Stream]]
"""What connects to a host and a port."""

_ANSWER_SIZE = 16_384
"""Octets of one receive while a proxy's answer is awaited."""

_SOCKS_LASTING = frozenset({2, 7, 8})
"""SOCKS5 replies that will be the same: not allowed, no such command, no such kind of address."""


@attrs.frozen(kw_only=True)
class Dialer:
    """How streams are opened.

    Args:
        dial: connects to a host and a port instead of TCP and proxies; None for those.
        proxy: which proxy to use.
        proxy_ssl_context: for ``https`` proxies; by default one that checks their certificates.
        connect_timeout: seconds for looking up the name and connecting, through a proxy or not.
        limits: how large a proxy's answer may be.
    """

    dial: Dial | None = None
    proxy: ProxySetting = True
    proxy_ssl_context: ssl.SSLContext | None = None
    connect_timeout: float = attrs.field(default=10.0, validator=attrs.validators.gt(0))
    limits: Limits = attrs.field(factory=Limits)

    def check(self, url: URL) -> None:
        """Raise ValueError where the proxy for *url* is malformed."""
        if self.dial is None:
            choose_proxy(self.proxy, url)

    async def open(self, url: URL) -> trio.abc.Stream:
        """Connect to the host of *url*, without TLS.

        Raises:
            OSError: it, or the proxy, cannot be reached.
            ProxyError: the proxy did not connect to it.
            trio.TooSlowError: it took too long.
            ModuleNotFoundError: a SOCKS5 proxy is to be used, and python-socks is not there.

        Cancelling drops the connection at once.
        """
        with trio.move_on_after(self.connect_timeout):
            if self.dial is not None:
                return await self.dial(url.host, url.port)
            proxy = choose_proxy(self.proxy, url)
            if proxy is None:
                return await _open_tcp(url.host, url.port, url.authority)
            if proxy.is_socks:
                return await _open_socks(proxy, url)
            return await self._open_tunnel(proxy, url)
        raise trio.TooSlowError(
            f"connecting to {url.authority} took more than {self.connect_timeout} seconds"
        )

    async def _open_tunnel(self, proxy: Proxy, url: URL) -> trio.abc.Stream:
        """Connect through an HTTP proxy (RFC 9110 §9.3.6)."""
        tunnel = TunnelHandshake(
            url.host_and_port,
            limits=self.limits,
            credentials=proxy.credentials,
            user_agent=USER_AGENT,
        )
        stream: trio.abc.Stream = await _open_tcp(proxy.host, proxy.port, proxy.name)
        try:
            if proxy.scheme == "https":
                stream = await start_tls(stream, proxy.host, self.proxy_ssl_context, "the proxy")
            await _dig(stream, tunnel)
        except BaseException:
            await trio.aclose_forcefully(stream)
            raise
        return stream


async def start_tls(
    stream: trio.abc.Stream, host: str, context: ssl.SSLContext | None, peer: str
) -> trio.SSLStream[trio.abc.Stream]:
    """Do the TLS handshake with *peer*, whose certificate must be for *host*."""
    context = context or ssl.create_default_context()
    name = host.removesuffix(".")  # RFC 6066 §3
    over_tls = trio.SSLStream(stream, context, server_hostname=name)
    try:
        await over_tls.do_handshake()
    except trio.BrokenResourceError as error:
        if isinstance(error.__cause__, ssl.SSLError):
            raise error.__cause__ from None
        raise ConnectionResetError(f"{peer} broke off the TLS handshake") from error
    return over_tls


async def _open_tcp(host: str, port: int, name: str) -> trio.SocketStream:
    """Connect to the first address of the host that answers (RFC 8305)."""
    try:
        return await trio.open_tcp_stream(host, port)
    except OSError as error:
        raise _flattened(error, name) from error.__cause__


def _flattened(error: OSError, name: str) -> OSError:
    """Say what went wrong with which host, in one error for all of the host's addresses."""
    words = f"cannot connect to {name}: "
    if not isinstance(error.__cause__, ExceptionGroup):
        return type(error)(error.errno, words + (error.strerror or str(error)))
    causes = [one for one in error.__cause__.exceptions if isinstance(one, OSError)]
    words += "; ".join({os.strerror(one.errno) if one.errno else str(one): 0 for one in causes})
    numbers = {one.errno for one in causes}
    number = numbers.pop() if len(numbers) == 1 else None
    return OSError(words) if number is None else OSError(number, words)


async def _dig(stream: trio.abc.Stream, tunnel: TunnelHandshake) -> None:
    """Ask for a tunnel, and wait for it."""
    try:
        await stream.send_all(tunnel.request_octets())
        while octets := await stream.receive_some(_ANSWER_SIZE):
            if tunnel.receive(octets):
                return
    except trio.BrokenResourceError:
        pass
    tunnel.receive_eof()


async def _open_socks(proxy: Proxy, url: URL) -> trio.abc.Stream:
    """Connect through a SOCKS5 proxy (RFC 1928, RFC 1929)."""
    try:
        import python_socks  # noqa: PLC0415 - an extra, and of use to few
        from python_socks.async_.trio.v2 import Proxy as Connector  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "a SOCKS5 proxy needs python-socks: pip install 'triows[socks]'", name=error.name
        ) from None
    username, password = proxy.credentials or (None, None)
    connector = Connector(
        python_socks.ProxyType.SOCKS5,
        proxy.host,
        proxy.port,
        username,
        password,
        rdns=proxy.scheme == "socks5h",
    )
    try:
        through = await connector.connect(url.host, url.port, timeout=float("inf"))
    except python_socks.ProxyConnectionError as error:
        cause = error.__cause__ if isinstance(error.__cause__, OSError) else error
        raise _flattened(cause, proxy.name) from cause.__cause__
    except python_socks.ProxyError as error:
        raise _socks_error(error) from None
    except trio.BrokenResourceError:
        raise ProxyError("the proxy broke off the connection") from None
    return through.trio_stream


def _socks_error(error: "python_socks.ProxyError") -> ProxyError:
    """Put a refusal by a SOCKS5 proxy as triows does."""
    status: int | None = error.error_code
    if status is not None:
        lasting = status in _SOCKS_LASTING
    else:  # it refused the credentials or is no such proxy; or else it hung up
        lasting = hasattr(error.__cause__, "error_code")
    return ProxyError(f"the proxy refused: {error}", status=status, is_lasting=lasting)
