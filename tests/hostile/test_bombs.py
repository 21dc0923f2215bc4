"""Deflate bombs of a thousand to one: 1009, memory as was said, and others are served meanwhile.

Threat model, item 16. A server in a process and on a core of its own; attacker and the other
clients share the second core. The others have a message of JSON each on its way all the time, so
that the server is busy without any bomb: what these add to that is what is asked for. On a machine
that others use too, their work makes latencies longer and never shorter, so windows with and
without bombs alternate, and the least disturbed of each kind are compared.
"""

import contextlib
import json
import os
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conformance.transports import process_sizes
from tests.hostile.bombing import AT_ONCE, LARGE, OFFER, SMALL, deflate, frames
from tests.hostile.crowd import PATIENCE, ROOT, join
from tests.naive_reception import build_frame

pytestmark = pytest.mark.slow

HERE = Path(__file__).resolve().parent
OTHERS = 100
PERIOD = 0.4  # seconds of a window without bombs
WINDOWS = 4
VOLLEY = 50  # bombs of a window with them
MESSAGE = json.dumps([{"id": i, "name": f"item {i}", "price": i * 7919 % 997} for i in range(22)])


@contextlib.contextmanager
def core(number):
    """Run on one core for the block, and start there what is started."""
    before = os.sched_getaffinity(0)
    if len(before) > 1:
        os.sched_setaffinity(0, {sorted(before)[number]})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextlib.contextmanager
def script(name, *args):
    """Run a script beside this file; gives the process, which ends with its input."""
    process = subprocess.Popen(
        [sys.executable, str(HERE / name), *map(str, args)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    try:
        yield process
    finally:
        process.stdin.close()
        try:
            process.wait(PATIENCE)
        finally:
            process.kill()
            process.stdout.close()


class Others:
    """Well-behaved clients, each with a compressed message on its way, which is echoed."""

    def __init__(self, port):
        self._frame = build_frame(1, deflate(MESSAGE.encode(), 6), rsv=4, key=b"mask")
        self._epoll = select.epoll()
        clients, heard = join([("127.0.0.1", port)], OTHERS, request=OFFER)
        assert not any(heard), heard
        self._sockets = {client.fileno(): client for client in clients}
        for number in self._sockets:
            self._epoll.register(number, select.EPOLLIN)
        self._echo = self._learn()

    def _learn(self):
        """What the server's echo looks like, which is to be the same each time."""
        sock = next(iter(self._sockets.values()))
        sock.sendall(self._frame)
        octets = sock.recv(4_096)
        assert octets[0] == 0xC1
        assert len(octets) == 4 + int.from_bytes(octets[2:4])
        return octets

    def run(self, is_over):
        """Talk until *is_over*; returns the 99th percentile of the latency, in seconds."""
        sent, latencies, goes_on = {}, [], True
        for number, sock in self._sockets.items():
            sock.sendall(self._frame)
            sent[number] = time.perf_counter()
        while sent:
            ready = self._epoll.poll(PATIENCE)
            assert ready, "the others are not served"
            goes_on = goes_on and not is_over()
            for number, _ in ready:
                sock = self._sockets[number]
                assert sock.recv(4_096) == self._echo
                latencies.append(time.perf_counter() - sent.pop(number))
                if goes_on:
                    sock.sendall(self._frame)
                    sent[number] = time.perf_counter()
        assert len(latencies) > 10 * OTHERS
        return sorted(latencies)[len(latencies) * 99 // 100]

    def run_for(self, seconds):
        """Talk for so long."""
        end = time.perf_counter() + seconds
        return self.run(lambda: time.perf_counter() > end)

    def close(self):
        """Hang up."""
        for sock in self._sockets.values():
            sock.close()
        self._epoll.close()


def attack(port, kind, count, others):
    """Throw bombs; returns the close codes, and the latency of the *others*, if they talk."""
    with script("bombing.py", port, kind, count) as bomber:
        assert bomber.stdout.readline() == "ready\n"
        bomber.stdin.write("now\n")
        bomber.stdin.flush()
        latency = others and others.run(lambda: select.select([bomber.stdout], [], [], 0)[0])
        return json.loads(bomber.stdout.readline()), latency


def most_memory(kind):
    """What bombs may take: see "What a bomb costs" in docs/explanation/deflate.md."""
    wire = len(frames(kind))
    return 2 * SMALL + AT_ONCE * (2 * wire + 2**19)


@pytest.mark.parametrize(
    ("kind", "most"), [("single", 200), ("fragmented", 200), ("small", 10_000)]
)
@pytest.mark.parametrize("server", ["reactor", "stream", "callback"])
def test_item_16_a_bomb(server, kind, most):
    """Each is answered with 1009, within the formula, and others wait at most twice as long."""
    assert 900 * len(frames("single")) < LARGE
    allowed = most_memory(kind)
    with core(0), script("bombed_server.py", server) as process, core(1):
        others = Others(port := int(process.stdout.readline()))
        try:
            others.run_for(PERIOD)
            attack(port, kind, 20, others)  # what is made once is made
            Path(f"/proc/{process.pid}/clear_refs").write_text("5")
            before = process_sizes(process.pid)["VmHWM"]
            quiet, bombed = [], []
            for _ in range(WINDOWS):
                quiet.append(others.run_for(PERIOD))
                codes, latency = attack(port, kind, VOLLEY, others)
                assert codes == {"1009": VOLLEY}
                bombed.append(latency)
            if rest := most - WINDOWS * VOLLEY:
                codes, _ = attack(port, kind, rest, None)
                assert codes == {"1009": rest}
            taken = process_sizes(process.pid)["VmHWM"] - before
            others.run_for(PERIOD)  # they are all still there
        finally:
            others.close()
    print(
        f"\n{server}, {kind}: p99 {1e3 * min(quiet):.2f} ms, "
        f"with bombs {1e3 * min(bombed):.2f} ms, "
        f"{taken / 2**20:.2f} MiB of {allowed / 2**20:.2f}"
    )
    assert taken <= allowed
    assert min(bombed) <= 2 * min(quiet)
