"""`shoal gc` removes what is dead, and nothing else, and nothing before it is told to."""

from __future__ import annotations

import os
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import redis
from shoal.cli import app as cli
from shoal.embedded import open_queue, runfile
from shoal.embedded.queue import wait_for_server
from shoal.embedded.server import Server
from shoal.errors import QueueUnavailable
from shoal.gc import DAY_S, find, remove
from shoal.importer import import_embeddings
from shoal.jobs.queue import JobQueue
from shoal.jobs.states import JobState
from shoal.store import Store
from typer.testing import CliRunner

OLD_S = 3 * DAY_S


def _write(path: Path, *, age_s: float = 0.0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * 1000)
    _set_age(path.parent, age_s)
    return path


def _set_age(folder: Path, age_s: float) -> None:
    at = time.time() - age_s
    for each in [*folder.rglob("*"), folder]:
        os.utime(each, (at, at))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    np.save(tmp_path / "vectors.npy", np.eye(4, dtype=np.float32))
    store = Store(tmp_path / "store")
    import_embeddings(store, tmp_path / "vectors.npy", name="kept", labels=None, split=None)
    return store


def _incomplete(store: Store) -> str:
    [embeddings_id] = store.embeddings_ids()
    folder = store.embeddings(embeddings_id).layout.folder
    (folder / "manifest.json").unlink()
    _set_age(folder, OLD_S)
    return embeddings_id


def test_work_of_an_ended_job_is_found_at_once_and_that_of_others_is_not(store: Store, queue: JobQueue) -> None:
    waiting, _ = queue.submit("cluster", {})
    ended, _ = queue.submit("cluster", {})
    queue.cancel(ended.id)
    _write(store.layout.work(f"c-{waiting.id}") / "train.f32")
    gone = _write(store.layout.work(f"c-{ended.id}") / "train.f32").parent
    # A job that this queue does not know may be running: it is another queue's.
    unknown = _write(store.layout.work("c-0123456789abcdef") / "train.f32").parent
    assert [each.path for each in find(store, queue)] == [gone]
    _set_age(unknown, OLD_S)
    assert sorted(each.path for each in find(store, queue)) == sorted([gone, unknown])


def test_without_a_queue_age_alone_decides(store: Store) -> None:
    old = _write(store.layout.work("c-0123456789abcdef") / "train.f32", age_s=OLD_S).parent
    _write(store.layout.work("c-123456789abcdef0") / "train.f32")
    assert [each.path for each in find(store, None)] == [old]
    with pytest.raises(QueueUnavailable, match="start `shoal up`"):
        list(find(store, None, incomplete_age_s=0.0))


