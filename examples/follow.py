"""A subscriber that may miss something, and says so: a task reads slower than another publishes."""

import trio
import trio.testing

import triows


async def follow(channel: triows.BroadcastChannel[str]) -> None:
    async with channel.subscribe(triows.Policy.DROP_OLDEST, capacity=100) as subscription:
        while True:
            try:
                print(await subscription.receive())
            except triows.Lagged as gap:
                print(f"({gap.count} missed)")
            except trio.EndOfChannel:
                break


async def main() -> None:
    async with trio.open_nursery() as nursery, triows.BroadcastChannel[str]() as channel:
        nursery.start_soon(follow, channel)
        await trio.testing.wait_all_tasks_blocked()
        for number in range(1_000):
            channel.publish_nowait(str(number))


if __name__ == "__main__":
    trio.run(main)
