"""The engine alone over raw sockets, by epoll: what Python can do with it at the most.

One receive and one send for a batch of messages. There is no Trio and no deadline, the opening
handshake checks nothing, and a peer that does not read holds up all: to measure, not to serve.
"""

import base64
import contextlib
import hashlib
import select
import socket
import sys
from collections.abc import Iterator

import triows

BUFFER = memoryview(bytearray(65_536))  # every connection's: what is in it is answered at once
SWITCHING = b"HTTP/1.1 101 \r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "


def serve(sock: socket.socket) -> Iterator[None]:
    engine = triows.ServerEngine()
    with sock, contextlib.suppress(OSError):
        _, _, rest = sock.recv(8192).partition(b"Sec-WebSocket-Key: ")
        key = rest[:24] + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 §4.2.2
        accept = base64.b64encode(hashlib.sha1(key, usedforsecurity=False).digest())
        sock.sendall(SWITCHING + accept + b"\r\n\r\n")
        yield  # until there is something to read
        while size := sock.recv_into(BUFFER):
            with contextlib.suppress(triows.ProtocolError):  # a Close is among the replies
                engine.process_into(BUFFER[:size], lambda *_: triows.Response.ECHO)
            sources = {triows.InputSegment: BUFFER, triows.LocalSegment: engine.outbound_local()}
            replies = [sources[type(s)][s.start :][: s.size] for s in engine.outbound_segments()]
            engine.clear_outbound()
            sock.sendall(replies[0] if len(replies) == 1 else b"".join(replies))
            if engine.is_closed:
                break
            yield


def main(port: int) -> None:
    triows.warm_up()
    listener = socket.create_server(("127.0.0.1", port), backlog=1024)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # and what it accepts
    epoll, peers = select.epoll(), {}
    epoll.register(listener, select.EPOLLIN)
    print("READY ws://{}:{}".format(*listener.getsockname()), flush=True)
    while True:
        for descriptor, _ in epoll.poll():
            if descriptor in peers:
                next(peers[descriptor], None)
            else:
                sock, _ = listener.accept()
                peers[sock.fileno()] = serve(sock)
                epoll.register(sock, select.EPOLLIN)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 8765)
