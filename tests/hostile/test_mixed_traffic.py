"""Traffic of every kind at once, by seeds: all of it arrives, in order, and no one waits for ever.

Many payloads cannot be compressed, limits are small in one place or the other, and peers pause:
so that someone waits for room at each of the places where one can. Clients cancel what they send
and receive: what was cancelled was not sent, and nothing is lost.
"""

import contextlib
import math
import queue
import random
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Any

import pytest
import trio

import triows
from tests.conformance.transports import echo

SEEDS = range(40)
PATIENCE = 20.0

Handler = Callable[[triows.WebSocket], Awaitable[None]]
Contexts = tuple[ssl.SSLContext, ssl.SSLContext]
Item = str | bytes


def make_item(rng: random.Random, most: int) -> Item:
    """A message of up to so many octets, mostly small."""
    size = rng.choice([0, 1, 125, 126, 1_000, 70_000, rng.randrange(most)])
    if rng.random() < 0.3:
        return "".join(rng.choices("abcdefghijklmnopqrstuvwxyzäöü€", k=min(size, 2_000)))
    return rng.randbytes(min(size, most))


async def send_soon(ws: triows.WebSocket, item: Item) -> None:
    """Send without waiting, where that can be."""
    try:
        ws.send_nowait(item)
    except trio.WouldBlock:
        await ws.send(item)


# What a server may do with messages. Each must send all of them back, in order.


async def echo_batches(ws: triows.WebSocket) -> None:
    """As many as there are."""
    while True:
        for message in await ws.receive_batch(7):
            await send_soon(ws, message)


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


async def echo_behind_parts(ws: triows.WebSocket) -> None:
    """Receiving in parts, which are put together."""
    with contextlib.suppress(trio.EndOfChannel):
        while True:
            async with ws.receive_parts() as message:
                parts: list[Any] = [part async for part in message]
            await ws.send(("" if message.is_text else b"").join(parts))


async def publish_back(ws: triows.WebSocket) -> None:
    """Through a broadcast channel of the connection's own."""
    channel = triows.BroadcastChannel[Item]()
    with channel.attach(ws, triows.Policy.BLOCK):
        async for message in ws:
            await channel.publish(message)
        await ws.aclose()


HANDLERS: dict[str, Handler] = {
    one.__name__: one
    for one in (
        echo,
        echo_batches,
        echo_in_parts,
        echo_from_another_task,
        echo_behind_parts,
        publish_back,
    )
}


class Back(triows.Handler):
    """Sends messages back out of a callback, or lets a task or a thread do it."""

    def __init__(self, rng: random.Random, nursery: trio.Nursery) -> None:
        self.rng = rng
        self.nursery = nursery
        self.sender: triows.Sender | None = None
        self.way = rng.choice(["callback", "promote", "task", "thread"])
        self.offers: dict[triows.SessionId, Any] = {}

    def on_open(self, conn: triows.Connection) -> None:
        """Prepare what is to send."""
        if self.way == "task":
            offer, take = trio.open_memory_channel[tuple[bytes, int]](10_000)
            self.nursery.start_soon(self.send, conn.id, take)
            self.offers[conn.id] = offer
        elif self.way == "thread":
            self.offers[conn.id] = items = queue.SimpleQueue[tuple[bytes, int] | None]()
            run = partial(trio.to_thread.run_sync, limiter=trio.CapacityLimiter(1))
            self.nursery.start_soon(run, self.send_from_thread, conn.id, items)

    def on_frame(self, conn: triows.Connection, payload: memoryview, opcode: int) -> None:
        """Send it back."""
        if self.way == "task":
            self.offers[conn.id].send_nowait((bytes(payload), opcode))
        elif self.way == "thread":
            self.offers[conn.id].put((bytes(payload), opcode))
        elif self.rng.random() < 0.5:
            conn.send(payload, opcode)
        else:
            conn.echo()
        if self.way == "promote" and self.rng.random() < 0.3:
            self.nursery.start_soon(echo, conn.promote())

    def on_close(self, conn: triows.Connection, code: int, reason: str) -> None:
        """Let what sends end."""
        if self.way == "task":
            self.offers[conn.id].close()
        elif self.way == "thread":
            self.offers[conn.id].put(None)

    async def send(self, session: triows.SessionId, items: Any) -> None:
        """Send what comes, in a task."""
        assert self.sender is not None
        async for payload, opcode in items:
            await self.sender.send(session, payload, opcode)

    def send_from_thread(self, session: triows.SessionId, items: Any) -> None:
        """Send what comes, in a thread."""
        assert self.sender is not None
        while (item := items.get()) is not None:
            self.sender.send_from_thread(session, *item, timeout=PATIENCE)


