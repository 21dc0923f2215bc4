"""`validate_utf8`, against Python's decoder (RFC 6455 §8.1, RFC 3629)."""

import numpy as np
import pytest

from tests import naive
from triows._kernels import validate_utf8
from triows._kernels._faults import INVALID_UTF8
from triows._kernels._registry import JIT

EDGES = bytes(
    [0x00, 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC0, 0xC1, 0xC2, 0xDF,
     0xE0, 0xE1, 0xEC, 0xED, 0xEE, 0xEF, 0xF0, 0xF1, 0xF3, 0xF4, 0xF5, 0xFF]
)  # fmt: skip
"""The first and last octet of every range that RFC 3629 §4 tells apart."""

SEQUENCES = [
    pytest.param(b"\x24", id="3629-3-one-octet"),
    pytest.param("ß".encode(), id="3629-3-two-octets"),
    pytest.param("漢".encode(), id="3629-3-three-octets"),
    pytest.param("😀".encode(), id="3629-3-four-octets"),
    pytest.param(b"\xef\xbb\xbf", id="3629-6-byte-order-mark"),
    pytest.param(b"\xef\xbf\xbf", id="3629-3-noncharacter"),
    pytest.param(b"\x00", id="3629-3-nul"),
    pytest.param(b"\xf4\x8f\xbf\xbf", id="3629-3-last-code-point"),
    pytest.param(b"\xc0\x80", id="3629-3-overlong-nul"),
    pytest.param(b"\xc1\xbf", id="3629-3-overlong-two"),
    pytest.param(b"\xe0\x9f\xbf", id="3629-3-overlong-three"),
    pytest.param(b"\xf0\x8f\xbf\xbf", id="3629-3-overlong-four"),
    pytest.param(b"\xed\xa0\x80", id="3629-3-first-surrogate"),
    pytest.param(b"\xed\xbf\xbf", id="3629-3-last-surrogate"),
    pytest.param(b"\xf4\x90\x80\x80", id="3629-3-beyond-unicode"),
    pytest.param(b"\xf5\x80\x80\x80", id="3629-4-no-such-start"),
    pytest.param(b"\x80", id="3629-4-stray-tail"),
    pytest.param(b"\xc3\x28", id="3629-4-missing-tail"),
    pytest.param(b"\xe2\x82", id="3629-4-cut-three"),
    pytest.param(b"\xf0\x9f\x98", id="3629-4-cut-four"),
    pytest.param(b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xed\xa0\x80", id="3629-8-mixed"),
]


def judge(octets, state=0):
    """The state after *octets*, which lie at an odd offset between others that do not count."""
    around = np.frombuffer(b"\x80\xff\x80" + octets + b"\xff", np.uint8)
    return validate_utf8(around, 3, 3 + len(octets), state)


def verdict_of(state):
    """What a state means, in the naive model's words."""
    if state == INVALID_UTF8:
        return "wrong"
    assert state >= 0
    return "unfinished" if state else "whole"


def judge_in_pieces(*pieces):
    """The state after *pieces*, fed one after another until one is refused."""
    state = 0
    for piece in pieces:
        state = judge(piece, state)
        if state < 0:
            break
    return state


def check(octets):
    """Compare the verdict on *octets* with Python's, whole and cut in two everywhere."""
    state = judge(octets)
    assert verdict_of(state) == naive.judge_text(octets)
    for cut in range(1, len(octets)):
        assert judge_in_pieces(octets[:cut], octets[cut:]) == state
    return state


def unfinished(prefixes, octets):
    """Each of *prefixes* with each octet added, checked; returned if more is to come."""
    sequences = (prefix + bytes([octet]) for prefix in prefixes for octet in octets)
    return [sequence for sequence in sequences if check(sequence) > 0]


def test_every_sequence_of_up_to_four_octets():
    """Each octet is refused exactly where Python's decoder sees that nothing can follow.

    Of longer sequences, those whose beginning is refused or complete are left
    out: a state of 0 is the state at the start.
    """
    one = unfinished([b""], range(256))
    two = unfinished(one, range(256))
    three = unfinished(two, range(256) if JIT else EDGES)
    four = unfinished(three if JIT else three[::16], EDGES[::2])

    assert (len(one), len(two)) == (51, 960 + 256)  # of UTF8-3 and of UTF8-4
    assert four == []


@pytest.mark.parametrize("octets", SEQUENCES)
def test_a_sequence_alone(octets):
    """What RFC 3629 allows and forbids, whole and in two pieces."""
    check(octets)


@pytest.mark.parametrize("filler", ["a", "ß", "漢", "😀", "aß漢😀"])
@pytest.mark.parametrize("sequence", SEQUENCES)
def test_a_sequence_anywhere_in_a_long_text(sequence, filler):
    """Blocks, and the edges between them, judge as the automaton does."""
    filler = filler.encode()
    for before in range(0, 290 // len(filler), 1 if JIT else 23):
        for after in (0, 1, 40, 130 // len(filler) + 1):
            octets = filler * before + sequence + filler * after
            assert verdict_of(judge(octets)) == naive.judge_text(octets)


@pytest.mark.parametrize("position", range(0, 300, 1 if JIT else 13))
def test_one_wrong_octet_in_a_long_text(position):
    """A single octet changed in a long mixed text is seen wherever it is."""
    text = ("Grüße 漢字 😀 plain " * 14).encode()[:320]
    for octet in EDGES:
        octets = text[:position] + bytes([octet]) + text[position + 1 :]
        assert verdict_of(judge(octets)) == naive.judge_text(octets)


@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 127, 128, 135, 136, 137, 264, 500, 5_000])
@pytest.mark.parametrize("tail", ["", "\xdf", "漢", "😀"])
def test_the_state_after_a_piece_of_any_size(size, tail):
    """A code point cut at the end of a long piece goes on in the next one."""
    octets = b"x" * size + tail.encode()
    for cut in range(size, len(octets) + 1):
        assert judge_in_pieces(octets[:cut], octets[cut:]) == 0
        assert (judge(octets[:cut]) == 0) == (cut in {size, len(octets)})


def test_a_long_piece_that_begins_inside_a_code_point():
    """The state carried in is heeded by the block path too."""
    rest = "😀".encode()[1:] + b"x" * 300

    assert judge_in_pieces("😀".encode()[:1], rest) == 0
    assert judge_in_pieces("ß".encode()[:1], rest) == INVALID_UTF8
    assert judge_in_pieces(rest) == INVALID_UTF8


def test_read_only_octets_are_accepted():
    """The kernel only reads, so that bytes need no copy."""
    octets = np.frombuffer(b"text", np.uint8)

    assert not octets.flags.writeable
    assert validate_utf8(octets, 0, 4, 0) == 0
    assert validate_utf8(octets.copy(), 0, 4, 0) == 0
