"""The passes of Trio's that go by between two turns of a loop with a task per connection."""

import os
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


async def test_answers_that_take_time_do_not_hold_others_up(warm: None, nursery: trio.Nursery):
    """Who waits for something else meanwhile is not waited for."""

    async def echo_late(ws: triows.WebSocket) -> None:
        async for message in ws:
            await trio.sleep(0.001)
            await ws.send(message)

    sends, answers = await exchange(echo_late, nursery, 4)
    assert answers == [str(number) for number in range(4)]
    assert sends == 4
