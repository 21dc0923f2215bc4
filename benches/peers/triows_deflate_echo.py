"""An echo server on `triows`, one task per connection, which compresses every message.

python benches/peers/triows_deflate_echo.py LEVEL [DRIVER [takeover]]
"""

import sys
from functools import partial

import trio

import triows


async def echo(ws: triows.WebSocket) -> None:
    """Send every message back."""
    async for message in ws:
        await ws.send(message)


async def main(level: int, driver: str = "auto", takeover: str = "") -> None:
    """Serve until killed."""
    deflate = triows.Deflate(
        level=level,
        threshold=0,
        server_context_takeover=bool(takeover),
        client_context_takeover=bool(takeover),
    )
    async with trio.open_nursery() as nursery:
        serve = partial(triows.serve, echo, 0, driver=driver, deflate=deflate)
        server = await nursery.start(serve)
        print(f"READY ws://127.0.0.1:{server.port}", flush=True)


if __name__ == "__main__":
    trio.run(main, int(sys.argv[1]), *sys.argv[2:])