class Crowd:
    """Clients of one server, which talk to it as the seed says; over TLS if there are contexts."""

    def __init__(self, seed: int, driver: str, contexts: Contexts | None = None) -> None:
        self.rng = random.Random(seed)
        self.driver = driver
        self.contexts = contexts
        self.handler = HANDLERS[self.rng.choice(list(HANDLERS))]
        self.deflate = self.rng.choice([None, triows.Deflate()])

    def make_limits(self) -> triows.Limits:
        """Limits of which some are small."""
        return triows.Limits(
            send_queue_octets=self.rng.choice([1, 1_000, 2**16]),
            receive_queue_octets=self.rng.choice([1, 1_000, 2**20]),
            receive_queue_messages=self.rng.choice([1, 3, 256]),
            sender_octets=self.rng.choice([1, 2**20]),
            max_unsent=2**26,
        )

    # Servers.

    @asynccontextmanager
    async def serve(self, handler: Handler) -> AsyncIterator[int]:
        """Run a server with a task for each connection; gives its port."""
        serve = partial(
            triows.serve,
            limits=self.make_limits(),
            deflate=self.deflate,
            driver=self.driver,
            ssl_context=self.contexts and self.contexts[0],
        )
        async with trio.open_nursery() as nursery:
            server: triows.Server = await nursery.start(serve, handler, 0)
            yield server.port
            nursery.cancel_scope.cancel()

    async def meet_tasks(self) -> None:
        """Talk to a server with a task for each connection."""
        async with self.serve(self.handle) as port:
            await self.talk_all(port)

    async def handle(self, ws: triows.WebSocket) -> None:
        """Serve a client."""
        with contextlib.suppress(trio.EndOfChannel):
            await self.handler(ws)

    async def meet_callbacks(self) -> None:
        """Talk to a reactor of callbacks."""
        threads = self.rng.choice([0, 1])
        async with trio.open_nursery() as nursery:
            handler = Back(self.rng, nursery)
            if threads:
                handler.way = "callback"
            async with triows.open_reactor(
                handler, threads=threads, limits=self.make_limits(), deflate=self.deflate
            ) as reactor:
                with reactor.sender() as handler.sender:
                    await reactor.listen(0)
                    await self.talk_all(reactor.port)
            nursery.cancel_scope.cancel()

    # Clients.

    async def talk_all(self, port: int) -> None:
        """Have all clients talk."""
        async with trio.open_nursery() as clients:
            for _ in range(self.rng.choice([1, 2, 6])):
                clients.start_soon(self.talk, port, random.Random(self.rng.random()))

    def connect(self, port: int) -> AbstractAsyncContextManager[triows.WebSocket]:
        """Open a connection."""
        return triows.open_websocket(
            f"{'wss' if self.contexts else 'ws'}://127.0.0.1:{port}",
            limits=self.make_limits(),
            deflate=self.deflate,
            driver=self.driver,
            ssl_context=self.contexts and self.contexts[1],
        )

    async def talk(self, port: int, rng: random.Random) -> None:
        """Send what is to come back, and receive it in another task."""
        sent: list[Item] = []
        async with self.connect(port) as ws, trio.open_nursery() as nursery:
            nursery.start_soon(self.say, ws, sent, random.Random(rng.random()))
            got = await self.hear(ws, rng)
        assert [describe(one) for one in got] == [describe(one) for one in [*sent, LAST]]

    async def say(self, ws: triows.WebSocket, sent: list[Item], rng: random.Random) -> None:
        """Send in every way, now and then pausing, or cancelling; note what was sent."""
        pauses, cancels = rng.choice([0.0, 0.1]), rng.choice([0.0, 0.1])
        for _ in range(rng.choice([1, 5, 40])):
            item = make_item(rng, 300_000)
            if rng.random() < pauses:
                await trio.sleep(0.003 * rng.random())
            seconds = 0.001 * rng.random() if rng.random() < cancels else math.inf
            with trio.move_on_after(seconds):
                await (ws.send(item) if rng.random() < 0.5 else send_soon(ws, item))
                sent.append(item)
        await ws.send(LAST)

    async def hear(self, ws: triows.WebSocket, rng: random.Random) -> list[Item]:
        """Receive in every way, now and then pausing, or cancelling, until the last has come."""
        pauses, cancels = rng.choice([0.0, 0.1]), rng.choice([0.0, 0.1])
        got: list[Any] = []
        while LAST not in got[-1:]:
            if rng.random() < pauses:
                await trio.sleep(0.003 * rng.random())
            if rng.random() < cancels:
                with trio.move_on_after(0.001 * rng.random()):
                    got.append(await ws.receive())
                continue
            way = rng.random()
            if way < 0.3:
                got += await ws.receive_batch(5)
            elif way < 0.6:
                async with ws.receive_parts() as message:
                    parts: list[Any] = [part async for part in message]
                    got.append(("" if message.is_text else b"").join(parts))
            else:
                got.append(await ws.receive())
        return got


