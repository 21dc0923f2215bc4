"""A ticker that sends slow readers less, and a file that is larger than any queue."""

import contextlib
from functools import partial
from pathlib import Path

import trio

import triows


async def tick(ws: triows.WebSocket) -> None:
    async with ws.cancel_on_close():
        for number in range(1_000_000):
            with contextlib.suppress(trio.WouldBlock):  # a reader that is behind misses it
                ws.send_nowait(f"tick {number}")
            await trio.sleep(0.01)


async def send_file(ws: triows.WebSocket, path: Path) -> None:
    async with (
        await trio.open_file(path, "rb") as file,
        ws.open_message(text=False) as message,
    ):
        while part := await file.read(65_536):
            await message.send(part)


async def receive_file(ws: triows.WebSocket, path: Path) -> None:
    async with (
        ws.receive_parts() as message,
        await trio.open_file(path, "wb") as file,
    ):
        async for part in message:
            await file.write(part)


async def handler(ws: triows.WebSocket) -> None:
    if ws.request.path == "/ticks":
        await tick(ws)
    elif ws.request.path == "/upload":
        await receive_file(ws, Path("uploaded"))
    else:
        await send_file(ws, Path(__file__))


limits = triows.Limits(send_queue_octets=16_384, max_message=2**40, message_timeout=3600)

if __name__ == "__main__":
    trio.run(partial(triows.serve, handler, 8765, limits=limits))
