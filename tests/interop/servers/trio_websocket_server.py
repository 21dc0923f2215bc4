"""The server of trio-websocket."""

import trio
from trio_websocket import ConnectionClosed, WebSocketRequest, serve_websocket


async def handle(request: WebSocketRequest) -> None:
    """Serve by the path."""
    if request.path == "/refused":
        await request.reject(403, body=b"no entry\n")
        return
    subprotocol = "chat.v1" if "chat.v1" in request.proposed_subprotocols else None
    ws = await request.accept(subprotocol=subprotocol)
    try:
        while True:
            message = await ws.get_message()
            if request.path == "/ping":
                await ws.ping(b"from the server")
                message = "ponged"
            elif request.path == "/close":
                await ws.aclose(3001, "enough ✓")
                return
            await ws.send_message(message)
    except ConnectionClosed as error:
        print("CLOSED", error.reason.code, error.reason.reason, flush=True)


async def main() -> None:
    """Serve until killed."""
    async with trio.open_nursery() as nursery:
        server = await nursery.start(
            lambda task_status: serve_websocket(
                handle, "127.0.0.1", 0, None, max_message_size=2**21, task_status=task_status
            )
        )
        print(f"READY ws://127.0.0.1:{server.port}", flush=True)


if __name__ == "__main__":
    trio.run(main)
