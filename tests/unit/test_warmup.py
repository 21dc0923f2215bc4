"""Warming up from within Trio: what the terminal shows, and what cancelling does."""

import contextlib
import io

import trio

import triows
from triows import _warmup
from triows._warmup import ERASE_LINE, TerminalProgress, warm_up_in_thread


class Terminal(io.StringIO):
    """A stream that says that it is a terminal."""

    def isatty(self) -> bool:
        """Say yes."""
        return True


def test_a_terminal_shows_each_kernel_and_is_left_clean() -> None:
    """Each kernel replaces the one before it on a single line, which is erased at the end."""
    terminal = Terminal()

    with TerminalProgress(terminal) as progress:
        progress(1, 2, "mask")
        progress(2, 2, "scan")

    assert terminal.getvalue() == (
        f"{ERASE_LINE}compiling kernels 1/2 mask{ERASE_LINE}compiling kernels 2/2 scan{ERASE_LINE}"
    )


def test_a_terminal_is_left_clean_after_an_error() -> None:
    """The line is erased too when compilation ends in an exception."""
    terminal = Terminal()

    with contextlib.suppress(ZeroDivisionError), TerminalProgress(terminal) as progress:
        progress(1, 2, "mask")
        raise ZeroDivisionError

    assert terminal.getvalue().endswith(ERASE_LINE)


def test_what_is_no_terminal_gets_nothing() -> None:
    """A log file or a pipe is not written to."""
    pipe = io.StringIO()

    with TerminalProgress(pipe) as progress:
        progress(1, 1, "mask")

    assert pipe.getvalue() == ""


def test_nothing_to_do_shows_nothing() -> None:
    """A terminal is not touched where no kernel was compiled."""
    terminal = Terminal()

    with TerminalProgress(terminal):
        pass

    assert terminal.getvalue() == ""


async def test_kernels_are_warmed_up_off_the_trio_thread() -> None:
    """The result is that of ``warm_up``, and asking again shows and compiles nothing."""
    first = await warm_up_in_thread()
    terminal = Terminal()

    again = await warm_up_in_thread(terminal)

    assert again is first is triows.warm_up()
    assert terminal.getvalue() == ""


async def test_cancelling_takes_effect_before_the_next_kernel(monkeypatch) -> None:
    """A cancelled warm-up compiles what it is at, and no other kernel."""
    compiled = []
    scope = trio.CancelScope()

    def warm_up(progress):
        for number, name in enumerate(("mask", "scan", "validate_utf8"), 1):
            progress(number, 3, name)
            compiled.append(name)
            trio.from_thread.run_sync(scope.cancel)

    monkeypatch.setattr(_warmup, "is_warm", lambda: False)
    monkeypatch.setattr(_warmup, "warm_up", warm_up)
    with scope:
        await warm_up_in_thread()

    assert scope.cancelled_caught
    assert compiled == ["mask"]
