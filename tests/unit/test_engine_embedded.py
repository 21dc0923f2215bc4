"""The engine for those who bring their own loop."""

import numpy as np
import pytest

from tests import naive
from tests.naive_reception import (
    BINARY,
    CLOSE,
    PING,
    PONG,
    TEXT,
    build_fragments,
    build_frame,
    parse_frames,
)
from triows._engine import (
    Budget,
    ClientEngine,
    Closed,
    Failed,
    InputSegment,
    LocalSegment,
    Lost,
    Phase,
    Response,
    ServerEngine,
)
from triows._engine._base import KEEPALIVE_PAYLOAD
from triows._errors import ProtocolError
from triows._options import KeepAlive, Limits

KEY = b"\x05\x06\x07\x08"


@pytest.fixture
def server():
    """A server's end."""
    return ServerEngine(limits=Limits(message_timeout=60, close_timeout=5))


@pytest.fixture
def client():
    """A client's end."""
    return ClientEngine()


def masked(opcode, payload=b"", **options):
    """A client's frame."""
    return build_frame(opcode, payload, key=KEY, **options)


def echo(payload, opcode):
    """Send everything back."""
    return Response.ECHO


def discard(payload, opcode):
    """Send nothing back."""
    return Response.DISCARD


def process_into(engine, octets, handler=echo):
    """Process octets; returns the segments, and all that they stand for as frames."""
    buffer = bytearray(octets)
    engine.process_into(buffer, handler)
    return engine.outbound_segments(), parse_frames(join(engine, buffer))


def join(engine, buffer):
    """What the segments stand for."""
    return b"".join(
        bytes(source[segment.start : segment.start + segment.size])
        for segment in engine.outbound_segments()
        for source in [buffer if isinstance(segment, InputSegment) else engine.outbound_local()]
    )


def process(engine, octets, handler=echo):
    """Process octets; returns what was written, as frames."""
    written = []
    engine.process(bytearray(octets), lambda view: written.append(bytes(view)), handler)
    return parse_frames(b"".join(written))


# Where replies lie.


@pytest.mark.parametrize(
    ("size", "reply"),
    [
        (0, InputSegment(4, 2)),
        (125, InputSegment(4, 127)),
        (126, InputSegment(4, 130)),
        (65_535, InputSegment(4, 65_539)),
    ],
)
def test_a_reply_in_place(server, size, reply):
    """Header and payload are one slice of the buffer that came in: no copy, no second piece."""
    payload = b"p" * size
    buffer = bytearray(masked(BINARY, payload))
    server.process_into(buffer, echo)

    assert server.outbound_segments() == [reply]
    assert len(server.outbound_local()) == 0
    assert buffer[reply.start : reply.start + reply.size] == build_frame(BINARY, payload)


@pytest.mark.parametrize("size", [65_536, 100_000])
def test_a_long_reply_is_two_segments(server, size):
    """From 65,536 octets on the header is the engine's and the payload stays where it is."""
    payload = b"p" * size
    buffer = bytearray(masked(BINARY, payload))
    server.process_into(buffer, echo)

    assert server.outbound_segments() == [LocalSegment(0, 10), InputSegment(14, size)]
    assert join(server, buffer) == build_frame(BINARY, payload)


@pytest.mark.parametrize("size", [0, 125, 126, 65_535, 65_536])
def test_a_reply_to_unmasked_input_is_two_segments(client, size):
    """A client has no mask's room to write into; its reply is masked where it lies."""
    payload = b"p" * size
    buffer = bytearray(build_frame(TEXT, payload))
    start = len(buffer) - size
    client.process_into(buffer, echo)

    header, body = client.outbound_segments()
    assert header == LocalSegment(0, len(naive.build_header(0x81, size, KEY)))
    assert body == InputSegment(start, size)
    assert parse_frames(join(client, buffer)) == [(0x81, payload)]


def test_each_masked_reply_has_a_key_of_its_own(client):
    """No mask is used twice (§5.3)."""
    process_into(client, build_frame(BINARY, bytes(8)) * 2)
    local = bytes(client.outbound_local())

    assert local[2:6] != local[8:12]


def test_many_replies_in_one_buffer(server):
    """Each reply lies within its own frame and disturbs no other."""
    payloads = [b"%d" % number * (number % 200) for number in range(300)]
    _, frames = process_into(server, b"".join(masked(BINARY, payload) for payload in payloads))

    assert frames == [(0x82, payload) for payload in payloads]


