"""The forms in which members are spoken to: JSON for programs, lines for people at a terminal."""

from collections.abc import Callable
from typing import Final

import attrs

import triows
from chat.lines import render
from chat.protocol import Event, encode


@attrs.frozen(eq=False)
class Form:
    """How events are written, and what becomes of a member that does not read them in time."""

    write: Callable[[Event], str | None]
    policy: triows.Policy
    tell_of_gap: Callable[[int], str] | None = None


PROGRAM: Final = Form(encode, triows.Policy.DISCONNECT)
"""Programs are let go: they come back, and are then given what they have missed."""

PERSON: Final = Form(
    render,
    triows.Policy.DROP_OLDEST,
    lambda count: f"* {count} lines were left out: you read too slowly",
)
"""People would not; they are told how much they have missed."""

FORMS: Final = (PROGRAM, PERSON)
