"""What an idle connection takes, with and without compression (RFC 7692).

    python benches/bench_deflate_memory.py --output benches/results/deflate-memory.json

The memory that the server's process has resident, before and after so many connections have
come, each with one message of JSON echoed, which its handler has still got; the kernel's own
is not in it. Linux only.
"""

import argparse
import contextlib
import resource
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from random import Random

from bench_deflate import (
    OFFER,
    build_frame,
    learn,
    make_message,
    mask_payload,
    peer,
    receive_exactly,
)
from bench_echo import Server, running
from load import header, upgrade
from surroundings import describe, keep

OFFERS = {
    "no compression": "",
    "without takeover": OFFER,
    "with takeover": "Sec-WebSocket-Extensions: permessage-deflate\r\n",
}


def resident(server: Server) -> int:
    """Return the octets that a process has in memory."""
    pages = int(Path(f"/proc/{server.pid}/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def exchange(message: bytes, key: bytes, sock: socket.socket) -> None:
    """Have *message* echoed as it is."""
    size = len(message)
    sock.sendall(header(size, masked=True) + key + mask_payload(message, key))
    reply = header(size, masked=False) + message
    assert receive_exactly(sock, len(reply)) == reply


def measure(server: Server, offer: str, count: int) -> float:
    """Return what each of *count* connections takes, in octets."""
    chance = Random(7692)
    with contextlib.ExitStack() as stack:

        def connect(number: int) -> None:
            for _ in range(number):
                sock = upgrade(server.host, server.port, fields=offer)
                stack.enter_context(sock)
                message, key = make_message(chance), chance.randbytes(4)
                if offer:
                    learn(server, message, build_frame(message, key), sock)
                else:
                    exchange(message, key, sock)

        connect(count // 4)  # what the first ones cost once
        time.sleep(0.5)
        before = resident(server)
        connect(count)
        time.sleep(0.5)
        return (resident(server) - before) / count


def main(argv: Sequence[str] | None = None) -> None:
    """Run the bench and keep its figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--connections", type=int, default=2_000)
    parser.add_argument("--output", type=Path, help="a JSON file, say below benches/results/")
    args = parser.parse_args(argv)
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # the server inherits it
    found: dict[str, float] = {}
    for driver in ("reactor", "stream"):
        for name, offer in OFFERS.items():
            takeover = ["takeover"] if name == "with takeover" else []
            command = peer("triows_deflate_echo.py", "3", driver, *takeover)
            with running(name, command) as server:
                octets = measure(server, offer, args.connections)
            found[f"{driver}, {name}"] = octets
            print(f"{driver:>8}, {name:<16} {octets:9,.0f} octets", flush=True)
    keep(
        {
            **describe(__file__, argv or sys.argv[1:]),
            "connections": args.connections,
            "octets_per_connection": found,
        },
        args.output,
    )


if __name__ == "__main__":
    main()
