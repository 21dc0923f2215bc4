"""A loop with a handler in Python over socket pairs: many peers, slow ones, and memory."""

import contextlib
import ctypes
import math
import socket

import pytest

import triows
from tests.unit.callback_pairs import FAILED, Recorder, echo, starting
from tests.unit.test_turn import (
    BINARY,
    CLOSE,
    PING,
    PONG,
    TEXT,
    close_payload,
    drain,
    frames,
    is_over,
    joined,
    masked,
)
from triows._kernels import slots as s
from triows._kernels._handler import resolve_handler
from triows._reactor import _blocks, _callbacks


@pytest.fixture
def start():
    """Make loops, and close them in the end, when nothing may be left."""
    with starting() as make:
        yield make


@pytest.fixture(autouse=True)
def unhurried(monkeypatch):
    """Callbacks have all the time that they need, however slow the machine is."""
    monkeypatch.setattr(_callbacks, "BUDGET", math.inf)


# Sends to connections that have ended.


def test_sends_to_the_closed_are_dropped_and_counted(start):
    """Nothing raises; what a callback sends to a connection that ended before it is counted."""

    def frame(conn, _payload, _opcode):
        pair.handler.conns[1].send(b"too late")
        conn.echo()

    pair = start(frame=frame)
    client, other = pair.connect(), pair.connect()
    client.close()
    pair.turn()

    assert frames(pair.talk(other, masked(TEXT, b"m"))) == [(TEXT, b"m")]
    pair.loop.send_to(77, b"nobody", BINARY)
    pair.loop.send_to(1, b"gone", BINARY)
    assert pair.register(s.DROPPED) == 3


