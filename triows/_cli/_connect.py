"""``triows connect``: a client for people at a terminal, for pipes, and for measuring servers."""

import argparse
import os
import ssl
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, suppress
from typing import Any

import attrs
import trio

from triows._channel import CloseReason, ConnectionBroken
from triows._cli._printable import printable, write_all
from triows._client import open_websocket
from triows._errors import HandshakeError
from triows._nursery import unwrapped_nursery
from triows._options import Deflate, Limits
from triows._spec import CloseCode
from triows._warmup import warm_up_in_thread
from triows._websocket import WebSocket

CLEAN = (CloseCode.NORMAL, CloseCode.GOING_AWAY, CloseCode.NO_STATUS)
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


def add_command(commands: Any) -> None:
    """Add ``connect`` to the parser's commands."""
    parser = commands.add_parser(
        "connect",
        help="talk to a WebSocket server",
        description="Send each line as a message and print what comes back. At the end of the "
        "input (Ctrl-D on a terminal) the connection closes with 1000. The exit status is 0 "
        "if it closed cleanly, 1 otherwise.",
    )
    parser.add_argument("url", metavar="URL", help="ws://HOST[:PORT][/PATH], or wss://")
    parser.add_argument(
        "--echo", action="store_true",
        help="ignore the input; send back whatever comes, until the server closes",
    )  # fmt: skip
    parser.add_argument("--binary", action="store_true", help="send lines as binary messages")
    parser.add_argument(
        "--header", type=_header, action="append", default=[], metavar="K:V", dest="headers",
        help="a header field to send; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--subprotocol", action="append", default=[], metavar="P", dest="subprotocols",
        help="a subprotocol to offer, the one liked best first; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--insecure", action="store_true", help="do not check the server's certificate"
    )
    parser.add_argument(
        "--max-message", type=_octets, default=Limits().max_message, metavar="OCTETS",
        help="largest message accepted (%(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--deflate", action=argparse.BooleanOptionalAction, default=True,
        help="offer to compress messages (the default)",
    )  # fmt: skip
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Talk until the connection has ended; returns the exit status."""
    try:
        complaint = _judge(trio.run(_connect, args))
    except (OSError, ValueError, trio.TooSlowError, HandshakeError) as error:
        complaint = _reason(error)
    if complaint:
        line = printable(complaint).replace("\n", " ")
        print(f"triows connect: {line}", file=sys.stderr)
    return 1 if complaint else 0


@attrs.define
class _Talk:
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


async def _connect(args: argparse.Namespace) -> CloseReason | None:
    await warm_up_in_thread()
    began = trio.current_time()
    async with open_websocket(
        args.url,
        ssl_context=_insecure_context() if args.insecure else None,
        headers=args.headers,
        subprotocols=args.subprotocols,
        limits=Limits(max_message=args.max_message),
        deflate=Deflate() if args.deflate else None,
    ) as ws:
        took = trio.current_time() - began
        talk = _Talk(ws, min(max(LEAST_QUIET, took), MOST_QUIET), args.binary)
        if args.echo:
            await _echo(talk)
        elif os.isatty(_INPUT) and os.isatty(_OUTPUT) and sys.platform != "win32":
            await _converse_on_terminal(talk)
        else:
            await _converse_on_pipes(talk)
    return ws.close_reason


async def _echo(talk: _Talk) -> None:
    with suppress(ConnectionBroken):  # how it ended is judged elsewhere
        async for message in talk.ws:
            await talk.ws.send(message)


async def _converse(
    talk: _Talk, speak: Callable[[], Awaitable[None]], listen: Callable[[], Awaitable[None]]
) -> None:
    """Speak and listen; when all is said, close, and listen until the peer's Close."""

    async def say_all() -> None:
        with suppress(ConnectionBroken):  # the listener learns it too
            await speak()
            await talk.wait_quiet()
            await talk.ws.send_close()

    async with unwrapped_nursery() as nursery:
        nursery.start_soon(say_all)
        await listen()
        nursery.cancel_scope.cancel()


# A person at a terminal.


async def _converse_on_terminal(talk: _Talk) -> None:
    """Send what a person types and show what comes."""
    from triows._cli._terminal import Terminal  # noqa: PLC0415 - there is none on Windows

    terminal = Terminal(_INPUT)

    async def send_lines() -> None:
        while (line := await terminal.read_line()) is not None:
            await talk.send(line.encode())

    async def show_messages() -> None:
        async for batch in talk.batches():
            for message in batch:
                terminal.show(f"< {_shown(message)}")

    ws = talk.ws
    protocol = f", speaking {ws.subprotocol}" if ws.subprotocol else ""
    with terminal.taken_over():
        terminal.show(f"connected to {ws.request.host}{protocol}; Ctrl-D closes")
        await _converse(talk, send_lines, show_messages)
        terminal.show(f"closed with {ws.close_reason and ws.close_reason.code}")


def _shown(message: str | bytes) -> str:
    """Put a message so that a person can read it and a terminal just shows it."""
    if isinstance(message, str):
        return printable(message)
    ellipsis = " ..." if len(message) > SHOWN_OCTETS else ""
    return f"({len(message)} octets) {message[:SHOWN_OCTETS].hex(' ')}{ellipsis}"


# Other programs, or files.


async def _converse_on_pipes(talk: _Talk) -> None:
    """Send each line of the input and print what comes."""

    async def send_lines() -> None:
        async with aclosing(_read_lines()) as lines:
            async for line in lines:
                await talk.send(line)

    async def print_messages() -> None:
        # In a thread, as whoever reads the output may take its time.
        async for batch in talk.batches():
            lines = [one.encode() if isinstance(one, str) else one for one in batch]
            octets = b"".join(_harmless(line) + b"\n" for line in lines)
            await trio.to_thread.run_sync(write_all, _OUTPUT, octets)

    await _converse(talk, send_lines, print_messages)


async def _read_lines() -> AsyncGenerator[bytes, None]:
    """Give the lines of the input, without their ends."""
    rest: list[bytes] = []
    while octets := await trio.to_thread.run_sync(
        os.read, _INPUT, _READ_SIZE, abandon_on_cancel=True
    ):
        head, *more = octets.split(b"\n")
        rest.append(head)
        for piece in more:
            yield b"".join(rest)
            rest = [piece]
    if last := b"".join(rest):
        yield last


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


def _judge(reason: CloseReason | None) -> str:
    """Say what was wrong with the end of the connection; nothing if it was clean."""
    assert reason is not None
    if reason.code in CLEAN:
        return ""
    return f"the connection ended with code {reason.code}: {reason.reason or 'no reason given'}"


def _reason(error: Exception) -> str:
    """Put what went wrong in words, without numbers where there are words."""
    return getattr(error, "verify_message", None) or getattr(error, "strerror", None) or str(error)


def _insecure_context() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _header(text: str) -> tuple[str, str]:
    """Read a header field."""
    name, colon, value = text.partition(":")
    if not colon:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form K:V")
    return name, value


def _octets(text: str) -> int:
    """Read a size that is not negative."""
    size = int(text)
    if size < 0:
        raise argparse.ArgumentTypeError(f"{size} is negative")
    return size
