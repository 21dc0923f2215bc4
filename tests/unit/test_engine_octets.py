"""Buffers as the kernels want them."""

import numpy as np
import pytest

from triows._engine._octets import own_octets, writable_octets


@pytest.mark.parametrize(
    "buffer",
    [
        bytearray(b"abcd"),
        memoryview(bytearray(b"abcd")),
        memoryview(bytearray(b"abcd")).cast("I"),
        np.frombuffer(bytearray(b"abcd"), np.uint8),
        np.frombuffer(bytearray(b"abcd"), np.uint16),
        np.frombuffer(bytearray(b"abcd"), np.uint8).reshape(2, 2),
    ],
    ids=["bytearray", "view", "view of words", "octets", "words", "two dimensions"],
)
def test_a_writable_buffer_is_viewed(buffer):
    """What is written into the octets is written into the buffer, whatever its items are."""
    octets = writable_octets(buffer)
    octets[0] = ord("x")

    assert (octets.dtype, octets.ndim) == (np.uint8, 1)
    assert bytes(memoryview(buffer)) == b"xbcd"


def test_an_empty_buffer_is_viewed():
    """Nothing is a buffer too."""
    assert len(writable_octets(bytearray())) == 0


@pytest.mark.parametrize(
    "buffer",
    [
        b"abcd",
        memoryview(b"abcd"),
        memoryview(bytearray(b"abcd"))[::2],
        np.frombuffer(b"abcd", np.uint8),
        np.frombuffer(bytearray(b"abcd"), np.uint8)[::2],
    ],
    ids=["bytes", "read-only view", "view with gaps", "read-only array", "array with gaps"],
)
def test_a_buffer_that_cannot_be_written_in_place_is_refused(buffer):
    """A read-only or scattered buffer is a TypeError."""
    with pytest.raises(TypeError, match="read-only or not contiguous"):
        writable_octets(buffer)


@pytest.mark.parametrize("buffer", [b"abcd", memoryview(b"abcd"), memoryview(b"a.b.c.d")[::2]])
def test_read_only_octets_are_copied(buffer):
    """Where only their content matters, read-only octets are copied."""
    octets = own_octets(buffer)
    octets[0] = ord("x")

    assert octets.tobytes() == b"xbcd"
    assert bytes(buffer) == b"abcd"


@pytest.mark.parametrize("make", [bytearray, np.array])
def test_writable_octets_are_not_copied(make):
    """What may be overwritten is."""
    buffer = make(bytearray(b"abcd"))
    own_octets(buffer)[0] = ord("x")

    assert bytes(buffer) == b"xbcd"


def test_an_array_is_taken_as_it_is():
    """A driver's own array costs nothing to pass."""
    array = np.zeros(4, np.uint8)

    assert own_octets(array) is array
