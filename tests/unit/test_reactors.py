"""Reactors: listeners, handshakes and loops together, over TCP."""

import inspect
import sys
import threading
import typing
from functools import partial
from pathlib import Path

import pytest
import trio
from numba.core.errors import NumbaError
from websockets.exceptions import ConnectionClosedOK, InvalidStatus
from websockets.trio.client import connect

import triows
from triows import Response
from triows._kernels._registry import JIT
from triows._reactors import ReactorSettings


def count_descriptors():
    """How many descriptors this process has open."""
    return len(list(Path("/proc/self/fd").iterdir()))


@triows.compiled
def shout(payload, opcode):
    """Send text back in capitals; throw binary messages away."""
    if opcode == 2:
        return Response.DISCARD
    for i in range(len(payload)):
        if 97 <= payload[i] <= 122:
            payload[i] -= 32
    return Response.ECHO


@pytest.fixture(autouse=True)
def time_limit():
    """Threads do not know virtual time: no test here takes longer than the timeout."""
    triows.warm_up()


@pytest.mark.parametrize("threads", [0, 1, 3])
async def test_a_compiled_handler_answers(threads):
    """Messages go through the handler, in Trio's thread or in others."""
    with trio.fail_after(20):
        async with triows.open_reactor(shout, threads=threads) as reactor:
            ((host, port),) = await reactor.listen(0)
            for _ in range(4):
                async with connect(f"ws://{host}:{port}") as connection:
                    await connection.send(b"nothing comes of this")
                    await connection.send("hello " * 20_000)
                    assert await connection.recv() == "HELLO " * 20_000
            assert reactor.statistics().total.messages_received == 8
            assert reactor.statistics().total.messages_sent == 4
            assert len(reactor.statistics().loops) == max(1, threads)
            assert reactor.statistics().accepted == 4
            assert reactor.port == port


@pytest.mark.parametrize("threads", [0, 1])
async def test_leaving_says_goodbye_and_leaves_nothing(threads):
    """Peers are told 1001; no thread, descriptor or socket remains."""
    with trio.fail_after(20):
        before = (threading.active_count(), count_descriptors())
        async with trio.open_nursery() as nursery:
            hold = trio.Event()
            ready = trio.Event()

            async def serve():
                nonlocal address
                async with triows.open_reactor(threads=threads) as reactor:
                    address = (await reactor.listen(0))[0]
                    ready.set()
                    await hold.wait()

            address = ("", 0)
            nursery.start_soon(serve)
            await ready.wait()
            async with connect("ws://{}:{}".format(*address)) as connection:
                await connection.send("here")
                assert await connection.recv() == "here"
                hold.set()
                with pytest.raises(ConnectionClosedOK, match="1001"):
                    await connection.recv()
        assert count_descriptors() <= before[1] + 3  # Trio's own, at the first use
        assert threading.active_count() <= before[0] + 2  # Trio keeps idle threads for a while


@pytest.mark.parametrize("threads", [0, 1])
async def test_a_deaf_peer_gets_the_grace_and_no_more(threads):
    """Cancelling is bounded by shutdown_grace, whatever peers do."""
    with trio.fail_after(20):
        async with triows.open_reactor(threads=threads, shutdown_grace=0.2) as reactor:
            (address,) = await reactor.listen(0)
            stream = await trio.open_tcp_stream(*address)
            await stream.send_all(
                b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
            )
            assert (await stream.receive_some()).startswith(b"HTTP/1.1 101 ")
            start = trio.current_time()
        assert trio.current_time() - start < 5
        await stream.aclose()


async def test_run_ends_without_listener_and_connection():
    """With nothing to wait for, run returns."""
    with trio.fail_after(20):
        await triows.Reactor().run()


async def test_a_listener_that_was_there_before_keeps_run_going():
    """Whichever task runs first, run does not end before the listener is in use."""
    with trio.fail_after(20):
        for _ in range(20):
            async with trio.open_nursery() as nursery:
                reactor = await nursery.start(partial(triows.Reactor().run_echo, 0))
                async with connect("ws://{}:{}".format(*reactor.addresses[0])) as connection:
                    await connection.send("x")
                    assert await connection.recv() == "x"
                nursery.cancel_scope.cancel()


async def test_requests_are_asked_about():
    """on_request may answer with a response of its own."""

    def answer(request):
        return None if request.path == "/talk" else triows.HTTPResponse(404)

    with trio.fail_after(20):
        async with triows.open_reactor(on_request=answer) as reactor:
            ((host, port),) = await reactor.listen(0)
            with pytest.raises(InvalidStatus, match="404"):
                async with connect(f"ws://{host}:{port}/"):
                    pass
            async with connect(f"ws://{host}:{port}/talk") as connection:
                await connection.send("x")
                assert await connection.recv() == "x"


