"""The channel over connections that compress: messages, parts, batches, bounds, ends."""

import zlib
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio

import triows
from tests.conformance.peer import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, Frame
from tests.unit.conftest import Connect, Pair, over_memory
from tests.unit.test_deflate_engine import RSV1, deflated, inflated, make_deflate
from triows import ConnectionBroken, Limits, PreparedMessage

TAIL = b"\x00\x00\xff\xff"
WORDS = b"".join(b"%d words, " % (number * number) for number in range(300))
ConnectDeflated = Callable[..., Awaitable[Pair]]


@pytest.fixture
def connect_deflated(connect: Connect, role: str) -> ConnectDeflated:
    """Make channels that compress everything, unless told otherwise."""

    async def make(limits: Limits = Limits(), **settings: Any) -> Pair:  # noqa: B008 - frozen
        settings = {"threshold": 0, **settings}
        deflate = make_deflate(is_server=role == "server", limits=limits, **settings)
        return await connect(limits=limits, deflate=deflate)

    return make


def compressor(*, takes_over) -> Callable[[bytes], bytes]:
    """What a peer compresses its messages with."""
    if not takes_over:
        return deflated
    context = zlib.compressobj(9, zlib.DEFLATED, -15)

    def compress(message: bytes) -> bytes:
        octets = context.compress(message) + context.flush(zlib.Z_SYNC_FLUSH)
        return octets.removesuffix(TAIL)

    return compress


async def send_cut(pair: Pair, opcode: int, octets: bytes, step: int) -> None:
    """Send a compressed message in fragments of so many octets."""
    for at in range(0, len(octets), step):
        await pair.peer.send_frame(
            CONTINUATION if at else opcode,
            octets[at : at + step],
            rsv=0 if at else RSV1,
            fin=at + step >= len(octets),
        )


# Sending.


@over_memory
@pytest.mark.parametrize(
    ("message", "compress", "is_compressed"),
    [
        ("short", None, False),
        ("long" * 99, None, True),
        ("short", True, True),
        ("long" * 99, False, False),
        (PreparedMessage("long" * 99), None, True),
        (PreparedMessage("long" * 99, compress=False), True, False),
        (PreparedMessage("short", compress=True), False, True),
    ],
)
async def test_a_message_is_compressed_as_its_sender_says(
    connect_deflated: ConnectDeflated, message: Any, compress: Any, is_compressed: Any
):
    """`send` and `send_nowait` take a flag; a prepared message has one of its own."""
    pair = await connect_deflated(threshold=100)
    await pair.ws.send(message, compress=compress)
    pair.ws.send_nowait(message, compress=compress)

    for _ in range(2):
        frame = await pair.peer.receive_frame()
        assert frame.is_compressed is is_compressed
        payload = inflated(frame.payload) if is_compressed else frame.payload
        text = message if isinstance(message, str) else message.payload.decode()
        assert payload.decode() == text
    assert pair.ws.statistics().octets_sent == 2 * len(text)


@over_memory
async def test_what_is_no_message_is_refused_whatever_the_flag(connect_deflated: ConnectDeflated):
    """The errors are those of any send."""
    pair = await connect_deflated()
    for compress in (None, True, False):
        with pytest.raises(TypeError, match="int"):
            await pair.ws.send(1, compress=compress)  # type: ignore[arg-type]
        with pytest.raises(UnicodeEncodeError):
            await pair.ws.send("\ud800", compress=compress)


@over_memory
@pytest.mark.parametrize("takes_over", [False, True])
async def test_a_message_in_parts_is_compressed_as_it_goes(
    connect_deflated: ConnectDeflated, takes_over
):
    """The peer can inflate each part when it has come; the next message is not hurt."""
    pair = await connect_deflated(takes_over=takes_over)
    inflater = zlib.decompressobj(-15)
    async with pair.ws.open_message(text=False) as message:
        for part in (WORDS, WORDS[:100], b"x"):
            await message.send(part)
            frame = await pair.peer.receive_frame()
            assert inflater.decompress(frame.payload) == part
    assert await pair.peer.receive_frame() == Frame(CONTINUATION, b"\0")
    assert inflater.decompress(b"\0" + TAIL) == b""
    async with pair.ws.open_message(text=True, compress=False) as message:
        await message.send("plain")
    assert await pair.peer.receive_frame() == Frame(TEXT, b"plain", fin=False)
    assert await pair.peer.receive_frame() == Frame(CONTINUATION, b"")
    await pair.ws.send(WORDS)
    last = await pair.peer.receive_frame()
    assert (inflater.decompress if takes_over else inflated)(
        last.payload + TAIL if takes_over else last.payload
    ) == WORDS


