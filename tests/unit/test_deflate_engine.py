"""The engine with permessage-deflate: frames, events, replies and failures (RFC 7692 §6)."""

import zlib

import pytest

from tests.naive_reception import build_frame, parse_frames
from triows import (
    ClientEngine,
    Deflate,
    DeflateParameters,
    Limits,
    PerMessageDeflate,
    PreparedMessage,
    ProtocolError,
    Response,
    ServerEngine,
)
from triows._engine import Closed, Deflated, Failed, InflateError, Message, Part
from triows._engine._contexts import TAIL

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10
KEY = b"\x11\x22\x33\x44"
RSV1 = 4


def make_deflate(*, is_server=True, takes_over=False, limits=None, **settings):
    """What an engine compresses with."""
    deflate = Deflate(
        server_context_takeover=takes_over, client_context_takeover=takes_over, **settings
    )
    agreed = DeflateParameters(
        server_no_context_takeover=not takes_over, client_no_context_takeover=not takes_over
    )
    return PerMessageDeflate(deflate, agreed, is_server=is_server, limits=limits or Limits())


@pytest.fixture(params=["server", "client"])
def role(request):
    """Which end the engine is."""
    return request.param


@pytest.fixture
def make(role, warm):
    """Make engines of one role, and what their peers send."""

    def make(limits=None, **settings):
        kind = ServerEngine if role == "server" else ClientEngine
        deflate = make_deflate(is_server=role == "server", limits=limits, **settings)
        return kind(limits=limits, deflate=deflate)

    return make


@pytest.fixture
def frame(role):
    """Build frames as the engine's peer does."""
    key = KEY if role == "server" else None
    return lambda *args, **wrongs: build_frame(*args, key=key, **wrongs)


def deflated(message):
    """Compress a message that stands alone."""
    compressor = zlib.compressobj(9, zlib.DEFLATED, -15)
    octets = compressor.compress(message) + compressor.flush(zlib.Z_SYNC_FLUSH)
    return octets.removesuffix(TAIL)


def sent_by(engine):
    """The frames that an engine has queued, as (first octet, payload)."""
    frames = parse_frames(engine.outbound.head(10**7))
    engine.outbound.clear()
    return frames


def inflated(payload):
    """What a payload that stands alone inflates to."""
    return zlib.decompressobj(-15).decompress(payload + TAIL)


# Receiving.


@pytest.mark.parametrize("step", [1, 2, 5, 10**6])
def test_compressed_messages_are_events_of_their_own(make, frame, step):
    """They come as they are, whole, whatever the cuts; others come as always (§6)."""
    engine = make()
    hello = deflated(b"Hello")
    stream = (
        frame(TEXT, hello, rsv=RSV1)
        + frame(TEXT, b"plain")
        + frame(BINARY, hello[:3], rsv=RSV1, fin=False)
        + frame(PING, b"between")
        + frame(0, hello[3:])
        + frame(TEXT, b"pl", fin=False)
        + frame(0, b"ain")
    )

    events = []
    for at in range(0, len(stream), step):
        events += engine.receive(bytearray(stream[at : at + step]), 0.0)

    assert events == [
        Deflated(hello, TEXT),
        Message("plain", 5),
        Deflated(hello, BINARY),
        Message("plain", 5),
    ]
    assert engine.deflate.inflater.message(events[0]) == Message("Hello", 5)
    assert sent_by(engine) == [(0x8A, b"between")]


@pytest.mark.parametrize("rsv", [1, 2, 3, 5, 6, 7])
def test_only_the_bit_that_was_negotiated_may_be_set(make, frame, rsv):
    """RSV2 and RSV3 have no meaning, with RSV1 or without (RFC 6455 §5.2)."""
    (failed,) = make().receive(frame(TEXT, b"\0", rsv=rsv), 0.0)

    assert failed.code == 1002