def test_the_command_asks_the_queue_of_the_store_and_no_other(
    tmp_path: Path, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("REDIS_URL", raising=False)
    store = Store(tmp_path / "store")
    with open_queue(store.root, "a test", create=True) as url:
        queue = JobQueue.from_url(str(url))
        live, _ = queue.submit("cluster", {})
        queue.claim(["cluster"], "worker")
        ended, _ = queue.submit("cluster", {})
        queue.cancel(ended.id)
        queue.close()
        work = _write(store.layout.work(f"c-{live.id}") / "train.f32").parent
        gone = _write(store.layout.work(f"c-{ended.id}") / "train.f32").parent
        beside = CliRunner().invoke(cli, ["gc", "--store", str(store.root)])
        assert (str(gone) in beside.stdout, str(work) in beside.stdout) == (True, False)
    # Nothing runs any more: the queue's data still says which job has ended.
    removed = CliRunner().invoke(cli, ["gc", "--store", str(store.root), "--really"])
    assert removed.exit_code == 0, removed.output
    assert (gone.exists(), work.exists()) == (False, True)


def test_old_work_is_found_and_fresh_work_is_not(store: Store, queue: JobQueue) -> None:
    [embeddings_id] = store.embeddings_ids()
    work = store.embeddings(embeddings_id).layout.work
    old = [
        _write(store.root / ".tmp/half/plan.json", age_s=OLD_S).parent,
        _write(store.root / ".trash/gone/a.npy", age_s=OLD_S).parent,
        _write(store.root / "inline/abc/00000.image", age_s=OLD_S).parent,
        _write(work / "dead/img.npy", age_s=OLD_S).parent,
    ]
    _write(store.root / ".tmp/fresh/plan.json")
    _write(work / "alive/img.npy")
    found = list(find(store, queue))
    assert {garbage.path for garbage in found} == set(old)
    assert all(garbage.bytes >= 1000 for garbage in found)
    assert sum(remove(store, garbage) for garbage in found) >= 4000
    assert not [path for path in old if path.exists()]
    assert store.verify(embeddings_id).problems == []
    assert list(find(store, queue)) == []


def test_a_folder_in_which_one_file_is_fresh_is_alive(store: Store, queue: JobQueue) -> None:
    folder = _write(store.root / ".tmp/long/a.npy", age_s=OLD_S).parent
    (folder / "b.npy").write_bytes(b"")
    _set_age_of_folder = time.time() - OLD_S
    os.utime(folder, (_set_age_of_folder, _set_age_of_folder))
    assert list(find(store, queue)) == []


def test_committed_files_that_wait_for_their_place_are_kept(store: Store, queue: JobQueue) -> None:
    embeddings_id = _incomplete(store)
    embeddings = store.embeddings(embeddings_id)
    token = next(iter(embeddings.commits.values())).token
    _write(embeddings.layout.work / token / "img_emb_00000.npy", age_s=OLD_S)
    assert list(find(store, queue)) == []


def test_incomplete_embeddings_are_kept_unless_asked_for(store: Store, queue: JobQueue) -> None:
    embeddings_id = _incomplete(store)
    assert list(find(store, queue)) == []
    assert list(find(store, queue, incomplete_age_s=OLD_S + DAY_S)) == []
    [garbage] = find(store, queue, incomplete_age_s=DAY_S)
    assert (garbage.kind, garbage.embeddings_id) == ("incomplete", embeddings_id)
    remove(store, garbage)
    assert store.embeddings_ids() == []


@pytest.mark.parametrize("by", ["id", "path"])
def test_incomplete_embeddings_that_a_job_wants_are_kept(store: Store, queue: JobQueue, by: str) -> None:
    embeddings_id = _incomplete(store)
    path = store.embeddings(embeddings_id).plan.source.path
    request = {"embeddings": embeddings_id} if by == "id" else {"images": {"path": path}}
    job, _ = queue.submit("cluster", request)
    assert list(find(store, queue, incomplete_age_s=0.0)) == []
    queue.cancel(job.id)
    assert len(list(find(store, queue, incomplete_age_s=0.0))) == 1


def test_jobs_that_ended_are_forgotten_and_others_are_not(queue: JobQueue) -> None:
    ended, _ = queue.submit("cluster", {"n": 1}, idempotency_key="monday")
    waiting, _ = queue.submit("cluster", {"n": 2})
    queue.cancel(ended.id)
    assert queue.forget(DAY_S, really=True) == 0
    assert queue.forget(0.0, really=False) == 1
    assert queue.get(ended.id).state == JobState.CANCELLED
    assert queue.forget(0.0, really=True) == 1
    assert [job.id for job in queue.list().jobs] == [waiting.id]
    again, created = queue.submit("cluster", {"n": 1}, idempotency_key="monday")
    assert created
    assert again.id != ended.id


def test_the_command_lists_first_and_removes_when_told(
    store: Store, queue: JobQueue, redis_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDIS_URL", redis_server)
    old = _write(store.root / ".tmp/half/plan.json", age_s=OLD_S).parent
    job, _ = queue.submit("cluster", {})
    queue.cancel(job.id)
    command = ["gc", "--store", str(store.root), "--jobs-days", "0"]
    listed = CliRunner().invoke(cli, command)
    assert str(old) in listed.stdout
    assert "1 jobs can be deleted" in listed.output
    assert old.exists()
    removed = CliRunner().invoke(cli, [*command, "--really"])
    assert "1 jobs deleted" in removed.output
    assert not old.exists()


def test_damaged_sets_are_passed_over(store: Store, queue: JobQueue) -> None:
    folder = store.layout.embeddings_folder
    for name, content in (("cut-1", b"{"), ("empty-1", b""), ("other-1", b"[]")):
        (folder / name).mkdir()
        (folder / name / "plan.json").write_bytes(content)
    old = _write(store.layout.temporary / "dead" / "x", age_s=OLD_S).parent
    assert [each.path for each in find(store, queue, incomplete_age_s=DAY_S)] == [old]


def _in_queue(store: Store, folder: str, kind: str, request: dict[str, object]) -> str:
    """A job that nobody serves any more, in the queue below the store whose data is in ``folder``."""
    server = Server(store.root, "a test", store.root / ".queue" / folder)
    server.lock()
    process, url = server.start()
    try:
        wait_for_server(process, url)
        with closing(JobQueue.from_url(url)) as queue:
            return queue.submit(kind, request)[0].id
    finally:
        # Asked, so that it writes what it holds; `SIGKILL` may cost the last second.
        process.terminate()
        process.wait()
        server.close()


@pytest.mark.parametrize("other", ["run-0123456789ab", "."])
@pytest.mark.parametrize("beside", ["nothing", "shoal run", "REDIS_URL"])
def test_what_a_job_of_any_queue_of_the_store_goes_on_with_is_kept(
    store: Store, other: str, beside: str, redis_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    embeddings_id = _incomplete(store)
    path = store.embeddings(embeddings_id).plan.source.path
    _in_queue(store, "." if other != "." else "run-fedcba987654", "cluster", {"embeddings": "others"})
    _in_queue(store, other, "extract:torch", {"images": {"path": path}})
    clustering = _in_queue(store, other, "cluster", {"embeddings": "others"})
    work = _write(store.layout.work(f"c-{clustering}") / "train.f32", age_s=OLD_S).parent
    command = ["gc", "--store", str(store.root), "--incomplete-days", "0", "--really"]
    monkeypatch.delenv("REDIS_URL", raising=False)
    server = Server(store.root, "shoal run", store.root / ".queue" / "run-aaaaaaaaaaaa")
    process = None
    if beside == "REDIS_URL":
        monkeypatch.setenv("REDIS_URL", redis_server)
    elif beside == "shoal run":
        server.lock()
        process, url = server.start()
        wait_for_server(process, url)
        runfile.write(store.root, replace(server.running, queue=url))
    try:
        done = CliRunner().invoke(cli, command)
    finally:
        if process is not None:
            process.kill()
        server.close()
    assert done.exit_code == 0, done.output
    assert (store.embeddings_ids(), work.exists()) == ([embeddings_id], True), done.output


def test_work_of_an_unfinished_job_is_kept_however_old_it_is(store: Store, queue: JobQueue) -> None:
    waiting, _ = queue.submit("cluster", {})
    work = _write(store.layout.work(f"c-{waiting.id}") / "train.f32", age_s=OLD_S).parent
    assert list(find(store, queue)) == []
    queue.cancel(waiting.id)
    assert [each.path for each in find(store, queue)] == [work]
