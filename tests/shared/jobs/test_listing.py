"""Turning the pages of the list of jobs."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from shoal.errors import InvalidRequest
from shoal.jobs.queue import JobQueue

from tests.shared.jobs.conftest import Bench


def submit(queue: JobQueue, count: int, kind: str = "work") -> list[str]:
    return [queue.submit(kind, {"n": n})[0].id for n in range(count)]


def pages(queue: JobQueue, **filters: Any) -> list[list[str]]:
    found, cursor = [], None
    while True:
        page = queue.list(cursor=cursor, **filters)
        found.append([job.id for job in page.jobs])
        if page.next_cursor is None:
            return found
        cursor = page.next_cursor


def test_empty_queue_has_one_empty_page(queue: JobQueue) -> None:
    page = queue.list()
    assert page.jobs == []
    assert page.next_cursor is None


def test_newest_come_first_and_every_job_once(queue: JobQueue) -> None:
    ids = submit(queue, 7)
    assert pages(queue, limit=3) == [ids[:3:-1], ids[3:0:-1], ids[:1]]


def test_full_last_page_has_no_cursor(queue: JobQueue) -> None:
    ids = submit(queue, 4)
    assert pages(queue, limit=2) == [ids[:1:-1], ids[1::-1]]


def test_jobs_submitted_meanwhile_shift_no_page(queue: JobQueue) -> None:
    ids = submit(queue, 6)
    first = queue.list(limit=3)
    submit(queue, 5)
    second = queue.list(limit=3, cursor=first.next_cursor)
    assert [job.id for job in first.jobs + second.jobs] == ids[::-1]


def test_jobs_forgotten_meanwhile_shift_no_page(bench: Bench) -> None:
    ids = submit(bench.queue, 6)
    first = bench.queue.list(limit=2)
    bench.queue.cancel(ids[4])
    bench.queue.cancel(ids[3])
    bench.forget_ended()
    second = bench.queue.list(limit=2, cursor=first.next_cursor)
    assert [job.id for job in second.jobs] == [ids[2], ids[1]]


def test_jobs_that_change_state_meanwhile_stay_in_place(queue: JobQueue) -> None:
    ids = submit(queue, 6)
    first = queue.list(limit=3)
    for job_id in ids:
        queue.cancel(job_id)
    second = queue.list(limit=3, cursor=first.next_cursor)
    assert [job.id for job in second.jobs] == ids[2::-1]


def test_state_and_kind_filter_together(queue: JobQueue) -> None:
    work, other = submit(queue, 3), submit(queue, 3, "other")
    queue.cancel(work[0])
    queue.cancel(other[0])
    assert pages(queue, kind="work") == [work[::-1]]
    assert pages(queue, state="cancelled") == [[other[0], work[0]]]
    assert pages(queue, state="queued", kind="other", limit=1) == [[other[2]], [other[1]]]
    assert pages(queue, kind="unknown") == [[]]


@pytest.mark.parametrize(
    "cursor",
    ["", "!", "abc", "ä", base64.b64encode(b"seq:-1").decode(), base64.b64encode(b"seq:" + b"9" * 30).decode()],
)
def test_cursor_of_nobody_is_refused(queue: JobQueue, cursor: str) -> None:
    with pytest.raises(InvalidRequest, match="cursor"):
        queue.list(cursor=cursor)


@pytest.mark.parametrize(
    ("filters", "field"), [({"state": "gone"}, "state"), ({"limit": 0}, "limit"), ({"limit": 501}, "limit")]
)
def test_unusable_filter_is_refused(queue: JobQueue, filters: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidRequest, match=field):
        queue.list(**filters)
