"""What a room's subscribers here have had of their own process's items, before Redis's order came.

While Redis is away they are given such items at once. When these come back in Redis's order, they
are not given them again.
"""

from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain

from triows.redis._wire import Parcel


class Echoes:
    """The reckoning for one room; items go by their serials, which grow.

    Args:
        since: the serial of the last item from before the room was opened here: what came
            before is like another process's.
    """

    def __init__(self, since: int) -> None:
        self._since = since
        self._had: OrderedDict[int, None] = OrderedDict()  # given here, and not come back yet
        self._last_had = self._last_heard = since
        self._dropped = 0  # given here, and no one else will ever have them
        # Batches taken by Redis of which not all has come back yet.
        self._unheard: deque[Sequence[Parcel]] = deque()

    @property
    def is_clear(self) -> bool:
        """Whether subscribers here have had nothing that has not come back."""
        return not self._had

    def expect(self, parcels: Sequence[Parcel]) -> None:
        """Note that Redis has taken items."""
        if parcels and parcels[-1].serial > self._last_heard:
            self._unheard.append(parcels)

    def hear(self, serial: int) -> bool:
        """Note that an item has come back; gives whether subscribers here have had it."""
        self._last_heard = max(serial, self._last_heard)
        while self._unheard and self._unheard[0][-1].serial <= serial:
            self._unheard.popleft()
        while self._had:
            first = next(iter(self._had))
            if first > serial:
                break
            del self._had[first]  # and what is before it will not come any more
            if first == serial:
                return True
        return False

    def give(self, parcel: Parcel) -> None:
        """Note that subscribers here are given an item now."""
        self._last_had = parcel.serial
        self._had[parcel.serial] = None

    def take_overdue(self, waiting: Iterable[Parcel]) -> Iterator[Parcel]:
        """Go through what is to be given to subscribers here, as Redis is away.

        Args:
            waiting: what Redis has not taken, in order.
        """
        for parcel in chain(*self._unheard, waiting):
            if parcel.serial > max(self._last_had, self._last_heard):
                self.give(parcel)
                yield parcel
        self._unheard.clear()

    def note_dropped(self, parcel: Parcel) -> None:
        """Note that an item will never be published, though subscribers here have had it."""
        if parcel.serial > self._since:
            self._had.pop(parcel.serial, None)
            self._dropped += 1

    def had_of(self, lost: int) -> int:
        """Say how many of *lost* numbers stand for what was dropped here, and account for them."""
        had = min(lost, self._dropped)
        self._dropped -= had
        return had
