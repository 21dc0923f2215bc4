"""A load generator that reads what it gets: echo traffic over many sockets, checked octet by octet.

The loop itself is compiled (`drive`). Opening handshakes are done in Python
beforehand, and the frames (RFC 6455 §5.2) are built and masked before the
clock starts.

Each connection sends a *batch* of frames in one ``send``, waits for all of its
replies, and sends the next; a batch of one is the classic ping-pong. Batches
differ from one to the next, so that a stale, lost or swapped reply is seen as
a wrong octet. It knows nothing of any server's inner life: it speaks to a port.
"""

import base64
import contextlib
import hashlib
import os
import select
import socket
import time
from types import TracebackType
from typing import Self

import attrs
import numpy as np
from drive import (
    CLOSED,
    DETAIL,
    EPOLLIN,
    EVENT_WORDS,
    EVENTS,
    FD,
    FINE,
    LATENCY_COUNT,
    OFFSET,
    PATIENCE,
    SLOT,
    STALLED,
    STATE_COLUMNS,
    SURPLUS,
    VARIANT,
    VERDICT_ROWS,
    WRONG_OCTET,
    drive,
)

GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
GOODBYE = bytes.fromhex("88 82 00000000 03e8")  # a masked Close frame, code 1000
MOST_VARIANTS, FEWEST_VARIANTS = 17, 3  # batches unlike each other, taken in turn
TRAFFIC = 1 << 17  # octets of all batches and replies: fewer variants if they would leave the cache
ARRIVALS = 1 << 18  # octets of the shared receive buffer
LATENCIES = 1 << 20  # samples kept; later ones overwrite the oldest


class LoadError(Exception):
    """The server did not echo; the figures of this run are void."""


class WrongOctetError(LoadError):
    """A reply differs from what was sent, in its header, length or payload."""


@attrs.frozen(kw_only=True)
class Shape:
    """So many connections, so many octets a message, so many messages in flight on each."""

    connections: int
    octets: int
    pipelined: int = 1

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``100/20`` or ``10/20x16``."""
        connections, _, rest = text.partition("/")
        octets, _, pipelined = rest.partition("x")
        return cls(
            connections=int(connections), octets=int(octets), pipelined=int(pipelined or "1")
        )

    def __str__(self) -> str:
        return f"{self.connections}/{self.octets}" + (
            f"x{self.pipelined}" if self.pipelined > 1 else ""
        )


@attrs.frozen(kw_only=True)
class Tally:
    """What one run of the generator saw."""

    messages: int
    seconds: float
    latencies: np.ndarray = attrs.field(repr=False, eq=False)
    """Nanoseconds from a batch's send to the last octet of its replies."""

    def latency(self, percent: float) -> float:
        """Return that percentile of the latency, in microseconds."""
        return float(np.percentile(self.latencies, percent)) / 1000


def header(size: int, *, masked: bool) -> bytes:
    """Build the header of a whole binary message of *size* octets (RFC 6455 §5.2)."""
    bit = 0x80 if masked else 0
    if size < 126:
        return bytes([0x82, bit | size])
    if size < 65_536:
        return bytes([0x82, bit | 126]) + size.to_bytes(2, "big")
    return bytes([0x82, bit | 127]) + size.to_bytes(8, "big")


def traffic(shape: Shape) -> tuple[np.ndarray, np.ndarray]:
    """Build the batches to send and the replies that each must bring back."""
    random = np.random.default_rng(6455)
    frames, replies = [], []
    wanted = TRAFFIC // (2 * shape.pipelined * (shape.octets + 14))
    for _ in range(min(max(wanted, FEWEST_VARIANTS), MOST_VARIANTS)):
        batch, reply = bytearray(), bytearray()
        for _ in range(shape.pipelined):
            payload = random.integers(0, 256, shape.octets, np.uint8)
            key = random.integers(0, 256, 4, np.uint8)
            masked = payload ^ np.resize(key, shape.octets)
            batch += header(shape.octets, masked=True) + key.tobytes() + masked.tobytes()
            reply += header(shape.octets, masked=False) + payload.tobytes()
        frames.append(np.frombuffer(batch, np.uint8))
        replies.append(np.frombuffer(reply, np.uint8))
    return np.stack(frames), np.stack(replies)


