"""A relay on `picows` (callbacks): every message goes to every client, in a loop over them."""

import uvloop
from picows import WSFrame, WSListener, WSMsgType, WSTransport, WSUpgradeRequest, ws_create_server

clients: set[WSTransport] = set()


class Relay(WSListener):
    def on_ws_connected(self, transport: WSTransport) -> None:
        clients.add(transport)

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        clients.discard(transport)

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type == WSMsgType.CLOSE:
            transport.send_close(frame.get_close_code(), frame.get_close_message())
            transport.disconnect()
            return
        payload = frame.get_payload_as_bytes()
        for client in clients:
            client.send(frame.msg_type, payload)


def accept(_request: WSUpgradeRequest) -> WSListener:
    return Relay()


async def main() -> None:
    server = await ws_create_server(accept, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    print(f"READY ws://{host}:{port}", flush=True)
    await server.serve_forever()


uvloop.run(main())
