"""A thread that sends to clients: it counts, and everyone who is connected hears it."""

import contextlib
import threading

import trio

import triows


class Clients(triows.Handler):
    def __init__(self) -> None:
        self.ids: set[triows.SessionId] = set()

    def on_open(self, conn: triows.Connection) -> None:
        self.ids.add(conn.id)

    def on_close(self, conn: triows.Connection, code: int, reason: str) -> None:  # noqa: ARG002
        self.ids.discard(conn.id)


def count(sender: triows.Sender, clients: Clients, is_over: threading.Event) -> None:
    number = 0
    with sender, contextlib.suppress(trio.BrokenResourceError):  # the reactor has ended
        while not is_over.wait(0.02):
            number += 1
            for session in tuple(clients.ids):
                sender.send_from_thread(session, str(number))  # who has left is passed over


async def main() -> None:
    clients, is_over = Clients(), threading.Event()
    reactor = triows.Reactor(clients)
    threading.Thread(target=count, args=(reactor.sender(), clients, is_over)).start()
    try:
        await reactor.run_echo(8765)
    finally:
        is_over.set()


if __name__ == "__main__":
    trio.run(main)
