"""A loop with a handler in Python over socket pairs: messages, answers, and how it ends."""

import itertools
import math
import socket
import struct
from types import SimpleNamespace

import pytest

import triows
from tests.naive_reception import build_frame
from tests.unit.callback_pairs import FAILED, Recorder, echo, starting
from tests.unit.test_turn import (
    BINARY,
    CLOSE,
    PING,
    PONG,
    TEXT,
    close_payload,
    code_of,
    drain,
    frames,
    is_over,
    joined,
    masked,
)
from triows._kernels import slots as s
from triows._reactor import _callbacks


@pytest.fixture
def start():
    """Make loops, and close them in the end, when nothing may be left."""
    with starting() as make:
        yield make


@pytest.fixture(autouse=True)
def unhurried(monkeypatch):
    """Callbacks have all the time that they need, however slow the machine is."""
    monkeypatch.setattr(_callbacks, "BUDGET", math.inf)


# Messages and answers.

SIZES = [0, 1, 125, 126, 65_507, 65_535, 65_536, 70_000, 300_000]


@pytest.mark.parametrize("debug", [False, True])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_a_message_is_handled_and_echoed(start, size, opcode, debug):
    """A message of any size is handled once, whole, and its echo is minimal (§5.2)."""
    pair = start(frame=echo, debug=debug)
    client = pair.connect()

    reply = pair.talk(client, masked(opcode, b"x" * size))

    assert reply == build_frame(opcode, b"x" * size)
    assert pair.handler.of("frame") == [(1, b"x" * size, opcode)]


@pytest.mark.parametrize("step", [1, 3, 7, 1 << 20])
def test_cuts_change_nothing(start, step):
    """However a stream is cut, the handler sees the same and the replies are the same."""
    stream = (
        masked(TEXT, "héllo".encode())
        + joined(TEXT, [b"gr", "ü".encode()[:1], "ü".encode()[1:] + b"n"])
        + masked(PING, b"are you there")
        + masked(BINARY, bytes(300))
        + masked(PONG, b"unasked")
        + masked(CLOSE, close_payload(1000, b"bye"))
    )
    pair = start(frame=echo)
    client = pair.connect()

    reply = b"".join(
        pair.talk(client, stream[at : at + step]) for at in range(0, len(stream), step)
    )

    assert frames(reply) == [
        (TEXT, "héllo".encode()),
        (TEXT, "grün".encode()),
        (PONG, b"are you there"),
        (BINARY, bytes(300)),
        (CLOSE, close_payload(1000, b"bye")),
    ]
    assert is_over(client)
    assert pair.handler.events[-1] == ("close", 1, 1000, "bye")


def test_frames_in_one_receive_are_answered_in_one_send(start):
    """However many messages a receive brings, their echoes leave together, in order."""
    pair = start(frame=echo)
    client = pair.connect()
    payloads = [bytes([number]) * (number % 140) for number in range(200)]

    reply = pair.talk(client, b"".join(masked(BINARY, payload) for payload in payloads))

    assert frames(reply) == [(BINARY, payload) for payload in payloads]
    assert pair.register(s.SENDS) == pair.register(s.RECEIVES) == 1


def test_what_is_not_echoed_is_not_answered(start):
    """A handler that does nothing sends nothing."""
    pair = start()
    client = pair.connect()

    assert pair.talk(client, masked(TEXT, b"heard") + joined(TEXT, [b"th", b"is"])) == b""
    assert pair.handler.messages == [b"heard", b"this"]


@pytest.mark.parametrize("size", [3, 70_000])
def test_sends_go_before_the_echo_of_the_same_message(start, size):
    """What a callback sends precedes its echo, whichever it asked for first."""

    def frame(conn, payload, _opcode):
        conn.send(b"before")
        conn.echo()
        conn.send(payload[:1], TEXT)

    pair = start(frame=frame)
    client = pair.connect()
    messages = [bytes([number]) * size for number in b"abc"]

    reply = pair.talk(client, b"".join(masked(BINARY, message) for message in messages))

    assert frames(reply) == [
        frame
        for message in messages
        for frame in [(BINARY, b"before"), (TEXT, message[:1]), (BINARY, message)]
    ]


