"""The working folders of jobs that have ended: gigabytes that no attempt will ask for again."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

import structlog

from shoal.errors import JobNotFound
from shoal.jobs.queue import JobQueue
from shoal.store_identity import WORK_FOLDER

log = structlog.get_logger(__name__)


def job_of(folder: Path) -> str:
    """Id of the job that a working folder, named after the job's result, belongs to."""
    return folder.name.partition("-")[2]


def remove_ended(root: Path, queue: JobQueue) -> None:
    """Remove the working folders of all jobs that ``queue`` knows to have ended.

    A job that the queue does not know keeps its folder: `shoal gc` removes it when it is old.

    Raises
    ------
    QueueUnavailable
        The queue is away.
    """
    for folder in _folders(root):
        remove_if_ended(folder, queue)


def remove_of(root: Path, job_id: str, queue: JobQueue) -> None:
    """Remove the working folders of one job if it has ended.

    Raises
    ------
    QueueUnavailable
        The queue is away.
    """
    for folder in _folders(root):
        if job_of(folder) == job_id:
            remove_if_ended(folder, queue)


def remove_if_ended(folder: Path, queue: JobQueue) -> None:
    """Remove a working folder if its job has ended."""
    with contextlib.suppress(JobNotFound):
        if queue.get(job_of(folder)).state.terminal:
            shutil.rmtree(folder, ignore_errors=True)
            log.info("removed what an ended job had kept for its next attempt", folder=folder.name)


def _folders(root: Path) -> list[Path]:
    try:
        return [each for each in (root / WORK_FOLDER).iterdir() if each.is_dir() and not each.is_symlink()]
    except OSError:
        return []
