"""permessage-deflate, seen by a client that shares no code with triows (items 48-53).

What this client compresses and inflates goes through the standard library's zlib.
"""

import functools
import zlib

import pytest
import trio

from tests import naive_inflate
from tests.conformance.peer import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    REQUEST_LINE,
    TEXT,
    Frame,
    Peer,
    build_frame,
    build_request,
)
from tests.conftest import Serve
from triows import Deflate, Limits

pytestmark = pytest.mark.usefixtures("no_tracebacks")

TAIL = b"\x00\x00\xff\xff"
EVERYTHING = Deflate(server_context_takeover=True, client_context_takeover=True, threshold=0)
"""Compresses every message, and asks for nothing."""
ALONE = Deflate(threshold=0)
NO_TAKEOVER = "client_no_context_takeover; server_no_context_takeover"
WORDS = b"".join(b"%d words to be compressed, " % (number * number) for number in range(300))


async def connect(
    serve: Serve,
    offers: str = "permessage-deflate",
    deflate: Deflate = EVERYTHING,
    **options: object,
) -> Peer:
    """A connection to an echo server that was offered compression."""
    served = await serve(deflate=deflate, **options)
    return await served.connect(request(offers))


def request(offers: str = "permessage-deflate") -> bytes:
    """A request that offers compression."""
    return build_request(REQUEST_LINE, (b"Sec-WebSocket-Extensions", offers.encode()))


class Codec:
    """What the client compresses and inflates with."""

    def __init__(self, bits: int = 15) -> None:
        self._compressor = zlib.compressobj(9, zlib.DEFLATED, -bits)
        self._inflater = zlib.decompressobj(-15)

    def deflate(self, message: bytes) -> bytes:
        """The next message, with what was before it as its context."""
        octets = self._compressor.compress(message) + self._compressor.flush(zlib.Z_SYNC_FLUSH)
        return octets.removesuffix(TAIL)

    def inflate(self, payload: bytes) -> bytes:
        """Likewise."""
        return self._inflater.decompress(payload + TAIL)


def alone(message: bytes, bits: int = 15) -> bytes:
    """Compress a message that stands alone."""
    return Codec(bits).deflate(message)


@functools.cache
def make_bomb() -> bytes:
    """64 MiB of nothing, a thousand to one."""
    return alone(bytes(2**26))


async def send(peer: Peer, opcode: int, payload: bytes, **wrongs: object) -> None:
    """Send a compressed frame."""
    await peer.send(build_frame(opcode, payload, rsv=4, **wrongs))  # type: ignore[arg-type]


async def expect(peer: Peer, opcode: int, message: bytes, codec: Codec | None = None) -> bytes:
    """Receive a compressed message, which must be *message*; returns how it came."""
    frame = await peer.receive_message()
    assert (frame.opcode, frame.is_compressed) == (opcode, True)
    assert (codec or Codec()).inflate(frame.payload) == message
    return frame.payload


# The opening handshake.


@pytest.mark.parametrize(
    "refused",
    [
        "server_max_window_bits=7",
        "client_max_window_bits=16",
        "server_max_window_bits=010",
        "server_max_window_bits",
        "server_no_context_takeover; server_no_context_takeover",
        "unknown",
        "client_no_context_takeover=1",
    ],
)
async def test_item_48_a_malformed_offer_is_declined_and_the_next_one_used(
    serve: Serve, refused: str
):
    """It is no error: without another offer messages go uncompressed (RFC 7692 §5.1)."""
    served = await serve(deflate=EVERYTHING)
    bad, good = f"permessage-deflate; {refused}", "permessage-deflate; server_max_window_bits=11"
    peer = await served.connect(request(bad))
    assert peer.extension == ""
    await peer.expect_echo(WORDS)

    peer = await served.connect(request(f"{bad}, {good}"))
    assert peer.extension == good
    await send(peer, TEXT, alone(WORDS))
    await expect(peer, TEXT, WORDS)


async def test_item_49_a_window_of_256_octets_is_a_true_one(serve: Serve):
    """What the server sends refers back to no more, and it refuses what refers to more."""
    peer = await connect(
        serve, "permessage-deflate; server_max_window_bits=8; client_max_window_bits=8", ALONE
    )
    assert peer.extension == (
        f"permessage-deflate; {NO_TAKEOVER}; client_max_window_bits=8; server_max_window_bits=8"
    )
    near = b"".join(bytes([number % 7]) * 9 for number in range(40)) * 4
    compressor = zlib.compressobj(0, zlib.DEFLATED, -9)
    stored = compressor.compress(WORDS) + compressor.flush(zlib.Z_SYNC_FLUSH)
    await send(peer, TEXT, stored.removesuffix(TAIL))
    payload = await expect(peer, TEXT, WORDS)
    assert 0 < naive_inflate.inflate(payload + TAIL).farthest <= 256
    await send(peer, BINARY, alone(near, bits=9))
    await expect(peer, BINARY, near)