async def test_one_connection_too_many_is_refused():
    """Beyond max_connections the answer is 503."""
    with trio.fail_after(20):
        limits = triows.Limits(max_connections=1)
        async with triows.open_reactor(limits=limits) as reactor:
            ((host, port),) = await reactor.listen(0)
            async with connect(f"ws://{host}:{port}") as connection:
                await connection.send("x")
                await connection.recv()
                with pytest.raises(InvalidStatus, match="503"):
                    async with connect(f"ws://{host}:{port}"):
                        pass


@pytest.mark.skipif(not JIT, reason="interpreted, nothing is compiled")
async def test_a_handler_that_does_not_compile_ends_the_run():
    """What comes out is numba's own error, unwrapped, before anything is accepted."""

    @triows.compiled
    def forgetful(payload, opcode):
        """Answer binary messages only."""
        return Response.ECHO if opcode == 2 else None

    reactor = triows.Reactor(forgetful)
    with trio.fail_after(20), pytest.raises(NumbaError):
        await reactor.run_echo()
    with trio.fail_after(20), pytest.raises(NumbaError):
        async with triows.open_reactor(forgetful):
            pytest.fail("it runs")

    assert reactor.statistics().accepted == 0
    assert reactor.addresses == []


def test_a_handler_must_be_compiled():
    """A plain function is refused with words, and so is a number of threads below 0."""
    with pytest.raises(TypeError, match=r"triows\.compiled"):
        triows.Reactor(lambda payload, opcode: 1)
    with pytest.raises(ValueError, match="threads is -1"):
        triows.Reactor(threads=-1)


async def test_the_reactor_can_be_ruled_out(monkeypatch):
    """Under TRIOWS_DRIVER=stream asking for it says so in one line, and nothing was begun."""
    monkeypatch.setenv("TRIOWS_DRIVER", "stream")
    line = "^TRIOWS_DRIVER=stream rules the reactor out$"

    with pytest.raises(RuntimeError, match=line):
        triows.Reactor()
    with pytest.raises(RuntimeError, match=line):
        async with triows.open_reactor():
            pytest.fail("there is one")


def test_another_systems_epoll_will_not_do(monkeypatch):
    """Where epoll is there but not Linux's, there is no reactor either."""
    monkeypatch.setattr(sys, "platform", "sunos5")

    with pytest.raises(RuntimeError, match=r"^the reactor needs the epoll of Linux, .*$"):
        triows.Reactor()


def test_open_reactor_takes_what_a_reactor_takes():
    """Type checkers know each of its settings."""
    settings = inspect.signature(triows.Reactor).parameters
    known = typing.get_type_hints(ReactorSettings)
    assert list(settings) == ["handler", *known]
    hints = typing.get_type_hints(triows.Reactor.__init__)
    assert {name: hints[name] for name in known} == known


async def test_origins_have_no_case():
    """An origin is compared as browsers send it, in lower case, however it was listed."""
    async with triows.open_reactor(origins=["https://Example.org"]) as reactor:
        ((host, port),) = await reactor.listen(0)
        async with connect(f"ws://{host}:{port}", origin="https://example.org") as connection:
            await connection.send("hello")
            assert await connection.recv() == "hello"


@pytest.mark.parametrize(
    ("setting", "kind"),
    [
        ({"origins": "https://example.org"}, TypeError),
        ({"origins": ["example.org"]}, ValueError),
        ({"origins": ["https://example.org/"]}, ValueError),
        ({"origins": ["https://*.example.org"]}, ValueError),
        ({"shutdown_grace": -1}, ValueError),
        ({"limits": None}, TypeError),
        ({"keepalive": 20}, TypeError),
        ({"deflate": True}, TypeError),
        ({"on_request": "/healthz"}, TypeError),
    ],
    ids=str,
)
def test_settings_are_checked_at_once(setting, kind):
    """What cannot be served with is refused before anything listens, by its name."""
    (name,) = setting
    with pytest.raises(kind, match=name):
        triows.Reactor(**setting)


async def wait_for_it(_payload, _opcode, _more=None):
    """Be asynchronous."""


def test_callbacks_are_no_coroutines():
    """A callback that would never run, since nothing awaits it, is refused by its name."""

    class Patient(triows.Handler):
        async def on_frame(self, conn, payload, opcode):
            conn.echo()

    with pytest.raises(TypeError, match=r"Patient\.on_frame is asynchronous"):
        triows.Reactor(Patient())
    for make in (triows.handler_fn, triows.compiled):
        with pytest.raises(TypeError, match="function is asynchronous"):
            make(wait_for_it)
        with pytest.raises(TypeError, match="function must be Callable, not 5"):
            make(5)
