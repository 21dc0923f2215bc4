"""The Trio client of websockets."""

from collections.abc import Awaitable, Callable, Sequence

import trio
from websockets.exceptions import ConnectionClosed
from websockets.trio.client import ClientConnection, connect
from websockets.typing import Subprotocol

from tests.interop.clients.scenarios import main


class Connection:
    """A connection of websockets."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self.subprotocol = connection.subprotocol
        self.send = connection.send
        self.receive = connection.recv
        self.close = connection.aclose

    async def ping(self) -> None:
        """Send a Ping and wait for its Pong."""
        pong = await self._connection.ping(b"are you there?")
        await pong.wait()

    async def wait_closed(self) -> tuple[int, str]:
        """Wait for the peer's Close."""
        try:
            await self._connection.recv()
        except ConnectionClosed as error:
            return error.rcvd.code, error.rcvd.reason
        raise AssertionError("a message instead of a Close")


def run(go: Callable[[], Awaitable[object]]) -> object:
    """Run *go* with the nursery that connections live in."""

    async def nursed() -> object:
        async with trio.open_nursery() as nursery:
            nurseries.append(nursery)
            result = await go()
            nursery.cancel_scope.cancel()
        return result

    return trio.run(nursed)


nurseries: list[trio.Nursery] = []


async def open_connection(url: str, subprotocols: Sequence[str]) -> Connection:
    """Open a connection."""
    offered = [Subprotocol(name) for name in subprotocols]
    client = connect(url, subprotocols=offered or None, max_size=2**21, proxy=None)
    return Connection(await client.connect(nurseries[0]))


if __name__ == "__main__":
    main(open_connection, run)
