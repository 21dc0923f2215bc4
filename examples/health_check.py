"""A WebSocket server that answers plain HTTP on the same port: a health check for a balancer."""

import trio

import triows


async def handler(ws: triows.WebSocket) -> None:
    await ws.send(f"you asked for {ws.request.target}")


def answer(request: triows.Request) -> triows.Accept | triows.HTTPResponse:
    if request.target == "/healthz":
        return triows.HTTPResponse(status=200, body=b"fine\n")
    if request.target == "/talk":
        return triows.Accept()
    return triows.HTTPResponse(status=404, body=b"no such place\n")


async def main(*, task_status: trio.TaskStatus[triows.Server] = trio.TASK_STATUS_IGNORED) -> None:
    await triows.serve(handler, 8765, on_request=answer, task_status=task_status)


if __name__ == "__main__":
    trio.run(main)
