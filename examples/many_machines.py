"""A room over several machines: each runs this, and all share one Redis.

Clients connect to any of them: ``ws://HOST:PORT/?after=EPOCH:NUMBER`` goes on where one has been,
on whichever machine that was.
"""

import contextlib
import json
import sys
from functools import partial
from urllib.parse import parse_qs

import trio

import triows
from triows.redis import open_redis_broker

HISTORY = 100


def place_of(request: triows.Request) -> triows.Position | None:
    after = parse_qs(request.query).get("after", [""])[0]
    epoch, _, number = after.partition(":")
    return triows.Position(epoch, int(number)) if number.isdecimal() else None


async def serve_member(rooms: triows.Rooms[str], ws: triows.WebSocket) -> None:
    policy, after = triows.Policy.DROP_OLDEST, place_of(ws.request)
    join = rooms.join("lobby", policy=policy, after=after)
    async with join as room, trio.open_nursery() as nursery:
        nursery.start_soon(tell, room, ws)
        async for message in ws:
            await room.publish(str(message))
        nursery.cancel_scope.cancel()


async def tell(room: triows.Membership[str], ws: triows.WebSocket) -> None:
    with contextlib.suppress(triows.ConnectionBroken):
        while True:
            try:
                text = await room.receive()
            except triows.Lagged as lagged:
                text = f"* {lagged.count} messages or more are missing here"
            place = f"{room.position.epoch}:{room.position.number}"
            await ws.send(json.dumps({"place": place, "text": text}))


async def run(port: int, *urls: str) -> None:
    async with open_redis_broker(*urls, history=HISTORY) as broker:
        rooms = triows.Rooms[str](HISTORY, broker)
        await triows.serve(partial(serve_member, rooms), port)


if __name__ == "__main__":
    trio.run(run, int(sys.argv[1]), *sys.argv[2:])