@pytest.mark.parametrize(
    ("offer", "answer"),
    [
        ("", ""),
        ("; client_max_window_bits", ""),
        ("; client_max_window_bits=10", "; client_max_window_bits=10"),
        ("; server_max_window_bits=9", "; server_max_window_bits=9"),
        (
            "; server_no_context_takeover; server_max_window_bits=9",
            "; server_no_context_takeover; server_max_window_bits=9",
        ),
    ],
)
async def test_item_50_what_is_answered_is_obeyed(serve: Serve, offer: str, answer: str):
    """client_max_window_bits is answered only if offered; the server keeps to what it answers."""
    peer = await connect(serve, f"permessage-deflate{offer}")
    assert peer.extension == f"permessage-deflate{answer}"

    codec = Codec(10 if "client_max_window_bits=10" in answer else 15)
    stream = b""
    for _ in range(3):
        await send(peer, TEXT, codec.deflate(WORDS))
        keeps = "server_no_context_takeover" not in answer
        payload = await expect(peer, TEXT, WORDS, codec if keeps else None)
        stream += payload + TAIL
    if "bits=9" in answer:
        assert naive_inflate.inflate(stream).farthest <= 512
    if not keeps:
        assert naive_inflate.inflate(payload + TAIL).octets == WORDS


@pytest.mark.parametrize("quoted", ['"10"', '"1\\0"'])
async def test_item_51_a_quoted_value_equals_a_token(serve: Serve, quoted: str):
    """Quoting changes nothing (RFC 6455 §9.1)."""
    peer = await connect(serve, f"permessage-deflate; server_max_window_bits={quoted}")

    assert peer.extension == "permessage-deflate; server_max_window_bits=10"


# Messages.


@pytest.mark.parametrize("deflate", [EVERYTHING, ALONE], ids=["takeover", "alone"])
async def test_item_52_the_rfcs_vectors(serve: Serve, deflate: Deflate):
    """RFC 7692 §7.2.3: one block, fragments, stored, final, two blocks, the empty message."""
    peer = await connect(serve, deflate=deflate)
    codec = Codec() if deflate is EVERYTHING else None
    hello = bytes.fromhex("f248cdc9c90700")
    await send(peer, TEXT, hello)  # §7.2.3.1
    await expect(peer, TEXT, b"Hello", codec)
    await send(peer, TEXT, hello[:3], fin=False)
    await peer.send_frame(CONTINUATION, hello[3:])
    await expect(peer, TEXT, b"Hello", codec)
    vectors = ["000500faff48656c6c6f00", "f348cdc9c9070000", "f248050000 00ffffcac9c90700", "00"]
    if deflate is EVERYTHING:
        vectors[:0] = ["f200110000"]  # §7.2.3.2, which refers to the one before
    for vector in [*vectors, *vectors[-3:], "f248cdc9c90700"]:
        await send(peer, TEXT, bytes.fromhex(vector))
        await expect(peer, TEXT, b"" if vector == "00" else b"Hello", codec)


async def test_item_52_messages_after_a_final_block(serve: Serve):
    """A final block ends no context: the next message may refer to what was before (§7.2.1)."""
    peer = await connect(serve)
    codec = Codec()
    final = zlib.compressobj(9, zlib.DEFLATED, -15)
    await send(peer, BINARY, final.compress(WORDS) + final.flush() + b"\0")
    await expect(peer, BINARY, WORDS, codec)
    compressor = zlib.compressobj(9, zlib.DEFLATED, -15, zdict=WORDS)
    again = compressor.compress(WORDS[500:1_500]) + compressor.flush(zlib.Z_SYNC_FLUSH)
    assert naive_inflate.inflate(again, WORDS).farthest > 1_000
    await send(peer, BINARY, again.removesuffix(TAIL))
    await expect(peer, BINARY, WORDS[500:1_500], codec)


@pytest.mark.parametrize("opcode", [PING, PONG, CLOSE])
async def test_item_53_a_compressed_control_frame_is_a_protocol_error(serve: Serve, opcode: int):
    """RSV1 means nothing there (RFC 7692 §6.1)."""
    peer = await connect(serve)
    await send(peer, opcode, b"\x03\xe8")
    await peer.receive_failure(1002)


async def test_item_53_rsv1_on_a_continuation_is_a_protocol_error(serve: Serve):
    """Only the first frame says that the message is compressed (RFC 7692 §6.1)."""
    peer = await connect(serve)
    await send(peer, TEXT, b"\0", fin=False)
    await send(peer, CONTINUATION, b"\0")
    await peer.receive_failure(1002)


async def test_item_53_rsv1_means_nothing_where_it_was_not_negotiated(serve: Serve):
    """The same server, a connection that did not ask for compression."""
    served = await serve(deflate=EVERYTHING)
    peer = await served.connect()
    await send(peer, TEXT, b"\0")
    await peer.receive_failure(1002)


