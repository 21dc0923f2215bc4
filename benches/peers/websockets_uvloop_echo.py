"""An echo server on `websockets`, asyncio on uvloop."""

import asyncio

import uvloop
from websockets.asyncio.server import ServerConnection, serve


async def echo(connection: ServerConnection) -> None:
    async for message in connection:
        await connection.send(message)


async def main() -> None:
    async with serve(echo, "127.0.0.1", 0, compression=None, ping_interval=None) as server:
        host, port = server.sockets[0].getsockname()
        print(f"READY ws://{host}:{port}", flush=True)
        await asyncio.get_running_loop().create_future()


uvloop.run(main())
