"""Whoever throws deflate bombs at a server: messages that inflate to far more than they are.

A script. Its arguments: a port, the kind of bomb, and how many. It says ``ready`` once it has
made its bomb, waits for a line, throws, and prints a line of JSON: what each was answered with,
close codes to counts. A bomb comes in the same octets as its opening handshake.
"""

import collections
import json
import socket
import struct
import sys
import threading
import zlib

from tests.naive_reception import build_frame

AT_ONCE = 4
"""Connections that bombs come over at a time."""

LARGE = 2**26
"""Octets that a large bomb inflates to."""

SMALL = 2**20 + 1
"""Octets that a small one inflates to: the least that is too much (`Limits.max_message`)."""

TAIL = b"\x00\x00\xff\xff"
TOO_BIG = 1009
PATIENCE = 60.0
AT_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER: reset, so that no port has to wait

REQUEST = (
    b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
    b"Sec-WebSocket-Extensions: permessage-deflate; "
    b"server_no_context_takeover; client_no_context_takeover\r\n\r\n"
)


def deflate(octets, level=9):
    """A message as RFC 7692 §7.2.1 compresses it; zeros become about a thousandth."""
    compressor = zlib.compressobj(level, zlib.DEFLATED, -15)
    compressed = compressor.compress(octets) + compressor.flush(zlib.Z_SYNC_FLUSH)
    return compressed.removesuffix(TAIL)


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
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, AT_CLOSE)
        sock.sendall(octets)
        answer = b""
        while True:
            head, _, frame = answer.partition(b"\r\n\r\n")
            if len(frame) >= 4:
                assert b"permessage-deflate" in head, head
                assert frame[0] == 0x88, frame
                return int.from_bytes(frame[2:4])
            received = sock.recv(4_096)
            assert received, answer
            answer += received


def main():
    """Throw as many as the arguments say."""
    port, kind, count = sys.argv[1:]
    octets = REQUEST + frames(kind)
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
