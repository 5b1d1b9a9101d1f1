"""Which process of `make test` runs a test, and when: long ones come first, so that all processes end together.

The tests of a file stay together, since they share what they start, and so do those of some folders.
"""

from __future__ import annotations

import os

import pytest
from shoal.host import available_cores
from xdist.scheduler import LoadFileScheduling

TOGETHER = ("tests/contracts/", "tests/browser/", "tests/clusterer/ray/", "tests/extractor/backends/")
"""Each has a system, a cluster or models whose start takes longer than most of its tests."""
LONG = (
    *TOGETHER,
    "tests/faults/",
    "tests/deploy/test_dist.py",
    "tests/security/test_openapi.py",
    "tests/clusterer/jobs/",
    "tests/clusterer/",
    "tests/extractor/",
)
"""How the paths of the longest begin, the longest first; all others come after these."""


def share_cores(processes: int) -> None:
    """Let no thread keep a core busy that another process could use, here and in what tests start.

    The threads of OpenMP and OpenBLAS spin while they wait for one that has no core. With two processes on two cores, a
    network of PyTorch takes six times, a product of matrices ten times as much of the processor.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    os.environ.setdefault("OPENBLAS_NUM_THREADS", str(max(1, available_cores() // processes)))


def make_scheduler(config: pytest.Config, log: object) -> object:
    """The scheduler of ``--dist loadfile``; None leaves the other ways to xdist."""
    if config.getvalue("dist") != "loadfile":
        return None
    scheduler = LoadFileScheduling(config, log)
    scheduler._split_scope = unit_of
    return scheduler


def unit_of(test: str) -> str:
    """What is run by one process without a break: the file of a test, or its folder."""
    file = test.partition("::")[0]
    return next((folder for folder in TOGETHER if file.startswith(folder)), file)


def sort_by_length(items: list[pytest.Item]) -> None:
    """Put what takes longest first; the tests of a file keep their order."""
    items.sort(key=lambda item: next((at for at, start in enumerate(LONG) if item.nodeid.startswith(start)), len(LONG)))
