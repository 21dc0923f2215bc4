"""Chatters who check what they hear: the load of `bench_chat`, its loop compiled.

Every chatter says something at its own times and hears what its room says. A message's text is
of fixed length and holds when it was sent, by whom, and its number; so each arrival is a
latency, and proves that nothing of its sender was lost, doubled or out of order before it.
"""

import json
import select
import socket
import time
from contextlib import suppress

import attrs
import numpy as np
from chat_drive import (
    BIN,
    BINS,
    COUNTS,
    ENDED,
    TEXT,
    chat,
)
from drive import EPOLLIN, EVENT_WORDS, EVENTS
from load import LoadError, upgrade

TAIL = 65_536  # octets of an incomplete frame that a chatter keeps
ARRIVALS = 1 << 18


def masked(text: str) -> bytes:
    """Frame a text as a client does, with a mask of zeros: the server unmasks it all the same."""
    payload = text.encode()
    size = len(payload)
    head = (
        bytes([0x81, 0x80 | size]) if size < 126 else bytes([0x81, 0xFE]) + size.to_bytes(2, "big")
    )
    return head + bytes(4) + payload


def enter(
    host: str, port: int, nick: str, room: str, receive_buffer: int | None = None
) -> socket.socket:
    """Connect a chatter, and have it say hello and join; what is answered is not awaited."""
    sock = upgrade(
        host, port, receive_buffer, target="/chat", fields="Sec-WebSocket-Protocol: chat.v1\r\n"
    )
    hello = masked(json.dumps({"type": "hello", "nick": nick}))
    sock.sendall(hello + masked(json.dumps({"type": "join", "room": room})))
    return sock


def enter_as_person(host: str, port: int, room: str, receive_buffer: int) -> socket.socket:
    """Connect someone who reads lines, and have them go to a room."""
    sock = upgrade(host, port, receive_buffer, target="/chat")
    sock.sendall(masked(f"/join {room}"))
    return sock


def is_let_go(sock: socket.socket) -> bool:
    """Say whether the server has ended this connection; what it sent before is thrown away."""
    sock.setblocking(False)
    try:
        while sock.recv(ARRIVALS):
            pass
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True


@attrs.define(eq=False, slots=False)
class Chatters:
    """People in rooms, who speak and listen."""

    host: str
    port: int
    people: int
    room_size: int
    rate: float
    """Messages a second of each."""
    counts: np.ndarray = attrs.field(factory=lambda: np.zeros(COUNTS, np.int64))
    histograms: np.ndarray = attrs.field(init=False)
    """Of latencies, for each room."""

    def __attrs_post_init__(self) -> None:
        rooms = self.people // self.room_size
        self.histograms = np.zeros((rooms, BINS), np.int64)
        self._heard = np.zeros((self.people, self.room_size), np.int64)
        self._said = np.zeros(self.people, np.int64)
        self._sockets = [
            enter(self.host, self.port, f"chatter-{who:05d}", f"room-{who // self.room_size:03d}")
            for who in range(self.people)
        ]
        self._epoll = select.epoll()
        self._fds = np.array([sock.fileno() for sock in self._sockets], np.int64)
        self._chatters = np.zeros(self._fds.max() + 1, np.int64)
        self._chatters[self._fds] = np.arange(self.people)
        for sock in self._sockets:
            sock.setblocking(False)
            self._epoll.register(sock.fileno(), EPOLLIN)
        self._build_frames()
        self._arrivals = np.zeros(ARRIVALS, np.uint8)
        self._events = np.zeros((EVENTS + 1, EVENT_WORDS), np.int32)
        self._tails = np.zeros((self.people, TAIL), np.uint8)
        self._tail_sizes = np.zeros(self.people, np.int64)
        self._cursor = 0
        self._due = self._order = np.zeros(0, np.int64)

    def _build_frames(self) -> None:
        frames = []
        for who in range(self.people):
            text = f"{0:019d} {who:05d} {0:07d} ".ljust(TEXT, "x")
            say = {"type": "say", "room": f"room-{who // self.room_size:03d}", "text": text}
            frames.append(np.frombuffer(masked(json.dumps(say)), np.uint8))
        self._frames = np.stack(frames)
        self._text_at = self._frames.shape[1] - 2 - TEXT

    def plan(self, seconds: float) -> None:
        """Decide when each says something: once in each interval, at a random moment of it."""
        random = np.random.default_rng(6455)
        turns = int(seconds * self.rate)
        moments = np.arange(turns)[:, None] + random.random((turns, self.people))
        start = time.monotonic_ns() + 10_000_000
        due = (moments / self.rate * 1e9).astype(np.int64).ravel() + start
        order = np.argsort(due, kind="stable")
        self._due = due[order]
        self._order = (order % self.people).astype(np.int64)
        self._cursor = 0

    def talk(self, seconds: float, wanted: int = 2**62) -> None:
        """Go on for so long, or until so many messages in all were heard."""
        self._cursor = chat(
            self._epoll.fileno(), self._chatters, self._fds, self._frames, self._text_at,
            self._said, self._due, self._order, self._cursor,
            time.monotonic_ns() + int(seconds * 1e9), self._arrivals, self._events, self._tails,
            self._tail_sizes, self.room_size, self._heard, self.histograms, self.counts, wanted,
        )  # fmt: skip
        if self.counts[ENDED]:
            raise LoadError(f"{self.counts[ENDED]} chatters were let go")

    def forget(self) -> None:
        """Begin the figures anew."""
        self.counts[:] = 0
        self.histograms[:] = 0

    def close(self) -> None:
        """Drop every connection."""
        self._epoll.close()
        for sock in self._sockets:
            with suppress(OSError):
                sock.close()


def percentile(histogram: np.ndarray, percent: float) -> float:
    """Return a percentile of a histogram of latencies, in milliseconds: its bin's upper end."""
    total = histogram.sum()
    place = np.searchsorted(np.cumsum(histogram), total * percent / 100)
    return float((place + 1) * BIN / 1e6)
