"""The scan of received octets into pieces of frames."""

import numpy as np
import pytest

from tests.naive_reception import (
    BINARY,
    CLOSE,
    PING,
    PONG,
    TEXT,
    build_fragments,
    build_frame,
)
from triows._kernels import FAULTS, STATE_SIZE, _faults, _scan, ensure_warm, scan
from triows._kernels._scan import (
    COMPRESSED,
    FAULT,
    FRAME_END,
    FRAME_START,
    IS_FULL,
    MESSAGE_END,
    MESSAGE_START,
    NEEDED,
    NEXT,
    WHOLE,
)

KEY = b"\x11\x22\x33\x44"


class Scanner:
    """A connection's state, and a table of *rows* rows."""

    def __init__(self, *, expect_mask=0, rsv=0, max_message=1_000, max_fragments=5, rows=8):
        ensure_warm()
        self.state = np.zeros(STATE_SIZE, np.int64)
        self.state[_scan.EXPECT_MASK] = expect_mask
        self.state[_scan.ALLOWED_RSV] = rsv
        self.state[_scan.MAX_MESSAGE] = max_message
        self.state[_scan.MAX_FRAGMENTS] = max_fragments
        self.table = np.full((rows, _scan.COLUMNS), -7, np.int64)
        self.octets = np.zeros(0, np.uint8)

    def scan(self, content, start=0):
        """Scan *content* from *start*: the pieces, as rows, and the trailer."""
        self.octets = np.frombuffer(bytearray(content), np.uint8)
        rows = scan(self.octets, start, len(content), self.state, self.table)
        *pieces, trailer = self.table[: rows + 1, : _scan.PIECE_COLUMNS].tolist()
        return pieces, trailer

    def fault(self, content):
        """The fault that *content* ends with."""
        return self.scan(content)[1][FAULT]


def test_a_whole_frame_is_one_piece():
    """A whole unmasked message is described by its opcode, place and header."""
    pieces, trailer = Scanner().scan(build_frame(BINARY, b"hello"))

    assert pieces == [[BINARY, WHOLE, 2, 5, 2]]
    assert trailer[:4] == [7, 0, 0, 0]


def test_a_masked_payload_is_unmasked_in_place():
    """The payload of a masked frame can be read where it lies."""
    scanner = Scanner(expect_mask=1)

    (piece,), _ = scanner.scan(build_frame(TEXT, b"hello", key=KEY))

    assert piece == [TEXT, WHOLE, 6, 5, 6]
    assert scanner.octets[6:].tobytes() == b"hello"


def test_several_frames_in_one_scan():
    """Frames that follow each other make rows in their order."""
    content = build_frame(TEXT, b"a") + build_frame(PING, b"bc") + build_frame(BINARY)

    pieces, trailer = Scanner().scan(content)

    assert [piece[0] for piece in pieces] == [TEXT, PING, BINARY]
    assert [piece[2:4] for piece in pieces] == [[2, 1], [5, 2], [9, 0]]
    assert trailer[NEXT] == len(content)


def test_a_scan_begins_where_it_is_told():
    """Octets before the start are not looked at."""
    pieces, _ = Scanner().scan(b"\xff\xff\xff" + build_frame(BINARY, b"x"), start=3)

    assert pieces == [[BINARY, WHOLE, 5, 1, 2]]


def test_no_octets_are_no_pieces():
    """An empty range has nothing in it and needs nothing."""
    pieces, trailer = Scanner().scan(b"")

    assert (pieces, trailer[:4]) == ([], [0, 0, 0, 0])


def test_a_frame_arrives_in_pieces():
    """A payload that is cut is passed on as it comes, and unmasked across the cut."""
    frame = build_frame(BINARY, b"abcdefg", key=KEY)
    scanner = Scanner(expect_mask=1)

    (first,), first_trailer = scanner.scan(frame[:9])
    first_octets = scanner.octets[6:9].tobytes()
    (last,), _ = scanner.scan(frame[9:])

    assert first == [BINARY, MESSAGE_START | FRAME_START, 6, 3, 6]
    assert first_trailer[:4] == [9, 0, 0, 0]
    assert last == [BINARY, MESSAGE_END | FRAME_END, 0, 4, 0]
    assert first_octets + scanner.octets.tobytes() == b"abcdefg"


def test_fragments_carry_their_messages_opcode():
    """Each fragment says which kind of message it belongs to, and where that begins and ends."""
    pieces, _ = Scanner().scan(b"".join(build_fragments(TEXT, [b"a", b"b", b"c"])))

    assert [piece[0] for piece in pieces] == [TEXT, TEXT, TEXT]
    assert [piece[1] for piece in pieces] == [
        MESSAGE_START | FRAME_START | FRAME_END,
        FRAME_START | FRAME_END,
        FRAME_START | FRAME_END | MESSAGE_END,
    ]