def test_replies_stand_in_order(server):
    """Echoes, Pongs and the Close leave in the order of what they answer."""
    octets = masked(PING, b"1") + masked(TEXT, b"2") + masked(PING, b"3") + masked(CLOSE)
    segments, frames = process_into(server, octets)

    assert frames == [(0x8A, b"1"), (0x81, b"2"), (0x8A, b"3"), (0x88, b"")]
    assert [type(segment) for segment in segments] == [
        LocalSegment,
        InputSegment,
        LocalSegment,
        LocalSegment,
    ]


def test_a_buffer_of_other_items_counts_octets(server):
    """Segments count octets, whatever the buffer's items are."""
    frame = masked(BINARY, b"12")
    buffer = np.frombuffer(bytearray(frame), np.uint32 if len(frame) % 4 == 0 else np.uint16)
    server.process_into(buffer, echo)

    assert server.outbound_segments() == [InputSegment(4, 4)]
    assert bytes(buffer.view(np.uint8)[4:8]) == build_frame(BINARY, b"12")


def test_clearing_makes_room_for_the_next(server):
    """After clearing nothing is pending, and what was sent before stays readable."""
    process_into(server, masked(PING, b"one"))
    view = server.outbound_local()
    server.clear_outbound()

    assert (server.outbound_segments(), server.outbound_local()) == ([], b"")
    assert process_into(server, masked(PING, b"two"))[1] == [(0x8A, b"two")]
    assert view == build_frame(PONG, b"one")


@pytest.mark.parametrize("again", [process, process_into])
def test_what_was_not_cleared_is_not_lost(server, again):
    """The next octets are refused until the last replies were taken, and nothing is done."""
    buffer = bytearray(masked(TEXT, b"first"))
    server.process_into(buffer, echo)
    with pytest.raises(RuntimeError, match="clear_outbound"):
        again(server, masked(TEXT, b"second"))

    assert join(server, buffer) == build_frame(TEXT, b"first")


def test_a_list_of_segments_is_the_callers(server):
    """Changing it changes nothing."""
    process_into(server, masked(PING))
    server.outbound_segments().clear()

    assert len(server.outbound_segments()) == 1


# What handlers see.


def test_the_handler_sees_whole_data_messages(server):
    """Fragments come joined, with the message's opcode; control frames never come."""
    seen = []
    octets = (
        masked(TEXT, b"whole")
        + masked(PING)
        + masked(PONG)
        + b"".join(build_fragments(BINARY, [b"in ", b"", b"parts"], key=KEY))
        + masked(CLOSE)
    )
    process(server, octets, lambda payload, opcode: seen.append((bytes(payload), opcode)))

    assert seen == [(b"whole", TEXT), (b"in parts", BINARY)]


def test_a_discarded_message_has_no_reply(server):
    """The handler decides message by message."""
    octets = masked(TEXT, b"no") + masked(BINARY, b"yes")
    frames = process(server, octets, lambda _, opcode: Response(opcode == BINARY))

    assert frames == [(0x82, b"yes")]


@pytest.mark.parametrize("size", [3, 65_536])
@pytest.mark.parametrize("cut", [False, True])
@pytest.mark.parametrize("make", [ServerEngine, ClientEngine])
def test_what_the_handler_changes_is_what_is_echoed(make, size, cut):
    """The payload is writable, however it came."""

    def stamp(payload, opcode):
        payload[0] = ord("!")
        return Response.ECHO

    engine = make()
    frame = build_frame(BINARY, b"p" * size, key=KEY if engine.is_server else None)
    frames = []
    for octets in (frame[:-1], frame[-1:]) if cut else (frame,):
        frames += process(engine, octets, stamp)

    assert frames == [(0x82, b"!" + b"p" * (size - 1))]


def test_a_message_cut_anywhere(server):
    """Octet by octet, the replies are the same."""
    octets = masked(TEXT, b"text") + masked(PING, b"?") + masked(BINARY)
    frames = []
    for octet in octets:
        frames += process(server, bytes([octet]))

    assert frames == [(0x81, b"text"), (0x8A, b"?"), (0x82, b"")]


def test_what_the_handler_sends_goes_out_before_its_echo(server):
    """Sends stand before the echo of the message in whose handler they were made."""

    def handler(payload, opcode):
        server.send(TEXT, b"before " + payload)
        return Response.ECHO

    frames = process(server, masked(TEXT, b"1") + masked(TEXT, b"2"), handler)

    assert [payload for _, payload in frames] == [b"before 1", b"1", b"before 2", b"2"]


