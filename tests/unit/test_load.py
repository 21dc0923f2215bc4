"""The bench's load generator: it must see what a server gets wrong."""

import contextlib
from collections.abc import Callable, Iterator

import numba
import numpy as np
import pytest
from load import Load, LoadError, Shape, WrongOctetError, header, traffic
from websockets.sync.server import ServerConnection

from tests.unit.threaded_server import serving_in_a_thread

pytestmark = pytest.mark.skipif(
    numba.config.DISABLE_JIT, reason="the generator calls libc, which only compiled code can"
)

SHAPE = Shape(connections=2, octets=300, pipelined=3)


@contextlib.contextmanager
def serving(reply: Callable[[ServerConnection, bytes], None]) -> Iterator[int]:
    """Serve *reply* in a thread; gives the port."""

    def converse(connection: ServerConnection) -> None:
        for message in connection:
            reply(connection, message)

    with serving_in_a_thread(converse) as port:
        yield port


def test_a_true_echo_is_counted() -> None:
    """Against a server that echoes, every message of every batch is counted and timed."""
    with (
        serving(lambda connection, message: connection.send(message)) as port,
        Load("127.0.0.1", port, SHAPE) as load,
    ):
        tally = load.run(0.05)

    assert tally.messages > 0
    assert tally.messages == len(tally.latencies) * SHAPE.pipelined
    assert 0 < tally.latency(50) <= tally.latency(99)


def test_a_planted_wrong_octet_is_found() -> None:
    """One flipped bit in one octet of a payload ends the run, and the error says where."""
    octets = Shape(connections=1, octets=20_000)

    def reply(connection: ServerConnection, message: bytes) -> None:
        wrong = bytearray(message)
        wrong[12_345] ^= 0x10
        connection.send(bytes(wrong))

    with (
        serving(reply) as port,
        Load("127.0.0.1", port, octets) as load,
        pytest.raises(WrongOctetError, match=f"octet {12_345 + 4} of the reply"),
    ):
        load.run(0.05)


def test_a_stale_reply_is_found() -> None:
    """The last message sent once more in place of the new one is no echo."""
    previous = {}

    def reply(connection: ServerConnection, message: bytes) -> None:
        connection.send(previous.get(connection, message))
        previous[connection] = message

    with (
        serving(reply) as port,
        Load("127.0.0.1", port, Shape(connections=1, octets=20)) as load,
        pytest.raises(WrongOctetError),
    ):
        load.run(0.05)


@pytest.mark.parametrize("wrong", [b"", b"too short", bytes(301), "text" * 75])
def test_a_wrong_header_is_found(wrong: bytes | str) -> None:
    """A reply of another length, or of another type, is no echo."""
    with (
        serving(lambda connection, _: connection.send(wrong)) as port,
        Load("127.0.0.1", port, SHAPE) as load,
        pytest.raises(WrongOctetError),
    ):
        load.run(0.05)


def test_surplus_octets_are_found() -> None:
    """A reply sent twice is not taken for the next batch's."""

    def reply(connection: ServerConnection, message: bytes) -> None:
        connection.send(message)
        connection.send(message)

    with (
        serving(reply) as port,
        Load("127.0.0.1", port, Shape(connections=1, octets=20)) as load,
        pytest.raises(WrongOctetError),
    ):
        load.run(0.05)


def test_a_server_that_closes_ends_the_run() -> None:
    """A connection that ends is an error and never a smaller count."""
    with (
        serving(lambda connection, _: connection.socket.shutdown(2)) as port,
        Load("127.0.0.1", port, SHAPE) as load,
        pytest.raises(LoadError, match="closed"),
    ):
        load.run(0.05)


@pytest.mark.parametrize("size", [0, 125, 126, 65_535, 65_536])
def test_headers_are_minimal(size: int) -> None:
    """The length takes 0, 2 or 8 further octets, as few as do (RFC 6455 §5.2)."""
    extended = 0 if size < 126 else 2 if size < 65_536 else 8

    assert len(header(size, masked=False)) == 2 + extended
    assert header(size, masked=True)[1] & 0x80


def test_batches_differ() -> None:
    """No two batches have the same replies, so that one cannot stand in for another."""
    _, replies = traffic(SHAPE)

    assert len(np.unique(replies, axis=0)) == len(replies)


@pytest.mark.parametrize("text", ["100/20", "10/20x16"])
def test_shapes_read_as_they_are_written(text: str) -> None:
    """A shape's text form is what the command line takes."""
    assert str(Shape.parse(text)) == text
