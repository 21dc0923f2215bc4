"""Redirects: which are followed, where to, and what goes along."""

import ssl

import pytest
import trio

import triows
from tests.conformance.raw_server import RawServer
from triows._redirects import is_redirect, redirected
from triows._url import URL


def answer(status, *locations):
    """A refusal with Location fields."""
    return triows.HandshakeRejected(status, [("location", one) for one in locations], b"")


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects(status):
    """These statuses are redirects, if they say where to."""
    assert is_redirect(answer(status, "/"))
    assert not is_redirect(answer(status))


@pytest.mark.parametrize("status", [200, 300, 304, 305, 401, 503])
def test_no_redirects(status):
    """Others are none, whatever they say."""
    assert not is_redirect(answer(status, "/"))


@pytest.mark.parametrize(
    ("base", "location", "target"),
    [
        ("ws://a.test/b/c?d", "/e", "ws://a.test/e"),
        ("ws://a.test/b/c?d", "e?f", "ws://a.test/b/e?f"),
        ("ws://a.test/b/c?d", "", "ws://a.test/b/c?d"),
        ("ws://a.test:81/b", "//x.test/y", "ws://x.test/y"),
        ("ws://a.test/b", "wss://a.test/b", "wss://a.test/b"),
        ("ws://a.test/b", "https://a.test/b#f", "wss://a.test/b"),
        ("wss://a.test/b", "HTTPS://x.test:444", "wss://x.test:444/"),
        ("ws://a.test/b", "http://x.test/", "ws://x.test/"),
        ("ws://a.test/b", "/\xc3\xbc", "ws://a.test/%C3%BC"),
    ],
)
def test_targets(base, location, target):
    """A Location is relative to what was asked for; http and https stand for ws and wss."""
    assert str(redirected(URL.parse(base), answer(302, location))) == target


@pytest.mark.parametrize(
    ("base", "location", "why"),
    [
        ("wss://a.test/", "ws://a.test/", "leaves TLS"),
        ("wss://a.test/", "http://a.test/", "leaves TLS"),
        ("ws://a.test/", "ftp://a.test/", "not a ws"),
        ("ws://a.test/", "ws://u:s3cret@a.test/", "credentials"),
        ("ws://a.test/", "ws://[/", "malformed|Invalid"),
        ("ws://a.test/", "/a b", "spaces"),
        ("ws://a.test/", "ws://a.test:0/", "port"),
    ],
)
def test_targets_that_are_refused(base, location, why):
    """What must not be followed is a RedirectRefused, with the answer's status."""
    with pytest.raises(triows.RedirectRefused, match=why) as caught:
        redirected(URL.parse(base), answer(302, location))
    assert caught.value.status == 302
    assert "s3cret" not in str(caught.value)


def test_two_places():
    """An answer that names two places names none."""
    with pytest.raises(triows.RedirectRefused, match="more than one"):
        redirected(URL.parse("ws://a.test/"), answer(301, "/a", "/b"))


class Servers:
    """Raw servers on loopback, each of which treats its next client as it is told."""

    def __init__(self, nursery):
        self.requests = []
        self._nursery = nursery

    async def add(self, reply, context=None):
        """Start a server that answers its one client with *reply*; gives its port."""
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")

        async def serve():
            async with listener:
                stream = await listener.accept()
            if context is not None:
                stream = trio.SSLStream(stream, context, server_side=True)
            try:
                await self._treat(RawServer(stream, 10), reply)
            except trio.BrokenResourceError:  # the client does not trust the certificate
                assert context is not None
            finally:
                await trio.aclose_forcefully(stream)

        self._nursery.start_soon(serve)
        return listener.socket.getsockname()[1]

    async def _treat(self, server, reply):
        if reply is None:
            await server.open()
            self.requests.append(server.request)
            await server.send_close(1000)
            await server.receive_close()
        else:
            self.requests.append(await server.receive_request())
            await server.send(reply)
            await server.receive_end()


@pytest.fixture
async def servers(nursery, warm):
    """Raw servers."""
    await trio.lowlevel.checkpoint()
    return Servers(nursery)


def redirect_to(location):
    """A redirect without a body."""
    return f"HTTP/1.1 302 Found\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n".encode()


SECRETS = {"Authorization": "Bearer s3cret", "Cookie": "id=s3cret", "X-API-Key": "s3cret"}


