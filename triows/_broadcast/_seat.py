"""An attached connection's place in a channel: what waits for it, under its policy.

Whoever drives the connection owns it: Trio's thread, or that of a reactor's loop.
"""

from collections.abc import Callable, Sequence
from typing import TypeAlias

from triows._broadcast._backlog import CUT_OFF, KINDS, Entry
from triows._broadcast._policies import Capacity, Lagged, Policy
from triows._engine import PreparedMessage

Tell: TypeAlias = Callable[[int], str | bytes]
Call: TypeAlias = Callable[[], None]

ANY_NUMBER = 2**31


class Place:
    """What waits for a connection: a `triows._reactor.Seat`.

    Args:
        policy: its policy.
        capacity: its bound.
        lagged: makes the message that tells the peer of a gap, if there is to be one.
        on_room: called when something was taken, under ``Policy.BLOCK``.
        on_end: called when the connection is no member any more.
    """

    def __init__(
        self, policy: Policy, capacity: Capacity, lagged: Tell | None, on_room: Call, on_end: Call
    ) -> None:
        self.backlog = KINDS[policy.name](capacity, policy)
        self._is_blocking = policy.name == Policy.BLOCK.name
        self._lagged = lagged
        self.on_room = on_room
        self.on_end = on_end
        self.dropped = 0
        # What is replaced in a batch is no loss.
        is_latest = policy.name == Policy.LATEST.name
        self.most_items = ANY_NUMBER if is_latest else capacity.items
        self.most_octets = capacity.octets

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits."""
        return self.backlog.is_empty

    def end_that_fits(self, history: Sequence[Entry]) -> list[PreparedMessage]:
        """Return the end of a history that there is room for at first."""
        return [one.prepared for one in self.backlog.end_that_fits(history)]

    def keep_end_that_fits(self, history: Sequence[Entry]) -> None:
        """Let the end of a history wait for which there is room."""
        for entry in self.backlog.end_that_fits(history):
            self.backlog.offer(entry)

    def has_room(self, size: int) -> bool:
        """Say whether publishers need not wait for it with *size* octets."""
        return not self._is_blocking or self.backlog.fits(size)

    def offer(self, entry: Entry) -> int:
        """Let an entry wait; returns how many were lost by that, or CUT_OFF."""
        try:
            lost = self.backlog.offer(entry)
        except Exception:  # noqa: BLE001 - the key's: it costs the connection that it is for
            lost = CUT_OFF
        self.dropped += max(0, lost)
        return lost

    def skip(self, count: int) -> None:
        """Be told that *count* items were lost before they came to the channel."""
        self.backlog.skip(count)

    def take(self, octets: int) -> list[PreparedMessage]:
        """Take what waits, some *octets* of it and one message at least, if there is one."""
        messages: list[PreparedMessage] = []
        taken = 0
        while taken < octets and not self.backlog.is_empty:
            try:
                message = self.backlog.take().prepared
            except Lagged as gap:
                messages += self._tell(gap.count)
            else:
                messages.append(message)
                taken += len(message)
        if self._is_blocking:
            self.on_room()
        return messages

    def _tell(self, count: int) -> list[PreparedMessage]:
        if self._lagged is None:
            return []
        try:
            return [PreparedMessage(self._lagged(count))]
        except Exception:  # noqa: BLE001 - it must not hurt others; it is not asked again
            self._lagged = None
            return []

    def end(self) -> None:
        """Take note that the connection is no member any more."""
        self.backlog.clear()
        self.on_end()
