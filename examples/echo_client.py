"""A client of the echo server: sends some messages, and prints what comes back."""

import trio

import triows


async def main(url: str) -> None:
    async with triows.open_websocket(url) as ws:
        for message in ("hello", "wörld", b"\x00\xff"):
            await ws.send(message)
            print(repr(await ws.receive()))
        print(f"a round trip takes {await ws.ping():.6f} seconds")


if __name__ == "__main__":
    trio.run(main, "ws://127.0.0.1:8765/")
