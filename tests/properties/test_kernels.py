"""Whatever the input, a kernel and its naive model agree."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tests import naive
from triows._kernels import _faults, mask, read_header, validate_utf8, write_header
from triows._kernels._headers import FIELDS, HEADER_SIZE, KEY, PAYLOAD_SIZE

keys = st.binary(min_size=4, max_size=4)
texts = st.text(max_size=400).map(str.encode)
nearly_texts = st.lists(
    st.one_of(
        texts,
        st.sampled_from(["plain text " * 20, "漢字" * 40, "😀" * 30, "ß" * 70]).map(str.encode),
        st.binary(max_size=3),
    ),
    max_size=4,
).map(b"".join)


def octets_of(content):
    """Writable octets with a copy of *content*."""
    return np.frombuffer(bytearray(content), np.uint8)


def read_naively(content):
    """The naive model's header; else what `read_header` has to return."""
    try:
        found = naive.parse_header(content)
    except naive.RefusedError as refused:
        return getattr(_faults, refused.fault)
    return found.at_least if isinstance(found, naive.Incomplete) else found


@given(st.binary(max_size=400), keys, st.integers(0, 3), st.data())
def test_masking_in_pieces(payload, key, phase, data):
    """Any payload masked in any pieces is the naive model's."""
    cuts = data.draw(st.lists(st.integers(0, len(payload)), max_size=4).map(sorted))
    octets = octets_of(payload)
    next_phase = phase

    for start, stop in zip([0, *cuts], [*cuts, len(payload)], strict=True):
        next_phase = mask(octets, start, stop, int.from_bytes(key, "little"), next_phase)

    assert octets.tobytes() == naive.mask(payload, key, phase)


@given(st.binary(max_size=20))
def test_any_octets_as_a_header(content):
    """Any octets are judged, measured and read as the naive model does it."""
    fields = np.zeros(FIELDS, np.int64)

    result = read_header(octets_of(content), 0, len(content), fields)

    expected = read_naively(content)
    if isinstance(expected, naive.Header):
        assert result == 0
        assert fields[HEADER_SIZE] == expected.size
        assert fields[PAYLOAD_SIZE] == expected.payload_size
    else:
        assert result == expected


@given(
    st.integers(0, 255),
    st.one_of(st.integers(0, 2**63 - 1), st.integers(0, 70_000)),
    st.one_of(st.none(), keys),
)
def test_a_header_written_and_read(first_octet, payload_size, key):
    """What is written is the naive model's; what may be read gives back what was written."""
    octets = np.zeros(14, np.uint8)
    fields = np.zeros(FIELDS, np.int64)
    number = -1 if key is None else int.from_bytes(key, "little")

    size = write_header(octets, 0, first_octet, payload_size, number)

    assert octets[:size].tobytes() == naive.build_header(first_octet, payload_size, key)
    if read_header(octets, 0, size, fields) == 0:
        assert fields[[KEY, HEADER_SIZE, PAYLOAD_SIZE]].tolist() == [number, size, payload_size]


@given(nearly_texts, st.data())
def test_a_text_in_pieces(content, data):
    """Any octets in any pieces are judged as Python's decoder judges the whole."""
    cuts = data.draw(st.lists(st.integers(0, len(content)), max_size=4).map(sorted))
    octets = octets_of(content)
    state = 0

    for start, stop in zip([0, *cuts], [*cuts, len(content)], strict=True):
        state = validate_utf8(octets, start, stop, state)
        verdict = "wrong" if state < 0 else "unfinished" if state else "whole"
        assert verdict == naive.judge_text(content[:stop])
        if state < 0:
            break
