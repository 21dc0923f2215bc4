"""Rooms of clients: one sends in each, all receive, and every octet of every delivery is checked.

The messages differ from one to the next, so that one that is lost, doubled or out of order
is seen as a wrong octet. Connections that *stall* have joined and never read.
"""

import contextlib
import os
import select
import socket
import time
from types import TracebackType
from typing import Self

import attrs
import numpy as np
from attrs.validators import ge, le
from drive import (
    CLOSED,
    DETAIL,
    EPOLLIN,
    EVENT_WORDS,
    EVENTS,
    FD,
    FINE,
    OFFSET,
    PATIENCE,
    SLOT,
    STALLED,
    STATE_COLUMNS,
    VERDICT_ROWS,
    WRONG_OCTET,
)
from fanout_drive import DELIVERIES, MOST_WINDOW, fan_out
from load import ARRIVALS, GOODBYE, LATENCIES, LoadError, WrongOctetError, header, upgrade

VARIANTS = 251  # messages unlike each other; a prime, so that no window fits into them

STALLED_BUFFER = 4_096
"""Octets that the kernel keeps for a connection that never reads, or about twice as many."""


@attrs.frozen(kw_only=True)
class Shape:
    """So many clients, so many octets a message, so many messages on their way in each room."""

    clients: int = attrs.field()
    """Of all rooms together."""
    octets: int
    window: int = attrs.field(validator=[ge(1), le(MOST_WINDOW)])
    rooms: int = attrs.field(default=1, validator=ge(1))
    stalled: int = 0

    @clients.validator
    def _check_clients(self, _: object, clients: int) -> None:
        if clients % self.rooms:
            raise ValueError(f"{clients} clients cannot be shared out among {self.rooms} rooms")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``500/64x4``.

        ``10*50/64x4`` has ten rooms of fifty, and ``1000/64x4-10`` ten clients more that never
        read.
        """
        rooms, is_given, rest = text.rpartition("*")
        members, _, rest = rest.partition("/")
        octets, _, rest = rest.partition("x")
        window, _, stalled = rest.partition("-")
        count = int(rooms) if is_given else 1
        return cls(
            clients=count * int(members),
            octets=int(octets),
            window=int(window),
            rooms=count,
            stalled=int(stalled or 0),
        )

    def __str__(self) -> str:
        rooms = f"{self.rooms}*" if self.rooms > 1 else ""
        stalled = f"-{self.stalled}" if self.stalled else ""
        return f"{rooms}{self.clients // self.rooms}/{self.octets}x{self.window}{stalled}"


@attrs.frozen(kw_only=True)
class Tally:
    """What one run of the generator saw."""

    deliveries: int
    seconds: float
    latencies: np.ndarray = attrs.field(repr=False, eq=False)
    """Nanoseconds from a message's send to its delivery, for each delivery."""

    def latency(self, percent: float) -> float:
        """Return that percentile of the latency, in microseconds."""
        return float(np.percentile(self.latencies, percent)) / 1000


def messages(octets: int) -> tuple[np.ndarray, np.ndarray]:
    """Build the messages to send, masked, as `fan_out` takes them, and what they are relayed as."""
    random = np.random.default_rng(6455)
    sent, relayed = [], bytearray()
    for _ in range(VARIANTS):
        payload = random.integers(0, 256, octets, np.uint8)
        key = random.integers(0, 256, 4, np.uint8)
        masked = payload ^ np.resize(key, octets)
        frame = header(octets, masked=True) + key.tobytes() + masked.tobytes()
        sent.append(np.frombuffer(frame, np.uint8))
        relayed += header(octets, masked=False) + payload.tobytes()
    return np.stack((*sent, *sent[:MOST_WINDOW])), np.frombuffer(relayed, np.uint8).copy()


def stall(host: str, port: int) -> socket.socket:
    """Join, with little room for what comes, and never read again."""
    sock = upgrade(host, port, receive_buffer=STALLED_BUFFER)
    sock.setblocking(False)
    return sock


