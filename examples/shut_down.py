"""A server that ends in order when it is told to, and finishes what it was doing."""

import signal

import trio

import triows


async def work(ws: triows.WebSocket) -> None:
    async for job in ws:
        with trio.CancelScope(shield=True):  # a job that was begun is finished
            await trio.sleep(0.1)
            await ws.send(f"done: {job}")


async def stop_at(signals: tuple[int, ...], scope: trio.CancelScope) -> None:
    with trio.open_signal_receiver(*signals) as received:
        async for _ in received:
            scope.cancel()
            return  # the next one ends the process at once, as Python does


async def main(port: int = 8765, grace: float = 5.0) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stop_at, (signal.SIGTERM, signal.SIGINT), nursery.cancel_scope)
        await triows.serve(work, port, shutdown_grace=grace)


if __name__ == "__main__":
    trio.run(main)