def test_nothing_is_echoed_after_the_handler_closes(server):
    """No frame follows a Close (§5.5.1); messages still come."""
    seen = []

    def handler(payload, opcode):
        seen.append(bytes(payload))
        server.close(1000, "", 0.0)
        return Response.ECHO

    octets = masked(TEXT, b"1") + masked(TEXT, b"2")
    octets += b"".join(build_fragments(TEXT, [b"3", b""], key=KEY))

    assert process(server, octets, handler) == [(0x88, b"\x03\xe8")]
    assert seen == [b"1", b"2", b"3"]


@pytest.mark.parametrize("cut", [False, True])
def test_a_handler_that_asks_to_close(server, cut):
    """CLOSE sends a Close with 1000 behind the replies so far; the peer's is awaited."""

    def answer(payload, opcode):
        return Response.CLOSE if payload == b"end" else Response.ECHO

    octets = masked(TEXT, b"a") + masked(TEXT, b"end") + masked(TEXT, b"b")
    frames = []
    for piece in (octets[:9], octets[9:]) if cut else (octets,):
        frames += process(server, piece, answer)

    assert frames == [(0x81, b"a"), (0x88, b"\x03\xe8")]
    assert server.phase is Phase.CLOSING


# What the engine queues by itself.


def test_what_is_queued_outside_leaves_with_the_segments(server):
    """Messages, however many, a Ping and a Close of the embedder's own are all there."""
    for number in range(200):
        server.send(BINARY, b"%d" % number)
    server.ping(b"ping")
    server.close(1000, "", 0.0)

    assert parse_frames(bytes(server.outbound_local())) == [
        *[(0x82, b"%d" % number) for number in range(200)],
        (0x89, b"ping"),
        (0x88, b"\x03\xe8"),
    ]
    assert len(server.outbound_segments()) == 202


def test_what_was_queued_before_leaves_before_the_replies(server):
    """Order is that of the calls."""
    server.send(TEXT, b"first")

    assert process(server, masked(TEXT, b"second")) == [(0x81, b"first"), (0x81, b"second")]


def test_a_pong_owed_behind_a_backlog_is_not_lost(server):
    """Once the backlog has moved on, the newest Pong follows it."""
    server.send(BINARY, bytes(70_000))
    server.receive(masked(PING, b"one") + masked(PING, b"two"), 0.0)

    assert parse_frames(bytes(server.outbound_local())) == [(0x82, bytes(70_000)), (0x8A, b"two")]


def test_the_close_of_a_timeout_leaves_too():
    """What `handle_timeout` has queued can be sent though nothing more is received."""
    server = ServerEngine(limits=Limits(message_timeout=5))
    server.process_into(bytearray(masked(TEXT)[:1]), echo, now=1.0)
    server.handle_timeout(6.0)

    ((first_octet, payload),) = process(server, b"")
    assert (first_octet, payload[:2]) == (0x88, b"\x03\xf0")


# Faults.


def test_a_fault_raises_after_the_replies(server):
    """Messages before it were handled; their replies and the Close are written first."""
    written = []
    with pytest.raises(ProtocolError) as caught:
        server.process(
            bytearray(masked(TEXT, b"fine") + masked(3)),
            lambda view: written.append(bytes(view)),
            echo,
        )

    assert caught.value.code == 1002
    assert written == [build_frame(TEXT, b"fine"), build_frame(CLOSE, b"\x03\xeareserved opcode")]
    assert server.is_closed


def test_a_fault_leaves_its_close_as_a_segment(server):
    """The same without writing."""
    with pytest.raises(ProtocolError):
        server.process_into(bytearray(masked(TEXT, b"\xff")), echo)

    assert bytes(server.outbound_local()) == build_frame(CLOSE, b"\x03\xeftext not UTF-8")


class HandlerError(Exception):
    """A handler's own."""


@pytest.mark.parametrize(
    "error",
    [HandlerError(), ProtocolError(4000, "the handler's"), KeyboardInterrupt()],
    ids=["error", "protocol error", "interrupt"],
)
@pytest.mark.parametrize("cut", [False, True])
def test_a_handler_that_raises(server, error, cut):
    """Its exception comes through, the peer is told 1011, and nothing after is handled."""
    seen = []

    def handler(payload, opcode):
        seen.append(bytes(payload))
        if payload == b"bad":
            raise error
        return Response.ECHO

    written = []
    bad = b"".join(build_fragments(TEXT, [b"b", b"ad"], key=KEY)) if cut else masked(TEXT, b"bad")
    octets = bytearray(masked(TEXT, b"good") + bad + masked(TEXT, b"after") + masked(PING))
    with pytest.raises(type(error)) as caught:
        server.process(octets, lambda view: written.append(bytes(view)), handler)

    assert caught.value is error
    assert seen == [b"good", b"bad"]
    assert written == [build_frame(TEXT, b"good"), build_frame(CLOSE, b"\x03\xf3internal error")]
    assert server.outcome == Failed(1011, "internal error")