async def converse(port, **options):
    """Connect; gives the WebSocket after its end."""
    with trio.fail_after(10):
        async with triows.open_websocket(f"ws://127.0.0.1:{port}/a", **options) as ws:
            assert [message async for message in ws] == []
    return ws


async def test_to_another_origin_without_secrets(servers):
    """Header fields of the application stay behind; what the protocol needs goes along."""
    last = await servers.add(None)
    first = await servers.add(redirect_to(f"http://127.0.0.1:{last}/b"))
    ws = await converse(first, headers=SECRETS, subprotocols=["p"], origin="https://o.test")
    assert ws.close_reason.code == 1000
    assert ws.request.host == f"127.0.0.1:{last}"
    assert ws.request.target == "/b"
    asked, redirected_ = servers.requests
    assert asked.count(b"s3cret") == 3
    assert b"s3cret" not in redirected_
    assert b"Origin: https://o.test" in redirected_
    assert b"Sec-WebSocket-Protocol: p" in redirected_
    key = b"Sec-WebSocket-Key: "
    assert asked.partition(key)[2][:24] != redirected_.partition(key)[2][:24]


async def test_back_home_without_secrets(servers):
    """What stayed behind does not come back where a foreign server has led."""
    home = await servers.add(None)
    away = await servers.add(redirect_to(f"ws://127.0.0.1:{home}/"))
    start = await servers.add(redirect_to(f"ws://127.0.0.1:{away}/"))
    await converse(start, headers=SECRETS)
    assert [b"s3cret" in request for request in servers.requests] == [True, False, False]


async def test_within_an_origin_with_secrets(nursery, warm):
    """On the same origin all header fields go along."""

    def check(request):
        assert request.headers["x-api-key"] == "s3cret"
        if request.target == "/a":
            return triows.HTTPResponse(307, {"Location": "b"})
        return None

    async def serve(task_status):
        await triows.serve(hang_up, 0, on_request=check, task_status=task_status)

    server = await nursery.start(serve)
    ws = await converse(server.port, headers=SECRETS)
    assert ws.request.target == "/b"
    nursery.cancel_scope.cancel()


async def hang_up(ws):
    """Close at once."""
    await ws.aclose()


@pytest.mark.parametrize("limit", [0, 1, 3])
async def test_too_many(nursery, warm, limit):
    """So many redirects are followed, and no more; 0 is none, told as an answer like others."""
    asked = []

    def turn_round(request):
        asked.append(request.target)
        return triows.HTTPResponse(302, {"Location": "/round"})

    async def serve(task_status):
        await triows.serve(hang_up, 0, on_request=turn_round, task_status=task_status)

    server = await nursery.start(serve)
    with pytest.raises(triows.HandshakeRejected) as caught:
        await converse(server.port, max_redirects=limit)
    assert isinstance(caught.value, triows.RedirectRefused) == (limit > 0)
    assert len(asked) == limit + 1
    nursery.cancel_scope.cancel()


async def test_into_tls(servers, tls_contexts):
    """From ws to wss: the certificate is checked."""
    theirs, ours = tls_contexts
    ports = [
        await servers.add(redirect_to(f"https://127.0.0.1:{await servers.add(None, theirs)}/"))
        for _ in range(2)
    ]
    assert (await converse(ports[0], ssl_context=ours)).request.scheme == "wss"
    with pytest.raises(ssl.SSLCertVerificationError):
        await converse(ports[1])


async def test_out_of_tls(servers, tls_contexts):
    """From wss to ws: nothing is dialled."""
    theirs, ours = tls_contexts
    first = await servers.add(redirect_to("http://127.0.0.1:1/"), theirs)
    with pytest.raises(triows.RedirectRefused, match="leaves TLS"):
        async with triows.open_websocket(f"wss://127.0.0.1:{first}/", ssl_context=ours):
            pass


async def test_to_where_the_proxy_is_malformed(servers, monkeypatch, tls_contexts):
    """A proxy that only the target would need, and that is none, is the redirect's fault."""
    monkeypatch.setenv("HTTPS_PROXY", "gopher://p.test")
    first = await servers.add(redirect_to("wss://server.test/"))
    with pytest.raises(triows.RedirectRefused, match="gopher"):
        await converse(first)
