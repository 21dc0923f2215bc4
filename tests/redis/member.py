"""A process with a broker of its own: publishes to a room, and accounts for what it hears there.

    python -m tests.redis.member URL PREFIX NAME COUNT RATE WAIT_FOR...

It publishes COUNT items, RATE a second, once all members WAIT_FOR are announced, and ends when it
has heard COUNT from each of these and then nothing more for a while. It says on standard output,
in lines of JSON, how far it is, and in the end what was wrong.
"""

import json
import sys
from collections import Counter
from contextlib import nullcontext

import trio

from triows import Lagged, Rooms
from triows.redis import open_redis_broker

ROOM = "the room"
TELL = 500
"""Items heard between two lines."""

QUIET = 1.5
"""Seconds without an item, after which there will be none."""


class Account:
    """What was heard from each sender, each of which counts from 1."""

    def __init__(self) -> None:
        self.heard: Counter[str] = Counter()
        self.faults: list[str] = []
        self.lagged = 0

    def enter(self, item: str) -> str:
        """Note an item; returns whose it is."""
        who, number = item.split()
        expected = self.heard[who] + 1
        if int(number) != expected:
            self.faults.append(f"{who} {number} instead of {expected}")
        self.heard[who] = max(expected, int(number))
        return who


def tell(**fields) -> None:
    """Write a line."""
    print(json.dumps(fields), flush=True)


async def publish(rooms, name: str, count: int, rate: float) -> None:
    """Publish at a steady rate, and catch up where that was not possible."""
    began = trio.current_time()
    for number in range(1, count + 1):
        await rooms.publish(ROOM, f"{name} {number}")
        ahead = began + number / rate - trio.current_time()
        if ahead > 0.005:
            await trio.sleep(ahead)


async def hear(room, name: str, count: int, expected: list[str]) -> Account:
    """Receive until enough has come from all that are expected."""
    account, missing, common = Account(), set(expected), room.position.epoch
    items = acknowledged = 0
    while True:
        try:
            with nullcontext() if missing else trio.fail_after(QUIET):
                who = account.enter(await room.receive())
        except Lagged as lagged:
            account.lagged += lagged.count
            continue
        except trio.TooSlowError:
            return account
        if account.heard[who] == count:
            missing.discard(who)
        if who == name and room.position.epoch == common:  # Redis has it, not this process alone
            acknowledged = account.heard[name]
        items += 1
        if items % TELL == 0:
            tell(items=items, acknowledged=acknowledged)


async def main(url: str, prefix: str, name: str, count: int, rate: float, *expected: str) -> None:
    """Do all that the module's docstring says."""
    async with open_redis_broker(url, prefix=prefix, log=200_000) as broker:
        rooms = Rooms[str](broker=broker)
        async with rooms.join(ROOM, capacity=1_000) as room, broker.announce(ROOM, name):
            while not set(expected) <= set(await broker.members(ROOM)):  # noqa: ASYNC110
                await trio.sleep(0.05)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(publish, rooms, name, count, rate)
                account = await hear(room, name, count, list(expected))
        losses = broker.statistics().losses
    tell(end=account.heard, faults=account.faults[:10], lagged=account.lagged, losses=losses)


if __name__ == "__main__":
    url, prefix, name, count, rate, *expected = sys.argv[1:]
    trio.run(main, url, prefix, name, int(count), float(rate), *expected)
