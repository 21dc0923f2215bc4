"""What ``triows connect`` says and hears over a connection: an echo, a person, or pipes.

A conversation may go on over another connection after one has ended: a line that was read
and not sent is sent there.
"""

import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, TypeAlias

import attrs
import trio

from triows._channel import ConnectionBroken
from triows._cli._printable import printable, write_all
from triows._nursery import unwrapped_nursery
from triows._websocket import WebSocket

if TYPE_CHECKING:
    from triows._cli._terminal import Terminal

SHOWN_OCTETS = 32
"""Octets of a binary message that are shown to a person."""

LEAST_QUIET, MOST_QUIET = 0.3, 1.0
"""Seconds without a message that the last replies are taken to have come after: as long as
connecting took, between these. Most servers answer a Close at once, and then say nothing."""

LONGEST_WAIT = 10.0
"""Seconds after the end of the input to wait for such a quiet."""

LARGEST_BATCH = 256
"""Messages that are written at once; writing takes a thread."""

_READ_SIZE = 65_536
_INPUT, _OUTPUT = 0, 1

ReadLine: TypeAlias = Callable[[], Awaitable[bytes | None]]
"""Waits for a line; None at the end of the input. Cancelling loses nothing."""

Converse: TypeAlias = Callable[["Talk"], Awaitable[bool]]
"""Talks until the connection has ended; gives whether all was said."""


@attrs.define
class Talk:
    """A WebSocket that lines are sent over, and since when nothing was said on it."""

    ws: WebSocket
    quiet: float
    is_binary: bool
    _last: float = attrs.field(factory=trio.current_time)

    async def send(self, line: bytes) -> None:
        """Send a line as a message."""
        await self.ws.send(line if self.is_binary else _decoded(line))
        self._last = trio.current_time()

    async def batches(self) -> AsyncIterator[list[str | bytes]]:
        """Give what has come, one message or more, until the connection has ended, however."""
        with suppress(ConnectionBroken):  # how it ended is judged elsewhere
            async for message in self.ws:
                batch = [message]
                with suppress(trio.WouldBlock, trio.EndOfChannel, ConnectionBroken):
                    while len(batch) < LARGEST_BATCH:
                        batch.append(self.ws.receive_nowait())
                self._last = trio.current_time()
                yield batch

    async def wait_quiet(self) -> None:
        """Wait until the replies to what was sent should have come."""
        with trio.move_on_after(LONGEST_WAIT):
            while trio.current_time() < self._last + self.quiet:  # noqa: ASYNC110 - it is about time
                await trio.sleep_until(self._last + self.quiet)


@asynccontextmanager
async def open_conversation(*, is_echo: bool) -> AsyncIterator[Converse]:
    """Choose the conversation that fits the input and output, for the length of the block."""
    if is_echo:
        yield _echo
    elif os.isatty(_INPUT) and os.isatty(_OUTPUT) and sys.platform != "win32":
        from triows._cli._terminal import Terminal  # noqa: PLC0415 - there is none on Windows

        terminal = Terminal(_INPUT)
        with terminal.taken_over():
            yield _converse_on_terminal(terminal)
    else:
        offer, take = trio.open_memory_channel[bytes](0)
        async with unwrapped_nursery() as nursery:
            nursery.start_soon(_read_lines, offer)
            yield _converse_on_pipes(take)
            nursery.cancel_scope.cancel()


async def _echo(talk: Talk) -> bool:
    with suppress(ConnectionBroken):  # how it ended is judged elsewhere
        async for message in talk.ws:
            await talk.ws.send(message)
    return False


@attrs.define
class _Speaker:
    """Sends lines over one connection after the other, each line once."""

    read_line: ReadLine
    _unsent: bytes | None = None
    _has_ended: bool = False

    async def converse(self, talk: Talk, listen: Callable[[], Awaitable[None]]) -> bool:
        """Speak and listen; when all is said, close, and listen until the peer's Close."""

        async def say_all() -> None:
            with suppress(ConnectionBroken):  # the listener learns it too
                await self._send_lines(talk)
                await talk.wait_quiet()
                await talk.ws.send_close()

        async with unwrapped_nursery() as nursery:
            nursery.start_soon(say_all)
            await listen()
            nursery.cancel_scope.cancel()
        return self._has_ended

    async def _send_lines(self, talk: Talk) -> None:
        while not self._has_ended:
            if self._unsent is None:
                self._unsent = await self.read_line()
            if self._unsent is None:
                self._has_ended = True
            else:
                await talk.send(self._unsent)
                self._unsent = None


# A person at a terminal.


def _converse_on_terminal(terminal: "Terminal") -> Converse:
    """Send what a person types and show what comes."""

    async def read_line() -> bytes | None:
        line = await terminal.read_line()
        return None if line is None else line.encode()

    speaker = _Speaker(read_line)

    async def converse(talk: Talk) -> bool:
        async def show_messages() -> None:
            async for batch in talk.batches():
                for message in batch:
                    terminal.show(f"< {_shown(message)}")

        ws = talk.ws
        protocol = f", speaking {ws.subprotocol}" if ws.subprotocol else ""
        terminal.show(f"connected to {ws.request.host}{protocol}; Ctrl-D closes")
        is_over = await speaker.converse(talk, show_messages)
        terminal.show(f"closed with {ws.close_reason and ws.close_reason.code}")
        return is_over

    return converse


def _shown(message: str | bytes) -> str:
    """Put a message so that a person can read it and a terminal just shows it."""
    if isinstance(message, str):
        return printable(message)
    ellipsis = " ..." if len(message) > SHOWN_OCTETS else ""
    return f"({len(message)} octets) {message[:SHOWN_OCTETS].hex(' ')}{ellipsis}"


# Other programs, or files.


def _converse_on_pipes(lines: trio.MemoryReceiveChannel[bytes]) -> Converse:
    """Send each line of the input and print what comes."""

    async def read_line() -> bytes | None:
        try:
            return await lines.receive()
        except trio.EndOfChannel:
            return None

    speaker = _Speaker(read_line)

    async def converse(talk: Talk) -> bool:
        async def print_messages() -> None:
            # In a thread, as whoever reads the output may take its time.
            async for batch in talk.batches():
                pieces = [one.encode() if isinstance(one, str) else one for one in batch]
                octets = b"".join(_harmless(piece) + b"\n" for piece in pieces)
                await trio.to_thread.run_sync(write_all, _OUTPUT, octets)

        return await speaker.converse(talk, print_messages)

    return converse


async def _read_lines(offer: trio.MemorySendChannel[bytes]) -> None:
    """Give the lines of the input, without their ends, one at a time."""
    rest: list[bytes] = []
    with offer:
        while octets := await trio.to_thread.run_sync(
            os.read, _INPUT, _READ_SIZE, abandon_on_cancel=True
        ):
            head, *more = octets.split(b"\n")
            rest.append(head)
            for piece in more:
                await offer.send(b"".join(rest))
                rest = [piece]
        if last := b"".join(rest):
            await offer.send(last)


def _decoded(line: bytes) -> str:
    try:
        return line.decode()
    except UnicodeDecodeError:
        raise ValueError("a line of the input is not UTF-8: use --binary") from None


def _harmless(line: bytes) -> bytes:
    """Escape what a terminal would obey, if the output is one."""
    if not os.isatty(_OUTPUT):
        return line
    return printable(line.decode(errors="backslashreplace")).encode()
