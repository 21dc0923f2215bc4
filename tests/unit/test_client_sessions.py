"""A client's end in the loop that a run shares: it masks, and its server drops TCP first."""

import errno
import os

import pytest

import triows
from tests.naive import mask, parse_header
from tests.naive_reception import build_fragments, build_frame
from tests.unit.test_channel_loop import Bench
from triows import _kernels as kernels
from triows._engine import Closed, Failed, Lost, Message, Part, Ponged
from triows._kernels import _replay, _replies
from triows._kernels import slots as s
from triows._kernels._registry import JIT
from triows._reactor import Terms

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10


def terms(limits=None, keepalive=None):
    """A client's."""
    return Terms(
        is_client=True,
        limits=limits or triows.Limits(),
        keepalive=keepalive or triows.KeepAlive(),
    )


@pytest.fixture
def start():
    """Make benches of clients, and close them in the end."""
    benches = []

    def make(leftover=b"", **settings):
        benches.append(Bench(leftover=leftover, terms=terms(**settings)))
        return benches[-1]

    yield make
    for bench in benches:
        bench.loop.close()
        bench.peer.close()


def read_frames(octets):
    """The frames that a client sent, each masked as it must be: first octet, payload, key."""
    while octets:
        header = parse_header(octets)
        assert header.key is not None
        stop = header.size + header.payload_size
        payload = mask(octets[header.size : stop], header.key)
        yield octets[0], bytes(payload), header.key
        octets = octets[stop:]


def frames_of(octets):
    """The frames that a client sent, without their keys."""
    return [frame[:2] for frame in read_frames(octets)]


def test_messages_go_masked_and_come_unmasked(start):
    """In whatever size, whole and in parts, the leftover first; a masked frame is a fault."""
    bench = start(leftover=build_frame(TEXT, b"left over"))
    assert bench.sink.events == [Message("left over", 9)]
    events = bench.tell(build_frame(TEXT, "é".encode()) + build_frame(BINARY, bytes(300)))
    assert events == [Message("é", 2), Message(bytes(300), 300)]
    assert bench.tell(build_frame(BINARY, bytes(200_000))) == [Message(bytes(200_000), 200_000)]
    assert bench.tell(b"".join(build_fragments(TEXT, [b"a", b"b"]))) == [Message("ab", 2)]

    bench.session.send(TEXT, b"one")
    bench.session.send(BINARY, bytes(range(256)))
    bench.session.send_part(BINARY, b"a", is_last=False)
    bench.session.send_part(BINARY, b"b", is_last=True)
    bench.session.send(BINARY, bytes(70_000))
    assert frames_of(bench.hear()) == [
        (0x81, b"one"),
        (0x82, bytes(range(256))),
        (2, b"a"),
        (0x80, b"b"),
        (0x82, bytes(70_000)),
    ]
    assert bench.tell(build_frame(TEXT, b"x", key=b"1234")) == [Failed(1002, "server frame masked")]


def test_keys_are_fresh(start):
    """No two frames have the same, and none is zero but by chance."""
    bench = start()
    for _ in range(50):
        bench.session.send(TEXT, b"same")
    keys = {key for _, _, key in read_frames(bench.hear())}
    assert len(keys) == 50


def test_pings_are_answered_masked_and_in_order(start):
    """Several in one receive, behind messages and what was sent; Pongs are told."""
    bench = start()
    bench.session.send(TEXT, b"before")
    events = bench.tell(
        build_frame(PING, b"1") + build_frame(TEXT, b"m") + build_frame(PING, bytes(125))
    )
    assert events == [Message("m", 1)]
    assert frames_of(bench.hear()) == [(0x81, b"before"), (0x8A, b"1"), (0x8A, bytes(125))]
    assert bench.tell(build_frame(PING)) == []
    assert frames_of(bench.hear()) == [(0x8A, b"")]
    bench.session.ping(b"?")
    assert frames_of(bench.hear()) == [(0x89, b"?")]
    assert bench.tell(build_frame(PONG, b"?")) == [Ponged(b"?")]


