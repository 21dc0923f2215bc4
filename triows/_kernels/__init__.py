"""stub"""

from triows._kernels._faults import FAULTS
from triows._kernels._headers import FIELD_COUNT, read_header, write_header
from triows._kernels._masking import mask
from triows._kernels._registry import ensure_warm, warm_up, WarmUp, clear_cache, cache_directory
from triows._kernels._utf8 import validate_utf8
from triows._kernels._scan import *
