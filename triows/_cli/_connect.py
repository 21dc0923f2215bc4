"""``triows connect``: a client for people at a terminal, for pipes, and for measuring servers."""

import argparse
import ssl
import sys
from typing import Any

import trio

from triows._channel import CloseReason
from triows._cli._conversation import LEAST_QUIET, MOST_QUIET, Talk, open_conversation
from triows._cli._numbers import size
from triows._cli._printable import printable
from triows._client import open_websocket
from triows._connector import ConnectOptions
from triows._errors import HandshakeError, ProxyError
from triows._options import Deflate, Limits
from triows._reconnecting import Attempt, reconnecting
from triows._spec import CloseCode
from triows._warmup import warm_up_in_thread
from triows._websocket import WebSocket

CLEAN = (CloseCode.NORMAL, CloseCode.GOING_AWAY, CloseCode.NO_STATUS)

_EXPECTED = (
    OSError,
    ValueError,
    ModuleNotFoundError,
    trio.TooSlowError,
    HandshakeError,
    ProxyError,
)
"""What the arguments, the network or the server can bring about."""


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
        "--proxy", metavar="URL",
        help="http://, https://, socks5:// or socks5h://[USER:PASSWORD@]HOST[:PORT]; by default "
        "what HTTPS_PROXY, HTTP_PROXY, ALL_PROXY and NO_PROXY say",
    )  # fmt: skip
    parser.add_argument(
        "--reconnect", action="store_true",
        help="connect again, ever more slowly, when the connection ends or cannot be made",
    )  # fmt: skip
    parser.add_argument(
        "--insecure", action="store_true", help="do not check the server's certificate"
    )
    parser.add_argument(
        "--max-message", type=size, default=Limits().max_message, metavar="OCTETS",
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
    except _EXPECTED as error:
        complaint = _reason(error)
    if complaint:
        line = printable(complaint).replace("\n", " ")
        print(f"triows connect: {line}", file=sys.stderr)
    return 1 if complaint else 0


async def _connect(args: argparse.Namespace) -> CloseReason | None:
    await warm_up_in_thread()
    options: ConnectOptions = {
        "ssl_context": _insecure_context() if args.insecure else None,
        "headers": args.headers,
        "subprotocols": args.subprotocols,
        "limits": Limits(max_message=args.max_message),
        "deflate": Deflate() if args.deflate else None,
        "proxy": args.proxy or True,
    }
    if args.reconnect:
        return await _stay_connected(args, options)
    began = trio.current_time()
    async with open_websocket(args.url, **options) as ws:
        talk = _talk(ws, began, args)
        async with open_conversation(is_echo=args.echo) as converse:
            await converse(talk)
    return ws.close_reason


async def _stay_connected(args: argparse.Namespace, options: ConnectOptions) -> CloseReason | None:
    """Talk over as many connections as it takes until all is said."""
    began = trio.current_time()

    def note(attempt: Attempt) -> None:
        nonlocal began
        began = trio.current_time()
        if attempt.after is not None:
            print(f"triows connect: {_why(attempt.after)}; connecting again", file=sys.stderr)

    async with open_conversation(is_echo=args.echo) as converse:
        async for ws in reconnecting(args.url, resume=note, **options):
            async with ws:
                if await converse(_talk(ws, began, args)):
                    break
    return ws.close_reason


def _talk(ws: WebSocket, began: float, args: argparse.Namespace) -> Talk:
    took = trio.current_time() - began
    return Talk(ws, min(max(LEAST_QUIET, took), MOST_QUIET), args.binary)


def _why(cause: CloseReason | Exception) -> str:
    """Say in a line why there is no connection."""
    text = _reason(cause) if isinstance(cause, Exception) else _ending(cause)
    return printable(text).replace("\n", " ")


def _judge(reason: CloseReason | None) -> str:
    """Say what was wrong with the end of the connection; nothing if it was clean."""
    assert reason is not None
    if reason.code in CLEAN:
        return ""
    return _ending(reason)


def _ending(reason: CloseReason) -> str:
    return f"the connection ended with code {reason.code}: {reason.reason or 'no reason given'}"


def _reason(error: Exception) -> str:
    """Put what went wrong in words, without numbers where there are words."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the server's certificate is refused: {error.verify_message}"
    if isinstance(error, ssl.SSLError) and error.reason:
        return f"TLS failed: {error.reason.replace('_', ' ').lower()}"
    return getattr(error, "strerror", None) or str(error)


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
