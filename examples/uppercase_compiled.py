"""Text comes back in capitals: a compiled handler that changes the payload where it lies."""

import numpy as np
import numpy.typing as npt
import trio

import triows


@triows.compiled
def uppercase(payload: npt.NDArray[np.uint8], opcode: int) -> int:
    if opcode != triows.Opcode.TEXT:
        return triows.Response.DISCARD
    for i in range(len(payload)):
        if ord("a") <= payload[i] <= ord("z"):  # ASCII alone, so that UTF-8 stays UTF-8
            payload[i] -= 32
    return triows.Response.ECHO


async def main() -> None:
    await triows.Reactor(uppercase).run_echo(8765)


if __name__ == "__main__":
    trio.run(main)