def test_sends_to_a_connection_that_ends_in_the_same_batch_hurt_no_one(start):
    """Whether it ends before or behind the send, by its Close, a fault or a failure."""

    def frame(conn, payload, _opcode):
        if payload == b"raise":
            raise ValueError
        for other in pair.handler.conns.values():
            other.send(b"to all")
        conn.echo()

    for ending in (masked(CLOSE), masked(3), masked(TEXT, b"raise")):
        pair = start(frame=frame)
        clients = [pair.connect() for _ in range(3)]
        clients[0].send(masked(TEXT, b"a"))
        clients[1].send(masked(TEXT, b"b") + ending)
        clients[2].send(masked(TEXT, b"c"))
        pair.turn(2)

        for number in (0, 2):
            said = [payload for _, payload in frames(drain(clients[number]))]
            assert sorted(said) == sorted([b"to all"] * 3 + [b"ac"[number // 2 :][:1]])
        assert frames(drain(clients[1]))[-1][0] == CLOSE
        assert pair.register(s.DROPPED) == 1


def test_what_is_sent_to_the_dead_reaches_no_successor(start):
    """A send to a connection that has ended unnoticed is not for the next one in its slot."""

    def closed(conn, _code, _reason):
        if conn.id == 1:
            pair.handler.conns[2].send(b"for the dead")
        elif conn.id == 2:
            pair.connect()

    pair = start(frame=echo, closed=closed)
    for client in [pair.connect(), pair.connect()]:
        client.close()
    pair.turn()
    successor = pair.clients[2]

    assert pair.handler.conns[3]._slot == pair.handler.conns[2]._slot
    assert frames(pair.talk(successor, masked(TEXT, b"mine"))) == [(TEXT, b"mine")]
    assert pair.register(s.DROPPED) == 1


def test_on_close_and_on_open_may_send(start):
    """To others, in order; to the one that has ended it is dropped."""

    def opened(conn):
        conn.send(b"welcome")
        for other in pair.handler.conns.values():
            other.send(b"joined %d" % conn.id)

    def closed(conn, _code, _reason):
        conn.send(b"dropped")
        for other in pair.handler.conns.values():
            other.send(b"left %d" % conn.id)

    pair = start(frame=echo, opened=opened, closed=closed)
    first = pair.connect()
    second = pair.connect(masked(TEXT, b"leftover"))
    third = pair.connect(masked(PING, b"p") + masked(3))
    pair.talk(second, masked(CLOSE))
    pair.turn()

    assert frames(pair.hear(second)) == []
    assert [payload for _, payload in frames(pair.hear(first))] == [
        b"welcome",
        b"joined 1",
        b"joined 2",
        b"joined 3",
        b"left 2",
    ]
    assert frames(drain(third)) == [
        (BINARY, b"welcome"),
        (BINARY, b"joined 3"),
        (PONG, b"p"),
        (CLOSE, close_payload(1002, b"reserved opcode")),
    ]


def test_what_on_open_sends_goes_before_the_answers_to_the_leftover(start):
    """A greeting is the first thing that a peer gets, whatever came with its request."""

    def opened(conn):
        conn.send(b"welcome")

    for leftover, rest in [
        (masked(TEXT, b"m") + masked(TEXT, b"n"), [(TEXT, b"m"), (TEXT, b"n")]),
        (masked(PING, b"p"), [(PONG, b"p")]),
        (masked(BINARY, bytes(200_000)), [(BINARY, bytes(200_000))]),
        (masked(CLOSE), [(CLOSE, b"")]),
    ]:
        pair = start(frame=echo, opened=opened)
        client = pair.connect(leftover)

        assert frames(pair.hear(client)) == [(BINARY, b"welcome"), *rest]


# Memory of payloads.


@pytest.fixture
def freed(monkeypatch):
    """The blocks that Python freed: overwritten, and kept until the end of the test."""
    handles = []
    free = _blocks._free

    def poison(handle):
        assert handle not in handles
        handles.append(handle)
        ctypes.memset(handle, 0xDB, 16)

    monkeypatch.setattr(_blocks, "_free", poison)
    yield handles
    for handle in handles:
        free(handle)


def test_a_joined_message_is_freed_when_its_answer_has_left(start, freed):
    """One block for one message; kept views of it stay what they were, whatever comes after."""
    kept = []

    def frame(conn, payload, _opcode):
        kept.append(payload[10:20])
        conn.echo()

    pair = start(frame=frame)
    client = pair.connect()
    pair.talk(client, masked(BINARY, b"a" * 70_000))
    assert freed == []
    pair.talk(client, masked(BINARY, b"b" * 70_000))
    assert [bytes(view) for view in kept] == [b"a" * 10, b"b" * 10]

    del kept[0]
    assert len(freed) == 1
    del kept[0]
    assert len(freed) == 2


def test_a_block_lives_until_its_answer_has_left(start, monkeypatch):
    """However much the callback sends meanwhile, the message is still there to be echoed."""
    free = _blocks._free

    def overwrite(handle):
        ctypes.memset(handle, 0xDB, 70_016)
        free(handle)

    monkeypatch.setattr(_blocks, "_free", overwrite)

    def frame(conn, _payload, _opcode):
        for _ in range(1_500):
            conn.send(b"s")
        conn.echo()

    pair = start(frame=frame)
    client = pair.connect()

    reply = frames(pair.talk(client, masked(BINARY, b"m" * 70_000)))

    assert reply[:-1] == [(BINARY, b"s")] * 1_500
    assert reply[-1] == (BINARY, b"m" * 70_000)


def test_kept_views_of_the_region_are_stale_but_memory(start):
    """They show what was received later, and harm nothing."""
    kept = []

    def frame(conn, payload, _opcode):
        kept.append(payload)
        conn.echo()

    pair = start(frame=frame)
    client = pair.connect()
    pair.talk(client, masked(BINARY, b"first"))
    pair.talk(client, masked(BINARY, b"other"))
    pair.close()

    assert bytes(kept[0]) == bytes(kept[1])
    assert len(kept[0]) == 5


@pytest.mark.parametrize("size", [20, 70_000])
def test_debug_overwrites_what_is_kept(start, size):
    """A payload, or a slice of one, that outlives its callback shows that it did."""
    kept = []

    def frame(conn, payload, _opcode):
        kept.extend([payload, payload[2:4], memoryview(payload).cast("B")[-1:]])
        conn.echo()
        if payload[0] == ord("r"):
            raise ValueError

    pair = start(frame=frame, debug=True)
    client = pair.connect()

    reply = pair.talk(client, masked(BINARY, b"k" * size) + masked(BINARY, b"r" * size))

    assert frames(reply) == [(BINARY, b"k" * size), FAILED]
    assert [bytes(view) for view in kept] == [b"\xdb" * n for n in (size, 2, 1)] * 2


# Batches.


def test_a_batch_of_empty_frames(start):
    """A receive full of the smallest frames is one batch, and loses none."""
    pair = start(frame=echo)
    client = pair.connect()
    count = 65_536 // 6

    reply = pair.talk(client, masked(BINARY, b"") * count)

    assert reply == b"\x82\0" * count
    assert len(pair.handler.messages) == count


def test_full_batches_from_several_peers(start):
    """The next peer is received from only while there is room for all that it may bring."""
    pair = start(frame=echo)
    clients = [pair.connect() for _ in range(4)]
    for client in clients:
        client.send(masked(BINARY, b"") * 511)
    pair.turn(1)
    assert len(pair.handler.messages) == 2 * 511
    assert pair.loop.has_events

    for client in clients:
        client.send(masked(BINARY, b"") * 10_000)

    assert [len(pair.hear(client)) for client in clients] == [2 * 10_511] * 4


def test_many_large_receives_fill_the_region_and_no_more(start):
    """Peers that fill their receives wait for the next batch when the region is full."""
    pair = start(frame=echo)
    clients = [pair.connect() for _ in range(40)]
    for number, client in enumerate(clients):
        client.send(masked(BINARY, bytes([number]) * 50_000))
    pair.turn(1)
    assert len(pair.handler.messages) < 40
    replies = [pair.hear(client) for client in clients]

    assert [frames(reply) for reply in replies] == [
        [(BINARY, bytes([number]) * 50_000)] for number in range(40)
    ]


def test_many_blocks_are_handled_before_more_are_received(start):
    """Joined messages count: beyond a bound the rest of the peers waits for the next batch."""
    pair = start(frame=echo)
    clients = [pair.connect() for _ in range(50)]
    message = bytes(200_000)
    for client in clients:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        client.send(masked(BINARY, message)[:20_000])
        pair.turn()
    for client in clients:  # what is left goes straight into the message's block
        assert client.send(masked(BINARY, message)[20_000:]) == 180_014
    pair.turn(1)

    assert s.BATCH_BLOCKS // 200_000 < len(pair.handler.messages) < 50
    assert pair.loop.has_events
    assert {len(pair.hear(client)) for client in clients} == {200_010}
    assert len(pair.handler.messages) == 50


@pytest.fixture
def hasty(monkeypatch):
    """Callbacks whose time is over after each."""
    monkeypatch.setattr(_callbacks, "LOOK_EVERY", 1)
    monkeypatch.setattr(_callbacks, "BUDGET", -1.0)


@pytest.mark.parametrize("size", [1, 70_000])
def test_callbacks_that_take_too_long_leave_the_rest(start, hasty, size):
    """One callback a turn, no turn of the kernel's before all are done, the order kept."""
    pair = start(frame=echo)
    client, other = pair.connect(), pair.connect()
    stream = b"".join(masked(BINARY, bytes([n]) * size) + masked(PING, b"%d" % n) for n in range(5))
    if size == 1:
        client.send(stream)
        other.send(masked(TEXT, b"other"))
        pair.turn(1)
        turns = pair.register(s.TURNS)
        assert len(pair.handler.messages) == 1
        assert pair.loop.has_events
        for _ in range(4):
            assert pair.loop.take_turns(10, 1) == 1
        assert pair.register(s.TURNS) == turns
        stream = b""

    assert frames(pair.talk(client, stream)) == [
        frame for n in range(5) for frame in [(BINARY, bytes([n]) * size), (PONG, b"%d" % n)]
    ]


def test_what_happens_between_slices_of_a_batch_keeps_its_place(start, hasty):
    """Sends, settling and adoption between the callbacks of one batch."""

    def frame(conn, payload, _opcode):
        conn.send(b"own " + payload)
        conn.echo()

    pair = start(frame=frame)
    client = pair.connect()
    conn = pair.handler.conns[1]
    client.send(b"".join(masked(TEXT, b"%d" % n) for n in range(4)))
    pair.turn(1)  # 0
    conn.send(b"between 0 and 1")
    pair.turn(1)  # 1
    conn.send(b"between 1 and 2")
    pair.loop.settle()
    reply = drain(client)
    assert [payload for _, payload in frames(reply)] == [
        *[b"own 0", b"0", b"between 0 and 1", b"own 1", b"1", b"between 1 and 2"],
    ]
    newcomer = pair.connect(masked(TEXT, b"new"))
    assert pair.handler.messages == [b"0", b"1"]
    reply = pair.hear(client)

    assert pair.handler.messages == [b"0", b"1", b"2", b"3", b"new"]
    assert [payload for _, payload in frames(reply)] == [b"own 2", b"2", b"own 3", b"3"]
    assert [payload for _, payload in frames(pair.hear(newcomer))] == [b"own new", b"new"]


def test_a_connection_that_ends_between_slices_is_told_when_all_are_done(start, hasty):
    """Its messages are handled first, and its slot is not given away before."""
    pair = start(frame=echo)
    client = pair.connect()
    client.send(b"".join(masked(TEXT, b"%d" % n) for n in range(4)))
    pair.turn(1)
    client.close()
    pair.turn(1)
    pair.loop.settle()  # writes to a peer that has gone
    pair.turn(1)
    assert [kind for kind, *_ in pair.handler.events] == ["open", "frame", "frame", "frame"]
    pair.turn(4)

    assert pair.handler.messages == [b"0", b"1", b"2", b"3"]
    assert pair.handler.events[-1] == ("close", 1, 1006, "")


@pytest.mark.parametrize("size", [4, 2_000_000])
def test_sends_beyond_the_arena_leave_at_once(start, size):
    """Too many sends, or octets, are sent while the callback runs: none is lost or reordered."""
    count = 3_000 if size == 4 else 3
    big = bytes(size - 4)

    def frame(conn, payload, _opcode):
        for number in range(count):
            conn.send(number.to_bytes(4) + big)
        payload[:1] = b"X"
        conn.echo()

    pair = start(frame=frame, limits=triows.Limits(max_unsent=2**26))
    client = pair.connect()

    reply = pair.talk(client, masked(BINARY, b"1st") + masked(PING, b"p") + masked(BINARY, b"2nd"))

    messages = [payload for _, payload in frames(reply)]
    sends = [number.to_bytes(4) + big for number in range(count)]
    assert messages == [*sends, b"Xst", b"p", *sends, b"Xnd"]


def test_what_is_replayed_early_changes_no_later_payload(start):
    """Answers of handled messages never overwrite what is still to be handled."""

    def frame(conn, payload, _opcode):
        if payload == b"raise":
            raise ValueError
        for _ in range(600):
            other.send(b"elsewhere")
        if conn is not other:
            conn.echo()

    handler = Recorder(frame)
    pair = start(handler)
    clients = [pair.connect() for _ in range(4)]
    other = handler.conns[1]
    clients[1].send(b"".join(masked(TEXT, b"%d" % n * (n + 1)) for n in range(6)))
    clients[2].send(masked(TEXT, b"") + masked(TEXT, b"raise") + masked(CLOSE, b"\x03\xe8why"))
    clients[3].send(masked(TEXT, b"still ") + masked(TEXT, b"whole"))
    pair.turn(1)
    clients[0].setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)

    said = b"".join(handler.messages)
    assert said == b"".join(b"%d" % n * (n + 1) for n in range(6)) + b"raisestill whole"
    heard = pair.hear(clients[0])
    assert frames(heard) == [(BINARY, b"elsewhere")] * (9 * 600)
    assert frames(pair.hear(clients[2])) == [(TEXT, b""), FAILED]


# Slow peers.


def test_a_peer_that_does_not_read_is_not_read(start):
    """Echoes pile up to the mark, then its messages wait; all come in the end, in order."""
    pair = start(frame=echo, limits=triows.Limits(send_queue_octets=10_000))
    client = pair.connect(buffer=4_096)
    stream = b"".join(masked(BINARY, bytes([number]) * 3_000) for number in range(200))
    sent = 0
    for _ in range(100):
        with contextlib.suppress(BlockingIOError):
            sent += client.send(stream[sent:])
        pair.turn()
    assert 10_000 < pair.register(s.QUEUED) < 10_000 + 2 * 65_536
    assert pair.loop._slots[0, s.INTEREST] == 4  # EPOLLOUT alone
    assert pair.handler.conns[1].buffered == pair.register(s.QUEUED)

    reply = b""
    while len(reply) < 200 * 3_004:
        with contextlib.suppress(BlockingIOError):
            sent += client.send(stream[sent:]) if sent < len(stream) else 0
        pair.turn()
        reply += drain(client)

    assert frames(reply) == [(BINARY, bytes([number]) * 3_000) for number in range(200)]
    assert pair.loop._slots[0, s.INTEREST] == 1  # EPOLLIN alone again


@pytest.mark.parametrize("elsewhere", [False, True])
def test_small_echoes_to_a_peer_that_does_not_read_are_bounded(start, elsewhere):
    """Nor is it read where replies join a queue that waits already, its own or another's."""

    def frame(conn, payload, _opcode):
        conn.send(payload)
        if elsewhere:
            pair.handler.conns[1].send(payload)

    pair = start(frame=frame, limits=triows.Limits(send_queue_octets=10_000))
    client = pair.connect(buffer=4_096)
    for _ in range(600):
        with contextlib.suppress(BlockingIOError):
            client.send(masked(BINARY, bytes(1_000)))
        pair.turn(1)

    assert pair.register(s.QUEUED) < 10_000 + 3 * 65_536
    assert pair.loop._slots[0, s.INTEREST] == 4


def test_sends_beyond_the_limit_end_the_connection(start):
    """on_close says 1013; what is sent to it in the same batch is dropped, others go on."""

    def frame(conn, _payload, _opcode):
        for _ in range(10):
            pair.handler.conns[1].send(bytes(50_000))
        conn.echo()

    pair = start(frame=frame, limits=triows.Limits(max_unsent=100_000))
    slow, other = pair.connect(buffer=4_096), pair.connect()

    assert frames(pair.talk(other, masked(TEXT, b"m"))) == [(TEXT, b"m")]

    assert pair.handler.of("close") == [
        (1, 1013, "the peer does not take what it is sent"),
    ]
    assert pair.register(s.DROPPED) > 0
    assert pair.loop.statistics().failures == 1
    drain(slow)
    assert is_over(slow)


def test_the_sender_itself_may_be_over_the_limit(start):
    """A connection that ends at its own callback's send has no echo and no second end."""

    def frame(conn, _payload, _opcode):
        for _ in range(10):
            conn.send(bytes(50_000))
        conn.echo()

    pair = start(frame=frame, limits=triows.Limits(max_unsent=100_000))
    slow = pair.connect(buffer=4_096)
    slow.send(masked(TEXT, b"1") + masked(PING, b"p") + masked(TEXT, b"2") + masked(CLOSE))
    pair.turn(4)

    assert len(pair.handler.of("close")) == 1
    assert pair.register(s.CONNECTIONS) == 0


# Opening.


def test_on_open_comes_first_and_once(start):
    """However much comes with it, and also where it comes in a callback."""
    pair = start(frame=echo)
    client = pair.connect(masked(TEXT, b"1") + masked(BINARY, bytes(200_000)) + masked(CLOSE))

    assert [opcode for opcode, _ in frames(pair.hear(client))] == [TEXT, BINARY, CLOSE]
    assert [event[0] for event in pair.handler.events] == ["open", "frame", "frame", "close"]


@pytest.mark.parametrize("where", ["frame", "opened", "closed"])
def test_callbacks_never_nest(start, where):
    """A connection that a callback adds is opened when the callbacks are done."""

    def add(*_):
        if len(pair.clients) < 4:
            pair.connect(masked(TEXT, b"added"))

    pair = start(**{where: add})
    client = pair.connect(masked(TEXT, b"first"))
    pair.talk(client, masked(CLOSE))
    pair.turn()

    assert len(pair.handler.of("open")) == 4 if where != "closed" else 2
    assert set(pair.handler.messages) == {b"first", b"added"}


def test_a_callback_may_not_drive_its_loop(start):
    """That is a bug of the handler's: it is reported, and ends its connection."""

    def frame(_conn, _payload, _opcode):
        pair.loop.take_turns(0, 1)

    pair = start(frame=frame)

    assert frames(pair.talk(pair.connect(), masked(TEXT, b"m"))) == [FAILED]
    assert pair.reports == [("on_frame failed", AssertionError)]


def test_a_newcomer_that_ends_before_its_on_open(start):
    """on_open comes before on_close, though a send found the connection broken before."""

    def frame(conn, _payload, _opcode):
        newcomer = pair.connect()
        newcomer.close()
        for _ in range(1_100):
            pair.loop.send_to(2, b"early", BINARY)
        conn.echo()

    pair = start(frame=frame)
    client = pair.connect()

    assert frames(pair.talk(client, masked(TEXT, b"m"))) == [(TEXT, b"m")]
    assert [event[0] for event in pair.handler.events if event[1] == 2] == ["open", "close"]


# With a compiled handler in front.


def answer(payload, _opcode):
    """Answer what the first octet says."""
    return int(payload[0]) - ord("0") if len(payload) else 1


@pytest.fixture(scope="module")
def compiled():
    """The address of a compiled handler."""
    return resolve_handler(answer)


@pytest.mark.parametrize("pieces", [1, 2])
@pytest.mark.parametrize(
    ("first", "expected"),
    [
        (b"0", []),
        (b"1", [(BINARY, b"1x")]),
        (b"2", [(CLOSE, close_payload(1000))]),
        (b"3", [(BINARY, b"seen"), (BINARY, b"3x")]),
        *[(b"%c" % (ord("0") + code), [FAILED]) for code in (-1, 4, 5, 6, 7, 8)],
    ],
)
def test_a_compiled_handler_is_asked_first(start, compiled, first, expected, pieces):
    """It answers, delivers to Python, or is refused what is no answer."""

    def frame(conn, _payload, _opcode):
        conn.send(b"seen")
        conn.echo()

    pair = start(frame=frame, compiled=compiled)
    client = pair.connect()
    message = first + b"x"
    stream = masked(BINARY, message) if pieces == 1 else joined(BINARY, [message[:1], message[1:]])

    reply = pair.talk(client, masked(TEXT, b"1") + stream)
    reply += pair.talk(client, masked(TEXT, b"3after") if len(expected) == 0 else b"")

    after = [(BINARY, b"seen"), (TEXT, b"3after")] if len(expected) == 0 else []
    assert frames(reply) == [(TEXT, b"1"), *expected, *after]


def test_rows_of_python_and_of_the_compiled_handler_keep_their_order(start, compiled):
    """What each answers leaves in the order in which it came, blocks among it."""
    pair = start(frame=echo, compiled=compiled)
    client = pair.connect()
    messages = [b"1a", b"3b", b"1" * 70_000, b"3" * 70_000, b"1c", b"3d", b"0e", b"3f"]
    reply = pair.talk(client, b"".join(masked(BINARY, message) for message in messages))
    halves = joined(TEXT, [b"1", b"x"]) + joined(TEXT, [b"3", b"y"]) + joined(TEXT, [b"1", b"z"])
    reply += pair.talk(client, halves)

    echoed = [message for message in messages if message[:1] != b"0"] + [b"1x", b"3y", b"1z"]
    assert [payload for _, payload in frames(reply)] == echoed


def test_after_the_compiled_handler_closed_it_is_not_asked(start, compiled):
    """A connection that it closed waits for the peer's Close and for nothing else."""
    pair = start(frame=echo, compiled=compiled)
    client = pair.connect()

    reply = pair.talk(client, masked(TEXT, b"2") + masked(TEXT, b"3") + joined(TEXT, [b"3", b"3"]))
    reply += pair.talk(client, masked(TEXT, b"3") + joined(TEXT, [b"1", b"1"]) + masked(PING))
    assert pair.register(s.MESSAGES_IN) == 1
    reply += pair.talk(client, masked(CLOSE, close_payload(1000)))

    assert frames(reply) == [(CLOSE, close_payload(1000))]
    assert is_over(client)
    assert pair.handler.messages == []
