"""examples/many_machines.py: two servers, one room."""

import json
import runpy
from functools import partial
from pathlib import Path

import trio

import triows
from tests.redis.server import RedisServer
from triows.redis import open_redis_broker

EXAMPLE = Path(__file__).parents[2] / "examples" / "many_machines.py"


async def hear(ws, count):
    """Receive so many events."""
    with trio.fail_after(20):
        return [json.loads(await ws.receive()) for _ in range(count)]


async def test_many_machines(shared_redis: RedisServer):
    """Who is on one hears who is on the other, and goes on there where it was on this one."""
    example = runpy.run_path(str(EXAMPLE))

    async def run(task_status):
        async with open_redis_broker(shared_redis.url, prefix="many-machines:") as broker:
            rooms = triows.Rooms(100, broker)
            serve = partial(example["serve_member"], rooms)
            await triows.serve(serve, 0, task_status=task_status)

    async with trio.open_nursery() as nursery:
        here, there = [(await nursery.start(run)).port for _ in range(2)]
        async with triows.open_websocket(f"ws://127.0.0.1:{there}/") as far:
            async with triows.open_websocket(f"ws://127.0.0.1:{here}/") as near:
                for text in ("one", "two"):
                    await near.send(text)
                heard = await hear(near, 2)
                assert [event["text"] for event in heard] == ["one", "two"]
                assert await hear(far, 2) == heard
            await far.send("three")
            (last,) = await hear(far, 1)
            url = f"ws://127.0.0.1:{there}/?after={heard[0]['place']}"
            async with triows.open_websocket(url) as back:
                assert await hear(back, 2) == [heard[1], last]
            url = f"ws://127.0.0.1:{here}/?after=forgotten:7"
            async with triows.open_websocket(url) as back:
                assert "missing" in (await hear(back, 1))[0]["text"]
        nursery.cancel_scope.cancel()