def test_a_control_frame_between_fragments():
    """A control frame inside a message leaves the message as it was."""
    first, last = build_fragments(TEXT, [b"\xc3", b"\xa4"])

    pieces, trailer = Scanner().scan(first + build_frame(PONG, b"!") + last)

    assert [piece[0] for piece in pieces] == [TEXT, PONG, TEXT]
    assert trailer[FAULT] == 0


@pytest.mark.parametrize("available", range(1, 4))
def test_an_unfinished_header_is_left(available):
    """A header that is not whole stays where it is, with what it needs at least."""
    frame = build_frame(BINARY, bytes(200))

    pieces, trailer = Scanner().scan(frame[:available])

    assert pieces == []
    assert trailer[:4] == [0, 0, 2 if available < 2 else 4, 0]


def test_an_unfinished_control_frame_is_left():
    """A control frame is passed on whole or not at all; a whole one before it is."""
    content = build_frame(TEXT, b"a") + build_frame(PING, b"12345")[:4]

    pieces, trailer = Scanner().scan(content)

    assert len(pieces) == 1
    assert trailer[:4] == [3, 0, 7, 0]


def test_a_full_table_says_so():
    """What has no row is scanned by the next call."""
    frame = build_frame(BINARY, b"x")
    scanner = Scanner(rows=3)

    pieces, trailer = scanner.scan(frame * 3)
    rest, rest_trailer = scanner.scan(frame * 3, start=trailer[NEXT])

    assert (len(pieces), trailer[NEXT], trailer[IS_FULL]) == (2, 6, 1)
    assert (len(rest), rest_trailer[IS_FULL]) == (1, 0)


def test_a_table_filled_by_the_last_frame_is_not_full():
    """When nothing is left to scan, no further call is asked for."""
    pieces, trailer = Scanner(rows=3).scan(build_frame(BINARY) * 2)

    assert len(pieces) == 2
    assert trailer[IS_FULL] == 0


def test_nothing_is_read_after_a_close():
    """Octets after a Close are skipped, in the same scan and in later ones (§5.5.1)."""
    scanner = Scanner()

    pieces, trailer = scanner.scan(build_frame(CLOSE, b"\x03\xe8") + b"\xff\xff\xff")
    later, later_trailer = scanner.scan(b"\xff\xff")

    assert [piece[0] for piece in pieces] == [CLOSE]
    assert trailer[:4] == [7, 0, 0, 0]
    assert (later, later_trailer[:4]) == ([], [2, 0, 0, 0])


def test_a_claimed_reserved_bit_marks_its_message():
    """With RSV1 allowed, every piece of the message says so, and its text is not judged."""
    content = build_frame(TEXT, b"\xff", fin=False, rsv=4) + build_frame(0, b"\xff")

    pieces, trailer = Scanner(rsv=4).scan(content)

    assert all(piece[1] & COMPRESSED for piece in pieces)
    assert trailer[FAULT] == 0


def test_a_message_after_a_compressed_one_is_judged():
    """The reserved bits are each message's own."""
    content = build_frame(TEXT, b"\xff", rsv=4) + build_frame(TEXT, b"\xff")

    assert Scanner(rsv=4).fault(content) == _faults.INVALID_UTF8


def test_the_exact_limit_of_a_message_passes():
    """Limits are inclusive: of octets, over all fragments, and of fragments."""
    pieces = [bytes(200)] * 5

    assert Scanner().fault(b"".join(build_fragments(BINARY, pieces))) == 0


def test_a_size_near_the_top_of_int64_is_refused():
    """No sum overflows: 2**63 - 1 octets behind a fragment are too many."""
    huge = b"\x80\x7f\x7f" + b"\xff" * 7

    assert Scanner().fault(build_frame(BINARY, b"x", fin=False) + huge) == _faults.MESSAGE_TOO_BIG


def close_of(code, reason=b""):
    """A Close frame."""
    return build_frame(CLOSE, code.to_bytes(2, "big") + reason)


