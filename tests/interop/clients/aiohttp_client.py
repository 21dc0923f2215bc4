"""The client of aiohttp."""

from collections.abc import Sequence

import aiohttp

from tests.interop.clients.scenarios import main


class Connection:
    """A connection of aiohttp, with the session that it came from."""

    def __init__(
        self, session: aiohttp.ClientSession, connection: aiohttp.ClientWebSocketResponse
    ) -> None:
        self._session = session
        self._connection = connection
        self.subprotocol = connection.protocol

    async def send(self, message: str | bytes) -> None:
        """Send one message."""
        if isinstance(message, str):
            await self._connection.send_str(message)
        else:
            await self._connection.send_bytes(message)

    async def receive(self) -> str | bytes:
        """Receive one message, and answer the Pings before it."""
        while True:
            message = await self._connection.receive()
            if message.type is not aiohttp.WSMsgType.PING:
                assert message.type in {aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY}, message
                return message.data
            await self._connection.pong(message.data)

    async def ping(self) -> None:
        """Send a Ping and wait for its Pong."""
        await self._connection.ping(b"are you there?")
        pong = await self._connection.receive()
        assert pong.type is aiohttp.WSMsgType.PONG
        assert pong.data == b"are you there?"

    async def close(self, code: int, reason: str) -> None:
        """Close, and let go of the session."""
        await self._connection.close(code=code, message=reason.encode())
        await self._session.close()

    async def wait_closed(self) -> tuple[int, str]:
        """Wait for the peer's Close."""
        message = await self._connection.receive()
        assert message.type is aiohttp.WSMsgType.CLOSE, message
        await self._session.close()
        return message.data, message.extra


async def open_connection(url: str, subprotocols: Sequence[str]) -> Connection:
    """Open a connection that offers compression and leaves Pings to us."""
    session = aiohttp.ClientSession()
    connection = await session.ws_connect(
        url, protocols=subprotocols, autoping=False, compress=15, max_msg_size=2**21
    )
    return Connection(session, connection)


if __name__ == "__main__":
    main(open_connection)
