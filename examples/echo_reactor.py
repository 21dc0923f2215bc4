"""The same echo on the reactor: a compiled handler, in a thread that never enters Python."""

import numpy as np
import numpy.typing as npt
import trio

import triows


@triows.compiled
def echo(_payload: npt.NDArray[np.uint8], _opcode: int) -> int:
    return triows.Response.ECHO


async def main() -> None:
    await triows.Reactor(echo).run_echo(8765)


if __name__ == "__main__":
    trio.run(main)
