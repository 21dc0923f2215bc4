"""The passes of Trio's that go by between two turns of a loop with a task per connection."""

import contextlib
import os
import random
from functools import partial

import pytest
import trio

import triows
from tests.conformance.transports import echo

pytestmark = pytest.mark.skipif(
    os.environ.get("TRIOWS_DRIVER") == "stream", reason="the reactor is ruled out"
)


async def exchange(handler, nursery: trio.Nursery, messages: int) -> tuple[int, list[str]]:
    """Send so many messages in one go; returns the server's sends, and what came back."""
    server: triows.Server = await nursery.start(partial(triows.serve, handler, 0))
    async with triows.open_websocket(f"ws://127.0.0.1:{server.port}/") as ws:
        before = server.statistics().loop
        for number in range(messages):
            ws.send_nowait(str(number))
        answers = [await ws.receive() for _ in range(messages)]
        after = server.statistics().loop
    assert after.messages_received - before.messages_received == messages
    return after.sends - before.sends, answers


async def test_answers_to_what_came_together_leave_together(warm: None, nursery: trio.Nursery):
    """A handler that sends after each receive runs for several passes before the next turn."""
    sends, answers = await exchange(echo, nursery, 16)
    assert answers == [str(number) for number in range(16)]
    assert sends <= 8  # 16 without; 1 unless this machine is slow


async def test_answers_of_several_connections_leave_together(warm: None, nursery: trio.Nursery):
    """Their tasks take turns, so that no two sends of one follow each other."""
    server: triows.Server = await nursery.start(partial(triows.serve, echo, 0))
    async with contextlib.AsyncExitStack() as stack:
        url = f"ws://127.0.0.1:{server.port}/"
        clients = [await stack.enter_async_context(triows.open_websocket(url)) for _ in range(4)]
        before = server.statistics().loop.sends
        for number in range(16):
            for ws in clients:
                ws.send_nowait(str(number))
        for ws in clients:
            assert [await ws.receive() for _ in range(16)] == [str(n) for n in range(16)]
        sends = server.statistics().loop.sends - before
    assert sends <= 32  # 64 without; 4 unless this machine is slow


async def test_answers_to_more_than_a_turn_takes_leave_several_at_a_time(
    warm: None, nursery: trio.Nursery
):
    """What they have is sent now and then, for others wait meanwhile."""
    sends, answers = await exchange(echo, nursery, 250)
    assert answers == [str(number) for number in range(250)]
    assert 250 / 20 < sends <= 250 / 2


async def test_a_task_that_waits_for_room_goes_on_when_what_it_sent_has_left(
    warm: None, nursery: trio.Nursery
):
    """Answers larger than what may be unsent, to messages that came together.

    The kernel takes each at once, so that no queue is ever seen to shrink.
    """
    payload = random.Random(1).randbytes(2_000)  # incompressible

    async def answer(ws: triows.WebSocket) -> None:
        async for _ in ws:
            await ws.send(payload)

    limits = triows.Limits(send_queue_octets=1_000)
    server: triows.Server = await nursery.start(partial(triows.serve, limits=limits), answer, 0)
    async with triows.open_websocket(f"ws://127.0.0.1:{server.port}/") as ws:
        for number in range(16):
            ws.send_nowait(str(number))
        with trio.fail_after(10):
            assert [await ws.receive() for _ in range(16)] == [payload] * 16


async def test_answers_that_take_time_do_not_hold_others_up(warm: None, nursery: trio.Nursery):
    """Who waits for something else meanwhile is not waited for."""

    async def echo_late(ws: triows.WebSocket) -> None:
        async for message in ws:
            await trio.sleep(0.001)
            await ws.send(message)

    sends, answers = await exchange(echo_late, nursery, 4)
    assert answers == [str(number) for number in range(4)]
    assert sends == 4
