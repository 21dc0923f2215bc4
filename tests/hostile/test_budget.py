"""What a crowd may take of the time of others: turns have budgets, messages a price per octet."""

import contextlib
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import trio

import triows
from tests.hostile.crowd import ROOT
from triows._kernels._registry import JIT
from triows._reactor import Loop
from triows._reactor._loop import BUDGET

SCRIPT = Path(__file__).with_name("pouring.py")
CROWD, FRAMES, SIZE, SECONDS = 500, 10, 1_024, 2.0

compiled_only = pytest.mark.skipif(not JIT, reason="figures of the compiled reactor")


class Probe:
    """A task like any other, which notes how long turns take and keep it waiting."""

    def __init__(self, monkeypatch):
        self.turns = []
        """Of CPU, one for each turn."""
        take_turns = Loop.take_turns

        def take_timed(*args):
            used = time.thread_time()
            served = take_turns(*args)
            self.turns.append(time.thread_time() - used)
            return served

        monkeypatch.setattr(Loop, "take_turns", take_timed)
        self.seconds = []
        """By the clock, which other processes have a part in."""
        self.used = []
        """Of CPU, by this thread."""

    async def run(self):
        """Note every pass of the scheduler that had turns in it, until cancelled."""
        while True:
            turns = len(self.turns)
            clock, used = time.monotonic(), time.thread_time()
            await trio.lowlevel.checkpoint()
            if len(self.turns) > turns:
                self.used.append(time.thread_time() - used)
                self.seconds.append(time.monotonic() - clock)


def part(durations, share):
    """The duration that *share* of them does not exceed."""
    return sorted(durations)[round(share * (len(durations) - 1))]


def told(durations):
    """Durations in words."""
    p50, p99, most = (1e3 * part(durations, share) for share in (0.5, 0.99, 1))
    return f"median {p50:.2f} ms, p99 {p99:.2f} ms, at most {most:.2f} ms"


@compiled_only
async def test_a_crowd_that_pipelines_leaves_others_their_turns(warm, monkeypatch):
    """While 500 connections pour in frames, inline, another task runs every few milliseconds."""
    probe = Probe(monkeypatch)
    with trio.fail_after(60):
        async with triows.open_reactor(threads=0) as reactor, trio.open_nursery() as nursery:
            ((host, port),) = await reactor.listen(0)
            figures = map(str, (port, CROWD, FRAMES, SIZE, SECONDS))
            crowd = await trio.lowlevel.open_process(
                [sys.executable, str(SCRIPT), host, *figures],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
            )
            assert await crowd.stdout.receive_some() == b"ready\n"
            nursery.start_soon(probe.run)
            await crowd.stdin.send_all(b"\n")
            replies = int(await crowd.stdout.receive_some())
            nursery.cancel_scope.cancel()
            found = reactor.statistics().total
        async with crowd.stdin, crowd.stdout:
            assert await crowd.wait() == 0

    print(f"{replies} replies in {found.turns} turns; a turn took", told(probe.turns), "of CPU")
    print("a pass of the scheduler with turns took", told(probe.used), "of CPU")
    print("by the clock", told(probe.seconds))
    assert found.messages_sent == replies >= CROWD * FRAMES
    assert part(probe.turns, 0.99) < 2 * BUDGET
    assert part(probe.turns, 1) < 5 * BUDGET
    assert part(probe.used, 0.99) < 5 * BUDGET
    assert part(probe.used, 1) < 20 * BUDGET
    assert part(probe.seconds, 0.5) < 5 * BUDGET


SIZES = [2**16, 2**18, 2**20, 2**22, 2**24]
VOLUME = 2**25
"""Octets that are echoed of each size."""


class Ferry:
    """A loop and a client that sends and receives without waiting, in one thread."""

    def __init__(self):
        limits = triows.Limits(max_message=2**24, message_timeout=600)
        self.loop = Loop(0, limits, triows.KeepAlive())
        self.client, theirs = socket.socketpair()
        self.client.setblocking(False)
        self.loop.add(theirs.detach())
        self.used = 0.0
        """Seconds of CPU in turns."""

    def echo(self, frame, size):
        """Send a frame and receive *size* octets."""
        rest = memoryview(frame)
        while size:
            with contextlib.suppress(BlockingIOError):
                rest = rest[self.client.send(rest) :] if rest else rest
            begin = time.thread_time()
            self.loop.take_turns(0, 1)
            self.used += time.thread_time() - begin
            with contextlib.suppress(BlockingIOError):
                size -= len(self.client.recv(2**20))

    def close(self):
        """Close both ends."""
        self.loop.close()
        self.client.close()


def cost(size, opcode):
    """Nanoseconds of CPU for an octet of a message of *size* octets, in the best of three runs."""
    frame = bytes((0x80 | opcode, 0xFF)) + size.to_bytes(8) + bytes(4) + b"x" * size
    costs = []
    for _ in range(3):
        ferry = Ferry()
        ferry.echo(frame, size + 10)  # what memory costs the first time is not counted
        ferry.used = 0.0
        for _ in range(VOLUME // size):
            ferry.echo(frame, size + 10)
        ferry.close()
        costs.append(ferry.used / VOLUME * 1e9)
    return min(costs)


@compiled_only
@pytest.mark.parametrize("opcode", [1, 2], ids=["text", "binary"])
def test_the_cost_of_an_octet_does_not_grow_with_the_message(warm, opcode):
    """From 64 KiB to 16 MiB an octet costs about the same."""
    costs = [cost(size, opcode) for size in SIZES]

    for size, one in zip(SIZES, costs, strict=True):
        print(f"{size // 1024:6} KiB: {one:.2f} ns an octet")
    assert max(costs) < 4 * min(costs)  # the largest do not stay in the cache
