"""A handler, and a test of it that needs no sockets and takes no time."""

import trio
import trio.testing

import triows
from triows.testing import memory_pair


async def remind(ws: triows.WebSocket) -> None:
    async for message in ws:
        await trio.sleep(3600)
        await ws.send(f"an hour ago you said {message}")


async def test_remind() -> None:
    async with memory_pair(handler=remind) as (client, _):
        await client.send("hello")
        assert await client.receive() == "an hour ago you said hello"
        assert trio.current_time() == 3600


if __name__ == "__main__":
    trio.run(test_remind, clock=trio.testing.MockClock(autojump_threshold=0))
    print("passed")