def warm_up() -> None:
    """Compile the loop: while it is compiled, a server would ping who is idle."""
    none, octets = np.zeros(1, np.int64), np.ones(1, np.uint8)
    frames = np.ones((1 + MOST_WINDOW, 1), np.uint8)
    verdict, events = np.zeros(VERDICT_ROWS, np.int64), np.zeros((EVENTS, EVENT_WORDS), np.int32)
    ring = np.zeros((1, 1), np.int64)
    fan_out(
        -1, none, np.zeros((1, STATE_COLUMNS), np.int64), frames, octets, octets,
        events, np.zeros(2, np.int64), np.zeros((1, 2), np.int64), ring, ring,
        none, verdict, 0, 0,
    )  # fmt: skip


class Rooms:
    """Open connections to one server, ready to be driven; a context manager.

    The rooms of a shape are asked for as ``/``, ``/1``, ``/2``.
    """

    def __init__(self, host: str, port: int, shape: Shape) -> None:
        self.shape = shape
        self._frames, self._stream = messages(shape.octets)
        self._sockets = [
            upgrade(host, port, target=f"/{n % shape.rooms or ''}") for n in range(shape.clients)
        ]
        self._stalled = [stall(host, port) for _ in range(shape.stalled)]
        self._epoll = select.epoll()
        self._slots = np.zeros(max(s.fileno() for s in self._sockets) + 1, np.int64)
        self._state = np.zeros((shape.clients, STATE_COLUMNS), np.int64)
        for slot, sock in enumerate(self._sockets):
            sock.setblocking(False)
            self._epoll.register(sock.fileno(), EPOLLIN)
            self._slots[sock.fileno()] = slot
            self._state[slot, FD] = sock.fileno()
        self._octets = np.zeros(ARRIVALS, np.uint8)
        self._events = np.zeros((EVENTS, EVENT_WORDS), np.int32)
        self._latencies = np.zeros(LATENCIES, np.int64)
        time.sleep(0.2)  # a server may take a moment from its 101 to the room

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
        """Close every connection; those that have stalled without a word."""
        self._epoll.close()
        for sock in self._stalled:
            sock.close()
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
        """Publish for *seconds*, then wait for what is still outstanding.

        Raises:
            WrongOctetError: what came is not what was sent; where, and what came instead.
            LoadError: a connection ended, or nothing came for PATIENCE seconds.
        """
        verdict = np.zeros(VERDICT_ROWS, np.int64)
        ring = np.zeros((self.shape.rooms, 2 * MOST_WINDOW), np.int64)
        started = time.perf_counter()
        code = fan_out(
            self._epoll.fileno(), self._slots, self._state, self._frames, self._stream,
            self._octets, self._events, np.zeros(2, np.int64),
            np.zeros((self.shape.rooms, 2), np.int64), ring, ring.copy(), self._latencies,
            verdict, self.shape.window, int(seconds * 1e9),
        )  # fmt: skip
        elapsed = time.perf_counter() - started
        if code != FINE:
            raise self._fault(code, verdict.tolist())
        deliveries = int(verdict[DELIVERIES])
        return Tally(
            deliveries=deliveries,
            seconds=elapsed,
            latencies=self._latencies[: min(deliveries, LATENCIES)].copy(),
        )

    def _fault(self, code: int, verdict: list[int]) -> LoadError:
        slot, offset, detail = verdict[SLOT], verdict[OFFSET], verdict[DETAIL]
        where = f"client {slot} of {self.shape}"
        if code == WRONG_OCTET:
            expected = self._stream[offset % self._stream.size]
            return WrongOctetError(
                f"{where}: octet {offset} is {detail:#04x} instead of {expected:#04x}"
            )
        if code == CLOSED:
            return LoadError(f"{where}: closed by the server")
        if code == STALLED:
            return LoadError(f"{self.shape}: nothing came for {PATIENCE:g} s")
        return LoadError(f"{where}: {os.strerror(detail)}")
