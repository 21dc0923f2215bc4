"""A raw peer: octets in, octets out, and a judge of what a server sends.

It shares no code with triows: frames are built and parsed here in plain
Python, so that it can break every rule of RFC 6455 on purpose and holds the
server to all of them (§5.1: never masked; §5.2: minimal lengths, reserved bits
clear; §5.5: control frames whole and short). It does not know what it is
connected through.
"""

import base64
import hashlib
import struct
from collections.abc import Sequence

import attrs
import trio
import trio.testing

from tests.conformance.transports import reset

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
MASK = b"\x37\xfa\x21\x3d"
KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
"""The sample key of RFC 6455 §1.3."""
SAMPLE_ACCEPT = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
REQUEST_LINE = b"GET /chat HTTP/1.1"
FIELDS: tuple[tuple[bytes, bytes], ...] = (
    (b"Host", b"server.example.com"),
    (b"Upgrade", b"websocket"),
    (b"Connection", b"Upgrade"),
    (b"Sec-WebSocket-Key", KEY),
    (b"Sec-WebSocket-Version", b"13"),
)
"""The fields of a request that every server accepts."""


def build_request(
    line: bytes = REQUEST_LINE,
    *extra: tuple[bytes, bytes],
    without: Sequence[bytes] = (),
    **replaced: bytes,
) -> bytes:
    """A request head; ``upgrade=b"h2c"`` replaces the field Upgrade, *extra* is appended."""
    values = {name.replace("_", "-").lower(): value for name, value in replaced.items()}
    fields = [
        (name, values.get(name.decode().lower(), value))
        for name, value in FIELDS
        if name not in without
    ]
    lines = [line, *(name + b": " + value for name, value in [*fields, *extra])]
    return b"\r\n".join(lines) + b"\r\n\r\n"


