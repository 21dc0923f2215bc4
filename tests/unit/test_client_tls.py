"""The client over TLS: which certificates it takes, and how it tells a cut from an end."""

import ssl

import pytest
import trio
import trustme

import triows
from tests.conformance.raw_server import RawServer
from triows._client import open_websocket

AUTHORITY = trustme.CA()


async def echo(ws):
    """Send every message back."""
    async for message in ws:
        await ws.send(message)


def server_context(*names, authority=AUTHORITY):
    """A server's context with a certificate for *names*."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(*names).configure_cert(context)
    return context


@pytest.fixture
def trusting():
    """A client's context that trusts the test's authority."""
    context = ssl.create_default_context()
    AUTHORITY.configure_trust(context)
    return context


async def start(nursery, context):
    """Start an echo server over TLS; returns its port."""
    await trio.lowlevel.checkpoint()
    server = await nursery.start(lambda task_status: serve(context, task_status))
    return server.port


async def serve(context, task_status):
    """Serve until cancelled."""
    await triows.serve(echo, 0, ssl_context=context, task_status=task_status)


@pytest.mark.parametrize(
    ("names", "host"),
    [(["localhost"], "localhost"), (["127.0.0.1"], "127.0.0.1")],
)
async def test_verified(nursery, trusting, names, host):
    """A certificate of a known authority for the host, a name or an address, is taken."""
    port = await start(nursery, server_context(*names))
    async with open_websocket(f"wss://{host}:{port}/", ssl_context=trusting) as ws:
        await ws.send("a" * 100_000)
        assert await ws.receive() == "a" * 100_000
        assert ws.request.scheme == "wss"
        assert ws.remote[1] == port
    assert ws.close_reason.code == 1000
    nursery.cancel_scope.cancel()


async def test_wrong_host(nursery, trusting):
    """A certificate for another host is refused, as an SSLCertVerificationError."""
    port = await start(nursery, server_context("other.example"))
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        async with open_websocket(f"wss://localhost:{port}/", ssl_context=trusting):
            pass
    nursery.cancel_scope.cancel()


async def test_unknown_authority(nursery):
    """A certificate of an unknown authority is refused by default."""
    port = await start(nursery, server_context("localhost", authority=trustme.CA()))
    with pytest.raises(ssl.SSLCertVerificationError, match="unable to get local issuer"):
        async with open_websocket(f"wss://localhost:{port}/"):
            pass
    nursery.cancel_scope.cancel()


async def test_wss_to_a_server_without_tls(nursery):
    """TLS with a server that speaks none fails as an OSError."""
    server = await nursery.start(triows.serve, echo, 0)
    with pytest.raises(ssl.SSLError):
        async with open_websocket(f"wss://127.0.0.1:{server.port}/"):
            pass
    nursery.cancel_scope.cancel()


async def test_a_reset_during_the_tls_handshake(nursery):
    """A server that cuts the connection off within the TLS handshake is an OSError."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")

    async def cut_off():
        server = RawServer(await listener.accept(), 10)
        await server.stream.receive_some(1)
        server.reset()

    nursery.start_soon(cut_off)
    async with listener:
        with pytest.raises(ConnectionResetError, match="TLS handshake"):
            async with open_websocket(f"wss://127.0.0.1:{listener.socket.getsockname()[1]}/"):
                pass


@pytest.mark.parametrize("host", ["a.example", "a.example."])
async def test_tls_over_a_given_stream(nursery, trusting, host):
    """For wss, TLS is spoken over the stream that is given; a root dot does not matter."""
    port = await start(nursery, server_context("a.example"))
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    async with open_websocket(f"wss://{host}/", stream=stream, ssl_context=trusting) as ws:
        await ws.send("a")
        assert await ws.receive() == "a"
    assert stream.socket.fileno() == -1
    nursery.cancel_scope.cancel()


async def test_a_cut_without_close_notify(nursery, trusting):
    """TLS that ends without close_notify is a broken connection, code 1006."""
    context = server_context("localhost")
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")

    async def serve_and_cut():
        transport = await listener.accept()
        server = RawServer(trio.SSLStream(transport, context, server_side=True), 10)
        await server.open()
        await server.send_frame(1, b"before")
        await transport.aclose()

    nursery.start_soon(serve_and_cut)
    async with listener:
        url = f"wss://localhost:{listener.socket.getsockname()[1]}/"
        async with open_websocket(url, ssl_context=trusting) as ws:
            assert await ws.receive() == "before"
            with pytest.raises(triows.ConnectionBroken) as caught:
                await ws.receive()
            assert caught.value.code == 1006
