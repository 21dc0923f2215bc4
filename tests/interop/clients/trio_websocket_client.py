"""The client of trio-websocket."""

from collections.abc import Awaitable, Callable, Sequence

import trio
from trio_websocket import ConnectionClosed, WebSocketConnection, connect_websocket_url

from tests.interop.clients.scenarios import main


class Connection:
    """A connection of trio-websocket."""

    def __init__(self, connection: WebSocketConnection) -> None:
        self._connection = connection
        self.subprotocol = connection.subprotocol
        self.send = connection.send_message
        self.receive = connection.get_message
        self.close = connection.aclose

    async def ping(self) -> None:
        """Send a Ping and wait for its Pong."""
        await self._connection.ping(b"are you there?")

    async def wait_closed(self) -> tuple[int, str]:
        """Wait for the peer's Close."""
        try:
            await self._connection.get_message()
        except ConnectionClosed as error:
            return error.reason.code, error.reason.reason
        raise AssertionError("a message instead of a Close")


nurseries: list[trio.Nursery] = []


def run(go: Callable[[], Awaitable[object]]) -> object:
    """Run *go* with the nursery that connections live in."""

    async def nursed() -> object:
        async with trio.open_nursery() as nursery:
            nurseries.append(nursery)
            result = await go()
            nursery.cancel_scope.cancel()
        return result

    return trio.run(nursed)


async def open_connection(url: str, subprotocols: Sequence[str]) -> Connection:
    """Open a connection."""
    return Connection(
        await connect_websocket_url(
            nurseries[0], url, subprotocols=subprotocols or None, max_message_size=2**21
        )
    )


if __name__ == "__main__":
    main(open_connection, run)
