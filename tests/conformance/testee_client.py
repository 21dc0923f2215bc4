"""The client that Autobahn's cases examine: it sends back whatever it receives.

    python -m tests.conformance.testee_client HOST:PORT PARALLELISM DRIVER [deflate]

The suite is a server. It is asked how many cases there are, then for each of them by
a connection of its own, in the end for its report.
"""

import sys
from typing import Any

import trio

import triows

AGENT = "triows"
LIMITS = triows.Limits(max_message=2**24)
"""Room for section 9."""
DEFLATE = triows.Deflate(threshold=0)
"""Compresses every message."""


async def ask(address: str, target: str) -> str:
    """The first message that the suite sends on *target*; none is an empty one."""
    async with triows.open_websocket(f"ws://{address}{target}") as ws:
        try:
            return str(await ws.receive())
        except (triows.ConnectionBroken, trio.EndOfChannel):  # the suite has shut down
            return ""


async def run_case(address: str, case: int, driver: Any, deflate: triows.Deflate | None) -> None:
    """Go through one case; however the connection ends is for the suite to judge."""
    url = f"ws://{address}/runCase?case={case}&agent={AGENT}"
    async with triows.open_websocket(url, limits=LIMITS, driver=driver, deflate=deflate) as ws:
        try:
            async for message in ws:
                await ws.send(message)
        except triows.ConnectionBroken:
            pass


async def main(address: str, parallelism: int, driver: str, deflate: triows.Deflate | None) -> None:
    """Go through every case, *parallelism* of them at a time."""
    count = int(await ask(address, "/getCaseCount"))
    cases = iter(range(1, count + 1))

    async def run_cases() -> None:
        for case in cases:
            await run_case(address, case, driver, deflate)

    async with trio.open_nursery() as nursery:
        for _ in range(parallelism):
            nursery.start_soon(run_cases)
    await ask(address, f"/updateReports?agent={AGENT}&shutdownOnComplete=true")


if __name__ == "__main__":
    deflate = DEFLATE if sys.argv[4:] == ["deflate"] else None
    trio.run(main, sys.argv[1], int(sys.argv[2]), sys.argv[3], deflate)
