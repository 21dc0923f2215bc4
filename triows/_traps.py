"""Giving way to Trio's scheduler where each message does, for a third less.

A task gives way by yielding a message, which says what it waits for, through the
coroutines that await one another down to Trio's loop; an outcome comes back when it runs
again. Trio's own functions make for each wait a coroutine, a generator, a message and an
outcome. The messages are always the same, though: so they are asked for once, of Trio's
own functions, and yielded again and again by what is here.

To Trio this is no different from a call of `trio.lowlevel.cancel_shielded_checkpoint` or
`trio.lowlevel.wait_task_rescheduled`: what they say of cancellation holds.
"""

import types
from collections.abc import Callable, Coroutine, Generator
from typing import Any, TypeAlias

import trio

Forget: TypeAlias = Callable[[Any], trio.lowlevel.Abort]
"""What `trio.lowlevel.wait_task_rescheduled` takes."""


def parking(forget: Forget) -> Any:
    """Return what a task yields that waits until it is woken, for as many waits as you like.

    Args:
        forget: called when the wait is cancelled: nobody is to be woken any more.
    """
    return _message_of(trio.lowlevel.wait_task_rescheduled(forget))  # noqa: ASYNC105


@types.coroutine
def park(message: Any) -> Generator[Any, Any, None]:
    """Wait until `wake` is called for this task; what `parking` has returned says how.

    Raises ``Cancelled`` when *forget* was called and said that this has succeeded.
    """
    outcome = yield message
    if outcome is not NOTHING:
        outcome.unwrap()


@types.coroutine
def give_way() -> Generator[Any, Any, None]:
    """Let others run: `trio.lowlevel.cancel_shielded_checkpoint`."""
    yield _GIVE_WAY


@types.coroutine
def checkpoint() -> Generator[Any, Any, None]:
    """Let others run, and be cancelled if that is due: `trio.lowlevel.checkpoint`."""
    yield _GIVE_WAY
    yield from trio.lowlevel.checkpoint_if_cancelled()  # noqa: ASYNC105


def wake(task: trio.lowlevel.Task) -> None:
    """Let a task go on that waits in `park`."""
    trio.lowlevel.reschedule(task, NOTHING)


class _Nothing:
    """What a wake-up hands over, in place of an `outcome.Value` made for each."""

    def unwrap(self) -> None:
        """Return nothing."""


NOTHING: Any = _Nothing()


def _message_of(trap: Coroutine[Any, Any, Any]) -> Any:
    """Return what a function of Trio's yields first."""
    message = trap.send(None)
    trap.close()
    return message


_GIVE_WAY: Any = _message_of(trio.lowlevel.cancel_shielded_checkpoint())  # noqa: ASYNC105
