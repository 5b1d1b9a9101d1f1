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


@pytest.mark.parametrize("version", [None, "1"])
def test_tensorflow_is_imported_ahead_where_a_model_needs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str | None
) -> None:
    if version is not None:
        (tmp_path / "net" / version).mkdir(parents=True)
        (tmp_path / "net" / version / "saved_model.pb").touch()
    monkeypatch.setenv("SHOAL_MODELS", str(tmp_path))
    monkeypatch.delenv("TF_SERVING_URL", raising=False)
    program = "import sys; from extractor.ahead import *; import_all('tfserving'); print('tensorflow' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(version is not None)]