def upgrade(
    host: str,
    port: int,
    receive_buffer: int | None = None,
    *,
    target: str = "/",
    fields: str = "",
) -> socket.socket:
    """Connect and shake hands (RFC 6455 §4.1).

    Args:
        host: where the server listens.
        port: where the server listens.
        receive_buffer: octets that the kernel keeps until they are read, half of what it takes.
        target: what to ask for.
        fields: further header fields, each line with its end.

    Raises:
        LoadError: the server refused, or sent octets of its own after the 101.
    """
    key = base64.b64encode(os.urandom(16)).decode()
    accept = base64.b64encode(hashlib.sha1((key + GUID).encode()).digest())  # noqa: S324 - RFC 6455 §4.2.2
    sock = socket.socket()
    if receive_buffer is not None:  # before connecting: it sets TCP's window scale
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    sock.settimeout(PATIENCE)
    sock.connect((host, port))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.sendall(
        f"GET {target} HTTP/1.1\r\nHost: {host}:{port}\r\nUpgrade: websocket\r\n"
        f"Connection: Upgrade\r\nSec-WebSocket-Key: {key}\r\n"
        f"Sec-WebSocket-Version: 13\r\n{fields}\r\n".encode()
    )
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        octets = sock.recv(1)
        if not octets:
            raise LoadError(f"the server closed during the handshake, after {head!r}")
        head += octets
    if not head.startswith(b"HTTP/1.1 101 ") or accept not in head:
        raise LoadError(f"the server did not upgrade: {head!r}")
    return sock


class Load:
    """Open connections to one server, ready to be driven; a context manager.

    Args:
        host, port: where the server listens, without TLS.
        shape: connections, octets and messages in flight.
        fields: further header fields to shake hands with, each line with its end.
        batches: what to send and what must come back, as `traffic` builds it.
    """

    def __init__(
        self,
        host: str,
        port: int,
        shape: Shape,
        *,
        fields: str = "",
        batches: tuple[np.ndarray, np.ndarray] | None = None,
    ) -> None:
        self.shape = shape
        self._frames, self._replies = traffic(shape) if batches is None else batches
        self._sockets = [upgrade(host, port, fields=fields) for _ in range(shape.connections)]
        self._epoll = select.epoll()
        self._slots = np.zeros(max(s.fileno() for s in self._sockets) + 1, np.int64)
        self._state = np.zeros((shape.connections, STATE_COLUMNS), np.int64)
        for slot, sock in enumerate(self._sockets):
            sock.setblocking(False)
            self._epoll.register(sock.fileno(), EPOLLIN)
            self._slots[sock.fileno()] = slot
            self._state[slot, FD] = sock.fileno()
            self._state[slot, VARIANT] = slot % len(self._frames)
        self._arrivals = np.zeros(ARRIVALS, np.uint8)
        self._events = np.zeros((EVENTS + 1, EVENT_WORDS), np.int32)
        self._latencies = np.zeros(LATENCIES, np.int64)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close every connection with 1000 (RFC 6455 §7.1.2); what comes back is not looked at."""
        self._epoll.close()
        for sock in self._sockets:
            with contextlib.suppress(OSError):
                sock.send(GOODBYE)
        for sock in self._sockets:
            with contextlib.suppress(OSError):
                sock.settimeout(PATIENCE)
                while sock.recv(ARRIVALS):
                    pass
            sock.close()

    def run(self, seconds: float) -> Tally:
        """Echo for *seconds*, then wait for the replies still outstanding.

        Raises:
            WrongOctetError: a reply is not what was sent; where, and what came instead.
            LoadError: a connection ended, or nothing came for PATIENCE seconds.
        """
        verdict = np.zeros(VERDICT_ROWS, np.int64)
        started = time.perf_counter()
        code = drive(
            self._epoll.fileno(), self._slots, self._state, self._frames, self._replies,
            self._arrivals, self._events, np.zeros(2, np.int64), self._latencies, verdict,
            int(seconds * 1e9),
        )  # fmt: skip
        elapsed = time.perf_counter() - started
        if code != FINE:
            raise self._fault(code, verdict.tolist())
        batches = int(verdict[LATENCY_COUNT])
        return Tally(
            messages=batches * self.shape.pipelined,
            seconds=elapsed,
            latencies=self._latencies[: min(batches, LATENCIES)].copy(),
        )

    def _fault(self, code: int, verdict: list[int]) -> LoadError:
        """Say what *verdict* holds."""
        slot, offset, detail = verdict[SLOT], verdict[OFFSET], verdict[DETAIL]
        where = f"connection {slot} of {self.shape}"
        if code == WRONG_OCTET:
            expected = self._replies[self._state[slot, VARIANT], offset]
            return WrongOctetError(
                f"{where}: octet {offset} of the reply is {detail:#04x} instead of {expected:#04x}"
            )
        if code == SURPLUS:
            return WrongOctetError(f"{where}: {detail} octets more than the reply's {offset}")
        if code == CLOSED:
            return LoadError(f"{where}: closed by the server")
        if code == STALLED:
            return LoadError(f"{self.shape}: nothing came for {PATIENCE:g} s")
        return LoadError(f"{where}: {os.strerror(detail)}")
