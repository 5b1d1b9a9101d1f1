"""The extractor's processes, as its command line starts them."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

RUN_JOB = (
    "import os, sys\nfrom shoal.jobs import child\nchild.run_child = lambda handle, ahead: print(os.nice(0)) or 0\n"
    "from extractor.__main__ import main\nsys.exit(main(['run-job']))\n"
)


@pytest.mark.parametrize(("setting", "steps"), [(None, 10), ("3", 3), ("0", 0)])
def test_a_job_runs_at_a_lower_priority(setting: str | None, steps: int) -> None:
    env = {key: value for key, value in os.environ.items() if key != "SHOAL_JOB_NICE"}
    env |= {"SHOAL_JOB_NICE": setting} if setting is not None else {}
    done = subprocess.run(
        [sys.executable, "-c", RUN_JOB], env=env, start_new_session=True, capture_output=True, text=True, check=True
    )
    assert int(done.stdout) == min(os.nice(0) + steps, 19)
