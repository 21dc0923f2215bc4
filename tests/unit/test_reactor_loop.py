"""The loop: its slots, what it counts, what it takes over and gives back."""

import os
import select
import socket
import threading
from pathlib import Path

import attrs
import numpy as np
import pytest

import triows
from tests.naive_reception import build_frame
from triows._kernels import slots as s
from triows._kernels._registry import JIT
from triows._reactor import Loop

HI = build_frame(1, b"hi", key=b"mask")
HI_BACK = build_frame(1, b"hi")
ROUNDS = 300 if JIT else 30


@pytest.fixture
def start():
    """Make loops, which are closed in the end."""
    loops = []

    def make(**limits):
        loops.append(Loop(0, triows.Limits(**limits), triows.KeepAlive()))
        return loops[-1]

    yield make
    for loop in loops:
        loop.close()


def connect(loop, leftover=b""):
    """A client whose connection *loop* has taken over."""
    ours, theirs = socket.socketpair()
    ours.settimeout(5)
    loop.add(theirs.detach(), leftover)
    return ours


def taken(loop):
    """The slots that hold a connection."""
    return list(loop._taken_slots())


def test_slots_are_used_again_before_new_ones_are_touched(start):
    """The slots in use grow to the most connections that there were at once, and no further."""
    loop = start()
    clients = [connect(loop) for _ in range(5)]
    assert taken(loop) == [0, 1, 2, 3, 4]
    for number in (3, 1):
        clients[number].close()
        loop.take_turns(0, 1)
    assert taken(loop) == [0, 2, 4]

    clients += [connect(loop) for _ in range(3)]

    assert taken(loop) == [0, 1, 2, 3, 4, 5]
    assert loop._registers[s.USED_SLOTS] == 6
    assert loop.connections == 6
    for client in clients:
        client.close()


def test_slots_that_were_never_used_are_not_in_memory(start):
    """What a loop could hold costs nothing until it does."""
    loop = start(max_connections=2**22)

    def resident():
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    before = resident()
    client = connect(loop)
    assert loop._slots.nbytes > 2**30
    assert resident() - before < 2**23
    client.close()


def test_a_loop_is_full_at_its_limit_and_no_longer_when_one_leaves(start):
    """One connection too many is closed, and the loop goes on."""
    loop = start(max_connections=2)
    first, second = connect(loop), connect(loop)
    ours, theirs = socket.socketpair()
    with pytest.raises(OSError, match="Too many open files"):
        loop.add(theirs.detach())
    assert ours.recv(1) == b""
    ours.close()

    first.close()
    loop.take_turns(0, 1)
    third = connect(loop, HI)

    assert third.recv(100) == HI_BACK
    second.close()
    third.close()


def test_wake_ups_are_coalesced(start):
    """However many follow each other, one turn takes them all, and the next one none."""
    loop = start()
    for _ in range(1_000):
        loop.wake()
    assert select.select([loop.fileno()], [], [], 0)[0]

    assert loop.take_turns(0, 1) == 1

    assert not select.select([loop.fileno()], [], [], 0)[0]
    assert loop.take_turns(0, 1) == 0


def test_a_wake_up_from_another_thread_ends_the_wait(start):
    """A thread that waits in epoll_wait, for ever, is woken by any other."""
    loop = start()
    worker = threading.Thread(target=loop.take_turns, args=(60,), daemon=True)
    worker.start()
    while loop.statistics().turns == 0:
        pass

    loop.wake()
    worker.join(5)

    assert not worker.is_alive()


def test_a_closed_loop_has_given_everything_back(start):
    """Peers are dropped, descriptors closed; to wake it or to close it again does no harm."""
    loop = start()
    client = connect(loop, HI)
    descriptors = [loop.fileno(), loop._wake]
    assert client.recv(100) == HI_BACK

    loop.close()
    loop.close()
    loop.wake()

    assert client.recv(1) == b""
    assert loop.connections == 0
    for descriptor in descriptors:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(descriptor)
    client.close()


def test_infinite_times_never_come():
    """With no keepalive and no deadlines, no time is past."""
    inf = float("inf")
    limits = triows.Limits(message_timeout=inf, close_timeout=inf)
    loop = Loop(0, limits, triows.KeepAlive(interval=inf, timeout=inf))
    client = connect(loop, HI[:1])
    loop._registers[s.NEXT_SWEEP] = 0
    loop.take_turns(0, 1)

    client.sendall(HI[1:])
    loop.take_turns(0, 1)

    assert client.recv(100) == HI_BACK
    client.close()
    loop.close()


def test_statistics_are_a_frozen_snapshot(start):
    """A snapshot does not change with the loop, nor can it be changed."""
    loop = start()
    client = connect(loop)
    before = loop.statistics()
    client.sendall(HI + HI)
    loop.take_turns(0, 1)

    after = loop.statistics()

    assert (before.messages_received, before.turns) == (0, 0)
    assert (after.messages_received, after.messages_sent, after.turns) == (2, 2, 1)
    assert (after.octets_received, after.octets_sent) == (4, 4)
    assert (after.receives, after.sends, after.events) == (1, 1, 1)
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        after.turns = 7
    with pytest.raises(TypeError):
        after.errnos["EPIPE"] = 7
    client.close()


def test_statistics_from_another_thread_only_grow(start):
    """Read while the loop works, no count ever goes back, and the last ones are exact."""
    loop = start()
    client = connect(loop)
    client.setblocking(False)
    is_done = threading.Event()
    seen = []

    def watch():
        while not is_done.is_set():
            seen.append(loop.statistics())

    watcher = threading.Thread(target=watch)
    watcher.start()
    replies = 0
    for _ in range(ROUNDS):
        client.sendall(HI * 100)
        loop.take_turns(0, 1)
        replies += len(client.recv(1 << 20))
    is_done.set()
    watcher.join()

    counts = np.array([(one.turns, one.messages_sent, one.octets_sent) for one in seen])
    assert (np.diff(counts, axis=0) >= 0).all()
    assert (counts[:, 1] <= ROUNDS * 100).all()
    assert all(one.connections == 1 for one in seen)
    final = loop.statistics()
    assert final.messages_sent == final.messages_received == ROUNDS * 100
    assert replies == ROUNDS * 100 * len(HI_BACK)
    client.close()


def test_sends_of_one_turn_do_not_reach_into_those_of_the_next():
    """Each connection gets its own message, turn after turn, where the arena begins anew."""
    loop = Loop(0, triows.Limits(), triows.KeepAlive())
    clients = []
    for number in range(1, 11):
        client, theirs = socket.socketpair()
        client.setblocking(False)
        theirs.setblocking(False)
        loop.add(theirs.detach(), session=number)
        clients.append(client)

    for turn in range(3):
        for number in range(1, 11):
            loop.send_to(number, b"%d to %d" % (turn, number), 2)
        loop.take_turns(0, 1)
        for number, client in enumerate(clients, 1):
            expected = b"%d to %d" % (turn, number)
            assert client.recv(1_000) == bytes((0x82, len(expected))) + expected

    loop.close()
    for client in clients:
        client.close()
