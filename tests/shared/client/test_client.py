"""Both clients against a server that answers as scripted."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import anyio
import pytest
from shoal import AsyncClient, Client
from shoal.client import retry_after_s
from shoal.errors import JobNotFound, ShoalError, TooManyFailures, Unavailable
from shoal.process import free_port

from tests.shared.client.conftest import Script

JOB = {"id": "j1", "kind": "cluster", "state": "queued", "created_at": "2026-01-01T00:00:00Z", "request": {}}


def test_a_request_carries_the_key_and_only_what_was_given(client: Client, script: Script) -> None:
    script.answers = [(202, JOB)]
    client.extract("photos", model="m", labels="none", dtype="float16", name=None)
    method, path, headers, body = script.seen[0]
    assert (method, path, headers["authorization"]) == ("POST", "/extract", "Bearer key-1")
    assert body == {"images": {"path": "photos", "labels": "none"}, "model": "m", "dtype": "float16"}


def test_a_null_that_has_a_meaning_is_sent(client: Client, script: Script) -> None:
    script.answers = [(202, JOB)]
    client.extract("photos", model="m", name=None, reuse=None)
    assert script.seen[0][3] == {"images": {"path": "photos"}, "model": "m", "reuse": None}


def test_a_repeated_post_keeps_its_idempotency_key(client: Client, script: Script) -> None:
    script.answers = [(503, {"code": "queue_unavailable"}), (202, JOB)]
    assert client.cluster("e", clusters=3).id == "j1"
    keys = [headers["idempotency-key"] for _, _, headers, _ in script.seen]
    assert len(keys) == 2
    assert keys[0] == keys[1]


def test_a_problem_is_raised_as_its_exception(client: Client, script: Script) -> None:
    script.answers = [(404, JobNotFound("Job 'j9' does not exist.").problem())]
    with pytest.raises(JobNotFound, match="Job 'j9' does not exist"):
        client.job("j9")


def test_an_answer_that_is_no_problem_still_says_where(client: Client, script: Script) -> None:
    script.answers = [(500, {})]
    with pytest.raises(ShoalError, match="/jobs/j1 answered 500"):
        client.job("j1")


def test_waiting_ends_with_the_job(client: Client, script: Script) -> None:
    running = {**JOB, "state": "running", "progress": {"stage": "kmeans", "done": 1, "total": 2}}
    script.answers = [(200, JOB), (200, running), (200, {**JOB, "state": "succeeded", "result": {"clustering": "c"}})]
    seen: list[str] = []
    job = client.wait("j1", lambda current: seen.append(current.state))
    assert job.result == {"clustering": "c"}
    assert seen == ["queued", "running", "succeeded"]


def test_waiting_for_a_failed_job_raises_its_problem(client: Client, script: Script) -> None:
    script.answers = [(200, {**JOB, "state": "failed", "error": TooManyFailures("9 of 10 images").problem()})]
    with pytest.raises(TooManyFailures, match="9 of 10"):
        client.wait("j1")
    script.answers = [(200, {**JOB, "state": "cancelled"})]
    with pytest.raises(ShoalError) as caught:
        client.wait("j1")
    assert caught.value.code == "job_cancelled"


@pytest.mark.parametrize("value", ["Wed, 21 Oct 2015 07:28:00 GMT", "soon", "-5", "nan", "", "0.001"])
def test_any_retry_after_is_borne(client: Client, script: Script, value: str, waits: list[float]) -> None:
    script.retry_after = value
    script.answers = [(429, {"code": "rate_limited"}), (200, JOB)]
    assert client.job("j1").id == "j1"
    assert waits == [0.0 if "GMT" in value else 1.0]


def test_a_date_to_come_back_at_is_waited_for_within_reason() -> None:
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=3), usegmt=True)
    assert 1.0 < retry_after_s(soon) <= 3.0
    late = format_datetime(datetime.now(UTC) + timedelta(days=3), usegmt=True)
    assert [retry_after_s(value) for value in (late, "3600", "2")] == [5.0, 5.0, 2.0]


def test_following_a_job_outlives_a_restart_of_the_service(
    script: Script, connect: Callable[..., Client], waits: list[float]
) -> None:
    outages: list[str] = []
    away = [(503, {"code": "queue_unavailable", "detail": "away"}), (502, {"html": "bad gateway"})]
    script.answers = [(200, JOB), *away, *away, *away, (200, {**JOB, "state": "succeeded", "result": {}})]
    with connect(script.url, script.url, retries=0) as client:
        job = client.wait("j1", on_outage=lambda error: outages.append(error.code))
    assert job.state == "succeeded"
    assert outages == ["queue_unavailable", "unavailable"] * 3


def test_patience_has_an_end(connect: Callable[..., Client]) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    outages: list[ShoalError] = []
    with connect(url, url, retries=0) as client, pytest.raises(Unavailable, match="does not answer"):
        list(client.follow("j1", poll_s=0.01, patience_s=0.1, on_outage=outages.append))
    assert outages


def test_a_proxy_of_the_environment_is_not_asked_for_this_machine(
    connect: Callable[..., Client], script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{free_port()}")
    script.answers = [(200, JOB)]
    with connect(script.url, script.url, retries=0) as beside:
        assert beside.job("j1").id == "j1"


def test_nothing_listens(connect: Callable[..., Client]) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    with connect(url, url, retries=0) as client, pytest.raises(Unavailable, match="does not answer"):
        client.jobs()
    with connect(url, url) as client:
        assert {name: answer["ready"] for name, answer in client.ready().items()} == {
            "extractor": False,
            "clusterer": False,
        }


def test_rows_are_read_page_by_page(client: Client, script: Script) -> None:
    first = {"rows": [{"row": 0}, {"row": 1}], "total": 3, "next_cursor": "2"}
    script.answers = [(200, first), (200, {"rows": [{"row": 2}], "total": 3, "next_cursor": None})]
    assert [row["row"] for row in client.rows("e", page_rows=2)] == [0, 1, 2]
    assert [path for _, path, _, _ in script.seen] == [
        "/embeddings/e/rows?limit=2",
        "/embeddings/e/rows?limit=2&cursor=2",
    ]


def test_assignments_are_read_line_by_line(client: Client, script: Script) -> None:
    script.answers = [(200, {"row": 0, "cluster": 3, "image_path": "a.png"})]
    assert list(client.assignments("c")) == [{"row": 0, "cluster": 3, "image_path": "a.png"}]
    assert script.seen[0][1] == "/clusterings/c/assignments?format=jsonl"
    script.answers = [(404, {"code": "clustering_not_found", "detail": "Clustering 'c' does not exist."})]
    with pytest.raises(ShoalError, match="Clustering 'c' does not exist"):
        list(client.assignments("c"))


def test_a_download_is_saved_as_a_file(client: Client, script: Script, tmp_path: Path) -> None:
    script.answers = [(200, {"row": 0})]
    assert client.download("c", "assignments", tmp_path / "a.jsonl", format="jsonl").read_text() == '{"row": 0}'
    script.answers = [(404, {"code": "clustering_not_found", "detail": "Clustering 'c' does not exist."})]
    with pytest.raises(ShoalError, match="Clustering 'c' does not exist"):
        client.download("c", "report", tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


def test_a_loop_that_is_left_early_closes_its_answer(client: Client, script: Script) -> None:
    script.answers = [(200, {"row": 0})]
    items = iter(client.assignments("c"))
    assert next(items) == {"row": 0}
    items.close()  # type: ignore[attr-defined]
    assert client.clustering("c") == {"row": 0}


def public(of: type) -> dict[str, inspect.Signature]:
    """The public methods, and the constructor, with their signatures."""
    methods = inspect.getmembers(of, callable)
    return {
        name: inspect.signature(method) for name, method in methods if not name.startswith("_") or name == "__init__"
    }


def test_both_clients_have_the_same_methods() -> None:
    plain, awaited = public(Client), public(AsyncClient)
    assert list(plain) == list(awaited)
    for name, signature in plain.items():
        assert list(signature.parameters.values()) == list(awaited[name].parameters.values()), name
        returned = str(awaited[name].return_annotation)
        assert signature.return_annotation == returned.replace("AsyncGenerator[", "Iterator[").replace(", None]", "]")


def test_help_describes_the_methods_of_both() -> None:
    for name in public(Client):
        assert inspect.getdoc(getattr(Client, name)) == inspect.getdoc(getattr(AsyncClient, name)), name
        if name != "__init__":
            assert inspect.getdoc(getattr(Client, name)), name


def test_the_client_works_where_an_event_loop_runs(script: Script) -> None:
    script.answers = [(200, {"row": 0})]

    async def cell() -> list[Any]:
        with Client(script.url, script.url) as client:
            return [*client.assignments("c"), client.clustering("c")]

    assert anyio.run(cell) == [{"row": 0}, {"row": 0}]
