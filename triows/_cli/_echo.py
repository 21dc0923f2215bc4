"""``triows echo``: a server that sends every message back, for trying, testing and measuring."""

import contextlib
from typing import Any

import trio

from triows._cli import _serving
from triows._reactor import Connection, compiled, handler_fn
from triows._reactors import Reactor
from triows._websocket import WebSocket

BATCH = 1_024  # messages; no more are ever unread


def add_command(commands: Any) -> None:
    """Add ``echo`` to the parser's commands."""
    _serving.add_command(
        commands, "echo", make, effect="serve an echo", what="Send every message back."
    )


def make() -> _serving.Program:
    """Make the echo, in each way."""
    return _serving.Program(channel=echo, batch=echo_batches, make_reactor=make_reactor)


async def echo(ws: WebSocket) -> None:
    """Send every message back."""
    async for message in ws:
        await ws.send(message)


async def echo_batches(ws: WebSocket) -> None:
    """Send every message back, as many at a time as there are."""
    with contextlib.suppress(trio.EndOfChannel):
        while True:
            for message in await ws.receive_batch(BATCH):
                try:
                    ws.send_nowait(message)
                except trio.WouldBlock:
                    await ws.send(message)


def make_reactor(api: str, **settings: Any) -> Reactor:
    """Make a reactor that sends every message back."""
    return Reactor(compiled_echo if api == "compiled" else handler_fn(callback_echo), **settings)


@compiled
def compiled_echo(_payload: Any, _opcode: int) -> int:
    """Send every message back."""
    return 1


def callback_echo(conn: Connection, _payload: memoryview, _opcode: int) -> None:
    """Send every message back."""
    conn.echo()
