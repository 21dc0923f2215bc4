"""Thousands of cancelled calls, and bugs that are planted to be found by them.

The seeds of a run are drawn anew each time and printed; set TRIOWS_SEED to repeat it.
"""

import os
import random
from collections.abc import Callable
from typing import Any

import pytest
import trio

from tests.properties.cancelled_calls import ROLES, WHEN, Case, run_cases
from triows import WebSocket
from triows._channel import Inbox, Outbox, OutgoingMessage, Pings
from triows._channel._outbox import _Floor, encode
from triows._kernels._registry import JIT

PLANTED = range(40)
"""Seeds within which a planted bug has to be found."""


@pytest.mark.skipif(not JIT, reason="interpreted, thousands of cases take minutes")
@pytest.mark.parametrize(
    ("seeds", "fewest"),
    [(16, 2_000), pytest.param(80, 10_000, marks=pytest.mark.slow)],  # half a minute
)
def test_thousands_of_cancelled_calls(
    warm: None, capsys: pytest.CaptureFixture[str], seeds: int, fewest: int
):
    """Of more than 10,000 cases, both roles, every step of every call, none breaks a promise."""
    start = int(os.environ.get("TRIOWS_SEED", random.randrange(2**32)))
    with capsys.disabled():
        print(f"\ncancelled calls: TRIOWS_SEED={start}", end=" ")  # noqa: T201 - to be repeated
    count = run_cases(range(start, start + seeds))
    with capsys.disabled():
        print(f"{count} cases", end=" ")  # noqa: T201 - as above
    assert count >= fewest


def test_a_case_is_what_its_seed_makes_it(warm: None):
    """The same seed has the same cases: what was found can be repeated."""
    assert run_cases([6455]) == run_cases([6455])
    assert Case(1, ROLES[0], "send", 0, WHEN[0]) == Case(1, ROLES[0], "send", 0, WHEN[0])


# Planted bugs: each is a mistake that was made elsewhere, or nearly made here.


async def send_first_and_wait_then(ws: Any, message: Any) -> None:
    """A send that can be cancelled once its message is queued: sent, and counted as not sent."""
    await trio.lowlevel.checkpoint_if_cancelled()
    if ws._outbox.must_wait:
        await ws._outbox.wait()
    ws._outbox.queue(*encode(message))
    await trio.lowlevel.checkpoint()


async def send_half_and_wait(ws: Any, message: Any) -> None:
    """A send that awaits the transport itself, and leaves half a frame behind when cancelled."""
    _, payload = encode(message)
    ws._ending.check_sendable()
    frame = ws._driver._engine._frame(0x82, payload)
    await ws._driver._stream.send_all(frame)


async def send_without_a_turn(ws: Any, message: Any) -> None:
    """A send that takes no notice of a message that is being sent in parts."""
    await trio.lowlevel.checkpoint_if_cancelled()
    ws._outbox.queue(*encode(message))
    await trio.lowlevel.cancel_shielded_checkpoint()


async def receive_and_yield(ws: Any) -> Any:
    """A receive that can be cancelled once it has taken its message: that one is lost."""
    ws._inbox.reserve()
    try:
        await ws._inbox.wait()
        message = ws._take()
        await trio.lowlevel.checkpoint()
        return message
    finally:
        ws._inbox.release()


async def receive_and_stay_busy(ws: Any) -> Any:
    """A receive that no one may repeat after it was cancelled."""
    ws._inbox.reserve()
    await ws._inbox.wait()
    message = ws._take()
    ws._inbox.release()
    return message


async def receive_a_batch_one_by_one(ws: Any, most: int) -> list[Any]:
    """A batch that loses what it has when it is cancelled while it waits for more."""
    return [await ws.receive() for _ in range(most)]


def keep_the_slot(inbox: Any, _: object) -> trio.lowlevel.Abort:
    """A slot that is not cleared on abort: the task is woken from whatever it does next."""
    assert inbox.sleeper is not None
    return trio.lowlevel.Abort.SUCCEEDED


def forget_to_end_parts(inbox: Any, _: object) -> trio.lowlevel.Abort:
    """A wait for parts that leaves the next message to come in parts, to no one."""
    inbox.sleeper = None
    return trio.lowlevel.Abort.SUCCEEDED


async def wait_and_keep_the_floor(outbox: Any) -> None:
    """A wait for room that keeps its place in line when it is cancelled."""
    await outbox._get_line().floor.take()
    await outbox.wait_for_room()
    outbox._get_line().floor.leave()