@pytest.mark.parametrize("debug", [False, True])
@pytest.mark.parametrize("pieces", [1, 2])
def test_a_mutated_payload_is_echoed_mutated(start, debug, pieces):
    """What the handler makes of the payload is what goes back."""

    def frame(conn, payload, _opcode):
        payload[:2] = b"AB"
        conn.echo()

    pair = start(frame=frame, debug=debug)
    client = pair.connect()
    stream = masked(BINARY, b"abcd") if pieces == 1 else joined(BINARY, [b"a", b"bcd"])

    assert frames(pair.talk(client, stream)) == [(BINARY, b"ABcd")]


def test_a_later_message_is_not_what_an_earlier_callback_made(start):
    """All of a receive's payloads are whole when their callbacks run, echoed ones before them."""

    def frame(conn, payload, _opcode):
        payload[:] = bytes(reversed(bytes(payload)))
        conn.send(b"s" * 200)
        conn.echo()

    pair = start(frame=frame)
    client = pair.connect()
    messages = [b"%03d" % number * (number % 50 + 1) for number in range(300)]

    reply = pair.talk(client, b"".join(masked(BINARY, message) for message in messages))

    assert pair.handler.messages == messages
    assert [payload for _, payload in frames(reply)][1::2] == [m[::-1] for m in messages]


def test_pings_between_messages_are_answered_in_order(start):
    """A Pong leaves between the echoes where its Ping came between the messages (§5.5.2)."""
    pair = start(frame=echo)
    client = pair.connect()

    reply = pair.talk(
        client,
        masked(TEXT, b"1") + masked(PING, b"2") + masked(TEXT, b"3") + masked(PING, b"4"),
    )

    assert frames(reply) == [(TEXT, b"1"), (PONG, b"2"), (TEXT, b"3"), (PONG, b"4")]


def test_a_ping_alone_is_answered_without_the_handler(start):
    """A socket that brought nothing for Python is answered in the turn itself."""
    pair = start(frame=echo)
    client = pair.connect()
    client.send(masked(PING, b"?"))

    pair.turn(1)

    assert frames(drain(client)) == [(PONG, b"?")]


def test_many_sends_to_one_peer_leave_in_one_piece(start):
    """The sends of a callback, and of those behind it, cost one system call for a peer."""

    def frame(conn, _payload, _opcode):
        for size in (0, 125, 126, 70_000):
            conn.send(bytes(size))

    pair = start(frame=frame)
    client = pair.connect()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)

    reply = pair.talk(client, masked(TEXT, b"1") + masked(TEXT, b"2"))

    assert [len(payload) for _, payload in frames(reply)] == [0, 125, 126, 70_000] * 2
    assert pair.register(s.SENDS) <= 2


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_order_is_kept_where_another_connection_sends(start, order):
    """What A's callbacks send to B lies with B's own replies in the order of the callbacks."""

    def frame(conn, payload, _opcode):
        other = pair.handler.conns[3 - conn.id]
        conn.send(b"own " + payload)
        other.send(b"from %d " % conn.id + payload)
        conn.send(b"more " + payload)
        conn.echo()

    pair = start(frame=frame)
    clients = [pair.connect(), pair.connect()]
    for one in order:
        clients[one].send(masked(TEXT, b"x") + masked(PING, b"p") + masked(TEXT, b"y"))
    pair.turn(2)

    first, second = (order[0] + 1, order[1] + 1)
    heard = {event[0]: [] for event in pair.handler.of("frame")}
    for number, payload, _ in pair.handler.of("frame"):
        heard[number] += [b"own " + payload, b"more " + payload, payload]
        heard[3 - number] += [b"from %d " % number + payload]
    assert [event[0] for event in pair.handler.of("frame")] == [first, first, second, second]
    for number, client in enumerate(clients, 1):
        replies = [payload for opcode, payload in frames(drain(client)) if opcode != PONG]
        assert replies == heard[number]