# Receiving.


@pytest.mark.parametrize("takes_over", [False, True])
async def test_compressed_messages_are_received(connect_deflated: ConnectDeflated, takes_over):
    """Text and octets, whole or in fragments, with Pings between; the counts are of payload."""
    pair = await connect_deflated(takes_over=takes_over)
    compress = compressor(takes_over=takes_over)
    await pair.peer.send_frame(TEXT, compress("grüße".encode() * 99), rsv=RSV1)
    octets = compress(WORDS)
    await pair.peer.send_frame(BINARY, octets[:50], rsv=RSV1, fin=False)
    await pair.peer.send_frame(PING, b"between")
    await pair.peer.send_frame(CONTINUATION, octets[50:])
    await pair.peer.send_frame(TEXT, b"plain")
    await pair.peer.send_frame(TEXT, compress(b""), rsv=RSV1)

    assert [await pair.ws.receive() for _ in range(4)] == ["grüße" * 99, WORDS, "plain", ""]
    assert await pair.peer.receive_frame() == Frame(PONG, b"between")
    assert pair.ws.statistics().octets_received == 7 * 99 + len(WORDS) + 5


@over_memory
async def test_every_way_of_receiving_inflates(connect_deflated: ConnectDeflated):
    """`receive_nowait`, ``async for`` and `receive_batch` as `receive`."""
    pair = await connect_deflated()
    for number in range(8):
        await pair.peer.send_frame(TEXT, deflated(b"message %d" % number), rsv=RSV1)

    assert await pair.ws.receive_batch(3) == ["message 0", "message 1", "message 2"]
    assert await anext(pair.ws) == "message 3"
    await trio.testing.wait_all_tasks_blocked()
    assert pair.ws.receive_nowait() == "message 4"
    assert await pair.ws.receive_batch(9) == ["message 5", "message 6", "message 7"]


@over_memory
async def test_what_is_unread_is_as_large_as_it_was_on_the_wire(connect_deflated: ConnectDeflated):
    """A thousand small bombs take a thousandth of what they would inflate to."""
    pair = await connect_deflated(Limits(receive_queue_octets=50_000, receive_queue_messages=2_000))
    bomb = deflated(bytes(1_000_000))
    for _ in range(30):
        await pair.peer.send_frame(BINARY, bomb, rsv=RSV1)
    await trio.testing.wait_all_tasks_blocked()

    assert pair.ws.statistics().unread_messages == 30
    assert pair.ws.statistics().unread_octets == 30 * len(bomb)
    assert await pair.ws.receive() == bytes(1_000_000)
    assert pair.ws.statistics().unread_messages == 29


@over_memory
async def test_a_batch_of_bombs_is_a_short_one(connect_deflated: ConnectDeflated):
    """A batch ends once what was inflated for it is a MiB, however many were asked for."""
    pair = await connect_deflated()
    for _ in range(30):
        await pair.peer.send_frame(BINARY, deflated(bytes(300_000)), rsv=RSV1)
    await trio.testing.wait_all_tasks_blocked()

    assert len(await pair.ws.receive_batch(30)) == 5
    assert pair.ws.statistics().unread_messages == 25


# Parts.


@pytest.mark.parametrize("takes_over", [False, True])
async def test_a_compressed_message_is_received_in_parts(
    connect_deflated: ConnectDeflated, takes_over
):
    """As it comes, in parts of 64 KiB at the most; what follows it is whole."""
    pair = await connect_deflated(takes_over=takes_over)
    compress = compressor(takes_over=takes_over)
    text = "grüße, " * 30_000
    await send_cut(pair, TEXT, compress(text.encode()), 150)
    await pair.peer.send_frame(BINARY, compress(WORDS), rsv=RSV1)

    async with pair.ws.receive_parts() as message:
        assert message.is_text
        parts = [part async for part in message]
        assert message.is_whole
    assert "".join(parts) == text  # type: ignore[arg-type]
    assert all(0 < len(part) <= 65_536 for part in parts)
    assert await pair.ws.receive() == WORDS
    octets = len(text.encode()) + len(WORDS)
    assert pair.ws.statistics().octets_received == octets


