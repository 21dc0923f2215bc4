"""Compiling the kernels from within Trio: off its thread, visibly, and cancellably.

What to compile and where it is kept is the kernels' business; this module knows
neither sockets nor frames.
"""

import sys
from functools import partial
from types import TracebackType
from typing import Self, TextIO

import trio

from triows._kernels import WarmUp, is_warm, warm_up

ERASE_LINE = "\r\x1b[2K"


class TerminalProgress:
    """A progress callback that keeps one line of a terminal up to date, and erases it at the end.

    Nothing at all is written where *stream* is no terminal.

    Args:
        stream: where to write; standard error by default.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._shown = False
        self._is_terminal = self._stream is not None and self._stream.isatty()

    def __call__(self, number: int, total: int, name: str) -> None:
        """Show that kernel *number* of *total* (1..total), called *name*, is being compiled."""
        if self._is_terminal:
            self._stream.write(f"{ERASE_LINE}compiling kernels {number}/{total} {name}")
            self._stream.flush()
            self._shown = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._shown:
            self._stream.write(ERASE_LINE)
            self._stream.flush()


async def warm_up_in_thread(stream: TextIO | None = None) -> WarmUp:
    """Make every kernel ready in a worker thread, while Trio's other tasks go on.

    Args:
        stream: where to show progress, if it is a terminal; standard error by default.

    Returns:
        What was compiled or loaded, and how long it took.

    Cancelling takes effect before the next kernel; those that are ready stay so.
    """
    if is_warm():  # no thread then: under a virtual clock waiting for one makes time pass
        await trio.lowlevel.checkpoint()
        return warm_up()
    with TerminalProgress(stream) as show:

        def progress(number: int, total: int, name: str) -> None:
            trio.from_thread.check_cancelled()
            show(number, total, name)

        return await trio.to_thread.run_sync(partial(warm_up, progress))
