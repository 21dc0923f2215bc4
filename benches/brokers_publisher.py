"""A process that publishes at a steady rate to one room that it does not have open itself.

python benches/brokers_publisher.py URL PREFIX RATE SECONDS
"""

import sys

import trio

from triows.redis import open_redis_broker

TICK = 0.002
"""Seconds that it sleeps between what falls due."""


async def main(url: str, prefix: str, rate: str, seconds: str) -> None:
    """Do what the module's docstring says."""
    total, published = int(rate) * int(seconds), 0
    async with open_redis_broker(url, prefix=prefix) as broker:
        began = trio.current_time()
        while published < total:
            due = int((trio.current_time() - began) * int(rate))
            for _ in range(min(due, total) - published):
                await broker.publish("room", "x" * 64)
            published = min(due, total)
            await trio.sleep(TICK)


if __name__ == "__main__":
    trio.run(main, *sys.argv[1:])
