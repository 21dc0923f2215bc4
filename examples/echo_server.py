"""An echo server: every message goes back to its sender."""

import trio

import triows


async def echo(ws: triows.WebSocket) -> None:
    async for message in ws:
        await ws.send(message)


if __name__ == "__main__":
    trio.run(triows.serve, echo, 8765)