@pytest.mark.parametrize(
    "payload",
    [
        pytest.param(b"\xff" * 9, id="garbage"),
        pytest.param(b"\x07\x00", id="a kind of block that does not exist"),
        pytest.param(bytes.fromhex("f200110000"), id="a match before the beginning"),
        pytest.param(alone(b"gr\xfcn"), id="inflated bad UTF-8"),
        pytest.param(alone(b"\xed\xa0\x80"), id="an inflated surrogate"),
    ],
)
@pytest.mark.parametrize("deflate", [EVERYTHING, ALONE], ids=["takeover", "alone"])
async def test_item_53_what_is_no_compressed_text_is_refused(
    serve: Serve, payload: bytes, deflate: Deflate
):
    """1007, and the server lives on."""
    peer = await connect(serve, deflate=deflate)
    await send(peer, TEXT, payload)
    await peer.receive_failure(1007)


async def test_item_53_a_far_reference_is_refused(serve: Serve):
    """Where no context is taken over, nothing of the message before can be referred to."""
    peer = await connect(serve, deflate=ALONE)
    codec = Codec()
    await send(peer, TEXT, codec.deflate(WORDS))
    await expect(peer, TEXT, WORDS)
    await send(peer, TEXT, codec.deflate(WORDS))
    await peer.receive_failure(1007)


@pytest.mark.parametrize("pieces", [1, 40])
async def test_item_53_a_bomb_is_too_big(serve: Serve, pieces: int):
    """1009, whether it comes in one frame or in many."""
    peer = await connect(serve, limits=Limits(max_message=2**20))
    bomb = make_bomb()
    size = len(bomb) // pieces + 1
    for at in range(0, len(bomb), size):
        opcode = CONTINUATION if at else BINARY
        fin = at + size >= len(bomb)
        await peer.send(build_frame(opcode, bomb[at : at + size], rsv=0 if at else 4, fin=fin))
    await peer.receive_failure(1009)


async def test_item_54_the_exact_limit_passes_compressed_too(serve: Serve):
    """The limit counts what comes out, of what shrinks and of what grows."""
    noise = bytes(number * number * 31 % 251 for number in range(70_000))
    peer = await connect(serve, limits=Limits(max_message=70_000))
    for message in (bytes(70_000), noise):
        grown = zlib.compressobj(1, zlib.DEFLATED, -15, 8, zlib.Z_FIXED)
        octets = grown.compress(message) + grown.flush(zlib.Z_SYNC_FLUSH)
        await send(peer, BINARY, octets.removesuffix(TAIL))
        assert (await peer.receive_message()).is_compressed
    await send(peer, BINARY, alone(bytes(70_001)))
    await peer.receive_failure(1009)


# Between frames.


@pytest.mark.parametrize("step", [1, 5, 1_000])
async def test_a_control_frame_between_compressed_fragments_keeps_the_message_intact(
    serve: Serve, step: int
):
    """Pings are answered first, whatever the context is in the middle of (RFC 6455 §5.4)."""
    peer = await connect(serve)
    codec = Codec()
    for _ in range(2):
        octets = codec.deflate(WORDS)
        cuts = list(range(0, len(octets), max(step, len(octets) // 30)))
        stream = b""
        for at in cuts:
            following = octets[at : cuts[cuts.index(at) + 1] if at != cuts[-1] else None]
            stream += build_frame(
                CONTINUATION if at else TEXT, following, rsv=0 if at else 4, fin=at == cuts[-1]
            )
            if at != cuts[-1]:
                stream += build_frame(PING, b"%d" % at)
        for at in range(0, len(stream), max(step * 50, 1)):
            await peer.send(stream[at : at + max(step * 50, 1)])
        for at in cuts[:-1]:
            assert await peer.receive_frame() == Frame(PONG, b"%d" % at)
        await expect(peer, TEXT, WORDS, codec)


async def test_compressed_and_plain_messages_take_turns(serve: Serve):
    """A message that is not compressed has no part in the context (RFC 7692 §6)."""
    peer = await connect(serve)
    codec = Codec()
    for number in range(5):
        await send(peer, TEXT, codec.deflate(WORDS[number:]))
        await expect(peer, TEXT, WORDS[number:], codec)
        await peer.send_frame(TEXT, b"plain")
        plain = await peer.receive_message()
        if plain.is_compressed:  # as it comes back is for the server to choose
            assert codec.inflate(plain.payload) == b"plain"
        else:
            assert plain.payload == b"plain"


async def test_many_connections_share_compressors_and_nothing_else(serve: Serve):
    """What one connection says does not show in what another one is sent."""
    served = await serve(deflate=ALONE)
    peers = [await served.connect(request()) for _ in range(10)]
    messages = [b"the secret of %d " % number * 40 for number in range(10)]
    with trio.fail_after(3600):
        for _ in range(3):
            for peer, message in zip(peers, messages, strict=True):
                await send(peer, TEXT, alone(message))
            for peer, message in zip(peers, messages, strict=True):
                payload = await expect(peer, TEXT, message)
                assert naive_inflate.inflate(payload + TAIL).octets == message
