"""A server that relays a message to all clients of its path, by a broker: its own, or one on Redis.

    python benches/brokers_server.py [--redis URL]

Like ``triows fanout --driver reactor --batch``, with a broker between publishing and the channel.
"""

import argparse
import contextlib
from collections.abc import AsyncIterator, Sequence
from functools import partial

import trio

import triows
from triows.redis import open_redis_broker

BATCH = 1_024  # messages; no more are ever unread


class Audience:
    """A room whose members are WebSockets: a `triows.RoomEnd`."""

    def __init__(self) -> None:
        self.channel = triows.BroadcastChannel[str | bytes]()

    def begin(self, position: triows.Position, history: Sequence[str | bytes] = ()) -> None:
        """See `triows.RoomEnd`."""
        self.channel.begin(position.number, history, position.epoch)

    def has_room(self, item: str | bytes) -> bool:
        """See `triows.RoomEnd`."""
        return self.channel.has_room(item)

    async def wait_for_room(self, item: str | bytes) -> None:
        """See `triows.RoomEnd`."""
        await self.channel.wait_for_room(item)

    def deliver(self, item: str | bytes) -> triows.Delivery:
        """See `triows.RoomEnd`."""
        return self.channel.publish_nowait(item)

    def deliver_batch(self, items: Sequence[str | bytes]) -> int:
        """See `triows.RoomEnd`."""
        return self.channel.publish_batch(items)

    def skip(self, count: int) -> None:
        """See `triows.RoomEnd`."""
        raise RuntimeError(f"{count} messages were lost")


@contextlib.asynccontextmanager
async def open_broker(url: str | None) -> AsyncIterator[triows.Broker]:
    """Open the one that is asked for."""
    if url is None:
        yield triows.LocalBroker()
    else:
        async with open_redis_broker(url, prefix="bench:", history=0) as broker:
            yield broker


class Relay:
    """Rooms by their names, each of which is open from its first member on."""

    def __init__(self, broker: triows.Broker) -> None:
        self._broker = broker
        self._rooms: dict[str, tuple[Audience, triows.Link]] = {}

    async def serve(self, ws: triows.WebSocket) -> None:
        """Relay what a member says to all of its room."""
        name = ws.request.target
        if name not in self._rooms:
            audience = Audience()
            self._rooms[name] = audience, self._broker.open(name, audience)
        audience, opened = self._rooms[name]
        await opened.wait_ready()
        with audience.channel.attach(ws), contextlib.suppress(trio.EndOfChannel):
            while True:
                for message in await ws.receive_batch(BATCH):
                    self._broker.publish_nowait(name, message)


async def main(url: str | None) -> None:
    """Serve until the process is ended."""
    async with open_broker(url) as broker, trio.open_nursery() as nursery:
        server = await nursery.start(partial(triows.serve, Relay(broker).serve, 0))
        print(f"READY ws://127.0.0.1:{server.port}", flush=True)
        await trio.sleep_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--redis", help="the URL of a Redis server")
    trio.run(main, parser.parse_args().redis)
