"""Who drives a loop: threads that are woken, stopped and joined; a task that yields."""

import os
import socket
import threading
import time

import pytest
import trio
import trio.testing

import triows
from tests.naive_reception import build_frame
from triows._reactor import Driver, InlineDriver, Loop, Outbox, ThreadDriver
from triows._reactor._worker import Odds

HI = build_frame(1, b"hi", key=b"mask")
HI_BACK = build_frame(1, b"hi")
GOING_AWAY = build_frame(8, b"\x03\xe9the server is going away")
BYE = build_frame(8, b"\x03\xe9", key=b"mask")

KINDS = pytest.mark.parametrize("kind", [ThreadDriver, InlineDriver])


@pytest.fixture(autouse=True)
def _warm(warm):
    """No test waits for a compiler."""


def make(kind, grace=5.0):
    """A driver with a loop of its own."""
    return kind(Loop(0, triows.Limits(), triows.KeepAlive()), grace, Outbox(2**20))


def give(driver, leftover=b""):
    """A client whose connection *driver* is given."""
    ours, theirs = socket.socketpair()
    driver.add(theirs.detach(), leftover, None, None, 0)
    return trio.SocketStream(trio.socket.from_stdlib_socket(ours))


async def converse(client):
    """Exchange a message."""
    await client.send_all(HI)
    assert await client.receive_some() == HI_BACK


@KINDS
async def test_a_driver_ends_with_its_last_connection(kind):
    """After finish, run waits for the peers and for nothing else."""
    driver = make(kind)
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(driver.run)
            client = give(driver)
            await converse(client)
            driver.finish()
            await converse(client)
            assert driver.statistics().connections == 1
            await client.aclose()
    assert driver.connections == 0


@KINDS
async def test_what_was_given_early_is_served_first(kind):
    """Sockets that were handed over before it ran are served, what they had sent first."""
    driver = make(kind)
    client = give(driver, HI)
    assert driver.connections == 1
    driver.finish()
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(driver.run)
            assert await client.receive_some() == HI_BACK
            await client.aclose()


@KINDS
async def test_cancelling_says_goodbye_and_joins(kind):
    """Peers are told 1001; those that answer are waited for, and then no thread is left."""
    driver = make(kind)
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(driver.run)
            client = give(driver)
            await converse(client)
            nursery.cancel_scope.cancel()
            with trio.CancelScope(shield=True):
                assert await client.receive_some() == GOING_AWAY
                assert not driver._is_over
                await client.send_all(BYE)
                assert await client.receive_some() == b""
    assert driver._is_over
    assert driver.statistics().connections == 0
    await client.aclose()


@KINDS
async def test_the_grace_is_kept(kind):
    """A peer that does not answer the Close is dropped when the grace is over."""
    driver = make(kind, grace=0.1)
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(driver.run)
            client = give(driver)
            await converse(client)
            start = trio.current_time()
            nursery.cancel_scope.cancel()
    assert 0.1 <= trio.current_time() - start < 5
    assert await client.receive_some() == GOING_AWAY
    assert await client.receive_some() == b""
    await client.aclose()


@KINDS
async def test_who_comes_too_late_is_dropped(kind):
    """A socket that is handed over once the driver has ended is closed."""
    driver = make(kind)
    driver.finish()
    with trio.fail_after(10):
        await driver.run()
        client = give(driver)
        assert await client.receive_some() == b""
    await client.aclose()


@KINDS
async def test_who_comes_during_the_goodbye_is_dropped(kind):
    """A socket that is handed over while peers are told to go is closed, unserved."""
    driver = make(kind)
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(driver.run)
            client = give(driver)
            await converse(client)
            nursery.cancel_scope.cancel()
            with trio.CancelScope(shield=True):
                assert await client.receive_some() == GOING_AWAY
                late = give(driver)
                assert await late.receive_some() == b""
                await client.send_all(BYE)
    await client.aclose()
    await late.aclose()


@KINDS
async def test_a_loop_that_fails_is_raised_by_run(kind, monkeypatch):
    """What goes wrong in the loop comes out of run, with everything given back."""
    driver = make(kind)
    client = give(driver)

    def fail(*_):
        raise OSError(9, "epoll is gone")

    monkeypatch.setattr(driver._loop, "take_turns", fail)
    with trio.fail_after(10), pytest.raises(OSError, match="epoll is gone"):
        await driver.run()

    assert driver._is_over
    assert await client.receive_some() == b""
    await client.aclose()


async def test_other_tasks_run_while_a_thread_waits():
    """A thread that waits in epoll_wait does not keep Trio from running."""
    driver = make(ThreadDriver)
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(driver.run)
            client = give(driver)
            await converse(client)
            start = time.monotonic()
            for _ in range(100):
                await trio.lowlevel.checkpoint()
            assert time.monotonic() - start < 0.2  # one look of the thread's takes 0.25 s
            await client.aclose()
            nursery.cancel_scope.cancel()


def test_a_wake_up_never_meets_a_closed_loop():
    """The loop stays open until whoever has a call taken is through with waking it.

    Else its eight octets would be written to whatever descriptor has the number next.
    """
    driver = make(ThreadDriver)
    is_waking, may_go_on, is_over = threading.Event(), threading.Event(), threading.Event()
    wake, order = driver._loop.wake, []

    def wake_slowly():
        is_waking.set()
        assert may_go_on.wait(5)
        os.fstat(driver._loop._wake)
        wake()
        order.append("woken")

    def end():
        driver._end()
        order.append("ended")
        is_over.set()

    driver._loop.wake = wake_slowly
    threads = [threading.Thread(target=driver.finish), threading.Thread(target=end)]
    threads[0].start()
    assert is_waking.wait(5)
    threads[1].start()
    assert not is_over.wait(0.05)
    may_go_on.set()
    for thread in threads:
        thread.join()

    assert order == ["woken", "ended"]


async def test_a_kind_must_say_how_it_runs():
    """The base drives nothing."""
    driver = make(Driver)
    with pytest.raises(NotImplementedError):
        await driver.run()
    driver._end()


async def test_many_hand_overs_are_few_wake_ups():
    """Sockets that are handed over while the thread works cost it no turn each."""
    driver = make(ThreadDriver)
    clients = [give(driver) for _ in range(200)]
    assert driver.connections == 200
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(driver.run)
            await converse(clients[-1])
            statistics = driver.statistics()
            assert statistics.connections == 200
            assert statistics.turns < 20
            for client in clients:
                await client.aclose()
            nursery.cancel_scope.cancel()


def test_what_is_in_vain_is_tried_less_often_and_again_at_once_after_a_hit():
    """One try in 2, 4, 8 … 64 while all are in vain; each time once one was not."""
    odds = Odds()
    rests = []
    for _ in range(8):
        assert odds.are_good()
        odds.learn(is_hit=False)
        rests.append(0)
        while not odds.are_good():
            rests[-1] += 1

    assert rests == [1, 3, 7, 15, 31, 63, 63, 63]
    odds.learn(is_hit=True)
    assert odds.are_good()
    assert odds.are_good()
