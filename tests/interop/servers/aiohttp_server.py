"""The server of aiohttp."""

import asyncio

from aiohttp import WSMsgType, web


async def handle(request: web.Request) -> web.StreamResponse:
    """Serve by the path."""
    if request.path == "/refused":
        return web.Response(status=403, text="no entry\n")
    ws = web.WebSocketResponse(protocols=["chat.v1"], max_msg_size=2**21, autoping=False)
    await ws.prepare(request)
    while True:
        message = await ws.receive()
        if message.type is WSMsgType.CLOSE:
            print("CLOSED", message.data, message.extra, flush=True)
            return ws
        if message.type is WSMsgType.PING:
            await ws.pong(message.data)
        elif message.type is WSMsgType.PONG:
            assert message.data == b"from the server"
            await ws.send_str("ponged")
        elif request.path == "/ping":
            await ws.ping(b"from the server")
        elif request.path == "/close":
            await ws.close(code=3001, message="enough ✓".encode())
            return ws
        elif message.type is WSMsgType.TEXT:
            await ws.send_str(message.data)
        else:
            await ws.send_bytes(message.data)


async def main() -> None:
    """Serve until killed."""
    application = web.Application()
    application.router.add_get("/{path}", handle)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(f"READY ws://127.0.0.1:{runner.addresses[0][1]}", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
