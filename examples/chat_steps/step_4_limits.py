"""A chat, step 4: those who read too slowly, those who say too much, and the end."""

import signal
from functools import partial

import trio

import triows

chat = triows.BroadcastChannel[str](history=20)
LONGEST = 500
LIMITS = triows.Limits(max_message=4 * LONGEST, receive_queue_messages=10, max_connections=1_000)


def tell_of_gap(count: int) -> str:
    return f"* you read too slowly: {count} lines were left out"


async def serve_member(ws: triows.WebSocket) -> None:
    with chat.attach(ws, triows.Policy.DROP_OLDEST, 100, lagged=tell_of_gap):
        async for line in ws:
            if len(line) > LONGEST:
                await ws.send(f"* at most {LONGEST} characters, please")
            else:
                chat.publish_nowait(str(line))
            await trio.sleep(0.2)  # what comes faster waits at its sender


async def main(port: int = 8765) -> None:
    async with trio.open_nursery() as nursery:
        serve = partial(triows.serve, serve_member, port, limits=LIMITS)
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            await nursery.start(serve)
            await anext(signals)
        chat.publish_nowait("* the server is shutting down")
        nursery.cancel_scope.cancel()  # tells every client so: close code 1001


if __name__ == "__main__":
    trio.run(main)