def test_the_order_of_many_sends_to_and_fro_is_kept(start):
    """Whoever sends to whom, each peer gets what was sent to it in the order of the calls."""
    sent = {number: [] for number in range(1, 6)}

    def frame(conn, payload, _opcode):
        for step in (conn.id, conn.id + 1, conn.id + 2):
            to = pair.handler.conns[step % 5 + 1]
            text = b"%d to %d: " % (conn.id, to.id) + payload
            to.send(text)
            sent[to.id].append(text)
        if payload[0] % 2:
            conn.echo()
            sent[conn.id].append(bytes(payload))

    pair = start(frame=frame)
    clients = [pair.connect() for _ in range(5)]
    for number, client in enumerate(clients):
        client.send(b"".join(masked(BINARY, bytes([at, number])) for at in range(7)))
    pair.turn()

    for number, client in enumerate(clients, 1):
        assert [payload for _, payload in frames(drain(client))] == sent[number]


def test_a_send_in_no_callback_leaves_with_the_next_turn(start):
    """Outside callbacks a send waits for the turn, or for `settle`, and wakes the loop."""
    pair = start()
    client = pair.connect()
    conn = pair.handler.conns[1]

    conn.send("one")
    pair.loop.take_turns(10, 1)  # returns at once: it was woken
    assert frames(drain(client)) == [(TEXT, b"one")]
    conn.send(bytearray(b"two"))
    pair.loop.settle()
    assert frames(drain(client)) == [(BINARY, b"two")]


@pytest.mark.parametrize(
    ("payload", "opcode", "error"),
    [
        (1, None, TypeError),
        ([1], None, TypeError),
        (b"", CLOSE, ValueError),
        (b"", 0, ValueError),
    ],
)
def test_what_is_no_message_is_refused(start, payload, opcode, error):
    """Nothing of it is sent, and the connection goes on."""
    pair = start()
    client = pair.connect()

    with pytest.raises(error):
        pair.handler.conns[1].send(payload, opcode)
    pair.handler.conns[1].send(b"next")
    pair.turn()

    assert frames(drain(client)) == [(BINARY, b"next")]


@pytest.mark.parametrize(
    "view",
    [
        memoryview(b"abcdef")[::2],
        memoryview(struct.pack("3h", 1, 2, 3)).cast("h"),
        memoryview(b"abcdef").cast("B", (2, 3)),
        memoryview(b"z").cast("B", ()),
    ],
    ids=["stride", "shorts", "2-d", "0-d"],
)
def test_any_view_is_sent_as_its_octets(start, view):
    """Strides, formats and shapes lose nothing."""
    pair = start()
    client = pair.connect()

    pair.handler.conns[1].send(view)
    pair.turn()

    assert frames(drain(client)) == [(BINARY, view.tobytes())]


def test_echo_is_for_the_message_being_handled(start):
    """echo() outside on_frame, or of another connection, is refused."""
    refused = []

    def misuse(conn, *_):
        try:
            conn.echo()
        except RuntimeError:
            refused.append(conn.id)

    def frame(conn, _payload, _opcode):
        misuse(pair.handler.conns[3 - conn.id])

    pair = start(frame=frame, opened=misuse, closed=misuse)
    clients = [pair.connect(), pair.connect()]
    assert refused == [1, 2]
    assert pair.talk(clients[0], masked(TEXT, b"m") + masked(CLOSE)) == b"\x88\0"
    assert refused == [1, 2, 2, 1]
    misuse(pair.handler.conns[2])
    clients[1].close()
    pair.turn()

    assert refused == [1, 2, 2, 1, 2, 2]


# What goes wrong in callbacks.


