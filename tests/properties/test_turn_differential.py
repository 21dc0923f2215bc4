"""The turn and the sans-IO engine are given the same octets and say the same.

So does a loop that collects for a handler in Python which answers as the compiled one.
The engine is held to a naive model and to other libraries elsewhere; here it is the
oracle. The turn has its kernels run over socket pairs: compiled, or interpreted under
``NUMBA_DISABLE_JIT=1``.
"""

import contextlib
import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.naive_reception import BINARY, CLOSE, PING, TEXT, build_fragments, build_frame
from tests.properties.strategies import (
    keys,
    mutated_streams,
    pieces,
    streams,
    valid_streams,
)
from tests.unit.callback_pairs import CallbackPair
from tests.unit.test_turn import Pair, is_over
from triows import Handler, Limits, ProtocolError, Response, ServerEngine
from triows._engine import Phase
from triows._kernels import slots as s
from triows._kernels._handler import resolve_handler
from triows._reactor import _callbacks

SMALL = st.sampled_from([0, 1, 124, 126, 299, 300, 1_000, 1_100]).map(
    lambda size: Limits(max_message=size, max_fragments=4)
)
LARGE = Limits(max_message=200_000, max_fragments=40, send_queue_octets=100_000)
REGION = s.RECEIVE_SIZE
FAILURES = [
    build_frame(CLOSE, b"\x03\xf3" + reason)
    for reason in (b"internal error", b"the handler failed")
]
"""How the engine and the turn say that a handler failed, with the same code."""


def handle(payload, opcode):
    """Answer by the size: throw away, change and echo, close, fail, or just echo."""
    size = len(payload)
    if size == 7:
        return 2
    if size == 12:
        return 77
    if size % 5 == 3:
        return 0
    if size % 5 == 4:
        payload[0] ^= 1
        payload[size - 1] ^= opcode
    return 1


class InPython(Handler):
    """Answers as `handle`, and notes what it is told."""

    def __init__(self):
        self.messages = 0
        self.opened = []
        self.closed = []

    def on_open(self, conn):
        """Note it."""
        self.opened.append(conn.id)

    def on_frame(self, conn, payload, opcode):
        """Answer."""
        self.messages += 1
        response = handle(payload, opcode)
        if response == Response.ECHO:
            conn.echo()
        elif response == Response.CLOSE:
            conn.close()
        elif response != Response.DISCARD:
            raise HandlerError

    def on_close(self, conn, code, reason):
        """Note it."""
        self.closed.append(conn.id)


@pytest.fixture(scope="module", autouse=True)
def unhurried():
    """Callbacks have all the time that they need, however slow the machine is."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(_callbacks, "BUDGET", math.inf)
        yield


@pytest.fixture(scope="module")
def handler():
    """The handler's address."""
    return resolve_handler(handle)


class HandlerError(Exception):
    """What an embedded engine's handler raises for what a compiled one must not return."""


class Oracle:
    """What the engine says to the octets of one peer."""

    def __init__(self, limits, answer):
        self.engine = ServerEngine(limits=limits)
        self.messages = 0
        self.failures = 0
        self.replies = b""
        self._answer = answer

    def receive(self, octets):
        """Process the next octets, as their embedder would."""
        with contextlib.suppress(ProtocolError, HandlerError):  # its Close is among the replies
            self.engine.process(bytearray(octets), self._write, self._handle)

    def _write(self, view):
        self.replies += bytes(view).replace(*FAILURES)

    def _handle(self, payload, opcode):
        if self.engine.phase is not Phase.OPEN:
            return Response.DISCARD  # the turn asks no handler once a Close was sent
        self.messages += 1
        response = self._answer(payload, opcode) if self._answer else Response.ECHO
        if response == Response.CLOSE:
            self.engine.close(1000, "", 0.0)
        if response not in list(Response):
            self.failures += 1
            raise HandlerError
        return response


class Subject:
    """What a connection of a loop says to its peer."""

    def __init__(self, pair, leftover):
        self._pair = pair
        self._client = pair.connect(leftover)
        self.replies = self._take()

    def send(self, octets):
        """Send what can be sent without a turn; returns the rest."""
        with contextlib.suppress(BlockingIOError, ConnectionError):
            return octets[self._client.send(octets) :] if octets else octets
        return octets

    def receive(self, octets):
        """Send the next octets, however many turns that takes."""
        while octets:
            try:
                octets = octets[self._client.send(octets) :]
            except BlockingIOError:
                self.replies += self._take()
            except ConnectionError:
                break  # closed: the oracle reads no more of them either
        self.replies += self._take()

    def _take(self):
        came = b""
        silences = 0
        while silences < 2:
            self._pair.turn(2)
            piece = self._read()
            came += piece
            silences = 0 if piece else silences + 1
        return came

    def _read(self):
        with contextlib.suppress(BlockingIOError, ConnectionError):
            return self._client.recv(1 << 20)
        return b""

    @property
    def is_over(self):
        """Whether the loop has closed it, or its own side of it."""
        return is_over(self._client)


