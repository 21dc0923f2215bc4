"""A WebSocket server that answers plain HTTP on the same port: a health check for a balancer."""

from functools import partial

import trio

import triows


async def handler(ws: triows.WebSocket) -> None:
    await ws.send(f"you asked for {ws.request.path}")


def answer(request: triows.Request) -> triows.Accept | triows.HTTPResponse:
    if request.path == "/healthz":
        return triows.HTTPResponse(status=200, body="fine\n")
    if request.path == "/talk":
        return triows.Accept()
    return triows.HTTPResponse(status=404, body="no such place\n")


if __name__ == "__main__":
    trio.run(partial(triows.serve, handler, 8765, on_request=answer))