@pytest.mark.parametrize("size", [4, 70_000])
@pytest.mark.parametrize("error", [ValueError, MemoryError, ExceptionGroup])
def test_a_callback_that_raises_ends_its_own_connection(start, error, size):
    """1011 for it alone, behind what it had sent; the rest of its messages is not handled."""

    def frame(conn, payload, _opcode):
        if payload[:3] == b"bad":
            conn.send(b"sent before")
            conn.echo()
            raise error("mine", [ValueError()]) if error is ExceptionGroup else error
        conn.echo()

    pair = start(frame=frame)
    client, bystander = pair.connect(), pair.connect()
    bad = b"bad" + b"d" * (size - 3)
    client.send(masked(TEXT, b"good") + masked(BINARY, bad)[:10_000])
    bystander.send(masked(TEXT, b"here"))
    pair.turn()
    reply = drain(client) + pair.talk(
        client, masked(BINARY, bad)[10_000:] + masked(TEXT, b"never") + masked(PING)
    )

    assert frames(reply) == [(TEXT, b"good"), (BINARY, b"sent before"), FAILED]
    assert frames(drain(bystander)) == [(TEXT, b"here")]
    assert pair.reports == [("on_frame failed", error)]
    assert b"never" not in pair.handler.messages
    assert pair.loop.statistics().handler_failures == 1
    client.close()
    pair.turn()
    assert pair.handler.of("close") == [(1, 1011, "the handler failed")]


def test_a_failure_behind_an_echo_and_a_send_is_told(start):
    """Replies that were held back for a send leave nothing behind that the Close trips over."""

    def frame(conn, payload, _opcode):
        if payload == b"bad":
            conn.send(b"sent before")
            raise ValueError
        conn.echo()

    pair = start(frame=frame)
    client = pair.connect()

    reply = pair.talk(client, masked(TEXT, b"good") + masked(TEXT, b"bad"))

    assert frames(reply) == [(TEXT, b"good"), (BINARY, b"sent before"), FAILED]


def test_a_peers_close_behind_a_failure_is_no_clean_end(start):
    """on_close tells of the failure, however the peer's own Close was cut from the message."""

    def frame(_conn, _payload, _opcode):
        raise ValueError

    for cut in (0, 7, 100):
        pair = start(frame=frame)
        client = pair.connect()
        stream = masked(TEXT, b"m") + masked(CLOSE, close_payload(1000, b"bye"))
        reply = pair.talk(client, stream[:cut]) + pair.talk(client, stream[cut:])
        client.close()
        pair.turn()

        assert frames(reply) == [FAILED]
        assert pair.handler.of("close") == [(1, 1011, "the handler failed")], cut


def test_on_open_that_raises_ends_its_connection(start):
    """1011 for it alone; what came with it is not handled, and on_close comes once."""

    def opened(conn):
        if conn.id == 1:
            conn.send(b"welcome")
            raise ValueError

    pair = start(frame=echo, opened=opened)
    client, other = pair.connect(masked(TEXT, b"leftover")), pair.connect()

    assert frames(pair.talk(client, masked(TEXT, b"more"))) == [(BINARY, b"welcome"), FAILED]
    assert pair.talk(client, masked(CLOSE, close_payload(1011))) == b""
    assert is_over(client)
    assert frames(pair.talk(other, masked(TEXT, b"fine"))) == [(TEXT, b"fine")]
    assert pair.handler.of("close") == [(1, 1011, "")]
    assert pair.reports == [("on_open failed", ValueError)]


def test_on_close_that_raises_is_reported(start):
    """The connection has ended, others go on, and it is not called again."""

    def closed(_conn, _code, _reason):
        raise ValueError

    pair = start(frame=echo, closed=closed)
    client, reset, other = pair.connect(), pair.connect(), pair.connect()
    reset.close()
    assert frames(pair.talk(client, masked(CLOSE))) == [(CLOSE, b"")]

    assert frames(pair.talk(other, masked(TEXT, b"fine"))) == [(TEXT, b"fine")]
    assert pair.reports == [("on_close failed", ValueError)] * 2


class StopError(BaseException):
    """What is no Exception, as KeyboardInterrupt."""


