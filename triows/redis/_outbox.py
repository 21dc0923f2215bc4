"""What waits to be published: in order, in batches, bounded in octets. No I/O.

A batch has a number, and stays as it is until Redis has taken it: no one knows of a broken
connection whether the batch under way had arrived, and Redis tells by the number.
"""

from collections import OrderedDict, deque
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any, Final, NamedTuple

from triows.redis._wire import Parcel, encode, pack_bundle

LARGEST_BATCH: Final = 1_000
"""Items that are published at once."""

LARGEST_BATCH_OCTETS: Final = 2**20
"""Octets of them, as they count while they wait, but for the last one."""

OVERHEAD: Final = 25
"""Octets that an item counts for besides its own."""


MOST_LOST: Final = 10_000
"""Rooms of which it is remembered how many items were dropped; those whose loss is newest."""


class Outgoing(NamedTuple):
    """An item that waits to be published."""

    room: str
    parcel: Parcel
    kind: bytes
    octets: bytes


class Outbox:
    """What waits.

    Args:
        most: octets that may wait.
    """

    def __init__(self, most: int) -> None:
        self.octets = 0
        """Of items that wait, those under way among them."""
        self.batch = 0
        """The number of the batch that was begun last."""
        self._most = most
        self._lost: OrderedDict[str, int] = OrderedDict()  # of each room, before what waits
        self._waiting: deque[Outgoing] = deque()
        self._under_way: list[Outgoing] = []
        self._octets_under_way = 0
        self._arguments: list[Any] = []  # of the batch under way
        self._sent: dict[str, list[Parcel]] = {}  # in the batch that was begun last

    def __bool__(self) -> bool:
        return bool(self._arguments or self._waiting or self._lost)

    @property
    def has_room(self) -> bool:
        """Whether one who can wait need not."""
        return self.octets < self._most

    def append(self, room: str, process: bytes, serial: int, item: Any) -> Parcel:
        """Put an item last, and return it.

        Raises:
            TypeError, UnicodeEncodeError: it cannot be sent; nothing was done.
        """
        kind, octets = encode(item)
        parcel = Parcel(process, serial, item if isinstance(item, str) else octets)
        self._waiting.append(Outgoing(room, parcel, kind, octets))
        self.octets += len(octets) + OVERHEAD
        return parcel

    def waiting(self) -> Iterator[Outgoing]:
        """Go through what waits, in order, the batch under way first."""
        return chain(self._under_way, self._waiting)

    def drop(self) -> list[Outgoing]:
        """Drop the oldest, as long as there is too much; but for what is under way.

        How many they were is remembered: their numbers are given out.
        """
        dropped = []
        while self._waiting and self.octets > self._most:
            one = self._waiting.popleft()
            self.octets -= len(one.octets) + OVERHEAD
            self._lost[one.room] = self._lost.pop(one.room, 0) + 1
            if len(self._lost) > MOST_LOST:
                self._lost.popitem(last=False)
            dropped.append(one)
        return dropped

    def begin_batch(self) -> list[Any]:
        """Return what to publish next, or once more if it is not known that it was.

        Returns:
            For each room its name, how many items were lost, how many follow, those as a bundle.
        """
        if not self._arguments:
            self.batch += 1
            self._fill()
            rooms: dict[str, list[Outgoing]] = {name: [] for name in self._lost}
            for one in self._under_way:
                rooms.setdefault(one.room, []).append(one)
            for name, items in rooms.items():
                bundle = _pack(items) if items else b""
                self._arguments += [name, self._lost.get(name, 0), len(items), bundle]
            self._sent = {name: [one.parcel for one in items] for name, items in rooms.items()}
            self._lost.clear()
        return self._arguments

    def sent_to(self, room: str) -> Sequence[Parcel]:
        """Return what goes to a room in the batch that was begun last."""
        return self._sent.get(room, ())

    def _fill(self) -> None:
        if len(self._waiting) <= LARGEST_BATCH and self.octets <= LARGEST_BATCH_OCTETS:
            self._under_way, self._waiting = [*self._waiting], deque()
            self._octets_under_way = self.octets
            return
        self._octets_under_way = 0
        while self._waiting and len(self._under_way) < LARGEST_BATCH:
            self._under_way.append(self._waiting.popleft())
            self._octets_under_way += len(self._under_way[-1].octets) + OVERHEAD
            if self._octets_under_way >= LARGEST_BATCH_OCTETS:
                break

    def end_batch(self) -> dict[str, list[Parcel]]:
        """Take out what Redis has taken, and return it by rooms."""
        self.octets -= self._octets_under_way
        self._octets_under_way = 0
        self._under_way, self._arguments = [], []
        return self._sent


def _pack(items: list[Outgoing]) -> bytes:
    pieces = [(one.parcel.serial, one.kind, one.octets) for one in items]
    return pack_bundle(items[0].parcel.process, pieces)
