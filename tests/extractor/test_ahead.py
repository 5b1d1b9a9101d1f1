"""What a job's child imports before its job has come is all that the job needs."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from shoal.settings import Settings

PROGRAM = """
import json, sys
from extractor import ahead
ahead.import_all("torch")
before = set(sys.modules)
from extractor import pipeline
from shoal.jobs.child import JobContext
from shoal.settings import Settings
pipeline.run(JobContext.local(json.loads(sys.argv[1])), Settings())
print(*sorted(set(sys.modules) - before))
"""


def test_an_extraction_imports_nothing_once_its_job_has_come(
    settings: Settings, make: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    make("a/0.png", seed=0)
    make("b/1.jpg", seed=1)
    for name in ("data", "models", "store", "device", "decode_workers"):
        monkeypatch.setenv(f"SHOAL_{name.upper()}", str(getattr(settings, name)))
    request = {"images": {"path": "set"}, "model": "tf_efficientnet_lite0"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(request)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == ""
