"""A process with a broker: publishes at a steady rate, and times what comes from the others.

    python benches/brokers_peer.py URL PREFIX NAME COUNT OF RATE SECONDS ROOMS OCTETS

Each of OF processes publishes RATE messages a second, in ROOMS rooms in turn, and hears all rooms.
A message bears the time at which it was due, on the machine's monotonic clock, so that a process
that is late with it does not look quick. Standard output gets one line of JSON.
"""

import json
import sys
import time
from contextlib import AsyncExitStack
from pathlib import Path

import numpy as np
import trio

from triows import Lagged, Membership, Rooms
from triows.redis import RedisBroker, open_redis_broker

SETTLE = 1.0
"""Seconds of traffic that are not counted."""

TICK = 0.001
"""Seconds that a publisher sleeps at least: what falls due meanwhile is late, which counts."""


async def publish(rooms: Rooms[str], name: str, rate: float, seconds: float, *shape: int) -> None:
    """Publish what is due, then wait for what is due next."""
    count, octets = shape
    began, number = time.monotonic(), 0
    while (due := began + number / rate) < began + seconds:
        if (ahead := due - time.monotonic()) > 0:
            await trio.sleep(max(ahead, TICK))
        room, text = f"room {number % count}", f"{name} {due:.9f} ".ljust(octets, ".")
        try:
            rooms.publish_nowait(room, text)
        except trio.WouldBlock:
            await rooms.publish(room, text)
        number += 1


async def hear(room: Membership[str], name: str, since: float, taken: list[float]) -> None:
    """Note how old messages from elsewhere are on their arrival."""
    while True:
        text = await room.receive()  # `Lagged` ends the bench: nothing may be missing
        now = time.monotonic()
        whose, due, _ = text.split(" ", 2)
        if whose != name and float(due) > since:
            taken.append(now - float(due))


def wait_time() -> float:
    """Return for how many seconds this process could have run, but another program did."""
    return int(Path("/proc/self/schedstat").read_text().split()[1]) / 1e9


async def wait_for_others(broker: RedisBroker, count: int) -> None:
    """Wait until all are there."""
    while len(await broker.members("peers")) < count:  # noqa: ASYNC110 - other processes come
        await trio.sleep(0.05)


async def main(url: str, prefix: str, name: str, *numbers: str) -> None:
    """Do all that the module's docstring says."""
    peers, rate, seconds, *shape = (int(number) for number in numbers)
    taken: list[float] = []
    async with open_redis_broker(url, prefix=prefix) as broker, AsyncExitStack() as stack:
        rooms = Rooms[str](broker=broker)
        joined = [
            await stack.enter_async_context(rooms.join(f"room {number}", capacity=10_000))
            for number in range(shape[0])
        ]
        async with broker.announce("peers", name), trio.open_nursery() as nursery:
            await wait_for_others(broker, peers)
            for room in joined:
                nursery.start_soon(hear, room, name, time.monotonic() + SETTLE, taken)
            spent, waited = time.process_time(), wait_time()
            await publish(rooms, name, rate, seconds + SETTLE, *shape)
            spent, waited = time.process_time() - spent, wait_time() - waited
            await trio.sleep(1)
            nursery.cancel_scope.cancel()
    milliseconds = 1000 * np.array(taken)
    percentiles = dict(zip(("p50", "p99", "p999", "max"), (50, 99, 99.9, 100), strict=True))
    found = {f"{key}_ms": float(np.percentile(milliseconds, at)) for key, at in percentiles.items()}
    found |= {"cpu_share": spent / (seconds + SETTLE), "wait_share": waited / (seconds + SETTLE)}
    print(json.dumps({"heard": len(taken), **found}), flush=True)


if __name__ == "__main__":
    try:
        trio.run(main, *sys.argv[1:])
    except* Lagged as lagged:
        sys.exit(f"messages were lost: {lagged.exceptions}")
