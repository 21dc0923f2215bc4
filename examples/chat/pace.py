"""How fast one may speak: a bucket of tokens, filled at a rate."""

import trio


class Pace:
    """Lets *burst* things happen at once, and *rate* a second in the long run.

    Who is too fast is waited for. Meanwhile nothing is read from its connection, so that TCP
    holds up whoever sends: nothing is lost, and nothing piles up here.
    """

    def __init__(self, rate: float, burst: int) -> None:
        self._interval = 1 / rate
        self._lead = (burst - 1) * self._interval
        self._due = trio.current_time() - self._lead
        self._was_late = False

    async def keep(self) -> bool:
        """Wait until the next thing may happen; returns whether this is a first wait."""
        now = trio.current_time()
        start = max(self._due, now - self._lead)
        self._due = start + self._interval
        is_late = start > now
        is_first, self._was_late = is_late and not self._was_late, is_late
        if is_late:
            await trio.sleep_until(start)
        return is_first
