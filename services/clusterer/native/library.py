"""The compiled libraries: which one this processor runs, how it is loaded, and what its functions take."""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clusterer.native.build import LIBRARIES

NEEDS = {
    "amx": {"amx_tile", "amx_int8", "avx512_vnni"},
    "avx512": {"avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_vnni"},
    "avxvnni": {"avx2", "fma", "f16c", "avx_vnni"},
    "avx2": {"avx2", "fma", "f16c"},
}
"""The processor flags that each library needs, as Linux names them."""
FALLIBLE = (
    "shoal_moments_add",
    *(
        f"shoal_fast_{name}"
        for name in ("sketch", "pack", "rotate", "project", "assign", "two_nearest", "distances", "accumulate")
    ),
)
"""Functions that return an ``Outcome`` of ``src/kernel.cpp``."""
WITH_OUTCOMES = 2
"""First version of the interface whose functions return one."""
COSINES, WITH_COSINES = "shoal_fast_cosines", 3
"""The function of a search, and the first version that has it."""
JOIN, WITH_JOIN = tuple(f"shoal_join_{name}" for name in ("blocks", "floors", "compare", "lengths", "units", "add")), 4
"""The functions that compare rows with rows, and the first version that has them."""
MAP, WITH_MAP = ("shoal_map_forces", "shoal_map_nearest"), 5
"""The functions of the map, and the first version that has them."""
DONE, NO_MEMORY = 0, 1


class KernelUnavailable(Exception):
    """No compiled kernel can run on this machine; the message gives the reason."""


def available() -> list[str]:
    """Names of the compiled libraries that this processor can run, best first."""
    flags = _processor_flags()
    return [variant for variant, path in LIBRARIES.items() if flags >= NEEDS[variant] and path.exists()]


def load_library(variant: str | None = None) -> tuple[str, ctypes.CDLL]:
    """The best library for this processor, or the one named, with its name.

    Raises
    ------
    KernelUnavailable
        No library can be loaded.
    """
    refusal = KernelUnavailable(_why_not(variant))
    for name in available():
        if variant in (None, name):
            try:
                return name, open_library(LIBRARIES[name])
            except OSError as error:
                refusal = KernelUnavailable(f"the {name} kernel does not load: {error}")
            except KernelUnavailable as error:
                refusal = error
    raise refusal


def open_library(path: Path) -> ctypes.CDLL:
    """Load a library and request the processor features that it needs.

    Raises
    ------
    KernelUnavailable
        The system refuses them.
    OSError
        The file is not a library of this system.
    """
    library = ctypes.CDLL(str(path))
    version = library.shoal_open()
    if not version:
        raise KernelUnavailable("the system refused the processor's AMX tiles")
    # A checkout may still have libraries of older sources, whose functions return nothing.
    for name in FALLIBLE if version >= WITH_OUTCOMES else ():
        getattr(library, name).errcheck = raise_failure
    for names, first in (((COSINES,), WITH_COSINES), (JOIN, WITH_JOIN), (MAP, WITH_MAP)):
        for name in names if version >= first else ():
            getattr(library, name).errcheck = raise_failure
    return library


def raise_failure(outcome: int, function: Any, _arguments: Any) -> None:
    """Raise the error that a function of the library returned.

    Raises
    ------
    MemoryError
        The function could not allocate memory.
    RuntimeError
        The function failed otherwise.
    """
    if outcome == NO_MEMORY:
        raise MemoryError(f"{function.__name__} of the compiled kernel could not allocate memory")
    if outcome != DONE:
        raise RuntimeError(f"{function.__name__} of the compiled kernel failed")


def narrower_than_blas(variant: str) -> bool:
    """Whether faiss's float32 products are wider than those of a kernel: AVX-512 without VNNI against AVX2."""
    return variant == "avx2" and "avx512f" in _processor_flags()


def at(array: NDArray[Any]) -> ctypes.c_void_p:
    """The address of a C-contiguous array."""
    if not array.flags.c_contiguous:
        raise TypeError("compiled functions take C-contiguous arrays only")
    return ctypes.c_void_p(array.ctypes.data)


def rows_at(x: NDArray[Any]) -> tuple[ctypes.c_void_p, int]:
    """The address of rows, and whether they are float16."""
    if x.dtype not in (np.float32, np.float16):
        raise TypeError(f"rows must be float32 or float16, not {x.dtype}")
    return at(x), int(x.dtype == np.float16)


def i64(value: int) -> ctypes.c_int64:
    """A size as the compiled functions take it."""
    return ctypes.c_int64(value)


def _why_not(variant: str | None) -> str:
    if not any(path.exists() for path in LIBRARIES.values()):
        return "it was not compiled when the package was installed (that needs a C++ compiler on x86-64 Linux)"
    if variant is not None and variant not in LIBRARIES:
        return f"unknown kernel {variant!r}; the kernels are {', '.join(LIBRARIES)}"
    return "this processor lacks the instructions that it needs (AVX2 at least)"


@cache
def _processor_flags() -> frozenset[str]:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return frozenset()
    line = next((line for line in text.splitlines() if line.startswith("flags")), "")
    return frozenset(line.partition(":")[2].split())
