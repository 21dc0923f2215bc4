"""An echo server on `websockets`, asyncio on uvloop.

python benches/peers/websockets_uvloop_echo.py [LEVEL of compression, without context takeover]
"""

import asyncio
import sys

import uvloop
from websockets.asyncio.server import ServerConnection, serve
from websockets.extensions.permessage_deflate import ServerPerMessageDeflateFactory


async def echo(connection: ServerConnection) -> None:
    async for message in connection:
        await connection.send(message)


async def main() -> None:
    deflate = [
        ServerPerMessageDeflateFactory(
            server_no_context_takeover=True,
            client_no_context_takeover=True,
            compress_settings={"level": int(level), "memLevel": 8},
        )
        for level in sys.argv[1:]
    ]
    options = {"compression": None, "extensions": deflate, "ping_interval": None}
    async with serve(echo, "127.0.0.1", 0, **options) as server:
        host, port = server.sockets[0].getsockname()
        print(f"READY ws://{host}:{port}", flush=True)
        await asyncio.get_running_loop().create_future()


uvloop.run(main())
