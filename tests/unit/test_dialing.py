"""Dialling through proxies that misbehave, and what is missing to dial."""

import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

import triows
from tests.conformance.raw_server import RawServer
from tests.conformance.transports import open_pair
from triows._dialing import Dialer
from triows._url import URL

URL_ = URL.parse("ws://server.test/")
GRANTED = b"\x05\x00\x00\x01\x7f\x00\x00\x01\x00\x50"


@asynccontextmanager
async def proxy(
    scheme: str, serve: Callable[[RawServer], Awaitable[None]]
) -> AsyncIterator[Dialer]:
    """A proxy that treats one client as *serve* does; the block gets a dialler that uses it."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")

    async def once() -> None:
        async with await listener.accept() as stream:
            await serve(RawServer(stream, 10))

    async with listener, trio.open_nursery() as nursery:
        nursery.start_soon(once)
        port = listener.socket.getsockname()[1]
        yield Dialer(proxy=f"{scheme}://127.0.0.1:{port}")
        nursery.cancel_scope.cancel()


async def test_an_answer_in_single_octets():
    """An answer to CONNECT that is cut anywhere opens the tunnel: a bare socket."""

    async def serve(server):
        await server.receive_request()
        for octet in b"HTTP/1.1 200 OK\r\nX: y\r\n\r\n":
            await trio.testing.wait_all_tasks_blocked()
            await server.send(bytes([octet]))
        assert await server.stream.receive_some() == b"through"
        await server.send(b"and back")

    async with proxy("http", serve) as dialer, await dialer.open(URL_) as stream:
        assert isinstance(stream, trio.SocketStream)
        await stream.send_all(b"through")
        assert await stream.receive_some() == b"and back"


@pytest.mark.parametrize("cut", ["aclose", "reset"])
async def test_an_http_proxy_that_hangs_up(cut):
    """That is a ProxyError, which may pass; the connection is dropped."""

    async def serve(server):
        await server.receive_request()
        await server.send(b"HTTP/1.1 2")
        if cut == "reset":
            server.reset()
        else:
            await server.aclose()

    async with proxy("http", serve) as dialer:
        with pytest.raises(triows.ProxyError, match="before its answer") as caught:
            await dialer.open(URL_)
    assert not caught.value.is_lasting


async def test_a_refusing_http_proxy_is_left():
    """After a refusal the connection to the proxy is dropped."""

    async def serve(server):
        request = await server.receive_request()
        assert request.startswith(b"CONNECT server.test:80 HTTP/1.1\r\nHost: server.test:80\r\n")
        await server.send(b"HTTP/1.1 502 \r\n\r\n")
        assert await server.receive_end() == b""
        left.set()

    left = trio.Event()
    async with proxy("http", serve) as dialer:
        with pytest.raises(triows.ProxyError):
            await dialer.open(URL_)
        with trio.fail_after(5):
            await left.wait()


@pytest.mark.parametrize("reply", [b"", b"\x05", b"\x05\x00"])
async def test_a_socks_proxy_that_hangs_up(reply):
    """That is a ProxyError, which may pass."""

    async def serve(server):
        await server.stream.receive_some()
        await server.send(reply)
        await server.aclose()

    async with proxy("socks5h", serve) as dialer:
        with pytest.raises(triows.ProxyError) as caught:
            await dialer.open(URL_)
    assert caught.value.status is None
    assert not caught.value.is_lasting


async def test_a_socks_proxy_that_resets():
    """So is a reset."""

    async def serve(server):
        await server.stream.receive_some()
        server.reset()

    async with proxy("socks5h", serve) as dialer:
        with pytest.raises(triows.ProxyError, match="broke off") as caught:
            await dialer.open(URL_)
    assert not caught.value.is_lasting


@pytest.mark.parametrize(
    ("reply", "status", "is_lasting"),
    [(1, 1, False), (2, 2, True), (3, 3, False), (4, 4, False), (5, 5, False), (7, 7, True)],
)
async def test_replies_of_socks(reply, status, is_lasting):
    """A refusal has its number, and is lasting or not (RFC 1928 §6)."""

    async def serve(server):
        assert await server.stream.receive_some() == b"\x05\x01\x00"
        await server.send(b"\x05\x00")
        assert await server.stream.receive_some() == b"\x05\x01\x00\x03\x0bserver.test\x00\x50"
        await server.send(b"\x05" + bytes([reply]) + GRANTED[2:])

    async with proxy("socks5h", serve) as dialer:
        with pytest.raises(triows.ProxyError, match="refused") as caught:
            await dialer.open(URL_)
    assert (caught.value.status, caught.value.is_lasting) == (status, is_lasting)


async def test_what_is_no_socks_proxy():
    """An answer that is none of SOCKS5 is refused for good."""

    async def serve(server):
        await server.stream.receive_some()
        await server.send(b"HTTP/1.1 400 \r\n\r\n")
        await server.receive_end()

    async with proxy("socks5h", serve) as dialer:
        with pytest.raises(triows.ProxyError, match="version") as caught:
            await dialer.open(URL_)
    assert caught.value.is_lasting


@pytest.mark.parametrize("scheme", ["http", "https", "socks5"])
async def test_no_proxy_there(scheme):
    """A proxy that cannot be reached is an OSError that names it, without its password."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        place = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ConnectionRefusedError, match=f"{scheme}://{place}: ") as caught:
            await Dialer(proxy=f"{scheme}://a:s3cret@{place}").open(URL_)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("scheme", ["http", "https", "socks5h"])
async def test_a_proxy_that_says_nothing(scheme):
    """It counts against connect_timeout."""

    async def serve(server):
        await server.receive_end()

    async with proxy(scheme, serve) as dialer:
        slow = Dialer(proxy=dialer.proxy, connect_timeout=0.05)
        with pytest.raises(trio.TooSlowError, match=r"connecting to server\.test took more"):
            await slow.open(URL_)


async def test_without_python_socks(monkeypatch):
    """Without the extra a SOCKS5 proxy is an error that says how to get it."""
    monkeypatch.setitem(sys.modules, "python_socks", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'triows\[socks\]'"):
        await Dialer(proxy="socks5://127.0.0.1:1").open(URL_)


async def test_a_malformed_proxy_is_refused_at_once(monkeypatch):
    """Also one of the environment's, before anything is dialled; a given stream needs none."""
    monkeypatch.setenv("HTTP_PROXY", "gopher://p.test")
    with pytest.raises(ValueError, match="not 'gopher"):
        async with triows.open_websocket("ws://127.0.0.1:1/"):
            pass
    ours, theirs = open_pair()
    theirs.close()
    with pytest.raises(triows.InvalidHandshake):
        async with triows.open_websocket("ws://127.0.0.1:1/", stream=ours):
            pass


async def test_a_dialler_of_ones_own():
    """It is asked for host and port, and no proxy is used."""
    ours, _ = open_pair()

    async def dial(host, port):
        assert (host, port) == ("server.test", 80)
        await trio.lowlevel.checkpoint()
        return ours

    assert await Dialer(dial=dial, proxy="http://p.test").open(URL_) is ours