def test_what_is_no_exception_leaves_the_loop_usable(start):
    """It comes out of the turn; its message counts as failed, the others are handled."""

    def frame(conn, payload, _opcode):
        conn.echo()
        if payload == b"stop":
            raise StopError

    pair = start(frame=frame)
    client, other = pair.connect(), pair.connect()
    for _ in range(3):  # the answers of earlier batches lie where the next ones' go
        pair.talk(client, masked(TEXT, b"before") * 3)
    client.send(masked(TEXT, b"first") + masked(TEXT, b"stop") + masked(TEXT, b"never"))
    other.send(masked(TEXT, b"other"))

    with pytest.raises(StopError):
        pair.turn()
    reply = pair.hear(client)

    assert frames(reply) == [(TEXT, b"first"), FAILED]
    assert frames(drain(other)) == [(TEXT, b"other")]


def test_what_is_no_exception_in_on_open_loses_no_octets(start):
    """The connection whose on_open was torn is closed, not served with octets missing."""

    def opened(_conn):
        raise StopError

    pair = start(frame=echo, opened=opened)
    with pytest.raises(StopError):
        pair.connect(masked(TEXT, b"leftover")[:5])

    assert frames(pair.talk(pair.clients[0], masked(TEXT, b"leftover")[5:])) == [FAILED]
    assert pair.handler.messages == []


def test_what_is_no_exception_in_on_close_keeps_the_others_on_close(start):
    """The ends of connections that ended together are all told."""

    def closed(conn, _code, _reason):
        if conn.id == 1:
            raise StopError

    pair = start(closed=closed)
    for client in [pair.connect() for _ in range(3)]:
        client.close()

    with pytest.raises(StopError):
        pair.turn()
    pair.loop.close()

    assert [event[0] for event in pair.handler.of("close")] == [1, 2, 3]


def test_a_loop_is_closed_though_a_callback_ends_everything(start):
    """close() gives back every socket, whatever comes out of the callbacks that are due."""

    def frame(_conn, _payload, _opcode):
        raise StopError

    pair = start(frame=frame)
    clients = [pair.connect() for _ in range(3)]
    for client in clients:
        client.send(masked(TEXT, b"m"))
    with pytest.raises(StopError):
        pair.turn()

    with pytest.raises(StopError):
        pair.loop.close()

    assert len(pair.handler.messages) == 2
    for client in clients:
        drain(client)
        assert is_over(client)


def test_who_comes_while_messages_wait_does_not_have_them_all_handled(start, monkeypatch):
    """A turn's callbacks keep to their budget though connections are added; on_open follows."""
    pair = start(frame=echo)
    client = pair.connect()
    client.send(masked(TEXT, b"m") * 100)
    monkeypatch.setattr(_callbacks, "BUDGET", 0.001)
    monkeypatch.setattr(_callbacks, "time", SimpleNamespace(monotonic=itertools.count().__next__))
    pair.turn(1)
    handled = len(pair.handler.messages)
    assert 0 < handled < 100

    pair.connect(masked(TEXT, b"left over"))

    assert len(pair.handler.messages) == handled
    assert frames(pair.hear(client)) == [(TEXT, b"m")] * 100
    assert pair.handler.events[-2:] == [("open", 2), ("frame", 2, b"left over", TEXT)]


# Closing from this side.


def test_close_starts_the_closing_handshake(start):
    """The peer is told the code, no more messages are handled, its answer is the end."""

    def frame(conn, payload, _opcode):
        conn.send(b"last")
        conn.close(3000, "enough")
        conn.close(3001)
        conn.send(b"dropped")
        assert not conn.is_open

    pair = start(frame=frame)
    client = pair.connect()

    reply = pair.talk(client, masked(TEXT, b"1") + masked(TEXT, b"2") + masked(PING))
    reply += pair.talk(client, masked(TEXT, b"3") + joined(TEXT, [b"4", b"5"]))

    assert frames(reply) == [(BINARY, b"last"), (CLOSE, close_payload(3000, b"enough"))]
    assert pair.handler.messages == [b"1"]
    assert pair.register(s.DROPPED) == 1
    assert not is_over(client)
    assert pair.talk(client, masked(CLOSE, close_payload(3000))) == b""
    assert is_over(client)
    assert pair.handler.of("close") == [(1, 3000, "")]


