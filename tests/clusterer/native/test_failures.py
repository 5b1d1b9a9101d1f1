"""What goes wrong in the compiled kernel, in any thread, is an error of the job and not the end of its process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from clusterer.native.build import SOURCES
from clusterer.native.library import DONE, NO_MEMORY, available, raise_failure

LOOP = """
#include <sys/resource.h>
#include <cstdio>
#include <cstring>
#include "parallel.h"

using shoal::parallel_for;

// A failure in a thread that is not the caller's, which waits for it.
int in_another_thread() {
  const auto caller = std::this_thread::get_id();
  std::atomic<bool> thrown{false};
  try {
    parallel_for(1000, 1, 3, [&](int64_t, int64_t) {
      if (std::this_thread::get_id() == caller) {
        while (!thrown) std::this_thread::yield();
      } else {
        thrown = true;
        throw std::bad_alloc();
      }
    });
  } catch (const std::bad_alloc&) {
    return 0;
  }
  return 1;
}

// Every thread fails at once.
int in_all_threads() {
  try {
    parallel_for(8, 1, 8, [](int64_t first, int64_t) { throw int(first); });
  } catch (int) {
    return 0;
  }
  return 1;
}

// No address space for another thread's stack.
int without_more_threads() {
  const rlimit none{16 << 20, 16 << 20};
  if (setrlimit(RLIMIT_AS, &none)) return 2;
  std::atomic<int64_t> total{0};
  parallel_for(100000, 7, 64, [&](int64_t first, int64_t last) { total += last - first; });
  return total == 100000 ? 0 : 1;
}

int main(int, char** arguments) {
  if (!std::strcmp(arguments[1], "another")) return in_another_thread();
  if (!std::strcmp(arguments[1], "all")) return in_all_threads();
  return without_more_threads();
}
"""

FULL_MEMORY = """
import resource
import numpy as np
from clusterer.kmeans.fast import open_kernel
from clusterer.kmeans.fast.kernel import Frame
from shoal.jobs.child import as_shoal_error

kernel = open_kernel(threads=2)
rows = np.random.default_rng(0).normal(size=(2000, 65_536)).astype(np.float32)
frame = Frame.around(rows[:100].mean(axis=0))
sketch, centroids = kernel.sketch(rows, frame), kernel.pack(rows[:20], frame)
labels = np.full(len(rows), -1, dtype=np.int32)
size = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmSize")) * 1024
# What an exception itself needs is left.
resource.setrlimit(resource.RLIMIT_AS, (size + 2**20, size + 2**20))
try:
    kernel.assign(rows, sketch, centroids, labels)
except MemoryError as error:
    print(as_shoal_error(error).code)
"""


def compiled(folder: Path, *options: str) -> Path:
    """A program that runs the parallel loop of the kernel."""
    (folder / "loop.cpp").write_text(LOOP)
    command = [
        "g++",
        "-std=c++17",
        "-O1",
        "-pthread",
        *options,
        f"-I{SOURCES}",
        str(folder / "loop.cpp"),
        "-o",
        str(folder / "loop"),
    ]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("no C++ compiler is installed")
    return folder / "loop"


@pytest.fixture(scope="module")
def loop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled(tmp_path_factory.mktemp("loop"))


@pytest.mark.parametrize("case", ["another", "all", "none"])
def test_a_failure_in_a_thread_reaches_the_caller_and_missing_threads_are_made_up_for(loop: Path, case: str) -> None:
    assert subprocess.run([loop, case], check=False, timeout=60).returncode == 0


@pytest.mark.parametrize("case", ["another", "all"])
def test_threads_share_nothing_without_order(tmp_path: Path, case: str) -> None:
    """ThreadSanitizer looks at the parallel loop. Fails without: the atomic number of the next piece."""
    try:
        program = compiled(tmp_path, "-g", "-fsanitize=thread")
    except subprocess.CalledProcessError:
        pytest.skip("the compiler has no ThreadSanitizer")
    done = subprocess.run([program, case], capture_output=True, text=True, check=False, timeout=120)
    if "unexpected memory mapping" in done.stderr:
        pytest.skip("ThreadSanitizer does not run on this kernel")
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(not available(), reason="no compiled kernel runs on this processor")
def test_a_kernel_without_memory_fails_the_job_and_not_the_process() -> None:
    done = subprocess.run([sys.executable, "-c", FULL_MEMORY], capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stdout.strip()) == (0, "out_of_memory"), done.stderr


def test_outcomes_are_errors_that_name_the_function() -> None:
    def shoal_fast_sketch() -> None: ...

    raise_failure(DONE, shoal_fast_sketch, ())
    with pytest.raises(MemoryError, match="shoal_fast_sketch"):
        raise_failure(NO_MEMORY, shoal_fast_sketch, ())
    with pytest.raises(RuntimeError, match="shoal_fast_sketch"):
        raise_failure(2, shoal_fast_sketch, ())
