"""`/clusterings/{id}/names` and `/moves`, and the names in every answer that shows clusters."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow.ipc as ipc
import pyarrow.parquet as pq
import pytest
from clusterer.api.clusterings import build
from fastapi.testclient import TestClient
from httpx2 import Response
from shoal.jobs.queue import JobQueue
from shoal.keys import KeyStore, Scope
from shoal.settings import Settings
from shoal.store import Store
from shoal.store.clustering import Clustering

Planted = Callable[..., tuple[Any, list[str]]]
MakeSet = Callable[..., str]
RunJob = Callable[..., Clustering]


def code_of(answer: Response) -> tuple[int, str]:
    assert answer.headers["content-type"] == "application/problem+json"
    return answer.status_code, answer.json()["code"]


class Names:
    """The names of one clustering; every write is made for the state that was read before it."""

    def __init__(self, api: TestClient, clustering: Clustering) -> None:
        self.api, self.url = api, f"/clusterings/{clustering.id}"

    @property
    def etag(self) -> dict[str, str]:
        return {"If-Match": self.api.get(f"{self.url}/names").headers["etag"]}

    def put(self, body: object) -> Response:
        return self.api.put(f"{self.url}/names", json=body, headers=self.etag)

    def patch(self, body: object, what: str = "names", **query: str | int) -> Response:
        return self.api.patch(f"{self.url}/{what}", json=body, headers=self.etag, params=query)

    def undo(self, **query: str | int) -> Response:
        return self.api.post(f"{self.url}/names/undo", headers=self.etag, params=query)


@pytest.fixture
def names(api: TestClient, clustering: Clustering) -> Names:
    return Names(api, clustering)


def test_put_replaces_all_names_and_patch_changes_some(names: Names) -> None:
    assert names.api.get(f"{names.url}/names").json() == {}
    answer = names.put({"0": {"name": "shoes", "flag": "review"}, "1": {"merged_into": 0}})
    assert answer.json() == {"0": {"name": "shoes", "flag": "review"}, "1": {"merged_into": 0}}
    assert answer.headers["etag"] == names.etag["If-Match"]
    assert names.patch({"0": {"flag": None}, "2": {"name": "hats"}}).json() == {
        "0": {"name": "shoes"},
        "1": {"merged_into": 0},
        "2": {"name": "hats"},
    }
    assert names.patch({"1": None}).json() == {"0": {"name": "shoes"}, "2": {"name": "hats"}}
    assert names.put({"3": {"name": "bags"}}).json() == {"3": {"name": "bags"}}


def test_of_two_who_read_the_same_names_the_second_is_told(names: Names) -> None:
    read = names.etag
    first = names.api.patch(f"{names.url}/names", json={"0": {"name": "mine"}}, headers=read)
    assert first.status_code == 200
    for method, path, body in (
        ("PUT", "names", {"1": {"name": "theirs"}}),
        ("PATCH", "names", {"1": {"name": "theirs"}}),
        ("PATCH", "moves", {"1": 2}),
        ("POST", "names/undo", None),
    ):
        url = f"{names.url}/{path}"
        assert code_of(names.api.request(method, url, json=body, headers=read)) == (412, "precondition_failed")
        assert code_of(names.api.request(method, url, json=body)) == (428, "precondition_required")
        every = names.api.request(method, url, json=body, headers={"If-Match": "*"})
        assert code_of(every) == (428, "precondition_required")
    assert names.api.get(f"{names.url}/names").json() == {"0": {"name": "mine"}}
    either = {"If-Match": f'"0-0", {first.headers["etag"]}'}
    assert names.api.patch(f"{names.url}/names", json={"1": {"name": "ours"}}, headers=either).status_code == 200


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"0": {"name": ""}}, "out_of_range"),
        ({"0": {"name": " shoes"}}, "invalid_value"),
        ({"0": {"name": "two\nlines"}}, "invalid_value"),
        ({"0": {"name": "x" * 201}}, "out_of_range"),
        ({"0": {"nam": "shoes"}}, "unknown_field"),
        ({"00": {"name": "shoes"}}, "invalid_value"),
        ({"-1": {"name": "shoes"}}, "invalid_value"),
        ({"4": {"name": "shoes"}}, "invalid_request"),
        ({"0": {"merged_into": 4}}, "invalid_request"),
        ({"0": {"merged_into": "1"}}, "wrong_type"),
        ({"0": {"merged_into": 0}}, "merge_cycle"),
        ({"0": {"merged_into": 1}, "1": {"merged_into": 2}, "2": {"merged_into": 0}}, "merge_cycle"),
    ],
)
def test_what_cannot_be_said_of_a_cluster_is_refused(names: Names, body: dict[str, Any], code: str) -> None:
    for answer in (names.put(body), names.patch(body)):
        assert answer.status_code == 422, answer.text
        found = answer.json()
        assert code in {found["code"], *(each["code"] for each in found.get("errors", []))}
    assert names.etag == {"If-Match": '"0"'}


def test_moves_are_of_rows_that_exist_and_of_one_set(names: Names, clustering: Clustering) -> None:
    train, val = clustering.scored
    assert names.patch({"3": 1, "7": 2}, "moves").json() == {"3": 1, "7": 2}
    assert names.patch({"39": 0}, "moves", embeddings=val).json() == {"39": 0}
    assert names.patch({"7": None}, "moves", embeddings=train).json() == {"3": 1}
    for body, query in (({"240": 1}, {}), ({"40": 1}, {"embeddings": val}), ({"1": 4}, {}), ({"x": 1}, {})):
        assert names.patch(body, "moves", **query).status_code == 422
    assert code_of(names.patch({"1": 1}, "moves", embeddings="other")) == (404, "not_found")


def test_moves_in_a_subset_are_of_the_rows_that_were_clustered(
    api: TestClient, planted: Planted, make_set: MakeSet, run_job: RunJob
) -> None:
    whole = make_set("mine", *planted(120))
    names = Names(api, run_job(whole, where={"labels": ["c", "d"]}, clusters=2, seed=0))
    assert names.patch({"2": 1, "119": 0}, "moves").json() == {"2": 1, "119": 0}
    for row in (0, 117, 120):
        answer = names.patch({str(row): 1}, "moves")
        assert code_of(answer) == (422, "invalid_request")
        assert answer.json()["detail"].endswith(f"has clustered 60 rows of {whole}, but not {row}.")


def test_history_tells_who_changed_what_and_undo_takes_it_back(names: Names) -> None:
    names.put({"0": {"name": "shoes"}})
    names.patch({"0": {"name": "boots"}})
    names.patch({"3": 1}, "moves")
    undone = names.undo()
    assert undone.status_code == 200
    assert (undone.json()["undoes"], undone.json()["moves"]) == (
        3,
        [{"embeddings": names.api.get(names.url).json()["scored"][0], "row": 3, "before": 1, "after": None}],
    )
    assert names.undo(entry=2).json()["clusters"] == [
        {"cluster": 0, "field": "name", "before": "boots", "after": "shoes"}
    ]
    assert code_of(names.undo(entry=2)) == (409, "undo_conflict")
    history = names.api.get(f"{names.url}/names/history").json()
    assert history["total"] == 5
    assert [(each["entry"], each["undone"], each["undoes"]) for each in history["entries"]] == [
        (5, False, 2),
        (4, False, 3),
        (3, True, None),
        (2, True, None),
        (1, False, None),
    ]
    assert {each["author"] for each in history["entries"]} == {None}
    page = names.api.get(f"{names.url}/names/history", params={"before": 3, "limit": 1}).json()
    assert [each["entry"] for each in page["entries"]] == [2]
    assert names.api.get(f"{names.url}/moves").json() == {}


def test_the_author_is_the_name_of_the_key(
    settings: Settings, queue: JobQueue, store: Store, clustering: Clustering, redis_server: str
) -> None:
    locked = Settings(store=store.root, auth="required", redis_url=redis_server)
    keys = KeyStore.from_url(redis_server)
    tokens = {scope: keys.create(f"key of {scope}", scope)[1] for scope in (Scope.READ, Scope.SUBMIT)}
    with TestClient(build(locked, queue, store)) as api:
        url = f"/clusterings/{clustering.id}/names"
        statuses = {}
        for scope, token in tokens.items():
            headers = {"Authorization": f"Bearer {token}", "If-Match": '"0"'}
            statuses[scope] = api.put(url, json={"0": {"name": "a"}}, headers=headers).status_code
        history = api.get(f"{url}/history", headers={"Authorization": f"Bearer {tokens[Scope.READ]}"}).json()
    keys.close()
    assert statuses == {Scope.READ: 403, Scope.SUBMIT: 200}
    assert [each["author"] for each in history["entries"]] == ["key of submit"]


def test_names_appear_wherever_clusters_do(names: Names, store: Store, clustering: Clustering) -> None:
    train, val = clustering.scored
    plain = pq.read_table(io.BytesIO(names.api.get(f"{names.url}/assignments").content))
    assert plain.column("merged_cluster").to_pylist() == plain.column("cluster").to_pylist()
    assert plain.column("name").null_count == plain.num_rows
    names.put({"0": {"name": "=shoes & <b>"}, "1": {"merged_into": 0, "name": "hidden"}, "2": {"flag": "review"}})
    moved = next(row for row in plain.to_pylist() if row["embeddings"] == val and row["cluster"] == 3)["row"]
    names.patch({str(moved): 1}, "moves", embeddings=val)

    merged = {0: 0, 1: 0, 2: 2, 3: 3}
    said = {0: ("=shoes & <b>", None), 2: (None, "review"), 3: (None, None)}
    table = pq.read_table(io.BytesIO(names.api.get(f"{names.url}/assignments").content))
    assert table.select(plain.column_names[:-3]) == plain.select(plain.column_names[:-3]), "k-means' own stay"
    for row in table.to_pylist():
        is_moved = row["embeddings"] == val and row["row"] == moved
        assert row["merged_cluster"] == (0 if is_moved else merged[row["cluster"]])
        assert (row["name"], row["flag"]) == said[row["merged_cluster"]]
    lines = names.api.get(f"{names.url}/assignments", params={"format": "jsonl"}).text.splitlines()
    assert [json.loads(line) for line in lines] == table.to_pylist()
    text = names.api.get(f"{names.url}/assignments", params={"format": "csv"}).text
    assert '"\'=shoes & <b>"' in text
    assert '"=' not in text

    for each in names.api.get(f"{names.url}/clusters").json()["clusters"]:
        assert each["merged_cluster"] == merged[each["cluster"]]
        assert (each["name"], each["flag"]) == said[each["merged_cluster"]]
    assert names.api.get(f"{names.url}/clusters/1").json()["name"] == "=shoes & <b>"

    vectors = store.embeddings(train).take(np.arange(5)).tolist()
    answer = names.api.post(f"{names.url}/assign", json={"embeddings": vectors}).json()
    for each, row in zip(answer, table.to_pylist()[:5], strict=True):
        assert (each["cluster"], each["merged_cluster"]) == (row["cluster"], merged[row["cluster"]])
        assert each["name"] == said[each["merged_cluster"]][0]
    body = io.BytesIO()
    np.save(body, np.asarray(vectors, np.float32))
    stream = names.api.post(
        f"{names.url}/assign", content=body.getvalue(), headers={"Content-Type": "application/x-npy"}
    )
    assert ipc.open_stream(stream.content).read_all().column("name").to_pylist() == [each["name"] for each in answer]

    page = names.api.get(f"{names.url}/report").text
    assert "<h3><span>1</span> <b>→ 0</b> <b>=shoes &amp; &lt;b&gt;</b>" in page
    assert "<h3><span>2</span> <b>[review]</b>" in page
    assert "<h3><span>3</span> " in page
    assert store.clustering(clustering.id).layout.report_html.read_bytes() != page.encode()


def test_a_clustering_without_names_shows_its_stored_report(names: Names, clustering: Clustering) -> None:
    assert names.api.get(f"{names.url}/report").content == clustering.layout.report_html.read_bytes()


def test_an_unknown_clustering_has_no_names(api: TestClient) -> None:
    for path in ("names", "names/history", "moves"):
        assert code_of(api.get(f"/clusterings/other/{path}")) == (404, "clustering_not_found")
    answer = api.put("/clusterings/other/names", json={}, headers={"If-Match": '"0"'})
    assert code_of(answer) == (404, "clustering_not_found")


def test_deleting_a_clustering_deletes_its_names(names: Names, store: Store, clustering: Clustering) -> None:
    names.put({"0": {"name": "shoes"}})
    folder = store.layout.annotations(clustering.id).folder
    assert folder.is_dir()
    assert names.api.delete(names.url).status_code == 204
    assert not folder.exists()
    assert code_of(names.api.get(f"{names.url}/names")) == (404, "clustering_not_found")
