"""Both ends talk at once, and every call is cancelled at random: nothing is lost, doubled or torn.

Each end sends a message of 10 MiB among small ones while it receives the other's. A
call that was cancelled is made again; one that returned counts. What arrives must be
what was sent, in order. The seed decides the messages and the moments.
"""

import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Any

import pytest
import trio

import triows
from tests.conformance.transports import run_in_virtual_time
from triows._kernels._registry import JIT
from triows.testing import memory_pair

pytestmark = pytest.mark.skipif(not JIT, reason="interpreted, 10 MiB take half a minute")

LARGE = 10 * 2**20
LIMITS = triows.Limits(max_message=LARGE, receive_queue_messages=4)
PASSES = 40
"""Scheduling passes within which a call is cancelled, at most."""

NOISE = random.Random(6455).randbytes(2 * LARGE)
"""Where messages are cut from."""

Pair = tuple[triows.WebSocket, triows.WebSocket]
OpenPair = Callable[[], AbstractAsyncContextManager[Pair]]


@asynccontextmanager
async def tcp_pair() -> AsyncIterator[Pair]:
    """A client and a server over loopback."""
    offer, accepted = trio.open_memory_channel[triows.WebSocket](1)

    async def host(ws: triows.WebSocket) -> None:
        offer.send_nowait(ws)
        await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        server = await nursery.start(partial(triows.serve, host, 0, limits=LIMITS))
        url = f"ws://127.0.0.1:{server.port}/"
        async with triows.open_websocket(url, limits=LIMITS) as client:
            yield client, await accepted.receive()
        nursery.cancel_scope.cancel()


def make_messages(chance: random.Random) -> list[bytes]:
    """Some small messages, and among them a large one."""
    sizes = [chance.choice([0, 1, 125, 126, 4_096, 65_536, 70_000]) for _ in range(6)]
    sizes.insert(chance.randrange(len(sizes) + 1), LARGE)
    starts = (chance.randrange(LARGE) for _ in sizes)
    return [NOISE[start : start + size] for start, size in zip(starts, sizes, strict=True)]


async def insist(
    chance: random.Random, call: Callable[[], Awaitable[Any]], attempts: Counter[str]
) -> Any:
    """Call until it returns, cancelling each call after some scheduling passes."""
    returned: list[Any] = []

    async def attempt(scope: trio.CancelScope) -> None:
        with scope:
            returned.append(await call())

    while not returned:
        attempts["begun"] += 1
        async with trio.open_nursery() as nursery:
            scope = trio.CancelScope()
            nursery.start_soon(attempt, scope)
            for _ in range(chance.randrange(PASSES)):
                await trio.lowlevel.checkpoint()
                if returned:
                    break
            scope.cancel()
    assert len(returned) == 1
    attempts["returned"] += 1
    return returned[0]


async def exchange(open_pair: OpenPair, seed: int) -> None:
    """Send messages both ways, and hold what arrives against them."""
    chance = random.Random(seed)
    attempts: Counter[str] = Counter()

    async def send(ws: triows.WebSocket, messages: list[bytes]) -> None:
        for message in messages:
            await insist(chance, partial(ws.send, message), attempts)

    async def receive(ws: triows.WebSocket, messages: list[bytes]) -> None:
        for number, message in enumerate(messages):
            received = await insist(chance, ws.receive, attempts)
            assert received == message, f"message {number} of seed {seed}"

    async with open_pair() as (client, server):
        async with trio.open_nursery() as nursery:
            for sender, receiver in ((client, server), (server, client)):
                messages = make_messages(chance)
                nursery.start_soon(send, sender, messages)
                nursery.start_soon(receive, receiver, messages)
        for ws in (client, server):
            assert ws.statistics().unread_messages == 0
            assert ws.statistics().unsent_octets == 0
    assert attempts["begun"] > attempts["returned"], "nothing was cancelled"
    assert client.close_reason == triows.CloseReason(1000, "")


ways = pytest.mark.parametrize(
    "open_pair",
    [
        pytest.param(
            partial(memory_pair, limits=LIMITS),
            id="memory",
            marks=pytest.mark.trio(run=run_in_virtual_time),
        ),
        pytest.param(tcp_pair, id="tcp"),
    ],
)


@ways
async def test_cancelled_exchange(open_pair: OpenPair, warm: None):
    """Of 8 seeds, none loses, doubles or tears a message."""
    for seed in range(8):
        await exchange(open_pair, seed)


@pytest.mark.slow
@pytest.mark.timeout(300)
@ways
async def test_cancelled_exchange_at_length(open_pair: OpenPair, warm: None):
    """Of 120 further seeds none does."""
    for seed in range(1_000, 1_120):
        await exchange(open_pair, seed)
