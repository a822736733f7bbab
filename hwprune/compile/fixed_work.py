"""A fixed piece of work beside every sample: how fast is the core just then?"""

from __future__ import annotations

import time
from functools import cache

import numpy as np

from hwprune.compile.vm_runtime import aligned_empty

#: This many products of two matrices of this size. They fit the first-level cache, so that nothing
#: but the speed of the core decides how long it takes.
_PRODUCTS = 80
_SIZE = 64


@cache
def _matrices() -> np.ndarray:
    """Always the same memory, aligned: where matrices lie changes their time more than the core does."""
    matrices = aligned_empty((3, _SIZE, _SIZE))
    matrices[...] = 0.01
    return matrices


def fixed_work() -> float:
    """Seconds that the fixed work takes now, about a tenth of a millisecond.

    The same core does it at other speeds from one moment to the next, as clocks, heat and load
    allow. A kernel's time over the time beside it does not change with them.
    """
    one, other, product = _matrices()
    begin = time.perf_counter_ns()
    for _ in range(_PRODUCTS):
        np.dot(one, other, out=product)
    return (time.perf_counter_ns() - begin) * 1e-9
