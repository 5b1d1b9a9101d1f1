"""The working folders of jobs, below the store: what a job keeps for its next attempt, removed when the job ends."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

import structlog

from shoal.errors import JobNotFound
from shoal.jobs.queue import JobQueue
from shoal.store_identity import WORK_FOLDER

log = structlog.get_logger(__name__)


def job_id_of(folder: Path) -> str:
    """Id of the job that a working folder, named after the job's result, belongs to."""
    return folder.name.partition("-")[2]


def remove_workdirs(root: Path, queue: JobQueue, job_id: str | None = None) -> None:
    """Remove the working folders of ended jobs: of ``job_id``, or of all jobs.

    A job that the queue does not know keeps its folder: `shoal gc` removes it when it is old.

    Raises
    ------
    QueueUnavailable
        The queue is unreachable.
    """
    try:
        folders = [each for each in (root / WORK_FOLDER).iterdir() if each.is_dir() and not each.is_symlink()]
    except OSError:
        return
    for folder in folders:
        if job_id is not None and job_id_of(folder) != job_id:
            continue
        with contextlib.suppress(JobNotFound):
            if queue.get(job_id_of(folder)).state.terminal:
                shutil.rmtree(folder, ignore_errors=True)
                log.info("removed the working folder of an ended job", folder=folder.name)