@pytest.mark.parametrize("opcode", [PING, PONG, CLOSE])
def test_a_control_frame_is_never_compressed(make, frame, opcode):
    """RSV1 on a control frame is an error (§6.1)."""
    (failed,) = make().receive(frame(opcode, b"\0\0", rsv=RSV1), 0.0)

    assert failed.code == 1002


def test_only_the_first_frame_of_a_message_says_that_it_is_compressed(make, frame):
    """RSV1 on a continuation is an error (§6.1)."""
    octets = frame(TEXT, b"\0", rsv=RSV1, fin=False) + frame(0, b"\0", rsv=RSV1)

    assert [event.code for event in make().receive(octets, 0.0)] == [1002]


def test_without_negotiation_the_bit_is_an_error(role, frame):
    """An engine without the extension knows no RSV1 (§6)."""
    engine = (ServerEngine if role == "server" else ClientEngine)()

    assert [event.code for event in engine.receive(frame(TEXT, b"\0", rsv=RSV1), 0.0)] == [1002]


@pytest.mark.parametrize("fin", [False, True])
def test_compressed_octets_are_bounded_too(make, frame, fin):
    """What is held of a message has a bound of its own, from the header alone."""
    engine = make(Limits(max_message=80_000))
    allowed = 80_000 + 10_000 + 1_024

    assert engine.receive(frame(BINARY, bytes(allowed), rsv=RSV1), 0.0)[0].size == allowed
    header = frame(BINARY, bytes(allowed + 1), rsv=RSV1, fin=fin)[:14]
    (failed,) = engine.receive(header, 0.0)
    assert failed.code == 1009


def test_a_limit_that_no_message_reaches_stays_what_it_is(make, frame):
    """The bound on compressed octets has no overflow."""
    engine = make(Limits(max_message=2**63 - 1))

    assert engine.receive(frame(BINARY, b"\0", rsv=RSV1), 0.0) == [Deflated(b"\0", BINARY)]


def test_parts_of_a_compressed_message_come_as_they_are(make, frame):
    """Asked for in parts, what comes is compressed still, and says which is the last."""
    engine = make()
    octets = deflated(b"a compressed message")
    engine.receive(frame(BINARY, octets[:4], rsv=RSV1, fin=False), 0.0)

    first = engine.begin_parts()
    rest = engine.receive(frame(0, octets[4:]) + frame(TEXT, b"\0", rsv=RSV1), 0.0)

    assert [first, *rest] == [
        Deflated(octets[:4], BINARY, is_last=False),
        Deflated(octets[4:], BINARY, is_last=True),
        Deflated(b"\0", TEXT),
    ]
    engine.begin_parts()
    assert engine.receive(frame(TEXT, b"plain"), 0.0) == [Part(b"plain", TEXT, is_last=True)]


def test_whoever_cannot_inflate_a_message_fails_the_connection(make, frame):
    """The peer is told; nothing more is received or sent; the outcome says why."""
    engine = make(takes_over=True, threshold=0)
    engine.send(TEXT, b"before")
    sent_by(engine)
    (event,) = engine.receive(frame(TEXT, b"\xff" * 9, rsv=RSV1), 0.0)
    with pytest.raises(InflateError) as caught:
        engine.deflate.inflater.message(event)

    (failed,) = engine.fail(caught.value, 0.0)

    assert failed == engine.outcome == Failed(1007, "message not deflated as agreed")
    assert sent_by(engine) == [(0x88, b"\x03\xefmessage not deflated as agreed")]
    assert engine.receive(frame(TEXT, b"late"), 0.0) == []
    assert engine.deflate.deflater._context is None


def test_a_failure_after_the_peers_close_sends_nothing(make, frame):
    """Both have closed; that the last message was bad is known to this side only."""
    engine = make()
    *_, closed = engine.receive(frame(TEXT, b"\xff", rsv=RSV1) + frame(CLOSE), 0.0)
    assert isinstance(closed, Closed)
    sent_by(engine)

    engine.fail(InflateError(-23), 0.0)

    assert engine.outcome.code == 1007
    assert sent_by(engine) == []


