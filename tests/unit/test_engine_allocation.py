"""What a message costs in memory: nothing that stays, and little while it is handled."""

import gc
import tracemalloc

import pytest

from tests.naive_reception import BINARY, TEXT, build_frame
from triows._engine import Response, ServerEngine
from triows._kernels._registry import JIT

SIZE = 4_096

pytestmark = pytest.mark.skipif(not JIT, reason="interpreted, every number is an object")


def echo(payload, opcode):
    """Send everything back."""
    return Response.ECHO


@pytest.fixture
def server():
    """An engine that has handled messages before, so that everything lazy is done."""
    engine = ServerEngine()
    for _ in range(3):
        run(engine, bytearray(content(8)))
    return engine


def content(count):
    """So many masked messages, each of 4 KiB."""
    frames = [
        build_frame(BINARY, bytes(SIZE), key=b"abcd"),
        build_frame(TEXT, b"t" * SIZE, key=b"abcd"),
    ]
    return b"".join(frames) * (count // 2)


def run(engine, buffer):
    """Process the buffer and take the replies."""
    engine.process_into(buffer, echo)
    segments = engine.outbound_segments()
    engine.clear_outbound()
    return segments


def measure(engine, *buffers):
    """The octets that stay after the buffers were handled, and the most there were meanwhile."""
    gc.collect()
    gc.disable()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for buffer in buffers:
            run(engine, buffer)
        after, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        gc.enable()
    return after - before, peak - before


def test_nothing_stays_of_whole_messages(server):
    """However many messages were echoed, the engine holds no more than before."""
    few, _ = measure(server, *[bytearray(content(8)) for _ in range(200)])  # fills the free lists
    many, _ = measure(server, *[bytearray(content(8)) for _ in range(400)])

    assert many - few < 800  # of 1,600 messages: half an octet each is none


def test_a_message_costs_little_while_it_is_handled(server):
    """Its row, its view and its segment, and no copy of its payload."""
    _, few = measure(server, bytearray(content(8)))
    _, many = measure(server, bytearray(content(108)))

    assert (many - few) / 100 < SIZE / 8
