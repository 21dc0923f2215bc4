"""The turn over an operating system that fails: at every call, in every way.

The system calls are wrapped where the kernels look them up, which only the
interpreted kernels do: these tests run under ``NUMBA_DISABLE_JIT=1``.
"""

import contextlib
import errno

import pytest

import triows
from tests.unit.callback_pairs import CallbackPair, Recorder
from tests.unit.test_turn import (
    BINARY,
    CLOSE,
    PING,
    TEXT,
    Pair,
    close_payload,
    code_of,
    drain,
    frames,
    joined,
    masked,
)
from triows._kernels import _goodbye, _inlet, _outlet, _replay, _rows, _turn
from triows._kernels import slots as s
from triows._kernels._handler import resolve_handler
from triows._kernels._registry import JIT
from triows._reactor import _blocks

pytestmark = pytest.mark.skipif(JIT, reason="compiled kernels call libc, not a script")

PLACES = {
    "receive": [_inlet],
    "send": [_outlet],
    "resize": [_inlet, _outlet],
    "release": [_inlet, _outlet, _goodbye, _replay, _rows],
    "watch": [_outlet, _goodbye, _turn],
    "wait_events": [_turn],
    "end_writing": [_goodbye],
}
PASSING = [-errno.EINTR, -errno.EAGAIN]
FATAL = [-errno.ECONNRESET, -errno.EPIPE, -errno.ETIMEDOUT, -errno.ENOBUFS]


class Script:
    """Wraps a system call: counts it, and at one index answers by itself."""

    def __init__(self, monkeypatch, name, answer=None, at=-1):
        real = getattr(PLACES[name][-1], name)
        self.calls = 0
        self.blocks = set()

        def call(*args):
            self.calls += 1
            if self.calls - 1 == at:
                return answer(real, *args) if callable(answer) else answer
            return real(*args)

        for module in PLACES[name]:
            monkeypatch.setattr(module, name, call)


@pytest.fixture
def blocks(monkeypatch):
    """The blocks of memory that were made and not freed."""
    live = set()
    real_resize, real_release = _inlet.resize, _inlet.release

    def resize(handle, size):
        block = real_resize(handle, size)
        if block:
            live.discard(int(handle))
            live.add(int(block))
        return block

    def release(handle):
        if handle:
            live.remove(int(handle))
        return real_release(handle)

    for module in PLACES["resize"]:
        monkeypatch.setattr(module, "resize", resize)
    for module in PLACES["release"]:
        monkeypatch.setattr(module, "release", release)
    monkeypatch.setattr(_blocks, "_free", release)
    return live


def echo(pair, client):
    """Messages, whole, joined and pipelined."""
    stream = masked(TEXT, b"one") + masked(BINARY, bytes(200)) + joined(TEXT, [b"tw", b"o"])
    reply = pair.talk(client, stream + masked(PING, b"?"))
    reply += pair.talk(client, masked(TEXT, b"cut")[:3])
    return reply + pair.talk(client, masked(TEXT, b"cut")[3:])


ECHOED = [(TEXT, b"one"), (BINARY, bytes(200)), (TEXT, b"two"), (10, b"?"), (TEXT, b"cut")]


def large(pair, client):
    """A message that is received into its own block and does not fit into the socket."""
    return pair.talk(client, masked(BINARY, bytes(150_000)))


def closing(pair, client):
    """A closing handshake behind a message."""
    return pair.talk(client, masked(TEXT, b"last") + masked(CLOSE, close_payload(1000)))


def failing(pair, client):
    """A fault behind a message."""
    return pair.talk(client, masked(TEXT, b"last") + masked(3))


CONVERSATIONS = {
    echo: ECHOED,
    large: [(BINARY, bytes(150_000))],
    closing: [(TEXT, b"last"), (CLOSE, close_payload(1000))],
    failing: [(TEXT, b"last"), (CLOSE, close_payload(1002, b"reserved opcode"))],
}


