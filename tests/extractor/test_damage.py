"""An extract request finds damage in what it left earlier, mends exactly that and says so; routes live with damage."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from extractor import pipeline
from extractor.api import routes
from fastapi.testclient import TestClient
from shoal.errors import StoreReadOnly
from shoal.jobs.child import JobContext
from shoal.jobs.queue import JobQueue
from shoal.settings import Settings
from shoal.store import Store

Make = Callable[..., Path]
NewJob = Callable[..., JobContext]


@pytest.fixture
def client(settings: Settings, queue: JobQueue) -> TestClient:
    return TestClient(routes.build(settings, queue, Store(settings.store)), raise_server_exceptions=False)


@pytest.fixture
def store(settings: Settings) -> Store:
    return Store(settings.store)


@pytest.fixture
def embeddings_id(settings: Settings, make: Make, job: NewJob) -> str:
    """15 images in three shards."""
    for i in range(15):
        make(f"{i:02}.png", i)
    return str(pipeline.run(job(), settings)["embeddings"])


def run_again(settings: Settings, store: Store, context: JobContext) -> dict[str, Any]:
    result = pipeline.run(context, settings)
    assert store.verify(result["embeddings"]).problems == []
    return result


@pytest.mark.parametrize("resumed", [True, False])
@pytest.mark.parametrize("kind", ["img_emb", "metadata", "thumbs", "commits"])
@pytest.mark.parametrize("lost", [True, False])
def test_exactly_the_damaged_shards_are_embedded_again(
    settings: Settings, store: Store, embeddings_id: str, job: NewJob, kind: str, lost: bool, resumed: bool
) -> None:
    """Fails without: the look at each committed file before a job goes on from it."""
    before = store.embeddings(embeddings_id)
    vectors, owners = before.take(np.arange(15)), {shard: each.token for shard, each in before.commits.items()}
    path = sorted((before.layout.folder / kind).iterdir())[1]
    if lost:
        path.unlink()
    else:
        path.write_bytes(bytes(path.stat().st_size))
    context = job(checkpoint={"embeddings": embeddings_id} if resumed else None)
    result = run_again(settings, store, context)
    assert (result["embeddings"], result["repaired_shards"], result["resumed_rows"]) == (embeddings_id, 1, 10)
    after = store.embeddings(embeddings_id)
    np.testing.assert_array_equal(after.take(np.arange(15)), vectors)
    assert {shard for shard, each in after.commits.items() if each.token != owners[shard]} == {1}
    again = run_again(settings, store, job())
    assert (again["repaired_shards"], again["resumed_rows"]) == (0, 15)


@pytest.mark.parametrize("name", ["plan.json", "listing.parquet", "manifest.json"])
@pytest.mark.parametrize("lost", [True, False])
@pytest.mark.parametrize("resumed", [True, False])
def test_damaged_documents_are_written_again_and_no_image_is_embedded(
    settings: Settings, store: Store, embeddings_id: str, job: NewJob, name: str, lost: bool, resumed: bool
) -> None:
    path = store.layout.embeddings(embeddings_id).folder / name
    if lost:
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:40])
    result = run_again(settings, store, job(checkpoint={"embeddings": embeddings_id} if resumed else None))
    assert (result["embeddings"], result["repaired_shards"], result["resumed_rows"]) == (embeddings_id, 0, 15)


def test_a_folder_in_which_nothing_is_left_is_filled_again(
    settings: Settings, store: Store, embeddings_id: str, job: NewJob
) -> None:
    folder = store.layout.embeddings(embeddings_id).folder
    shutil.rmtree(folder)
    folder.mkdir()
    assert run_again(settings, store, job())["rows"] == 15


@pytest.fixture
def three(settings: Settings, embeddings_id: str, job: NewJob) -> list[str]:
    others = [str(pipeline.run(job(name=name), settings)["embeddings"]) for name in ("other", "third")]
    return [embeddings_id, *others]


@pytest.mark.parametrize("name", ["plan.json", "listing.parquet", "manifest.json", "commits/00001.json"])
@pytest.mark.parametrize("content", [None, b"", b"x", b"7", b"[]"])
def test_one_damaged_set_does_not_hide_the_others(
    client: TestClient, store: Store, three: list[str], name: str, content: bytes | None
) -> None:
    bad, *good = three
    path = store.layout.embeddings(bad).folder / name
    path.unlink() if content is None else path.write_bytes(content)
    if (name, content) == ("manifest.json", None):
        assert client.get(f"/embeddings/{bad}").json()["complete"] is False
        return
    listed = {each["id"]: each for each in client.get("/embeddings").json()["embeddings"]}
    assert set(listed) == set(three)
    assert [each for each in three if listed[each].get("damaged")] == [bad]
    assert listed[good[0]]["rows"] == 15
    one = client.get(f"/embeddings/{bad}")
    assert (one.status_code, one.json()["code"]) == (500, "store_corrupt")
    assert listed[bad]["problem"]["code"] == "store_corrupt"
    assert listed[bad]["problem"]["detail"] == one.json()["detail"]
    assert f"shoal repair {bad}" in one.json()["detail"]
    assert client.delete(f"/embeddings/{bad}").status_code == 204
    assert client.get(f"/embeddings/{bad}").status_code == 404
    assert {each["id"] for each in client.get("/embeddings").json()["embeddings"]} == set(good)


def test_an_empty_folder_is_listed_as_damaged_and_can_be_deleted(client: TestClient, store: Store) -> None:
    (store.layout.embeddings_folder / "empty-1").mkdir(parents=True)
    assert [each["id"] for each in client.get("/embeddings").json()["embeddings"]] == ["empty-1"]
    assert client.get("/embeddings/empty-1").json()["code"] == "store_corrupt"
    assert client.delete("/embeddings/empty-1").status_code == 204
    assert client.get("/embeddings").json() == {"embeddings": []}


def test_damaged_embeddings_that_a_job_waits_for_stay(
    client: TestClient, store: Store, queue: JobQueue, three: list[str]
) -> None:
    queue.submit("cluster", {"embeddings": three[0], "clusters": 2})
    (store.layout.embeddings(three[0]).folder / "plan.json").write_text("{")
    assert client.delete(f"/embeddings/{three[0]}").json()["code"] == "embeddings_in_use"


def test_a_set_deleted_while_it_is_listed_is_left_out(
    client: TestClient, store: Store, three: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from shoal.store import EmbeddingSet

    summary = EmbeddingSet.summary

    def deleting(found: EmbeddingSet) -> dict[str, Any]:
        if found.id == three[0]:
            store.delete_embeddings(found.id)
        return summary(found)

    monkeypatch.setattr(EmbeddingSet, "summary", deleting)
    assert {each["id"] for each in client.get("/embeddings").json()["embeddings"]} == set(three[1:])


def test_a_store_that_cannot_be_written_is_read_and_says_why_nothing_is_written(
    client: TestClient, settings: Settings, embeddings_id: str, job: NewJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, "rename", refuse)
    monkeypatch.setattr(Path, "mkdir", refuse)
    assert client.get(f"/embeddings/{embeddings_id}").json()["complete"]
    answer = client.delete(f"/embeddings/{embeddings_id}")
    assert (answer.status_code, answer.json()["code"]) == (500, "store_read_only")
    assert str(settings.store) in answer.json()["detail"]
    with pytest.raises(StoreReadOnly, match="read-only"):
        pipeline.run(job(name="new"), settings)
    assert pipeline.run(job(), settings)["resumed_rows"] == 15
