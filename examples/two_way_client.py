"""A client that sends and receives at the same time, and says what went wrong."""

import sys

import trio

import triows


async def send_some(ws: triows.WebSocket) -> None:
    for number in range(3):
        await ws.send(f"message {number}")
        await trio.sleep(0.1)
    await ws.send_close()


async def talk(url: str) -> None:
    async with triows.open_websocket(url) as ws, trio.open_nursery() as nursery:
        nursery.start_soon(send_some, ws)
        async for message in ws:
            print(message)


async def main(url: str) -> str | None:
    try:
        await talk(url)
    except (OSError, trio.TooSlowError) as error:
        return f"there is no server: {error}"
    except triows.HandshakeRejected as rejected:
        return f"the server says {rejected.status}: {rejected.body.decode(errors='replace')}"
    except triows.HandshakeError as error:
        return f"that is no WebSocket server: {error}"
    return None


if __name__ == "__main__":
    sys.exit(trio.run(main, "ws://127.0.0.1:8765/"))