def converse(conversation, buffer=None):
    """Run a conversation; returns the loop's end of it and what came back."""
    pair = Pair(limits=triows.Limits(send_queue_octets=10_000))
    bystander = pair.connect()
    client = pair.connect(buffer=buffer)
    reply = b""
    with contextlib.suppress(ConnectionError):
        reply = conversation(pair, client)
    assert frames(pair.talk(bystander, masked(TEXT, b"untouched"))) == [(TEXT, b"untouched")]
    return pair, reply


def wire(expected):
    """The octets of the replies that are expected."""
    pair = Pair()
    octets = b"".join(triows_frame(opcode, payload) for opcode, payload in expected)
    pair.close()
    return octets


def triows_frame(opcode, payload):
    """A server's frame."""
    size = len(payload)
    if size <= 125:
        return bytes((0x80 | opcode, size)) + payload
    if size < 65_536:
        return bytes((0x80 | opcode, 126)) + size.to_bytes(2, "big") + payload
    return bytes((0x80 | opcode, 127)) + size.to_bytes(8, "big") + payload


def count_calls(name, conversation):
    """How often a conversation makes a system call."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        script = Script(monkeypatch, name)
        pair, _ = converse(conversation, buffer=4_096)
        pair.close()
    return script.calls


def indices(name, conversation):
    """Every index of a system call in a conversation; of an idle loop's many waits every third."""
    count = count_calls(name, conversation)
    return range(0, count, 1 if count < 100 else 3)


@pytest.mark.parametrize("conversation", CONVERSATIONS, ids=lambda one: one.__name__)
@pytest.mark.parametrize("answer", PASSING, ids=lambda code: errno.errorcode[-code])
@pytest.mark.parametrize("name", ["receive", "send", "wait_events"])
def test_item_25_what_passes_changes_nothing(monkeypatch, blocks, name, answer, conversation):
    """EINTR and EAGAIN, at any call, change nothing in what arrives."""
    if (name, answer) == ("wait_events", -errno.EAGAIN):
        pytest.skip("epoll_wait does not fail with EAGAIN")
    for at in indices(name, conversation):
        with monkeypatch.context() as patch:
            Script(patch, name, answer, at)
            pair, reply = converse(conversation, buffer=4_096)
        assert reply == wire(CONVERSATIONS[conversation]), at
        pair.close()
    assert blocks == set()


@pytest.mark.parametrize("conversation", CONVERSATIONS, ids=lambda one: one.__name__)
@pytest.mark.parametrize("answer", FATAL, ids=lambda code: errno.errorcode[-code])
@pytest.mark.parametrize("name", ["receive", "send", "end_writing"])
def test_item_25_what_breaks_a_connection_breaks_it_alone(
    monkeypatch, blocks, name, answer, conversation
):
    """Any other error, at any call, ends that connection, behind whole octets and nothing else."""
    for at in indices(name, conversation):
        pair = Pair(limits=triows.Limits(send_queue_octets=10_000))
        bystander = pair.connect()
        client = pair.connect(buffer=4_096)
        with monkeypatch.context() as patch:
            script = Script(patch, name, answer, at)
            reply = b""
            with contextlib.suppress(ConnectionError):
                reply = conversation(pair, client)
        assert wire(CONVERSATIONS[conversation]).startswith(reply), at
        assert pair.register(s.SYSTEM_FAILURES) == (script.calls > at and name != "end_writing")
        assert frames(pair.talk(bystander, masked(TEXT, b"untouched"))) == [(TEXT, b"untouched")]
        pair.close()
        assert pair.register(s.CONNECTIONS) == pair.register(s.QUEUED) == 0
        assert pair.register(s.INCOMPLETE) == 0
    assert blocks == set()


@pytest.mark.parametrize("conversation", CONVERSATIONS, ids=lambda one: one.__name__)
@pytest.mark.parametrize("most", [1, 2, 3, 100])
def test_item_25_short_sends_change_nothing(monkeypatch, blocks, conversation, most):
    """A send that takes less than it was given is gone on with where it stopped."""

    def short(real, descriptor, octets, start, size):
        return real(descriptor, octets, start, min(size, most))

    for at in indices("send", conversation):
        with monkeypatch.context() as patch:
            Script(patch, "send", short, at)
            pair, reply = converse(conversation)
        assert reply == wire(CONVERSATIONS[conversation]), at
        pair.close()
    assert blocks == set()


