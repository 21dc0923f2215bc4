"""Received octets cut into pieces, and payloads made into frames."""

import pytest

from tests import naive
from tests.naive_reception import BINARY, PING, TEXT, build_frame, parse_frames
from triows._engine._frames import FrameReader, header_size, masked_frame, server_header
from triows._engine._octets import own_octets
from triows._errors import ProtocolError
from triows._options import Limits


@pytest.fixture
def reader():
    """A client's reader: its peer does not mask."""
    return FrameReader(Limits(), expect_mask=False)


def read(reader, content):
    """Opcode and payload of the pieces of *content*."""
    return [
        (opcode, octets[start : start + size].tobytes())
        for octets, pieces in reader.read(own_octets(content))
        for opcode, _, start, size, _ in pieces
    ]


def test_whole_frames(reader):
    """Frames that arrive whole are handed on where they lie; nothing is kept."""
    assert read(reader, build_frame(TEXT, b"a") + build_frame(PING, b"b")) == [
        (TEXT, b"a"),
        (PING, b"b"),
    ]
    assert reader.carried == 0


def test_more_frames_than_a_table_has_rows(reader):
    """Any number of frames in one receive comes out, in order."""
    payloads = [b"%d" % number for number in range(1_000)]

    pieces = read(reader, b"".join(build_frame(BINARY, payload) for payload in payloads))

    assert pieces == [(BINARY, payload) for payload in payloads]


@pytest.mark.parametrize("size", [0, 5, 125])
def test_a_control_frame_octet_by_octet(reader, size):
    """A control frame is handed on when it is whole, and kept until then."""
    frame = build_frame(PING, b"p" * size)
    for count, octet in enumerate(frame[:-1], start=1):
        assert read(reader, bytes([octet])) == []
        assert reader.carried == count

    assert read(reader, frame[-1:]) == [(PING, b"p" * size)]
    assert reader.carried == 0


def test_an_empty_message_octet_by_octet():
    """An empty masked message is whole with the last octet of its key."""
    reader = FrameReader(Limits(), expect_mask=True)

    pieces = [read(reader, bytes([octet])) for octet in build_frame(BINARY, key=b"abcd")]

    assert pieces == [[], [], [], [], [], [(BINARY, b"")]]


def test_a_cut_header_and_what_follows_in_one_receive(reader):
    """The rest of a frame, more frames and the beginning of another come together."""
    frames = build_frame(PING, b"one") + build_frame(BINARY, bytes(200)) + build_frame(PING, b"two")

    assert read(reader, frames[:3]) == []
    assert read(reader, frames[3:-2]) == [(PING, b"one"), (BINARY, bytes(200))]
    assert reader.carried == 3
    assert read(reader, frames[-2:]) == [(PING, b"two")]


@pytest.mark.parametrize("cut", [1, 2])
def test_a_fault_behind_a_cut(reader, cut):
    """A refused header is refused at its first wrong octet, wherever it was cut."""
    content = b"\x82\x7f\x80"
    assert read(reader, content[:cut]) == []

    with pytest.raises(ProtocolError) as caught:
        read(reader, content[cut:])
    assert (caught.value.code, caught.value.reason) == (1002, "payload length with its top bit set")


def test_frames_before_a_fault_are_handed_on(reader):
    """What was right stays right, whatever comes behind it."""
    pieces = []
    with pytest.raises(ProtocolError, match="reserved opcode"):
        pieces.extend(
            piece
            for _, batch in reader.read(own_octets(build_frame(TEXT, b"a") + b"\x83\x00"))
            for piece in batch
        )

    assert len(pieces) == 1


def test_no_octets_change_nothing(reader):
    """An empty receive leaves what is carried as it is."""
    read(reader, b"\x89")

    assert read(reader, b"") == []
    assert reader.carried == 1


def test_what_is_carried_can_be_discarded(reader):
    """A reader that will not read again holds nothing."""
    read(reader, b"\x89")
    reader.discard()

    assert reader.carried == 0


def test_limits_are_the_readers():
    """A message over the reader's limit is refused from its header (1009)."""
    reader = FrameReader(Limits(max_message=10), expect_mask=False)

    with pytest.raises(ProtocolError) as caught:
        read(reader, build_frame(BINARY, bytes(11))[:2])
    assert caught.value.code == 1009


SIZES = [0, 1, 125, 126, 65_535, 65_536, 2**31, 2**53 + 1, 2**63 - 1]


@pytest.mark.parametrize("size", SIZES)
def test_the_size_of_a_header(size):
    """A minimal header's size, with and without a mask."""
    assert header_size(size, is_masked=False) == len(naive.build_header(0x82, size))
    assert header_size(size, is_masked=True) == len(naive.build_header(0x82, size, b"abcd"))


@pytest.mark.parametrize("size", SIZES)
def test_a_servers_header(size):
    """A server's header is minimal and unmasked (§5.1, §5.2)."""
    assert server_header(0x82, size) == naive.build_header(0x82, size)


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65_535, 65_536])
@pytest.mark.parametrize("make", [bytes, bytearray, memoryview])
def test_a_masked_frame(size, make):
    """A client's frame has the key in it, and a copy of the payload under it."""
    payload = bytes(range(256)) * (size // 256 + 1)
    payload = payload[:size]

    frame = bytes(masked_frame(0x81, make(payload), 0x04030201))

    assert frame == build_frame(TEXT, payload, key=b"\x01\x02\x03\x04")
    assert parse_frames(frame) == [(0x81, payload)]
