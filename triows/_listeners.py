"""TCP listeners, and in words what is wrong where there can be none."""

from typing import Final

import trio

from triows._options import check_kind

LARGEST_PORT: Final = 65_535


async def open_listeners(
    port: int, *, host: str | bytes | None, backlog: int | None
) -> list[trio.SocketListener]:
    """Listen on a TCP port, as `trio.open_tcp_listeners` does.

    Raises:
        TypeError: *port* is no integer.
        ValueError: it is not in 0..65535, of which the system would take the low 16 bits.
        OSError: it cannot be listened on; the error says where that was.
    """
    check_kind("port", port, int)
    if not 0 <= port <= LARGEST_PORT:
        raise ValueError(f"a port is in 0..{LARGEST_PORT}, not {port}")
    try:
        return await trio.open_tcp_listeners(port, host=host, backlog=backlog)
    except OSError as error:
        where = "" if host is None else f"{host.decode() if isinstance(host, bytes) else host} "
        words = f"cannot listen on {where}port {port}: {error.strerror or error}"
        raise type(error)(error.errno, words) from error.__cause__
