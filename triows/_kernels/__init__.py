"""Functions on arrays and integers, compiled by numba: what the rest stands on.

They know no object, raise nothing and allocate nothing. `_registry` says when
they are compiled, `_cache` where the result is kept.
"""

import sys

from triows._kernels import _slots as slots  # noqa: F401 - offered to the rest under this name
from triows._kernels import _topics as topics  # noqa: F401 - likewise
from triows._kernels._cache import CacheWarning as CacheWarning
from triows._kernels._cache import cache_directory as cache_directory
from triows._kernels._cache import clear_cache as clear_cache
from triows._kernels._faults import ENDINGS as ENDINGS
from triows._kernels._faults import FAULTS as FAULTS
from triows._kernels._faults import GOING_AWAY as GOING_AWAY
from triows._kernels._faults import HANDLER_CLOSED as HANDLER_CLOSED
from triows._kernels._faults import HANDLER_FAILED as HANDLER_FAILED
from triows._kernels._faults import INVALID_DEFLATE as INVALID_DEFLATE
from triows._kernels._faults import INVALID_UTF8 as INVALID_UTF8
from triows._kernels._faults import MESSAGE_TOO_BIG as MESSAGE_TOO_BIG
from triows._kernels._faults import SLOW_PEER as SLOW_PEER
from triows._kernels._handler import CLOSE as CLOSE
from triows._kernels._handler import DISCARD as DISCARD
from triows._kernels._handler import ECHO as ECHO
from triows._kernels._handler import ask_handler as ask_handler
from triows._kernels._handler import resolve_handler as resolve_handler
from triows._kernels._headers import FIELDS as FIELDS
from triows._kernels._headers import read_header as read_header
from triows._kernels._headers import write_header as write_header
from triows._kernels._masking import mask as mask
from triows._kernels._registry import WarmUp as WarmUp
from triows._kernels._registry import ensure_warm as ensure_warm
from triows._kernels._registry import is_warm as is_warm
from triows._kernels._registry import registered as registered
from triows._kernels._registry import warm_up as warm_up
from triows._kernels._rows import MESSAGE_HEADROOM as MESSAGE_HEADROOM
from triows._kernels._scan import ALLOWED_RSV as ALLOWED_RSV
from triows._kernels._scan import COLUMNS as COLUMNS
from triows._kernels._scan import COMPRESSED as COMPRESSED
from triows._kernels._scan import EXPECT_MASK as EXPECT_MASK
from triows._kernels._scan import MAX_FRAGMENTS as MAX_FRAGMENTS
from triows._kernels._scan import MAX_MESSAGE as MAX_MESSAGE
from triows._kernels._scan import MESSAGE_END as MESSAGE_END
from triows._kernels._scan import MESSAGE_OPCODE as MESSAGE_OPCODE
from triows._kernels._scan import MESSAGE_RSV as MESSAGE_RSV
from triows._kernels._scan import PIECE_COLUMNS as PIECE_COLUMNS
from triows._kernels._scan import RSV1 as RSV1
from triows._kernels._scan import STATE_SIZE as STATE_SIZE
from triows._kernels._scan import WHOLE as WHOLE
from triows._kernels._scan import scan as scan
from triows._kernels._utf8 import validate_utf8 as validate_utf8

if (
    sys.platform == "linux"
):  # pragma: no branch - elsewhere there is no epoll, and nothing of it to compile
    from triows._kernels import _system as system  # noqa: F401 - as above
    from triows._kernels import _turn as turn  # noqa: F401 - as above
