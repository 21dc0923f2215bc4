"""Compiled kernels touch no memory but the octets that they are given."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from triows._kernels import ensure_warm
from triows._kernels._registry import JIT

ROOT = Path(__file__).parents[2]
SCRIPT = Path(__file__).with_name("guard_pages.py")

BOUNDED = (
    "masking",
    "frame_headers",
    "utf8",
    "scan",
    "turn",
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
        [sys.executable, "-m", "pytest", "-q", *plugins, *arguments, "tests/unit/test_turn.py"],
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


def test_every_index_is_within_bounds(tmp_path):
    """With numba's bounds checks compiled in, the kernels' unit tests still pass."""
    tests = [f"tests/unit/test_{name}.py" for name in BOUNDED]
    fast = ["-k", "not every_sequence and not every_pair"]  # no other indices than the rest
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *fast, *tests],
        cwd=ROOT,
        env={**os.environ, "NUMBA_BOUNDSCHECK": "1", "TRIOWS_CACHE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )

    assert result.returncode == 0, result.stdout
