"""Where connections live: a server's loop, and the one that the clients of a run share."""

import contextlib
import errno
import logging
import os
import socket
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

import triows
from tests.conformance.raw_server import RawServer
from tests.conformance.transports import echo
from triows import KeepAlive, Limits
from triows._hub import _shared, shared_hub
from triows._reactor import Session
from triows._stream import StreamDriver

pytestmark = pytest.mark.skipif(
    os.environ.get("TRIOWS_DRIVER") == "stream", reason="the reactor is ruled out"
)


@pytest.fixture
async def url(warm: None, nursery: trio.Nursery) -> str:
    """Of a server that echoes."""
    server = await nursery.start(partial(triows.serve, echo, 0))
    return f"ws://127.0.0.1:{server.port}/"


def tasks() -> int:
    """How many there are."""
    return trio.lowlevel.current_statistics().tasks_living


def descriptors() -> int:
    """How many are open."""
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - counted, not used


async def test_clients_share_one_loop_from_the_first_to_the_last(url: str):
    """It begins with the first, ends after the last, and is another one next time."""
    await trio.testing.wait_all_tasks_blocked(0.02)
    before = tasks(), descriptors()
    assert _shared.get() is None
    async with triows.open_websocket(url) as one:
        hub = _shared.get()
        assert hub is not None
        async with triows.open_websocket(url) as other:
            assert _shared.get() is hub
            for ws in (one, other):
                await ws.send("hello")
                assert await ws.receive() == "hello"
        assert _shared.get() is hub
    assert _shared.get() is None
    await trio.testing.wait_all_tasks_blocked(0.05)
    assert (tasks(), descriptors()) == before
    async with triows.open_websocket(url) as ws:
        assert _shared.get() not in (None, hub)
        await ws.send("again")
        assert await ws.receive() == "again"


async def test_a_client_has_no_task_of_its_own(url: str):
    """However many there are, the shared loop's tasks are all."""
    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(triows.open_websocket(url))
        await trio.testing.wait_all_tasks_blocked(0.02)
        before = tasks()
        for _ in range(10):
            await stack.enter_async_context(triows.open_websocket(url))
        await trio.testing.wait_all_tasks_blocked(0.02)
        assert tasks() - before == 10  # the server's handlers


async def test_two_runs_share_nothing(warm: None):
    """A run of Trio's in another thread has a loop of its own."""
    hub = shared_hub()
    assert shared_hub() is hub

    async def other() -> bool:
        return shared_hub() is hub

    assert not await trio.to_thread.run_sync(trio.run, other)