@pytest.mark.parametrize("size", [5, 70_000])
def test_an_echo_that_was_asked_for_before_the_close_leaves_before_it(start, size):
    """echo() and then close() answers the message and closes."""

    def frame(conn, _payload, _opcode):
        conn.echo()
        conn.close()

    pair = start(frame=frame)
    client, other = pair.connect(), pair.connect()
    message = b"x" * size
    other.send(masked(TEXT, b"y"))

    reply = pair.talk(client, masked(TEXT, message))

    assert frames(reply) == [(TEXT, message), (CLOSE, close_payload(1000))]
    assert frames(pair.hear(other)) == [(TEXT, b"y"), (CLOSE, close_payload(1000))]


def test_an_echo_behind_the_close_is_dropped(start):
    """Nothing follows a Close (§5.5.1)."""

    def frame(conn, _payload, _opcode):
        conn.close()
        conn.echo()

    pair = start(frame=frame)

    assert frames(pair.talk(pair.connect(), masked(TEXT, b"m"))) == [(CLOSE, close_payload(1000))]


def test_the_peers_close_behind_the_handlers_own_ends_it(start):
    """Both in one receive: one Close each way and one on_close."""

    def frame(conn, _payload, _opcode):
        conn.close(3000)

    pair = start(frame=frame)
    client = pair.connect()

    reply = pair.talk(client, masked(TEXT, b"m") + masked(CLOSE, close_payload(1001, b"away")))

    assert frames(reply) == [(CLOSE, close_payload(3000))]
    assert is_over(client)
    assert pair.handler.of("close") == [(1, 1001, "away")]


def test_a_fault_after_the_handlers_close_ends_the_connection(start):
    """Nothing is sent behind our Close, but the connection is not waited for any longer."""

    def frame(conn, _payload, _opcode):
        conn.close()

    for cut in (7, 100):
        pair = start(frame=frame)
        client = pair.connect()
        stream = masked(TEXT, b"m") + build_frame(TEXT, b"bare")
        reply = pair.talk(client, stream[:cut]) + pair.talk(client, stream[cut:])

        assert frames(reply) == [(CLOSE, close_payload(1000))]
        assert is_over(client)  # half-closed
        assert pair.loop._slots[0, s.PHASE] == s.LINGERING


def test_a_peer_that_does_not_answer_the_close_is_dropped(start):
    """After the close timeout on_close says 1006."""
    pair = start(limits=triows.Limits(close_timeout=10))
    client = pair.connect()
    pair.handler.conns[1].close()
    assert code_of(pair.hear(client)) == 1000

    pair.shift(11)

    assert is_over(client)
    assert pair.handler.of("close") == [(1, 1006, "")]


# The end of a connection, as on_close is told of it.


@pytest.mark.parametrize(
    ("octets", "told"),
    [
        (masked(CLOSE), (1005, "")),
        (masked(CLOSE, close_payload(1000)), (1000, "")),
        (masked(CLOSE, close_payload(4000, "grüße".encode())), (4000, "grüße")),
        (masked(3), (1002, "reserved opcode")),
        (masked(TEXT, b"\xff"), (1007, "text not UTF-8")),
        (masked(BINARY, bytes(1001)), (1009, "message too big")),
        (masked(TEXT, b"unfin", fin=False), (1006, "")),
    ],
)
@pytest.mark.parametrize("before", [b"", masked(TEXT, b"before")])
def test_on_close_tells_how_it_ended(start, octets, told, before):
    """Once, behind all messages: the peer's code, or ours where we failed it (§7.1.5)."""
    pair = start(frame=echo, limits=triows.Limits(max_message=1000))
    client = pair.connect()

    pair.talk(client, before + octets)
    client.close()
    pair.turn()

    assert pair.handler.events[-1] == ("close", 1, *told)
    assert pair.handler.messages == ([b"before"] if before else [])
    assert pair.register(s.CONNECTIONS) == 0


