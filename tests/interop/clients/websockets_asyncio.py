"""The asyncio client of websockets."""

from collections.abc import Sequence

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from tests.interop.clients.scenarios import main


class Connection:
    """A connection of websockets."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self.subprotocol = connection.subprotocol
        self.send = connection.send
        self.receive = connection.recv
        self.close = connection.close

    async def ping(self) -> None:
        """Send a Ping and wait for its Pong."""
        await (await self._connection.ping(b"are you there?"))

    async def wait_closed(self) -> tuple[int, str]:
        """Wait for the peer's Close."""
        try:
            await self._connection.recv()
        except ConnectionClosed as error:
            return error.rcvd.code, error.rcvd.reason
        raise AssertionError("a message instead of a Close")


async def open_connection(url: str, subprotocols: Sequence[str]) -> Connection:
    """Open a connection."""
    offered = [Subprotocol(name) for name in subprotocols]
    return Connection(await connect(url, subprotocols=offered or None, max_size=2**21, proxy=None))


if __name__ == "__main__":
    main(open_connection)
