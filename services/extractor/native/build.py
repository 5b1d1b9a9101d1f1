"""Which library the sources of the resizing become.

Compiled by the build of the package (``hatch_build.py``), and by hand after a change of the sources:
``python services/extractor/native/build.py``.
"""

from __future__ import annotations

from pathlib import Path

from shoal.native.build import Kernel

# Contracted operations would round weights differently from Pillow.
KERNEL = Kernel(Path(__file__).resolve().parent / "src" / "resize.cpp", {"resize": ("-ffp-contract=off",)})
LIBRARY = KERNEL.libraries["resize"]


if __name__ == "__main__":
    KERNEL.build()
