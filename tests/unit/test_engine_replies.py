"""The replies that wait for an embedder."""

from triows._engine import InputSegment, LocalSegment
from triows._engine._replies import Replies


def test_segments_stand_in_order():
    """Segments say where octets lie; local ones count in the local octets."""
    replies = Replies()
    replies.append_local(b"abc")
    replies.append_input(7, 2)
    replies.append_local(b"de")

    assert replies.segments == [LocalSegment(0, 3), InputSegment(7, 2), LocalSegment(3, 2)]
    assert replies.local() == b"abcde"


def test_local_octets_may_grow_while_they_are_looked_at():
    """A view handed out earlier stays as it is, and right."""
    replies = Replies()
    replies.append_local(b"abc")
    earlier = replies.local()
    replies.append_local(b"de")

    assert (earlier, replies.local()) == (b"abc", b"abcde")


def test_local_octets_are_read_only():
    """The engine's own frames are not the embedder's to change."""
    replies = Replies()
    replies.append_local(bytearray(b"abc"))

    assert replies.local().readonly


def test_nothing_to_send():
    """Without replies there is nothing; after clearing neither."""
    replies = Replies()
    assert (replies.segments, replies.local()) == ([], b"")

    replies.append_local(b"abc")
    replies.clear()
    assert (replies.segments, replies.local()) == ([], b"")
