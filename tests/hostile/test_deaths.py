"""A client that comes back, from servers that die at random: nothing acknowledged is lost."""

import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
import trio.testing

import triows
from tests.interop.proxies import free_port
from triows.testing import memory_server

DEATHS = 200
SCRIPT = Path(__file__).with_name("mortal_server.py")


@attrs.define
class Postman:
    """Sends numbers, each until it is acknowledged, and notes when it tried to connect."""

    backoff: triows.Backoff
    acknowledged: set[int] = attrs.field(factory=set)
    attempts: list[tuple[float, int]] = attrs.field(factory=list)
    """The time of each, and the failures in a row before it."""
    _next: int = 0

    def note(self, attempt: triows.Attempt) -> None:
        """Note an attempt: a `Resume`."""
        self.attempts.append((trio.current_time(), attempt.failures))

    async def deliver(self, url: str, is_enough: Callable[[], bool], **options: Any) -> None:
        """Send on, over as many connections as it takes, until all is acknowledged and enough."""
        pending: dict[int, None] = {}
        connections = triows.reconnecting(url, backoff=self.backoff, resume=self.note, **options)
        async for ws in connections:
            async with ws:
                for number in pending:  # whether these arrived no one knows
                    await ws.send(str(number))
                while not (is_enough() and not pending):
                    if len(pending) < 10 and not is_enough():
                        pending[self._next] = None
                        self._next += 1
                        await ws.send(str(self._next - 1))
                        continue
                    number = int(await ws.receive())
                    pending.pop(number, None)
                    self.acknowledged.add(number)
                return

    def check_pace(self) -> None:
        """Hold every attempt to the backoff."""
        backoff = self.backoff
        for (before, _), (now, failures) in zip(self.attempts, self.attempts[1:], strict=False):
            full = min(backoff.first * backoff.factor ** max(failures - 1, 0), backoff.longest)
            assert now - before >= full * (1 - backoff.jitter), (before, now, failures)


async def test_200_random_deaths(autojump_clock, warm, nursery):
    """Everything that was acknowledged was stored, and everything sent gets acknowledged."""
    seed = random.randrange(2**32)
    print("seed", seed)
    chance = random.Random(seed)
    stored: set[int] = set()
    postman = Postman(triows.Backoff(first=0.5, longest=8, healthy=20))
    deaths = 0

    async def acknowledge(ws: triows.WebSocket) -> None:
        async for message in ws:
            await trio.sleep(0.8 * chance.random())
            stored.add(int(message))
            await ws.send(message)

    async with memory_server(acknowledge, capacity=200) as server:

        async def die_again_and_again() -> None:
            nonlocal deaths
            while deaths < DEATHS:
                await trio.sleep(chance.choice([0.1, 2, 30]) * chance.random())
                server.die()
                deaths += 1
                await trio.sleep(chance.choice([0, 1, 10]) * chance.random())
                server.come_back()

        nursery.start_soon(die_again_and_again)
        await postman.deliver("ws://server.test/", lambda: deaths == DEATHS, dial=server.dial)
        assert server.attempts == [time for time, _ in postman.attempts]

    assert postman.acknowledged == stored == set(range(len(stored)))
    assert len(stored) > 500
    assert len(postman.attempts) > 100
    assert max(failures for _, failures in postman.attempts) > 2
    postman.check_pace()


@pytest.mark.slow
async def test_200_kills_of_a_server_process(tmp_path, warm):
    """The same with real processes that are killed, over TCP, and files that outlive them."""
    seed, port, file = random.randrange(2**32), free_port(), tmp_path / "stored"
    print("seed", seed)
    postman = Postman(triows.Backoff(first=0.01, longest=0.1, healthy=0.05))
    is_over = False
    command = [sys.executable, SCRIPT, str(port), str(file), str(DEATHS), str(seed)]
    process = subprocess.Popen(  # noqa: ASYNC220 - it is quick, and read from a thread
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )

    def wait_over() -> None:
        nonlocal is_over
        assert process.stdout.readline() == b"immortal\n"
        is_over = True

    try:
        with trio.fail_after(110):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.to_thread.run_sync, wait_over)
                await postman.deliver(f"ws://127.0.0.1:{port}/", lambda: is_over)
    finally:
        process.communicate(b"")

    stored = [int(line) for line in file.read_text().splitlines()]
    assert postman.acknowledged <= set(stored)
    assert postman.acknowledged == set(range(len(postman.acknowledged)))
    print(f"{len(postman.acknowledged)} acknowledged over {len(postman.attempts)} attempts")
    assert len(postman.attempts) > DEATHS
    postman.check_pace()
