"""An echo server on `picows` (callbacks), asyncio on uvloop."""

import uvloop
from picows import WSFrame, WSListener, WSMsgType, WSTransport, WSUpgradeRequest, ws_create_server


class Echo(WSListener):
    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type == WSMsgType.CLOSE:
            transport.send_close(frame.get_close_code(), frame.get_close_message())
            transport.disconnect()
        else:
            transport.send(frame.msg_type, frame.get_payload_as_memoryview())


def accept(_request: WSUpgradeRequest) -> WSListener:
    return Echo()


async def main() -> None:
    server = await ws_create_server(accept, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    print(f"READY ws://{host}:{port}", flush=True)
    await server.serve_forever()


uvloop.run(main())