def test_a_flood_of_empty_messages_is_read_whole(start):
    """A server's frames are of 2 octets at the least: a receive brings three times a client's."""
    bench = start()
    flood = build_frame(TEXT) * (s.RECEIVE_SIZE // 2 - 1) + b"\xff\xff"
    assert bench.peer.send(flood) == s.RECEIVE_SIZE
    bench.turn()
    assert bench.sink.events[:-1] == [Message("", 0)] * (s.RECEIVE_SIZE // 2 - 1)
    assert bench.sink.events[-1] == Failed(1002, "reserved opcode")


def test_a_client_waits_for_its_server_to_drop_the_transport(start):
    """After both Closes too; what still comes is not heard (RFC 6455 §7.1.1)."""
    bench = start()
    assert bench.tell(build_frame(CLOSE, b"\x0f\xa0bye")) == [Closed(4000, "bye")]
    assert frames_of(bench.hear()) == [(0x88, b"\x0f\xa0bye")]
    assert not bench.sink.has_ended
    assert bench.tell(build_frame(TEXT, b"too late") * 3) == []
    bench.peer.close()
    bench.turn()
    assert bench.sink.has_ended
    assert bench.session.outcome == Closed(4000, "bye")


def test_a_server_that_does_not_drop_it_is_left(start):
    """When the time for the closing handshake is over."""
    bench = start()
    bench.session.close(1000, "")
    assert frames_of(bench.hear()) == [(0x88, b"\x03\xe8")]
    bench.tell(build_frame(CLOSE, b"\x03\xe8"))
    bench.loop._slots[0, s.CLOSE_SINCE] -= 10**12
    bench.loop._words[s.NEXT_SWEEP] = 0
    bench.turn()
    assert bench.sink.has_ended


def test_a_quiet_server_is_pinged_and_given_up(start):
    """By the connection's own keepalive, whatever the loop's is."""
    bench = start(keepalive=triows.KeepAlive(interval=1, timeout=1))
    for sent in ([(0x89, b"")], []):
        bench.loop._slots[0, s.HEARD] -= 10**10
        bench.loop._words[s.NEXT_SWEEP] = 0
        assert frames_of(bench.hear()) == sent
    assert isinstance(bench.session.outcome, Lost)


def test_limits_are_the_connections_own(start):
    """Of messages and their fragments, and of the time for them."""
    bench = start(limits=triows.Limits(max_message=10))
    assert bench.tell(build_frame(BINARY, bytes(11))) == [Failed(1009, "message too big")]
    assert frames_of(bench.hear()) == [(0x88, b"\x03\xf1message too big")]

    bench = start(limits=triows.Limits(max_fragments=2))
    octets = b"".join(build_fragments(TEXT, [b"a", b"b", b"c"]))
    assert bench.tell(octets) == [Failed(1009, "message in too many fragments")]

    bench = start(limits=triows.Limits(message_timeout=1))
    bench.tell(build_frame(TEXT, b"never finished")[:4])
    bench.loop._slots[0, s.MESSAGE_SINCE] -= 2 * 10**9
    bench.loop._words[s.NEXT_SWEEP] = 0
    bench.turn()
    assert bench.sink.events == [Failed(1008, "message not finished in time")]
    assert frames_of(bench.hear()) == [(0x88, b"\x03\xf0message not finished in time")]


def test_a_message_can_come_in_parts(start):
    """As for a server's end."""
    bench = start()
    bench.tell(build_frame(TEXT, b"be", fin=False))
    assert bench.session.begin_parts() == Part(b"be", TEXT, is_last=False)
    assert bench.tell(build_frame(0, b"gun")) == [Part(b"gun", TEXT, is_last=True)]


def test_a_run_that_ends_says_goodbye(start):
    """A loop that is stopped tells a client's server too."""
    bench = start()
    bench.loop.say_goodbye()
    (frame,) = frames_of(bench.hear())
    assert frame[0] == 0x88
    assert frame[1][:2] == b"\x03\xe9"
    bench.loop.say_goodbye()  # it is closing already
    assert bench.hear() == b""


@pytest.mark.skipif(JIT, reason="compiled, a system call cannot be replaced")
def test_without_a_key_nothing_is_sent(start, monkeypatch):
    """A client that cannot mask has no connection (RFC 6455 §10.3)."""
    for module, act in (
        (_replies, lambda bench: bench.tell(build_frame(PING))),
        (_replies, lambda bench: bench.tell(build_frame(3))),
        (_replies, lambda bench: bench.tell(build_frame(CLOSE))),
        (_replay, lambda bench: bench.session.send(TEXT, b"x")),
    ):
        bench = start()
        with monkeypatch.context() as patch:
            patch.setattr(module, "random_key", lambda _: -errno.ENOSYS)
            act(bench)
            bench.turn()
        assert bench.session.outcome is not None
        assert bench.hear() == b""
        assert bench.sink.has_ended
        assert bench.loop.statistics().errnos == {"ENOSYS": 1}


@pytest.mark.skipif(JIT, reason="compiled, a system call cannot be replaced")
def test_a_generator_that_fails_gives_no_key(start, monkeypatch):
    """What went wrong is what comes back."""
    event = start().loop._event
    monkeypatch.setattr(kernels.system, "_getrandom", lambda *_: -1)
    with monkeypatch.context() as patch:
        patch.setattr(kernels.system, "outcome", lambda _: -errno.EINTR)
        assert kernels.system.random_key(event) == -errno.EINTR


def test_keys_differ_after_a_fork(start):
    """A child's are not its parent's: each asks the system."""
    bench = start()
    there, here = os.pipe()
    child = os.fork()
    if not child:
        bench.session.send(TEXT, b"x")
        bench.turn()
        os._exit(0)
    os.waitpid(child, 0)
    os.close(there)
    os.close(here)
    bench.session.send(TEXT, b"x")
    (_, _, first), (_, _, second) = read_frames(bench.hear())
    assert first != second
