"""What a server spends on an echoed message of JSON that is compressed both ways (RFC 7692).

    python benches/bench_deflate.py --output benches/results/deflate.json

All servers are asked for the same: no context takeover on either side, windows of 2**15
octets. Each is compared with those that compress at the same level. A server's replies are
learnt beforehand: inflated, held against what was sent, and from then on compared octet by
octet, since without context a message is always compressed the same. See `bench_echo` for
how CPU time is measured, and what makes a row doubtful.
"""

import argparse
import collections
import contextlib
import json
import socket
import statistics
import sys
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random

import attrs
import numpy as np
from bench_echo import GENERATOR_CORE, Sample, Server, measure, median, on_core, ratio, running
from load import Load, Shape, upgrade
from surroundings import describe, keep

PEERS = Path(__file__).resolve().parent / "peers"
OFFER = (
    "Sec-WebSocket-Extensions: permessage-deflate; "
    "server_no_context_takeover; client_no_context_takeover\r\n"
)
CANDIDATES = 400  # messages, of which those are sent that make frames of one size
MOST_VARIANTS = 17
TEXT_COMPRESSED = 0xC1  # FIN, RSV1, text (RFC 6455 §5.2, RFC 7692 §6)
TAIL = b"\x00\x00\xff\xff"  # that every message is sent without (§7.2.1)
SIZE = 1024  # octets of a message
HEADER_SIZE = 4  # octets of a reply's, with 126 to 65,535 behind it


def peer(script: str, *args: str) -> Sequence[str]:
    """Return the command that runs a script of `peers`."""
    return (sys.executable, str(PEERS / script), *args)


SERVERS: Mapping[str, Sequence[str]] = {
    "triows level 1": peer("triows_deflate_echo.py", "1"),
    "aiohttp level 1": peer("aiohttp_echo.py", "deflate"),
    "websockets level 1": peer("websockets_uvloop_echo.py", "1"),
    "triows level 3": peer("triows_deflate_echo.py", "3"),
    "triows level 3, stream": peer("triows_deflate_echo.py", "3", "stream"),
    "websockets level 3": peer("websockets_uvloop_echo.py", "3"),
    "triows level 6": peer("triows_deflate_echo.py", "6"),
    "websockets level 6": peer("websockets_uvloop_echo.py", "6"),
}
"""Name, whose end is its level, to command."""


def make_message(chance: Random) -> bytes:
    """Return *SIZE* octets of JSON such as an application sends."""
    rows: list[dict[str, object]] = []
    while len(json.dumps(rows)) < SIZE - 120:
        rows.append(
            {
                "id": chance.randrange(10**6),
                "symbol": chance.choice(["ABC", "XYZ", "QRS", "TUV"]),
                "price": round(chance.uniform(10, 500), 2),
                "note": chance.choice(["open", "filled in part", "filled", "cancelled"]),
            }
        )
    text = json.dumps(rows)
    return text.encode() + b" " * (SIZE - len(text))


def build_frame(message: bytes, key: bytes) -> bytes:
    """Compress *message* and build its frame, masked with *key*."""
    deflater = zlib.compressobj(6, zlib.DEFLATED, -15)
    payload = (deflater.compress(message) + deflater.flush(zlib.Z_SYNC_FLUSH)).removesuffix(TAIL)
    size = len(payload)
    assert 126 <= size < 65_536, size
    return (
        bytes([TEXT_COMPRESSED, 0x80 | 126])
        + size.to_bytes(2, "big")
        + key
        + mask_payload(payload, key)
    )


def mask_payload(payload: bytes, key: bytes) -> bytes:
    """Mask a payload with *key*, 4 octets (RFC 6455 §5.3)."""
    keys = np.resize(np.frombuffer(key, np.uint8), len(payload))
    return (np.frombuffer(payload, np.uint8) ^ keys).tobytes()


def receive_exactly(sock: socket.socket, size: int) -> bytes:
    """Return the next *size* octets."""
    octets = bytearray()
    while len(octets) < size:
        piece = sock.recv(size - len(octets))
        assert piece, "the server has closed"
        octets += piece
    return bytes(octets)


