"""One queue, one store: nobody runs, or fails, the jobs of another store's users."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import redis
from shoal.errors import OtherStore
from shoal.jobs.queue import JobQueue
from shoal.store_identity import store_identity


@pytest.fixture
def queue_of(redis_client: redis.Redis, tmp_path: Path) -> Callable[[str], JobQueue]:
    """``queue_of("a")``: the queue as those see it who work on the store ``a``."""
    return lambda name: JobQueue(redis_client, store=store_identity(tmp_path / name))


def test_a_store_keeps_its_id_under_any_path(tmp_path: Path) -> None:
    first = store_identity(tmp_path / "a")
    assert first == store_identity(tmp_path / "a")
    (tmp_path / "a").rename(tmp_path / "b")
    moved = store_identity(tmp_path / "b")
    assert first.split()[0] == moved.split()[0]
    assert store_identity(tmp_path / "c").split()[0] != moved.split()[0]


def test_a_store_that_cannot_have_an_id_has_none(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert store_identity(tmp_path / "file" / "store") is None
    (tmp_path / ".id").write_text("nonsense")
    assert store_identity(tmp_path) is None


def test_jobs_of_another_store_are_neither_taken_nor_joined(
    queue_of: Callable[[str], JobQueue], tmp_path: Path
) -> None:
    ours, theirs = queue_of("a"), queue_of("b")
    job, _ = ours.submit("work", {})
    for ask in (
        lambda: theirs.claim(["work"], "worker"),
        lambda: theirs.submit("work", {}),
        lambda: theirs.beat("worker", ["work"]),
        theirs.check_store,
    ):
        with pytest.raises(OtherStore, match=rf"belongs to another store, {tmp_path}/a.*REDIS_URL"):
            ask()
    assert theirs.workers() == {}
    claim = ours.claim(["work"], "worker")
    assert claim.job.id == job.id
    with pytest.raises(OtherStore):
        theirs.claim(["work"], "worker")
    ours.succeed(claim, {})
    # Nothing of the first store's is left to run: a store that was made anew may have the queue.
    assert theirs.claim(["work"], "worker") is None
    theirs.beat("worker", ["work"])
    with pytest.raises(OtherStore):
        ours.submit("work", {})
    theirs.leave("worker", ["work"])
    ours.submit("work", {})


def test_jobs_of_the_version_before_belong_to_the_first_store_that_asks(
    queue: JobQueue, queue_of: Callable[[str], JobQueue]
) -> None:
    job, _ = queue.submit("work", {})
    assert queue_of("a").claim(["work"], "worker").job.id == job.id
    with pytest.raises(OtherStore):
        queue_of("b").claim(["work"], "worker")


@pytest.mark.parametrize("words", [["worker"], ["api", "--port", "0"]])
def test_a_process_of_another_store_ends_and_says_why(
    queue_of: Callable[[str], JobQueue], redis_server: str, tmp_path: Path, words: list[str]
) -> None:
    queue_of("a").submit("cluster", {})
    env = {**os.environ, "REDIS_URL": redis_server, "SHOAL_STORE": str(tmp_path / "b")}
    command = [sys.executable, "-m", "clusterer", *words]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 1
    line = json.loads(done.stderr.splitlines()[-1])
    assert (line["code"], line["level"]) == ("other_store", "error")
    assert queue_of("a").counts()["queued"] == 1