# Sending.


def test_messages_leave_compressed_if_they_are_worth_it(make):
    """RSV1 says which are (§6.1)."""
    engine = make()
    engine.send(TEXT, b"short")
    engine.send(TEXT, b"long " * 100)
    engine.send_prepared(PreparedMessage("for many " * 50))
    engine.send_prepared(PreparedMessage("for many " * 50, compress=False))

    short, long, many, plain = sent_by(engine)
    assert (short, plain) == ((0x81, b"short"), (0x81, b"for many " * 50))
    assert [long[0], many[0]] == [0xC1, 0xC1]
    assert [inflated(long[1]), inflated(many[1])] == [b"long " * 100, b"for many " * 50]


@pytest.mark.parametrize("compress", [True, False])
def test_a_message_in_parts_is_compressed_as_a_whole_or_not_at_all(make, compress):
    """The first frame says so, and each part can be inflated when it has come."""
    engine = make()
    engine.send_part(TEXT, b"first", is_last=False, compress=compress)
    engine.send_part(TEXT, b"second", is_last=False, compress=not compress)
    engine.send_part(TEXT, b"", is_last=True, compress=compress)

    frames = sent_by(engine)
    assert [first for first, _ in frames] == [0x41 if compress else 1, 0, 0x80]
    payload = b"".join(octets for _, octets in frames)
    assert (inflated(payload) if compress else payload) == b"firstsecond"


# The engine for loops of one's own.


def process(engine, octets, handler):
    """Process octets; returns the frames that leave."""
    came = bytearray()
    engine.process(bytearray(octets), came.extend, handler)
    return parse_frames(bytes(came))


def test_a_handler_gets_messages_inflated_and_echoes_them_compressed(make, frame):
    """What it changes is what goes back, in order with what it sends."""
    engine = make(threshold=10)
    seen = []

    def handler(payload, opcode):
        seen.append((bytes(payload), opcode))
        if len(payload) > 2:
            payload[:2] = b"<>"
            engine.send(TEXT, b"sent")
        return Response.ECHO

    octets = deflated(b"Hello, Hello, Hello")
    frames = process(
        engine,
        frame(TEXT, octets, rsv=RSV1)
        + frame(BINARY, octets[:5], rsv=RSV1, fin=False)
        + frame(0, octets[5:])
        + frame(TEXT, b"hi"),
        handler,
    )

    assert seen == [(b"Hello, Hello, Hello", TEXT), (b"Hello, Hello, Hello", BINARY), (b"hi", TEXT)]
    assert [first for first, _ in frames] == [0x81, 0xC1, 0x81, 0xC2, 0x81]
    assert inflated(frames[1][1]) == inflated(frames[3][1]) == b"<>llo, Hello, Hello"


def test_a_handler_may_discard_what_came_compressed(make, frame):
    """Nothing goes back then."""
    assert process(make(), frame(TEXT, b"\0", rsv=RSV1), lambda *_: Response.DISCARD) == []


@pytest.mark.parametrize(
    ("payload", "code"),
    [(b"\xff" * 9, 1007), (deflated(bytes(5_000)), 1009), (deflated(b"\xff"), 1007)],
)
def test_what_cannot_be_inflated_is_a_protocol_error(make, frame, payload, code):
    """It is raised, and the peer is told, as for any other error."""
    engine = make(Limits(max_message=4_000))
    came = bytearray()
    with pytest.raises(ProtocolError) as caught:
        engine.process(
            bytearray(frame(TEXT, payload, rsv=RSV1)), came.extend, lambda *_: Response.ECHO
        )

    assert caught.value.code == code
    ((first, close),) = parse_frames(bytes(came))
    assert (first, int.from_bytes(close[:2])) == (0x88, code)
