"""CPU of one opening handshake in the engine, server's side, from octets to the 101.

    python benches/bench_handshake.py

Prints microseconds, the best of several runs, for the least request and for a browser's;
beside them, what llhttp alone takes for the same octets.
"""

import contextlib
import timeit
from collections.abc import Callable

import httptools

from triows._engine import ServerHandshake
from triows._engine._head import HeadFields
from triows._options import Limits

LEAST = (
    b"GET / HTTP/1.1\r\nHost: localhost:9001\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
BROWSER = (
    b"GET /chat?room=1 HTTP/1.1\r\nHost: example.com:8080\r\nConnection: Upgrade\r\n"
    b"Pragma: no-cache\r\nCache-Control: no-cache\r\n"
    b"User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) "
    b"Chrome/126.0.0.0 Safari/537.36\r\nUpgrade: websocket\r\nOrigin: http://example.com\r\n"
    b"Sec-WebSocket-Version: 13\r\nAccept-Encoding: gzip, deflate, br\r\n"
    b"Accept-Language: en-US,en;q=0.9\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    b"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\r\n"
)
LIMITS = Limits()
ROUNDS = 5_000


def shake_hands(octets: bytes) -> bytes:
    """Answer one request."""
    handshake = ServerHandshake(LIMITS)
    handshake.receive(octets)
    return handshake.accept()


def parse_only(octets: bytes) -> None:
    """Let llhttp alone read one request."""
    with contextlib.suppress(httptools.HttpParserUpgrade):
        httptools.HttpRequestParser(HeadFields()).feed_data(octets)


def microseconds(act: Callable[[bytes], object], octets: bytes) -> float:
    """Time one call, the best of several runs."""
    return min(timeit.repeat(lambda: act(octets), number=ROUNDS, repeat=9)) / ROUNDS * 1e6


if __name__ == "__main__":
    print(f"{'request':10}{'octets':>8}{'handshake µs':>14}{'llhttp µs':>12}")
    for name, octets in {"least": LEAST, "browser": BROWSER}.items():
        whole, parsed = microseconds(shake_hands, octets), microseconds(parse_only, octets)
        print(f"{name:10}{len(octets):8}{whole:14.1f}{parsed:12.1f}")
