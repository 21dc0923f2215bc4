"""How fast the kernels are in a compiled loop, and what warming them up takes.

Rates are the best of several runs, in GiB/s. A call from Python costs another
half microsecond, which is why the drivers make one call for many frames.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

import numba
import numpy as np

from triows._kernels import mask, validate_utf8, warm_up
from triows._kernels._libc import Octets
from triows._kernels._registry import READ_ONLY

TEXTS = {
    "ASCII": "plain text ",
    "German": "Grüße aus Köln, schöne ",
    "Greek": "Ελληνικά",
    "Japanese": "漢字仮名",
    "emoji": "😀😁",
}
WARM_UP = "from triows._kernels import warm_up; print(warm_up().seconds)"

warm_up()


@numba.njit("int64(uint8[::1], int64, int64, int64)")
def mask_often(octets: Octets, start: int, size: int, times: int) -> int:
    """Call the kernel as compiled code does."""
    phase = 0
    for _ in range(times):
        phase = mask(octets, start, start + size, 0x1234_5678, phase)
    return phase


@numba.njit(f"int64({READ_ONLY}, int64)")
def validate_often(octets: Octets, times: int) -> int:
    """Call the kernel as compiled code does."""
    state = 0
    for _ in range(times):
        state |= validate_utf8(octets, 0, octets.size, 0)
    return state


def rate(size: int, run: Callable[[int], object]) -> float:
    """The rate of run(times), which goes through *size* octets each time."""
    times = max(1, 100_000_000 // size)
    best = float("inf")
    for _ in range(7):
        begin = time.perf_counter()
        run(times)
        best = min(best, time.perf_counter() - begin)
    return size * times / best / 2**30


def warm_up_seconds() -> tuple[float, float]:
    """A cold start's warm-up and the best of three warm ones, in new processes."""
    with tempfile.TemporaryDirectory() as root:
        environment = {**os.environ, "TRIOWS_CACHE_DIR": root}
        command = [sys.executable, "-c", WARM_UP]
        cold, *warm = (
            float(subprocess.check_output(command, env=environment, text=True)) for _ in range(4)
        )
    return cold, min(warm)


def main() -> None:
    """Print the tables."""
    for size in (20, 125, 1024, 16_384, 2**20):
        octets = np.zeros(size + 64, np.uint8)
        rates = (
            rate(size, lambda times, o=octets, s=start, n=size: mask_often(o, s, n, times))
            for start in (0, 13)
        )
        print(f"mask {size:>8} octets", *(f"{figure:6.1f}" for figure in rates), "GiB/s")
    for name, text in TEXTS.items():
        for size in (125, 1024, 16_384):
            content = (text * size).encode()[:size].decode(errors="ignore").encode()
            octets = np.frombuffer(content, np.uint8)
            figure = rate(len(content), lambda times, o=octets: validate_often(o, times))
            print(f"validate_utf8 {size:>6} octets {name:<8} {figure:6.1f} GiB/s")
    cold, warm = warm_up_seconds()
    print(f"warm-up: {cold:.2f} s cold, {warm * 1000:.0f} ms from the cache")


if __name__ == "__main__":
    main()
