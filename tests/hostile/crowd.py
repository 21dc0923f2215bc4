"""A server in another process, and crowds of clients that come to it quickly.

Clients are plain blocking sockets: what they cost is not measured, and a crowd does each
step for all its members before the next.
"""

import contextlib
import json
import os
import resource
import select
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path

from tests.naive_reception import build_frame

ROOT = Path(__file__).parents[2]
SCRIPT = Path(__file__).with_name("measured_server.py")
PATIENCE = 60.0
"""Seconds after which a server that says nothing is taken to hang."""
SETTLING = 0.05
"""Seconds in which a task that is not over makes a difference: it needs some scheduling passes."""

REQUEST = (
    b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)
HELLO = build_frame(1, b"hello", key=b"mask")
HELLO_BACK = build_frame(1, b"hello")
BYE = build_frame(8, b"\x03\xe8", key=b"mask")
BYE_BACK = build_frame(8, b"\x03\xe8")


class MeasuredServer:
    """`measured_server` in a process of its own.

    Args:
        kind: of the server, see there.
        threads: of the reactor.
        hosts: addresses to listen on; several, since each has no more than 28,000 ports.
    """

    def __init__(self, kind="reactor", threads=1, hosts=("127.0.0.1",)):
        self.process = subprocess.Popen(
            [sys.executable, SCRIPT, kind, str(threads), *hosts],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self.addresses = [tuple(address) for address in self._read()]

    def _read(self):
        readable, _, _ = select.select([self.process.stdout], [], [], PATIENCE)
        line = self.process.stdout.readline() if readable else b""
        assert line, "the server has hanged" if readable == [] else self.process.stderr.read()
        return json.loads(line)

    def measure(self):
        """What the server holds now."""
        self.process.stdin.write(b"\n")
        self.process.stdin.flush()
        return self._read()

    def settle(self, connections):
        """What the server holds once it holds *connections* and no task works on another."""
        deadline = time.monotonic() + PATIENCE
        seen = self.measure()
        while True:
            time.sleep(SETTLING)
            before, seen = seen, self.measure()
            if seen["connections"] == connections and seen["tasks"] == before["tasks"]:
                return seen
            assert time.monotonic() < deadline, seen

    def used_cpu(self):
        """Seconds of CPU that the server has used; it need not answer for that."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def limit_descriptors(self, count):
        """Let the server open *count* descriptors and no more."""
        _, most = resource.prlimit(self.process.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(self.process.pid, resource.RLIMIT_NOFILE, (count, most))

    def close(self):
        """End the server in order; returns what it wrote to its log."""
        self.process.stdin.close()
        try:
            log = self.process.stderr.read().decode()
            assert self.process.wait(PATIENCE) == 0, log
        finally:
            self.process.kill()
            self.process.wait()
            self.process.stdout.close()
            self.process.stderr.close()
        return log


@contextlib.contextmanager
def many_descriptors(count):
    """Let this process, and those that it starts, open *count* descriptors for the block."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(count, before[0]), max(count, before[1])))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def receive(client, size):
    """Receive *size* octets."""
    octets = b""
    while len(octets) < size:
        piece = client.recv(size - len(octets))
        assert piece, octets
        octets += piece
    return octets


def receive_response(client):
    """Receive the response to the request; returns its head, and the octets behind it."""
    octets = b""
    while b"\r\n\r\n" not in octets:
        piece = client.recv(4096)
        assert piece, octets
        octets += piece
    assert octets.startswith(b"HTTP/1.1 101 "), octets
    head, _, rest = octets.partition(b"\r\n\r\n")
    return head, rest


def receive_head(client):
    """Receive the response to the request; returns the octets behind it."""
    return receive_response(client)[1]


def join(addresses, count, greeting=b"", *, request=REQUEST):
    """Open *count* WebSockets; returns them, and what each has heard of an answer to *greeting*."""
    clients = []
    for number in range(count):
        client = socket.create_connection(addresses[number % len(addresses)], PATIENCE)
        client.sendall(request + greeting)
        clients.append(client)
    return clients, [receive_head(client) for client in clients]


def reset(client):
    """Cut the connection off, which leaves no port in TIME_WAIT."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()
