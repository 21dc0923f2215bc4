"""Whatever a peer sends, and however it is cut, the engine says what the naive model says."""

from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.naive_reception import EmbeddedReception, Reception, parse_frames
from tests.properties.strategies import pieces, streams
from triows._engine import ClientEngine, InputSegment, Response, ServerEngine
from triows._errors import ProtocolError
from triows._kernels import FAULTS, STATE_SIZE, ensure_warm, scan
from triows._kernels._scan import (
    COLUMNS,
    EXPECT_MASK,
    MAX_FRAGMENTS,
    MAX_MESSAGE,
    MESSAGE_END,
    PIECE_COLUMNS,
)
from triows._options import Limits

LIMITS = Limits(max_message=1_100, max_fragments=4)
ROLES = [ServerEngine, ClientEngine]


def expect(kind, role, content, **options):
    """What the naive model makes of *content*."""
    model = kind(role.is_server, LIMITS.max_message, LIMITS.max_fragments, **options)
    return model.receive(content)


def replies_of(engine):
    """The frames that wait to be sent."""
    return parse_frames(engine.outbound.head(engine.outbound.size))


@pytest.mark.parametrize("role", ROLES)
@given(data=st.data())
def test_any_stream_in_any_pieces(role, data):
    """Events, replies and outcome are the naive model's, whole and cut anywhere."""
    content = data.draw(streams(is_masked=role.is_server))
    expected = expect(Reception, role, content)

    for parts in ([content], data.draw(pieces(content))):
        engine = role(limits=LIMITS)
        events = [event for part in parts for event in engine.receive(part, 0.0)]

        assert events == expected.events
        assert replies_of(engine) == expected.replies
        assert engine.is_closed is any((first == 0x88) for first, _ in expected.replies)
        assert engine.outcome == (expected.events[-1] if engine.is_closed else None)


def answer(payload, opcode):
    """What the handler below makes of a message: echoed, changed, or nothing."""
    kind = len(payload) % 3
    if kind == 0:
        return None
    return payload if kind == 1 else bytes([payload[0] ^ 1]) + payload[1:]


def handle(payload, opcode):
    """The same on the payload itself."""
    kind = len(payload) % 3
    if kind == 2:
        payload[0] ^= 1
    return Response.DISCARD if kind == 0 else Response.ECHO


def process(engine, part):
    """What `process` writes."""
    written = []
    with suppress(ProtocolError):  # the Close among the replies tells
        engine.process(bytearray(part), lambda view: written.append(bytes(view)), handle)
    return b"".join(written)


def process_into(engine, part):
    """What the segments of `process_into` stand for."""
    buffer = bytearray(part)
    with suppress(ProtocolError):
        engine.process_into(buffer, handle)
    local = engine.outbound_local()
    octets = b"".join(
        bytes((buffer if isinstance(segment, InputSegment) else local)[start : start + size])
        for segment in engine.outbound_segments()
        for start, size in [segment]
    )
    engine.clear_outbound()
    return octets


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("call", [process, process_into])
@given(data=st.data())
def test_any_stream_in_any_pieces_embedded(call, role, data):
    """The replies of the embedded engine, joined, are the naive model's."""
    content = data.draw(streams(is_masked=role.is_server))
    expected = expect(EmbeddedReception, role, content, answer=answer)

    for parts in ([content], data.draw(pieces(content))):
        engine = role(limits=LIMITS)
        octets = b"".join(call(engine, part) for part in parts)

        assert parse_frames(octets) == expected.replies
        assert engine.is_closed is any((first == 0x88) for first, _ in expected.replies)


@given(st.data())
def test_the_scan_reassembles_messages(data):
    """Pieces joined are the naive model's messages, up to the same fault, however cut."""
    ensure_warm()
    is_masked = data.draw(st.booleans())
    content = data.draw(streams(is_masked=is_masked))
    state = np.zeros(STATE_SIZE, np.int64)
    state[EXPECT_MASK] = is_masked
    state[MAX_MESSAGE] = LIMITS.max_message
    state[MAX_FRAGMENTS] = LIMITS.max_fragments
    table = np.zeros((data.draw(st.integers(2, 6)), COLUMNS), np.int64)
    messages, fault = _scan_all(data.draw(pieces(content)), state, table)

    model = Reception(is_masked, LIMITS.max_message, LIMITS.max_fragments)
    expected, expected_fault = _model_all(model, content)
    assert messages == expected
    assert FAULTS.get(fault) == expected_fault


def _scan_all(parts, state, table):
    """Scan *parts* one after another, each behind what the one before left over."""
    messages, message, held = [], b"", b""
    for part in parts:
        octets = np.frombuffer(bytearray(held + part), np.uint8)
        start, is_full = 0, True
        while is_full:
            rows = scan(octets, start, len(octets), state, table)
            for opcode, flags, at, size, _ in table[:rows, :PIECE_COLUMNS].tolist():
                payload = octets[at : at + size].tobytes()
                if opcode < 8:
                    message += payload
                if opcode >= 8 or flags & MESSAGE_END:
                    messages.append((opcode, payload if opcode >= 8 else message))
                    message = b"" if opcode < 8 else message
            start, fault, needed, is_full, _ = table[rows, :PIECE_COLUMNS].tolist()
            if fault:
                return messages, fault
        held = octets[start:].tobytes()
        assert len(held) < max(needed, 1) <= 131
    return messages, 0


def _model_all(model, content):
    """Messages and control frames by the model, and the fault they end with."""
    taken = []
    model._deliver = lambda opcode, payload: taken.append((opcode, payload))
    take_control = model._take_control

    def record(opcode, payload):
        is_close = take_control(opcode, payload)
        taken.append((opcode, payload))
        return is_close

    model._take_control = record
    model.receive(content)
    if model.events and type(model.events[-1]).__name__ == "Failed":
        return taken, tuple(model.events[-1])
    return taken, None
