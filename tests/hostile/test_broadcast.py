"""A large room, some of whose members do not read: the others notice nothing, nothing grows.

Threat model, item 22. A loop over socket pairs, driven by hand, so that what is measured is the
loop and not a client's machine.
"""

import contextlib
import resource
import statistics
import time
import tracemalloc

import pytest
import trio

from tests.unit.test_fanout import SMALL, Hall, hear_all, number, numbers
from tests.unit.test_turn import drain
from triows import BroadcastChannel, Capacity, Policy
from triows._kernels import slots as s

MEMBERS = 1_000
STALLED = 10
ROOMY = Capacity(octets=2**20)


@pytest.fixture
def many_descriptors():
    """Room for a room."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * MEMBERS + 500
    if hard < wanted:
        pytest.skip(f"no more than {hard} descriptors")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@contextlib.contextmanager
def open_room(policy=Policy.DISCONNECT, capacity=ROOMY, *, members, stalled):
    """A hall of so many; those that have *stalled* come last, and are never read from."""
    hall = Hall("callback", BroadcastChannel())
    hall.policy = (policy, capacity)
    clients = [hall.pair.connect() for _ in range(members)]
    slow = [hall.pair.connect(buffer=SMALL) for _ in range(stalled)]
    try:
        yield hall, clients, slow
    finally:
        hall.pair.close()


def test_a_room_of_a_thousand(warm, many_descriptors):
    """Everyone gets everything in order, and the counts add up."""
    with open_room(members=MEMBERS - STALLED, stalled=STALLED) as (hall, clients, slow):
        for i in range(30):
            assert hall.channel.publish_nowait(number(i)).delivered == MEMBERS
            hall.pair.turn(1)
        for octets in hear_all(hall.pair, clients):
            assert numbers(octets) == list(range(30))
        for octets in hear_all(hall.pair, slow):
            assert numbers(octets) == list(range(30))
        counts = hall.channel.statistics()
        assert counts.published * MEMBERS == counts.offered == 30 * MEMBERS
        assert counts.offered == counts.delivered + counts.dropped + counts.closed


def publish_for_a_while(hall, clients, count):
    """Publish to a room; returns how long each took to be with all who read, in seconds."""
    times = []
    for i in range(count):
        started = time.perf_counter()
        hall.channel.publish_nowait(number(i))
        hall.pair.turn(1)
        times.append(time.perf_counter() - started)
        for client in clients:
            drain(client)
    return times


@pytest.mark.slow
def test_stalled_members_do_not_delay_the_others(warm, many_descriptors):
    """With 1% of them stalled, p99 is below twice that without."""
    ratios = []
    for _ in range(3):
        p99 = []
        for stalled in (0, STALLED):
            with open_room(Policy.DROP_OLDEST, 64, members=MEMBERS - stalled, stalled=stalled) as (
                hall,
                clients,
                _slow,
            ):
                publish_for_a_while(hall, clients, 20)
                times = publish_for_a_while(hall, clients, 200)
                p99.append(statistics.quantiles(times, n=100)[-1])
                assert hall.channel.statistics().dropped > 0 or not stalled
        ratios.append(p99[1] / p99[0])
        print(f"p99 {p99[0] * 1e3:.2f} ms, with {STALLED} stalled {p99[1] * 1e3:.2f} ms")
    assert min(ratios) < 2


@pytest.mark.parametrize(
    "policy",
    [Policy.BLOCK, Policy.DROP_OLDEST, Policy.DROP_NEWEST, Policy.LATEST(len), Policy.DISCONNECT],
    ids=["block", "oldest", "newest", "latest", "disconnect"],
)
@pytest.mark.parametrize("capacity", [8, Capacity(octets=8 * 20_054)], ids=["items", "octets"])
def test_a_stalled_member_holds_what_is_said(warm, policy, capacity):
    """Its capacity of items that no one else holds, 64 KiB and a message in its queue, no more."""
    size, items, others = 20_000, 8, 200_000
    refused = 0
    with open_room(policy, capacity, members=0, stalled=5) as (hall, _, slow):
        tracemalloc.start()
        try:
            for i in range(300):
                try:
                    hall.channel.publish_nowait(i.to_bytes(4) + bytes(size + i % 50))
                except trio.WouldBlock:
                    refused += 1
                hall.pair.turn(1)
                for attachment in hall.attachments.values():
                    assert attachment.statistics().waiting_items <= items
                assert hall.pair.register(s.QUEUED) <= len(slow) * (65_536 + size + 100)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        # A payload and its frame, shared by all who wait for it; queues are libc's.
        assert peak < 2 * 2 * items * (size + 50) + others
        counts = hall.channel.statistics()
        assert counts.offered == counts.delivered + counts.dropped + counts.closed
        assert counts.published == 300 - refused
        assert (refused > 0) is (policy is Policy.BLOCK)
        assert (counts.dropped > 0) is (policy not in (Policy.BLOCK, Policy.DISCONNECT))
        assert counts.closed == (len(slow) if policy is Policy.DISCONNECT else 0)
