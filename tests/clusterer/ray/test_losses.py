"""What ends with the head of a cluster, and with a job's process."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from tests.clusterer.ray.conftest import RayCluster
from tests.conftest import alive

PROGRAM = Path(__file__).parents[2] / "programs" / "ray_driver.py"
DEADLINE_S = 120.0


@contextmanager
def driving(**environment: str) -> Iterator[subprocess.Popen[str]]:
    """A job's process, once its first task has ended."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    process = subprocess.Popen(
        [sys.executable, str(PROGRAM)], env={**clean, **environment}, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("running"), "the process did not begin"
        yield process
    finally:
        process.kill()
        process.communicate()


def helpers(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """Everything that a process has started."""
    return psutil.Process(process.pid).children(recursive=True)


def test_a_lost_head_is_an_error_that_may_pass() -> None:
    """Fails without: the limit of time for which a head does not answer."""
    cluster = RayCluster()
    try:
        with driving(RAY_ADDRESS=cluster.address) as process:
            cluster.kill_head()
            said, _ = process.communicate(timeout=DEADLINE_S)
    finally:
        cluster.shutdown()
    assert f"ray_unavailable The head of the Ray cluster at {cluster.address} is lost: " in said
    assert process.returncode == 1


def test_nothing_outlives_a_killed_process_with_a_cluster_of_its_own(wait_until: Callable[..., None]) -> None:
    with driving() as process:
        started = helpers(process)
        assert any("gcs_server" in each.name() for each in started)
        process.kill()
        gone = "every process of the cluster has ended"
        wait_until(lambda: not any(alive(each.pid) for each in started), deadline_s=DEADLINE_S, what=gone)


TWICE = """
from clusterer.ray.session import connect
from shoal.schemas.execution import Execution
from shoal.settings import Settings

for _ in range(2):
    with connect(Execution(engine="ray"), Settings()) as session:
        assert session.ray.get(session.ray.put(7)) == 7
"""


def test_a_process_may_start_one_cluster_after_another() -> None:
    """Ray reads the token of a cluster once in a process."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    done = subprocess.run([sys.executable, "-c", TWICE], env=clean, capture_output=True, text=True, timeout=DEADLINE_S)
    assert done.returncode == 0, done.stderr
