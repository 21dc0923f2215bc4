"""The examples: each is run, and each is short."""

import json
import math
import re
import runpy
import select
import signal
import ssl
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import trio
import trio.testing
import trustme
from websockets.exceptions import ConnectionClosedError, InvalidStatus
from websockets.sync.client import connect as connect_sync
from websockets.trio.client import connect

import triows
from chat import Directory
from tests.conformance.peer import build_frame
from triows.testing import memory_pair, memory_server

EXAMPLES = Path(__file__).parents[2] / "examples"
LONGEST = 60  # lines

ELSEWHERE = {"many_machines": Path(__file__).parents[1] / "redis" / "test_example.py"}
"""Where examples are tested that need more than a Python."""


class Program:
    """An example run as a program, except that it listens on a port that is free."""

    def __init__(self, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self._path = EXAMPLES / f"{name}.py"
        self._monkeypatch = monkeypatch

    async def start(self, nursery: trio.Nursery) -> str:
        """Run what the example gives to ``trio.run``; returns the server's address."""
        started, wait_started = trio.open_memory_channel(1)
        serve_on = triows.serve

        async def serve(handler, _port, **settings):
            async with trio.open_nursery() as inner:
                started.send_nowait(await inner.start(partial(serve_on, handler, 0, **settings)))

        with self._monkeypatch.context() as patch:
            patch.setattr(triows, "serve", serve)
            patch.setattr(trio, "run", nursery.start_soon)
            runpy.run_path(str(self._path), run_name="__main__")
            server = await wait_started.receive()
        return f"127.0.0.1:{server.port}"


@pytest.fixture
def program(monkeypatch):
    """Make Programs."""
    return partial(Program, monkeypatch=monkeypatch)


async def test_echo_server(program, nursery) -> None:
    """The echo server sends back text and binary messages."""
    address = await program("echo_server").start(nursery)

    async with connect(f"ws://{address}") as connection:
        for message in ("text", b"\x00\xff"):
            await connection.send(message)
            assert await connection.recv() == message
    nursery.cancel_scope.cancel()


async def start_reactor(name: str, monkeypatch, nursery: trio.Nursery) -> str:
    """Run an example of the reactor as a program, on a free port; returns its address."""
    started, wait_started = trio.open_memory_channel(1)
    run_echo = triows.Reactor.run_echo

    async def run_where_it_is_free(reactor, _port) -> None:
        started.send_nowait(await nursery.start(partial(run_echo, reactor, 0)))
        await trio.sleep_forever()

    monkeypatch.setattr(triows.Reactor, "run_echo", run_where_it_is_free)
    with monkeypatch.context() as patch:
        patch.setattr(trio, "run", nursery.start_soon)
        runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    return f"127.0.0.1:{(await wait_started.receive()).port}"


async def test_echo_reactor(monkeypatch, nursery) -> None:
    """The reactor sends back text and binary messages."""
    address = await start_reactor("echo_reactor", monkeypatch, nursery)

    async with connect(f"ws://{address}") as connection:
        for message in ("text", b"\x00\xff"):
            await connection.send(message)
            assert await connection.recv() == message
    nursery.cancel_scope.cancel()


async def test_echo_callback(monkeypatch, nursery, capsys) -> None:
    """Messages come back; who leaves is reported, with what was said."""
    address = await start_reactor("echo_callback", monkeypatch, nursery)

    async with connect(f"ws://{address}") as connection:
        for message in ("text", b"\x00\xff", "g" * 300_000):
            await connection.send(message)
            assert await connection.recv() == message
    with trio.fail_after(10):
        while not (said := capsys.readouterr().out):  # noqa: ASYNC110 - printed when it notices
            await trio.sleep(0.001)
    assert said == "127.0.0.1 said 3 things, and left with 1000\n"
    nursery.cancel_scope.cancel()


async def test_thread_to_clients(monkeypatch, nursery) -> None:
    """Everyone hears the thread count up without a gap, and it ends with the server."""
    before = threading.active_count()
    address = await start_reactor("thread_to_clients", monkeypatch, nursery)

    async with connect(f"ws://{address}") as one, connect(f"ws://{address}") as other:
        for connection in (one, other):
            numbers = [int(await connection.recv()) for _ in range(4)]
            assert numbers == list(range(numbers[0], numbers[0] + 4))
    nursery.cancel_scope.cancel()
    with trio.CancelScope(shield=True), trio.fail_after(10):
        while threading.active_count() > before + 2:  # noqa: ASYNC110 - Trio keeps idle ones
            await trio.sleep(0.001)


OFFER = (
    b"GET /talk HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)


async def test_embed_in_http_server(nursery) -> None:
    """An HTTP server hands its upgraded sockets over, with the frames behind the request."""
    serve_http = load("embed_in_http_server")["serve_http"]
    handler = triows.handler_fn(load("embed_in_http_server")["echo"])
    async with triows.open_reactor(handler) as reactor:
        serve = partial(serve_http, reactor=reactor)
        (listener,) = await nursery.start(partial(trio.serve_tcp, serve, 0, host="127.0.0.1"))
        address = f"127.0.0.1:{listener.socket.getsockname()[1]}"

        assert (await get(address, "/")).endswith(b"\r\n\r\na page\n")
        for message in ("text", "g" * 300_000):
            async with connect(f"ws://{address}/talk") as connection:
                await connection.send(message)
                assert await connection.recv() == message
        for size in (20, 70_000):  # behind the request, in the same octets
            frame = build_frame(1, b"early" * (size // 5))
            async with await trio.open_tcp_stream("127.0.0.1", int(address[10:])) as stream:
                await stream.send_all(OFFER + frame)
                octets = b""
                while not octets.endswith(b"early" * (size // 5)):
                    octets += await stream.receive_some()
                assert octets.startswith(b"HTTP/1.1 101 ")
        assert reactor.statistics().total.opened == 4
        nursery.cancel_scope.cancel()


async def test_embed_in_http_server_declines_what_a_reactor_cannot_take(nursery) -> None:
    """TLS and streams in memory get a 501, not a crash; pages are served over both."""
    serve_http = load("embed_in_http_server")["serve_http"]
    authority = trustme.CA()
    server_context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("a.test").configure_cert(server_context)
    client_context = ssl.create_default_context()
    authority.configure_trust(client_context)
    async with triows.open_reactor(triows.Handler()) as reactor:
        for asks, status in ((OFFER, b"501"), (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"200")):
            ours, theirs = trio.testing.memory_stream_pair()
            tls = trio.SSLStream(theirs, server_context, server_side=True)
            for client, server in (
                trio.testing.memory_stream_pair(),
                (trio.SSLStream(ours, client_context, server_hostname="a.test"), tls),
            ):
                nursery.start_soon(partial(serve_http, server, reactor=reactor))
                await client.send_all(asks)
                assert (await client.receive_some()).startswith(b"HTTP/1.1 " + status)
                await trio.aclose_forcefully(client)
        assert reactor.statistics().total.opened == 0


async def test_uppercase_compiled(monkeypatch, nursery) -> None:
    """Text comes back in capitals, as UTF-8 as it was; binary messages are thrown away."""
    address = await start_reactor("uppercase_compiled", monkeypatch, nursery)

    async with connect(f"ws://{address}") as connection:
        await connection.send(b"no reply")
        await connection.send("azAZ {`@[ grüße " * 10_000)
        assert await connection.recv() == "AZAZ {`@[ GRüßE " * 10_000
    nursery.cancel_scope.cancel()


def test_the_compiled_handler_as_plain_python() -> None:
    """A compiled handler can be called like the function that it was made of."""
    uppercase = load("uppercase_compiled")["uppercase"]
    payload = np.frombuffer(bytearray(b"hello"), np.uint8)

    assert uppercase(payload, triows.Opcode.TEXT) is triows.Response.ECHO
    assert payload.tobytes() == b"HELLO"
    assert uppercase(payload, triows.Opcode.BINARY) is triows.Response.DISCARD


def test_engine_over_socket() -> None:
    """Peers side by side get every message back; one that breaks the protocol is told so."""
    command = [sys.executable, EXAMPLES / "engine_over_socket.py", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert select.select([process.stdout], [], [], 60)[0]
            url = process.stdout.readline().removeprefix("READY ").strip()
            with connect_sync(url, compression=None) as one, connect_sync(url) as other:
                for message in ("text", b"\x00\xff", bytes(300_000)):
                    for connection in (one, other):
                        connection.send(message)
                    assert [one.recv(10), other.recv(10)] == [message] * 2
                one.socket.sendall(b"\xc1\x80\0\0\0\0")
                with pytest.raises(ConnectionClosedError, match="1002"):
                    one.recv(10)
                other.send("still there")
                assert other.recv(10) == "still there"
            with connect_sync(url) as connection:
                connection.send("a descriptor used again")
                assert connection.recv(10) == "a descriptor used again"
        finally:
            process.terminate()


async def test_health_check(program, nursery) -> None:
    """Plain requests are answered over HTTP, /talk opens a WebSocket, all else is refused."""
    address = await program("health_check").start(nursery)

    assert (await get(address, "/healthz")).endswith(b"\r\n\r\nfine\n")
    async with connect(f"ws://{address}/talk") as connection:
        assert await connection.recv() == "you asked for /talk"
    with pytest.raises(InvalidStatus, match="404"):
        async with connect(f"ws://{address}/elsewhere"):
            pass
    nursery.cancel_scope.cancel()


def test_sans_io(capsys) -> None:
    """The engine answers a whole frame and one in two parts, each as the handler changed it."""
    runpy.run_path(str(EXAMPLES / "sans_io.py"), run_name="__main__")

    reply = b"\x81\x05HELLO"
    assert capsys.readouterr().out == f"{reply}\n" * 2


def load(name: str) -> dict:
    """Run an example as a module; returns what it defines."""
    return runpy.run_path(str(EXAMPLES / f"{name}.py"))


async def test_echo_client(program, nursery, capsys) -> None:
    """The echo client prints what comes back, and how long a round trip takes."""
    address = await program("echo_server").start(nursery)

    await load("echo_client")["main"](f"ws://{address}/")

    *lines, last = capsys.readouterr().out.splitlines()
    assert lines == ["'hello'", "'wörld'", r"b'\x00\xff'"]
    assert last.startswith("a round trip takes 0.")
    nursery.cancel_scope.cancel()


async def test_two_way_client(program, nursery, capsys) -> None:
    """The client prints what comes back; what goes wrong is said in words."""
    talk_to = load("two_way_client")["main"]
    echoing = await program("echo_server").start(nursery)
    picky = await program("health_check").start(nursery)

    assert await talk_to(f"ws://{echoing}/") is None
    assert capsys.readouterr().out.splitlines() == ["message 0", "message 1", "message 2"]
    assert await talk_to(f"ws://{picky}/elsewhere") == "the server says 404: no such place\n"
    assert "Connection refused" in await talk_to("ws://127.0.0.1:1/")
    assert "no WebSocket server" in await talk_to(f"ws://{await babbler(nursery)}/")
    nursery.cancel_scope.cancel()


async def babbler(nursery: trio.Nursery) -> str:
    """Start a server of nothing in particular; returns its address."""

    async def babble(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(b"SSH-2.0-babble\r\n")

    serve = partial(trio.serve_tcp, babble, 0, host="127.0.0.1")
    (listener,) = await nursery.start(serve)
    return f"127.0.0.1:{listener.socket.getsockname()[1]}"


async def test_test_a_handler(autojump_clock) -> None:
    """The test in the example passes."""
    await load("test_a_handler")["test_remind"]()


async def get(address: str, path: str) -> bytes:
    """Ask for a page over HTTP; returns the whole response."""
    host, port = address.split(":")
    async with await trio.open_tcp_stream(host, int(port)) as stream:
        await stream.send_all(f"GET {path} HTTP/1.1\r\nHost: {address}\r\n\r\n".encode())
        return b"".join([octets async for octets in stream])


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_examples_are_short_and_run(path) -> None:
    """An example fits on a page, and a test of its name runs it."""
    assert len(path.read_text().splitlines()) <= LONGEST
    tests = ELSEWHERE.get(path.stem, Path(__file__)).read_text()
    assert re.search(rf"^(async )?def test_{path.stem}\(", tests, re.MULTILINE)


async def test_authenticate(program, nursery) -> None:
    """Who has the token is greeted by name; who has none, or another, gets a 401."""
    address = await program("authenticate").start(nursery)

    headers = {"Authorization": "Bearer s3cret"}
    async with connect(f"ws://{address}", additional_headers=headers) as connection:
        assert await connection.recv() == "hello, alice"
    for wrong in ({}, {"Authorization": "Bearer guess"}, {"Authorization": "Basic s3cret"}):
        with pytest.raises(InvalidStatus, match="401") as caught:
            async with connect(f"ws://{address}", additional_headers=wrong):
                pass
        assert caught.value.response.headers["WWW-Authenticate"] == "Bearer"
    nursery.cancel_scope.cancel()


async def test_refuse(nursery) -> None:
    """Other sites, other paths and troublemakers are refused, each with its own answer."""
    serve = load("refuse")["serve"]
    server = await nursery.start(partial(triows.serve, serve.args[0], 0, **serve.keywords))
    address = f"127.0.0.1:{server.port}"

    async with connect(f"ws://{address}", origin="https://example.org") as connection:
        await connection.send("please leave")
        with pytest.raises(ConnectionClosedError, match="1008"):
            await connection.recv()
    for path, origin, status in [("", "https://evil.test", 403), ("lobby", None, 404)]:
        with pytest.raises(InvalidStatus, match=str(status)):
            async with connect(f"ws://{address}/{path}", origin=origin):
                pass
    assert (await get(address, "/moved")).startswith(b"HTTP/1.1 308 ")
    nursery.cancel_scope.cancel()


async def test_subprotocols(nursery) -> None:
    """The newest version that both speak is spoken; who speaks none is refused."""
    serve = load("subprotocols")["serve"]
    server = await nursery.start(partial(triows.serve, serve.args[0], 0, **serve.keywords))
    url = f"ws://127.0.0.1:{server.port}"

    for offered, greeting in [
        (["greet.v1", "greet.v2"], '{"greeting": "hello"}'),
        (["greet.v1"], "hello"),
    ]:
        async with triows.open_websocket(url, subprotocols=offered) as ws:
            assert ws.subprotocol == offered[-1]
            assert await ws.receive() == greeting
    with pytest.raises(triows.HandshakeRejected, match="400"):
        async with triows.open_websocket(url):
            pass
    nursery.cancel_scope.cancel()


async def test_back_pressure(tmp_path, autojump_clock) -> None:
    """A slow reader misses ticks and no more; files go through whole, both ways."""
    example = load("back_pressure")
    limits = triows.Limits(send_queue_octets=1000, receive_queue_messages=10)

    async with memory_pair(handler=example["tick"], limits=limits, capacity=1000) as (client, _):
        await trio.sleep(15)
        ticks = [await client.receive() for _ in range(500)]
    numbers = [int(tick.split()[1]) for tick in ticks]
    assert numbers == sorted(set(numbers))
    assert numbers[-1] > 1_500

    autojump_clock.autojump_threshold = math.inf  # files are read and written by threads
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(bytes(range(256)) * 4_000)
    send = partial(example["send_file"], path=source)
    async with memory_pair(handler=send) as (client, _):
        await example["receive_file"](client, target)
    assert target.read_bytes() == source.read_bytes()


async def test_shut_down(monkeypatch, nursery) -> None:
    """A signal lets jobs be finished, tells peers that the server goes, and ends `main`."""
    started, wait_started = trio.open_memory_channel(1)
    serve_on = triows.serve

    async def serve(handler, _port, **settings):
        async with trio.open_nursery() as inner:
            started.send_nowait(await inner.start(partial(serve_on, handler, 0, **settings)))

    monkeypatch.setattr(triows, "serve", serve)
    nursery.start_soon(load("shut_down")["main"])
    server = await wait_started.receive()

    async with triows.open_websocket(f"ws://127.0.0.1:{server.port}") as ws:
        await ws.send("sweep")
        await trio.testing.wait_all_tasks_blocked(0.02)
        signal.raise_signal(signal.SIGTERM)
        assert [message async for message in ws] == ["done: sweep"]
        assert ws.close_reason == triows.CloseReason(1001)


async def test_chat_broker(nursery, capsys) -> None:
    """Page and chat are on one port, whose address is printed; a signal ends them in order."""
    run, directory = load("chat_broker")["run"], Directory(history=10)
    async with trio.open_nursery() as inner:
        inner.start_soon(run, directory, "127.0.0.1", 0)
        with trio.fail_after(30):
            while not (said := capsys.readouterr().out):  # noqa: ASYNC110 - printed when it listens
                await trio.sleep(0.01)
        address = re.fullmatch(r"Open http://(127\.0\.0\.1:\d+)\n", said)[1]
        assert b"<title>Chat</title>" in await get(address, "/")
        url = f"ws://{address}/chat"
        async with (
            triows.open_websocket(url, subprotocols=["chat.v1"]) as program,
            triows.open_websocket(url) as person,
        ):
            await program.send('{"type": "hello", "nick": "ann"}')
            await program.send('{"type": "join", "room": "lobby"}')
            await person.send("hello")
            events = [json.loads(await program.receive()) for _ in range(2)]
            while events[-1]["type"] != "message":
                events.append(json.loads(await program.receive()))
            assert events[-1]["text"] == "hello"
            signal.raise_signal(signal.SIGTERM)
            assert '"type":"bye"' in [message async for message in program][-1]
            assert "* The server is shutting down." in [message async for message in person]
            assert program.close_reason == person.close_reason == triows.CloseReason(1001)


async def test_market_data(program, nursery) -> None:
    """A client gets prices as they are made up, after some of the past."""
    address = await program("market_data").start(nursery)
    async with connect(f"ws://{address}/") as connection:
        prices = [json.loads(await connection.recv()) for _ in range(5)]
    assert {price["symbol"] for price in prices} <= {"GOLD", "IRON", "WHEAT"}
    assert all(100 <= price["price"] <= 200 for price in prices)
    nursery.cancel_scope.cancel()


async def test_ticker(program, nursery) -> None:
    """Everyone hears the thread tick, and it ends with the server."""
    before = threading.active_count()
    address = await program("ticker").start(nursery)
    async with connect(f"ws://{address}/") as one, connect(f"ws://{address}/") as other:
        for connection in (one, other):
            assert re.fullmatch(r"\d\d:\d\d:\d\d", await connection.recv())
    nursery.cancel_scope.cancel()
    with trio.CancelScope(shield=True), trio.fail_after(10):
        while threading.active_count() > before + 2:  # noqa: ASYNC110 - Trio keeps idle ones
            await trio.sleep(0.001)


async def test_room(program, nursery) -> None:
    """Who is in a room hears the others; a newcomer gets what was said."""
    address = await program("room").start(nursery)
    async with connect(f"ws://{address}/tea/ann") as ann:
        assert await ann.recv() == "ann is here, with 0 others"
        async with connect(f"ws://{address}/tea/bob") as bob:
            assert await bob.recv() == "ann is here, with 0 others"
            assert await ann.recv() == await bob.recv() == "bob is here, with 1 others"
            await bob.send("milk?")
            assert await ann.recv() == await bob.recv() == "bob: milk?"
        assert await ann.recv() == "bob has left"
    nursery.cancel_scope.cancel()


async def test_follow(capsys) -> None:
    """A subscriber that was not quick enough says what it has missed, and gets the rest."""
    await load("follow")["main"]()

    assert capsys.readouterr().out.split("\n")[:2] == ["(900 missed)", "900"]


async def test_stay_connected(monkeypatch, autojump_clock) -> None:
    """Events and orders go through, each once, over connections that are cut."""
    example = load("stay_connected")
    reconnecting = triows.reconnecting
    texts = [f"event {number}" for number in range(1, 8)]
    deaths = [True, True, False]
    stored = {}

    async def events(ws) -> None:
        after = int(ws.request.target.partition("after=")[2])
        for number in range(after + 1, min(after + 4, 8)):
            await ws.send(json.dumps({"number": number, "text": texts[number - 1]}))
        if after + 4 > len(texts):
            await ws.aclose(4000, "that was all")
        await ws.aclose(1012)

    async def orders(ws) -> None:
        is_mortal = deaths.pop(0)
        async for message in ws:
            number, order = json.loads(message)
            assert stored.setdefault(number, order) == order
            if is_mortal and number % 2:
                server.die()
                server.come_back()
                return
            await ws.send(str(number))

    async with memory_server(events) as server:
        monkeypatch.setattr(triows, "reconnecting", partial(reconnecting, dial=server.dial))
        feed = example["Feed"]()
        await feed.follow("ws://server.test/events")
        assert feed.seen == texts
        assert len(server.attempts) == 3
    async with memory_server(orders) as server:
        monkeypatch.setattr(triows, "reconnecting", partial(reconnecting, dial=server.dial))
        await example["submit"]("ws://server.test/orders", ["a", "b", "c", "d"])
    assert stored == dict(enumerate("abcd"))
    assert deaths == []
