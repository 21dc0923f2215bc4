"""What becomes of a ``send`` that is cancelled, in three WebSocket libraries for Trio.

A server sends numbered messages of 256 KiB to a peer that reads slowly, and gives each
send a moment only: a send that was cancelled is not repeated. The peer is a parser of
its own that knows nothing of any library. What it should see is the messages whose
send returned, and no others. Run it with ``python -m tests.interop.show_cancelled_sends``.
"""

import struct
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import attrs
import trio
import trio_websocket
from websockets.trio.server import serve as serve_websockets

import triows
from tests.conformance.peer import CLOSE, Peer

COUNT = 100
SIZE = 2**18
MOMENT = 0.002
"""Seconds that a send is given."""
REST = 0.001
"""Seconds that the peer rests before each receive."""

Send = Callable[[bytes], Awaitable[object]]


@attrs.define
class Outcome:
    """What the two ends of a connection know of it."""

    returned: list[int] = attrs.field(factory=list)
    """Numbers of the messages whose send returned."""
    cancelled: list[int] = attrs.field(factory=list)
    """Numbers of those whose send was cancelled."""
    failed: str = ""
    """What a send raised otherwise, after which none was tried."""
    arrived: list[int] = attrs.field(factory=list)
    """Numbers of the messages that arrived whole."""
    fault: str = ""
    """What the peer found wrong with the octets."""

    @property
    def is_exact(self) -> bool:
        """Whether what arrived is what was sent, and the stream is sound."""
        return not (self.fault or self.failed) and self.arrived == self.returned

    def __str__(self) -> str:
        ghosts = len(set(self.arrived) & set(self.cancelled))
        lost = len(set(self.returned) - set(self.arrived))
        return (
            f"{len(self.returned)} sends returned, {len(self.cancelled)} were cancelled; "
            f"{len(self.arrived)} messages arrived, {ghosts} of them cancelled ones; "
            f"{lost} that were sent did not; "
            f"the peer: {self.fault or 'sound'}; the sender: {self.failed or 'sound'}"
        )


async def send_impatiently(send: Send, outcome: Outcome) -> None:
    """Send messages, giving each a moment."""
    for number in range(COUNT):
        message = struct.pack("!I", number) + bytes([number % 256]) * SIZE
        with trio.move_on_after(MOMENT) as scope:
            try:
                await send(message)
            except Exception as error:  # noqa: BLE001 - each library has its own
                outcome.failed = f"{type(error).__name__} at message {number}"
                return
            outcome.returned.append(number)
        if scope.cancelled_caught:
            outcome.cancelled.append(number)


async def read_slowly(port: int, outcome: Outcome) -> None:
    """Parse what comes until the Close; what does not parse is the end."""
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    peer = _SlowPeer(stream, 5.0)
    async with stream:
        try:
            await peer.handshake()
            while (frame := await peer.receive_frame()).opcode != CLOSE:
                number = struct.unpack("!I", frame.payload[:4])[0]
                if frame.payload[4:] != bytes([number % 256]) * SIZE:
                    raise AssertionError("a message that no one sent")  # noqa: TRY301
                outcome.arrived.append(number)
            await peer.send_frame(CLOSE, frame.payload)
        except (AssertionError, struct.error, trio.TooSlowError, trio.BrokenResourceError) as error:
            outcome.fault = str(error).partition("\n")[0][:60] or type(error).__name__


class _SlowPeer(Peer):
    async def _receive_more(self) -> None:
        await trio.sleep(REST)
        await super()._receive_more()


# The libraries: each takes what a server does with a connection, and says where it listens.

Use = Callable[[Send], Awaitable[None]]


async def serve_triows(use: Use, task_status: Any) -> None:
    """Serve with triows."""

    async def handle(ws: triows.WebSocket) -> None:
        await use(ws.send)

    async with trio.open_nursery() as nursery:
        server = await nursery.start(partial(triows.serve, handle, 0))
        task_status.started(server.port)


async def serve_trio_websocket(use: Use, task_status: Any) -> None:
    """Serve with trio-websocket."""

    async def handle(request: trio_websocket.WebSocketRequest) -> None:
        ws = await request.accept()
        await use(ws.send_message)

    async with trio.open_nursery() as nursery:
        serve = partial(trio_websocket.serve_websocket, handle, "127.0.0.1", 0, None)
        task_status.started((await nursery.start(serve)).port)


async def serve_websockets_trio(use: Use, task_status: Any) -> None:
    """Serve with websockets.trio."""

    async def handle(ws: Any) -> None:
        await use(ws.send)

    async with trio.open_nursery() as nursery:
        serve = partial(serve_websockets, handle, 0, host="127.0.0.1", compression=None)
        server = await nursery.start(serve)
        task_status.started(server.listeners[0].socket.getsockname()[1])


LIBRARIES: dict[str, Callable[..., Awaitable[None]]] = {
    "triows": serve_triows,
    "trio-websocket": serve_trio_websocket,
    "websockets.trio": serve_websockets_trio,
}


async def show(library: str) -> Outcome:
    """Return what became of cancelled sends in *library*."""
    outcome = Outcome()

    async with trio.open_nursery() as nursery:
        use = partial(send_impatiently, outcome=outcome)
        port = await nursery.start(LIBRARIES[library], use)
        with trio.move_on_after(30):
            await read_slowly(port, outcome)
        nursery.cancel_scope.cancel()
    return outcome


async def main() -> None:
    """Print a line for each library."""
    for library in LIBRARIES:
        outcome = await show(library)
        print(f"{library}: {'exact' if outcome.is_exact else 'NOT exact'}: {outcome}")  # noqa: T201 - it shows


if __name__ == "__main__":
    trio.run(main)
