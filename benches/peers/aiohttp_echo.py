"""An echo server on `aiohttp`, asyncio on uvloop.

python benches/peers/aiohttp_echo.py [deflate: at aiohttp's one level, which is 1]
"""

import asyncio
import sys

import uvloop
from aiohttp import WSMsgType, web


async def echo(request: web.Request) -> web.WebSocketResponse:
    connection = web.WebSocketResponse(compress=sys.argv[1:] == ["deflate"])
    await connection.prepare(request)
    async for message in connection:
        if message.type == WSMsgType.BINARY:
            await connection.send_bytes(message.data)
        elif message.type == WSMsgType.TEXT:
            await connection.send_str(message.data)
    return connection


async def main() -> None:
    application = web.Application()
    application.router.add_get("/", echo)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0]
    print(f"READY ws://{host}:{port}", flush=True)
    await asyncio.get_running_loop().create_future()


uvloop.run(main())
