"""What a connection waits for, and until when; the clock itself is the driver's.

Nothing here is done per message beyond noting the time: that a deadline has
moved is found out when it passes.
"""

import enum
import math

from triows._engine._closing import Phase
from triows._options import KeepAlive, Limits


class Due(enum.Enum):
    """What a deadline that has passed asks for."""

    NOTHING = "nothing: the deadline has moved since"
    PING = "a Ping: the peer has been quiet for the interval"
    SILENCE = "the end: no octet came after the Ping"
    SLOW_MESSAGE = "a refusal: a message was begun and not finished"
    SLOW_CLOSE = "the end: the closing handshake took too long"


class Timekeeper:
    """The times that matter to one connection, in seconds of its driver's clock.

    Args:
        limits: message_timeout, close_timeout.
        keepalive: interval, timeout.
        now: the time at which the connection opened.
    """

    __slots__ = (
        "_keepalive",
        "_limits",
        "_paused_since",
        "close_since",
        "is_pinging",
        "last_heard",
        "message_since",
        "ping_since",
    )

    def __init__(self, limits: Limits, keepalive: KeepAlive, now: float) -> None:
        self._limits = limits
        self._keepalive = keepalive
        self._paused_since: float | None = None
        self.last_heard = now
        self.is_pinging = False
        self.ping_since = -math.inf
        self.message_since = math.inf
        self.close_since = math.inf

    def heard(self, now: float) -> None:
        """Note that octets came: any octet is a sign of life."""
        self.last_heard = now
        self.is_pinging = False

    def pinged(self, now: float) -> None:
        """Note that a Ping was sent because of the silence."""
        self.ping_since = now
        self.is_pinging = True

    def pause(self, now: float) -> None:
        """Note that this side stopped reading: what the peer does cannot be seen."""
        if self._paused_since is None:
            self._paused_since = now

    def resume(self, now: float) -> None:
        """Note that reading goes on; the pause is held against no one."""
        if self._paused_since is not None:
            self.message_since += now - self._paused_since
            self.heard(now)
            self._paused_since = None

    def next_deadline(self, phase: Phase) -> float:
        """Return when `due` has to be asked next, ``inf`` for never."""
        if phase is Phase.GONE:
            return math.inf
        if phase is not Phase.OPEN:
            return self.close_since + self._limits.close_timeout
        if self._paused_since is not None:
            return math.inf
        return min(self.message_since + self._limits.message_timeout, self._silence_deadline())

    def due(self, phase: Phase, now: float) -> Due:
        """Return what is due at *now*."""
        if now < self.next_deadline(phase):
            return Due.NOTHING
        if phase is not Phase.OPEN:
            return Due.SLOW_CLOSE
        if now >= self.message_since + self._limits.message_timeout:
            return Due.SLOW_MESSAGE
        return Due.SILENCE if self.is_pinging else Due.PING

    def _silence_deadline(self) -> float:
        if self.is_pinging:
            return self.ping_since + self._keepalive.timeout
        return self.last_heard + self._keepalive.interval
