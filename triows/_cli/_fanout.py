"""``triows fanout``: a server that relays every message to every client, the sender included."""

import contextlib
from typing import Any

import trio

from triows._broadcast import BroadcastChannel
from triows._cli import _serving
from triows._engine import PreparedMessage
from triows._reactor import Connection, Handler, compiled
from triows._reactors import Reactor
from triows._spec import Opcode
from triows._websocket import WebSocket

BATCH = 1_024  # messages; no more are ever unread


def add_command(commands: Any) -> None:
    """Add ``fanout`` to the parser's commands."""
    _serving.add_command(
        commands,
        "fanout",
        make,
        effect="relay messages to all clients",
        what="Send every message to every client, the sender included, by a broadcast channel.",
    )


def make() -> _serving.Program:
    """Make the relay, in each way, around one channel."""
    everyone = BroadcastChannel[str | bytes | PreparedMessage]()

    async def relay(ws: WebSocket) -> None:
        with everyone.attach(ws):
            async for message in ws:
                everyone.publish_nowait(message)

    async def relay_batches(ws: WebSocket) -> None:
        with everyone.attach(ws), contextlib.suppress(trio.EndOfChannel):
            while True:
                for message in await ws.receive_batch(BATCH):
                    everyone.publish_nowait(message)

    def make_reactor(api: str, **settings: Any) -> Reactor:
        if api == "compiled":
            return Reactor(publish, channel=everyone, **settings)
        return Reactor(Relay(everyone), **settings)

    return _serving.Program(channel=relay, batch=relay_batches, make_reactor=make_reactor)


@compiled
def publish(_payload: Any, _opcode: int) -> int:
    """Send every message to everyone."""
    return 10


class Relay(Handler):
    """Callbacks that send every message to everyone.

    Args:
        everyone: the channel.
    """

    def __init__(self, everyone: BroadcastChannel[str | bytes | PreparedMessage]) -> None:
        self._everyone = everyone

    def on_open(self, conn: Connection) -> None:
        """Attach a newcomer."""
        self._everyone.attach(conn)

    def on_frame(self, conn: Connection, payload: memoryview, opcode: int) -> None:
        """Publish what came."""
        del conn
        is_text = opcode == Opcode.TEXT
        self._everyone.publish_nowait(str(payload, "utf-8") if is_text else bytes(payload))
