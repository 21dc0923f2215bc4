"""Other people's clients talk to our server: each in a process of its own."""

import json
import os
import sys
from functools import partial
from pathlib import Path

import pytest
import trio

import triows
from tests.conformance.transports import DRIVERS
from tests.interop.clients.scenarios import SIZES
from tests.interop.node import find_node, node_modules

ROOT = Path(__file__).parents[2]
CLIENTS = Path(__file__).parent / "clients"
PATIENCE = 60.0
"""Seconds that a client may take."""


class Exchange:
    """A server for every scenario, and what it saw."""

    def __init__(self) -> None:
        self.ends: list[tuple[int, str]] = []

    async def handle(self, ws: triows.WebSocket) -> None:
        """Serve by the path."""
        handlers = {"/echo": echo, "/ping": ping, "/close": close, "/closed": self.note_end}
        await handlers[ws.request.path](ws)

    async def note_end(self, ws: triows.WebSocket) -> None:
        """Wait for the peer's Close, and write down what it said."""
        try:
            await ws.receive()
        except triows.ConnectionBroken as error:
            self.ends.append((error.code, error.reason))


async def echo(ws: triows.WebSocket) -> None:
    """Send every message back."""
    async for message in ws:
        await ws.send(message)


async def ping(ws: triows.WebSocket) -> None:
    """Ping when told to, and say when the Pong came."""
    async for _ in ws:
        await ws.ping(b"from the server")
        await ws.send("ponged")


async def close(ws: triows.WebSocket) -> None:
    """Close when told to."""
    await ws.receive()
    await ws.aclose(3001, "enough ✓")


@pytest.fixture(
    params=[
        "websockets_asyncio",
        "websockets_trio",
        "aiohttp_client",
        "trio_websocket_client",
        "ws",
    ]
)
def client(request: pytest.FixtureRequest) -> list[str]:
    """The command that runs a client, up to the scenario."""
    if request.param == "ws":
        return [find_node(), str(CLIENTS / "ws_client.cjs")]
    return [sys.executable, "-m", f"tests.interop.clients.{request.param}"]


@pytest.fixture
def environment(client: list[str]) -> dict[str, str]:
    """The environment that the client needs."""
    if client[1].endswith(".cjs"):
        return {**os.environ, "NODE_PATH": str(node_modules())}
    return dict(os.environ)


class Stage:
    """A server and a client to send onto it."""

    def __init__(
        self, url: str, exchange: Exchange, client: list[str], env: dict[str, str]
    ) -> None:
        self.exchange = exchange
        self._url = url
        self._client = client
        self._environment = env

    async def play(self, scenario: str) -> object:
        """Run the client through *scenario*; the result that it printed."""
        with trio.fail_after(PATIENCE):
            done = await trio.run_process(
                [*self._client, scenario, self._url],
                capture_stdout=True,
                capture_stderr=True,
                check=False,
                cwd=ROOT,
                env=self._environment,
            )
        assert done.returncode == 0, done.stderr.decode()
        return json.loads(done.stdout)


@pytest.fixture(params=DRIVERS)
async def stage(
    request: pytest.FixtureRequest,
    client: list[str],
    environment: dict[str, str],
    warm: None,
    nursery: trio.Nursery,
) -> Stage:
    """A server that runs for as long as the test."""
    exchange = Exchange()
    serve = partial(triows.serve, driver=request.param, subprotocols=("chat.v1", "chat.v2"))
    server = await nursery.start(serve, exchange.handle, 0)
    return Stage(f"ws://127.0.0.1:{server.port}", exchange, client, environment)


async def test_messages_of_every_size_are_echoed(stage: Stage):
    """Text and binary come back as they went, from empty to 1 MiB."""
    assert await stage.play("messages") == {"text": SIZES, "binary": SIZES}


async def test_a_ping_of_the_client_is_answered(stage: Stage):
    """The client gets its Pong, and the connection goes on."""
    assert await stage.play("client_ping") == "after the ping"


async def test_a_ping_of_the_server_is_answered(stage: Stage):
    """The server gets its Pong from the client."""
    assert await stage.play("server_ping") == "ponged"


async def test_the_server_sees_how_the_client_closed(stage: Stage):
    """Code and reason of the client's Close reach the handler."""
    await stage.play("client_close")
    assert stage.exchange.ends == [(4321, "bye ✓")]


async def test_the_client_sees_how_the_server_closed(stage: Stage):
    """Code and reason of the server's Close reach the client."""
    assert await stage.play("server_close") == [3001, "enough ✓"]


async def test_a_subprotocol_is_agreed_on(stage: Stage):
    """Of what both speak, the one that the server likes best is taken."""
    assert await stage.play("subprotocol") == "chat.v1"