def test_on_close_after_a_reset(start):
    """A reset is 1006, for that connection alone; what it had sent was handled."""
    handler = Recorder(echo)
    pair = start(handler)
    listener = socket.create_server(("127.0.0.1", 0))
    client = socket.create_connection(listener.getsockname())
    accepted, _ = listener.accept()
    listener.close()
    pair.loop.add(accepted.detach(), session=9)
    other = pair.connect()
    client.send(masked(TEXT, b"m"))
    pair.turn()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()
    pair.turn()

    assert handler.of("close") == [(9, 1006, "")]
    assert frames(pair.talk(other, masked(TEXT, b"fine"))) == [(TEXT, b"fine")]


def test_on_close_after_keepalive_and_message_timeouts(start):
    """1006 for a peer that is gone, 1008 for a message that is never finished."""
    pair = start(
        limits=triows.Limits(message_timeout=25, close_timeout=5),
        keepalive=triows.KeepAlive(interval=20, timeout=10),
    )
    silent, slow = pair.connect(), pair.connect()
    pair.talk(slow, masked(TEXT, b"unfin", fin=False))
    pair.shift(21)
    pair.shift(11)
    pair.shift(6)

    assert pair.handler.of("close") == [
        (1, 1006, ""),
        (2, 1008, "message not finished in time"),
    ]
    drain(silent)  # the Ping
    assert is_over(silent)


def test_on_close_at_the_end_of_the_loop(start):
    """Goodbye says 1001 to all; who answers ends with its code, the rest with 1006."""
    pair = start(frame=echo)
    answering, deaf = pair.connect(), pair.connect()
    pair.loop.say_goodbye()
    pair.handler.conns[2].send(b"dropped")
    assert code_of(pair.talk(answering, masked(CLOSE, close_payload(1001)))) == 1001
    assert code_of(pair.talk(deaf, masked(TEXT, b"not heard"))) == 1001
    pair.loop.close()
    pair.loop.close()  # harmless

    assert pair.handler.of("close") == [(1, 1001, ""), (2, 1006, "")]
    assert pair.handler.messages == []
    assert pair.register(s.DROPPED) == 1


def test_messages_of_a_turn_are_handled_before_goodbye(start):
    """What was received when the end came is handled, answered and then told goodbye."""
    pair = start(frame=echo)
    client = pair.connect()
    client.send(masked(TEXT, b"in time"))
    pair.turn(1)

    pair.loop.say_goodbye()

    assert frames(drain(client))[0] == (TEXT, b"in time")


def test_a_slot_that_ended_is_another_connections_only_when_that_is_told(start):
    """Each connection has its own on_open, on_close and messages, though slots are used again."""
    pair = start(frame=echo)
    for number in range(1, 6):
        client = pair.connect()
        pair.talk(client, masked(TEXT, b"%d" % number) + masked(CLOSE))
    assert pair.register(s.USED_SLOTS) == 1
    kinds = [event[:2] for event in pair.handler.events]

    assert kinds == [(kind, n) for n in range(1, 6) for kind in ("open", "frame", "close")]


def test_a_close_that_is_not_answered_yet_hits_no_successor(start):
    """A connection that a sweep ends with a row of its own pending takes none with it."""
    pair = start(frame=echo, limits=triows.Limits(close_timeout=10))
    client, other = pair.connect(), pair.connect()
    pair.handler.conns[1].close()
    pair.hear(client)
    client.send(masked(CLOSE))
    other.send(masked(TEXT, b"row of another"))
    pair.loop._slots[0, s.CLOSE_SINCE] -= int(11e9)
    pair.loop._registers[s.NEXT_SWEEP] = 0
    pair.turn(1)
    successor = pair.connect()

    assert frames(pair.talk(successor, masked(TEXT, b"mine"))) == [(TEXT, b"mine")]
    assert [event[0] for event in pair.handler.of("close")] == [1]
