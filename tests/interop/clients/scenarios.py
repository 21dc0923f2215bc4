"""What every client is put through, and the command line by which it is.

A client module gives ``main`` a function that opens a connection; what it
returns looks the same for every library (`Connection`). The result of a
scenario goes to stdout as JSON, and a test compares it with what it must be.
"""

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

SIZES = [0, 1, 125, 126, 65_535, 65_536, 2**20]
PROTOCOLS = ["unheard.of", "chat.v2", "chat.v1"]


class Connection(Protocol):
    """A client's connection, whatever the library."""

    subprotocol: str | None

    async def send(self, message: str | bytes) -> None:
        """Send one message."""

    async def receive(self) -> str | bytes:
        """Receive one message."""

    async def ping(self) -> None:
        """Send a Ping and wait for its Pong."""

    async def close(self, code: int, reason: str) -> None:
        """Close with *code* and *reason*, and wait for the answer."""

    async def wait_closed(self) -> tuple[int, str]:
        """Wait for the peer's Close; its code and reason."""


Connect = Callable[[str, Sequence[str]], Awaitable[Connection]]


async def messages(connect: Connect, url: str) -> dict[str, list[int]]:
    """Echo text and binary messages of every size; which came back as they went."""
    connection = await connect(f"{url}/echo", [])
    same: dict[str, list[int]] = {"text": [], "binary": []}
    for size in SIZES:
        for kind, message in (
            ("text", "✓" * (size // 3) + "x" * (size % 3)),
            ("binary", b"\xfe" * size),
        ):
            await connection.send(message)
            if await connection.receive() == message:
                same[kind].append(size)
    await connection.close(1000, "")
    return same


async def client_ping(connect: Connect, url: str) -> str:
    """Ping the server, and find the connection in step."""
    connection = await connect(f"{url}/echo", [])
    await connection.ping()
    await connection.send("after the ping")
    answer = await connection.receive()
    await connection.close(1000, "")
    return str(answer)


async def server_ping(connect: Connect, url: str) -> str:
    """Have the server ping; it says so once the Pong came."""
    connection = await connect(f"{url}/ping", [])
    await connection.send("ping me")
    answer = await connection.receive()
    await connection.close(1000, "")
    return str(answer)


async def client_close(connect: Connect, url: str) -> None:
    """Close with a code and a reason of our own."""
    connection = await connect(f"{url}/closed", [])
    await connection.close(4321, "bye ✓")


async def server_close(connect: Connect, url: str) -> tuple[int, str]:
    """Be closed by the server; the code and reason received."""
    connection = await connect(f"{url}/close", [])
    await connection.send("close me")
    return await connection.wait_closed()


async def subprotocol(connect: Connect, url: str) -> str | None:
    """Offer subprotocols; the one agreed on."""
    connection = await connect(f"{url}/echo", PROTOCOLS)
    agreed = connection.subprotocol
    await connection.close(1000, "")
    return agreed


SCENARIOS = [messages, client_ping, server_ping, client_close, server_close, subprotocol]


def main(connect: Connect, run: Callable[..., Any] = asyncio.run) -> None:
    """Run the scenario that the command line names against the URL that it gives."""
    name, url = sys.argv[1:]
    (scenario,) = (function for function in SCENARIOS if function.__name__ == name)

    async def go() -> object:
        return await scenario(connect, url)

    json.dump(run(go) if run is not asyncio.run else run(go()), sys.stdout)
