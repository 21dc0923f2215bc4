"""`mask`, by every length, alignment and phase (RFC 6455 §5.3)."""

import numba
import numpy as np
import pytest

from tests import naive
from triows._kernels import mask
from triows._kernels._masking import unmask_to as inline_unmask_to
from triows._kernels._registry import JIT

KEY = bytes([0xF1, 0x02, 0x83, 0x74])
NUMBER = int.from_bytes(KEY, "little")
LENGTHS = range(301)
SHIFTS = (0, 1, 3, 4, 8, 12, 31, 32, 60, 63, 64, 65, 124, 128, 200)
ALIGNMENTS = range(64) if JIT else (0, 1, 7, 8, 63)  # interpreted, an octet costs a microsecond

# Compiled, the kernel is no function of its own but part of each that calls it.
unmask_to = numba.njit(inline_unmask_to.py_func) if JIT else inline_unmask_to


def aligned_octets(size):
    """Octets of all values, the first at an address that is a multiple of 64."""
    buffer = np.empty(size + 63, np.uint8)
    start = -buffer.ctypes.data % 64
    octets = buffer[start : start + size]
    octets[:] = np.arange(size) * 7
    return octets


@pytest.mark.parametrize("phase", range(4))
def test_every_length_at_every_alignment(phase):
    """Exactly octets[start:stop] are XORed, wherever they lie and however many they are."""
    before = aligned_octets(64 + 300 + 8)
    stream = np.frombuffer((KEY * 76)[phase : phase + 300], np.uint8)
    octets = before.copy()

    for start in ALIGNMENTS:
        for length in LENGTHS:
            expected = before.copy()
            expected[start : start + length] ^= stream[:length]
            octets[:] = before
            assert mask(octets, start, start + length, NUMBER, phase) == (phase + length) % 4
            assert np.array_equal(octets, expected)


def test_agrees_with_the_naive_model():
    """The oracle of the test above and the naive model are the same function."""
    payload = bytes(range(100))
    octets = np.frombuffer(bytearray(payload), np.uint8)

    mask(octets, 0, 100, NUMBER, 3)

    assert octets.tobytes() == naive.mask(payload, KEY, 3)


@pytest.mark.parametrize("key", [0, 1, 0x8000_0000, 0xFFFF_FFFF, 0x0102_0304])
def test_every_key_is_four_octets(key):
    """Keys at the ends of their range are no different (RFC 6455 §5.3)."""
    octets = np.zeros(21, np.uint8)

    mask(octets, 1, 20, key, 2)

    stream = naive.mask(bytes(19), key.to_bytes(4, "little"), 2)
    assert octets.tobytes() == b"\0" + stream + b"\0"

    octets[:] = 0
    unmask_to(octets, 1, 2, 19, np.int64(key))  # as kernels give it
    assert octets.tobytes() == b"\0" + naive.mask(bytes(19), key.to_bytes(4, "little"), 0) + b"\0"


def test_the_example_of_the_rfc():
    """A masked "Hello" is the one that RFC 6455 §5.7 shows."""
    octets = np.frombuffer(bytearray.fromhex("7f9f4d5158"), np.uint8)

    mask(octets, 0, 5, int.from_bytes(bytes.fromhex("37fa213d"), "little"), 0)

    assert octets.tobytes() == b"Hello"


@pytest.mark.parametrize("size", [0, 1, 2, 3, 7, 8, 9, 40, 41])
def test_a_payload_in_two_pieces(size):
    """The phase that one piece returns is right for the next."""
    whole = aligned_octets(41)
    pieces = whole.copy()

    phase = mask(pieces, 0, size, NUMBER, 0)
    end = mask(pieces, size, 41, NUMBER, phase)

    assert end == mask(whole, 0, 41, NUMBER, 0)
    assert np.array_equal(pieces, whole)


def test_twice_is_nothing():
    """Masking what is masked gives back the payload (RFC 6455 §5.3)."""
    octets = aligned_octets(1000)
    before = octets.copy()

    mask(octets, 3, 997, NUMBER, 1)
    mask(octets, 3, 997, NUMBER, 1)

    assert np.array_equal(octets, before)


@pytest.mark.parametrize("shift", SHIFTS)
def test_every_length_moved_down(shift):
    """A payload is unmasked where it is wanted, and nothing else is touched, overlapping or not."""
    before = aligned_octets(8 + 200 + 300 + 8)
    stream = np.frombuffer(KEY * 76, np.uint8)

    for target in range(8) if JIT else (0, 7):
        start = target + shift
        for length in LENGTHS:
            expected = before.copy()
            expected[target : target + length] = before[start:][:length] ^ stream[:length]
            octets = before.copy()
            unmask_to(octets, target, start, length, NUMBER)
            assert np.array_equal(octets, expected)