async def take_the_floor_and_be_cancelled(floor: Any) -> None:
    """A lock that is taken by whoever was cancelled while it took it."""
    if floor.is_held and not floor._is_useless:
        await floor._lot.park()
    else:
        floor.is_held = True
        await trio.lowlevel.checkpoint()


def skip_nothing(_: object, *, is_all_taken: bool) -> None:
    """A message left half received, whose rest is taken for the next."""


async def aclose_and_leave_it(ws: Any, code: int = 1000, reason: str = "") -> None:
    """A close that, cancelled, leaves the transport to a peer that may never answer."""
    if not ws._ending.is_closed_here:
        ws._driver.close(code, reason)
        ws._ending.is_closed_here = True
        ws._inbox.clear()
        ws._wake_everyone()
    await ws._ended.wait()


async def send_close_and_be_cancelled(ws: Any, code: int = 1000, reason: str = "") -> None:
    """A Close that was sent by a call that says that it was not."""
    ws._ending.check_sendable()
    ws._end_sending(code, reason)
    await trio.lowlevel.checkpoint()


async def send_a_part_and_be_cancelled(message: Any, part: Any) -> None:
    """A part that went out, and about which no one was told."""
    _, octets = encode(part)
    await trio.lowlevel.checkpoint_if_cancelled()
    if message._outbox.is_full:
        await message._outbox.wait_for_room()
    message._outbox.queue_part(message._opcode, octets, is_last=False, compress=True)
    await trio.lowlevel.checkpoint()
    message.has_begun = True


MUTANTS: dict[str, tuple[type, str, Callable[..., Any], str]] = {
    "a send that was cancelled was sent": (WebSocket, "send", send_first_and_wait_then, "send"),
    "a send tears its frame": (WebSocket, "send", send_half_and_wait, "send"),
    "a send gets between parts": (WebSocket, "send", send_without_a_turn, "send_in_parts"),
    "a receive loses its message": (WebSocket, "receive", receive_and_yield, "receive"),
    "a receive stays busy": (WebSocket, "receive", receive_and_stay_busy, "receive"),
    "a batch loses its messages": (
        WebSocket,
        "receive_batch",
        receive_a_batch_one_by_one,
        "receive_batch",
    ),
    "a slot is not cleared on abort": (Inbox, "_forget_sleeper", keep_the_slot, "receive"),
    "parts come to no one": (Inbox, "_forget_parts", forget_to_end_parts, "receive_parts"),
    "the rest of a message is taken for another": (
        Inbox,
        "skip_message",
        skip_nothing,
        "receive_parts",
    ),
    "a place in line is kept": (Outbox, "wait", wait_and_keep_the_floor, "send"),
    "a lock is taken by no one": (_Floor, "take", take_the_floor_and_be_cancelled, "send"),
    "a part is sent by no one": (
        OutgoingMessage,
        "send",
        send_a_part_and_be_cancelled,
        "send_in_parts",
    ),
    "a ping is waited for by no one": (Pings, "forget", lambda *_: None, "ping"),
    "a close is sent by no one": (
        WebSocket,
        "send_close",
        send_close_and_be_cancelled,
        "send_close",
    ),
    "a cancelled close leaves the transport": (WebSocket, "aclose", aclose_and_leave_it, "aclose"),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_planted_bug_is_found(warm: None, monkeypatch: pytest.MonkeyPatch, mutant: str):
    """Each bug breaks a promise within some seeds, and none of them is found without it."""
    owner, name, replacement, call = MUTANTS[mutant]
    monkeypatch.setattr(owner, name, replacement)
    with pytest.raises(Exception) as caught:  # noqa: PT011 - which, is looked at below
        run_cases(PLANTED, [call])
    found = set(map(type, leaves(caught.value)))
    assert found <= FINDINGS, "the bug was planted wrongly"


FINDINGS = {
    AssertionError,  # a promise was broken
    trio.TooSlowError,  # something waited for ever
    trio.BusyResourceError,  # something was left occupied
    RuntimeError,  # a task was taken to hold what it had given up
    trio.TrioInternalError,  # a task was woken twice
    ValueError,  # a part came to someone who asked for no parts
}


def leaves(error: BaseException) -> list[BaseException]:
    """The exceptions in a group, or the one that is none."""
    if isinstance(error, BaseExceptionGroup):
        return [leaf for one in error.exceptions for leaf in leaves(one)]
    return [error]
