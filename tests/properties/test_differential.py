"""Our engine and two others, independent of it and of each other, read the same octets.

The oracles are the sans-IO protocols of websockets and wsproto. Both are laxer
than RFC 6455 in places, or notice a fault later: every such place is an excuse
with a name below, and any other difference is a failure.
"""

import codecs
import itertools
from collections.abc import Callable

import attrs
import pytest
from hypothesis import event, example, given, settings
from hypothesis import strategies as st
from websockets.frames import Opcode
from websockets.protocol import State
from websockets.server import ServerProtocol
from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, TextMessage

from tests.conformance.peer import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, build_frame
from triows import Limits, ServerEngine
from triows._engine import Closed, Failed, Message
from triows._spec import MAX_HEADER

LIMIT = 70_000
"""Octets of a message, for the engines that know a limit."""

UNKNOWN_CODE = "CLOSE with unknown reserved code"
OPEN, CLOSED, FAILED = "open", "closed by the peer", "failed"


@attrs.frozen
class Reading:
    """What an engine made of a stream of octets."""

    messages: list[str | bytes]
    end: str = OPEN
    code: int | None = None
    reason: str = ""
    is_mid_header: bool = False
    """Whether a frame's header is still incomplete."""


def read_with_triows(stream: bytes, cuts: list[int]) -> Reading:
    """Feed *stream* to our engine, cut at *cuts*."""
    engine = ServerEngine(limits=Limits(max_message=LIMIT))
    edges = [0, *sorted(cut % (len(stream) + 1) for cut in cuts), len(stream)]
    messages: list[str | bytes] = []
    for start, stop in itertools.pairwise(edges):
        for found in engine.receive(stream[start:stop], 0.0):
            if isinstance(found, Message):
                messages.append(found.payload)
            elif isinstance(found, Closed):
                return Reading(messages, CLOSED, found.code, found.reason)
            elif isinstance(found, Failed):
                return Reading(messages, FAILED, found.code, found.reason)
    held = engine._reader.carried  # no public name tells a header's octets from a message's
    return Reading(messages, is_mid_header=0 < held < MAX_HEADER)


class TextJoiner:
    """Joins the fragments of messages, refusing text at the first fragment that is not UTF-8."""

    def __init__(self) -> None:
        self._decode: Callable[[bytes, bool], str | bytes] = lambda octets, _: octets
        self._parts: list[str | bytes] = []

    def add(self, opcode: int, payload: bytes, *, fin: bool) -> str | bytes | None:
        """Take a fragment; the message, once whole."""
        if opcode == TEXT:
            self._decode = codecs.getincrementaldecoder("utf-8")().decode
        elif opcode == BINARY:
            self._decode = lambda octets, _: octets
        self._parts.append(self._decode(payload, fin))
        if not fin:
            return None
        whole = self._parts[0][:0].join(self._parts)  # type: ignore[arg-type]
        self._parts = []
        return whole


def read_with_websockets(stream: bytes) -> Reading:
    """Feed *stream* to websockets, which leaves the check of text to its shells."""
    protocol = ServerProtocol(state=State.OPEN, max_size=LIMIT)
    protocol.logger.disabled = True
    protocol.receive_data(stream)
    messages: list[str | bytes] = []
    joiner = TextJoiner()
    for frame in protocol.events_received():
        if frame.opcode is Opcode.CLOSE:
            break
        if frame.opcode in {Opcode.TEXT, Opcode.BINARY, Opcode.CONT}:
            try:
                whole = joiner.add(frame.opcode, bytes(frame.data), fin=frame.fin)
            except UnicodeDecodeError:
                return Reading(messages, FAILED, 1007)
            if whole is not None:
                messages.append(whole)
    if protocol.parser_exc is not None:
        assert protocol.close_sent is not None
        return Reading(messages, FAILED, protocol.close_sent.code, str(protocol.parser_exc))
    if protocol.close_rcvd is not None:
        return Reading(messages, CLOSED, protocol.close_rcvd.code, protocol.close_rcvd.reason)
    return Reading(messages)


