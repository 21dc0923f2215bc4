"""The client through real proxies: Debian's tinyproxy for CONNECT, microsocks for SOCKS5."""

import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio

import triows
from tests.interop.proxies import microsocks, tinyproxy, wait_listening

pytestmark = pytest.mark.usefixtures("warm")
Contexts = tuple[ssl.SSLContext, ssl.SSLContext]


async def echo(ws: triows.WebSocket) -> None:
    """Send every message back."""
    async for message in ws:
        await ws.send(message)


@pytest.fixture
async def server(nursery: trio.Nursery) -> triows.Server:
    """An echo server."""
    return await nursery.start(triows.serve, echo, 0)


@pytest.fixture
async def secure_server(nursery: trio.Nursery, tls_contexts: Contexts) -> triows.Server:
    """An echo server over TLS, whose certificate is for 127.0.0.1."""
    return await nursery.start(partial(triows.serve, echo, 0, ssl_context=tls_contexts[0]))


async def converse(url: str, proxy: str, **options: object) -> object:
    """Send and receive through *proxy*, also more than any buffer holds; gives ws.remote."""
    with trio.fail_after(20):
        async with triows.open_websocket(url, proxy=proxy, **options) as ws:
            for message in ("hello", b"\x00\xff" * 300_000):
                await ws.send(message)
                assert await ws.receive() == message
            assert ws.is_open
            return ws.remote


async def test_connect_through_tinyproxy(server: triows.Server, tmp_path: Path) -> None:
    """Plain WebSockets go through a tunnel, and the proxy sees nothing but that."""
    with tinyproxy(tmp_path) as port:
        await wait_listening(port)
        remote = await converse(f"ws://127.0.0.1:{server.port}/", f"http://127.0.0.1:{port}")
        assert remote == ("127.0.0.1", port)
    assert f"CONNECT 127.0.0.1:{server.port}" in (tmp_path / "log").read_text()


async def test_tls_through_tinyproxy(
    secure_server: triows.Server, tls_contexts: Contexts, tmp_path: Path
) -> None:
    """TLS is with the server, through the tunnel."""
    with tinyproxy(tmp_path) as port:
        await wait_listening(port)
        url = f"wss://127.0.0.1:{secure_server.port}/"
        await converse(url, f"http://127.0.0.1:{port}", ssl_context=tls_contexts[1])


@asynccontextmanager
async def tls_in_front_of(port: int, context: ssl.SSLContext) -> AsyncIterator[int]:
    """Take TLS off before *port*, as a terminating load balancer does; gives its own port."""

    async def pump(source: trio.abc.Stream, sink: trio.abc.Stream, scope: trio.CancelScope) -> None:
        try:
            while octets := await source.receive_some(65_536):
                await sink.send_all(octets)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        scope.cancel()

    async def relay(outside: trio.SSLStream) -> None:
        async with (
            outside,
            await trio.open_tcp_stream("127.0.0.1", port) as inside,
            trio.open_nursery() as both,
        ):
            both.start_soon(pump, outside, inside, both.cancel_scope)
            both.start_soon(pump, inside, outside, both.cancel_scope)

    listeners = await trio.open_ssl_over_tcp_listeners(0, context, host="127.0.0.1")
    async with trio.open_nursery() as nursery:
        await nursery.start(trio.serve_listeners, relay, listeners)
        yield listeners[0].transport_listener.socket.getsockname()[1]
        nursery.cancel_scope.cancel()


async def test_tls_within_tls_through_tinyproxy(
    secure_server: triows.Server, tls_contexts: Contexts, tmp_path: Path
) -> None:
    """A proxy that is itself spoken to over TLS: each has its certificate checked."""
    theirs, ours = tls_contexts
    url = f"wss://127.0.0.1:{secure_server.port}/"
    with tinyproxy(tmp_path) as port:
        await wait_listening(port)
        async with tls_in_front_of(port, theirs) as secure_port:
            proxy = f"https://127.0.0.1:{secure_port}"
            await converse(url, proxy, ssl_context=ours, proxy_ssl_context=ours)
            with pytest.raises(ssl.SSLCertVerificationError):
                await converse(url, proxy, ssl_context=ours)


