"""A load generator that reads what it gets: echo traffic over many sockets, checked octet by octet.

It has to outrun a server that spends 4 µs on a message, so the loop between
``epoll_wait``, ``recv`` and ``send`` is compiled and calls libc directly. The
opening handshakes are done in Python beforehand, and the frames (RFC 6455
§5.2) are built and masked before the clock starts.

Each connection sends a *batch* of frames in one ``send``, waits for all of its
replies, and sends the next; a batch of one is the classic ping-pong. Batches
differ from one to the next, so that a stale, lost or swapped reply is seen as
a wrong octet. It knows nothing of any server's inner life: it speaks to a port.
"""

import base64
import contextlib
import hashlib
import os
import platform
import select
import socket
import time
from types import TracebackType
from typing import Self

import attrs
import numba
import numpy as np
from numba import njit, types

GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
GOODBYE = bytes.fromhex("88 82 00000000 03e8")  # a masked Close frame, code 1000
MOST_VARIANTS, FEWEST_VARIANTS = 17, 3  # batches unlike each other, taken in turn
TRAFFIC = 1 << 17  # octets of all batches and replies: fewer variants if they would leave the cache
ARRIVALS = 1 << 18  # octets of the shared receive buffer
EVENTS = 256  # events taken from one epoll_wait
LATENCIES = 1 << 20  # samples kept; later ones overwrite the oldest
PATIENCE = 5.0  # seconds without any event after which the server counts as stalled

# struct epoll_event is packed on x86-64 alone; as 32-bit words: events, data, ...
EVENT_WORDS = 3 if platform.machine() == "x86_64" else 4
DATUM_WORD = EVENT_WORDS - 2

FD, VARIANT, SENT, RECEIVED, SENT_AT, STATE_COLUMNS = range(6)
SLOT, OFFSET, DETAIL, LATENCY_COUNT, VERDICT_ROWS = range(5)
FINE, WRONG_OCTET, SURPLUS, CLOSED, SYSTEM_ERROR, STALLED = range(6)

EPOLLIN, EPOLLOUT, EPOLL_CTL_MOD = 1, 4, 3
EINTR, EAGAIN = 4, 11
MSG_DONTWAIT, MSG_NOSIGNAL = 0x40, 0x4000
CLOCK_MONOTONIC = 1

_recv = types.ExternalFunction("recv", types.intp(types.intc, types.uintp, types.uintp, types.intc))
_send = types.ExternalFunction("send", types.intp(types.intc, types.uintp, types.uintp, types.intc))
_memcmp = types.ExternalFunction("memcmp", types.intc(types.uintp, types.uintp, types.uintp))
_epoll_wait = types.ExternalFunction(
    "epoll_wait", types.intc(types.intc, types.uintp, types.intc, types.intc)
)
_epoll_ctl = types.ExternalFunction(
    "epoll_ctl", types.intc(types.intc, types.intc, types.intc, types.uintp)
)
_clock_gettime = types.ExternalFunction("clock_gettime", types.intc(types.intc, types.uintp))
_errno_location = types.ExternalFunction("__errno_location", types.CPointer(types.intc)())


class LoadError(Exception):
    """The server did not echo; the figures of this run are void."""


class WrongOctetError(LoadError):
    """A reply differs from what was sent, in its header, length or payload."""


@njit(nogil=True)
def _errno():
    """Return the C library's errno of this thread."""
    return np.int64(numba.carray(_errno_location(), 1)[0])


@njit(nogil=True)
def _now(clock):
    """Return the monotonic time in nanoseconds; *clock* is room for a struct timespec."""
    _clock_gettime(CLOCK_MONOTONIC, clock.ctypes.data)
    return clock[0] * 1_000_000_000 + clock[1]


@njit(nogil=True)
def _watch(epoll, fd, interest, event):
    """Set what *epoll* reports of *fd*; *event* is room for one struct epoll_event."""
    event[0] = interest
    event[DATUM_WORD] = fd
    event[DATUM_WORD + 1] = 0
    return _epoll_ctl(epoll, EPOLL_CTL_MOD, fd, event.ctypes.data)


@njit(nogil=True)
def _write(epoll, row, frames, event):
    """Send what is left of the row's batch; wait for writability where it does not fit.

    Returns 0, or an errno.
    """
    size = frames.shape[1]
    had_sent = row[SENT]
    address = frames.ctypes.data + row[VARIANT] * size
    n = _send(row[FD], address + had_sent, size - had_sent, MSG_DONTWAIT | MSG_NOSIGNAL)
    if n < 0:
        error = _errno()
        if error not in (EAGAIN, EINTR):
            return error
        n = 0
    row[SENT] = had_sent + n
    if row[SENT] < size and had_sent == 0:
        _watch(epoll, row[FD], EPOLLIN | EPOLLOUT, event)
    elif row[SENT] == size and (had_sent > 0 or n < size):
        _watch(epoll, row[FD], EPOLLIN, event)
    return np.int64(0)


