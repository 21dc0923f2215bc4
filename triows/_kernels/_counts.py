"""Counts of what went wrong outside."""

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from triows._kernels._registry import kernel
from triows._kernels._slots import ERRNO_COUNT, ERRNOS

Integers: TypeAlias = npt.NDArray[np.int64]


@kernel("int64(int64[::1], int64)", inner=True)
def count_error(loop: Integers, code: int) -> int:
    """Count a system call that failed with the negative errno *code*; returns 0."""
    loop[ERRNOS + (-code if -code < ERRNO_COUNT else 0)] += 1
    return 0
