"""NumPy arrays as the compiled functions take them."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
from numpy.typing import NDArray


def at(array: NDArray[Any]) -> ctypes.c_void_p:
    """Where the values of a C-contiguous array lie."""
    if not array.flags.c_contiguous:
        raise TypeError("compiled code reads C-contiguous arrays only")
    return ctypes.c_void_p(array.ctypes.data)


def rows_at(x: NDArray[Any]) -> tuple[ctypes.c_void_p, int]:
    """Where rows lie, and whether they are float16."""
    if x.dtype not in (np.float32, np.float16):
        raise TypeError(f"rows must be float32 or float16, not {x.dtype}")
    return at(x), int(x.dtype == np.float16)


def i64(value: int) -> ctypes.c_int64:
    """A size."""
    return ctypes.c_int64(value)
