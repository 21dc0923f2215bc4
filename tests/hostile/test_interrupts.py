"""Signals and cancellation at any moment, under load (threat model, item 31)."""

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest
import trio

import triows
from tests.hostile.crowd import HELLO, HELLO_BACK, REQUEST, ROOT, join, reset

PROMPTLY = 5.0
"""Seconds within which a process that was told to end, and whose peers have gone, has ended."""
MEMBERS = 20


class Load:
    """Clients that keep a server busy from a thread, until it drops them."""

    def __init__(self, address):
        self._clients, _ = join([address], MEMBERS)
        self._frames = HELLO * 500
        self._thread = threading.Thread(target=self._pour)
        self._is_over = threading.Event()
        self.received = 0
        self._thread.start()

    def _pour(self):
        for client in self._clients:
            client.setblocking(False)
        with contextlib.suppress(ConnectionError):
            while not self._is_over.is_set():
                for client in self._clients:
                    with contextlib.suppress(BlockingIOError):
                        client.send(self._frames)
                    with contextlib.suppress(BlockingIOError):
                        self.received += len(client.recv(2**16))

    def end(self):
        """Let the clients go, in mid-frame."""
        self._is_over.set()
        self._thread.join()
        for client in self._clients:
            reset(client)


def begin(threads):
    """Start the process of a server."""
    command = [sys.executable, "-m", "triows", "echo", "--api", "compiled"]
    return subprocess.Popen(
        [*command, "--threads", str(threads)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def wait_ready(process):
    """Wait until a server is ready; returns where it listens."""
    host, port = process.stdout.readline().split()[1].decode().removeprefix("ws://").split(":")
    return host, int(port)


def strike(threads, numbers, seed):
    """Send signals to a busy server at random moments; returns its status and what it wrote."""
    chance = random.Random(seed)
    process = begin(threads)
    try:
        load = Load(wait_ready(process))
        for number in numbers:
            time.sleep(chance.choice([0, chance.random() / 1_000, chance.random() / 10]))
            process.send_signal(number)
        load.end()
        output, errors = process.communicate(timeout=PROMPTLY)
    finally:
        process.kill()
        process.communicate()
    return process.returncode, output.decode(), errors.decode()


def once(threads, seed):
    """One signal: the server ends in order."""
    number = random.Random(seed).choice([signal.SIGINT, signal.SIGTERM])
    assert strike(threads, [number], seed) == (0, "", "")


def twice(threads, seed):
    """Two: it ends at once, or in order if it was quicker."""
    numbers = random.Random(seed).choices([signal.SIGINT, signal.SIGTERM], k=2)
    status, output, errors = strike(threads, numbers, seed)
    # Two that are pending come in any order; Python, while it ends itself, has no handlers.
    assert status in {0, *(128 + number for number in numbers), *(-number for number in numbers)}
    assert (output, errors) == ("", "")


@pytest.mark.parametrize(("threads", "strikes"), [(0, twice), (1, once), (2, twice)])
def test_item_31_a_busy_reactor_is_interrupted(threads, strikes):
    """SIGINT or SIGTERM, once or twice, ends a busy server promptly and without a traceback."""
    strikes(threads, seed=threads)


def test_item_31_a_second_signal_may_come_at_the_very_end():
    """A second SIGINT that meets a server which has ended, but not its process, is no error."""
    servers = [begin(threads=1) for _ in range(3)]
    for number, process in enumerate(servers):
        wait_ready(process)
        process.send_signal(signal.SIGINT)
        time.sleep(number / 50)
        process.send_signal(signal.SIGINT)

    ends = [process.communicate(timeout=PROMPTLY) for process in servers]

    assert ends == [(b"", b"")] * 3
    statuses = {process.returncode for process in servers}
    assert statuses <= {0, 128 + signal.SIGINT, -signal.SIGINT}


@pytest.mark.slow  # a minute
@pytest.mark.parametrize("seed", [*range(3), *range(10, 13)])
@pytest.mark.parametrize("strikes", [once, twice])
@pytest.mark.parametrize("threads", [0, 1, 2])
def test_item_31_a_busy_reactor_is_interrupted_at_many_moments(threads, strikes, seed):
    """The same, at other moments."""
    strikes(threads, seed)


async def visit(address, talks):
    """Come, talk and go, again and again, until nobody listens; note each talk in *talks*."""
    with contextlib.suppress(OSError, trio.BrokenResourceError):
        while True:
            async with await trio.open_tcp_stream(*address) as stream:
                await stream.send_all(REQUEST + HELLO * 50)
                octets = b""
                while octets.count(HELLO_BACK) < 50:
                    piece = await stream.receive_some()
                    if not piece:
                        break
                    octets += piece
                else:
                    talks.append(address)


def held():
    """Descriptors and tasks, and threads that drive a loop."""
    driving = [frame for frame in sys._current_frames().values() if is_driving(frame)]
    with os.scandir("/proc/self/fd") as found:
        descriptors = sum(1 for _ in found)
    return descriptors, trio.lowlevel.current_statistics().tasks_living, len(driving)


def is_driving(frame):
    """Whether a thread's stack has a driver in it."""
    while frame is not None and frame.f_code.co_name != "_drive":
        frame = frame.f_back
    return frame is not None


async def run_by_block(threads, started):
    """A reactor as a block of code."""
    async with triows.open_reactor(threads=threads, shutdown_grace=0.2) as reactor:
        started((await reactor.listen(0))[0])
        await trio.sleep_forever()


async def run_by_task(threads, started):
    """A reactor as a task of a nursery."""
    reactor = triows.Reactor(threads=threads, shutdown_grace=0.2)
    async with trio.open_nursery() as nursery:
        await nursery.start(reactor.run_echo, 0)
        started(reactor.addresses[0])


@pytest.mark.parametrize("running", [run_by_block, run_by_task])
@pytest.mark.parametrize("threads", [0, 1, 2])
async def test_item_31_a_reactor_cancelled_at_random_leaves_nothing(warm, threads, running):
    """Whenever a busy reactor is cancelled, no descriptor, task or thread of it remains."""
    chance = random.Random(threads)
    before, talks = None, []
    for _ in range(25):
        moment = chance.choice([0, chance.random() / 1_000, chance.random() / 20])
        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                addresses = []

                def visitors(address, nursery=nursery, addresses=addresses):
                    addresses.append(address)
                    for _ in range(5):
                        nursery.start_soon(visit, address, talks)

                with trio.move_on_after(moment):
                    await running(threads, visitors)
        for address in addresses:
            with pytest.raises(OSError, match="refused"):
                socket.create_connection(address, 1)
        before = before or held()
        assert held() == before
    assert talks
