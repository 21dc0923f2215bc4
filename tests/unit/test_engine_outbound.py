"""The octets that wait for the transport."""

import pytest

from triows._engine._outbound import PONG_BACKLOG, Outbound


@pytest.fixture
def outbound():
    """A queue with nothing in it."""
    return Outbound()


def drain(outbound):
    """Everything in the queue, taken."""
    octets = b""
    while outbound.size:
        head = outbound.head(outbound.size)
        octets += head
        outbound.consume(len(head))
    return octets


@pytest.mark.parametrize("step", [1, 2, 3, 4, 5, 100])
def test_octets_leave_in_order(outbound, step):
    """Whatever the transport takes at a time, octets leave as they came."""
    for chunk in (b"abc", bytearray(b"de"), b"", b"f"):
        outbound.append(chunk)
    taken = b""
    while outbound.size:
        head = outbound.head(step)
        taken += head
        outbound.consume(len(head))

    assert taken == b"abcdef"


def test_a_look_takes_nothing(outbound):
    """Looking at the first chunks, or the first octets, leaves them."""
    for chunk in (b"ab", b"cd", b"ef"):
        outbound.append(chunk)

    assert outbound.peek() == [b"ab", b"cd", b"ef"]
    assert outbound.peek(2) == [b"ab", b"cd"]
    assert (outbound.head(3), outbound.head(100)) == (b"abc", b"abcdef")
    assert outbound.size == 6


def test_a_chunk_taken_in_part(outbound):
    """What remains of a chunk is its end, uncopied."""
    chunk = b"abcdef"
    outbound.append(chunk)
    outbound.consume(4)

    (rest,) = outbound.peek()
    assert rest.obj is chunk
    assert (bytes(rest), outbound.size) == (b"ef", 2)


def test_taking_nothing(outbound):
    """A transport that takes nothing changes nothing."""
    outbound.append(b"abc")
    outbound.consume(0)

    assert drain(outbound) == b"abc"


def test_pongs_up_to_the_backlog_are_all_sent(outbound):
    """While little waits, each Ping has its Pong."""
    outbound.append(bytes(PONG_BACKLOG))
    outbound.append_pong(b"one")

    assert outbound.size == PONG_BACKLOG + 3


def test_pongs_behind_a_backlog_replace_each_other(outbound):
    """Behind a long backlog only the newest Pong is owed (§5.5.3), and takes no room."""
    outbound.append(bytes(PONG_BACKLOG + 1))
    for number in range(10_000):
        outbound.append_pong(b"%d" % number)

    assert outbound.size == PONG_BACKLOG + 1
    assert drain(outbound)[PONG_BACKLOG + 1 :] == b"9999"


def test_an_owed_pong_waits_for_the_backlog(outbound):
    """The owed Pong is queued once the backlog is short, and once only."""
    outbound.append(bytes(PONG_BACKLOG + 10))
    outbound.append_pong(b"pong")
    outbound.consume(9)
    assert outbound.size == PONG_BACKLOG + 1

    outbound.consume(1)
    assert outbound.size == PONG_BACKLOG + 4
    assert drain(outbound)[-4:] == b"pong"


def test_no_pong_follows_a_close(outbound):
    """The Close is the last thing in the queue, whatever was owed."""
    outbound.append(bytes(PONG_BACKLOG + 1))
    outbound.append_pong(b"pong")
    outbound.append_close(b"close")

    assert drain(outbound)[PONG_BACKLOG + 1 :] == b"close"


def test_everything_can_be_forgotten(outbound):
    """Once the transport is gone nothing waits, owed Pongs included."""
    outbound.append(bytes(PONG_BACKLOG + 1))
    outbound.append_pong(b"pong")
    outbound.clear()
    outbound.consume(0)

    assert (outbound.size, outbound.peek()) == (0, [])