FAULTY = [
    ("RESERVED_OPCODE", build_frame(3)),
    ("RESERVED_OPCODE", build_frame(11)),
    ("LONG_CONTROL", b"\x89\x7e"),
    ("FRAGMENTED_CONTROL", b"\x09"),
    ("LENGTH_NOT_MINIMAL", b"\x82\x7e\x00\x7d"),
    ("LENGTH_NOT_MINIMAL", b"\x82\x7f" + bytes(6)),
    ("LENGTH_TOP_BIT", b"\x82\x7f\x80"),
    ("UNEXPECTED_RSV", build_frame(BINARY, rsv=1)),
    ("UNEXPECTED_RSV", build_frame(BINARY, rsv=4)),
    ("UNEXPECTED_RSV", build_frame(PING, rsv=4)),
    ("UNEXPECTED_RSV", build_frame(BINARY, fin=False) + build_frame(0, rsv=4)),
    ("MASKED", build_frame(BINARY, key=KEY)),
    ("STRAY_CONTINUATION", build_frame(0)),
    ("STRAY_CONTINUATION", build_frame(TEXT) + build_frame(0)),
    ("MESSAGE_INSIDE_MESSAGE", build_frame(TEXT, fin=False) + build_frame(BINARY)),
    ("MESSAGE_TOO_BIG", build_frame(BINARY, bytes(1_001))[:4]),
    ("MESSAGE_TOO_BIG", build_frame(TEXT, b"x", fin=False) + build_frame(0, bytes(1_000))[:4]),
    ("TOO_MANY_FRAGMENTS", b"".join(build_fragments(TEXT, [b""] * 6))),
    ("INVALID_UTF8", build_frame(TEXT, b"ab\xff" + bytes(500))[:7]),
    ("INVALID_UTF8", build_frame(TEXT, "ä".encode()[:1])),
    ("INVALID_UTF8", b"".join(build_fragments(TEXT, ["ä".encode()[:1], b""]))),
    ("SHORT_CLOSE", build_frame(CLOSE, b"\x03")),
    *[("BAD_CLOSE_CODE", close_of(code)) for code in (0, 999, 1004, 1006, 1015, 2999, 5000)],
    ("INVALID_UTF8_REASON", close_of(1000, b"\xff")),
    ("INVALID_UTF8_REASON", close_of(1000, "ä".encode()[:1])),
]


@pytest.mark.parametrize(("name", "content"), FAULTY)
def test_a_fault_stops_the_scan(name, content):
    """Each thing that a peer may not do has its code, and the frame before it stands."""
    scanner = Scanner()
    before = build_frame(BINARY, b"stands")

    pieces, trailer = scanner.scan(before + content)

    assert pieces[0] == [BINARY, WHOLE, 2, 6, 2]
    assert trailer[FAULT] == getattr(_faults, name)
    assert (trailer[NEEDED], trailer[IS_FULL]) == (0, 0)


@pytest.mark.parametrize(("name", "content"), FAULTY)
def test_a_fault_octet_by_octet(name, content):
    """A fault has the same code when what leads to it comes one octet at a time."""
    scanner = Scanner()
    held = b""
    for octet in content:
        held += bytes([octet])
        _, trailer = scanner.scan(held)
        if trailer[FAULT]:
            break
        held = held[trailer[NEXT] :]

    assert trailer[FAULT] == getattr(_faults, name)


def test_an_unmasked_frame_where_masks_are_due():
    """A server refuses a frame that is not masked (§5.1)."""
    assert Scanner(expect_mask=1).fault(build_frame(BINARY, b"x")) == _faults.NOT_MASKED


def test_every_fault_has_a_case():
    """No code is left without a test above."""
    names = {name for name, _ in FAULTY} | {"NOT_MASKED"}

    assert {getattr(_faults, name) for name in names} == set(FAULTS)


@pytest.mark.parametrize("code", [1000, 1003, 1007, 1014, 3000, 4999])
def test_a_close_code_that_may_be_sent(code):
    """The codes at the edges of what is allowed pass, with a reason."""
    assert Scanner().fault(close_of(code, "gründlich".encode())) == 0


def test_an_empty_close():
    """A Close needs no code."""
    assert Scanner().fault(build_frame(CLOSE)) == 0


def test_a_masked_close_is_unmasked_and_judged():
    """The code of a masked Close is read after unmasking."""
    frame = build_frame(CLOSE, (1004).to_bytes(2, "big"), key=KEY)

    assert Scanner(expect_mask=1).fault(frame) == _faults.BAD_CLOSE_CODE


def test_a_key_of_ones_is_taken_off():
    """The highest mask keeps within its integers, compiled and interpreted."""
    scanner = Scanner(expect_mask=1)
    scanner.scan(build_frame(BINARY, b"twelve octet", key=b"\xff" * 4))

    assert scanner.octets[6:].tobytes() == b"twelve octet"
