"""A server around wsproto, in the shape of its samples: a thread and a loop a connection."""

import socket
import threading

from wsproto import ConnectionType, WSConnection
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Event,
    Message,
    Ping,
    Pong,
    RejectConnection,
    RejectData,
    Request,
    TextMessage,
)


class Conversation:
    """One connection."""

    def __init__(self, transport: socket.socket) -> None:
        self._transport = transport
        self._ws = WSConnection(ConnectionType.SERVER)
        self._path = ""
        self._parts: list[str] | list[bytes] = []
        self._is_over = False

    def go_on(self) -> None:
        """Serve until the connection has ended."""
        while not self._is_over:
            octets = self._transport.recv(65_536)
            self._ws.receive_data(octets or None)
            for event in self._ws.events():
                self._take(event)
            self._is_over |= not octets
        self._transport.close()

    def _send(self, event: Event) -> None:
        self._transport.sendall(self._ws.send(event))

    def _take(self, event: Event) -> None:
        if isinstance(event, Request):
            self._open(event)
        elif isinstance(event, TextMessage | BytesMessage):
            self._parts.append(event.data)
            if event.message_finished:
                whole = type(event.data)().join(self._parts)
                self._parts = []
                self._answer(whole)
        elif isinstance(event, Ping):
            self._send(event.response())
        elif isinstance(event, Pong):
            assert event.payload == b"from the server"
            self._send(Message(data="ponged"))
        elif isinstance(event, CloseConnection):
            self._is_over = True
            if self._path != "/close":
                print("CLOSED", event.code, event.reason, flush=True)
                self._send(event.response())

    def _open(self, request: Request) -> None:
        self._path = request.target
        if request.target == "/refused":
            self._send(RejectConnection(status_code=403, has_body=True))
            self._send(RejectData(data=b"no entry\n"))
            self._is_over = True
            return
        chosen = "chat.v1" if "chat.v1" in request.subprotocols else None
        self._send(AcceptConnection(subprotocol=chosen))

    def _answer(self, message: str | bytes) -> None:
        if self._path == "/close":
            self._send(CloseConnection(code=3001, reason="enough ✓"))
        elif self._path == "/ping":
            self._send(Ping(payload=b"from the server"))
        else:
            self._send(Message(data=message))


def main() -> None:
    """Serve until killed."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        print(f"READY ws://127.0.0.1:{listener.getsockname()[1]}", flush=True)
        while True:
            transport, _ = listener.accept()
            threading.Thread(target=Conversation(transport).go_on).start()


if __name__ == "__main__":
    main()
