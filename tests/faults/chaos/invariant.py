"""What must hold after any faults: nothing lost, nothing doubled, nothing left, and no job that tells an untruth."""

from __future__ import annotations

import contextlib
import json
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import psutil
from shoal import gc
from shoal.jobs.queue import JobQueue
from shoal.jobs.states import JobState
from shoal.schemas import Job
from shoal.store import Store
from shoal.store.verify_results import verify_all

from tests.faults.chaos.installation import Installation
from tests.faults.chaos.load import Load

SETTLE_S = 120.0
"""How long the next of the jobs that are left may take once nothing is broken any more."""
GONE_S = 20.0
"""How long a process may take to be gone once it is killed."""
HONEST = {"worker_died", "worker_lost", "child_silent"}
"""Codes of jobs whose every attempt was killed."""
OF_THE_RUN = ("run.json", "report", "iterations.parquet")
"""Files that say when a result was made, or how fast."""


class Judgement(NamedTuple):
    """How many jobs ended in which state, and what does not hold."""

    jobs: Counter[str]
    violations: list[str]


def judge(installation: Installation, load: Load, cancelled: set[str]) -> Judgement:
    """Let all jobs end, after all faults have ended, stop the services, and look at everything."""
    with contextlib.closing(installation.queue()) as queue:
        found = [*load.wrong, *_unsettled(installation, queue)]
        jobs = list(_all_jobs(queue))
        installation.stop()
        # The kernel kills a child with its worker, but on a busy machine it may take a while to be gone.
        _, alive = psutil.wait_procs(installation.all(), timeout=GONE_S)
        found += [f"process {each.pid} is left: {' '.join(each.cmdline())}" for each in alive]
        found += _jobs(jobs, load, cancelled)
        found += _results(installation.store, jobs)
        found += _garbage(installation.store, queue)
    return Judgement(Counter(job.state.value for job in jobs), found)


def _unsettled(installation: Installation, queue: JobQueue) -> Iterator[str]:
    """Jobs that do not end, with everything running again."""
    left, deadline = len(queue.unfinished()), time.monotonic() + SETTLE_S
    while left and time.monotonic() < deadline:
        installation.revive()
        time.sleep(0.2)
        before, left = left, len(queue.unfinished())
        if left < before:
            deadline = time.monotonic() + SETTLE_S
    for job in queue.unfinished():
        yield f"job {job.id} ({job.kind}) is {job.state.value} for ever, attempt {job.attempt}, {job.progress}"


def _all_jobs(queue: JobQueue) -> Iterator[Job]:
    cursor = None
    while True:
        page = queue.list(limit=200, cursor=cursor)
        yield from page.jobs
        cursor = page.next_cursor
        if cursor is None:
            return


def _jobs(jobs: list[Job], load: Load, cancelled: set[str]) -> Iterator[str]:
    """One job for each key, and none that failed without an attempt being killed, or was cancelled by nobody."""
    known = {job.id for job in jobs}
    yield from (f"job {each.job} of POST /{each.route} is lost" for each in load.sent if each.job not in known)
    doubled = Counter(each.job for each in load.sent)
    yield from (f"job {job} answers {count} keys" for job, count in doubled.items() if count > 1)
    if len(jobs) > len(load.keys):
        yield f"{len(jobs)} jobs for {len(load.keys)} keys"
    for job in jobs:
        if job.state is JobState.CANCELLED and job.id not in cancelled:
            yield f"job {job.id} ({job.kind}) was cancelled by nobody"
        if job.state is JobState.FAILED and (job.error or {}).get("code") not in HONEST:
            yield f"job {job.id} ({job.kind}) failed: {job.error}"
        if job.state is JobState.SUCCEEDED and not job.result:
            yield f"job {job.id} ({job.kind}) has no result"


def _results(store: Store, jobs: list[Job]) -> Iterator[str]:
    """Every file sound, every image of a finished set in one shard or in its errors, same requests with same bytes."""
    for report in verify_all(store.layout):
        yield from (f"{report.kind} {report.id}: {each.file} {each.problem}" for each in report.problems)
    same: defaultdict[str, dict[str, set[str]]] = defaultdict(dict)
    for job in jobs:
        if job.state is not JobState.SUCCEEDED or not job.result:
            continue
        if job.kind.startswith("extract"):
            yield from _extraction(store, job)
            continue
        if job.result.get("clustering") is not None:
            folder = store.clustering(job.result["clustering"]).layout.folder
            request = json.dumps({"kind": job.kind, **job.request}, sort_keys=True)
            same[request].setdefault(_fingerprint(folder), set()).add(job.id)
    for request, found in same.items():
        if len(found) > 1:
            yield f"different bytes for one request: {request} {list(found.values())}"


def _fingerprint(folder: Path) -> str:
    """The checksums of a result's files, but for those that say when it was made."""
    files = json.loads((folder / "files.json").read_text())["files"]
    kept = [[each["path"], each["sha256"]] for each in files if not each["path"].startswith(OF_THE_RUN)]
    return json.dumps(sorted(kept))


def _extraction(store: Store, job: Job) -> Iterator[str]:
    assert job.result is not None
    found = store.embeddings(job.result["embeddings"])
    if not found.complete:
        yield f"{found.id} of job {job.id} is not complete"
        return
    listed = found.listing().column("image_path").to_pylist()
    embedded = found.metadata(["image_path"]).column("image_path").to_pylist()
    failed = [each["image_path"] for each in found.errors().to_pylist()]
    if sorted([*embedded, *failed]) != sorted(listed):
        yield f"{found.id}: {len(listed)} images, {len(embedded)} rows and {len(failed)} errors"


def _garbage(store: Store, queue: JobQueue) -> Iterator[str]:
    """What is left of dead processes goes with `shoal gc`, and nothing else is left."""
    for each in list(gc.find(store, queue, work_age_s=0.0)):
        gc.remove(store, each)
    for folder in (store.layout.temporary, store.layout.trash, store.layout.work_folder):
        if folder.is_dir():
            yield from (f"{each} is left for ever" for each in folder.iterdir())
    yield from (f"{each} is left for ever" for each in store.layout.root.rglob(".*.tmp"))
