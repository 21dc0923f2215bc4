"""Whoever throws deflate bombs at a server: messages that inflate to far more than they are.

A script. Its arguments: a port, the kind of bomb, and how many. It says ``ready`` once it has
made its bomb, waits for a line, throws, and prints a line of JSON: what each was answered with,
close codes to counts. A bomb comes in the same octets as its opening handshake.
"""

import collections
import json
import socket
import sys
import threading
import zlib
from functools import cache

from tests.hostile.crowd import PATIENCE, REQUEST, receive, receive_response, reset
from tests.naive_reception import build_frame

AT_ONCE = 4
"""Connections that bombs come over at a time."""

LARGE = 2**26
"""Octets that a large bomb inflates to."""

SMALL = 2**20 + 1
"""Octets that a small one inflates to: the least that is too much (`Limits.max_message`)."""

TAIL = b"\x00\x00\xff\xff"

OFFER = REQUEST.removesuffix(b"\r\n") + (
    b"Sec-WebSocket-Extensions: permessage-deflate; "
    b"server_no_context_takeover; client_no_context_takeover\r\n\r\n"
)
"""A request that offers compression."""


def deflate(octets, level=9):
    """A message as RFC 7692 §7.2.1 compresses it; zeros become about a thousandth."""
    compressor = zlib.compressobj(level, zlib.DEFLATED, -15)
    compressed = compressor.compress(octets) + compressor.flush(zlib.Z_SYNC_FLUSH)
    return compressed.removesuffix(TAIL)


@cache
def frames(kind):
    """The frames of one bomb: ``single``, ``fragmented`` or ``small``."""
    bomb = deflate(bytes(SMALL if kind == "small" else LARGE))
    step = 100 if kind == "fragmented" else len(bomb)
    return b"".join(
        build_frame(
            0 if at else 2,
            bomb[at : at + step],
            rsv=0 if at else 4,
            fin=at + step >= len(bomb),
            key=b"mask",
        )
        for at in range(0, len(bomb), step)
    )


def throw(port, octets):
    """Throw one bomb; returns the close code that comes back."""
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as client:
        client.sendall(octets)
        head, frame = receive_response(client)
        assert b"permessage-deflate" in head, head
        frame += receive(client, 4 - len(frame))
        assert frame[0] == 0x88, frame
        reset(client)
    return int.from_bytes(frame[2:4])


def main():
    """Throw as many as the arguments say."""
    port, kind, count = sys.argv[1:]
    octets = OFFER + frames(kind)
    codes = collections.Counter()
    numbers = iter(range(int(count)))

    def throw_some():
        for _ in numbers:
            codes[throw(int(port), octets)] += 1

    print("ready", flush=True)
    sys.stdin.readline()
    threads = [threading.Thread(target=throw_some) for _ in range(AT_ONCE)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(json.dumps(codes), flush=True)


if __name__ == "__main__":
    main()