def compare(conversations, limits, address=0, *, leftover=False, at_once=False):
    """Give each conversation's parts, in turns, to an oracle and to a connection of one loop.

    An *address* of `InPython` has the loop collect for it; *at_once*, all peers' parts are
    sent before the loop takes a turn.
    """
    handler = InPython() if address is InPython else None
    pair = CallbackPair(handler, limits) if handler else Pair(address, limits)
    try:
        oracles = [Oracle(limits, handle if address else None) for _ in conversations]
        subjects = []
        for parts, oracle in zip(conversations, oracles, strict=True):
            first = parts.pop(0) if leftover and parts else b""
            oracle.receive(first)
            subjects.append(Subject(pair, first))
        for step in itertools.zip_longest(*conversations, fillvalue=b""):
            rest = [
                subject.send(part) if at_once else part
                for part, subject in zip(step, subjects, strict=True)
            ]
            for part, left, oracle, subject in zip(step, rest, oracles, subjects, strict=True):
                oracle.receive(part)
                subject.receive(left)
        for oracle, subject in zip(oracles, subjects, strict=True):
            assert subject.replies == oracle.replies
            assert subject.is_over is oracle.engine.is_closed
        messages = handler.messages if handler else pair.register(s.MESSAGES_IN)
        assert messages == sum(oracle.messages for oracle in oracles)
        assert pair.register(s.HANDLER_FAILURES) == sum(oracle.failures for oracle in oracles)
        assert pair.register(s.SYSTEM_FAILURES) == 0
    finally:
        pair.close()
    if handler:
        assert sorted(handler.closed) == handler.opened == list(range(1, len(conversations) + 1))


@st.composite
def conversations(draw, streams, most=3):
    """What several peers send, each cut in places of its own."""
    count = draw(st.integers(1, most))
    return [draw(streams.flatmap(pieces)) for _ in range(count)]


@given(data=st.data(), leftover=st.booleans())
@settings(deadline=None, max_examples=150)
def test_any_streams_cut_anywhere(data, leftover):
    """Replies and ends are the engine's, whatever peers send and however it is cut."""
    parts = data.draw(conversations(streams(is_masked=True)))
    compare(parts, data.draw(SMALL), leftover=leftover)


@given(data=st.data())
@settings(deadline=None, max_examples=100)
def test_any_streams_with_a_handler(handler, data):
    """The same where a handler changes, throws away or closes."""
    compare(data.draw(conversations(streams(is_masked=True))), data.draw(SMALL), handler)


@given(data=st.data(), leftover=st.booleans(), at_once=st.booleans())
@settings(deadline=None, max_examples=150)
def test_any_streams_with_a_handler_in_python(data, leftover, at_once):
    """The same where the loop collects, and Python answers rows of several peers."""
    parts = data.draw(conversations(streams(is_masked=True)))
    compare(parts, data.draw(SMALL), InPython, leftover=leftover, at_once=at_once)


EDGES = [
    *[0, 1, 125, 126, 127, 16_383, 16_384, 16_400],
    *[REGION - 9, REGION - 8, REGION - 7, REGION - 1, REGION, REGION + 1],
    *[2 * REGION + 3, 150_000, 199_999, 200_000, 200_001],
]
"""Sizes around which a header, or the way of a payload through the turn, changes."""


@st.composite
def large_messages(draw):
    """The frames of a message of up to some regions, at times text that is wrong somewhere."""
    size = draw(st.sampled_from(EDGES))
    opcode = draw(st.sampled_from([TEXT, BINARY]))
    payload = bytearray(b"\xe2\x82\xac" * (size // 3) + b"x" * (size % 3))
    if size and draw(st.integers(0, 9)) == 0:
        payload[draw(st.integers(0, size - 1))] = 0xFF
    cuts = sorted(draw(st.lists(st.integers(0, size), max_size=3)))
    fragments = build_fragments(
        opcode,
        [bytes(payload[a:b]) for a, b in itertools.pairwise([0, *cuts, size])],
        key=draw(keys),
    )
    ping = build_frame(PING, b"between", key=draw(keys))
    return (ping if draw(st.booleans()) else b"").join(fragments)


@st.composite
def large_streams(draw):
    """Messages larger than a region, many small ones that fill it, and what may be wrong."""
    small = build_frame(TEXT, b"small", key=draw(keys)) * draw(st.integers(1, 7_000))
    part = st.one_of(large_messages(), st.just(small), valid_streams(is_masked=True))
    content = b"".join(draw(st.lists(part, min_size=1, max_size=3)))
    ending = st.one_of(
        st.just(b""),
        st.just(build_frame(CLOSE, b"\x03\xe8done", key=b"keys")),
        mutated_streams(is_masked=True),
    )
    return content + draw(ending)


@st.composite
def few_pieces(draw, content):
    """*content* cut in a few places."""
    cuts = sorted(draw(st.lists(st.integers(0, len(content)), max_size=4)))
    return [content[start:stop] for start, stop in itertools.pairwise([0, *cuts, len(content)])]


@pytest.mark.parametrize("kind", ["echo", "compiled", "python"])
@given(data=st.data())
@settings(deadline=None, max_examples=50)
def test_large_streams_cut_anywhere(handler, data, kind):
    """The same for what is larger than the receive region."""
    parts = [data.draw(large_streams().flatmap(few_pieces))]
    address = {"echo": 0, "compiled": handler, "python": InPython}[kind]
    compare(parts, LARGE, address, leftover=data.draw(st.booleans()))


@pytest.mark.parametrize("size", EDGES)
@pytest.mark.parametrize("is_text", [False, True])
@pytest.mark.parametrize("address", [0, InPython], ids=["echo", "python"])
def test_a_large_message_cut_where_a_way_changes(size, is_text, address):
    """Each size on an edge, behind a small message, cut at and around its header's end."""
    frame = build_frame(TEXT if is_text else BINARY, b"x" * size, key=b"\x01\x80\xff\x00")
    content = build_frame(BINARY, b"before", key=b"abcd") + frame + frame
    for cut in (12, 13, 14, 18, 22, 26, 27, len(content) // 2, len(content) - 1):
        compare([[content[:cut], content[cut:]]], LARGE, address)