@pytest.mark.parametrize("conversation", CONVERSATIONS, ids=lambda one: one.__name__)
@pytest.mark.parametrize("most", [1, 2, 3, 100])
def test_item_25_short_receives_change_nothing(monkeypatch, blocks, conversation, most):
    """A receive that brings less than there is is gone on with where it stopped."""

    def short(real, descriptor, octets, start, size):
        return real(descriptor, octets, start, min(size, most))

    for at in indices("receive", conversation):
        with monkeypatch.context() as patch:
            Script(patch, "receive", short, at)
            pair, reply = converse(conversation)
        assert reply == wire(CONVERSATIONS[conversation]), at
        pair.close()
    assert blocks == set()


@pytest.mark.parametrize("conversation", CONVERSATIONS, ids=lambda one: one.__name__)
def test_item_25_want_of_memory_ends_one_connection(monkeypatch, blocks, conversation):
    """Where there is no memory for what a connection holds, it is told so, or ended."""
    for at in range(count_calls("resize", conversation)):
        with monkeypatch.context() as patch:
            Script(patch, "resize", 0, at)
            pair, reply = converse(conversation, buffer=4_096)
        expected = wire(CONVERSATIONS[conversation])
        later = triows_frame(CLOSE, close_payload(1013, b"too many unfinished messages"))
        assert expected.startswith(reply.removesuffix(later)), at
        pair.close()
    assert blocks == set()


def test_epolls_own_failure_is_raised(monkeypatch):
    """What epoll_wait refuses, but EINTR, is the loop's end, and says why."""
    pair = Pair()
    Script(monkeypatch, "wait_events", -errno.EBADF, 0)

    with pytest.raises(OSError, match="Bad file descriptor"):
        pair.turn()

    pair.close()


def test_what_epoll_cannot_be_asked_for_ends_the_connection(monkeypatch):
    """A connection that epoll would no longer tell of is of no use."""
    pair = Pair()
    client = pair.connect(buffer=4_096)
    Script(monkeypatch, "watch", -errno.ENOMEM, 0)

    for _ in range(30):
        try:
            client.send(masked(BINARY, bytes(3_000)))
        except OSError:
            break
        pair.turn()

    assert pair.register(s.CONNECTIONS) == 0
    assert pair.loop.statistics().errnos["ENOMEM"] == 1
    pair.close()


@pytest.mark.parametrize(("each", "served"), [(1, 40), (30, 36), (150, 8), (70, 16), (5_000, 4)])
def test_a_turn_stops_at_its_budget(monkeypatch, each, served):
    """After a millisecond a turn serves three more sockets at most; the next goes on from there."""
    pair = Pair()
    clients = [pair.connect() for _ in range(40)]
    for client in clients:
        client.send(masked(TEXT, b"hi"))
    clock = [10**9]
    real = _turn.serve_socket

    def serve_socket(*args):
        clock[0] += each * 1_000  # microseconds
        return real(*args)

    monkeypatch.setattr(_turn, "serve_socket", serve_socket)
    monkeypatch.setattr(_turn, "now", lambda _: clock[0])

    turns = [pair.loop.take_turns(0, 1)]
    while pair.loop.has_events:
        turns.append(pair.loop.take_turns(0, 1))

    assert turns[0] == served
    assert sum(turns) == 40
    assert all(frames(drain(client)) == [(TEXT, b"hi")] for client in clients)
    pair.close()


@pytest.mark.parametrize("size", [2**16, 2**18, 2**20])
def test_an_octet_is_copied_a_bounded_number_of_times(monkeypatch, size):
    """However large a message is, what is moved for it is a small multiple of its octets."""
    moved = [0]
    real_move, real_resize = _inlet.move, _inlet.resize
    rooms = {}

    def move(target, start, source, source_start, count):
        moved[0] += int(count)
        return real_move(target, start, source, source_start, count)

    def resize(handle, room):
        moved[0] += rooms.pop(int(handle), 0)  # at the worst
        block = real_resize(handle, room)
        rooms[int(block)] = int(room)
        return block

    for module in (_inlet, _outlet):
        monkeypatch.setattr(module, "move", move)
        monkeypatch.setattr(module, "resize", resize)
    pair = Pair()
    client = pair.connect()

    reply = pair.talk(client, masked(BINARY, bytes(size)))

    assert len(reply) == size + 10
    assert moved[0] < 3 * size
    pair.close()


