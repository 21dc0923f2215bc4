"""Compiled kernels touch no memory but the octets that they are given."""

import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import trio
from numba.core import event

import triows
from tests.hostile.crowd import REQUEST
from tests.naive_reception import build_frame
from triows._kernels import ensure_warm, turn
from triows._kernels._registry import JIT
from triows._reactor import Loop

ROOT = Path(__file__).parents[2]
SCRIPT = Path(__file__).with_name("guard_pages.py")
PYTEST = (sys.executable, "-m", "pytest", "-q", "-n", "0")  # one process: its end is looked at

BOUNDED = (
    "masking",
    "frame_headers",
    "utf8",
    "scan",
    "turn",
    "callbacks",
    "callback_batches",
    "channel_loop",
    "engine",
    "engine_embedded",
    "engine_frames",
    "engine_header",
)

pytestmark = pytest.mark.skipif(not JIT, reason="plain Python checks every index")


def run_guarded(*arguments):
    """Run the script between guard pages."""
    ensure_warm()
    return subprocess.run(
        [sys.executable, SCRIPT, *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no mprotect")
def test_no_kernel_leaves_its_octets():
    """Octets flush against pages that may not be touched, of every length, do no harm."""
    result = run_guarded()

    assert (result.returncode, result.stdout) == (0, "untouched\n"), result.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no mprotect")
def test_leaving_the_octets_would_be_noticed():
    """The test above fails if a kernel goes one octet too far."""
    result = run_guarded("--overrun")

    assert result.returncode == -signal.SIGSEGV


def run_guarded_loops(guard, *arguments):
    """Run the turn's tests with every loop's arrays between guard pages."""
    ensure_warm()
    plugins = ["-p", "no:cacheprovider", "-p", "tests.hostile.guarded_loops"]
    return subprocess.run(
        [*PYTEST, *plugins, *arguments, "tests/unit/test_turn.py"],
        cwd=ROOT,
        env={**os.environ, "GUARD": guard, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="there is no reactor")
@pytest.mark.parametrize("guard", ["start", "end"])
def test_item_34_no_turn_leaves_its_arrays(guard):
    """Every path of the turn, with traffic, touches nothing beyond either end of its arrays."""
    result = run_guarded_loops(guard)

    assert result.returncode == 0, result.stdout + result.stderr
    assert " passed" in result.stdout


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="there is no reactor")
def test_item_34_a_turn_that_left_its_arrays_would_be_noticed():
    """The test above fails if a loop's kernel goes one octet too far."""
    assert run_guarded_loops("overrun").returncode == -signal.SIGSEGV


@pytest.mark.slow  # compiles every kernel anew
def test_every_index_is_within_bounds(tmp_path):
    """With numba's bounds checks compiled in, the kernels' unit tests still pass."""
    tests = [f"tests/unit/test_{name}.py" for name in BOUNDED]
    fast = ["-k", "not every_sequence and not every_pair"]  # no other indices than the rest
    result = subprocess.run(
        [*PYTEST, "-p", "no:cacheprovider", *fast, *tests],
        cwd=ROOT,
        env={**os.environ, "NUMBA_BOUNDSCHECK": "1", "TRIOWS_CACHE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )

    assert result.returncode == 0, result.stdout


@triows.compiled
def turn_round(payload, opcode):
    """Send text back in reverse order; close for anything else."""
    if opcode != 1:
        return 2
    for i in range(len(payload) // 2):
        payload[i], payload[-1 - i] = payload[-1 - i], payload[i]
    return 1


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="there is no reactor")
@pytest.mark.parametrize("threads", [0, 1])
async def test_item_38_serving_compiles_nothing(threads):
    """Once a reactor listens, nothing is compiled: not for any message, nor for how it ends."""
    frame = partial(build_frame, key=b"mask")
    with trio.fail_after(60):
        async with triows.open_reactor(turn_round, threads=threads) as reactor:
            ((host, port),) = await reactor.listen(0)
            with event.install_recorder("numba:compile") as compiled:
                for stream, ending in (
                    (frame(1, b"abc") + frame(1, b"x", fin=False) + frame(0, b"y"), b"yx"),
                    (frame(1, b"large" * 20_000), b"large"[::-1]),
                    (frame(9, b"ping") + frame(8, b"\x03\xe8"), b"\x88\x02\x03\xe8"),
                    (frame(2, b"to be closed"), b"\x88\x02\x03\xe8"),
                    (frame(3), b"reserved opcode"),
                ):
                    client = await trio.open_tcp_stream(host, port)
                    await client.send_all(REQUEST + stream)
                    octets = b""
                    while not octets.endswith(ending):
                        octets += await client.receive_some()
                    await client.aclose()
                served = reactor.statistics().total

    assert served.messages_received == 4
    assert list(compiled.buffer) == []


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="there is no reactor")
def test_item_38_a_turn_of_other_types_is_refused():
    """Arrays of other types than declared are a `TypeError`, and compile nothing."""
    loop = Loop(0, triows.Limits(), triows.KeepAlive())
    with event.install_recorder("numba:compile") as compiled:
        for number, array in enumerate(loop._arrays):
            for wrong in (array.astype(np.float64), array.astype(np.uint16), None):
                arrays = [*loop._arrays[:number], wrong, *loop._arrays[number + 1 :]]
                with pytest.raises(TypeError):
                    turn.drive(*arrays, turn.TAKE_TURNS, 0, 1)
    loop.close()

    assert list(compiled.buffer) == []