async def test_an_error_of_the_loop_ends_its_connections_and_nothing_else(
    url: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    """They are lost, the log says why, and the next client has another loop."""
    with caplog.at_level(logging.ERROR, "triows"):
        async with triows.open_websocket(url) as ws:
            hub: Any = _shared.get()

            def fail(*_: object) -> int:
                raise OSError(errno.EBADF, "epoll is gone")

            monkeypatch.setattr(hub._loop, "take_turns", fail)
            with contextlib.suppress(triows.ConnectionBroken):
                await ws.send("x")  # which has the loop turn
            with pytest.raises(triows.ConnectionBroken), trio.fail_after(5):
                await ws.receive()
            assert ws.close_reason is not None
            assert ws.close_reason.code == 1006
    assert "the loop of the clients failed" in caplog.text
    async with triows.open_websocket(url) as ws:
        await ws.send("fine")
        assert await ws.receive() == "fine"


async def test_each_client_has_its_own_settings(url: str):
    """Limits and keepalive are a connection's, though the loop is shared."""
    strict = triows.open_websocket(url, limits=Limits(max_message=10), deflate=None)
    async with strict as one, triows.open_websocket(url, deflate=None) as other:
        await other.send("x" * 1000)
        assert await other.receive() == "x" * 1000
        await one.send("x" * 1000)
        with pytest.raises(triows.ConnectionBroken) as caught:
            await one.receive()
        assert caught.value.code == 1009
        await other.send("still")
        assert await other.receive() == "still"


async def test_a_client_pings_its_quiet_server(warm: None):
    """By its own keepalive, and gives it up."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")

    async with listener, trio.open_nursery() as nursery:

        @nursery.start_soon
        async def serve() -> None:
            async with await listener.accept() as stream:
                await RawServer(stream, 10).open()
                await trio.sleep_forever()

        port = listener.socket.getsockname()[1]
        keepalive = KeepAlive(interval=0.1, timeout=0.1)
        async with triows.open_websocket(f"ws://127.0.0.1:{port}/", keepalive=keepalive) as ws:
            with pytest.raises(triows.ConnectionBroken) as caught, trio.fail_after(5):
                await ws.receive()
            assert caught.value.code == 1006
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("driver", "kind"), [("auto", Session), ("reactor", Session), ("stream", StreamDriver)]
)
async def test_the_driver_can_be_chosen(warm: None, driver: Any, kind: type):
    """On either side; by default it is the reactor for what is a plain socket."""
    offer, accepted = trio.open_memory_channel[triows.WebSocket](1)

    async def host(ws: triows.WebSocket) -> None:
        offer.send_nowait(ws)
        await echo(ws)

    async with trio.open_nursery() as nursery:
        server = await nursery.start(partial(triows.serve, host, 0, driver=driver))
        url = f"ws://127.0.0.1:{server.port}/"
        async with triows.open_websocket(url, driver=driver) as ws:
            assert type(ws._driver) is kind
            assert type((await accepted.receive())._driver) is kind
            await ws.send("hello")
            assert await ws.receive() == "hello"
        nursery.cancel_scope.cancel()


async def test_an_unknown_driver_is_refused(warm: None):
    """Before anything is dialled or listened on."""
    with pytest.raises(ValueError, match="no driver"):
        async with triows.open_websocket("ws://127.0.0.1:1/", driver="fast"):  # type: ignore[arg-type]
            pass
    with pytest.raises(ValueError, match="no driver"):
        await triows.serve(echo, 0, driver="fast")  # type: ignore[arg-type]


async def test_the_environment_rules_the_reactor_out(url: str, monkeypatch: pytest.MonkeyPatch):
    """``TRIOWS_DRIVER=stream`` is for trying the other."""
    monkeypatch.setenv("TRIOWS_DRIVER", "stream")
    async with triows.open_websocket(url) as ws:
        assert type(ws._driver) is StreamDriver
        assert _shared.get() is None
    with pytest.raises(RuntimeError, match="TRIOWS_DRIVER"):
        async with triows.open_websocket(url, driver="reactor"):
            pass


@pytest.mark.parametrize("driver", ["stream", "reactor"])
async def test_unix_sockets_are_served(warm: None, tmp_path: Path, driver: Any):
    """By either driver, both ends."""
    path = str(tmp_path / "socket")
    listening = trio.socket.socket(socket.AF_UNIX)
    await listening.bind(path)
    listening.listen()
    offer, accepted = trio.open_memory_channel[triows.WebSocket](1)

    async def host(ws: triows.WebSocket) -> None:
        offer.send_nowait(ws)
        await echo(ws)

    async with trio.open_nursery() as nursery:
        listeners = [trio.SocketListener(listening)]
        serve = partial(triows.serve_listeners, host, listeners, driver=driver)
        server = await nursery.start(serve)
        stream = await trio.open_unix_socket(path)
        async with triows.open_websocket("ws://local/", stream=stream, driver=driver) as ws:
            for message in ("text", b"octets", bytes(300_000)):
                await ws.send(message)
                assert await ws.receive() == message
            kind = Session if driver == "reactor" else StreamDriver
            assert type(ws._driver) is type((await accepted.receive())._driver) is kind
        assert server.addresses == [path]
        nursery.cancel_scope.cancel()


async def test_handlers_elsewhere_outlive_the_server(warm: None):
    """Connections in a nursery of someone else's go on in the loop that is shared."""
    async with trio.open_nursery() as handlers, trio.open_nursery() as nursery:
        scope = trio.CancelScope()

        async def serve(task_status: Any) -> None:
            with scope:
                await triows.serve(echo, 0, handler_nursery=handlers, task_status=task_status)

        server = await nursery.start(serve)
        async with triows.open_websocket(f"ws://127.0.0.1:{server.port}/") as ws:
            await ws.send("one")
            assert await ws.receive() == "one"
            scope.cancel()
            await trio.testing.wait_all_tasks_blocked(0.02)
            await ws.send("two")
            assert await ws.receive() == "two"


async def test_what_the_main_task_leaves_open_is_closed(warm: None, nursery: trio.Nursery):
    """A run that ends says goodbye for clients that are in no block any more."""
    closed: list[int] = []

    async def host(ws: triows.WebSocket) -> None:
        with contextlib.suppress(triows.ConnectionBroken):
            await echo(ws)
        assert ws.close_reason is not None
        closed.append(ws.close_reason.code)

    server = await nursery.start(partial(triows.serve, host, 0))

    async def use(url: str) -> None:
        async def keep() -> None:
            async with triows.open_websocket(url) as ws:
                await ws.send("x")
                await ws.receive()
                started.set()
                await trio.sleep_forever()

        started = trio.Event()
        trio.lowlevel.spawn_system_task(keep)
        await started.wait()

    await trio.to_thread.run_sync(trio.run, use, f"ws://127.0.0.1:{server.port}/")
    with trio.fail_after(5):
        while not closed:  # noqa: ASYNC110 - another thread's peer
            await trio.sleep(0.01)
    assert closed[0] in (1001, 1006)
