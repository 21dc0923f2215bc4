"""WebSockets beside pages: h11 serves HTTP over Trio, a reactor the sockets that it upgrades."""

from base64 import b64encode
from functools import partial
from hashlib import sha1

import h11
import trio

import triows

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


def echo(conn: triows.Connection, payload: memoryview, opcode: int) -> None:  # noqa: ARG001
    conn.echo()


def answer(fields: dict[bytes, bytes], stream: trio.abc.Stream) -> tuple[int, bytes]:
    if fields.get(b"upgrade", b"").lower() != b"websocket":
        return 200, b"a page\n"
    if fields.get(b"sec-websocket-version") != b"13" or b"sec-websocket-key" not in fields:
        return 400, b"this is no opening handshake\n"
    if not isinstance(stream, trio.SocketStream):  # TLS, or in memory: no reactor takes that
        return 501, b"WebSockets are to be had over plain TCP\n"
    return 101, b""


async def serve_http(stream: trio.abc.Stream, reactor: triows.Reactor) -> None:
    http = h11.Connection(h11.SERVER)
    fields: dict[bytes, bytes] = {}
    async with stream:
        while not isinstance(event := http.next_event(), h11.EndOfMessage):
            if event is h11.NEED_DATA:
                http.receive_data(await stream.receive_some())
            elif isinstance(event, h11.Request):
                fields = dict(event.headers)
            elif isinstance(event, h11.ConnectionClosed):
                return
        status, body = answer(fields, stream)
        if status == 101:
            accept = b64encode(sha1(fields[b"sec-websocket-key"] + GUID).digest())  # noqa: S324
            headers = [("Upgrade", "websocket"), ("Connection", "Upgrade")]
            headers.append(("Sec-WebSocket-Accept", accept.decode()))
            upgraded = h11.InformationalResponse(status_code=101, headers=headers)
            await stream.send_all(http.send(upgraded))
            reactor.add_session_with_prefix(stream, http.trailing_data[0])
            return
        headers = [("Content-Length", str(len(body))), ("Connection", "close")]
        await stream.send_all(http.send(h11.Response(status_code=status, headers=headers)))
        await stream.send_all(http.send(h11.Data(data=body)) + http.send(h11.EndOfMessage()))


async def main() -> None:
    async with triows.open_reactor(triows.handler_fn(echo)) as reactor:
        await trio.serve_tcp(partial(serve_http, reactor=reactor), 8765)


if __name__ == "__main__":
    trio.run(main)
