"""``sanitized.py <test>...``: runs tests on kernels that are compiled with AddressSanitizer and UBSan.

The kernels are those of this processor, in a copy of the services below ``build/sanitized``. A finding ends the process
of the test, and so fails it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
COPY = ROOT / "build" / "sanitized"
FLAGS = "-g -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=all"
BUILD = """
from clusterer.native.build import KERNEL
from clusterer.native.library import available
from extractor.native.build import KERNEL as RESIZING

for kernel, names in ((KERNEL, available()[:1]), (RESIZING, RESIZING.libraries)):
    for name in kernel.libraries.keys() - set(names):
        kernel.libraries[name].unlink(missing_ok=True)
    for name in names:
        kernel.compile(kernel.variants[name], kernel.libraries[name])
"""


def main(tests: list[str]) -> int:
    """Compile, run, return pytest's status."""
    shutil.rmtree(COPY, ignore_errors=True)
    shutil.copytree(ROOT / "services", COPY)
    environment = {**os.environ, "PYTHONPATH": f"{COPY}:{ROOT / 'shared'}:{ROOT}"}
    subprocess.run([sys.executable, "-c", BUILD], env={**environment, "CXX": f"g++ {FLAGS}"}, check=True)
    runtimes = [
        subprocess.check_output(["g++", f"-print-file-name={name}"], text=True).strip()
        for name in ("libasan.so", "libubsan.so", "libstdc++.so")
    ]
    # Python itself lets go of little at its end: only what the kernels do is looked at.
    options = {"ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1", "LD_PRELOAD": " ".join(runtimes)}
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *tests]
    return subprocess.run(command, env={**environment, **options}, check=False, cwd=ROOT).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