def test_a_queue_that_stays_full_is_moved_a_bounded_number_of_times(monkeypatch):
    """A peer that always takes just what it is sent makes no message dear."""
    moved = [0]
    real = _outlet.move

    def move(target, start, source, source_start, count):
        moved[0] += int(count)
        return real(target, start, source, source_start, count)

    pair = Pair()
    client = pair.connect(buffer=4_096)
    size = taken = 0
    slot = pair.loop._slots[0]

    def send():
        nonlocal size
        pair.loop.send_to(1, bytes(1_000), BINARY)
        pair.loop.settle()
        size += 1_004

    while size < 200_000 or slot[s.QUEUE_ROOM] - slot[s.QUEUE_SIZE] > 10_000:
        send()
    monkeypatch.setattr(_outlet, "move", move)
    for _ in range(200):
        taken += len(client.recv(1_004))
        pair.turn(1)
        send()

    assert pair.register(s.QUEUED) > 200_000
    assert moved[0] < 2 * size
    assert taken + len(pair.hear(client)) == size
    pair.close()


# The same with a handler in Python, which echoes, sends, and sends elsewhere.

LARGE = b"large " * 12_000
MESSAGES = [b"one", b"two", LARGE, b"three"]
STREAM = (
    masked(TEXT, b"one")
    + masked(PING, b"?")
    + joined(TEXT, [b"t", b"wo"])
    + masked(TEXT, LARGE)
    + masked(TEXT, b"three")
    + masked(CLOSE, close_payload(1000))
)
OWN = [(BINARY, b"own"), (BINARY, b"again")]
REPLIED = [
    *[*OWN, (TEXT, b"one"), (10, b"?"), *OWN, (TEXT, b"two"), *OWN, (TEXT, LARGE)],
    *[*OWN, (TEXT, b"three"), (CLOSE, close_payload(1000))],
]
TOLD = [(BINARY, b"it said " + message[:5]) for message in MESSAGES]


class Busy(Recorder):
    """Echoes and sends on the second connection, and tells the first of it."""

    def on_frame(self, conn, payload, opcode):
        """Send to both sides, and echo."""
        super().on_frame(conn, payload, opcode)
        if conn.id == 2:
            conn.send(b"own")
            self.conns[1].send(b"it said " + payload[:5])
            conn.send(b"again")
        conn.echo()


def call_back(buffer=None):
    """Run a conversation with a handler; returns the loop and what each of two peers was told."""
    pair = CallbackPair(Busy(), triows.Limits(send_queue_octets=10_000))
    bystander = pair.connect()
    client = pair.connect(buffer=buffer)
    reply = told = b""
    with contextlib.suppress(ConnectionError):
        reply = pair.talk(client, STREAM)
    with contextlib.suppress(ConnectionError):
        told = pair.talk(bystander, masked(TEXT, b"untouched"))
    return pair, reply, told


def talk_at_every(monkeypatch, name, answer, *, buffer=None):
    """Have each call of a name answered so in turn; yields what a conversation led to."""
    with monkeypatch.context() as patch:
        script = Script(patch, name)
        call_back(buffer)[0].close()
    first = 2 if name == "watch" else 0  # behind those by which the two sockets are added
    for at in range(first, script.calls):
        with monkeypatch.context() as patch:
            Script(patch, name, answer, at)
            pair, reply, told = call_back(buffer)
        pair.close()
        assert pair.register(s.CONNECTIONS) == pair.register(s.QUEUED) == 0
        assert pair.register(s.INCOMPLETE) == 0
        assert sorted(event[0] for event in pair.handler.of("close")) == [1, 2], at
        yield at, reply, told


class StopError(BaseException):
    """What a loop does not catch."""