def learn(server: Server, message: bytes, frame: bytes, sock: socket.socket) -> bytes:
    """Return the frame that *server* echoes *message* with, which must mean the same."""
    sock.sendall(frame)
    head = receive_exactly(sock, HEADER_SIZE)
    assert head[:2] == bytes([TEXT_COMPRESSED, 126]), f"{server.name} does not compress: {head!r}"
    payload = receive_exactly(sock, int.from_bytes(head[2:]))
    assert zlib.decompressobj(-15).decompress(payload + TAIL) == message, server.name
    return head + payload


def learn_all(server: Server) -> list[tuple[bytes, bytes]]:
    """Have *server* echo the candidates; returns the frame and the reply of each."""
    chance = Random(7692)
    with upgrade(server.host, server.port, fields=OFFER) as sock:
        messages = (make_message(chance) for _ in range(CANDIDATES))
        framed = ((message, build_frame(message, chance.randbytes(4))) for message in messages)
        return [(frame, learn(server, message, frame, sock)) for message, frame in framed]


def make_batches(learnt: Sequence[tuple[bytes, bytes]]) -> tuple[np.ndarray, np.ndarray]:
    """Choose the pairs whose frames and replies are of one size, and return all of these."""
    by_size = collections.defaultdict(list)
    for frame, reply in learnt:
        by_size[len(frame), len(reply)].append((frame, reply))
    pairs = max(by_size.values(), key=len)[:MOST_VARIANTS]
    assert len(pairs) > 1, "all messages are of different sizes"
    frames, replies = (
        np.stack([np.frombuffer(octets, np.uint8) for octets in column])
        for column in zip(*pairs, strict=True)
    )
    return frames, replies


def level_of(name: str) -> str:
    """Return the level that a server compresses at."""
    return name.partition("level ")[2].partition(",")[0]


def report(
    samples: Mapping[str, Sequence[Sample]], sizes: Mapping[str, float]
) -> dict[str, object]:
    """Print each server's row, with the best peer of its level, and return all of them."""
    rows: dict[str, object] = {}
    for name, taken in samples.items():
        middle = median(taken)
        ratios = {
            other: ratio(taken, theirs)
            for other, theirs in samples.items()
            if level_of(other) == level_of(name) and not other.startswith("triows")
        }
        against = ", ".join(f"x{x:.3f} of {other.split()[0]}" for other, x in ratios.items())
        print(
            f"{name:<24} {middle.cpu_us:8.2f} µs/message  {sizes[name]:6.1f} octets of {SIZE}"
            f"  {middle.rate:9,.0f}/s  {against}  {', '.join(middle.doubts)}".rstrip(),
            flush=True,
        )
        rows[name] = {
            "median": attrs.asdict(middle),
            "mean_octets": sizes[name],
            "ratios": ratios,
            "doubts": middle.doubts,
            "samples": [attrs.asdict(sample) for sample in taken],
        }
    return rows


def run(connections: int, seconds: float, rounds: int) -> dict[str, object]:
    """Measure all servers in turn, so many rounds."""
    shape = Shape(connections=connections, octets=SIZE)
    samples: dict[str, list[Sample]] = {name: [] for name in SERVERS}
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(running(n, c)) for n, c in SERVERS.items()]
        stack.enter_context(on_core(GENERATOR_CORE))
        learnt = {server.name: learn_all(server) for server in servers}
        sizes = {
            name: statistics.mean(len(reply) - HEADER_SIZE for _, reply in pairs)
            for name, pairs in learnt.items()
        }
        batches = {name: make_batches(pairs) for name, pairs in learnt.items()}
        for _ in range(rounds):
            for server in servers:
                load = Load(
                    server.host, server.port, shape, fields=OFFER, batches=batches[server.name]
                )
                samples[server.name].append(measure(server, load, seconds))
    return {"shape": str(shape), "servers": report(samples, sizes)}


def main(argv: Sequence[str] | None = None) -> None:
    """Run the bench and keep its figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--connections", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path, help="a JSON file, say below benches/results/")
    args = parser.parse_args(argv)
    results = run(args.connections, args.seconds, args.rounds)
    keep({**describe(__file__, argv or sys.argv[1:]), **results}, args.output)


if __name__ == "__main__":
    main()
