"""Whatever commits something may die, or find the disk failing or full, at any step: it counts whole or not at all.

Each step is a call that changes the file system: a file made, a write, a sync, a rename, a link, a removal. Repeated,
the attempt leads to the bytes of an undisturbed one, and leaves nothing that `shoal gc` does not find.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.faults.steps.paths import JOBS, PATHS
from tests.faults.steps.striking import Fault

FOLDER = Path(__file__).with_name("steps")
FAULTS = [each.name for each in Fault if each is not Fault.COUNT]
EVERY = {"parts": 9, "repair": 9, "upload": 5}
"""Of these paths the quick test strikes each so-manieth step, which ones depends on the fault."""
JOB_EVERY, OTHER_EVERY = 60, 3


@pytest.fixture(scope="session")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The compiled library that strikes."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None or sys.platform != "linux":
        pytest.skip("needs a C compiler on Linux")
    library = tmp_path_factory.mktemp("steps") / "shim.so"
    subprocess.run([compiler, "-O1", "-shared", "-fPIC", FOLDER / "shim.c", "-o", library, "-ldl"], check=True)
    return library


def struck(shim: Path, path: str, faults: list[str], every: int) -> tuple[int, list[dict[str, Any]]]:
    """Strike a path; the number of its steps, and what each fault did."""
    command = [sys.executable, "-m", "tests.faults.steps", path, ",".join(faults), str(every)]
    environment = {**os.environ, "LD_PRELOAD": str(shim), "PYTHONPATH": str(FOLDER.parents[2])}
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    steps, *blows = map(json.loads, run.stdout.splitlines())
    return steps, blows


def check(steps: int, blows: list[dict[str, Any]], faults: list[str], every: int) -> None:
    """Nothing is wrong, and each fault hit as often as there are steps for it."""
    wrong = [f"{each['fault']} at step {each['step']} ({each['struck']}): {each['problems']}" for each in blows]
    assert [line for line, each in zip(wrong, blows, strict=True) if each["problems"]] == []
    hits = Counter(each["fault"] for each in blows)
    assert set(hits) <= set(faults)
    if "KILL" in faults:
        assert hits["KILL"] >= (steps - 1) // every


@pytest.mark.parametrize("path", PATHS)
def test_a_fault_at_a_step_loses_nothing_and_leaves_nothing(shim: Path, path: str) -> None:
    """Fails without: the file beside a document in which its new content is written before it takes its place, and
    without: the error of a sync that failed.
    """
    every = EVERY.get(path, JOB_EVERY if path in JOBS else OTHER_EVERY)
    check(*struck(shim, path, FAULTS, every), FAULTS, every)


@pytest.mark.faults_long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("path", PATHS)
def test_each_fault_at_each_step_loses_nothing_and_leaves_nothing(shim: Path, path: str, fault: str) -> None:
    """Fails without: the error of a sync that failed."""
    check(*struck(shim, path, [fault], 1), [fault], 1)
