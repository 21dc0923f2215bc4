"""The asyncio server of websockets."""

import asyncio
import http
from collections.abc import Sequence

from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response
from websockets.typing import Subprotocol


async def handle(connection: ServerConnection) -> None:
    """Serve by the path."""
    path = connection.request.path
    if path == "/close":
        await connection.recv()
        await connection.close(3001, "enough ✓")
        return
    try:
        while True:
            message = await connection.recv()
            if path == "/ping":
                await (await connection.ping(b"from the server"))
                message = "ponged"
            await connection.send(message)
    except ConnectionClosed as error:
        print("CLOSED", error.rcvd.code, error.rcvd.reason, flush=True)


def refuse(connection: ServerConnection, request: Request) -> Response | None:
    """Refuse one path."""
    if request.path == "/refused":
        return connection.respond(http.HTTPStatus.FORBIDDEN, "no entry\n")
    return None


def choose(_: ServerConnection, offered: Sequence[Subprotocol]) -> Subprotocol | None:
    """Choose the one subprotocol that there is, if it is offered."""
    return Subprotocol("chat.v1") if "chat.v1" in offered else None


async def main() -> None:
    """Serve until killed."""
    options = {"select_subprotocol": choose, "max_size": 2**21, "process_request": refuse}
    async with serve(handle, "127.0.0.1", 0, **options) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        print(f"READY ws://127.0.0.1:{port}", flush=True)
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
