"""What ``triows echo`` and ``triows fanout`` share: options, signals, the READY line."""

import argparse
import contextlib
import os
import signal
import ssl
import sys
from collections.abc import Awaitable, Callable, Iterator
from types import FrameType
from typing import Any, NoReturn, TypeAlias

import attrs
import trio

from triows._cli._numbers import integer, size
from triows._hub import why_no_reactor
from triows._options import Deflate, Limits
from triows._reactors import Reactor
from triows._server import Server, serve
from triows._websocket import WebSocket

LARGEST_PORT = 65_535
REACTOR_APIS = ("callback", "compiled")
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@attrs.frozen(kw_only=True)
class Program:
    """A server, written in each of the ways that there are."""

    channel: Callable[[WebSocket], Awaitable[None]]
    batch: Callable[[WebSocket], Awaitable[None]]
    make_reactor: Callable[..., Reactor]
    """Called with the API and the other settings of a `Reactor`."""


MakeProgram: TypeAlias = Callable[[], Program]


def add_command(commands: Any, name: str, make: MakeProgram, *, effect: str, what: str) -> None:
    """Add a server to the parser's commands.

    Args:
        commands: the parser's.
        name: of the command.
        make: makes what it runs.
        effect: what it does, for the list of commands.
        what: the same as a sentence.
    """
    parser = commands.add_parser(
        name,
        help=f"{effect} until SIGINT or SIGTERM",
        description=f"{what} Prints one line, READY ws://HOST:PORT, once it "
        "listens. The first SIGINT or SIGTERM ends it gracefully, the second at once.",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    parser.add_argument(
        "--port", type=_port, default=0, help="port to listen on (default: one that is free)"
    )
    parser.add_argument(
        "--api", default="channel", choices=("channel", "callback", "compiled", "batch"),
        help="how the handler is written (%(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--driver", default="auto", choices=("auto", "reactor", "stream"),
        help="what moves the octets (%(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--threads", type=size, metavar="N",
        help="loops, each in a thread; 0 for Trio's own (1 with the compiled API, else 0)",
    )  # fmt: skip
    parser.add_argument(
        "--max-message", type=size, default=Limits().max_message, metavar="OCTETS",
        help="largest message accepted (%(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--deflate", action=argparse.BooleanOptionalAction,
        help="compress every message with clients that offer it, or none (default: with the "
        "channel and batch APIs, those that are worth it)",
    )  # fmt: skip
    parser.add_argument("--certfile", help="PEM certificate chain: serve wss://")
    parser.add_argument("--keyfile", help="PEM private key, if it is not in CERTFILE")
    parser.set_defaults(run=run, name=name, make=make)


def run(args: argparse.Namespace) -> int:
    """Serve until told to stop; returns the exit status."""
    missing = _missing(args)
    if missing:
        return _complain(args.name, missing, status=2)
    try:
        context = _ssl_context(args.certfile, args.keyfile)
    except OSError as error:  # ssl.SSLError is one too
        files = " and ".join(filter(None, (args.certfile, args.keyfile)))
        why = _reason(error)
        if isinstance(error, ssl.SSLError):
            why = f"no certificate chain and its unencrypted key in PEM ({error.reason})"
        return _complain(args.name, f"cannot use {files}: {why}", status=1)
    try:
        trio.run(_serve, args, context)
    except (OSError, BaseExceptionGroup) as error:
        causes = list(_causes(error))
        if not all(isinstance(cause, OSError) for cause in causes):
            raise
        return _complain(args.name, _reason(causes[0]), status=1)
    return 0


@attrs.frozen
class _Announcement:
    """A task status that prints the READY line when the server has started."""

    scheme: str

    def started(self, value: Server | Reactor | None = None) -> None:
        assert value is not None
        host, port = value.addresses[0][:2]
        bracketed = f"[{host}]" if ":" in host else host
        print(f"READY {self.scheme}://{bracketed}:{port}", flush=True)


async def _serve(args: argparse.Namespace, context: ssl.SSLContext | None) -> None:
    with _stopping_on_signals():
        limits = Limits(max_message=args.max_message)
        program = args.make()
        if args.api in REACTOR_APIS:
            deflate = Deflate(threshold=0) if args.deflate else None
            reactor = program.make_reactor(
                args.api, threads=args.threads, limits=limits, deflate=deflate
            )
            announcement = _Announcement("ws")
            await reactor.run_echo(args.port, host=args.host, task_status=announcement)
            return
        await serve(
            program.batch if args.api == "batch" else program.channel,
            args.port,
            host=args.host,
            ssl_context=context,
            limits=limits,
            deflate=_CHANNEL_DEFLATE[args.deflate],
            driver=args.driver,
            task_status=_Announcement("wss" if context else "ws"),
        )


_CHANNEL_DEFLATE = {True: Deflate(threshold=0), None: Deflate(), False: None}


@contextlib.contextmanager
def _stopping_on_signals() -> Iterator[None]:
    """Cancel the block at the first signal; leave the process at the second.

    Plain handlers rather than a task that waits for signals: the second one must
    work even if the loop is stuck, which may be why it was sent. It may also come
    when the block has ended and the process has not: the handlers then stay.
    """
    scope = trio.CancelScope()
    token = trio.lowlevel.current_trio_token()

    def stop(_number: int, _frame: FrameType | None) -> None:
        for number in STOP_SIGNALS:
            signal.signal(number, _leave)
        token.run_sync_soon(scope.cancel)

    before = {number: signal.signal(number, stop) for number in STOP_SIGNALS}
    try:
        with scope:
            yield
    finally:
        if not scope.cancel_called:
            for number, handler in before.items():
                signal.signal(number, handler)


def _leave(number: int, _frame: FrameType | None) -> NoReturn:
    """End the process without any farewell."""
    os._exit(128 + number)


def _missing(args: argparse.Namespace) -> str:
    """Say which of the options asked for does not exist yet, or contradicts another."""
    if args.api in REACTOR_APIS:
        return _missing_for_reactor(args)
    if args.driver == "reactor":
        return why_no_reactor()
    if args.keyfile and not args.certfile:
        return "--keyfile needs --certfile"
    return ""


def _missing_for_reactor(args: argparse.Namespace) -> str:
    if args.driver == "stream":
        return f"--api {args.api}: not with --driver stream; use auto or reactor"
    if args.certfile or args.keyfile:
        return f"--api {args.api}: not with TLS; use --api channel"
    return why_no_reactor()


def _ssl_context(certfile: str | None, keyfile: str | None) -> ssl.SSLContext | None:
    """Load the certificate; an encrypted key is an error and never a question on the terminal."""
    if certfile is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certfile, keyfile, password="")
    return context


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield the exceptions in *error*, a group or a single one."""
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _causes(inner)
    else:
        yield error


def _reason(error: BaseException) -> str:
    """Return what the system said, without its number where there are words for it."""
    return getattr(error, "strerror", None) or str(error)


def _complain(name: str, message: str, *, status: int) -> int:
    """Print one line on standard error; returns *status*."""
    print(f"triows {name}: {message}", file=sys.stderr)
    return status


def _port(text: str) -> int:
    """Read a port, 0..65535."""
    port = integer(text)
    if not 0 <= port <= LARGEST_PORT:
        raise argparse.ArgumentTypeError(f"{port} is not in 0..{LARGEST_PORT}")
    return port
