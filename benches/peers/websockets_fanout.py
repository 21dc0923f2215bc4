"""A relay on `websockets.broadcast`, asyncio on uvloop: every message goes to every client."""

import asyncio

import uvloop
from websockets.asyncio.server import ServerConnection, broadcast, serve

clients: set[ServerConnection] = set()


async def relay(connection: ServerConnection) -> None:
    clients.add(connection)
    try:
        async for message in connection:
            broadcast(clients, message)
    finally:
        clients.discard(connection)


async def main() -> None:
    async with serve(relay, "127.0.0.1", 0, compression=None, ping_interval=None) as server:
        host, port = server.sockets[0].getsockname()
        print(f"READY ws://{host}:{port}", flush=True)
        await asyncio.get_running_loop().create_future()


uvloop.run(main())
