"""A chat over triows: rooms, names, presence, history, and a page to use it with.

`directory` knows who is where, `machines` has it go round over Redis, `member` serves one
connection, `protocol` knows what may be said, `lines` speaks it with people at a terminal, `web`
hands out the page, `options` reads the command line.
"""

from chat.directory import Directory
from chat.member import serve_member
from chat.opening import open_chat
from chat.options import read_options, reason_of
from chat.protocol import LARGEST, SUBPROTOCOL
from chat.records import log_as_json
from chat.web import Front

__all__ = [
    "LARGEST",
    "SUBPROTOCOL",
    "Directory",
    "Front",
    "log_as_json",
    "open_chat",
    "read_options",
    "reason_of",
    "serve_member",
]
