"""When to connect again, and when to give up: settings, and the reckoning without a clock.

Knows what went wrong and how long a connection lasted; refuses to know Trio, sockets and
what is connected to.
"""

import math
import ssl
from collections.abc import Sequence
from email.utils import parsedate_to_datetime
from random import SystemRandom
from typing import Final, TypeAlias

import attrs
import trio
from attrs.validators import ge, gt, le

from triows._channel import CloseReason, ConnectionBroken
from triows._errors import HandshakeRejected, InvalidHandshake, ProxyError, RedirectRefused
from triows._spec import CloseCode

_PASSING: Final = frozenset({408, 425, 429})
"""Refusals of 4xx that say nothing of the next try: too slow, too early, too often."""

_random = SystemRandom().random  # distinct after a fork, so that siblings spread too


_Range: TypeAlias = tuple[float, float]


def _is_range(_instance: object, attribute: "attrs.Attribute[_Range]", value: _Range) -> None:
    least, most = value
    if not 0 <= least <= most < math.inf:
        raise ValueError(f"{attribute.name} is 0 <= least <= most, in seconds, not {value}")


@attrs.frozen(kw_only=True)
class Backoff:
    """How long to wait before connecting again, in seconds.

    The n-th wait in a row, counted from 0, is ``first * factor**n`` but at most *longest*, and
    of that a random part is taken off, up to *jitter* of it, so that clients that lost their
    server together do not come back together.
    """

    first: float = attrs.field(default=1.0, validator=gt(0))
    """The first wait, before jitter."""

    factor: float = attrs.field(default=2.0, validator=ge(1))
    """How much longer each wait is than the one before."""

    longest: float = attrs.field(default=60.0, validator=[gt(0), attrs.validators.lt(math.inf)])
    """No wait is longer, unless the server asks for it."""

    jitter: float = attrs.field(default=0.5, validator=[ge(0), le(1)])
    """The largest part of a wait that chance may take off, 0..1."""

    healthy: float = attrs.field(default=10.0, validator=ge(0))
    """A connection that lasted so long was a good one: after it, waits start from *first*."""

    attempts: float = attrs.field(default=math.inf, validator=ge(1))
    """How many attempts in a row may fail, 1 or more, before the last one's error is raised.
    A connection that was not healthy is a failure too."""

    after_restart: _Range = attrs.field(default=(5.0, 30.0), validator=_is_range)
    """The least and the most that is waited, at random, after close code 1012: the server
    restarts (as its registration asks for)."""

    after_overload: _Range = attrs.field(default=(30.0, 60.0), validator=_is_range)
    """The same after close code 1013: the server has too much to do."""

    longest_retry_after: float = attrs.field(default=3600.0, validator=ge(0))
    """The most that a server's Retry-After can make this side wait."""

    def wait(self, number: int) -> float:
        """Draw the length of the wait that *number* others in a row came before, 0 or more.

        It is in ``(1 - jitter) * full .. full`` of its full length.
        """
        try:
            full = min(self.first * self.factor**number, self.longest)
        except OverflowError:
            full = self.longest
        return full * (1.0 - self.jitter * _random())


class Pace:
    """The waits between attempts, each as what happened before it asks for.

    Args:
        backoff: how long they are.
    """

    def __init__(self, backoff: Backoff) -> None:
        self._backoff = backoff
        self.failures = 0
        """Attempts and short connections in a row that came to nothing."""
        self._waits = 0  # in a row, that after a healthy connection included

    def after_failure(self, error: Exception, now: float) -> float:
        """Say how long to wait after an attempt that failed.

        Args:
            error: why; not one that lasts, see `may_heal`.
            now: the time of day, in seconds since 1970, against which a date is held.

        Raises:
            Exception: *error*, which was the last one that is allowed.
        """
        wait = self._count_failure(error)
        if isinstance(error, HandshakeRejected | ProxyError):
            wait += min(retry_after(error.headers, now), self._backoff.longest_retry_after)
        return wait

    def after_connection(self, reason: CloseReason, lasted: float) -> float:
        """Say how long to wait after a connection that has ended.

        Args:
            reason: how it ended.
            lasted: seconds.

        Raises:
            ConnectionBroken: it was one short connection too many.
        """
        if lasted >= self._backoff.healthy:
            self.failures = self._waits = 0
            wait = self._next_wait()
        else:
            wait = self._count_failure(ConnectionBroken(reason.code, reason.reason))
        if reason.code == CloseCode.SERVICE_RESTART:
            return max(wait, _between(*self._backoff.after_restart))
        if reason.code == CloseCode.TRY_AGAIN_LATER:
            return max(wait, _between(*self._backoff.after_overload))
        return wait

    def _count_failure(self, error: Exception) -> float:
        self.failures += 1
        if self.failures >= self._backoff.attempts:
            raise error
        return self._next_wait()

    def _next_wait(self) -> float:
        self._waits += 1
        return self._backoff.wait(self._waits - 1)


def may_heal(error: Exception) -> bool:
    """Whether another attempt may go better than the one that failed with *error*.

    What cannot heal: a refusal with 4xx other than 408, 425 and 429, or with anything else
    below 500; a redirect that must not be followed; a certificate that is not accepted, on
    either side; a proxy that refuses for good; whatever is no trouble with the network.
    """
    if isinstance(error, RedirectRefused):
        return False
    if isinstance(error, HandshakeRejected):
        return error.status >= 500 or error.status in _PASSING
    if isinstance(error, ProxyError):
        return not error.is_lasting
    if isinstance(error, ssl.SSLError):
        alert = getattr(error, "reason", None) or ""
        return not isinstance(error, ssl.SSLCertVerificationError) and "CERTIFICATE" not in alert
    return isinstance(error, OSError | InvalidHandshake | trio.TooSlowError)


def retry_after(headers: Sequence[tuple[str, str]], now: float) -> float:
    """Read the seconds that a refusal asks to wait (RFC 9110 §10.2.3); 0 if it does not.

    A date is held against the server's own, where there is one, since clocks differ.

    Args:
        headers: the answer's fields.
        now: the time of day, in seconds since 1970.
    """
    fields = {name.lower(): value.strip() for name, value in headers}
    asked = fields.get("retry-after", "")
    if asked.isascii() and asked.isdigit():
        return float(asked[:9])
    until = _seconds_of(asked)
    if until is None:
        return 0.0
    theirs = _seconds_of(fields.get("date", ""))
    return max(0.0, until - (now if theirs is None else theirs))


def _seconds_of(date: str) -> float | None:
    try:
        return parsedate_to_datetime(date).timestamp()
    except (ValueError, OverflowError):
        return None


def _between(least: float, most: float) -> float:
    return least + (most - least) * _random()
