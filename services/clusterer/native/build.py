"""Compiles the kernel once per instruction set, next to the sources. Needs only a C++17 compiler.

Run by the build of the package (``hatch_build.py``), and by hand after a change of the sources:
``python services/clusterer/native/build.py``. Imports nothing of the project, so that the build can load it.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from pathlib import Path

HERE = Path(__file__).resolve().parent
SOURCES = HERE / "src"
COMMON = ("-std=c++17", "-O3", "-fPIC", "-shared", "-pthread", "-fno-semantic-interposition", "-w")
WIDE = ("-march=x86-64-v4", "-mprefer-vector-width=512", "-mavx512vnni")
VARIANTS: dict[str, tuple[str, ...]] = {
    "amx": (*WIDE, "-mamx-tile", "-mamx-int8", "-DSHOAL_AMX"),
    "avx512": WIDE,
    "avxvnni": ("-march=x86-64-v3", "-mavxvnni"),
    "avx2": ("-march=x86-64-v3",),
}
"""Compiler options of each library, best first."""
LIBRARIES = {variant: HERE / f"_kernel_{variant}.so" for variant in VARIANTS}
"""The file of each library."""
EMULATED_AMX = (*WIDE, "-DSHOAL_AMX", "-DSHOAL_AMX_EMULATED")
"""The AMX library with its tile instructions emulated, to test it on processors without them."""


class BuildFailed(Exception):
    """The kernel could not be compiled; the message gives the reason."""


def compile_kernel(options: tuple[str, ...], output: Path) -> None:
    """Compile the sources with ``options`` into the shared library ``output``.

    Raises
    ------
    BuildFailed
        No compiler was found, or it failed.
    """
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        raise BuildFailed("no C++ compiler was found (g++, clang++ or $CXX)")
    fresh = output.with_suffix(f".{os.getpid()}.tmp")
    command = [*compiler.split(), *COMMON, *options, str(SOURCES / "kernel.cpp"), "-o", str(fresh)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise BuildFailed(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
        fresh.replace(output)
    except OSError as error:
        raise BuildFailed(f"{compiler} could not be run: {error}") from error
    finally:
        fresh.unlink(missing_ok=True)


def build() -> list[Path]:
    """Compile the libraries for x86-64 Linux and return their files; an empty list on other machines.

    Raises
    ------
    BuildFailed
        No library could be compiled. Instruction sets that an old compiler lacks are skipped.
    """
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        return []
    built: list[Path] = []
    failures: list[str] = []
    for variant, options in VARIANTS.items():
        try:
            compile_kernel(options, LIBRARIES[variant])
        except BuildFailed as failure:
            failures.append(str(failure))
        else:
            built.append(LIBRARIES[variant])
    if not built:
        raise BuildFailed(failures[0])
    return built


if __name__ == "__main__":
    build()
