"""What goes to several connections in turn, and leaves in one system call for each."""

import socket
from functools import partial

import pytest

import triows
from tests.naive_reception import build_frame, parse_frames
from tests.unit.test_channel_loop import Sink
from triows._engine import Message
from triows._kernels import slots as s
from triows._reactor import ChannelLoop, Session

BINARY = 2


class Pair:
    """A session and its peer."""

    def __init__(self, loop: ChannelLoop) -> None:
        self.peer, theirs = socket.socketpair()
        self.peer.setblocking(False)
        theirs.setblocking(False)
        self.sink = Sink()
        self.session = Session(loop, theirs.detach(), self.sink)
        assert self.session._enter(b"")

    @property
    def row(self):
        """The session's slot."""
        return self.session._loop._slots[self.session._slot]

    def hear(self):
        """Return the payloads that have come."""
        came = b""
        while True:
            try:
                piece = self.peer.recv(1 << 20)
            except BlockingIOError:
                return [payload for _, payload in parse_frames(came)]
            assert piece
            came += piece


@pytest.fixture
def loop():
    """A loop that no one drives."""
    made = ChannelLoop(triows.Limits(), triows.KeepAlive())
    made.bell = lambda: None
    yield made
    made.close()


@pytest.fixture
def pairs(loop):
    """Three connections of it."""
    made = [Pair(loop) for _ in range(3)]
    yield made
    for pair in made:
        pair.peer.close()


def count_sends(loop):
    """Send all that was noted; returns by how many system calls."""
    before = loop.statistics().sends
    loop.settle()
    return loop.statistics().sends - before


def test_what_was_sent_in_turn_leaves_in_one_call_for_each(loop, pairs):
    """As tasks send that have several messages each to answer."""
    for number in range(20):
        for pair in pairs:
            pair.session.send(BINARY, b"%d" % number)

    assert count_sends(loop) == 3
    assert loop.statistics().queued_octets == 0
    for pair in pairs:
        assert pair.hear() == [b"%d" % number for number in range(20)]


def test_the_next_turn_s_sends_are_merged_likewise(loop, pairs):
    """Nothing of the sends before is taken for one of these."""
    for _ in range(3):
        for pair in (pairs[0], pairs[1], pairs[0]):
            pair.session.send(BINARY, b"once more")
        assert count_sends(loop) == 2
    assert pairs[0].hear() == [b"once more"] * 6
    assert pairs[1].hear() == [b"once more"] * 3


def test_what_is_large_is_sent_before_all_of_it_is_copied(loop, pairs):
    """A copy is cheaper than a call for what is small."""
    for number in range(4):
        for pair in pairs[:2]:
            pair.session.send(BINARY, bytes([number]) * 40_000)

    assert count_sends(loop) == 4
    for pair in pairs[:2]:
        assert pair.hear() == [bytes([number]) * 40_000 for number in range(4)]


def test_what_a_small_limit_forbids_to_queue_is_not_held_back(loop, pairs):
    """Else a peer that takes all it is sent would be dropped for being slow."""
    loop._words[s.SEND_LIMIT] = 100
    for number in range(5):
        for pair in pairs[:2]:
            pair.session.send(BINARY, bytes([number]) * 90)

    assert count_sends(loop) > 2
    for pair in pairs[:2]:
        assert pair.hear() == [bytes([number]) * 90 for number in range(5)]


def test_what_is_held_back_leaves_though_the_last_send_is_dropped(loop, pairs):
    """A send to a session that the slot is no longer of leaves others' alone."""
    one, other, _ = pairs
    one.session.send(BINARY, b"held")
    other.session.send(BINARY, b"between")
    loop._note_send(one.session._slot, one.session.number + 100, b"stray", BINARY)

    assert count_sends(loop) == 2
    assert one.hear() == [b"held"]
    assert loop.statistics().dropped == 1


def test_nothing_behind_a_close_is_sent(loop, pairs):
    """The Close is the last frame, wherever others' sends are."""
    one, other, _ = pairs
    one.session.send(BINARY, b"first")
    other.session.send(BINARY, b"between")
    one.session.close(1000, "")
    other.session.send(BINARY, b"and again")
    loop._note_send(one.session._slot, one.session.number, b"late", BINARY)

    assert count_sends(loop) == 2
    assert one.hear() == [b"first", b"\x03\xe8"]
    assert other.hear() == [b"between", b"and again"]


def test_a_connection_that_breaks_between_its_sends_is_dropped_alone(loop, pairs):
    """What was held back for it goes with it."""
    one, other, _ = pairs
    one.peer.close()
    for _ in range(3):
        one.session.send(BINARY, b"in vain")
        other.session.send(BINARY, b"fine")
    loop.settle()

    assert one.sink.has_ended
    assert other.hear() == [b"fine"] * 3
    assert loop.statistics().queued_octets == 0


def test_what_the_kernel_takes_at_once_is_no_sign_of_life(loop, pairs):
    """Else a peer that has vanished would live as long as there is room in its socket."""
    one, other, _ = pairs
    one.row[s.HEARD] = heard = 1
    for pair in (one, other, one):
        pair.session.send(BINARY, b"anyone?")
    assert count_sends(loop) == 2
    assert one.row[s.HEARD] == heard


def test_who_has_looked_at_what_is_unsent_is_told_when_it_has_left(loop, pairs):
    """Also where the kernel takes it all at once, so that no queue is ever seen to shrink."""
    sink, session = pairs[0].sink, pairs[0].session
    session.send(BINARY, bytes(1_000))
    loop.settle()
    assert sink.rooms == 0  # nobody has asked

    session.send(BINARY, bytes(1_000))
    assert session.unsent >= 1_000
    loop.settle()
    assert (sink.rooms, session.unsent) == (1, 0)

    session.send(BINARY, bytes(1_000))
    assert session.unsent >= 1_000
    loop.take_turns(0)
    assert (sink.rooms, session.unsent) == (2, 0)


def test_nothing_received_is_lost_where_room_leads_to_more_than_a_loop_holds(loop, pairs):
    """What is sent on being told fills the arena, before what came with it was handed over."""
    one, other, _ = pairs

    def send_much() -> None:
        one.sink.rooms += 1
        if one.sink.rooms == 1:
            for _ in range(3):
                one.session.send(BINARY, bytes(400_000))

    one.sink.make_room = send_much
    one.session.send(BINARY, b"first")
    assert one.session.unsent
    other.peer.send(build_frame(BINARY, b"here", key=b"\x11\x22\x33\x44"))
    loop.take_turns(0)

    assert one.sink.rooms == 1
    assert other.sink.events == [Message(b"here", 4)]


def test_those_who_are_told_may_ask_again_at_once(loop, pairs):
    """Also where what they send then is too much to be held, and leaves while others are told."""
    told = []

    def go_on(number: int) -> None:
        told.append(number)
        if told.count(number) == 1:
            pairs[number].session.send(BINARY, bytes(400_000))  # the third fills the arena
            assert pairs[number].session.unsent

    for number, pair in enumerate(pairs):
        pair.sink.make_room = partial(go_on, number)
        pair.session.send(BINARY, b"first")
        assert pair.session.unsent
    loop.settle()

    assert told == [0, 1, 2, 0, 1]
