"""Traffic of every kind at once, by seeds: all of it arrives, in order, and no one waits for ever.

Payloads cannot be compressed, limits are small in one place or the other, and peers pause: so
that someone waits for room at each of the places where one can.
"""

import contextlib
import random
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import pytest
import trio

import triows

SEEDS = range(60)
PATIENCE = 20.0

Handler = Callable[[triows.WebSocket], Awaitable[None]]
Item = str | bytes


def make_item(rng: random.Random, most: int) -> Item:
    """A message of up to so many octets, mostly small."""
    size = rng.choice([0, 1, 125, 126, 1_000, 70_000, rng.randrange(most)])
    if rng.random() < 0.3:
        return "".join(rng.choices("abcdefghijklmnopqrstuvwxyzäöü€", k=min(size, 2_000)))
    return rng.randbytes(min(size, most))


# What a server may do with messages. Each must send all of them back, in order.


async def echo(ws: triows.WebSocket) -> None:
    """One at a time."""
    async for message in ws:
        await ws.send(message)


async def echo_batches(ws: triows.WebSocket) -> None:
    """As many as there are."""
    while True:
        for message in await ws.receive_batch(7):
            try:
                ws.send_nowait(message)
            except trio.WouldBlock:
                await ws.send(message)


async def echo_in_parts(ws: triows.WebSocket) -> None:
    """Each in parts."""
    async for message in ws:
        async with ws.open_message(text=isinstance(message, str)) as outgoing:
            for start in range(0, len(message), 10_000):
                await outgoing.send(message[start : start + 10_000])


async def echo_from_another_task(ws: triows.WebSocket) -> None:
    """By a task that gets them through a channel without room."""
    offer, take = trio.open_memory_channel[Item](0)

    async def send() -> None:
        async for message in take:
            await ws.send(message)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        async with offer:
            async for message in ws:
                await offer.send(message)


async def publish_back(ws: triows.WebSocket) -> None:
    """Through a broadcast channel of the connection's own."""
    channel = triows.BroadcastChannel[Item]()
    with channel.attach(ws, triows.Policy.BLOCK):
        async for message in ws:
            await channel.publish(message)
        await ws.aclose()


HANDLERS: dict[str, Handler] = {
    one.__name__: one
    for one in (echo, echo_batches, echo_in_parts, echo_from_another_task, publish_back)
}


class Crowd:
    """Clients of one server, which talk to it as the seed says."""

    def __init__(self, seed: int, driver: str) -> None:
        self.rng = random.Random(seed)
        self.driver = driver
        self.handler = HANDLERS[self.rng.choice(list(HANDLERS))]
        self.deflate = self.rng.choice([None, triows.Deflate()])

    def make_limits(self) -> triows.Limits:
        """Limits of which some are small."""
        return triows.Limits(
            send_queue_octets=self.rng.choice([1, 1_000, 2**16]),
            receive_queue_octets=self.rng.choice([1, 1_000, 2**20]),
            receive_queue_messages=self.rng.choice([1, 3, 256]),
        )

    async def run(self) -> None:
        """Have them all talk."""
        serve = partial(
            triows.serve, limits=self.make_limits(), deflate=self.deflate, driver=self.driver
        )
        async with trio.open_nursery() as nursery:
            server: triows.Server = await nursery.start(serve, self.handle, 0)
            async with trio.open_nursery() as clients:
                for _ in range(self.rng.choice([1, 2, 6])):
                    clients.start_soon(self.talk, server.port)
            nursery.cancel_scope.cancel()

    async def handle(self, ws: triows.WebSocket) -> None:
        """Serve a client."""
        with contextlib.suppress(trio.EndOfChannel):
            await self.handler(ws)

    async def talk(self, port: int) -> None:
        """Send what is to come back, and receive it in another task."""
        rng = random.Random(self.rng.random())
        items = [make_item(rng, 300_000) for _ in range(rng.choice([1, 5, 40]))]
        url = f"ws://127.0.0.1:{port}"
        async with (
            triows.open_websocket(
                url, limits=self.make_limits(), deflate=self.deflate, driver=self.driver
            ) as ws,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(self.say, ws, items, random.Random(rng.random()))
            got = await self.hear(ws, len(items), rng)
        assert [describe(one) for one in got] == [describe(one) for one in items]

    async def say(self, ws: triows.WebSocket, items: list[Item], rng: random.Random) -> None:
        """Send in every way, now and then pausing."""
        pauses = rng.choice([0.0, 0.1])
        for item in items:
            if rng.random() < pauses:
                await trio.sleep(0.003 * rng.random())
            if rng.random() < 0.5:
                await ws.send(item)
                continue
            try:
                ws.send_nowait(item)
            except trio.WouldBlock:
                await ws.send(item)

    async def hear(self, ws: triows.WebSocket, count: int, rng: random.Random) -> list[Item]:
        """Receive in every way, now and then pausing; receiving is cancelled now and then."""
        pauses = rng.choice([0.0, 0.1])
        got: list[Any] = []
        while len(got) < count:
            if rng.random() < pauses:
                await trio.sleep(0.003 * rng.random())
            way = rng.random()
            if way < 0.2:
                got += await ws.receive_batch(5)
            elif way < 0.4:
                async with ws.receive_parts() as message:
                    parts = [part async for part in message]
                    got.append(("" if message.is_text else b"").join(parts))
            elif way < 0.6:
                with trio.move_on_after(0.002 * rng.random()):
                    got.append(await ws.receive())
            else:
                got.append(await ws.receive())
        return got


def describe(item: Item) -> tuple[str, int, Item]:
    """A message so that a difference can be read."""
    return type(item).__name__, len(item), item[:20]


@pytest.mark.parametrize("driver", ["stream", "reactor"])
@pytest.mark.parametrize("seed", SEEDS)
async def test_mixed_traffic_all_arrives(warm: None, seed: int, driver: str) -> None:
    """Whatever the limits, the way of sending and receiving, and the pauses."""
    with trio.fail_after(PATIENCE):
        await Crowd(seed, driver).run()
