"""A loop with a handler in Python over socket pairs: compiled, or interpreted as elsewhere."""

import contextlib
import ctypes
import math
import socket
import struct

import pytest

import triows
from tests.naive_reception import build_frame
from tests.unit.test_turn import (
    BINARY,
    CLOSE,
    PING,
    PONG,
    TEXT,
    Pair,
    close_payload,
    code_of,
    drain,
    frames,
    is_over,
    joined,
    masked,
)
from triows._kernels import slots as s
from triows._kernels._handler import resolve_handler
from triows._reactor import CallbackLoop, _callbacks

FAILED = (CLOSE, close_payload(1011, b"the handler failed"))


class Recorder(triows.Handler):
    """Notes what it is told, and does what the test says."""

    def __init__(self, frame=None, opened=None, closed=None):
        self.events = []
        self.conns = {}
        self.do_frame, self.do_open, self.do_close = frame, opened, closed
        self.depth = 0

    @contextlib.contextmanager
    def alone(self, *event):
        """Note an event, and that no other callback is under way."""
        assert self.depth == 0, "callbacks nest"
        self.depth = 1
        self.events.append(event)
        try:
            yield
        finally:
            self.depth = 0

    def on_open(self, conn):
        """Note it."""
        self.conns[conn.id] = conn
        with self.alone("open", conn.id):
            if self.do_open:
                self.do_open(conn)

    def on_frame(self, conn, payload, opcode):
        """Note it."""
        with self.alone("frame", conn.id, bytes(payload), opcode):
            if self.do_frame:
                self.do_frame(conn, payload, opcode)

    def on_close(self, conn, code, reason):
        """Note it."""
        with self.alone("close", conn.id, code, reason):
            if self.do_close:
                self.do_close(conn, code, reason)

    def of(self, kind):
        """The events of one kind, without its name."""
        return [event[1:] for event in self.events if event[0] == kind]

    @property
    def messages(self):
        """The payloads, in order."""
        return [event[1] for event in self.of("frame")]


class CallbackPair(Pair):
    """A callback loop, and clients that talk to it."""

    def __init__(self, handler, limits=None, keepalive=None, **options):
        self.handler = handler
        self.options = options
        self.reports = []
        super().__init__(handler, limits, keepalive)

    def make_loop(self, handler, limits, keepalive):
        """The loop that is tested."""
        return CallbackLoop(handler, limits, keepalive, self.report, **self.options)

    def report(self, what, error):
        """Note what is reported."""
        self.reports.append((what, type(error)))


def echo(conn, _payload, _opcode):
    """Echo."""
    conn.echo()


@pytest.fixture
def start():
    """Make loops, and close them in the end, when nothing may be left."""
    pairs = []

    def make(*args, **options):
        frame = options.pop("frame", None)
        opened, closed = options.pop("opened", None), options.pop("closed", None)
        handler = args[0] if args else Recorder(frame, opened, closed)
        pairs.append(CallbackPair(handler, *args[1:], **options))
        return pairs[-1]

    yield make
    for pair in pairs:
        pair.close()
        assert pair.register(s.CONNECTIONS) == 0
        assert pair.register(s.QUEUED) == 0
        assert pair.register(s.INCOMPLETE) == 0
        opened = [event[0] for event in pair.handler.of("open")]
        assert sorted(opened) == sorted(event[0] for event in pair.handler.of("close"))
        assert len(set(opened)) == len(opened)


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
        conn.echo()

    pair = start(frame=frame)
    clients = [pair.connect(), pair.connect()]
    for one in order:
        clients[one].send(masked(TEXT, b"x") + masked(PING, b"p") + masked(TEXT, b"y"))
    pair.turn(2)

    first, second = (order[0] + 1, order[1] + 1)
    heard = {event[0]: [] for event in pair.handler.of("frame")}
    for number, payload, _ in pair.handler.of("frame"):
        heard[number] += [b"own " + payload, payload]
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
    """close() gives back every socket, whatever comes out of the callbacks that it waits for."""

    def frame(_conn, _payload, _opcode):
        raise StopError

    pair = start(frame=frame)
    client = pair.connect()
    client.send(masked(TEXT, b"1") + masked(TEXT, b"2"))
    with pytest.raises(StopError):
        pair.turn()
    client.send(masked(TEXT, b"3"))

    pair.loop._rows and pair.loop.close()
    assert is_over(client) or client.recv(100)


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
    free = _callbacks._free

    def poison(handle):
        assert handle not in handles
        handles.append(handle)
        ctypes.memset(handle, 0xDB, 16)

    monkeypatch.setattr(_callbacks, "_free", poison)
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
    free = _callbacks._free

    def overwrite(handle):
        ctypes.memset(handle, 0xDB, 70_016)
        free(handle)

    monkeypatch.setattr(_callbacks, "_free", overwrite)

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


def test_many_blocks_are_handled_before_more_are_received(start, monkeypatch):
    """Joined messages count: beyond a bound the rest of the peers waits."""
    pair = start(frame=echo)
    clients = [pair.connect() for _ in range(20)]
    for client in clients:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        client.send(joined(BINARY, [bytes(30_000)] * 2))
    pair.loop._registers[s.BLOCK_OCTETS] = s.BATCH_BLOCKS - 70_000
    pair.loop._registers[s.ROW_COUNT] = 0
    replies = [pair.hear(client) for client in clients]

    assert [len(reply) for reply in replies] == [60_004] * 20


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
    newcomer = pair.connect(masked(TEXT, b"new"))  # finishes the batch
    assert pair.handler.messages == [b"0", b"1", b"2", b"3", b"new"]
    reply = pair.hear(client)

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
