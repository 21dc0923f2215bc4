"""What a reactor holds while many are connected, and after many have been (item 23)."""

import itertools

import pytest

from tests.hostile.crowd import (
    BYE,
    BYE_BACK,
    HELLO,
    HELLO_BACK,
    MeasuredServer,
    join,
    many_descriptors,
    receive,
    reset,
)
from triows._kernels._registry import JIT

HOSTS = [f"127.0.0.{number}" for number in range(1, 9)]
BATCH = 250
"""Connections that come at once and go again."""
OBJECTS_WITH_A_TASK = 20
"""That the garbage collector knows of an idle connection with a task."""
FEW = 50
"""Connections that come at once to stay: what many handshakes at once take is not theirs."""
IDLE_BUDGET = 512
"""Octets that an idle connection may take beyond the kernel's."""
IDLE_BUDGET_WITH_A_TASK = 4_096
"""Likewise where a task waits for its messages."""

pytestmark = pytest.mark.skipif(not JIT, reason="figures of the compiled reactor")


@pytest.fixture(params=[0, 1, 2])
def server(request, monkeypatch):
    """A reactor, inline, in a thread or in two."""
    yield from run_exact(monkeypatch, threads=request.param)


@pytest.fixture
def threaded_server(monkeypatch):
    """A reactor in a thread."""
    yield from run_exact(monkeypatch, threads=1)


@pytest.fixture(params=["tasks", "receivers"])
def server_with_tasks(request, monkeypatch):
    """A server with a task for each connection, by the reactor, with Python's own allocator."""
    yield from run(monkeypatch, request.param, threads=0)


def run_exact(monkeypatch, threads):
    """Run a reactor whose memory comes in small pieces.

    Python's arenas of 1 MiB round what a process holds by more than a thousand connections take.
    """
    monkeypatch.setenv("PYTHONMALLOC", "malloc")
    yield from run(monkeypatch, "reactor", threads)


def run(monkeypatch, kind, threads):
    """Run a server that takes no pages of 2 MiB, which hold more than 5,000 connections."""
    monkeypatch.setenv("NUMPY_MADVISE_HUGEPAGE", "0")
    try:
        with many_descriptors(16_384):
            server = MeasuredServer(kind, threads, HOSTS)
    except (OSError, ValueError):
        pytest.skip("this process may not open 16,384 descriptors")
    yield server
    assert "Traceback" not in server.close()


def come_and_go(server, count, ways):
    """Let *count* clients come, exchange a message, and leave, each in the next of *ways*."""
    for _ in range(count // BATCH):
        clients, heard = join(server.addresses, BATCH, HELLO)
        for client, octets in zip(clients, heard, strict=True):
            assert octets + receive(client, len(HELLO_BACK) - len(octets)) == HELLO_BACK
        for client in clients:
            next(ways)(client)


def close_in_order(client):
    """Leave with the closing handshake; the server ends TCP first (RFC 6455 §7.1.1)."""
    client.sendall(BYE)
    assert receive(client, len(BYE_BACK)) == BYE_BACK
    assert client.recv(1) == b""
    client.close()


def cut_in_mid_message(client):
    """Reset the connection between two fragments, the second with half a header."""
    client.sendall(b"\x02\x85mask12345" + b"\x80")
    reset(client)


def test_item_23_an_idle_connection_takes_what_is_promised(threaded_server):
    """4,000 idle connections take less than 512 octets each, whatever they did before."""
    each = hold_idle(threaded_server, 4_000, tasks=0, objects=0)
    assert each < IDLE_BUDGET


@pytest.mark.slow  # seconds
def test_item_23_15000_idle_connections(threaded_server):
    """15,000 idle connections take less than 512 octets each."""
    each = hold_idle(threaded_server, 15_000, tasks=0, objects=0)
    assert each < IDLE_BUDGET


def test_item_23_an_idle_connection_with_a_task_takes_what_is_promised(server_with_tasks):
    """6,000 idle connections with a task each take less than 4 KiB each."""
    each = hold_idle(server_with_tasks, 6_000, tasks=1, objects=OBJECTS_WITH_A_TASK)
    assert each < IDLE_BUDGET_WITH_A_TASK


@pytest.mark.slow  # seconds
def test_item_23_15000_idle_connections_with_a_task_each(server_with_tasks):
    """15,000 idle connections with a task each take less than 4 KiB each."""
    each = hold_idle(server_with_tasks, 15_000, tasks=1, objects=OBJECTS_WITH_A_TASK)
    assert each < IDLE_BUDGET_WITH_A_TASK


def hold_idle(server, count, tasks, objects):
    """Hold *count* idle connections, one by one told to be still there.

    Args:
        server: to connect to.
        count: of connections.
        tasks: that each has.
        objects: that the garbage collector may know of each.

    Returns:
        The octets that each takes.
    """
    come_and_go(server, 2_000, itertools.repeat(reset))
    before = server.settle(0)
    clients = []
    with many_descriptors(16_384):
        while len(clients) < count:
            clients += join(server.addresses, FEW)[0]
        for client in clients:
            client.sendall(HELLO)
        for client in clients:
            assert receive(client, len(HELLO_BACK)) == HELLO_BACK
        held = server.settle(count)
        for client in clients:
            reset(client)

    each = (held["resident"] - before["resident"]) / count
    print(f"{count} idle connections: {each:.0f} octets each")
    assert held["connections"] == count
    assert held["descriptors"] - before["descriptors"] == count
    assert held["tasks"] - before["tasks"] == tasks * count
    assert held["objects"] - before["objects"] < objects * count + 100
    return each


def test_item_23_coming_and_going_leaves_nothing(server):
    """2,000 connections, ended in three ways, leave no memory, descriptor or object behind."""
    wear(server, 2_000)


@pytest.mark.slow  # a minute
def test_item_23_100000_connections_leave_nothing(threaded_server):
    """100,000 connections, ended in three ways, leave no memory, descriptor or object behind."""
    wear(threaded_server, 100_000)


def wear(server, count):
    """Let *count* connections come and go, and hold what is left against what was before."""
    ways = itertools.cycle([reset, close_in_order, cut_in_mid_message])
    come_and_go(server, 1_000, ways)
    before = server.settle(0)
    come_and_go(server, count, ways)
    after = server.settle(0)

    growth = after["resident"] - before["resident"]
    objects = after["objects"] - before["objects"]
    print(f"{count} came and went: {growth} octets and {objects} objects more")
    assert after["opened"] - before["opened"] == count
    assert after["connections"] == 0
    assert after["descriptors"] == before["descriptors"]
    assert after["tasks"] == before["tasks"]
    assert after["slots"] <= 2 * BATCH
    assert objects < 100
    assert growth < 2**20