@over_memory
async def test_parts_come_before_the_message_is_whole(connect_deflated: ConnectDeflated):
    """What has come of it is inflated at once, also what came before anyone asked for parts."""
    pair = await connect_deflated()
    context = zlib.compressobj(9, zlib.DEFLATED, -15)
    octets = [
        context.compress(part) + context.flush(zlib.Z_SYNC_FLUSH) for part in (b"one", b"two")
    ]
    await pair.peer.send_frame(TEXT, octets[0], rsv=RSV1, fin=False)
    await trio.testing.wait_all_tasks_blocked()
    async with pair.ws.receive_parts() as message:
        assert await message.receive() == "one"
        await pair.peer.send_frame(CONTINUATION, octets[1], fin=False)
        assert await message.receive() == "two"
        await pair.peer.send_frame(CONTINUATION, b"\0")
        with pytest.raises(trio.EndOfChannel):
            await message.receive()


@pytest.mark.parametrize("takes_over", [False, True])
@pytest.mark.parametrize("taken", [0, 1, 3])
@pytest.mark.parametrize("sent_before", [True, False])
async def test_what_is_left_of_a_message_does_not_hurt_the_next(
    connect_deflated: ConnectDeflated, takes_over, taken: int, sent_before
):
    """The rest is thrown away, come or to come; a context goes on all the same."""
    pair = await connect_deflated(takes_over=takes_over)
    compress = compressor(takes_over=takes_over)
    octets = compress(WORDS * 250)
    half = len(octets) // 2
    await pair.peer.send_frame(BINARY, octets[:half], rsv=RSV1, fin=False)
    if sent_before:
        await pair.peer.send_frame(CONTINUATION, octets[half:])
    async with pair.ws.receive_parts() as message:
        for _ in range(taken):
            await message.receive()
    if not sent_before:
        await pair.peer.send_frame(CONTINUATION, octets[half:-9], fin=False)
        await pair.peer.send_frame(CONTINUATION, octets[-9:])
    await pair.peer.send_frame(BINARY, compress(WORDS), rsv=RSV1)

    assert await pair.ws.receive() == WORDS


# What cannot be inflated.


async def receive(ws: triows.WebSocket, how: str) -> Any:
    """Receive a message in one of the ways that there are."""
    if how == "batch":
        (message,) = await ws.receive_batch(9)
        return message
    if how == "nowait":
        return ws.receive_nowait()
    if how == "parts":
        async with ws.receive_parts() as parts:
            return [part async for part in parts]
    return await ws.receive()


BAD = [
    pytest.param(b"\xff" * 9, 1007, id="garbage"),
    pytest.param(deflated(b"gr\xfc" * 50), 1007, id="bad text"),
    pytest.param(deflated(bytes(100_001)), 1009, id="too big"),
]


@pytest.mark.parametrize(("octets", "code"), BAD)
@pytest.mark.parametrize("how", ["receive", "batch", "parts", "nowait"])
async def test_what_cannot_be_inflated_ends_the_connection(
    connect_deflated: ConnectDeflated, octets: bytes, code: int, how: str
):
    """What came before it is received; then the receiver and the peer are told; that is all."""
    pair = await connect_deflated(Limits(max_message=100_000))
    await pair.peer.send_frame(TEXT, deflated(b"before"), rsv=RSV1)
    await pair.peer.send_frame(TEXT, octets, rsv=RSV1)
    await pair.peer.send_frame(TEXT, b"behind")
    await pair.ws.send("sent")
    await trio.testing.wait_all_tasks_blocked(0.02)

    assert await receive(pair.ws, "batch" if how == "batch" else "receive") == "before"
    with pytest.raises(ConnectionBroken) as caught:
        await receive(pair.ws, how)

    assert caught.value.code == code
    assert caught.value.__context__ is None  # it does not hold on to what was inflated
    assert pair.ws.close_reason is not None
    assert pair.ws.close_reason.code == code
    assert (await pair.peer.receive_frame()).opcode == TEXT
    close = await pair.peer.receive_frame()
    assert (close.opcode, int.from_bytes(close.payload[:2])) == (CLOSE, code)
    with pytest.raises(ConnectionBroken):
        await pair.ws.receive()
    with pytest.raises(ConnectionBroken):
        await pair.ws.send("late")


