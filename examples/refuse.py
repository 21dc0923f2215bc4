"""A server that is open to one site's pages and to few at a time, and says why to others."""

from functools import partial

import trio
import trio.lowlevel

import triows


async def check(request: triows.Request) -> triows.HTTPResponse | None:
    await trio.lowlevel.checkpoint()  # where a database would be asked
    if request.path == "/moved":
        return triows.HTTPResponse(status=308, headers={"Location": "/"})
    if request.path != "/":
        return triows.HTTPResponse(status=404, body="no such room\n")
    return None


async def handler(ws: triows.WebSocket) -> None:
    async for message in ws:
        if message == "please leave":
            await ws.aclose(triows.CloseCode.POLICY_VIOLATION, "as you wish")
            return
        await ws.send(message)


serve = partial(
    triows.serve,
    handler,
    8765,
    on_request=check,
    origins=["https://example.org", None],  # None: clients that are no browsers
    limits=triows.Limits(max_connections=1000, max_message=65_536),
)

if __name__ == "__main__":
    trio.run(serve)
