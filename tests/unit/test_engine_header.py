"""Single headers and masks, for those who cut their own octets."""

import array

import numpy as np
import pytest

from tests import naive
from triows._engine import Header, Incomplete, parse_header, unmask
from triows._errors import ProtocolError

FRAME = naive.build_header(0x82, 300, b"\x01\x02\x03\x04")


@pytest.mark.parametrize("make", [bytes, bytearray, memoryview, np.array])
def test_a_header_is_read_from_any_buffer(make):
    """All fields of a masked header, from octets that may be read-only."""
    header = parse_header(make(bytearray(FRAME)))

    assert header == Header(True, 0, 2, b"\x01\x02\x03\x04", 8, 300)


def test_an_unmasked_header_has_no_mask():
    """A fragment's first frame, unmasked, with RSV1."""
    assert parse_header(b"\x41\x05") == Header(
        fin=False, rsv=4, opcode=1, mask=None, header_size=2, payload_size=5
    )


def test_a_header_anywhere_in_a_buffer():
    """Only buffer[start:stop] is looked at."""
    assert parse_header(b"\xff\xff\x82\x05\xff", 2, 4).payload_size == 5


@pytest.mark.parametrize(("size", "at_least"), [(0, 2), (1, 2), (2, 8), (7, 8)])
def test_too_few_octets_for_a_header(size, at_least):
    """What is missing is told, as far as can be known."""
    assert parse_header(FRAME, 0, size) == Incomplete(at_least)


@pytest.mark.parametrize(
    "octets", [b"\x83", b"\x09", b"\x89\x7e", b"\x82\x7e\x00\x7d", b"\x82\x7f\x80"]
)
def test_a_header_that_the_rfc_refuses(octets):
    """The error has the close code that belongs to it, as soon as it shows."""
    with pytest.raises(ProtocolError) as caught:
        parse_header(octets)

    assert caught.value.code == 1002


@pytest.mark.parametrize(("start", "stop"), [(-1, None), (3, None), (2, 1), (0, 3)])
def test_a_range_outside_the_buffer(start, stop):
    """Nothing outside the buffer is read."""
    with pytest.raises(ValueError, match="not in order"):
        parse_header(b"\x82\x00", start, stop)


@pytest.mark.parametrize("make", [bytearray, np.array, lambda octets: array.array("B", octets)])
def test_unmasking_in_place(make):
    """The payload is changed where it lies."""
    buffer = make(bytearray(naive.mask(b"payload", b"\x01\x02\x03\x04")))
    unmask(buffer, b"\x01\x02\x03\x04")

    assert bytes(buffer) == b"payload"


def test_unmasking_in_pieces():
    """Each piece is told where in the payload it begins."""
    masked = bytearray(naive.mask(b"a payload in pieces", b"abcd"))
    with memoryview(masked) as view:
        for start, stop in ((0, 3), (3, 10), (10, 19)):
            unmask(view[start:stop], b"abcd", start)

    assert masked == b"a payload in pieces"


def test_an_offset_beyond_32_bits():
    """A payload may be as long as the RFC allows."""
    octets = bytearray(b"\0")
    unmask(octets, b"abcd", 2**62 + 3)

    assert octets == b"d"


@pytest.mark.parametrize(
    ("buffer", "key", "offset", "error"),
    [
        (b"abc", b"abcd", 0, TypeError),
        (memoryview(bytearray(8))[::2], b"abcd", 0, TypeError),
        (bytearray(3), b"abc", 0, ValueError),
        (bytearray(3), b"abcd", -1, ValueError),
    ],
)
def test_what_cannot_be_unmasked(buffer, key, offset, error):
    """A wrong argument is refused, and nothing was changed."""
    before = bytes(buffer)
    with pytest.raises(error):
        unmask(buffer, key, offset)

    assert bytes(buffer) == before