@over_memory
async def test_text_that_ends_within_a_character_is_refused_in_parts_too(
    connect_deflated: ConnectDeflated,
):
    """The last part must end a character."""
    pair = await connect_deflated()
    await pair.peer.send_frame(TEXT, deflated("grü".encode()[:-1]), rsv=RSV1)
    with pytest.raises(ConnectionBroken, match="1007"):
        async with pair.ws.receive_parts() as message:
            await message.receive()


@over_memory
@pytest.mark.parametrize("sent_before", [True, False])
async def test_what_is_thrown_away_must_be_sound_where_a_context_is_taken_over(
    connect_deflated: ConnectDeflated, sent_before
):
    """Else nothing that follows could be inflated: the connection ends at once."""
    pair = await connect_deflated(takes_over=True)
    octets = [deflated(b"begun")[:-1], b"\xff" * 9]
    await pair.peer.send_frame(TEXT, octets[0], rsv=RSV1, fin=False)
    if sent_before:
        await pair.peer.send_frame(CONTINUATION, octets[1])
        await trio.testing.wait_all_tasks_blocked()
    async with pair.ws.receive_parts():
        pass
    if not sent_before:
        await pair.peer.send_frame(CONTINUATION, octets[1])
    with pytest.raises(ConnectionBroken, match="1007"):
        await pair.ws.receive()


@over_memory
async def test_a_bad_message_before_the_peers_close_is_an_error(connect_deflated: ConnectDeflated):
    """The peer's 1000 does not make it a clean end: a message was lost."""
    pair = await connect_deflated()
    await pair.peer.send_frame(TEXT, b"\xff" * 9, rsv=RSV1)
    await pair.close()
    await trio.testing.wait_all_tasks_blocked()

    for _ in range(2):
        with pytest.raises(ConnectionBroken, match="1007"):
            await pair.ws.receive()


# From end to end.


@pytest.mark.parametrize("driver", ["stream", "reactor"])
@pytest.mark.parametrize("takes_over", [False, True])
@pytest.mark.parametrize("bits", [8, 15])
async def test_both_ends_of_triows_understand_each_other(
    warm: None, nursery: trio.Nursery, driver: str, takes_over, bits: int
):
    """Messages of all kinds and sizes, whole and in parts, with every parameter."""
    settings = triows.Deflate(
        server_context_takeover=takes_over,
        client_context_takeover=takes_over,
        server_max_window_bits=bits,
        client_max_window_bits=bits,
    )

    async def echo(ws: triows.WebSocket) -> None:
        async for message in ws:
            await ws.send(message)

    async def start(task_status: Any) -> None:
        await triows.serve(echo, 0, driver=driver, deflate=settings, task_status=task_status)

    messages: list[str | bytes] = ["grüße" * 999, "", WORDS * 30, bytes(10**6), "ü" * 300, b"x"]
    with trio.fail_after(30):
        server = await nursery.start(start)
        async with triows.open_websocket(
            f"ws://127.0.0.1:{server.port}", deflate=[triows.Deflate(level=9), settings]
        ) as ws:
            assert ws.deflate is not None
            assert ws.deflate.server_no_context_takeover
            for message in messages:
                for compress in (None, True, False):
                    await ws.send(message, compress=compress)
                    assert await ws.receive() == message
                async with ws.open_message(text=isinstance(message, str)) as outgoing:
                    for at in range(0, len(message), 30_000):
                        await outgoing.send(message[at : at + 30_000])
                async with ws.receive_parts() as incoming:
                    parts: Any = [part async for part in incoming]
                assert type(message)().join(parts) == message
        async with triows.open_websocket(f"ws://127.0.0.1:{server.port}", deflate=None) as ws:
            assert ws.deflate is None
            await ws.send("plain")
            assert await ws.receive() == "plain"
        nursery.cancel_scope.cancel()
