"""An echo server on `websockets`, its Trio server."""

from functools import partial

import trio
from websockets.trio.server import ServerConnection, serve


async def echo(connection: ServerConnection) -> None:
    async for message in connection:
        await connection.send(message)


async def main() -> None:
    async with trio.open_nursery() as nursery:
        server = await nursery.start(
            partial(serve, echo, 0, host="127.0.0.1", compression=None, ping_interval=None)
        )
        host, port = server.listeners[0].socket.getsockname()
        print(f"READY ws://{host}:{port}", flush=True)


trio.run(main)
