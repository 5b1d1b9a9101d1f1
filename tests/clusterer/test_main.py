"""The clusterer's processes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from clusterer.__main__ import main
from shoal.jobs.queue import JobQueue
from shoal.jobs.states import JobState
from shoal.store import Store

NUMERICAL = ("faiss", "sklearn", "torch", "tensorflow")


@pytest.mark.parametrize("module", ["clusterer.api.clusterings", "clusterer.__main__"])
def test_a_process_that_never_clusters_loads_no_clustering_library(module: str) -> None:
    program = f"import sys, {module}; print([name for name in {NUMERICAL} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.usefixtures("clusterer_worker")
def test_a_worker_runs_a_job_to_its_end(
    planted: Callable[..., Any],
    make_set: Callable[..., str],
    store: Store,
    queue: JobQueue,
    wait_until: Callable[..., None],
) -> None:
    job, _ = queue.submit("cluster", {"embeddings": make_set("mine", *planted()), "over": 1.0})
    failing, _ = queue.submit("cluster", {"embeddings": "gone-1", "clusters": 3})
    wait_until(lambda: queue.get(failing.id).state.terminal, deadline_s=180, what="both jobs end")
    done = queue.get(job.id)
    assert done.state is JobState.SUCCEEDED, done.error
    assert done.result is not None
    assert done.result["clustering"] == f"c-{job.id}"
    assert done.result["metrics"]["ari"] == 1.0
    assert store.clustering(f"c-{job.id}").k == 4
    failed = queue.get(failing.id)
    assert failed.error is not None
    assert (failed.state, failed.error["code"]) == (JobState.FAILED, "embeddings_not_found")


def test_the_command_line_names_its_commands(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "run-job" in capsys.readouterr().out


def test_a_job_runs_at_a_lower_priority() -> None:
    program = (
        "import os, sys\nfrom shoal.jobs import child\nchild.run_child = lambda handle, ahead: print(os.nice(0)) or 0\n"
        "from clusterer.__main__ import main\nsys.exit(main(['run-job']))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "SHOAL_JOB_NICE": "3"},
        start_new_session=True,
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(done.stdout) == min(os.nice(0) + 3, 19)
