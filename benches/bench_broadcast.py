"""What a plain broadcast channel costs, as the number of its subscribers grows.

    python benches/bench_broadcast.py --output benches/results/broadcast.json

Publishing is linear in the subscribers, subscribing and leaving cost the same however many
there are. (Where what subscribers hold does not fit the processor's caches, each costs more.)
Of a hundred items the first 64 find room, the others have the oldest dropped; the mean counts.
Of subscribing and leaving the median does, which Python's collector has no part in. No
sockets: `bench_fanout` has those.
"""

import argparse
import contextlib
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import trio
from surroundings import describe, keep

from triows import BroadcastChannel, Policy

COUNTS = (10, 100, 1_000, 10_000, 40_000)
PUBLISHES = 100
ROUNDS = 5


async def measure(count: int) -> dict[str, float]:
    """Fill a channel with subscribers, publish to them, and let one more come and go."""
    channel: BroadcastChannel[int] = BroadcastChannel()
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(count):
            await stack.enter_async_context(channel.subscribe(Policy.DROP_OLDEST, 64))
        started = time.perf_counter()
        for item in range(PUBLISHES):
            channel.publish_nowait(item)
        publish = (time.perf_counter() - started) / PUBLISHES
        entered, left = [], []
        for _ in range(PUBLISHES):
            started = time.perf_counter()
            async with channel.subscribe(Policy.DROP_OLDEST, 64):
                entered.append(time.perf_counter() - started)
                started = time.perf_counter()
            left.append(time.perf_counter() - started)
        assert channel.statistics().offered == count * PUBLISHES
    return {
        "publish_us": 1e6 * publish,
        "publish_ns_per_subscriber": 1e9 * publish / count,
        "subscribe_us": 1e6 * statistics.median(entered),
        "leave_us": 1e6 * statistics.median(left),
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Run the bench and keep its figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, help="a JSON file, say below benches/results/")
    args = parser.parse_args(argv)
    rows = {}
    for count in COUNTS:
        taken = [trio.run(measure, count) for _ in range(ROUNDS)]
        row = {name: statistics.median(one[name] for one in taken) for name in taken[0]}
        print(
            f"{count:>7,} subscribers: publish {row['publish_us']:9.1f} µs"
            f" = {row['publish_ns_per_subscriber']:5.0f} ns each,"
            f" subscribe {row['subscribe_us']:5.1f} µs, leave {row['leave_us']:5.1f} µs",
            flush=True,
        )
        rows[str(count)] = row
    keep({**describe(__file__, argv or sys.argv[1:]), "subscribers": rows}, args.output)


if __name__ == "__main__":
    main()
