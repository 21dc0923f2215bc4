"""The least that an echo costs that has a task of Trio's for each connection, on triows' turn.

What `triows echo --api channel` would cost if nothing but this were done for a message: the
compiled turn, two steps of a task, and the lines below. A task waits once for its message, and
gives way once after its answer, which is what Trio asks of a `receive` and of a `send`. There are
no bounds, no order among senders, no cancellation, no compression, no end but the peer's, and
no word when something is wrong: to measure, not to serve.
"""

import base64
import contextlib
import hashlib
import socket
import types
from collections.abc import Generator
from typing import Any

import trio

import triows
from triows._reactor import ChannelDriver, ChannelLoop
from triows._traps import NOTHING, give_way, parking

SWITCHING = b"HTTP/1.1 101 \r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "
WAIT = parking(lambda _: trio.lowlevel.Abort.FAILED)


class Session:
    """As much of a `triows._reactor.Session` as the loop asks for."""

    __slots__ = ("has_unread", "is_waiting", "loop", "messages", "number", "slot", "task")
    deflate = terms = None
    _is_special = False

    def __init__(self, loop: ChannelLoop, descriptor: int) -> None:
        self.loop = loop
        self.messages: list[str | bytes | None] = []
        self.task = trio.lowlevel.current_task()
        self.is_waiting = self.has_unread = False
        self.slot = loop.enter(descriptor, self)  # type: ignore[arg-type]

    def take_message(self, payload: str | bytes | None, _size: int) -> None:
        """Hand a message over; None is the end."""
        self.messages.append(payload)
        self.has_unread = True
        if self.is_waiting:
            self.is_waiting = False
            trio.lowlevel.reschedule(self.task, NOTHING)

    def note(self, *_: Any) -> None:
        """Take note of a Close, which the kernel answers."""

    def end(self, _: int) -> None:
        """Let the task end."""
        self.take_message(None, 0)

    @types.coroutine
    def receive(self) -> Generator[Any, Any, str | bytes | None]:
        """Wait for the next message."""
        if self.has_unread:
            yield from give_way()
        else:
            self.is_waiting = True
            yield WAIT
        message = self.messages.pop(0)
        self.has_unread = len(self.messages) > 0
        return message

    async def send(self, message: str | bytes) -> None:
        """Send a message."""
        if type(message) is bytes:
            self.loop.note_plain(self.slot, self.number, message, 2)
        else:
            self.loop.note_plain(self.slot, self.number, message.encode(), 1)  # type: ignore[union-attr]
        await give_way()


async def echo(sock: socket.socket, loop: ChannelLoop) -> None:
    """Serve a connection."""
    stream = trio.SocketStream(trio.socket.from_stdlib_socket(sock))
    _, _, rest = (await stream.receive_some()).partition(b"Sec-WebSocket-Key: ")
    key = rest[:24] + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 §4.2.2
    accept = base64.b64encode(hashlib.sha1(key, usedforsecurity=False).digest())
    await stream.send_all(SWITCHING + accept + b"\r\n\r\n")
    session = Session(loop, stream.socket.detach())
    while (message := await session.receive()) is not None:
        await session.send(message)


async def main() -> None:
    triows.warm_up()
    loop = ChannelLoop(triows.Limits(), triows.KeepAlive())
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1", backlog=1024)
    print("READY ws://{}:{}".format(*listener.socket.getsockname()), flush=True)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ChannelDriver(loop, grace=0.0).run)
        while True:
            accepted, _ = await listener.socket.accept()
            accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            ends = socket.socket(fileno=accepted.detach())
            ends.setblocking(False)
            nursery.start_soon(echo, ends, loop)


with contextlib.suppress(KeyboardInterrupt):
    trio.run(main)
