"""An echo server of callbacks: `on_frame` is called for each message, in Trio's thread."""

import trio

import triows


class Echo(triows.Handler):
    def on_open(self, conn: triows.Connection) -> None:
        conn.data = 0

    def on_frame(self, conn: triows.Connection, payload: memoryview, opcode: int) -> None:  # noqa: ARG002
        conn.data += 1
        conn.echo()

    def on_close(self, conn: triows.Connection, code: int, reason: str) -> None:  # noqa: ARG002
        print(f"{conn.remote[0]} said {conn.data} things, and left with {code}")


async def main() -> None:
    await triows.Reactor(Echo()).run_echo(8765)


if __name__ == "__main__":
    trio.run(main)
