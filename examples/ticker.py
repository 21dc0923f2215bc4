"""A ticker that a thread feeds: what blocks on one side, WebSockets on the other."""

import contextlib
import threading
import time

import trio

import triows


def watch(publisher: triows.Publisher[str], is_over: threading.Event) -> None:
    """Stand for whatever blocks: a message queue, a device, a database."""
    with contextlib.suppress(trio.ClosedResourceError):  # the server has ended
        while not is_over.wait(0.05):
            publisher.publish(time.strftime("%H:%M:%S"))  # blocks while Trio lags behind


async def main() -> None:
    ticks = triows.BroadcastChannel[str](history=1)
    is_over = threading.Event()

    async def client(ws: triows.WebSocket) -> None:
        with ticks.attach(ws, triows.Policy.DROP_OLDEST, 10, lagged=lambda n: f"{n} missed"):
            async for _ in ws:
                pass

    async with ticks.open_publisher() as publisher:
        threading.Thread(target=watch, args=(publisher, is_over)).start()
        try:
            await triows.serve(client, 8765)
        finally:
            is_over.set()


if __name__ == "__main__":
    trio.run(main)