def read_with_wsproto(stream: bytes) -> Reading:
    """Feed *stream* to wsproto, which knows no limit on size."""
    connection = Connection(ConnectionType.SERVER)
    connection.receive_data(stream)
    messages: list[str | bytes] = []
    parts: list[str | bytes] = []
    for found in connection.events():
        if isinstance(found, TextMessage | BytesMessage):
            parts.append(found.data if isinstance(found, TextMessage) else bytes(found.data))
            if found.message_finished:
                messages.append(parts[0][:0].join(parts))  # type: ignore[arg-type]
                parts = []
        elif isinstance(found, CloseConnection):
            is_fault = connection.state.name == "OPEN"
            return Reading(messages, FAILED if is_fault else CLOSED, found.code, found.reason or "")
    return Reading(messages)


Excuse = Callable[[Reading, Reading], bool]


def waits_longer(ours: Reading, theirs: Reading) -> bool:
    """They wait for the end of a frame whose beginning shows the fault (§7.1.7 allows both)."""
    return ours.end == FAILED and theirs.end == OPEN


def reads_half_headers(ours: Reading, theirs: Reading) -> bool:
    """They find fault with a header before it is whole; we do with its end, 13 octets later."""
    return ours.is_mid_header and ours.end == OPEN and theirs.end == FAILED


def reads_reason_first(ours: Reading, theirs: Reading) -> bool:
    """A Close has a bad code and a bad reason: either may be named."""
    return ours.reason == "close code that may not be sent" and theirs.code == 1007


def finds_size_first(ours: Reading, theirs: Reading) -> bool:
    """A frame is too big and at fault besides: either may be named."""
    return ours.end == FAILED and theirs.end == FAILED and theirs.code == 1009


def allows_long_forms(ours: Reading, theirs: Reading) -> bool:
    """They do not ask that lengths are minimal, as §5.2 does."""
    return ours.reason == "payload length not minimal"


def refuses_close_in_message(ours: Reading, theirs: Reading) -> bool:
    """They refuse a Close inside a message, which §5.4 allows as any control frame."""
    return ours.end == CLOSED and theirs.reason == "incomplete fragmented message"


def knows_no_limit(ours: Reading, theirs: Reading) -> bool:
    """They read messages of any size."""
    return ours.code == 1009


def knows_no_1014(ours: Reading, theirs: Reading) -> bool:
    """They do not know the code 1014, registered with IANA after the RFC."""
    is_bad_reason = ours.reason == "close reason not UTF-8"
    return (ours.code == 1014 or is_bad_reason) and theirs.reason == UNKNOWN_CODE


ORACLES: dict[str, tuple[Callable[[bytes], Reading], list[Excuse]]] = {
    "websockets": (
        read_with_websockets,
        [
            *[waits_longer, reads_half_headers, reads_reason_first, finds_size_first],
            *[allows_long_forms, refuses_close_in_message],
        ],
    ),
    "wsproto": (
        read_with_wsproto,
        [waits_longer, reads_half_headers, knows_no_limit, knows_no_1014],
    ),
}


def compare(ours: Reading, theirs: Reading, excuses: list[Excuse]) -> None:
    """The same messages and the same end, or an excuse for another end."""
    if (ours.messages, ours.end, ours.code) == (theirs.messages, theirs.end, theirs.code):
        event(f"same end: {ours.end}")
        return
    excuse = next((excuse for excuse in excuses if excuse(ours, theirs)), None)
    assert excuse is not None, (ours, theirs)
    event(f"excuse: {excuse.__name__}")
    assert theirs.messages[: len(ours.messages)] == ours.messages


masks = st.sampled_from([bytes(4), b"\xff" * 4]) | st.binary(min_size=4, max_size=4)
sizes = st.sampled_from([0, 1, 2, 124, 125, 126, 127, 1000, 65_535, 65_536, LIMIT])


