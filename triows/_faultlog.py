"""The log of what goes wrong on our side, at a rate that no peer can drive up."""

import logging
from collections.abc import Callable

import trio

logger = logging.getLogger("triows")

BURST = 10
"""Records that may follow each other at once."""

RATE = 1.0
"""Records a second after that."""


class FaultLog:
    """Logs errors of the application; a flood of them is counted, not written.

    Peers cannot write here: what they send appears escaped, if at all.
    """

    def __init__(self, clock: Callable[[], float] = trio.current_time) -> None:
        self._clock = clock
        self._allowance = float(BURST)
        self._last = -float("inf")
        self._suppressed = 0

    def report(self, what: str, error: BaseException) -> None:
        """Log *what* with the traceback of *error*, if the rate allows."""
        now = self._clock()
        self._allowance = min(BURST, self._allowance + (now - self._last) * RATE)
        self._last = now
        if self._allowance < 1:
            self._suppressed += 1
            return
        self._allowance -= 1
        if self._suppressed:
            what = f"{what} (and {self._suppressed} faults before it were not logged)"
            self._suppressed = 0
        logger.error("%s", what, exc_info=error)


def sift(error: BaseException) -> tuple[Exception | None, BaseException | None]:
    """Part what went wrong from what stops tasks: `trio.Cancelled`, `KeyboardInterrupt`.

    A nursery in which tasks fail while it is cancelled raises a group of both kinds.
    The faults are to be logged and forgotten; the rest is to be raised again.
    """
    if isinstance(error, Exception):
        return error, None
    if isinstance(error, BaseExceptionGroup):
        return error.split(Exception)
    return None, error
