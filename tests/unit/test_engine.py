"""One connection after its opening: what octets and time make of it."""

import math

import pytest

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
    Lost,
    Message,
    Phase,
    Ponged,
    ServerEngine,
    close_payload,
)
from triows._engine._base import KEEPALIVE_PAYLOAD
from triows._kernels import FAULTS, _faults
from triows._options import NO_KEEPALIVE, KeepAlive, Limits

KEY = b"\x05\x06\x07\x08"
LIMITS = Limits(max_message=1_000, max_fragments=5, message_timeout=60, close_timeout=5)


@pytest.fixture
def engine():
    """A server's end, opened at 0 seconds."""
    return ServerEngine(limits=LIMITS, keepalive=KeepAlive(interval=20, timeout=10))


@pytest.fixture
def client():
    """A client's end, opened at 0 seconds."""
    return ClientEngine(limits=LIMITS)


def masked(opcode, payload=b"", **options):
    """A client's frame."""
    return build_frame(opcode, payload, key=KEY, **options)


def close_of(code, reason=b""):
    """The payload of a Close."""
    return code.to_bytes(2, "big") + reason


def sent(engine):
    """The frames that wait to be sent, as (first octet, payload)."""
    return parse_frames(engine.outbound.head(engine.outbound.size))


# Messages.


@pytest.mark.parametrize("make", [bytes, bytearray, memoryview])
def test_messages_are_events(engine, make):
    """Text is a str, binary bytes, each with its size on the wire; any buffer will do."""
    events = engine.receive(make(masked(TEXT, "ä".encode()) + masked(BINARY, b"b")), 1.0)

    assert events == [Message("ä", 2), Message(b"b", 1)]


def test_fragments_are_one_event(engine):
    """A message in fragments is joined; a Ping between them is answered at once."""
    first, last = build_fragments(TEXT, [b"\xc3", b"\xa4!"], key=KEY)

    assert engine.receive(first + masked(PING, b"?"), 1.0) == []
    assert sent(engine) == [(0x8A, b"?")]
    assert engine.receive(last, 1.0) == [Message("ä!", 3)]


def test_messages_and_frames_cut_anywhere(engine):
    """A message octet by octet is the same event as whole."""
    frame = masked(BINARY, b"abc")
    events = [engine.receive(bytes([octet]), 1.0) for octet in frame]

    assert events == [[]] * 8 + [[Message(b"abc", 3)]]


def test_2000_empty_fragments_are_an_empty_message():
    """Fragments need not hold anything (§5.4)."""
    engine = ServerEngine()
    fragments = build_fragments(TEXT, [b""] * 2_000, key=KEY)

    assert engine.receive(b"".join(fragments), 1.0) == [Message("", 0)]


def test_no_octets_are_no_events(engine):
    """An empty receive is harmless."""
    assert engine.receive(b"", 1.0) == []


def test_octets_held_of_what_is_not_whole(engine):
    """A cut header counts as it stands; a payload counts what has come of it."""
    frame = masked(BINARY, bytes(300))

    sizes = []
    for start, stop in ((0, 1), (1, 7), (7, 8), (8, 108), (108, 308)):
        engine.receive(frame[start:stop], 1.0)
        sizes.append((engine.partial_size, engine.has_partial))

    assert sizes == [(1, True), (7, True), (0, True), (100, True), (0, False)]


def test_octets_held_of_a_message_and_a_control_frame_inside_it(engine):
    """Both what a message holds and what is carried of a control frame count."""
    engine.receive(masked(TEXT, b"12345", fin=False) + masked(PING, b"12345")[:8], 1.0)

    assert engine.partial_size == 5 + 8


# Control frames.


@pytest.mark.parametrize("payload", [b"", b"x", b"p" * 125])
def test_a_ping_is_answered_with_its_payload(engine, payload):
    """Each Ping has its Pong, and is no event (§5.5.2)."""
    assert engine.receive(masked(PING, payload), 1.0) == []
    assert sent(engine) == [(0x8A, payload)]


def test_a_pong_is_an_event_and_nothing_else(engine):
    """Asked for or not, a Pong is reported and not answered (§5.5.3)."""
    assert engine.receive(masked(PONG, b"here"), 1.0) == [Ponged(b"here")]
    assert engine.outbound.size == 0


def test_a_ping_flood_leaves_memory_flat(engine):
    """A peer that pings and does not read is owed one Pong behind a bounded backlog."""
    flood = masked(PING, b"f" * 125) * 500
    sizes = []
    for _ in range(20):
        engine.receive(flood, 1.0)
        sizes.append(engine.outbound.size)

    assert max(sizes) < 65_536 + 128
    assert sizes[2] == sizes[-1]


