"""`read_header` and `write_header`, against the naive model (RFC 6455 §5.2, §5.5)."""

import numpy as np
import pytest

from tests import naive
from triows._kernels import _faults, read_header, write_header
from triows._kernels._headers import (
    FIELDS,
    FIN,
    HEADER_SIZE,
    KEY,
    MASKED,
    OPCODE,
    PAYLOAD_SIZE,
    RSV,
)

KEYS = [None, bytes(4), b"\x01\x02\x03\x04", b"\xff\xff\xff\xff", b"\x00\x00\x00\x80"]
SIZES = [
    0, 1, 124, 125, 126, 127, 128, 255, 256, 65_534, 65_535, 65_536, 65_537,
    2**31 - 1, 2**31, 2**31 + 1, 2**32 - 1, 2**32, 2**32 + 1,
    2**53 - 1, 2**53, 2**53 + 1, 2**62, 2**63 - 1,
]  # fmt: skip


def read(octets, start=0):
    """What `read_header` finds, in the naive model's words."""
    fields = np.full(FIELDS, -99, np.int64)
    padded = np.frombuffer(bytes(start) + octets, np.uint8)
    result = read_header(padded, start, len(padded), fields)
    if result < 0:
        return fault_name(result)
    if result > 0:
        assert (fields == -99).all()
        return naive.Incomplete(result)
    assert fields[MASKED] == (fields[KEY] >= 0)
    return naive.Header(
        fin=bool(fields[FIN]),
        rsv=int(fields[RSV]),
        opcode=int(fields[OPCODE]),
        key=int(fields[KEY]).to_bytes(4, "little") if fields[MASKED] else None,
        size=int(fields[HEADER_SIZE]),
        payload_size=int(fields[PAYLOAD_SIZE]),
    )


def read_naively(octets):
    """The same of the naive model."""
    try:
        return naive.parse_header(octets)
    except naive.RefusedError as refused:
        return refused.fault


def fault_name(code):
    """The name of a fault's code."""
    return next(name for name, value in vars(_faults).items() if value == code)


def write(first_octet, payload_size, key, start=0):
    """What `write_header` writes, after checking that it writes nothing else."""
    octets = np.full(start + 20, 0xA5, np.uint8)
    number = -1 if key is None else int.from_bytes(key, "little")
    size = write_header(octets, start, first_octet, payload_size, number)
    assert (octets[:start] == 0xA5).all()
    assert (octets[start + size :] == 0xA5).all()
    return octets[start : start + size].tobytes()


def test_every_pair_of_first_octets():
    """All 65,536 beginnings are judged as the naive model judges them."""
    for first in range(256):
        for second in range(256):
            octets = bytes([first, second])
            assert read(octets) == read_naively(octets)


@pytest.mark.parametrize("first", range(256))
def test_every_first_octet_alone(first):
    """A reserved opcode or a fragmented control frame shows in its first octet (§5.2, §5.5)."""
    assert read(bytes([first])) == read_naively(bytes([first]))


def test_no_octets_at_all():
    """Of nothing, two octets are needed."""
    assert read(b"") == naive.Incomplete(2)


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("payload_size", SIZES)
def test_a_header_cut_anywhere(payload_size, key):
    """Every prefix says how many octets are needed; the whole gives every field."""
    octets = naive.build_header(0x82, payload_size, key)

    for cut in range(2, len(octets)):
        assert read(octets[:cut]) == naive.Incomplete(len(octets))
    assert read(octets) == naive.Header(
        fin=True, rsv=0, opcode=2, key=key, size=len(octets), payload_size=payload_size
    )


@pytest.mark.parametrize("short", [126, 127])
@pytest.mark.parametrize(
    "size", [0, 1, 125, 126, 255, 256, 65_535, 65_536, 2**63 - 1, 2**63, 2**63 + 1, 2**64 - 1]
)
@pytest.mark.parametrize("mask_bit", [0, 128])
def test_an_extended_length_cut_anywhere(short, size, mask_bit):
    """A length not minimal, or of 2^63 and more, is refused once it shows (§5.2)."""
    extended = size.to_bytes(8, "big")[-2 if short == 126 else -8 :]
    octets = bytes([0x81, mask_bit + short]) + extended + b"abcd"

    for cut in range(len(octets) + 1):
        assert read(octets[:cut]) == read_naively(octets[:cut])


@pytest.mark.parametrize("position", range(8))
def test_one_octet_of_the_length_set(position):
    """Each octet of an 8-octet length counts (§5.2)."""
    extended = bytearray(8)
    extended[position] = 0x40
    octets = b"\x82\x7f" + extended

    assert read(octets) == read_naively(octets)


def test_a_header_in_the_middle():
    """Octets before *start* are not looked at; sizes count from *start*."""
    octets = naive.build_header(0x41, 70_000, b"\x01\x02\x03\x04")

    assert read(octets, start=9) == read_naively(octets)
    assert read(octets[:5], start=9) == naive.Incomplete(14)


def test_octets_after_the_header():
    """What follows a header is not part of it."""
    octets = naive.build_header(0x89, 5, b"\xff\xff\xff\xff")

    assert read(octets + b"\xff" * 10) == read_naively(octets)


@pytest.mark.parametrize(
    ("octets", "payload_size"),
    [
        pytest.param("8105", 5, id="5.7-unmasked-text"),
        pytest.param("818537fa213d", 5, id="5.7-masked-text"),
        pytest.param("0103", 3, id="5.7-first-fragment"),
        pytest.param("8002", 2, id="5.7-last-fragment"),
        pytest.param("8905", 5, id="5.7-ping"),
        pytest.param("8a8537fa213d", 5, id="5.7-masked-pong"),
        pytest.param("827e0100", 256, id="5.7-256-octets"),
        pytest.param("827f0000000000010000", 65_536, id="5.7-64-kibioctets"),
    ],
)
def test_the_examples_of_the_rfc(octets, payload_size):
    """The headers that RFC 6455 §5.7 shows are read and written like that."""
    octets = bytes.fromhex(octets)
    header = read(octets)

    assert (header.payload_size, header.size) == (payload_size, len(octets))
    assert write(octets[0], payload_size, header.key) == octets


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("payload_size", SIZES)
def test_writing(payload_size, key):
    """A written header is the naive model's, and minimal (§5.2)."""
    for first_octet in (0x00, 0x82, 0xC1, 0xFF):
        expected = naive.build_header(first_octet, payload_size, key)
        assert write(first_octet, payload_size, key, start=3) == expected
