"""Plain text for people at a terminal: what members are told, as lines.

`triows connect` shows them; what is typed there `chat.protocol.read_line` reads.
"""

import time
from collections.abc import Callable
from typing import Final

from chat.protocol import Event

INDENT: Final = "\n    "
"""Before a message's further lines, so that none looks like someone else's message."""


def _message(event: Event) -> str:
    clock = time.strftime("%H:%M", time.localtime(event["time"]))
    return f"[{clock}] {event['nick']}: {event['text'].replace(chr(10), INDENT)}"


def _presence(event: Event) -> str:
    ends = {"joined": "came", "left": "left", "renamed": f"was {event.get('was')} before"}
    return f"* {event['nick']} {ends[event['event']]}"


def _remark(event: Event) -> str:
    return "\n".join(f"* {line}" for line in event["text"].splitlines())


_WORDS: Final[dict[str, Callable[[Event], str]]] = {
    "message": _message,
    "presence": _presence,
    "welcome": lambda event: f"* you are {event['nick']}; /help lists what you can do",
    "nick": lambda event: f"* you are {event['nick']} now",
    "joined": lambda event: f"* you are in {event['room']}: {', '.join(event['members'])}",
    "members": lambda event: f"* in {event['room']}: {', '.join(event['members'])}",
    "left": lambda event: f"* you left {event['room']}",
    "notice": _remark,
    "error": _remark,
    "bye": _remark,
}


def render(event: Event) -> str | None:
    """Put an event in words; None for one that needs none here."""
    words = _WORDS.get(event["type"])
    return None if words is None else words(event)
