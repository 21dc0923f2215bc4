"""Topics and their members, as rows of integers: tables of Python's that `_fanout` works on."""

from typing import Final

# The columns of a topic: int64.
MEMBERS: Final = 0  # the address of int64 (n, MEMBER_FIELDS)
MEMBER_COUNT: Final = 1
SLOW_COUNT: Final = 2  # members that were found slow, and that Python has not looked after
IS_HEARD: Final = 3  # whether Python has use for what compiled handlers publish
UNSENT: Final = 4  # the block of what they have published in this turn
UNSENT_SIZE: Final = 5
UNSENT_ROOM: Final = 6
UNSENT_DONE: Final = 7  # octets of it that the members have had
NEXT_UNSENT: Final = 8  # as UNSENT_TOPIC, which it follows; 0 if it is not in that list
PUBLISHED: Final = 9  # messages that compiled handlers have published, ever
OFFERED: Final = 10  # these, counted for each member that there was
TOPIC_FIELDS: Final = 12

# The columns of a member: int64.
MEMBER_SLOT: Final = 0
MEMBER_AT: Final = 1  # octets of the batch that it has had
MEMBER_SLOW: Final = 2  # whether it was found slow: BY_BATCH or BY_UNSENT
MEMBER_FIELDS: Final = 3

BY_BATCH: Final = 1  # what it has had is of the batch that Python has published
BY_UNSENT: Final = 2  # of what compiled handlers have

ENOUGH_UNSENT: Final = 65_536
"""Octets published in a turn with which they are sent before its end."""