LAST = "the last"


def describe(item: Item) -> tuple[str, int, Item]:
    """A message so that a difference can be read."""
    return type(item).__name__, len(item), item[:20]


WAYS = [("leave", 1_000), ("aclose", 3_000), ("send_close", 3_000), ("raise", 1_011)]


class Parting(Crowd):
    """One side of a connection says things and ends it, the other receives what was said."""

    def __init__(self, seed: int, driver: str, contexts: Contexts | None = None) -> None:
        super().__init__(seed, driver, contexts)
        self.is_servers = self.rng.choice([False, True])
        self.way, self.code = self.rng.choice(WAYS)
        self.is_both = self.rng.choice([False, True])
        self.sent: list[Item] = []
        self.got: list[Item] = []
        self.reason: triows.CloseReason | None = None
        self.is_over = trio.Event()

    async def run(self) -> None:
        """Have them do so."""
        rng = random.Random(self.rng.random())
        sides = self.listen, self.end
        server, client = reversed(sides) if self.is_servers else sides
        async with self.serve(partial(server, rng=rng)) as port:
            with contextlib.suppress(ArithmeticError):
                async with self.connect(port) as ws:
                    await client(ws, random.Random(rng.random()))
            await self.is_over.wait()

    async def end(self, ws: triows.WebSocket, rng: random.Random) -> None:
        """Say things, hearing perhaps what the other says, and end."""
        async with trio.open_nursery() as nursery:
            if self.is_both:
                nursery.start_soon(hear_all, ws)
            for _ in range(rng.choice([1, 5, 40])):
                item = make_item(rng, 300_000)
                await (ws.send(item) if rng.random() < 0.5 else send_soon(ws, item))
                self.sent.append(item)
            nursery.cancel_scope.cancel()
        if self.way == "aclose":
            await ws.aclose(3_000, "bye")
        elif self.way == "send_close":
            await ws.send_close(3_000, "bye")
            await hear_all(ws)
        elif self.way == "raise":
            raise ArithmeticError

    async def listen(self, ws: triows.WebSocket, rng: random.Random) -> None:
        """Receive until the end, saying things perhaps, and pausing now and then."""
        pauses = rng.choice([0.0, 0.1])
        async with trio.open_nursery() as nursery:
            if self.is_both:
                nursery.start_soon(chatter, ws)
            with contextlib.suppress(trio.EndOfChannel, triows.ConnectionBroken):
                while True:
                    if rng.random() < pauses:
                        await trio.sleep(0.003 * rng.random())
                    self.got.append(await ws.receive())
            nursery.cancel_scope.cancel()
        self.reason = ws.close_reason
        self.is_over.set()


async def hear_all(ws: triows.WebSocket) -> None:
    """Receive whatever comes."""
    with contextlib.suppress(triows.ConnectionBroken):
        async for _ in ws:
            pass


async def chatter(ws: triows.WebSocket) -> None:
    """Send until that is no longer possible."""
    with contextlib.suppress(triows.ConnectionBroken, trio.ClosedResourceError):
        while True:
            await ws.send(b"chatter" * 300)


@pytest.fixture(params=["stream", "reactor", "tls"])
def way(request: pytest.FixtureRequest, tls_contexts: Contexts, warm: None) -> dict[str, Any]:
    """How the connections are driven."""
    if request.param == "tls":
        return {"driver": "stream", "contexts": tls_contexts}
    return {"driver": request.param}


@pytest.mark.parametrize("seed", SEEDS)
async def test_mixed_traffic_with_tasks_all_arrives(seed: int, way: dict[str, Any]) -> None:
    """Whatever the limits, the way of sending and receiving, and the pauses."""
    with trio.fail_after(PATIENCE):
        await Crowd(seed, **way).meet_tasks()


@pytest.mark.parametrize("seed", SEEDS)
async def test_what_was_said_before_the_end_arrives(seed: int, way: dict[str, Any]) -> None:
    """Whoever ends the connection, in whatever way; and the other side learns the code."""
    parting = Parting(seed, **way)
    with trio.fail_after(PATIENCE):
        await parting.run()
    assert [describe(one) for one in parting.got] == [describe(one) for one in parting.sent]
    assert parting.reason is not None
    assert parting.reason.code == parting.code


@pytest.mark.parametrize("seed", SEEDS)
async def test_mixed_traffic_with_callbacks_all_arrives(warm: None, seed: int) -> None:
    """Echoed in place or sent, by the callback, a task, a thread, or a task that takes over."""
    with trio.fail_after(PATIENCE):
        await Crowd(seed, "reactor").meet_callbacks()
