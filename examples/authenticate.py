"""A server for those who have a token, and one handler's view of who they are."""

from functools import partial

import trio

import triows

TOKENS = {"s3cret": "alice"}


def user_of(request: triows.Request) -> str | None:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    return TOKENS.get(token) if scheme.lower() == "bearer" else None


def check(request: triows.Request) -> triows.HTTPResponse | None:
    if user_of(request) is None:
        return triows.HTTPResponse(
            status=401, headers={"WWW-Authenticate": "Bearer"}, body="who are you?\n"
        )
    return None


async def greet(ws: triows.WebSocket) -> None:
    await ws.send(f"hello, {user_of(ws.request)}")


if __name__ == "__main__":
    trio.run(partial(triows.serve, greet, 8765, on_request=check))
