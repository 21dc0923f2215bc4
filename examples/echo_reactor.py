"""The same echo on the reactor: a compiled handler, in a thread that never enters Python."""

import trio

import triows


@triows.compiled
def echo(payload, opcode):
    return triows.Response.ECHO


async def main():
    await triows.Reactor(echo).run_echo(8765)


if __name__ == "__main__":
    trio.run(main)
