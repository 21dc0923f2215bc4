"""Loops receive messages of every kind, in frames and receives of any size, by seeds.

Compressed or not, in fragments with control frames between them, cut anywhere: what is handed
over is what was sent, and Pings are answered in their places.
"""

import random

import pytest

import triows
from tests.naive_reception import build_frame, parse_frames
from tests.unit.callback_pairs import starting
from tests.unit.test_channel_loop import Bench
from tests.unit.test_deflate_engine import RSV1, deflated, inflated, make_deflate
from triows._engine import Deflated, Message, Part, Ponged
from triows._reactor import Terms

TEXT, BINARY, PING, PONG = 1, 2, 9, 10
SEEDS = range(25)


class Stream:
    """What a peer sends, as octets and as what they mean."""

    def __init__(self, seed: int, *, is_masked: bool) -> None:
        self.rng = random.Random(seed)
        self.is_masked = is_masked
        self.octets = b""
        self.messages: list[tuple[int, bytes]] = []
        self.pings: list[bytes] = []
        self.pongs: list[bytes] = []
        for _ in range(self.rng.choice([3, 30])):
            self.add_message()

    def frame(self, opcode: int, payload: bytes, *, fin: bool = True, rsv: int = 0) -> bytes:
        """A frame of the peer's."""
        key = self.rng.randbytes(4) if self.is_masked else None
        return build_frame(opcode, payload, fin=fin, rsv=rsv, key=key)

    def add_message(self) -> None:
        """Add a message, in fragments perhaps, among control frames."""
        rng = self.rng
        size = rng.choice([0, 1, 125, 126, 1_000, 20_000, 70_000, rng.randrange(200_000)])
        opcode = rng.choice([TEXT, BINARY])
        if opcode == TEXT:
            payload = "".join(rng.choices("abcü€𝄞", k=min(size, 30_000))).encode()
        else:
            payload = rng.randbytes(size)
        self.messages.append((opcode, payload))
        is_packed = rng.random() < 0.5
        octets = deflated(payload) if is_packed else payload
        count = rng.choice([1, 1, 2, 5])
        cuts = sorted(rng.randrange(len(octets) + 1) for _ in range(count - 1))
        pieces = [octets[a:b] for a, b in zip([0, *cuts], [*cuts, len(octets)], strict=True)]
        for index, piece in enumerate(pieces):
            self.add_control()
            rsv = RSV1 if is_packed and index == 0 else 0
            is_last = index == count - 1
            self.octets += self.frame(0 if index else opcode, piece, fin=is_last, rsv=rsv)

    def add_control(self) -> None:
        """Add a Ping or a Pong, perhaps."""
        way = self.rng.random()
        payload = self.rng.randbytes(self.rng.randrange(126))
        if way < 0.1:
            self.pings.append(payload)
            self.octets += self.frame(PING, payload)
        elif way < 0.2:
            self.pongs.append(payload)
            self.octets += self.frame(PONG, payload)

    def receives(self) -> list[bytes]:
        """The octets as they come, a bit at a time or much at once."""
        pieces = []
        at = 0
        most = self.rng.choice([50_000, 300_000])
        while at < len(self.octets):
            size = self.rng.choice([1, 5, 200, 20_000, self.rng.randrange(1, most)])
            pieces.append(self.octets[at : at + size])
            at += size
        return pieces


class Meaning:
    """What a channel was given, as what it means; it inflates."""

    def __init__(self) -> None:
        self.messages: list[tuple[int, bytes]] = []
        self.pongs: list[bytes] = []
        self.parts: list[bytes] = []
        self.is_packed = False

    def take(self, event: object) -> None:
        """Take an event."""
        if isinstance(event, Ponged):
            self.pongs.append(event.payload)
            return
        if isinstance(event, Message):
            assert not self.parts
            kind = TEXT if isinstance(event.payload, str) else BINARY
            payload = event.payload.encode() if isinstance(event.payload, str) else event.payload
            self.messages.append((kind, payload))
            return
        assert isinstance(event, Part | Deflated), event
        if self.parts:
            assert isinstance(event, Deflated) == self.is_packed
        self.is_packed = isinstance(event, Deflated)
        self.parts.append(event[0])
        if event.is_last:
            octets, self.parts = b"".join(self.parts), []
            self.messages.append((event.opcode, inflated(octets) if self.is_packed else octets))


@pytest.mark.parametrize("is_client", [False, True])
@pytest.mark.parametrize("seed", SEEDS)
def test_a_channel_is_given_what_was_sent(warm: None, seed: int, *, is_client: bool) -> None:
    """Whole, or in parts where it wants them for a message now and then."""
    stream = Stream(seed, is_masked=not is_client)
    limits, keepalive = triows.Limits(), triows.KeepAlive()
    terms = Terms(is_client=True, limits=limits, keepalive=keepalive) if is_client else None
    bench = Bench(deflate=make_deflate(is_server=not is_client), terms=terms)
    meaning, heard = Meaning(), b""
    wants_parts = stream.rng.choice([0.0, 0.3])
    try:
        for piece in stream.receives():
            for event in bench.tell(piece):
                meaning.take(event)
            heard += bench.hear()
            if stream.rng.random() < wants_parts:
                if bench.session._gives_parts:
                    if not meaning.parts:  # it has changed its mind in time
                        bench.session.end_parts()
                elif (first := bench.session.begin_parts()) is not None:
                    meaning.take(first)
    finally:
        bench.loop.close()
        bench.peer.close()

    assert meaning.messages == stream.messages
    assert meaning.pongs == stream.pongs
    assert parse_frames(heard) == [(0x80 | PONG, payload) for payload in stream.pings]


@pytest.mark.parametrize("seed", SEEDS)
def test_a_callback_is_given_what_was_sent(warm: None, seed: int) -> None:
    """Inflated; and what it echoes comes back in order, among the Pongs."""
    stream = Stream(seed, is_masked=True)
    with starting() as start:
        pair = start(frame=lambda conn, _payload, _opcode: conn.echo())
        client = pair.connect(deflate=make_deflate(threshold=stream.rng.choice([0, 10**6])))
        heard = b"".join(pair.talk(client, piece) for piece in stream.receives())

    assert [event[1:] for event in pair.handler.of("frame")] == [
        (payload, opcode) for opcode, payload in stream.messages
    ]
    frames = parse_frames(heard)
    assert [payload for first, payload in frames if first == 0x80 | PONG] == stream.pings
    assert [
        (first & 0xF, inflated(payload) if first & 0x40 else payload)
        for first, payload in frames
        if first != 0x80 | PONG
    ] == stream.messages
