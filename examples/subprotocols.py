"""A server that speaks two versions of its language, the newer one if the client can."""

from functools import partial

import trio

import triows


def check(request: triows.Request) -> triows.HTTPResponse | None:
    if not {"greet.v1", "greet.v2"} & set(request.subprotocols):
        return triows.HTTPResponse(status=400, body="speak greet.v1 or greet.v2\n")
    return None


async def greet(ws: triows.WebSocket) -> None:
    if ws.subprotocol == "greet.v2":
        await ws.send('{"greeting": "hello"}')
    else:
        await ws.send("hello")


serve = partial(triows.serve, greet, 8765, subprotocols=["greet.v2", "greet.v1"], on_request=check)

if __name__ == "__main__":
    trio.run(serve)
