"""What a job's child imports before its job has come is all that the job needs."""

from __future__ import annotations

import json
import subprocess
import sys

from shoal.settings import Settings

from tests.clusterer.conftest import MakeSet, Planted

PROGRAM = """
import json, sys
from clusterer import ahead
ahead.import_all()
before = set(sys.modules)
from clusterer import pipeline
from shoal.jobs.child import JobContext
from shoal.settings import Settings
pipeline.run(JobContext.local(json.loads(sys.argv[1])), Settings())
print(*sorted(set(sys.modules) - before))
"""
SMALL = {"encodings.unicode_escape", "pyarrow.acero"}
"""Modules that libraries import when they are used, in less than a millisecond."""


def test_a_clustering_imports_nothing_once_its_job_has_come(
    settings: Settings, make_set: MakeSet, planted: Planted
) -> None:
    vectors, labels = planted()
    request = {"embeddings": make_set("a", vectors, labels, thumbnails=True), "clusters": 4, "pca": {"components": 4}}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(request)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.splitlines()[-1].split()) <= SMALL
