"""Our client talks to other people's servers: each in a process of its own."""

import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

import triows
from tests.interop.clients.scenarios import PROTOCOLS, SIZES
from tests.interop.node import find_node, node_modules

ROOT = Path(__file__).parents[2]
SERVERS = Path(__file__).parent / "servers"
PATIENCE = 60.0
"""Seconds that a server may take to say something."""


class Server:
    """A server of another library, in a process."""

    def __init__(self, process: trio.Process) -> None:
        assert process.stdout is not None
        self._output = process.stdout
        self._unread = bytearray()
        self.url = ""

    async def read_line(self) -> str:
        """The next line that it printed."""
        with trio.fail_after(PATIENCE):
            while b"\n" not in self._unread:
                octets = await self._output.receive_some()
                assert octets, "the server has ended"
                self._unread += octets
        line, _, self._unread = self._unread.partition(b"\n")
        return line.decode()


def server_command(name: str) -> tuple[list[str], dict[str, str]]:
    """How to start a server, and in which environment."""
    if name == "ws":
        environment = {**os.environ, "NODE_PATH": str(node_modules())}
        return [find_node(), str(SERVERS / "ws_server.cjs")], environment
    return [sys.executable, "-m", f"tests.interop.servers.{name}_server"], dict(os.environ)


@pytest.fixture(params=["websockets", "aiohttp", "trio_websocket", "wsproto", "ws"])
async def server(
    request: pytest.FixtureRequest, nursery: trio.Nursery, warm: None
) -> AsyncIterator[Server]:
    """Each server in turn, ready."""
    command, environment = server_command(request.param)
    process = await trio.lowlevel.open_process(command, stdout=-1, cwd=ROOT, env=environment)
    try:
        server = Server(process)
        ready = await server.read_line()
        assert ready.startswith("READY ")
        server.url = ready.removeprefix("READY ")
        yield server
    finally:
        process.kill()
        await process.wait()
        assert process.stdout is not None
        await process.stdout.aclose()


@pytest.mark.parametrize("size", SIZES)
async def test_messages(server: Server, size: int):
    """Text and binary messages of each size come back as they went."""
    async with triows.open_websocket(f"{server.url}/echo") as ws:
        for message in ("✓" * (size // 3) + "x" * (size % 3), b"\xfe" * size):
            await ws.send(message)
            assert await ws.receive() == message
    assert ws.close_reason.code == 1000


async def test_client_pings(server: Server):
    """The server answers our Ping, and the connection stays in step."""
    async with triows.open_websocket(f"{server.url}/echo") as ws:
        assert 0 < await ws.ping(b"are you there?") < PATIENCE
        await ws.send("after the ping")
        assert await ws.receive() == "after the ping"


async def test_server_pings(server: Server):
    """Our Pong satisfies the server."""
    async with triows.open_websocket(f"{server.url}/ping") as ws:
        await ws.send("ping me")
        assert await ws.receive() == "ponged"


async def test_client_closes(server: Server):
    """The server hears our code and reason, and answers, one of them with 1000 always."""
    async with triows.open_websocket(f"{server.url}/echo") as ws:
        await ws.aclose(4321, "bye ✓")
        assert ws.close_reason.code in {4321, 1000}
        assert await server.read_line() == "CLOSED 4321 bye ✓"


async def test_server_closes(server: Server):
    """We hear the server's code and reason."""
    async with triows.open_websocket(f"{server.url}/close") as ws:
        await ws.send("close me")
        with pytest.raises(triows.ConnectionBroken) as caught:
            await ws.receive()
    assert (caught.value.code, caught.value.reason) == (3001, "enough ✓")


async def test_subprotocol(server: Server):
    """The server chooses one of the subprotocols that we offer."""
    async with triows.open_websocket(f"{server.url}/echo", subprotocols=PROTOCOLS) as ws:
        assert ws.subprotocol == "chat.v1"


async def test_refusal(server: Server):
    """A refusal is told with its status and body."""
    with pytest.raises(triows.HandshakeRejected) as caught:
        async with triows.open_websocket(f"{server.url}/refused"):
            pass
    assert (caught.value.status, caught.value.body) == (403, b"no entry\n")
