"""`POST /search`: what it takes, what it answers, and what it refuses."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from clusterer.api.loaded import LoadedEmbeddingSets
from clusterer.search.loaded import LoadedEmbeddings, Reader, sketch_bytes
from fastapi.testclient import TestClient
from httpx2 import Response
from shoal.errors import EmbeddingsIncomplete, EmbeddingsNotFound, StoreCorrupt
from shoal.importer import import_embeddings
from shoal.jobs.queue import JobQueue
from shoal.process import free_port
from shoal.store import Store
from shoal.store.reader import EmbeddingSet

from tests.clusterer.api.test_busy import _answers
from tests.clusterer.api.test_images import IMAGE, Extractor, answer_of, extractor

__all__ = ["extractor"]  # a fixture
Planted = Callable[..., tuple[Any, list[str]]]
MakeSet = Callable[..., str]


@pytest.fixture
def mine(make_set: MakeSet, planted: Planted) -> str:
    """240 rows around four corners, with labels."""
    return make_set("mine", *planted())


def answer_for(api: TestClient, embeddings: str, **fields: Any) -> list[dict[str, Any]]:
    answer = api.post("/search", json={"embeddings": embeddings, **fields})
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()
    return found


def code_of(answer: Response) -> tuple[int, str]:
    assert answer.headers["content-type"] == "application/problem+json"
    return answer.status_code, answer.json()["code"]


def expected(vectors: Any, vector: Any, k: int, leave_out: int | None = None) -> list[int]:
    wide = vectors.astype(np.float64)
    found = (wide @ vector / np.linalg.norm(wide, axis=1) / np.linalg.norm(vector)).astype(np.float32)
    order = np.lexsort((np.arange(len(found)), -found))
    return [int(row) for row in order if row != leave_out][:k]


def test_rows_are_answered_with_path_label_and_similarity(api: TestClient, mine: str, planted: Planted) -> None:
    vectors, labels = planted()
    found = answer_for(api, mine, row=7, k=5)
    assert [each["row"] for each in found] == expected(vectors, vectors[7].astype(float), 5, leave_out=7)
    for each in found:
        row = each["row"]
        cosine = float(vectors[7] @ vectors[row] / np.linalg.norm(vectors[7]) / np.linalg.norm(vectors[row]))
        assert each == {
            "row": row,
            "image_path": f"mine/{row:05d}.png",
            "similarity": pytest.approx(cosine, abs=1e-6),
            "label": labels[row],
        }
    assert [each["similarity"] for each in found] == sorted((each["similarity"] for each in found), reverse=True)


def test_a_vector_finds_its_own_row_and_a_row_does_not(api: TestClient, mine: str, planted: Planted) -> None:
    vectors, _ = planted()
    by_row = answer_for(api, mine, row=7, k=5)
    by_vector = answer_for(api, mine, vector=(3 * vectors[7]).astype(float).tolist(), k=6)
    assert by_vector[0]["row"] == 7
    assert by_vector[0]["similarity"] == pytest.approx(1)
    assert [each["row"] for each in by_vector[1:]] == [each["row"] for each in by_row]
    assert len(answer_for(api, mine, row=7)) == 10
    assert len(answer_for(api, mine, row=7, k=1000)) == 239
    assert len(answer_for(api, mine, vector=[1.0] * 16, k=1000)) == 240


def test_rows_of_the_same_similarity_come_by_number(api: TestClient, make_set: MakeSet, planted: Planted) -> None:
    vectors, _ = planted(30)
    copies = make_set("copies", vectors[np.arange(300) % 30])
    found = [each["row"] for each in answer_for(api, copies, row=35, k=9)]
    assert found == [5, *range(65, 300, 30)]


def test_an_image_is_embedded_by_the_model_of_the_embeddings(
    api: TestClient, mine: str, planted: Planted, extractor: Extractor, store: Store
) -> None:
    vectors, _ = planted()
    digest = store.embeddings(mine).plan.model.digest
    sent = extractor(200, answer_of(vectors[7:8]), {"X-Shoal-Model-Digest": digest})
    found = answer_for(api, mine, image=IMAGE, k=4)
    assert found == answer_for(api, mine, vector=vectors[7].astype(float).tolist(), k=4)
    assert (sent[0]["path"], sent[0]["model"], sent[0]["input"]) == ("/v1/embeddings", "raw_pixels", [IMAGE])


def test_a_text_is_embedded_by_the_model_of_the_embeddings(
    api: TestClient, mine: str, planted: Planted, extractor: Extractor
) -> None:
    vectors, _ = planted()
    sent = extractor(200, answer_of(vectors[7:8]))
    found = answer_for(api, mine, text="a red boat", k=4)
    assert found == answer_for(api, mine, vector=vectors[7].astype(float).tolist(), k=4)
    assert sent[0]["input"] == ["a red boat"]
    extractor(422, {"code": "invalid_request", "detail": "`input` 0 is not a data URI.", "field": "input"})
    refused = api.post("/search", json={"embeddings": mine, "text": "a boat"})
    assert (refused.status_code, refused.json()["field"]) == (422, "text")


def test_a_model_that_has_changed_is_refused(
    api: TestClient, mine: str, planted: Planted, extractor: Extractor
) -> None:
    extractor(200, answer_of(planted(1)[0]), {"X-Shoal-Model-Digest": "0" * 64})
    answer = api.post("/search", json={"embeddings": mine, "image": IMAGE})
    assert code_of(answer) == (409, "model_changed")
    assert "since these embeddings were extracted" in answer.json()["detail"]
    extractor(200, answer_of(np.zeros((1, 17))))
    assert code_of(api.post("/search", json={"embeddings": mine, "image": IMAGE})) == (409, "model_changed")


def test_what_the_extractor_refuses_or_embeds_badly_is_reported(
    api: TestClient, mine: str, extractor: Extractor
) -> None:
    extractor(422, {"code": "image_truncated", "detail": "No.", "input": 0})
    assert code_of(api.post("/search", json={"embeddings": mine, "image": IMAGE})) == (422, "image_truncated")
    extractor(422, {"code": "invalid_request", "detail": "`input` 0 is not a data URI.", "field": "input"})
    answer = api.post("/search", json={"embeddings": mine, "image": "a.jpg"})
    assert (answer.json()["detail"], answer.json()["field"]) == ("`image` is not a data URI.", "image")
    extractor(200, answer_of(np.full((1, 16), np.nan)))
    assert code_of(api.post("/search", json={"embeddings": mine, "image": IMAGE})) == (422, "not_finite")
    extractor(200, answer_of(np.zeros((1, 16))))
    answer = api.post("/search", json={"embeddings": mine, "image": IMAGE})
    assert code_of(answer) == (422, "vectors_invalid")
    assert answer.json()["field"] == "image"


def test_imported_embeddings_take_rows_and_vectors_only(
    api: TestClient, store: Store, planted: Planted, tmp_path: Path
) -> None:
    np.save(tmp_path / "mine.npy", planted()[0])
    found = import_embeddings(store, tmp_path / "mine.npy", name="imported", labels=None, split=None)
    answer = api.post("/search", json={"embeddings": found, "image": IMAGE})
    assert code_of(answer) == (422, "invalid_request")
    assert answer.json()["field"] == "image"
    assert len(answer_for(api, found, row=0)) == 10


@pytest.mark.parametrize(
    ("fields", "code", "field"),
    [
        ({}, "invalid_value", None),
        ({"row": 1, "vector": [1.0] * 16}, "invalid_value", None),
        ({"row": 1, "image": IMAGE}, "invalid_value", None),
        ({"row": 240}, "invalid_request", "row"),
        ({"row": 2**62}, "invalid_request", "row"),
        ({"row": -1}, "out_of_range", "row"),
        ({"row": 1.5}, "wrong_type", "row"),
        ({"row": 2**70}, "out_of_range", "row"),
        ({"vector": [1.0] * 15}, "dimension_mismatch", "vector"),
        ({"vector": [1.0] * 17}, "dimension_mismatch", "vector"),
        ({"vector": []}, "dimension_mismatch", "vector"),
        ({"vector": [0.0] * 16}, "vectors_invalid", "vector"),
        ({"vector": [float("nan")] * 16}, "not_finite", "vector.0"),
        ({"vector": [1.0, float("inf")] * 8}, "not_finite", "vector.1"),
        ({"row": 1, "k": 0}, "out_of_range", "k"),
        ({"row": 1, "k": 1001}, "out_of_range", "k"),
        ({"row": 1, "clusters": 3}, "unknown_field", "clusters"),
        ({"image": ""}, "out_of_range", "image"),
    ],
)
def test_what_cannot_be_sought_is_named(
    api: TestClient, mine: str, fields: dict[str, Any], code: str, field: str | None
) -> None:
    body = json.dumps({"embeddings": mine, **fields})
    answer = api.post("/search", content=body, headers={"content-type": "application/json"})
    assert code_of(answer) == (422, code)
    known = answer.json()
    named = known["field"] if "field" in known else known["errors"][0]["field"]
    assert named == (field or ""), known


def test_embeddings_that_cannot_be_searched_are_named(api: TestClient, make_set: MakeSet, planted: Planted) -> None:
    for name in ("missing-1", "x" * 160):
        assert code_of(api.post("/search", json={"embeddings": name, "row": 0})) == (404, "embeddings_not_found")
    unfinished = make_set("unfinished", *planted(), finish=False)
    answer = api.post("/search", json={"embeddings": unfinished, "row": 0})
    assert code_of(answer) == (409, "embeddings_incomplete")
    zeros = planted(3)[0]
    zeros[1] = 0
    answer = api.post("/search", json={"embeddings": make_set("zeros", zeros), "row": 1})
    assert code_of(answer) == (422, "vectors_invalid")
    assert "Row 1 is all zeros" in answer.json()["detail"]


def test_a_set_that_is_deleted_is_not_found_any_more(
    api: TestClient, store: Store, mine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer_for(api, mine, row=0)
    original = Reader.mapped

    def delete(reader: Reader, place: int) -> Any:
        if mine in store.embeddings_ids():
            store.delete_embeddings(mine)
        return original(reader, place)

    # Deleted in the midst of a search, and before one.
    monkeypatch.setattr(Reader, "mapped", delete)
    for _ in range(2):
        assert code_of(api.post("/search", json={"embeddings": mine, "row": 0})) == (404, "embeddings_not_found")


def test_damage_is_reported(api: TestClient, store: Store, mine: str) -> None:
    [path] = store.layout.embeddings(mine).folder.glob("img_emb/*1.npy")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    answer = api.post("/search", json={"embeddings": mine, "row": 0})
    assert code_of(answer) == (500, "store_corrupt")
    assert path.name in answer.json()["detail"]


def test_the_time_limit_of_a_request_ends_a_search(api: TestClient, mine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    answer_for(api, mine, row=0)
    monkeypatch.setattr("shoal.web.pools.REQUEST_S", 0.0)

    async def run(pool: object, function: Callable[..., Any], *args: Any) -> Any:
        return function(*args)  # The limit of a call is another one.

    monkeypatch.setattr("shoal.web.pools.Pool.run", run)
    assert code_of(api.post("/search", json={"embeddings": mine, "row": 0})) == (503, "unavailable")


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, bool]]:
    """Which sets were read, and whether a sketch was made."""
    seen: list[tuple[str, bool]] = []
    original = LoadedEmbeddings.of

    def of(embeddings: EmbeddingSet, limit: int) -> LoadedEmbeddings:
        found = original(embeddings, limit)
        seen.append((embeddings.id, found.norms is None))
        return found

    monkeypatch.setattr(LoadedEmbeddings, "of", of)
    return seen


def test_the_sets_searched_last_stay_loaded(
    store: Store, make_set: MakeSet, planted: Planted, reads: list[tuple[str, bool]]
) -> None:
    one, two, last = (make_set(name, planted()[0]) for name in ("one", "two", "last"))
    size = LoadedEmbeddings.of(store.embeddings(one), 2**30).bytes
    reads.clear()

    async def use() -> None:
        kept = LoadedEmbeddingSets(store, 2 * size + size // 2)
        for each in (one, two, one, last, one, two):
            assert (await kept.get(each)).id == each
        assert kept.ids == [one, two]

    asyncio.run(use())
    assert [name for name, _ in reads] == [one, two, last, two]


def test_a_set_too_large_for_the_cache_has_no_sketch(store: Store, mine: str, reads: list[tuple[str, bool]]) -> None:
    needed = sketch_bytes(store.embeddings(mine))
    for limit in (needed, needed - 1, 0):
        asyncio.run(LoadedEmbeddingSets(store, limit).get(mine))
    assert reads == [(mine, True), (mine, False), (mine, False)]


def test_sets_are_read_one_at_a_time(
    store: Store, make_set: MakeSet, planted: Planted, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [make_set(name, planted()[0]) for name in ("one", "two", "three")]
    running: list[int] = [0, 0]
    original = LoadedEmbeddings.of

    def of(embeddings: EmbeddingSet, limit: int) -> LoadedEmbeddings:
        running[0] += 1
        running[1] = max(running)
        try:
            return original(embeddings, limit)
        finally:
            running[0] -= 1

    monkeypatch.setattr(LoadedEmbeddings, "of", of)

    async def use() -> None:
        kept = LoadedEmbeddingSets(store, 2**30)
        await asyncio.gather(*(kept.get(each) for each in names for _ in range(3)))
        assert sorted(kept.ids) == sorted(names)

    asyncio.run(use())
    assert running == [0, 1]


def test_what_was_made_again_is_read_again(
    store: Store, make_set: MakeSet, planted: Planted, mine: str, reads: list[tuple[str, bool]]
) -> None:
    async def use() -> None:
        kept = LoadedEmbeddingSets(store, 2**30)
        await kept.get(mine)
        layout = store.layout.embeddings(mine)
        manifest = layout.manifest.read_bytes()
        layout.manifest.unlink()
        with pytest.raises(EmbeddingsIncomplete):
            await kept.get(mine)
        assert kept.ids == []
        layout.manifest.write_bytes(manifest)
        await kept.get(mine)
        shutil.rmtree(layout.folder)
        with pytest.raises(EmbeddingsNotFound):
            await kept.get(mine)
        assert kept.ids == []

    asyncio.run(use())
    assert len(reads) == 2


def test_a_damaged_set_is_not_kept(store: Store, mine: str) -> None:
    [path] = store.layout.embeddings(mine).folder.glob("img_emb/*1.npy")
    whole = path.read_bytes()
    path.write_bytes(bytes(len(whole)))

    async def use() -> None:
        kept = LoadedEmbeddingSets(store, 2**30)
        for _ in range(2):
            with pytest.raises(StoreCorrupt, match=path.name):
                await kept.get(mine)
        path.write_bytes(whole)
        assert (await kept.get(mine)).id == mine

    asyncio.run(use())


@pytest.fixture
def service(
    store: Store, redis_server: str, queue: JobQueue, wait_until: Callable[..., None]
) -> Iterator[httpx.Client]:
    """The clusterer's API in a process of its own."""
    address = f"http://127.0.0.1:{free_port()}"
    environment = {**os.environ, "REDIS_URL": redis_server, "SHOAL_STORE": str(store.root), "SHOAL_LOG_LEVEL": "error"}
    command = [sys.executable, "-m", "clusterer", "api", "--port", address.rpartition(":")[2]]
    process = subprocess.Popen(command, env=environment)
    try:
        wait_until(lambda: _answers(address), what="an answer")
        with httpx.Client(base_url=address, timeout=60) as http:
            yield http
    finally:
        process.terminate()
        process.wait()


def test_a_real_service_searches_over_loopback(
    service: httpx.Client, store: Store, make_set: MakeSet, planted: Planted
) -> None:
    vectors, labels = planted(5000, spread=0.8)
    mine = make_set("mine", vectors, labels, shard_rows=1000)
    for row in (0, 999, 1000, 4999):
        answer = service.post("/search", json={"embeddings": mine, "row": row, "k": 25})
        assert [each["row"] for each in answer.json()] == expected(vectors, vectors[row].astype(float), 25, row)
    described = service.get("/openapi.json").json()
    assert described["paths"]["/search"]["post"]["summary"].startswith("Find the rows")
    assert set(described["components"]["schemas"]["Neighbour"]["properties"]) == {
        "row",
        "image_path",
        "similarity",
        "label",
    }
