"""A chat, step 1: everyone hears what anyone says."""

import trio

import triows

chat = triows.BroadcastChannel[str](history=20)


async def serve_member(ws: triows.WebSocket) -> None:
    with chat.attach(ws):
        async for line in ws:
            chat.publish_nowait(str(line))


if __name__ == "__main__":
    trio.run(triows.serve, serve_member, 8765)