async def test_tinyproxy_with_credentials(server: triows.Server, tmp_path: Path) -> None:
    """The right credentials open the tunnel; wrong or no ones are refused for good."""
    url = f"ws://127.0.0.1:{server.port}/"
    with tinyproxy(tmp_path, credentials="joe s3cret") as port:
        await wait_listening(port)
        await converse(url, f"http://joe:s3cret@127.0.0.1:{port}")
        for userinfo in ("joe:wrong@", ""):
            with pytest.raises(triows.ProxyError) as caught:
                await converse(url, f"http://{userinfo}127.0.0.1:{port}")
            assert caught.value.status in {401, 407}
            assert caught.value.is_lasting


async def test_a_server_that_tinyproxy_cannot_reach(tmp_path: Path) -> None:
    """A proxy that cannot reach the server says so, which may pass."""
    with tinyproxy(tmp_path) as port:
        await wait_listening(port)
        with pytest.raises(triows.ProxyError) as caught:
            await converse("ws://127.0.0.1:1/", f"http://127.0.0.1:{port}")
        assert caught.value.status >= 500
        assert not caught.value.is_lasting


@pytest.mark.parametrize("scheme", ["socks5", "socks5h"])
async def test_socks_through_microsocks(server: triows.Server, scheme: str) -> None:
    """SOCKS5 by address and by name, looked up on either side."""
    with microsocks() as port:
        await wait_listening(port)
        for host in ("127.0.0.1", "localhost"):
            url = f"ws://{host}:{server.port}/"
            remote = await converse(url, f"{scheme}://127.0.0.1:{port}")
            assert remote == ("127.0.0.1", port)


async def test_tls_through_microsocks(secure_server: triows.Server, tls_contexts: Contexts) -> None:
    """TLS is with the server, through the proxy."""
    with microsocks() as port:
        await wait_listening(port)
        url = f"wss://127.0.0.1:{secure_server.port}/"
        await converse(url, f"socks5h://127.0.0.1:{port}", ssl_context=tls_contexts[1])


async def test_microsocks_with_credentials(server: triows.Server) -> None:
    """The right credentials lead to the server; wrong or no ones are refused for good."""
    url = f"ws://127.0.0.1:{server.port}/"
    with microsocks("-u", "joe", "-P", "s3cret") as port:
        await wait_listening(port)
        await converse(url, f"socks5h://joe:s3cret@127.0.0.1:{port}")
        for userinfo in ("joe:wrong@", ""):
            with pytest.raises(triows.ProxyError) as caught:
                await converse(url, f"socks5h://{userinfo}127.0.0.1:{port}")
            assert caught.value.is_lasting


async def test_a_server_that_microsocks_cannot_reach() -> None:
    """Its reply is told, and may pass."""
    with microsocks() as port:
        await wait_listening(port)
        with pytest.raises(triows.ProxyError, match="refused") as caught:
            await converse("ws://127.0.0.1:1/", f"socks5h://127.0.0.1:{port}")
        assert caught.value.status == 5
        assert not caught.value.is_lasting


async def test_the_environment_names_the_proxy(
    server: triows.Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By default HTTP_PROXY is used, but not for what NO_PROXY names."""
    url = f"ws://127.0.0.1:{server.port}/"
    read: Callable[[], str] = (tmp_path / "log").read_text
    with tinyproxy(tmp_path) as port:
        await wait_listening(port)
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{port}")
        async with triows.open_websocket(url) as ws:
            assert ws.remote == ("127.0.0.1", port)
        assert "CONNECT" in read()
        monkeypatch.setenv("NO_PROXY", "127.0.0.0/8")
        async with triows.open_websocket(url) as ws:
            assert ws.remote == server.addresses[0]
