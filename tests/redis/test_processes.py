"""Brokers in processes of their own; Redis is killed, and one of them is killed too."""

import json
import sys
from collections import Counter
from pathlib import Path

import pytest
import trio

from tests.redis.server import RedisServer

TOTAL = 100_000
"""Items that those publish who live."""

RATE = 10_000.0
"""How many all publish in a second."""

ROOT = Path(__file__).parents[2]


class Member:
    """A process of `tests.redis.member`, and what it has said."""

    def __init__(self, url, name, count, rate, expected):
        module = ["-m", "tests.redis.member"]
        self.name = name
        self.said: list[dict] = [{"items": 0, "acknowledged": 0}]
        self.process: trio.Process | None = None
        arguments = [url, "processes:", name, str(count), str(rate), *expected]
        self._command = [sys.executable, *module, *arguments]

    async def run(self, task_status) -> None:
        """Run it to its end."""
        stdout = {"stdout": -1}
        self.process = await trio.lowlevel.open_process(self._command, cwd=ROOT, **stdout)
        task_status.started()
        try:
            rest = b""
            async for octets in self.process.stdout:
                *lines, rest = (rest + octets).split(b"\n")
                self.said += map(json.loads, lines)
            await self.process.wait()
        finally:
            self.process.kill()

    @property
    def last(self) -> dict:
        """What it has said last."""
        return self.said[-1]


async def wait_heard(members, items) -> None:
    """Wait until everyone has heard so many items."""
    for member in members:
        while member.last.get("items", TOTAL) < items:  # noqa: ASYNC110 - it is another process
            await trio.sleep(0.01)


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 4])
async def test_100_000_messages_across(mortal_redis: RedisServer, count):
    """None is lost or doubled, and each sender's order kept, whatever is killed in the middle."""
    names = [f"member-{number}" for number in range(count)]
    share, rate = TOTAL // count, RATE / count
    living = [Member(mortal_redis.url, name, share, rate, names) for name in names]
    victim = Member(mortal_redis.url, "victim", TOTAL, rate / 2, names)  # it has more to say
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            for member in (*living, victim):
                await nursery.start(member.run)
            await wait_heard(living, TOTAL * 3 // 10)
            mortal_redis.kill()
            await trio.sleep(1)
            mortal_redis.start()
            await wait_heard(living, TOTAL * 7 // 10)
            victim.process.kill()
            killed_at = [member.last.get("items") for member in living]

    ends = [member.last for member in living]
    print(f"killed at {killed_at}, {victim.last}, {ends}")
    assert all(killed_at)
    assert not any("end" in said for said in victim.said)
    heard_of_victim = {end["end"].pop("victim") for end in ends}
    assert len(heard_of_victim) == 1  # all have heard the same of it
    assert 0 < victim.last["acknowledged"] <= heard_of_victim.pop() < TOTAL
    for end in ends:
        assert Counter(end["end"]) == Counter(dict.fromkeys(names, share))
        assert (end["faults"], end["lagged"]) == ([], 0)
        assert end["losses"] == 1
