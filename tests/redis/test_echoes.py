"""What is given to subscribers here while Redis is away: each item once."""

from triows.redis._echoes import Echoes
from triows.redis._wire import Parcel

PARCELS = [Parcel(b"p" * 16, serial, str(serial)) for serial in range(1, 5)]


def test_what_has_not_come_back_is_overdue():
    """Of what Redis has taken, and of what it has not; once."""
    echoes = Echoes(0)
    echoes.expect(PARCELS[:3])
    assert not echoes.hear(1)
    assert list(echoes.take_overdue(PARCELS[3:])) == PARCELS[1:]
    assert list(echoes.take_overdue(PARCELS[3:])) == []


def test_what_has_come_back_before_redis_has_answered_is_not_overdue():
    """The batch under way is sent again, but not given again."""
    echoes = Echoes(0)
    assert not echoes.hear(2)
    assert list(echoes.take_overdue(PARCELS)) == PARCELS[2:]


def test_what_was_published_before_the_room_was_opened_is_not_overdue():
    """It is like another process's."""
    assert list(Echoes(3).take_overdue(PARCELS)) == PARCELS[3:]
