"""The steps of the tutorial "build a chat": each is run, and does what the page says."""

import random
import re
import runpy
import signal
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

import pytest
import trio

import triows
from tests.unit.test_examples import get
from triows.testing import memory_pair

STEPS = Path(__file__).parents[2] / "examples" / "chat_steps"
LONGEST = 60  # lines
NOISE = random.Random(7692).randbytes(240).hex()  # so that it is not compressed to nothing


def load(name: str) -> dict:
    """Run a step as a module; returns what it defines."""
    return runpy.run_path(str(STEPS / f"{name}.py"))


async def lines_of(*clients: triows.WebSocket) -> list[list[str]]:
    """Return the lines that each has got once nothing more comes."""
    await trio.sleep(0.1)
    lines = []
    for client in clients:
        lines.append([])
        while True:
            try:
                lines[-1].append(client.receive_nowait())
            except trio.WouldBlock:
                break
    return lines


@pytest.mark.parametrize("path", sorted(STEPS.glob("*.py")), ids=lambda path: path.stem)
def test_steps_are_short_and_run(path) -> None:
    """A step fits on a page, a test of its name runs it, and it runs as a program."""
    assert len(path.read_text().splitlines()) <= LONGEST
    assert f"test_{path.stem}" in globals()
    assert re.search(r'if __name__ == "__main__":\n    trio\.run\(', path.read_text())


async def test_step_1_everyone(autojump_clock) -> None:
    """What one says all hear, those who come later too."""
    handler = load("step_1_everyone")["serve_member"]
    async with memory_pair(handler=handler) as (ann, _), memory_pair(handler=handler) as (bob, _):
        await ann.send("hello")
        assert await lines_of(ann, bob) == [["hello"], ["hello"]]
        async with memory_pair(handler=handler) as (eve, _):
            assert await lines_of(eve) == [["hello"]]


async def test_step_2_names(autojump_clock) -> None:
    """People have names, which they can change, and are seen to come and go."""
    handler = load("step_2_names")["serve_member"]
    async with memory_pair(handler=handler) as (ann, _):
        async with memory_pair(handler=handler) as (bob, _):
            await lines_of(ann, bob)
            for line in ("/nick guest-2", "/nick ann", "hello", "/who"):
                await ann.send(line)
            mine, others = await lines_of(ann, bob)
            assert mine[0] == "* that name is taken"
            assert others == ["* guest-1 is now ann", "ann: hello"]
            assert mine[1:] == [*others, "* here: ann, guest-2"]
        assert await lines_of(ann) == [["* guest-2 left"]]


async def test_step_3_rooms(autojump_clock) -> None:
    """People in one room do not hear those in another, and find there what was said."""
    handler = load("step_3_rooms")["Chat"]().serve_member
    async with memory_pair(handler=handler) as (ann, _), memory_pair(handler=handler) as (bob, _):
        await lines_of(ann, bob)
        await ann.send("/join garden")
        assert await lines_of(ann, bob) == [
            ["* guest-1 came to garden"],
            ["* guest-1 left lobby"],
        ]
        await ann.send("tomatoes")
        await bob.send("/who")
        assert await lines_of(ann, bob) == [["guest-1: tomatoes"], ["* here: guest-2"]]
        await bob.send("/join garden")
        assert (await lines_of(bob))[0] == [
            "* guest-1 came to garden", "guest-1: tomatoes", "* guest-2 came to garden",
        ]  # fmt: skip


async def test_step_4_limits(autojump_clock) -> None:
    """Long lines are refused, fast ones read slowly; who does not read misses some."""
    step = load("step_4_limits")
    keepalive = triows.KeepAlive(interval=1e9)
    pair = partial(memory_pair, handler=step["serve_member"], keepalive=keepalive)
    async with AsyncExitStack() as stack:
        ann, _ = await stack.enter_async_context(pair())
        deaf, _ = await stack.enter_async_context(pair())
        began = trio.current_time()
        await ann.send("x" * 501)
        assert "500" in await ann.receive()
        for number in range(1_000):
            await ann.send(f"{number} {NOISE}")
            assert (await ann.receive()).startswith(f"{number} ")
        assert trio.current_time() - began == pytest.approx(200, abs=1)
        heard = []
        while not heard or not heard[-1].startswith("999 "):
            heard.append(await deaf.receive())
        (gap,) = [line for line in heard if "left out" in line]
        assert len(heard) - 1 + int(gap.split()[5]) == 1_000


async def test_step_4_limits_ends_in_order(nursery, monkeypatch) -> None:
    """At a signal people are told, and the connections close with 1001."""
    started, wait_started = trio.open_memory_channel(1)
    serve_on = triows.serve

    async def serve(handler, _port, *, task_status, **settings):
        async with trio.open_nursery() as inner:
            server = await inner.start(partial(serve_on, handler, 0, **settings))
            task_status.started(server)
            started.send_nowait(server)

    monkeypatch.setattr(triows, "serve", serve)
    nursery.start_soon(load("step_4_limits")["main"])
    server = await wait_started.receive()
    async with triows.open_websocket(f"ws://127.0.0.1:{server.port}") as ws:
        await ws.send("hello")
        assert await ws.receive() == "hello"
        signal.raise_signal(signal.SIGTERM)
        assert [message async for message in ws] == ["* the server is shutting down"]
        assert ws.close_reason.code == 1001


async def test_step_5_page(nursery) -> None:
    """The page and its script are served, its socket is opened, and no other site's is."""
    step = load("step_5_page")
    serve = partial(triows.serve, step["serve_member"], 0, on_request=step["answer"])
    server = await nursery.start(serve)
    address = f"127.0.0.1:{server.port}"
    assert b"<title>Chat</title>" in await get(address, "/")
    assert b"textContent: data" in await get(address, "/chat.js")
    assert (await get(address, "/else")).startswith(b"HTTP/1.1 404 ")
    async with triows.open_websocket(f"ws://{address}/", origin=f"http://{address}") as ws:
        await ws.send("hello")
        assert await ws.receive() == "hello"
    with pytest.raises(triows.HandshakeRejected, match="403"):
        async with triows.open_websocket(f"ws://{address}/", origin="http://evil.example"):
            pass
    nursery.cancel_scope.cancel()
