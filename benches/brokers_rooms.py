"""Local fan-out of `triows.Rooms`, in one process: as fast as it goes, for some seconds.

    python benches/brokers_rooms.py MEMBERS SECONDS [URL]

One task publishes to a room, MEMBERS tasks receive there; none may miss anything. With a URL, what
is published goes to Redis and comes back first. Standard output gets one line of JSON.
"""

import json
import sys
import time
from contextlib import AsyncExitStack

import trio
from brokers_server import open_broker

import triows

TEXT = "x" * 64


async def receive(room: triows.Membership[str | bytes], counts: list[int], place: int) -> None:
    """Count what comes."""
    async for _ in room:
        counts[place] += 1


async def main(members: str, seconds: str, url: str | None = None) -> None:
    """Do all that the module's docstring says."""
    counts, published = [0] * int(members), 0
    async with open_broker(url) as broker, AsyncExitStack() as stack:
        rooms = triows.Rooms[str | bytes](broker=broker)
        joined = [await stack.enter_async_context(rooms.join("room")) for _ in counts]
        async with trio.open_nursery() as nursery:
            for place, room in enumerate(joined):
                nursery.start_soon(receive, room, counts, place)
            cpu, began = time.process_time(), time.monotonic()
            while time.monotonic() < began + float(seconds):
                await rooms.publish("room", TEXT)
                published += 1
            while min(counts) < published:  # noqa: ASYNC110 - what is on its way comes too
                await trio.sleep(0.001)
            cpu, lasted = time.process_time() - cpu, time.monotonic() - began
            nursery.cancel_scope.cancel()
    deliveries = sum(counts)
    figures = {"rate": deliveries / lasted, "cpu_us": 1e6 * cpu / deliveries}
    print(json.dumps({"published": published, **figures}), flush=True)


if __name__ == "__main__":
    trio.run(main, *sys.argv[1:])
