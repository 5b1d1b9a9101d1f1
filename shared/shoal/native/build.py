"""Compiles a service's C++ sources into libraries beside them. Needs only a C++17 compiler.

Imports nothing but the standard library: the build of the package (``hatch_build.py``) runs it before anything is
installed.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

COMMON = ("-std=c++17", "-O3", "-fPIC", "-shared", "-pthread", "-fno-semantic-interposition", "-w")


class BuildFailed(Exception):
    """The sources could not be compiled; the message gives the reason."""


@dataclass(frozen=True)
class Kernel:
    """Sources that become one library, or one per instruction set.

    Attributes
    ----------
    source
        The file to compile.
    variants
        Compiler options of each library, best first, by its name.
    """

    source: Path
    variants: Mapping[str, tuple[str, ...]]

    @property
    def libraries(self) -> dict[str, Path]:
        """The file of each library, in the folder above the sources."""
        return {variant: self.source.parents[1] / f"_kernel_{variant}.so" for variant in self.variants}

    def compile(self, options: tuple[str, ...], output: Path) -> None:
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
        command = [*compiler.split(), *COMMON, *options, str(self.source), "-o", str(fresh)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise BuildFailed(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
            fresh.replace(output)
        except OSError as error:
            raise BuildFailed(f"{compiler} could not be run: {error}") from error
        finally:
            fresh.unlink(missing_ok=True)

    def build(self) -> list[Path]:
        """Compile the libraries for x86-64 Linux, a core each, and return their files; an empty list on other machines.

        Raises
        ------
        BuildFailed
            No library could be compiled. Instruction sets that an old compiler lacks are skipped.
        """
        if platform.system() != "Linux" or platform.machine() != "x86_64":
            return []
        libraries = self.libraries
        with ThreadPoolExecutor(min(len(libraries), os.cpu_count() or 1)) as pool:
            failures = list(pool.map(self._failure, libraries))
        built = [library for library, failure in zip(libraries.values(), failures, strict=True) if failure is None]
        if not built:
            raise failures[0] or BuildFailed("there is nothing to compile")
        return built

    def _failure(self, variant: str) -> BuildFailed | None:
        try:
            self.compile(self.variants[variant], self.libraries[variant])
        except BuildFailed as failure:
            return failure
        return None
