"""What a connection waits for, and until when."""

import math

import pytest

from triows._engine import Phase
from triows._engine._timekeeper import Due, Timekeeper
from triows._options import NO_KEEPALIVE, KeepAlive, Limits

LIMITS = Limits(message_timeout=60, close_timeout=5)


@pytest.fixture
def time():
    """A connection that opened at 100 seconds."""
    return Timekeeper(LIMITS, KeepAlive(interval=20, timeout=10), 100.0)


def test_a_quiet_peer_is_pinged_after_the_interval(time):
    """A Ping is due an interval after the peer was last heard, and not before."""
    assert time.next_deadline(Phase.OPEN) == 120
    assert time.due(Phase.OPEN, 119.9) is Due.NOTHING
    assert time.due(Phase.OPEN, 120) is Due.PING


def test_a_deaf_peer_is_given_up_after_the_timeout(time):
    """The end is due a timeout after the Ping."""
    time.pinged(120)

    assert time.next_deadline(Phase.OPEN) == 130
    assert time.due(Phase.OPEN, 129.9) is Due.NOTHING
    assert time.due(Phase.OPEN, 130) is Due.SILENCE


@pytest.mark.parametrize("at", [120, 125])
def test_any_octet_is_a_sign_of_life(time, at):
    """What comes after a Ping answers it, even at the same instant."""
    time.pinged(120)
    time.heard(at)

    assert time.next_deadline(Phase.OPEN) == at + 20
    assert time.due(Phase.OPEN, at + 20) is Due.PING


def test_a_message_has_to_be_finished_in_time(time):
    """A peer that goes on sending must also come to an end."""
    time.message_since = 101
    time.heard(160)

    assert time.next_deadline(Phase.OPEN) == 161
    assert time.due(Phase.OPEN, 161) is Due.SLOW_MESSAGE


def test_no_keepalive_is_no_deadline():
    """Infinite times are never due."""
    time = Timekeeper(LIMITS, NO_KEEPALIVE, 0.0)

    assert time.next_deadline(Phase.OPEN) == math.inf
    assert time.due(Phase.OPEN, 1e9) is Due.NOTHING


@pytest.mark.parametrize("phase", [Phase.CLOSING, Phase.CLOSED, Phase.FAILED])
def test_a_close_has_to_be_finished_in_time(time, phase):
    """From the first Close on, one deadline counts, and no other."""
    time.message_since = 101
    time.close_since = 107

    assert time.next_deadline(phase) == 112
    assert time.due(phase, 111.9) is Due.NOTHING
    assert time.due(phase, 112) is Due.SLOW_CLOSE


def test_nothing_is_due_in_the_end(time):
    """A connection that is gone waits for nothing."""
    assert time.next_deadline(Phase.GONE) == math.inf
    assert time.due(Phase.GONE, 1e9) is Due.NOTHING


def test_a_pause_is_held_against_no_one(time):
    """While this side does not read nothing is due; afterwards the peer has its time again."""
    time.message_since = 105
    time.pause(110)
    assert time.next_deadline(Phase.OPEN) == math.inf

    time.resume(1_000)
    assert time.next_deadline(Phase.OPEN) == 1_020
    assert time.message_since == 105 + 890


def test_a_pause_answers_a_ping(time):
    """Whether a Ping was answered cannot be known by a side that did not read."""
    time.pinged(120)
    time.pause(121)
    time.resume(500)

    assert time.due(Phase.OPEN, 520) is Due.PING


def test_pausing_twice_is_pausing_once(time):
    """The pause lasts from its first call to the one resume."""
    time.message_since = 105
    time.pause(110)
    time.pause(120)
    time.resume(130)
    time.resume(200)

    assert time.message_since == 125
    assert time.next_deadline(Phase.OPEN) == 150


def test_a_pause_does_not_hold_up_a_close(time):
    """The closing handshake has its deadline whether or not this side reads."""
    time.pause(106)
    time.close_since = 107

    assert time.next_deadline(Phase.CLOSING) == 112
