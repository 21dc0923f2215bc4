"""Brokers over a Redis that is killed and stopped at random; what all hear is checked."""

import random
from contextlib import AsyncExitStack
from functools import partial
from uuid import uuid4

import pytest
import trio

from triows import Backoff, Lagged, Policy, Rooms
from triows.redis import open_redis_broker

SECONDS = 6
BROKERS = 3


class Listener:
    """Hears a room, and holds every sender's numbers to their order."""

    def __init__(self):
        self.heard = {}
        self.missed = 0
        """Numbers that were passed over."""
        self.lagged = 0
        """How many of them were told."""

    def enter(self, item):
        """Note an item, which must be a later one than that before of its sender."""
        sender, number = item.split()
        before = self.heard.get(sender, 0)
        assert int(number) > before, (item, before)
        self.missed += int(number) - before - 1
        self.heard[sender] = int(number)

    async def run(self, rooms, policy, pace):
        """Hear, at some pace, until cancelled."""
        async with rooms.join("a", policy=policy, capacity=20) as room:
            while True:
                try:
                    self.enter(await room.receive())
                except Lagged as lagged:
                    self.lagged += lagged.count
                await trio.sleep(pace())


async def publish(rooms, sender, pace, sent):
    """Publish numbers, at some pace, until cancelled."""
    while True:
        await rooms.publish("a", f"{sender} {sent[sender] + 1}")
        sent[sender] += 1
        await trio.sleep(pace())


class Chat:
    """A room on several brokers, in each of which some listen and one publishes."""

    def __init__(self, chance, brokers):
        self.chance = chance
        self.brokers = brokers
        self.rooms = [Rooms(broker=broker) for broker in brokers]
        self.sent = {f"sender-{number}": 0 for number in range(len(brokers))}
        self.listeners = []

    def listen(self, nursery):
        """Have some listen in each, more or less quickly."""
        for rooms in self.rooms:
            for policy in (Policy.BLOCK, Policy.BLOCK, Policy.DROP_OLDEST):
                self.listeners.append(Listener())
                slowness = self.chance.choice([0, 0, 0.001, 0.003])
                pace = partial(self.chance.uniform, 0, slowness)
                nursery.start_soon(self.listeners[-1].run, rooms, policy, pace)

    def publish(self, nursery):
        """Have one publish in each."""
        pace = partial(self.chance.uniform, 0, 0.004)
        for sender, rooms in zip(self.sent, self.rooms, strict=True):
            nursery.start_soon(publish, rooms, sender, pace, self.sent)

    async def end(self):
        """Publish a last item of each, and wait until all have heard it."""
        while not all(broker.statistics().is_up for broker in self.brokers):  # noqa: ASYNC110
            await trio.sleep(0.01)
        for sender, rooms in zip(self.sent, self.rooms, strict=True):
            self.sent[sender] += 1
            await rooms.publish("a", f"{sender} {self.sent[sender]}")
        while any(listener.heard != self.sent for listener in self.listeners):  # noqa: ASYNC110
            await trio.sleep(0.01)


@pytest.mark.slow
@pytest.mark.parametrize("backlog", [2_000, 2**20])
async def test_chaos(mortal_redis, backlog):
    """Nothing comes twice or out of its sender's order; what is missing was told."""
    seed = random.randrange(2**32)
    print("seed", seed)
    settings = {
        "prefix": f"{uuid4().hex}:", "backlog": backlog, "queue": 20, "log": 100_000,
        "backoff": Backoff(first=0.01, longest=0.2), "timeout": 0.3,
    }  # fmt: skip
    async with AsyncExitStack() as stack:
        open_one = partial(open_redis_broker, mortal_redis.url, **settings)
        brokers = [await stack.enter_async_context(open_one()) for _ in range(BROKERS)]
        chat = Chat(random.Random(seed), brokers)
        nursery = await stack.enter_async_context(trio.open_nursery())
        chat.listen(nursery)
        await trio.sleep(0.2)
        async with trio.open_nursery() as publishers:
            chat.publish(publishers)
            await torment(mortal_redis, chat.chance)
            publishers.cancel_scope.cancel()
        try:
            with trio.fail_after(30):
                await chat.end()
        finally:
            print(chat.sent, [(one.heard, one.missed, one.lagged) for one in chat.listeners])
        dropped = sum(broker.statistics().dropped for broker in brokers)
        nursery.cancel_scope.cancel()
    assert min(chat.sent.values()) > 100
    for number, listener in enumerate(chat.listeners):
        assert listener.missed == listener.lagged
        if number % 3 < 2 and backlog > 2_000:
            assert (listener.missed, listener.lagged) == (0, 0)
    assert (dropped > 0) == (backlog == 2_000)


async def torment(redis, chance):
    """Kill Redis, or have it hang, or leave it alone, for some seconds; it is there in the end."""
    with trio.move_on_after(SECONDS):
        while True:
            await trio.sleep(chance.choice([0.01, 0.1, 1]) * chance.random())
            if chance.random() < 0.3:
                redis.stop()
                await trio.sleep(chance.choice([0.1, 0.6]))
            redis.kill()
            await trio.sleep(chance.choice([0, 0.1, 0.5]))
            redis.start()
    redis.kill()
    redis.start()