def test_no_ping_is_answered_after_a_close(engine):
    """Nothing follows a Close, Pongs included (§5.5.1)."""
    engine.close(1000, "", 1.0)
    engine.receive(masked(PING), 1.0)

    assert sent(engine) == [(0x88, close_of(1000))]


# What goes out.


@pytest.mark.parametrize("size", [0, 125, 126, 16_384, 16_385, 65_535, 65_536])
@pytest.mark.parametrize("make", [bytes, bytearray, memoryview])
def test_a_servers_messages_are_not_masked(engine, size, make):
    """Whatever its size and type, a message leaves in one minimal, unmasked frame."""
    payload = b"p" * size
    engine.send(BINARY, make(payload))

    assert engine.outbound.head(engine.outbound.size) == build_frame(BINARY, payload)


@pytest.mark.parametrize("size", [0, 125, 126, 65_535, 65_536])
def test_a_clients_messages_are_masked(client, size):
    """Each frame has a mask of its own (§5.3)."""
    client.send(TEXT, b"p" * size)
    client.send(TEXT, b"p" * size)

    octets = client.outbound.head(client.outbound.size)
    one, other = octets[: len(octets) // 2], octets[len(octets) // 2 :]
    assert one != other
    assert parse_frames(octets) == [(0x81, b"p" * size)] * 2


def test_what_is_sent_may_change_afterwards(engine):
    """A mutable payload is copied when it is sent."""
    for payload in (bytearray(10), bytearray(20_000)):
        engine.send(BINARY, payload)
        payload[0] = 1

    assert sent(engine) == [(0x82, bytes(10)), (0x82, bytes(20_000))]


def test_a_ping_of_ones_own(client):
    """A Ping of 0..125 octets is queued."""
    client.ping(b"p" * 125)

    assert sent(client) == [(0x89, b"p" * 125)]


def test_a_ping_that_is_too_long(engine):
    """A longer Ping is refused, and nothing is queued (§5.5)."""
    with pytest.raises(ValueError, match="not 126"):
        engine.ping(bytes(126))

    assert engine.outbound.size == 0


# Faults.

FAULTY = {
    "RESERVED_OPCODE": masked(3),
    "LONG_CONTROL": b"\x89\xfe",
    "FRAGMENTED_CONTROL": masked(PING, fin=False),
    "LENGTH_NOT_MINIMAL": b"\x82\xfe\x00\x7d",
    "LENGTH_TOP_BIT": b"\x82\xff\x80",
    "UNEXPECTED_RSV": masked(BINARY, rsv=4),
    "NOT_MASKED": build_frame(BINARY),
    "MASKED": masked(BINARY),
    "STRAY_CONTINUATION": masked(0),
    "MESSAGE_INSIDE_MESSAGE": masked(TEXT, fin=False) + masked(TEXT),
    "MESSAGE_TOO_BIG": masked(BINARY, bytes(1_001))[:8],
    "TOO_MANY_FRAGMENTS": b"".join(build_fragments(TEXT, [b""] * 6, key=KEY)),
    "INVALID_UTF8": masked(TEXT, b"\xff and more")[:7],
    "SHORT_CLOSE": masked(CLOSE, b"\x03"),
    "BAD_CLOSE_CODE": masked(CLOSE, close_of(1005)),
    "INVALID_UTF8_REASON": masked(CLOSE, close_of(1000, b"\xff")),
}


@pytest.mark.parametrize("name", FAULTY)
def test_a_fault_fails_the_connection(name):
    """Each fault is told to the peer, and to the driver, with the code that belongs to it."""
    engine = (ClientEngine if name == "MASKED" else ServerEngine)(limits=LIMITS)
    code, reason = FAULTS[getattr(_faults, name)]

    assert engine.receive(FAULTY[name], 1.0) == [Failed(code, reason)]
    assert engine.outcome == Failed(code, reason)
    assert engine.phase is Phase.FAILED
    assert sent(engine) == [(0x88, close_of(code, reason.encode()))]


def test_every_fault_has_a_case():
    """No code is left without a test above."""
    assert {getattr(_faults, name) for name in FAULTY} == set(FAULTS)


def test_messages_before_a_fault_are_delivered(engine):
    """What was right stays right, whatever came behind it."""
    events = engine.receive(masked(TEXT, b"a") + masked(3) + masked(TEXT, b"b"), 1.0)

    assert [type(event) for event in events] == [Message, Failed]


def test_nothing_is_received_after_a_fault(engine):
    """A failed connection takes nothing more, and answers nothing."""
    engine.receive(masked(3), 1.0)
    size = engine.outbound.size

    assert engine.is_closed
    assert engine.receive(masked(PING) + masked(CLOSE), 1.0) == []
    assert engine.outbound.size == size
    assert (engine.partial_size, engine.has_partial) == (0, False)


def test_a_fault_while_closing_sends_no_second_close(engine):
    """The outcome is the fault; the one Close was sent before (§5.5.1)."""
    engine.close(1000, "", 1.0)
    (event,) = engine.receive(masked(3), 1.0)

    assert engine.outcome == event == Failed(1002, "reserved opcode")
    assert sent(engine) == [(0x88, close_of(1000))]


# Closing.


@pytest.mark.parametrize(
    ("payload", "outcome"),
    [
        (b"", Closed(1005, "")),
        (close_of(1000), Closed(1000, "")),
        (close_of(4999, "gründlich".encode()), Closed(4999, "gründlich")),
        (close_of(1001, b"r" * 123), Closed(1001, "r" * 123)),
    ],
)
def test_a_close_is_echoed(engine, payload, outcome):
    """The peer's Close comes back as it was, and is the outcome (§5.5.1)."""
    assert engine.receive(masked(CLOSE, payload), 1.0) == [outcome]
    assert engine.outcome == outcome
    assert engine.phase is Phase.CLOSED
    assert sent(engine) == [(0x88, payload)]


def test_a_close_in_mid_message_is_echoed(engine):
    """A message under way is forgotten with it."""
    events = engine.receive(masked(TEXT, b"abc", fin=False) + masked(CLOSE), 1.0)

    assert events == [Closed(1005, "")]
    assert (engine.partial_size, engine.has_partial) == (0, False)


def test_octets_after_a_close_are_ignored(engine):
    """Neither in the same receive nor later does anything count (§5.5.1)."""
    assert engine.receive(masked(CLOSE) + masked(TEXT, b"late"), 1.0) == [Closed(1005, "")]
    assert engine.receive(masked(PING), 1.0) == []
    assert len(sent(engine)) == 1


def test_a_close_cut_in_the_middle(engine):
    """A Close that comes in two receives, with octets behind it, counts once."""
    frame = masked(CLOSE, close_of(1000))
    engine.receive(frame[:5], 1.0)

    assert engine.receive(frame[5:] + b"junk", 1.0) == [Closed(1000, "")]
    assert engine.partial_size == 0


def test_the_closing_handshake_started_here(engine):
    """One Close is sent; the peer's ends it; messages in between are delivered."""
    engine.close(3000, "enough", 1.0)
    assert engine.phase is Phase.CLOSING
    assert not engine.is_closed

    events = engine.receive(masked(TEXT, b"late") + masked(CLOSE, close_of(3000)), 2.0)

    assert events == [Message("late", 4), Closed(3000, "")]
    assert engine.phase is Phase.CLOSED
    assert sent(engine) == [(0x88, close_of(3000, b"enough"))]


def test_closing_again_does_nothing(engine):
    """Only the first close counts."""
    engine.close(1000, "first", 1.0)
    engine.close(1001, "second", 2.0)

    assert sent(engine) == [(0x88, close_of(1000, b"first"))]


def test_closing_too_late_does_nothing(engine):
    """A connection that the peer closed, or that is gone, stays as it is."""
    engine.receive(masked(CLOSE), 1.0)
    engine.close(1000, "", 1.0)
    engine.receive_eof(1.0)
    engine.close(1000, "", 1.0)

    assert len(sent(engine)) == 1
    assert engine.outcome == Closed(1005, "")


@pytest.mark.parametrize(
    ("code", "reason", "message"),
    [
        (999, "", "999 may not be sent"),
        (1004, "", "1004 may not be sent"),
        (1006, "", "1006 may not be sent"),
        (1015, "", "1015 may not be sent"),
        (2999, "", "2999 may not be sent"),
        (5000, "", "5000 may not be sent"),
        (1005, "why", "needs a code"),
        (1000, "ä" * 62, "124 octets"),
    ],
)
def test_a_close_that_may_not_be_sent(engine, code, reason, message):
    """It is refused before anything happens (§5.5.1, §7.4)."""
    with pytest.raises(ValueError, match=message):
        engine.close(code, reason, 1.0)

    assert (engine.phase, engine.outbound.size) == (Phase.OPEN, 0)


def test_the_payload_of_a_close():
    """Code and reason, at their longest; 1005 stands for neither."""
    assert close_payload(1000, "ä" * 61) == close_of(1000, "ä".encode() * 61)
    assert close_payload(1005, "") == b""


@pytest.mark.parametrize(("make", "may_drop"), [(ServerEngine, True), (ClientEngine, False)])
def test_the_server_drops_tcp_first(make, may_drop):
    """After the closing handshake TCP is the server's to drop; the client waits (§7.1.1)."""
    engine = make()
    assert not engine.may_drop
    key = KEY if engine.is_server else None
    engine.receive(build_frame(CLOSE, key=key), 1.0)

    assert engine.may_drop is may_drop
    engine.receive_eof(1.0)
    assert engine.may_drop


# The end of the transport.


def test_the_transport_ends_without_a_close(engine):
    """It is an event once, and the outcome; what was half there is forgotten."""
    engine.receive(masked(BINARY, bytes(100))[:50], 1.0)

    assert engine.receive_eof(1.0, "reset") == [Lost("reset")]
    assert engine.receive_eof(1.0) == []
    assert engine.outcome == Lost("reset")
    assert (engine.phase, engine.partial_size, engine.has_partial) == (Phase.GONE, 0, False)


def test_the_transport_ends_while_closing(engine):
    """A Close without an answer is no clean end."""
    engine.close(1000, "", 1.0)

    assert engine.receive_eof(1.0) == [Lost("the peer ended the transport")]


@pytest.mark.parametrize("octets", [masked(CLOSE), masked(3)])
def test_the_transport_ends_after_the_outcome(engine, octets):
    """Who closed or failed before has their outcome already, and keeps it."""
    (outcome,) = engine.receive(octets, 1.0)

    assert engine.receive_eof(1.0) == []
    assert engine.outcome == outcome
    assert engine.phase is Phase.GONE


# Time.


def test_a_quiet_peer_is_pinged(engine):
    """After the interval the engine sends a Ping of its own."""
    assert engine.next_deadline() == 20
    assert engine.handle_timeout(19.9) == []
    assert engine.outbound.size == 0

    assert engine.handle_timeout(20) == []
    assert sent(engine) == [(0x89, KEEPALIVE_PAYLOAD)]
    assert engine.next_deadline() == 30


def test_a_peer_that_answers_no_ping_is_lost(engine):
    """After the timeout the connection is gone, without a Close."""
    engine.handle_timeout(20)
    engine.outbound.clear()

    assert engine.handle_timeout(30) == [Lost("the peer did not answer a Ping in time")]
    assert engine.phase is Phase.GONE
    assert (engine.outbound.size, engine.next_deadline()) == (0, math.inf)


@pytest.mark.parametrize("at", [20, 29])
def test_any_octet_answers_a_ping(engine, at):
    """Not only a Pong shows that the peer is there: half a header does."""
    engine.handle_timeout(20)
    engine.receive(masked(TEXT)[:1], at)

    assert engine.next_deadline() == at + 20


def test_a_message_never_finished_is_refused(engine):
    """A peer that dribbles is told 1008 once the message's time is over."""
    frame = masked(BINARY, bytes(200))
    for second in range(60):
        engine.receive(frame[second : second + 1], float(second))

    assert engine.handle_timeout(59.9) == []
    assert engine.handle_timeout(60) == [Failed(1008, "message not finished in time")]
    assert engine.phase is Phase.FAILED


def test_a_message_has_its_time_from_its_first_octet(engine):
    """A finished message leaves nothing of its time to the next."""
    first, last = build_fragments(TEXT, [b"a", b"b"], key=KEY)
    engine.receive(first, 1.0)
    engine.receive(last + first, 50.0)

    assert engine.handle_timeout(61) == []
    assert engine.handle_timeout(110) == [Failed(1008, "message not finished in time")]


@pytest.mark.parametrize("opcode", [PING, BINARY], ids=["pings", "empty messages"])
def test_frames_that_always_arrive_cut_are_not_one_slow_message(engine, opcode):
    """A busy peer whose frames straddle every receive is not slow."""
    frame = masked(opcode)
    engine.receive(frame[:3], 0.0)
    for second in range(100):
        engine.receive(frame[3:] + frame[:3], float(second))
        engine.handle_timeout(float(second))

    assert engine.phase is Phase.OPEN


def test_a_control_frame_gives_a_message_no_more_time(engine):
    """Pings between its fragments do not help a message that never ends."""
    engine.receive(masked(TEXT, fin=False), 0.0)
    for second in range(0, 60, 10):
        engine.receive(masked(PING), float(second))

    assert engine.handle_timeout(60) == [Failed(1008, "message not finished in time")]


def test_an_empty_receive_gives_no_more_time(engine):
    """Only octets count."""
    engine.receive(masked(PING)[:1], 0.0)
    engine.receive(b"", 59.0)

    assert engine.handle_timeout(60) == [Failed(1008, "message not finished in time")]


def test_a_closing_handshake_has_its_time(engine):
    """It counts from the first Close; then the connection is gone."""
    engine.close(1000, "", 3.0)
    engine.receive(masked(TEXT), 7.0)

    assert engine.next_deadline() == 8
    assert engine.handle_timeout(7.9) == []
    assert engine.handle_timeout(8) == [Lost("the closing handshake took too long")]
    assert engine.may_drop


@pytest.mark.parametrize("octets", [masked(CLOSE), masked(3)])
def test_a_peer_that_keeps_tcp_open_has_its_time(engine, octets):
    """After the last Close the peer has the same time to end TCP; the outcome stays."""
    (outcome,) = engine.receive(octets, 3.0)

    assert engine.next_deadline() == 8
    assert engine.handle_timeout(8) == []
    assert (engine.phase, engine.outcome) == (Phase.GONE, outcome)


def test_a_side_that_does_not_read_blames_no_one(engine):
    """While paused nothing is due; on resuming the peer has all of its time again."""
    engine.receive(masked(TEXT)[:1], 0.0)
    engine.pause(10)
    assert engine.next_deadline() == math.inf
    assert engine.handle_timeout(500) == []

    engine.resume(1_000)
    assert engine.next_deadline() == 1_020
    assert engine.handle_timeout(1_049) == []
    assert engine.handle_timeout(1_050) == [Failed(1008, "message not finished in time")]


def test_a_peer_that_takes_octets_is_alive(engine):
    """What it reads after a long wait answers a Ping as well as what it sends."""
    engine.handle_timeout(20)
    engine.note_progress(29)

    assert engine.next_deadline() == 49


def test_no_keepalive():
    """Without keepalive a quiet connection stays for ever."""
    engine = ServerEngine(keepalive=NO_KEEPALIVE)

    assert engine.next_deadline() == math.inf
    assert engine.handle_timeout(1e12) == []


# The budget.


@pytest.fixture
def budget():
    """Ten octets for all connections."""
    return Budget(10)


@pytest.fixture
def pair(budget):
    """Two connections of one server; the first holds six octets."""
    one, other = ServerEngine(budget=budget), ServerEngine(budget=budget)
    one.receive(masked(BINARY, b"123456", fin=False), 1.0)
    assert budget.held == 6
    return one, other


def test_a_budget_used_up_fails_who_asks_for_more(pair, budget):
    """The connection that would exceed it is told 1013; the other goes on."""
    one, other = pair

    (event,) = other.receive(masked(BINARY, b"12345", fin=False), 1.0)

    assert event == Failed(1013, "too many unfinished messages")
    assert (one.phase, budget.held) == (Phase.OPEN, 6)


def test_a_failure_gives_back_what_was_held(pair, budget):
    """Whoever exceeds the budget loses their part of it."""
    one, other = pair
    other.receive(masked(BINARY, b"1", fin=False), 1.0)
    (event,) = one.receive(masked(0, b"2345", fin=False), 1.0)

    assert event.code == 1013
    assert budget.held == 1


@pytest.mark.parametrize(
    "end",
    [
        lambda engine: engine.receive(masked(0, b"end"), 2.0),
        lambda engine: engine.receive(masked(CLOSE), 2.0),
        lambda engine: engine.receive(masked(3), 2.0),
        lambda engine: engine.receive_eof(2.0),
        lambda engine: engine.handle_timeout(61.0),
        lambda engine: [engine.close(1000, "", 2.0), engine.handle_timeout(60.0)],
    ],
    ids=["finished", "closed", "failed", "lost", "slow", "slow close"],
)
def test_the_budget_is_given_back(pair, budget, end):
    """However a message ends, its octets are free again."""
    end(pair[0])

    assert budget.held == 0


def test_whole_messages_need_no_budget(budget):
    """Only what is unfinished counts."""
    engine = ServerEngine(budget=budget)

    assert engine.receive(masked(BINARY, bytes(100)), 1.0) == [Message(bytes(100), 100)]
