"""The order of one room in this process: what is next, what is missing, who has no room for it.

No I/O: it is told what has come, and says whether it *lacks* something, and what it waits for.
A room is *shared* while it is numbered by Redis, and *local* while Redis is away.
"""

from collections import deque
from typing import Any, Final
from uuid import uuid4

import attrs
import trio

from triows._broadcast import Delivery
from triows._broker import Position, RoomEnd
from triows.redis._echoes import Echoes
from triows.redis._wire import Parcel


@attrs.frozen
class Arrival:
    """Something that waits to be handed over, in its place."""

    epoch: str
    """Empty where Redis has not numbered it."""
    number: int
    parcel: Parcel | None
    """None for the end of what was read from the log: *number* is the last one there was."""
    is_logged: bool = False
    """Whether it was read from the log: what is missing before it is gone."""


_READ_ON: Final = Arrival("", 0, None)
"""Stands where more has to be read from the log."""


class Room:
    """A room that is open in this process.

    Args:
        name: of the room.
        process: this one's 16 octets.
        history: items that newcomers are given.
        queue: arrivals that may wait for a slow subscriber; more are read from the log later.
        since: the serial of what this process has published last.
    """

    def __init__(self, name: str, process: bytes, history: int, queue: int, since: int) -> None:
        self.name = name
        self.ends: dict[RoomEnd, None] = {}
        self.position = Position("", 0)
        """Of the last item that came from Redis."""
        self.is_local = False
        self.lacks = True
        """Whether the log has to be read before anything that Redis sent is handed over."""
        self.has_worker = False
        """Whether a task sees to it; for the node."""
        self.echoes = Echoes(since)
        self._process = process
        self._log: deque[Any] = deque(maxlen=history)  # up to the position
        self._queue: deque[Arrival] = deque()
        self._longest_queue = queue
        self._local = Position("", 0)
        self._local_log: deque[Any] = deque(maxlen=history)
        self._must_begin = False  # the ends do not know the position
        self.ready = trio.Event()
        """Set once the ends have a position."""
        self.emptied = trio.lowlevel.ParkingLot()
        """Where those wait who would publish behind what waits."""

    # Ends.

    def add(self, end: RoomEnd) -> None:
        """Let an end begin where the others are."""
        self.ends[end] = None
        if self.ready.is_set():
            self._begin_at(end)

    def _begin(self) -> None:
        self._must_begin = False
        self.ready.set()
        for end in self.ends:
            self._begin_at(end)

    def _begin_at(self, end: RoomEnd) -> None:
        if self.is_local:
            end.begin(self._local, tuple(self._local_log))
        else:
            end.begin(self.position, tuple(self._log))

    def close(self) -> None:
        """Let those go who wait for the room: no one has it open any more."""
        self.emptied.unpark_all()

    @property
    def full_ends(self) -> list[RoomEnd]:
        """The ends that the next item has to wait for."""
        if not self._queue or (parcel := self._queue[0].parcel) is None:
            return []
        return [end for end in self.ends if not end.has_room(parcel.item)]

    @property
    def next_item(self) -> Any:
        """The item that waits to be handed over."""
        parcel = self._queue[0].parcel
        return parcel and parcel.item

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits to be handed over."""
        return not self._queue

    # Redis is there.

    def arrive(self, epoch: str, before: int, parcels: list[Parcel]) -> None:
        """Take what was sent round, behind number *before*, and hand over what can be.

        Args:
            epoch: of the log now.
            before: the number before the first of them.
            parcels: items of one process, one at least.
        """
        if self._is_in_step and self.position == Position(epoch, before):
            taken = self._hand_over_all(before, parcels)
            before, parcels = before + taken, parcels[taken:]
            if not parcels:
                return
        if self._queue and self._queue[-1] is _READ_ON:
            return  # it is in the log
        if len(self._queue) + len(parcels) > self._longest_queue:
            self._queue = deque(one for one in self._queue if one.is_logged or not one.epoch)
            self._queue.append(_READ_ON)
            parcels = []
        for number, parcel in enumerate(parcels, before + 1):
            self._queue.append(Arrival(epoch, number, parcel))
        self.drain()

    @property
    def _is_in_step(self) -> bool:
        """Whether what comes next is handed over as it is: nearly always."""
        return (
            len(self.ends) == 1
            and self.echoes.is_clear
            and not (self._queue or self.lacks or self.is_local or self._must_begin)
        )

    def _hand_over_all(self, before: int, parcels: list[Parcel]) -> int:
        """Hand over what is next, in one go; returns for how many there was room."""
        (end,) = self.ends
        taken = end.deliver_batch([one.item for one in parcels])
        if taken:
            self.position = Position(self.position.epoch, before + taken)
            self._log.extend(one.item for one in parcels[:taken])
            self._hear(parcels[taken - 1])
        for newcomer in tuple(self.ends):
            if newcomer is not end:  # it began while that was handed over
                self._begin_at(newcomer)
        return taken

    def take_up(
        self, epoch: str, number: int, first: int, entries: list[tuple[int, Parcel]]
    ) -> None:
        """Take what was read from the log behind `position`.

        Args:
            epoch: of the log now.
            number: of the last item now, whether the log still has it or not.
            first: the number that the epoch began behind.
            entries: numbers and items, in order.
        """
        self.lacks = False
        if not self.position.epoch and not self.is_local:
            self.position = Position(epoch, number)
            for _, parcel in entries:
                self._hear(parcel)
            self._log.extend(_without_gaps(entries, number))
            self._begin()
        elif not self.position.epoch:  # who came while Redis was away gets the history now
            before = entries[0][0] - 1 if entries else number
            self.is_local = False
            self.position = Position(epoch, before)
            self._log.clear()
            self._begin()
            self._take_logged(epoch, number, entries)
        elif epoch != self.position.epoch:
            # Redis has lost some of what it had, or all: no one can say how much that was.
            self.is_local = False
            self.position = Position(epoch, first)
            self._log.clear()
            self._begin()
            self._skip(1)
            self._must_begin = True
            self.lacks = number > first
        else:
            self._must_begin = self._must_begin or self.is_local
            self.is_local = False
            self._take_logged(epoch, number, entries)
        self.drain()

    def _take_logged(self, epoch: str, number: int, entries: list[tuple[int, Parcel]]) -> None:
        """Put what was read from the log before what was sent round since."""
        logged = [Arrival(epoch, at, parcel, is_logged=True) for at, parcel in entries]
        is_all = not entries or entries[-1][0] >= number
        logged.append(Arrival(epoch, number, None, is_logged=True) if is_all else _READ_ON)
        self._queue.extendleft(reversed(logged))

    def drain(self) -> None:
        """Hand over what is next, as long as there is room for it and nothing is missing."""
        while self._queue and not self.full_ends:
            arrival = self._queue[0]
            if arrival is _READ_ON:
                self._queue.popleft()
                self.lacks = True
            elif arrival.epoch and not self._is_next(arrival):
                break
            else:
                self._queue.popleft()
                self._hand_over(arrival)
        if self._must_begin and self._may_begin:
            self._begin()
        if not self._queue:
            self.emptied.unpark_all()

    @property
    def _may_begin(self) -> bool:
        return not (self.is_local or self.lacks or self._queue)

    def _is_next(self, arrival: Arrival) -> bool:
        """Whether what Redis has numbered can be handed over now; notes where something lacks."""
        if self.lacks or self.is_local:
            return False
        if arrival.epoch != self.position.epoch and arrival.number == 1:
            self.position = Position(arrival.epoch, 0)  # the log had expired, and begins anew
            self._must_begin = True
        is_known = arrival.epoch == self.position.epoch
        self.lacks = not is_known or (
            arrival.number > self.position.number + 1 and not arrival.is_logged
        )
        return not self.lacks

    def _hand_over(self, arrival: Arrival) -> None:
        parcel = arrival.parcel
        if not arrival.epoch:
            assert parcel is not None
            self._deliver_here(parcel)
            return
        lost = arrival.number - self.position.number - (parcel is not None)
        if lost > 0:
            self._pass_over(lost)
        if parcel is not None:
            was_had = self._hear(parcel)
            if arrival.number > self.position.number:  # else it was read from the log before
                self._deliver(arrival, parcel, was_had=was_had)

    def _hear(self, parcel: Parcel) -> bool:
        """Note that an item has come from Redis; gives whether subscribers here have had it."""
        return parcel.process == self._process and self.echoes.hear(parcel.serial)

    def _deliver(self, arrival: Arrival, parcel: Parcel, *, was_had: bool) -> None:
        if self._must_begin and not was_had:
            self._begin()
        self.position = Position(arrival.epoch, arrival.number)
        self._log.append(parcel.item)
        if was_had:
            self._must_begin = True  # a number that the ends do not know of
            return
        for end in tuple(self.ends):
            end.deliver(parcel.item)

    def _pass_over(self, lost: int) -> None:
        """Go on behind a gap, and tell of it, but for what subscribers here have had."""
        had = self.echoes.had_of(lost)
        self._log.clear()
        self.position = Position(self.position.epoch, self.position.number + had)
        if had:
            self._must_begin = True
        if lost > had:
            if self._must_begin:
                self._begin()
            self.position = Position(self.position.epoch, self.position.number + lost - had)
            self._skip(lost - had)

    def _skip(self, count: int) -> None:
        for end in tuple(self.ends):
            end.skip(count)

    # Redis is away.

    def go_local(self, waiting: list[Parcel]) -> None:
        """Go on without Redis: hand over what was published here and has not come back.

        Args:
            waiting: that, in order.
        """
        self.lacks = True
        if not self.is_local:
            self.is_local = True
            self._queue = deque(one for one in self._queue if not one.epoch)
            self._local_log = self._log.copy()
            self._local = Position(uuid4().hex, len(self._log))
            self._begin()
        for parcel in self.echoes.take_overdue(waiting):
            self._queue.append(Arrival("", 0, parcel))
        self.drain()

    def publish_here(self, parcel: Parcel) -> Delivery:
        """Hand over an item at once; there must be room, and nothing that waits."""
        self.echoes.give(parcel)
        return self._deliver_here(parcel)

    def _deliver_here(self, parcel: Parcel) -> Delivery:
        """Hand over an item that Redis has not numbered."""
        if self.is_local:
            self._local = Position(self._local.epoch, self._local.number + 1)
            self._local_log.append(parcel.item)
        else:
            self._must_begin = True
        return sum((end.deliver(parcel.item) for end in tuple(self.ends)), start=Delivery())


def _without_gaps(entries: list[tuple[int, Parcel]], number: int) -> list[Any]:
    """Return the items that reach up to a number without a gap: a history has none in it."""
    found: list[Any] = []
    for at, parcel in reversed(entries):
        if at != number - len(found):
            break
        found.append(parcel.item)
    return found[::-1]