def test_nothing_is_handled_after_the_end(server):
    """A closed engine takes octets and does nothing with them."""
    process(server, masked(CLOSE, b"\x03\xe8"))

    assert server.is_closed
    assert server.outcome == Closed(1000, "")
    assert process(server, masked(TEXT) + masked(PING)) == []


@pytest.mark.parametrize("call", ["process", "process_into"])
@pytest.mark.parametrize(
    "buffer", [masked(TEXT), memoryview(masked(TEXT)), memoryview(bytearray(20))[::2]]
)
def test_a_buffer_that_cannot_be_written(server, call, buffer):
    """A read-only or scattered buffer is a TypeError, and nothing was done."""
    arguments = (lambda view: None, echo) if call == "process" else (echo,)
    with pytest.raises(TypeError, match="read-only or not contiguous"):
        getattr(server, call)(buffer, *arguments)

    assert (server.phase, server.partial_size) == (Phase.OPEN, 0)


def test_an_empty_buffer(server):
    """No octets, no replies."""
    assert process(server, b"") == []


def test_a_budget_used_up():
    """The embedded engine answers to the budget as the other does (1013)."""
    budget = Budget(4)
    server = ServerEngine(budget=budget)
    with pytest.raises(ProtocolError) as caught:
        server.process_into(bytearray(masked(BINARY, b"12345", fin=False)), echo)

    assert (caught.value.code, budget.held) == (1013, 0)


def test_the_budget_is_given_back_before_the_handler_is_called():
    """A message that is whole counts no more, even if its handler raises."""
    budget = Budget(4)
    server = ServerEngine(budget=budget)
    process_into(server, masked(BINARY, b"1234", fin=False))
    held = []
    process_into(server, masked(0), lambda *_: held.append(budget.held))

    assert held == [0]


# Time and size.


@pytest.mark.parametrize(
    ("count", "size"), [(1, 1), (5, 5), (6, 0), (7, 1), (105, 99), (106, 0), (107, 1)]
)
def test_octets_held_of_what_is_not_whole(server, count, size):
    """A cut header counts as it stands; a payload counts what has come of it."""
    octets = (masked(BINARY, bytes(100)) + masked(PING, b"?"))[:count]
    process(server, octets)

    assert server.partial_size == size
    assert server.has_partial is (count != 106)


def test_octets_are_a_sign_of_life():
    """Keepalive counts from the last octets processed."""
    server = ServerEngine(keepalive=KeepAlive(interval=20, timeout=10))
    server.process_into(bytearray(masked(PONG)), echo, now=15.0)

    assert server.next_deadline() == 35
    assert server.handle_timeout(35.0) == []
    assert parse_frames(bytes(server.outbound_local())) == [(0x89, KEEPALIVE_PAYLOAD)]


@pytest.mark.parametrize("octets", [masked(CLOSE), masked(3)])
def test_the_end_has_its_time_from_when_it_began(server, octets):
    """The close deadline counts from the octets that brought it about."""
    try:
        server.process_into(bytearray(octets), echo, now=100.0)
    except ProtocolError:
        assert server.phase is Phase.FAILED

    assert server.next_deadline() == 105


def test_a_message_has_its_time_from_its_first_octet(server):
    """A finished message leaves nothing of its time to the next."""
    first, last = build_fragments(TEXT, [b"a", b"b"], key=KEY)
    server.process_into(bytearray(first), discard, now=1.0)
    server.process_into(bytearray(last + first), discard, now=50.0)

    assert server.next_deadline() == min(110, 70)
    server.process_into(bytearray(masked(PONG)), discard, now=100.0)
    assert server.next_deadline() == 110


def test_the_transport_ends(server):
    """The end is the same for both kinds of driver."""
    process(server, masked(TEXT, b"half")[:8])

    assert server.receive_eof(1.0, "reset") == [Lost("reset")]
    assert process(server, masked(TEXT)) == []