def test_blocks_that_no_callback_was_called_for_are_freed(monkeypatch, blocks):
    """A loop that is torn down in the midst of its rows leaves nothing behind."""

    def frame(_conn, _payload, _opcode):
        raise StopError

    handler = resolve_handler(lambda octets, _opcode: int(octets[0]))
    pair = CallbackPair(Recorder(frame), compiled=handler)
    clients = [pair.connect() for _ in range(3)]
    for client in clients:
        client.send(joined(BINARY, [b"\3", b"b"]) + joined(BINARY, [b"\1", b"b"]))
    with pytest.raises(StopError):
        pair.turn()
    with pytest.raises(StopError):
        pair.loop.close()
    pair.close()

    assert len(pair.handler.messages) == 2
    assert blocks == set()


HEARD = [*TOLD, (TEXT, b"untouched")]


@pytest.mark.parametrize("answer", PASSING, ids=lambda code: errno.errorcode[-code])
@pytest.mark.parametrize("name", ["receive", "send"])
def test_item_25_what_passes_changes_nothing_for_a_handler(monkeypatch, blocks, name, answer):
    """EINTR and EAGAIN, at any call, change nothing in what its peers are told."""
    for at, reply, told in talk_at_every(monkeypatch, name, answer, buffer=4_096):
        assert frames(reply) == REPLIED, at
        assert frames(told) == HEARD, at
    assert blocks == set()


@pytest.mark.parametrize("answer", FATAL, ids=lambda code: errno.errorcode[-code])
@pytest.mark.parametrize("name", ["receive", "send", "watch"])
def test_item_25_what_breaks_a_handlers_connection_breaks_it_alone(
    monkeypatch, blocks, name, answer
):
    """Any other error ends that connection, behind what it was told; the other goes on."""
    for at, reply, told in talk_at_every(monkeypatch, name, answer, buffer=4_096):
        assert wire(REPLIED).startswith(reply), at
        assert wire(HEARD).startswith(told) or frames(told)[-1] == HEARD[-1], at
        assert reply == wire(REPLIED) or told[-9:] == b"untouched", at
    assert blocks == set()


@pytest.mark.parametrize("name", ["send", "receive"])
@pytest.mark.parametrize("most", [1, 3, 100])
def test_item_25_short_calls_change_nothing_for_a_handler(monkeypatch, blocks, name, most):
    """A call that moves less than it was given is gone on with where it stopped."""

    def short(real, descriptor, octets, start, size):
        return real(descriptor, octets, start, min(size, most))

    for at, reply, told in talk_at_every(monkeypatch, name, short):
        assert frames(reply) == REPLIED, at
        assert frames(told) == HEARD, at
    assert blocks == set()


def test_item_25_want_of_memory_ends_one_connection_of_a_handler(monkeypatch, blocks):
    """Where there is no memory to hold something back, that connection ends, and no other."""
    for at, reply, told in talk_at_every(monkeypatch, "resize", 0, buffer=4_096):
        later = triows_frame(CLOSE, close_payload(1013, b"too many unfinished messages"))
        assert wire(REPLIED).startswith(reply.removesuffix(later)), at
        assert wire(HEARD).startswith(told) or frames(told)[-1] == HEARD[-1], at
        assert reply == wire(REPLIED) or told[-9:] == b"untouched", at
    assert blocks == set()


def test_blocks_that_a_compiled_handler_answers_are_freed(blocks):
    """Echoed, thrown away, refused or delivered: each joined message's block is freed once."""
    address = resolve_handler(lambda payload, _opcode: int(payload[0]) - ord("0"))
    pair = CallbackPair(Busy(), compiled=address)
    clients = [pair.connect() for _ in range(2)]
    kinds = b"01303" + b"2" + b"1"
    for client in clients:
        stream = b"".join(joined(BINARY, [b"%c" % kind, b"x"]) for kind in kinds)
        reply = pair.talk(client, stream)
        reply += pair.talk(client, joined(BINARY, [b"1", b"x"]) + masked(CLOSE))
        assert code_of(reply) == 1000

    assert pair.handler.messages == [b"3x"] * 4
    pair.close()
    assert blocks == set()
