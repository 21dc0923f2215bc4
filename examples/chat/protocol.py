"""What members may say, and the names and texts that pass: docs/reference/chat-protocol.md.

Refuses to know rooms and connections.
"""

import json
import unicodedata
from typing import Any, Final

import attrs

SUBPROTOCOL: Final = "chat.v1"
LARGEST: Final = 16_384
"""Octets of a member's message; the text in it is bounded in characters, as people count."""

LONGEST_ID: Final = 64
UNFIT: Final = frozenset({"Cc", "Cs"})
"""Categories of characters that no text has: controls, and halves of characters."""

FIELDS: Final[dict[str, dict[str, type]]] = {
    "hello": {"nick?": str, "session?": str},
    "join": {"room": str, "log?": str, "after?": int},
    "leave": {"room": str},
    "say": {"room": str, "text": str, "id?": str},
    "typing": {"room": str},
    "nick": {"nick": str},
    "who": {"room": str},
    "command": {"text": str, "room?": str},
}
"""What a member may send, by its type: the fields that it must and (with ``?``) may have."""

HELP: Final = """\
/nick NAME    be called NAME
/join ROOM    go to a room, which is made if there is none
/leave        leave this room
/who          who is in this room
/help         this
What begins with two slashes is said, with one."""

Event = dict[str, Any]


@attrs.frozen
class Rules:
    """How long names and texts may be, in characters, and how often one may speak."""

    nick: int = 24
    room: int = 32
    text: int = 2_000
    rate: float = 10.0
    """Messages a second, in the long run; who sends more is read more slowly."""
    burst: int = 20
    """Messages that may come at once."""
    rooms: int = 20
    """That one member may be in."""
    hello: float = 10.0
    """Seconds that a program has to say who it is."""


RULES: Final = Rules()


class Refused(Exception):  # noqa: N818 - an answer, not a fault
    """A member asked for what it cannot have; *code* says for programs what *text* says."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


def encode(event: Event) -> str:
    """Write an event as JSON."""
    return json.dumps(event, ensure_ascii=False, separators=(",", ":"))


def decode(message: str | bytes) -> Event:
    """Read what a member sent, leaving out the fields that have no meaning.

    Raises:
        Refused: it is nothing that a member may send.
    """
    try:
        event = json.loads(message)
    except (ValueError, RecursionError):
        raise Refused("malformed", "that is no JSON") from None
    kind = event.get("type") if isinstance(event, dict) else None
    if not isinstance(kind, str) or kind not in FIELDS:
        raise Refused("malformed", f"an object is needed, its type one of {', '.join(FIELDS)}")
    known: Event = {"type": kind}
    for field, needed in FIELDS[kind].items():
        name = field.removesuffix("?")
        value = event.get(name)
        if value is None and name != field:
            continue
        if not isinstance(value, needed) or isinstance(value, bool):
            raise Refused("malformed", f"the {name} of {kind} is missing, or of another type")
        known[name] = value
    message_id = known.get("id", "")
    if len(message_id) > LONGEST_ID or not message_id.isascii():
        raise Refused("malformed", f"an id is ASCII, of at most {LONGEST_ID} characters")
    return known


def read_line(line: str, room: str | None) -> Event:
    """Make of what a person typed in *room* what a program would have sent, or a notice.

    Raises:
        Refused: there is no such command, or it needs something more.
    """
    if not line.startswith("/") or line.startswith("//"):
        return {"type": "say", "room": room, "text": line.removeprefix("/")}
    command, _, rest = line[1:].partition(" ")
    match command, rest.strip():
        case "help" | "?", _:
            return {"type": "notice", "text": HELP}
        case (("nick" | "join"), ""):
            raise Refused("malformed", f"/{command} needs a name")
        case "nick", name:
            return {"type": "nick", "nick": name}
        case "join", name:
            return {"type": "join", "room": name.removeprefix("#")}
        case (("who" | "leave"), name):
            return {"type": command, "room": name.removeprefix("#") or room}
    raise Refused("malformed", f"there is no /{command}; /help lists what there is")


def clean_name(name: str, longest: int) -> str:
    """Return a name or a room's name as it is shown.

    Raises:
        Refused: it is empty, too long, or has characters that cannot be seen.
    """
    shown = " ".join(unicodedata.normalize("NFKC", name).split())
    if not 0 < len(shown) <= longest:
        raise Refused("name", f"a name has 1 to {longest} characters")
    if any(unicodedata.category(one)[0] == "C" for one in shown):
        raise Refused("name", "a name is of characters that can be seen")
    return shown


def clean_text(text: str) -> str:
    """Return a text without control characters and blank ends.

    Raises:
        Refused: nothing remains, or too much.
    """
    shown = text
    if not text.isprintable():  # most are, and need not be looked through one by one
        shown = "".join(
            one for one in text if one in "\n\t" or unicodedata.category(one) not in UNFIT
        )
    shown = shown.strip()
    if not shown:
        raise Refused("text", "there is nothing to say in that")
    if len(shown) > RULES.text:
        raise Refused("text", f"a message has at most {RULES.text} characters, not {len(shown)}")
    return shown
