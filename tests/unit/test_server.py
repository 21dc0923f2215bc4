"""`serve` and `serve_listeners`: what they refuse, and how they end."""

import errno
from functools import partial

import pytest
import trio

import triows


async def echo(ws):
    """Send every message back."""
    async for message in ws:
        await ws.send(message)


class BrokenListener(trio.abc.Listener):
    """Accepts nothing.

    Args:
        error: what accepting raises.
    """

    def __init__(self, error) -> None:
        self.error = error
        self.is_closed = False

    async def accept(self):
        """Fail."""
        await trio.lowlevel.checkpoint()
        raise self.error

    async def aclose(self) -> None:
        """Note that this is closed."""
        self.is_closed = True
        await trio.lowlevel.checkpoint()


@pytest.mark.parametrize("error", [OSError(errno.EBADF, "gone"), KeyboardInterrupt()], ids=repr)
async def test_what_ends_a_server_comes_out_as_it_was_raised(error) -> None:
    """A listener's error, or Ctrl-C, is in no group; the listener is closed."""
    listener = BrokenListener(error)

    with pytest.raises(type(error)) as raised:
        await triows.serve_listeners(echo, [listener])

    assert raised.value is error
    assert listener.is_closed


@pytest.mark.parametrize(
    ("setting", "kind"),
    [
        ({"handler": None}, TypeError),
        ({"port": 65_536}, ValueError),
        ({"port": -1}, ValueError),
        ({"ssl_context": True}, TypeError),
        ({"on_request": "/healthz"}, TypeError),
        ({"origins": "https://example.org"}, TypeError),
        ({"subprotocols": "chat"}, TypeError),
        ({"limits": {"max_message": 5}}, TypeError),
        ({"keepalive": 20}, TypeError),
        ({"keepalive": None}, TypeError),
        ({"deflate": True}, TypeError),
        ({"driver": "fast"}, ValueError),
        ({"shutdown_grace": -1}, ValueError),
    ],
    ids=str,
)
async def test_settings_are_checked_at_once(setting, kind) -> None:
    """What cannot be served with is refused by its name, before anyone is served."""
    (name,) = setting
    with pytest.raises(kind, match=rf"\b{name}"):
        await triows.serve(**{"handler": echo, "port": 0} | setting)


async def test_an_error_of_listening_says_where() -> None:
    """A port that is taken is named by the error, which keeps its number."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listener.socket.getsockname()[1]

    async with listener:
        with pytest.raises(OSError, match=f"cannot listen on 127.0.0.1 port {port}: ") as raised:
            await triows.serve(echo, port)
        with pytest.raises(OSError, match=f"cannot listen on 127.0.0.1 port {port}: "):
            await triows.Reactor().listen(port)

    assert raised.value.errno == errno.EADDRINUSE


async def test_a_server_says_where_it_is(nursery) -> None:
    """Its representation is a line: its addresses and how many are connected."""
    server = await nursery.start(triows.serve, echo, 0)

    assert repr(server) == f"<triows.Server at [('127.0.0.1', {server.port})], 0 connections>"
    nursery.cancel_scope.cancel()


async def test_an_answer_that_is_none_is_named(nursery, caplog) -> None:
    """What on_request may not answer with is a 500, and named by the log."""
    serve = partial(triows.serve, echo, 0, on_request=lambda _request: "welcome")
    server = await nursery.start(serve)

    with pytest.raises(triows.HandshakeRejected) as raised:
        async with triows.open_websocket(f"ws://127.0.0.1:{server.port}"):
            pass

    assert raised.value.status == 500
    assert "must be Accept or HTTPResponse or None, not 'welcome'" in caplog.text
    nursery.cancel_scope.cancel()
