"""Which libraries the kernel's sources become, one per instruction set.

Compiled by the build of the package (``hatch_build.py``), and by hand after a change of the sources:
``python services/clusterer/native/build.py``.
"""

from __future__ import annotations

from pathlib import Path

from shoal.native.build import BuildFailed, Kernel

__all__ = ["EMULATED_AMX", "KERNEL", "LIBRARIES", "SOURCES", "BuildFailed", "compile_kernel"]

SOURCES = Path(__file__).resolve().parent / "src"
WIDE = ("-march=x86-64-v4", "-mprefer-vector-width=512", "-mavx512vnni")
KERNEL = Kernel(
    SOURCES / "kernel.cpp",
    {
        "amx": (*WIDE, "-mamx-tile", "-mamx-int8", "-DSHOAL_AMX"),
        "avx512": WIDE,
        "avxvnni": ("-march=x86-64-v3", "-mavxvnni"),
        "avx2": ("-march=x86-64-v3",),
    },
)
LIBRARIES = KERNEL.libraries
"""The file of each library."""
EMULATED_AMX = (*WIDE, "-DSHOAL_AMX", "-DSHOAL_AMX_EMULATED")
"""The AMX library with its tile instructions emulated, to test it on processors without them."""
compile_kernel = KERNEL.compile


if __name__ == "__main__":
    KERNEL.build()
