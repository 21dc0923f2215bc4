"""Accepting, when the machine has run out of something (accept(2), ERRORS).

A listening socket stays readable then, so that whoever just tried again would spin. What is
said of it goes to the log in a line, without a traceback: any peer can bring it about.
"""

import errno
import logging
from typing import Final, Generic, TypeVar

import trio

logger = logging.getLogger("triows")

StreamT = TypeVar("StreamT", bound=trio.abc.AsyncResource)

BACK_OFF: Final = 0.1
"""Seconds for which nothing is accepted once the machine has run out of something."""

EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


async def back_off(error: OSError) -> None:
    """Wait a moment, having said why."""
    logger.warning("cannot accept: %s; trying again soon", error.strerror)
    await trio.sleep(BACK_OFF)


class PatientListener(trio.abc.Listener[StreamT], Generic[StreamT]):
    """Accepts from another listener, and waits out what the machine is short of."""

    def __init__(self, listener: trio.abc.Listener[StreamT]) -> None:
        self._listener = listener

    async def accept(self) -> StreamT:
        """Wait for the next connection, however long; raises what the listener raises."""
        while True:
            try:
                return await self._listener.accept()
            except OSError as error:
                if error.errno not in EXHAUSTED:
                    raise
                await back_off(error)

    async def aclose(self) -> None:
        """Close the listener."""
        await self._listener.aclose()
