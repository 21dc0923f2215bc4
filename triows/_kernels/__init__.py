"""Functions on arrays and integers, compiled by numba: what the rest stands on.

They know no object, raise nothing and allocate nothing. `_registry` says when
they are compiled, `_cache` where the result is kept.
"""

from triows._kernels._cache import CacheWarning, cache_directory, clear_cache
from triows._kernels._headers import read_header, write_header
from triows._kernels._masking import mask
from triows._kernels._registry import WarmUp, ensure_warm, registered, warm_up
from triows._kernels._utf8 import validate_utf8

__all__ = [
    "CacheWarning",
    "WarmUp",
    "cache_directory",
    "clear_cache",
    "ensure_warm",
    "mask",
    "read_header",
    "registered",
    "validate_utf8",
    "warm_up",
    "write_header",
]