@njit(nogil=True)
def _check(row, arrivals, n, replies, verdict):
    """Compare the *n* octets that arrived with what the row's batch must bring back."""
    size = replies.shape[1]
    start = row[RECEIVED]
    if n > size - start:
        verdict[OFFSET] = size
        verdict[DETAIL] = n - (size - start)
        return SURPLUS
    expected = replies.ctypes.data + row[VARIANT] * size + start
    if _memcmp(arrivals.ctypes.data, expected, n) != 0:
        for i in range(n):
            if arrivals[i] != replies[row[VARIANT], start + i]:
                verdict[OFFSET] = start + i
                verdict[DETAIL] = arrivals[i]
                break
        return WRONG_OCTET
    row[RECEIVED] = start + n
    return FINE


@njit(nogil=True)
def _read(row, arrivals, replies, verdict):
    """Receive once and check it; leaves FINE with no octets where nothing was there."""
    n = _recv(row[FD], arrivals.ctypes.data, arrivals.size, MSG_DONTWAIT)
    if n > 0:
        return _check(row, arrivals, n, replies, verdict)
    if n == 0:
        return CLOSED
    error = _errno()
    if error in (EAGAIN, EINTR):
        return FINE
    verdict[DETAIL] = error
    return SYSTEM_ERROR


@njit(nogil=True)
def _begin(epoll, row, now, frames, event, verdict):
    """Send the row's next batch."""
    row[VARIANT] = (row[VARIANT] + 1) % frames.shape[0]
    row[SENT] = 0
    row[RECEIVED] = 0
    row[SENT_AT] = now
    error = _write(epoll, row, frames, event)
    if error != 0:
        verdict[DETAIL] = error
        return SYSTEM_ERROR
    return FINE


@njit(nogil=True)
def _serve_event(
    epoll, row, interest, frames, replies, arrivals, event, clock, latencies, verdict, deadline
):
    """Handle one ready socket; returns (code, 1 if its batch is done and no new one began)."""
    if interest & EPOLLOUT:
        error = _write(epoll, row, frames, event)
        if error != 0:
            verdict[DETAIL] = error
            return SYSTEM_ERROR, 0
    if interest & ~EPOLLOUT == 0:
        return FINE, 0
    code = _read(row, arrivals, replies, verdict)
    if code != FINE or row[RECEIVED] < replies.shape[1]:
        return code, 0
    now = _now(clock)
    latencies[verdict[LATENCY_COUNT] % latencies.size] = now - row[SENT_AT]
    verdict[LATENCY_COUNT] += 1
    if now >= deadline:
        return FINE, 1
    return _begin(epoll, row, now, frames, event, verdict), 0


@njit(nogil=True)
def drive(epoll, slots, state, frames, replies, arrivals, events, latencies, verdict, nanoseconds):
    """Echo on every connection for so many nanoseconds, then wait for what is outstanding.

    epoll      descriptor that watches every connection, its datum the connection's own
    slots      int64 (descriptors,): row of each descriptor in *state*
    state      int64 (connections, STATE_COLUMNS), all at rest
    frames     uint8 (variants, octets): the batches to send
    replies    uint8 (variants, octets): what each must bring back
    arrivals   uint8, room for one receive
    events     int32 (EVENTS + 1, EVENT_WORDS); the last row is room for epoll_ctl
    latencies  int64, a ring of nanoseconds from a batch's send to its last octet
    verdict    int64 (VERDICT_ROWS,), zeroed; holds the count of batches and the fault's place

    Returns FINE, or what went wrong.
    """
    clock = np.zeros(2, np.int64)
    event = events[EVENTS]
    now = _now(clock)
    deadline = now + nanoseconds
    outstanding = state.shape[0]
    for slot in range(state.shape[0]):
        verdict[SLOT] = slot
        code = _begin(epoll, state[slot], _now(clock), frames, event, verdict)
        if code != FINE:
            return code
    while outstanding > 0:
        count = _epoll_wait(epoll, events.ctypes.data, EVENTS, int(PATIENCE * 1000))
        if count == 0:
            return STALLED
        for i in range(count):
            slot = slots[events[i, DATUM_WORD]]
            verdict[SLOT] = slot
            code, done = _serve_event(
                epoll, state[slot], events[i, 0], frames, replies, arrivals, event, clock,
                latencies, verdict, deadline,
            )  # fmt: skip
            if code != FINE:
                return code
            outstanding -= done
    return FINE


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


def upgrade(host: str, port: int) -> socket.socket:
    """Connect and shake hands (RFC 6455 §4.1).

    Raises:
        LoadError: the server refused, or sent octets of its own after the 101.
    """
    key = base64.b64encode(os.urandom(16)).decode()
    accept = base64.b64encode(hashlib.sha1((key + GUID).encode()).digest())  # noqa: S324 - RFC 6455 §4.2.2
    sock = socket.create_connection((host, port), timeout=PATIENCE)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.sendall(
        f"GET / HTTP/1.1\r\nHost: {host}:{port}\r\nUpgrade: websocket\r\n"
        f"Connection: Upgrade\r\nSec-WebSocket-Key: {key}\r\n"
        "Sec-WebSocket-Version: 13\r\n\r\n".encode()
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
    """

    def __init__(self, host: str, port: int, shape: Shape) -> None:
        self.shape = shape
        self._frames, self._replies = traffic(shape)
        self._sockets = [upgrade(host, port) for _ in range(shape.connections)]
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
            self._arrivals, self._events, self._latencies, verdict, int(seconds * 1e9),
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
