"""Pings that wait for their Pongs (RFC 6455 §5.5.2, §5.5.3)."""

import attrs
import trio

from triows._options import check_kind


@attrs.define(eq=False)
class Ping:
    """A Ping whose Pong is awaited."""

    payload: bytes
    sent: float
    is_over: trio.Event = attrs.field(factory=trio.Event)
    round_trip: float | None = None
    """Seconds; None until the Pong has come."""


class Pings:
    """The Pings of one connection that are waited for, oldest first."""

    __slots__ = ("_count", "_waiting")

    def __init__(self) -> None:
        self._waiting: dict[bytes, Ping] = {}
        self._count = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def choose(self, payload: bytes | None) -> bytes:
        """Return *payload*, or one of its own for None, unlike any that is waited for.

        Raises:
            TypeError: it is no ``bytes``.
            ValueError: *payload* is waited for.
        """
        if payload is None:
            return self._fresh_payload()
        check_kind("the payload of a ping", payload, bytes)
        if payload in self._waiting:
            raise ValueError(f"a ping with the payload {payload!r} is waited for already")
        return payload

    def add(self, payload: bytes, now: float) -> Ping:
        """Note that a Ping was sent."""
        ping = self._waiting[payload] = Ping(payload, now)
        return ping

    def forget(self, ping: Ping) -> None:
        """Wait for it no longer; its payload may already be another one's."""
        if self._waiting.get(ping.payload) is ping:
            del self._waiting[ping.payload]

    def answer(self, payload: bytes, now: float) -> None:
        """Take a Pong: it answers its Ping, and all that were sent before it (§5.5.3)."""
        if payload not in self._waiting:
            return
        for sent in list(self._waiting):
            ping = self._waiting.pop(sent)
            ping.round_trip = now - ping.sent
            ping.is_over.set()
            if sent == payload:
                break

    def give_up(self) -> None:
        """Wake whoever waits: no Pong will come."""
        for ping in self._waiting.values():
            ping.is_over.set()

    def _fresh_payload(self) -> bytes:
        while True:
            self._count += 1
            payload = b"triows %d" % self._count
            if payload not in self._waiting:
                return payload