def xor(octets: bytes, mask: bytes) -> bytes:
    """Mask or unmask *octets* (§5.3), in one big integer: quick, and unlike any kernel."""
    size = len(octets)
    key = (mask * (size // 4 + 1))[:size]
    return (int.from_bytes(octets) ^ int.from_bytes(key)).to_bytes(size)


def build_frame(
    opcode: int,
    payload: bytes = b"",
    *,
    fin: bool = True,
    rsv: int = 0,
    mask: bytes | None = MASK,
    length_size: int | None = None,
    declared: int | None = None,
) -> bytes:
    """One frame, as right or as wrong as asked for.

    *length_size* forces 0, 2 or 8 octets of extended length; *declared* announces
    another payload size than that of *payload*; *mask* ``None`` leaves it unmasked.
    """
    size = len(payload) if declared is None else declared
    if length_size is None:
        length_size = 0 if size < 126 else 2 if size < 65_536 else 8
    marker = {0: size, 2: 126, 8: 127}[length_size]
    extended = {0: b"", 2: struct.pack("!H", size & 0xFFFF), 8: struct.pack("!Q", size)}
    first = (fin << 7) | (rsv << 4) | opcode
    head = bytes([first, marker | (0 if mask is None else 0x80)]) + extended[length_size]
    return head + payload if mask is None else head + mask + xor(payload, mask)


def build_close(code: int | None = None, reason: bytes = b"", **wrongs: object) -> bytes:
    """A Close frame with *code* (none: an empty payload) and *reason*."""
    payload = b"" if code is None else struct.pack("!H", code) + reason
    return build_frame(CLOSE, payload, **wrongs)  # type: ignore[arg-type]


@attrs.frozen
class Frame:
    """A frame that the server sent."""

    opcode: int
    payload: bytes
    fin: bool = True
    is_compressed: bool = False
    """Whether RSV1 is set, where that was negotiated (RFC 7692 §6)."""


@attrs.frozen
class Close:
    """The content of a Close frame; *code* is None where its payload was empty."""

    code: int | None
    reason: str = ""


@attrs.frozen
class Answer:
    """An HTTP response head, and its body where it was framed by Content-Length."""

    status: int
    fields: list[tuple[str, str]]
    body: bytes

    def all(self, name: str) -> list[str]:
        """The values of every field called *name*, in order."""
        return [value for field, value in self.fields if field.lower() == name.lower()]

    @property
    def is_framed(self) -> bool:
        """Whether the end of the body can be told without the end of the connection."""
        return bool(self.all("Content-Length"))


class EndedError(AssertionError):
    """The connection ended where more was expected."""


class Peer:
    """One connection to a server; every wait ends after *patience* seconds.

    After *silence* seconds without an octet nothing more is expected.
    """

    def __init__(
        self,
        stream: trio.abc.HalfCloseableStream,
        patience: float = 10.0,
        silence: float = 0.01,
    ) -> None:
        self.stream = stream
        self.patience = patience
        self.silence = silence
        self.extension = ""
        """What the server answered to an offer of permessage-deflate."""
        self._octets = bytearray()

    async def send(self, octets: bytes) -> None:
        """Send *octets* as they are."""
        with trio.fail_after(self.patience):
            await self.stream.send_all(octets)

    async def send_frame(self, opcode: int, payload: bytes = b"", **wrongs: object) -> None:
        """Send one frame; the keywords are those of `build_frame`."""
        await self.send(build_frame(opcode, payload, **wrongs))  # type: ignore[arg-type]

    async def send_octet_by_octet(self, octets: bytes) -> None:
        """Send *octets* one at a time, letting the other tasks run in between."""
        for octet in octets:
            await self.send(bytes([octet]))
            await trio.lowlevel.checkpoint()

    async def handshake(self, request: bytes | None = None) -> Answer:
        """Open the WebSocket, and hold the server to §4.2.2."""
        await self.send(build_request() if request is None else request)
        answer = await self.receive_answer()
        assert answer.status == 101, answer
        key = KEY if request is None else _find_key(request)
        accept = base64.b64encode(hashlib.sha1(key + GUID).digest()).decode()
        assert answer.all("Sec-WebSocket-Accept") == [accept]
        assert [value.lower() for value in answer.all("Upgrade")] == ["websocket"]
        assert [value.lower() for value in answer.all("Connection")] == ["upgrade"]
        extensions = answer.all("Sec-WebSocket-Extensions")
        assert len(extensions) <= (b"permessage-deflate" in (request or b"").lower())
        self.extension = "".join(extensions)
        assert not answer.all("Content-Length")
        assert not answer.all("Transfer-Encoding")
        return answer

    async def receive_answer(self) -> Answer:
        """The server's HTTP response, with its body if that is framed."""
        while b"\r\n\r\n" not in self._octets:
            await self._receive_more()
        head, _, rest = bytes(self._octets).partition(b"\r\n\r\n")
        self._octets[:] = rest
        status_line, *lines = head.decode("ascii").split("\r\n")
        version, status, _ = (status_line + " ").split(" ", 2)
        assert version == "HTTP/1.1", status_line
        fields = [(name, value.strip()) for name, _, value in (ln.partition(":") for ln in lines)]
        sizes = [int(value) for name, value in fields if name.lower() == "content-length"]
        body = await self._take(sizes[0]) if sizes and int(status) != 101 else b""
        return Answer(int(status), fields, body)

    async def receive_refusal(self) -> Answer:
        """A refusal: a 4xx that is framed or ends with the connection (item 19)."""
        answer = await self.receive_answer()
        assert 400 <= answer.status <= 499, answer
        if not answer.is_framed:
            await self.receive_end()
        return answer

    async def receive_frame(self) -> Frame:
        """The next frame, refused if it breaks §5.1, §5.2 or §5.5."""
        first, second = await self._take(2)
        assert not second & 0x80, "a server must not mask"
        opcode, fin, size = first & 0x0F, bool(first & 0x80), second
        assert not first & (0x30 if self.extension else 0x70), "reserved bits without negotiation"
        assert not first & 0x40 or opcode in {TEXT, BINARY}, "RSV1 where it means nothing"
        assert opcode in {CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG}
        if second == 126:
            (size,) = struct.unpack("!H", await self._take(2))
            assert size >= 126, "length not minimal"
        elif second == 127:
            (size,) = struct.unpack("!Q", await self._take(8))
            assert 65_536 <= size < 2**63, "length not minimal"
        if opcode >= CLOSE:
            assert fin, "fragmented control frame"
            assert size <= 125, "control frame too long"
        return Frame(opcode, await self._take(size), fin, bool(first & 0x40))

    async def receive_message(self) -> Frame:
        """The next data message, put together; control frames before it are refused."""
        frame = await self.receive_frame()
        assert frame.opcode in {TEXT, BINARY}, frame
        first, parts = frame, [frame.payload]
        while not frame.fin:
            frame = await self.receive_frame()
            assert frame.opcode == CONTINUATION
            parts.append(frame.payload)
        return Frame(first.opcode, b"".join(parts), is_compressed=first.is_compressed)

    async def receive_close(self) -> Close:
        """The next frame, which must be a Close whose content §7.4 allows."""
        frame = await self.receive_frame()
        assert frame.opcode == CLOSE, frame
        if not frame.payload:
            return Close(None)
        assert len(frame.payload) >= 2
        (code,) = struct.unpack("!H", frame.payload[:2])
        assert code in {*range(1000, 1004), *range(1007, 1015), *range(3000, 5000)}, code
        return Close(code, frame.payload[2:].decode())

    async def receive_eof(self) -> None:
        """The end of the connection, in order and with nothing before it."""
        with trio.fail_after(self.patience):
            octets = bytes(self._octets) or await self.stream.receive_some()
        assert octets == b"", octets[:80]

    async def expect_nothing(self) -> None:
        """See that the server is silent once every task of this process waits."""
        await trio.testing.wait_all_tasks_blocked(0.001)
        assert not self._octets
        with trio.move_on_after(self.silence):
            self._octets += await self.stream.receive_some()
            raise AssertionError(f"the server sent {bytes(self._octets)[:200]!r}, or ended")

    async def receive_end(self) -> bytes:
        """Whatever comes until the connection ends, in order or by a reset."""
        taken = bytes(self._octets)
        self._octets.clear()
        with trio.fail_after(self.patience):
            try:
                while octets := await self.stream.receive_some():
                    taken += octets
            except trio.BrokenResourceError:
                pass
        return taken

    async def receive_failure(self, code: int) -> Close:
        """Close with *code*, answered as §7.1.2 asks, and then the end (§7.1.7)."""
        close = await self.receive_close()
        assert close.code == code, close
        await self.finish(code)
        return close

    async def finish(self, code: int | None = 1000) -> None:
        """Answer a Close that was received, and see the server drop TCP first."""
        try:
            await self.send(build_close(code))
        except trio.BrokenResourceError:
            return
        assert await self.receive_end() == b""

    async def expect_echo(self, payload: bytes = b"still here", opcode: int = BINARY) -> None:
        """Send a message and receive it back: the connection is alive and in step."""
        await self.send_frame(opcode, payload)
        assert await self.receive_message() == Frame(opcode, payload)

    async def end(self) -> None:
        """Send no more, and go on listening."""
        with trio.fail_after(self.patience):
            await self.stream.send_eof()

    def reset(self) -> None:
        """Cut the connection off."""
        reset(self.stream)

    async def aclose(self) -> None:
        """Close the connection without a word."""
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
        if not octets:
            raise EndedError(f"the connection ended after {bytes(self._octets)[:200]!r}")
        self._octets += octets


def _find_key(request: bytes) -> bytes:
    """The first Sec-WebSocket-Key of *request*."""
    for line in request.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"sec-websocket-key":
            return value.strip()
    raise AssertionError("the request has no key")
