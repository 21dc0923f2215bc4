"""A raw server: octets in, octets out, and a judge of what a client sends.

As `peer` it shares no code with triows, breaks every rule on purpose, and holds the
client to all of them (RFC 6455 §5.1: always masked; §5.2: minimal lengths, reserved
bits clear; §5.5: control frames whole and short).
"""

import base64
import hashlib
import struct
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import attrs
import trio

import triows
from tests.conformance.peer import (
    BINARY,
    CLOSE,
    CONTINUATION,
    GUID,
    PING,
    PONG,
    TEXT,
    Close,
    Frame,
    build_close,
    build_frame,
    xor,
)
from tests.conformance.transports import open_pair, reset

SAMPLE_ACCEPT = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
"""The Accept of RFC 6455 §1.3, which stands in vectors for the right one."""
SWITCHING = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: " + SAMPLE_ACCEPT + b"\r\n\r\n"
)


class RawServer:
    """One connection from a client; every wait ends after *patience* seconds."""

    def __init__(self, stream: trio.abc.HalfCloseableStream, patience: float) -> None:
        self.stream = stream
        self.patience = patience
        self.request = b""
        self.masks: list[bytes] = []
        self._octets = bytearray()

    async def send(self, octets: bytes) -> None:
        """Send *octets* as they are."""
        with trio.fail_after(self.patience):
            await self.stream.send_all(octets)

    async def send_frame(self, opcode: int, payload: bytes = b"", **wrongs: Any) -> None:
        """Send one frame; the keywords are those of `build_frame`."""
        await self.send(build_frame(opcode, payload, **{"mask": None, **wrongs}))

    async def send_close(self, code: int | None = None, reason: bytes = b"") -> None:
        """Send a Close frame."""
        await self.send(build_close(code, reason, mask=None))

    async def receive_request(self) -> bytes:
        """The head of the opening request."""
        while b"\r\n\r\n" not in self._octets:
            await self._receive_more()
        head, _, rest = bytes(self._octets).partition(b"\r\n\r\n")
        assert not rest, "octets before the server's answer"
        self._octets.clear()
        self.request = head
        return head

    def field(self, name: bytes) -> bytes | None:
        """The value of the request's only field of that name."""
        lines = [line.partition(b":") for line in self.request.split(b"\r\n")[1:]]
        values = [value.strip() for field, _, value in lines if field.lower() == name.lower()]
        assert len(values) <= 1, values
        return values[0] if values else None

    def answering(self, vector: bytes) -> bytes:
        """*vector* with the RFC's sample Accept replaced by that which answers the request."""
        key = self.field(b"Sec-WebSocket-Key")
        assert key is not None
        accept = base64.b64encode(hashlib.sha1(key + GUID).digest())
        return vector.replace(SAMPLE_ACCEPT, accept).replace(SAMPLE_ACCEPT.lower(), accept.lower())

    async def open(self, octets: bytes = b"") -> None:
        """Accept the client, and send *octets* in the same segment."""
        await self.receive_request()
        await self.send(self.answering(SWITCHING) + octets)

    async def receive_frame(self) -> Frame:
        """The next frame, which a client may send (§5.1, §5.2, §5.5)."""
        first, second = await self._take(2)
        assert second & 0x80, "a client must mask"
        assert not first & 0x70, "reserved bits without negotiation"
        opcode, fin, size = first & 0x0F, bool(first & 0x80), second & 0x7F
        assert opcode in {CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG}
        if size == 126:
            (size,) = struct.unpack("!H", await self._take(2))
            assert size >= 126, "length not minimal"
        elif size == 127:
            (size,) = struct.unpack("!Q", await self._take(8))
            assert 65_536 <= size < 2**63, "length not minimal"
        if opcode >= CLOSE:
            assert fin, "fragmented control frame"
            assert size <= 125, "control frame too long"
        mask = await self._take(4)
        self.masks.append(mask)
        return Frame(opcode, xor(await self._take(size), mask), fin)

    async def receive_close(self) -> Close:
        """The next frame, which must be a Close."""
        frame = await self.receive_frame()
        assert frame.opcode == CLOSE, frame
        if not frame.payload:
            return Close(None)
        (code,) = struct.unpack("!H", frame.payload[:2])
        return Close(code, frame.payload[2:].decode())

    async def receive_end(self) -> bytes:
        """Whatever comes until the client has dropped the connection; then drops it here."""
        taken = bytes(self._octets)
        self._octets.clear()
        with trio.fail_after(self.patience):
            try:
                while octets := await self.stream.receive_some():
                    taken += octets
            except trio.BrokenResourceError:
                pass
        await trio.aclose_forcefully(self.stream)
        return taken

    async def end(self) -> None:
        """Send no more, and go on listening."""
        await self.stream.send_eof()

    def reset(self) -> None:
        """Cut the connection off."""
        reset(self.stream)

    async def aclose(self) -> None:
        """Drop the connection."""
        await self.stream.aclose()

    async def _take(self, size: int) -> bytes:
        while len(self._octets) < size:
            await self._receive_more()
        taken = bytes(self._octets[:size])
        del self._octets[:size]
        return taken

    async def _receive_more(self) -> None:
        with trio.fail_after(self.patience):
            octets = await self.stream.receive_some()
        assert octets, f"the connection ended after {bytes(self._octets)[:200]!r}"
        self._octets += octets


@attrs.frozen
class Scene:
    """A raw server that a client of ours can connect to, once."""

    url: str
    options: dict[str, Any]
    accept: Callable[[], Awaitable[RawServer]]
    is_virtual: bool

    def open(self, **options: Any) -> AbstractAsyncContextManager[triows.WebSocket]:
        """What `triows.open_websocket` gives."""
        return triows.open_websocket(self.url, **self.options, **options)


async def set_scene(wire: Any) -> Scene:
    """Make a scene of the kind that *wire* is."""
    if wire.is_virtual:
        ours, theirs = open_pair()

        async def take() -> RawServer:
            await trio.lowlevel.checkpoint()
            return RawServer(theirs, wire.patience)

        return Scene("ws://server.test/chat?a=b", {"stream": ours}, take, True)
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")

    async def accept() -> RawServer:
        async with listener:
            return RawServer(await listener.accept(), wire.patience)

    port = listener.socket.getsockname()[1]
    return Scene(f"ws://127.0.0.1:{port}/chat?a=b", {}, accept, False)
