"""Sockets from elsewhere, taken out of what wraps them."""

import socket
import ssl
from typing import Any, Final, TypeAlias

import trio

Adoptable: TypeAlias = socket.socket | trio.socket.SocketType | trio.SocketStream

_FAMILIES: Final = (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX)


def adopt(sock: Adoptable) -> socket.socket:
    """Take a socket out of what wraps it, and make it as a loop wants it.

    Raises:
        TypeError: there is no plain socket in it.
        ValueError: it is not connected, or not a stream.
    """
    plain = sock.socket if isinstance(sock, trio.SocketStream) else sock
    if isinstance(plain, ssl.SSLSocket) or not isinstance(
        plain, socket.socket | trio.socket.SocketType
    ):
        raise TypeError(f"a session is a plain socket, not {type(sock).__name__}: see `serve`")
    if plain.type != socket.SOCK_STREAM or plain.family not in _FAMILIES:
        raise ValueError("a session is a TCP or Unix stream socket")
    try:
        plain.getpeername()
    except OSError as error:
        raise ValueError(f"the socket is not connected: {error.strerror}") from None
    if plain.family != socket.AF_UNIX:
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    adopted = socket.socket(fileno=plain.detach())
    adopted.setblocking(False)
    return adopted


def peer_of(sock: Adoptable) -> Any:
    """Return the address of the other side, None where it is gone."""
    plain = sock.socket if isinstance(sock, trio.SocketStream) else sock
    try:
        return plain.getpeername()
    except OSError:
        return None