@st.composite
def messages(draw: st.DrawFn) -> list[bytes]:
    """The frames of a message, in up to five fragments with control frames between."""
    opcode = draw(st.sampled_from([TEXT, BINARY]))
    if draw(st.integers(0, 9)) == 0:
        payload = b"x" * draw(sizes)
    elif opcode == TEXT:
        payload = draw(st.text(max_size=40)).encode()
    else:
        payload = draw(st.binary(max_size=80))
    cuts = sorted(draw(st.lists(st.integers(0, len(payload)), max_size=4)))
    pieces = zip([0, *cuts], [*cuts, len(payload)], strict=True)
    built = []
    for number, (start, stop) in enumerate(pieces):
        built.append(
            build_frame(
                CONTINUATION if number else opcode,
                payload[start:stop],
                fin=number == len(cuts),
                mask=draw(masks),
            )
        )
        if draw(st.booleans()) and number < len(cuts):
            built.append(draw(controls))
    return built


controls = st.builds(
    build_frame, st.sampled_from([PING, PONG]), st.binary(max_size=125), mask=masks
)
closes = st.builds(
    lambda code, reason, mask: build_frame(CLOSE, code.to_bytes(2) + reason, mask=mask),
    st.sampled_from([1000, 1001, 1003, 1011, 1014, 3000, 4999, 0, 999, 1004, 1005, 1016, 5000]),
    st.binary(max_size=10) | st.text(max_size=10).map(str.encode),
    masks,
) | st.builds(build_frame, st.just(CLOSE), st.binary(max_size=1), mask=masks)


@st.composite
def streams(draw: st.DrawFn) -> bytes:
    """Valid frames, mostly with a Close at the end that may be a bad one."""
    parts = draw(st.lists(messages() | controls.map(lambda frame: [frame]), max_size=5))
    octets = b"".join(frame for part in parts for frame in part)
    return octets + (draw(closes) if draw(st.booleans()) else b"")


@st.composite
def mutated_streams(draw: st.DrawFn) -> bytes:
    """A stream in which a few octets were changed, left out or put in."""
    octets = bytearray(draw(streams()))
    for _ in range(draw(st.integers(1, 3))):
        if not octets:
            break
        place = draw(st.integers(0, min(len(octets), 400) - 1))
        change = draw(st.sampled_from(["flip", "set", "drop", "insert", "cut"]))
        if change == "flip":
            octets[place] ^= 1 << draw(st.integers(0, 7))
        elif change == "set":
            octets[place] = draw(st.integers(0, 255))
        elif change == "drop":
            del octets[place]
        elif change == "insert":
            octets.insert(place, draw(st.integers(0, 255)))
        else:
            del octets[place:]
    return bytes(octets)


cuttings = st.lists(st.integers(0, 2**18), max_size=6)


@pytest.mark.parametrize("oracle", ORACLES)
@settings(max_examples=200, deadline=None)
@given(stream=streams(), cuts=cuttings)
def test_valid_streams_are_read_alike(oracle: str, stream: bytes, cuts: list[int]):
    """Whatever is sent by the rules, all engines find the same messages and the same end."""
    read, excuses = ORACLES[oracle]
    compare(read_with_triows(stream, cuts), read(stream), excuses)


@pytest.mark.parametrize("oracle", ORACLES)
@settings(max_examples=300, deadline=None)
@given(stream=mutated_streams(), cuts=cuttings)
@example(stream=b"\x81\xfe" + bytes(6) + b"x" * 130, cuts=[])
def test_mutated_streams_are_read_alike(oracle: str, stream: bytes, cuts: list[int]):
    """Whatever is broken in a stream, all engines find the same fault, or none."""
    read, excuses = ORACLES[oracle]
    compare(read_with_triows(stream, cuts), read(stream), excuses)


@settings(max_examples=300, deadline=None)
@given(stream=mutated_streams(), cuts=cuttings)
@example(stream=b"\x80\xff\xff\xff\xff", cuts=[1])
def test_cuts_change_nothing(stream: bytes, cuts: list[int]):
    """Our engine reads a broken stream alike, however it arrives."""
    assert read_with_triows(stream, cuts) == read_with_triows(stream, [])
