"""How a connection ends, and what those who use it afterwards are told."""

from typing import Final, NoReturn, TypeVar

import attrs
import trio

from triows._driver import Driver
from triows._engine import Closed, Lost
from triows._errors import TriowsError
from triows._spec import CloseCode

_ErrorT = TypeVar("_ErrorT", bound=Exception)

_MARK: Final = "triows_ending"
"""The attribute of an exception that says which connection's end it tells."""


@attrs.frozen
class CloseReason:
    """Why a connection ended (RFC 6455 §7.1.5, §7.1.6).

    Its code is the peer's if the peer sent a Close frame; the one that this side
    sent if it gave the connection up; 1006 if the transport went without either.
    """

    code: int
    reason: str = ""


class ConnectionBroken(TriowsError, trio.BrokenResourceError):  # noqa: N818 - as Trio's
    """The connection ended, and not cleanly, or ended while there was something to send.

    Args:
        code: the close code, see `CloseReason`.
        reason: the peer's reason, or what this side found wrong.
    """

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"the connection ended with code {code}: {reason!r}")
        self.code = code
        self.reason = reason


class Ending:
    """Whether a connection can still be used, and the exception for when it cannot.

    Args:
        driver: the connection's.
    """

    __slots__ = ("_driver", "_mark", "has_sent_close", "is_closed_here", "may_hear_more")

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._mark: object = None  # of the exceptions that were raised from here
        self.is_closed_here = False
        """Whether this side closed: nothing is sent or received any more."""
        self.has_sent_close = False
        """Whether this side said that it will send nothing more."""
        self.may_hear_more = True
        """Whether something may still come that anyone would be given; see `look`."""
        self.look()

    def look(self) -> None:
        """Take note of an end: on this side, or one that the driver has told of."""
        self.may_hear_more = not (self._driver.is_deaf or self.is_closed_here)

    @property
    def reason(self) -> CloseReason | None:
        """Why the connection ended, or None while it has not."""
        outcome = self._driver.outcome
        if outcome is None:
            return None
        if isinstance(outcome, Lost):
            return CloseReason(CloseCode.ABNORMAL, outcome.reason)
        return CloseReason(outcome.code, outcome.reason)

    def check_sendable(self) -> None:
        """Refuse to send where that is no longer possible.

        Raises:
            trio.ClosedResourceError: this side closed.
            ConnectionBroken: the connection has ended.
        """
        if self.is_closed_here or self.has_sent_close:
            raise trio.ClosedResourceError("this WebSocket was closed")
        if not self._driver.is_open:
            raise self.broken()

    def raise_ended(self) -> NoReturn:
        """Tell a receiver that there will be no further message."""
        if self.is_closed_here:
            raise trio.ClosedResourceError("this WebSocket was closed")
        outcome = self._driver.outcome
        if isinstance(outcome, Closed) and outcome.code in _CLEAN:
            raise self._marked(trio.EndOfChannel())
        raise self.broken()

    def raise_ended_within_a_message(self) -> NoReturn:
        """Tell a receiver that the message is never going to be whole: no end is clean then."""
        if self.is_closed_here:
            raise trio.ClosedResourceError("this WebSocket was closed")
        raise self.broken()

    def broken(self) -> ConnectionBroken:
        """Make the exception that says how the connection ended."""
        reason = self.reason or CloseReason(CloseCode.ABNORMAL, "the transport broke")
        return self._marked(ConnectionBroken(reason.code, reason.reason))

    def has_raised(self, error: BaseException) -> bool:
        """Whether *error* is one that told someone of this end."""
        return self._mark is not None and vars(error).get(_MARK) is self._mark

    def _marked(self, error: _ErrorT) -> _ErrorT:
        """Make *error* known as this connection's, without holding on to either."""
        self._mark = self._mark or object()
        vars(error)[_MARK] = self._mark
        return error


_CLEAN = (CloseCode.NORMAL, CloseCode.GOING_AWAY, CloseCode.NO_STATUS)
