"""The bench of the chat: what its chatters find wrong, and a small run against the real broker."""

import json

import bench_chat
import chat_drive
import numpy as np
import pytest
from chat_drive import BIN, BINS, COUNTS, HEARD, TEXT, WRONG
from chat_load import percentile

pytestmark = pytest.mark.slow


def frame(who: int, number: int) -> bytes:
    """A message as the broker sends it."""
    text = f"{0:019d} {who:05d} {number:07d} ".ljust(TEXT, "x")
    event = {"type": "message", "room": "room-000", "log": "1f", "seq": 1, "time": 1.5}
    payload = json.dumps({**event, "nick": "x", "text": text}, separators=(",", ":")).encode()
    return b"\x81\x7e" + len(payload).to_bytes(2, "big") + payload


NOTICE = b"\x81\x11" + b'{"type":"joined"}'


def hear(octets: bytes, cuts: tuple[int, ...] = ()) -> np.ndarray:
    """Have chatter 1 of a room of 4 hear *octets*, cut into pieces; returns the counts."""
    heard = np.zeros((8, 4), np.int64)
    histogram, counts = np.zeros(BINS, np.int64), np.zeros(COUNTS, np.int64)
    rest = b""
    for start, stop in zip((0, *cuts), (*cuts, len(octets)), strict=True):
        piece = np.frombuffer(rest + octets[start:stop], np.uint8)
        at = chat_drive._hear(1, piece, 0, len(piece), 4, heard, histogram, counts, 5 * BIN)
        rest = piece[at:].tobytes()
    assert rest == b""
    assert histogram[5] == counts[HEARD]
    return counts


def test_all_is_heard_however_it_is_cut():
    """Messages of several speakers are counted; what is no message is left out."""
    octets = NOTICE + frame(0, 0) + frame(2, 0) + NOTICE + frame(0, 1)
    for cut in range(1, len(octets)):
        counts = hear(octets, (cut,))
        assert (counts[HEARD], counts[WRONG]) == (3, 0)


@pytest.mark.parametrize(
    ("octets", "what"),
    [
        (frame(0, 0) + frame(0, 2), "lost"),
        (frame(0, 0) + frame(0, 0), "doubled"),
        (frame(2, 1) + frame(2, 0), "out of order"),
        (frame(5, 0), "of another room"),
    ],
)
def test_what_is_wrong_is_found(octets, what):
    """A message that is lost, doubled, out of order or misdelivered is counted as wrong."""
    assert hear(octets)[WRONG] >= 1, what


def test_percentiles():
    """They are those of the histogram's bins, in milliseconds."""
    histogram = np.zeros(BINS, np.int64)
    histogram[[10, 20, 30]] = 50, 49, 1

    found = [percentile(histogram, percent) * 1e6 / BIN for percent in (50, 99, 100)]

    assert found == [11, 21, 31]


def test_a_small_run(tmp_path, monkeypatch):
    """Two rooms talk for a while: all is heard, and the figures are kept."""
    monkeypatch.setattr(bench_chat, "SETTLE", 0.5)
    output = tmp_path / "chat.json"
    options = ["--people", "20", "--room", "10", "--seconds", "3", "--warm-up", "0.4"]
    bench_chat.main([*options, "--driver", "auto", "--output", str(output)])

    figures = json.loads(output.read_text())["figures"]
    assert [figure["heard"] for figure in figures.values()] == [3_000, 3_000]
    assert all(figure["lost"] == 0 for figure in figures.values())
