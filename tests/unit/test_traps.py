"""What gives way to Trio with messages made once does what Trio's own functions do."""

import trio
from trio.testing import assert_checkpoints, wait_all_tasks_blocked

from triows._traps import NOTHING, checkpoint, give_way, park, parking, wake


class Sleeper:
    """A task that parks, once or more often, with one message."""

    def __init__(self) -> None:
        self.task: trio.lowlevel.Task | None = None
        self.forgotten = 0
        self.wakings = 0
        self.parking = parking(self.forget)

    def forget(self, _: object) -> trio.lowlevel.Abort:
        """Note that the wait was cancelled."""
        self.forgotten += 1
        self.task = None
        return trio.lowlevel.Abort.SUCCEEDED

    async def sleep(self, times: int = 1) -> None:
        """Park so many times."""
        for _ in range(times):
            self.task = trio.lowlevel.current_task()
            await park(self.parking)
            self.wakings += 1

    def rouse(self) -> None:
        """Wake whoever sleeps."""
        assert self.task is not None
        wake(self.task)


async def test_a_message_serves_for_many_waits():
    """What is yielded is not used up."""
    sleeper = Sleeper()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sleeper.sleep, 3)
        for count in range(3):
            await wait_all_tasks_blocked()
            assert sleeper.wakings == count
            sleeper.rouse()
    assert (sleeper.wakings, sleeper.forgotten) == (3, 0)


async def test_who_parks_can_be_cancelled_and_park_again():
    """A wait that was cancelled is told to who would have ended it, and raised."""
    sleeper = Sleeper()
    for _ in range(2):
        with trio.CancelScope() as scope:
            scope.cancel()
            await sleeper.sleep()
        assert scope.cancelled_caught
    assert (sleeper.wakings, sleeper.forgotten) == (0, 2)


async def test_who_was_woken_is_cancelled_at_the_next_checkpoint():
    """A wake-up that came before the cancellation is not undone."""
    sleeper = Sleeper()
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sleeper.sleep, 2)
            await wait_all_tasks_blocked()
            sleeper.rouse()
            scope.cancel()
    assert (sleeper.wakings, sleeper.forgotten) == (1, 1)


async def test_others_run_meanwhile():
    """Whoever is ready has its turn."""
    seen = []

    async def note(name: str) -> None:
        seen.append(name)

    for wait in (give_way, checkpoint):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(note, wait.__name__)
            await wait()
            await wait()
            assert seen[-1] == wait.__name__


async def test_a_checkpoint_is_one_to_trio():
    """It counts for both kinds of points, and raises what is due."""
    with assert_checkpoints():
        await checkpoint()
    with trio.CancelScope() as scope:
        scope.cancel()
        await checkpoint()
    assert scope.cancelled_caught


async def test_giving_way_is_not_cancelled():
    """It is a point to the scheduler alone."""
    with trio.CancelScope() as scope:
        scope.cancel()
        await give_way()
    assert not scope.cancelled_caught


def test_nothing_is_an_outcome_to_those_who_unwrap_it():
    """A wake-up may reach code that was written for any outcome."""
    assert NOTHING.unwrap() is None
