"""The groups of a clustering and their images, as pages ask for them."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Callable
from itertools import chain
from typing import Any

import numpy as np
import pytest
from clusterer.results import groups as results
from clusterer.results.tables import describe_clusters
from fastapi.testclient import TestClient
from httpx2 import Response
from shoal.store import RowMetadata, Store
from shoal.store.clustering import Clustering

RunJob = Callable[..., Clustering]
MakeSet = Callable[..., str]
Planted = Callable[..., tuple[Any, list[str]]]
LISTED = ["image_id", "image_path", "label"]


def code_of(answer: Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["code"]


def change(api: TestClient, clustering: Clustering, what: str, changes: dict[str, Any], **query: str) -> None:
    etag = api.get(f"/clusterings/{clustering.id}/names").headers["etag"]
    path = f"/clusterings/{clustering.id}/{what}"
    assert api.patch(path, json=changes, params=query, headers={"If-Match": etag}).status_code == 200


def groups(api: TestClient, clustering: Clustering, **query: Any) -> dict[str, Any]:
    answer = api.get(f"/clusterings/{clustering.id}/clusters", params={"merged": True, **query})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def members(api: TestClient, clustering: Clustering, cluster: int, **query: Any) -> dict[str, Any]:
    answer = api.get(f"/clusterings/{clustering.id}/clusters/{cluster}/members", params=query)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def make_again_without_the_first_image(store: Store, embeddings_id: str) -> None:
    """As a job does that cannot read it: every other image has another row."""
    old = store.embeddings(embeddings_id)
    plan, listing = old.plan, old.metadata(LISTED).select(LISTED)
    store.delete_embeddings(embeddings_id)
    images = [RowMetadata(*each.values()) for each in listing.to_pylist()]
    assert store.create_embeddings(plan, listing).id == embeddings_id
    for shard in range(plan.shards):
        start, stop = plan.shard_range(shard)
        with store.shard_writer(embeddings_id, shard, attempt=1, owner="test") as writer:
            rows = images[max(start, 1) : stop]
            if start == 0:
                writer.append_error(images[0].image_id, images[0].image_path, "unreadable_image", "no image")
            thumbnails = [b"RIFF"] * len(rows) if plan.thumbnails else None
            writer.append(np.zeros((len(rows), plan.dim), np.float32), rows, thumbnails=thumbnails)
            writer.commit()
    store.finish_embeddings(embeddings_id)
    assert store.embeddings(embeddings_id).rows == len(images) - 1


def test_pages_of_groups_are_parts_of_one_list(api: TestClient, clustering: Clustering) -> None:
    whole = groups(api, clustering, covers=3)
    assert whole["total"] == 4
    assert [each["size"] for each in whole["clusters"]] == sorted((e["size"] for e in whole["clusters"]), reverse=True)
    parts = [groups(api, clustering, covers=3, offset=at, limit=1)["clusters"] for at in range(5)]
    assert list(chain.from_iterable(parts)) == whole["clusters"]
    nearest = clustering.clusters().column("nearest").to_pylist()
    assert all(each["covers"] == nearest[each["cluster"]][:3] for each in whole["clusters"])
    reverse = groups(api, clustering, sort="number", order="desc")["clusters"]
    assert [each["cluster"] for each in reverse] == [3, 2, 1, 0]
    assert "covers" not in reverse[0]


def test_clusters_without_merges_are_groups_of_one(api: TestClient, clustering: Clustering) -> None:
    plain = api.get(f"/clusterings/{clustering.id}/clusters").json()["clusters"]
    assert [{**each, "parts": [each["cluster"]]} for each in plain] == groups(api, clustering)["clusters"]


def test_a_merged_group_has_the_figures_of_its_images(api: TestClient, clustering: Clustering, store: Store) -> None:
    change(api, clustering, "names", {"1": {"merged_into": 3, "name": "gone"}, "3": {"name": "both", "flag": "done"}})
    found = {each["cluster"]: each for each in groups(api, clustering, covers=12)["clusters"]}
    assert set(found) == {0, 2, 3}
    table = clustering.assignments(clustering.scored[0])
    inside = np.isin(table.column("cluster").to_numpy(), [1, 3])
    labels = np.array(store.embeddings(clustering.scored[0]).labels())[inside]
    most, count = Counter(labels.tolist()).most_common(1)[0]
    distance, row = table.column("distance").to_numpy()[inside], table.column("row").to_numpy()[inside]
    both = found[3]
    assert (both["size"], both["parts"], both["name"], both["flag"]) == (int(inside.sum()), [3, 1], "both", "done")
    assert (both["majority"], both["purity"]) == (most, pytest.approx(count / len(labels)))
    assert both["tightness"] == pytest.approx(distance.mean(), rel=1e-5)
    assert both["covers"] == row[np.lexsort((row, distance))][:12].tolist()
    # K-means' own clusters stay as they are.
    plain = api.get(f"/clusterings/{clustering.id}/clusters").json()
    assert plain["total"] == 4
    assert sum(each["size"] for each in plain["clusters"]) == sum(each["size"] for each in found.values())


def test_moved_images_count_where_they_are(api: TestClient, clustering: Clustering) -> None:
    before = {each["cluster"]: each["size"] for each in groups(api, clustering)["clusters"]}
    row = members(api, clustering, 0, order="farthest", limit=1)["members"][0]["row"]
    change(api, clustering, "moves", {str(row): 2})
    after = {each["cluster"]: each["size"] for each in groups(api, clustering)["clusters"]}
    assert after == before | {0: before[0] - 1, 2: before[2] + 1}
    for order in ("nearest", "farthest", "borderline"):
        there = members(api, clustering, 2, order=order, limit=1000)["members"]
        assert (there[0]["row"], there[0]["moved_from"], there[0]["cluster"]) == (row, 0, 0)
        assert all(each["moved_from"] is None for each in there[1:])
    assert row not in [each["row"] for each in members(api, clustering, 0, limit=1000)["members"]]


def test_members_come_in_the_order_asked_for(api: TestClient, clustering: Clustering, store: Store) -> None:
    nearest = members(api, clustering, 1, limit=1000)
    table = clustering.assignments(clustering.scored[0]).to_pylist()
    mine = sorted((each for each in table if each["cluster"] == 1), key=lambda each: (each["distance"], each["row"]))
    assert [each["row"] for each in nearest["members"]] == [each["row"] for each in mine]
    assert nearest["total"] == len(mine)
    names = store.embeddings(clustering.scored[0]).metadata(["image_path", "label"]).to_pylist()
    for each in nearest["members"]:
        assert (each["image_path"], each["label"]) == tuple(names[each["row"]][n] for n in ("image_path", "label"))
    limit = np.quantile([each["distance"] for each in table], 0.99, method="inverted_cdf")
    assert [each["is_outlier"] for each in nearest["members"]] == [each["distance"] > limit for each in mine]
    assert members(api, clustering, 1, order="farthest")["members"][0]["row"] == mine[-1]["row"]
    margins = [each["margin"] for each in members(api, clustering, 1, order="borderline", limit=1000)["members"]]
    assert margins == sorted(margins)
    pages = [members(api, clustering, 1, offset=at, limit=20)["members"] for at in range(0, len(mine) + 20, 20)]
    assert list(chain.from_iterable(pages)) == nearest["members"]


def test_a_merged_cluster_answers_for_its_group(api: TestClient, clustering: Clustering) -> None:
    change(api, clustering, "names", {"1": {"merged_into": 3}})
    of_part, of_group = members(api, clustering, 1, limit=1000), members(api, clustering, 3, limit=1000)
    assert of_part == of_group
    assert of_part["cluster"] == 3
    order = [each["cluster"] for each in groups(api, clustering)["clusters"]]
    for at, cluster in enumerate(order):
        answer = members(api, clustering, cluster, limit=1)
        beside = [order[at - 1] if at else None, order[at + 1] if at < 2 else None]
        assert [answer["previous"], answer["next"]] == beside


def test_groups_are_found_by_name_label_and_path(api: TestClient, clustering: Clustering) -> None:
    change(api, clustering, "names", {"0": {"name": "Red Boats", "flag": "review"}})
    assert [each["cluster"] for each in groups(api, clustering, q="red b")["clusters"]] == [0]
    assert groups(api, clustering, q="RED B", named=False)["total"] == 0
    path = members(api, clustering, 2, limit=1)["members"][0]["image_path"]
    found = groups(api, clustering, q=path.upper())["clusters"]
    assert [(each["cluster"], each["matches"]) for each in found] == [(2, 1)]
    assert groups(api, clustering, q="no such thing") | {"embeddings": ""} == {
        "embeddings": "",
        "total": 0,
        "clusters": [],
    }
    by_label = groups(api, clustering, label="a")
    assert by_label["total"] == len(by_label["clusters"])
    assert sum(each["matches"] for each in by_label["clusters"]) == 60
    assert groups(api, clustering, label="A")["total"] == 0
    assert [each["cluster"] for each in groups(api, clustering, flag="review")["clusters"]] == [0]
    assert [groups(api, clustering, flagged=each)["total"] for each in (True, False)] == [1, 3]
    assert [each["cluster"] for each in groups(api, clustering, clusters="3,1,9", sort="number")["clusters"]] == [1, 3]
    assert groups(api, clustering, sort="flag")["clusters"][0]["cluster"] == 0
    assert groups(api, clustering, sort="name")["clusters"][0]["cluster"] == 0


def test_groups_are_sorted_by_the_distance_of_centroids(api: TestClient, clustering: Clustering) -> None:
    centroids = clustering.centroids().astype(float)
    away = np.linalg.norm(centroids - centroids[1], axis=1)
    found = groups(api, clustering, sort="distance", to=1)["clusters"]
    assert [each["cluster"] for each in found] == np.argsort(away).tolist()
    assert [each["distance"] for each in found] == pytest.approx(np.sort(away), abs=1e-4)
    farthest = int(np.argmax(away))
    change(api, clustering, "names", {str(farthest): {"merged_into": 1}})
    assert farthest not in [
        each["cluster"] for each in groups(api, clustering, sort="distance", to=farthest)["clusters"]
    ]
    answer = api.get(f"/clusterings/{clustering.id}/clusters", params={"sort": "distance"})
    assert code_of(answer) == (422, "invalid_request")
    answer = api.get(f"/clusterings/{clustering.id}/clusters", params={"sort": "distance", "to": 4})
    assert code_of(answer) == (404, "cluster_not_found")


def test_groups_stay_when_their_embeddings_are_deleted(api: TestClient, clustering: Clustering, store: Store) -> None:
    first = members(api, clustering, 0, limit=1)["members"][0]
    store.delete_embeddings(clustering.scored[0])
    later = members(api, clustering, 0, limit=1)["members"][0]
    assert later == first | {"image_path": None, "label": None}
    change(api, clustering, "names", {"1": {"merged_into": 3}})
    found = groups(api, clustering)
    assert found["total"] == 3
    assert groups(api, clustering, label="a")["total"] == 0
    answer = api.get(f"/embeddings/{clustering.scored[0]}/thumbnails", params={"rows": "0"})
    assert code_of(answer) == (404, "embeddings_not_found")


def test_unknown_clusters_and_sets_are_not_found(api: TestClient, clustering: Clustering) -> None:
    path = f"/clusterings/{clustering.id}/clusters"
    assert code_of(api.get(f"{path}/4/members")) == (404, "cluster_not_found")
    assert code_of(api.get(f"{path}/-1/members")) == (404, "cluster_not_found")
    assert code_of(api.get(f"{path}/0/members", params={"embeddings": "other"})) == (404, "not_found")
    assert code_of(api.get("/clusterings/none/clusters")) == (404, "clustering_not_found")


def test_the_second_scored_set_has_rows_of_its_own(api: TestClient, clustering: Clustering) -> None:
    second = clustering.scored[1]
    sizes = [each["size"] for each in groups(api, clustering, embeddings=second)["clusters"]]
    assert sum(sizes) == 40
    assert sum(members(api, clustering, each, embeddings=second)["total"] for each in range(4)) == 40


def test_groups_stay_when_their_embeddings_are_made_again_of_other_images(
    api: TestClient, clustering: Clustering, store: Store
) -> None:
    first = members(api, clustering, 0, limit=1)["members"][0]
    assert first["image_path"] is not None
    make_again_without_the_first_image(store, clustering.scored[0])
    assert members(api, clustering, 0, limit=1)["members"][0] == first | {"image_path": None, "label": None}
    change(api, clustering, "names", {"1": {"merged_into": 3}})
    assert groups(api, clustering)["total"] == 3
    assert groups(api, clustering, label="a")["total"] == 0


def test_merged_groups_are_described_once_for_each_change(
    api: TestClient, clustering: Clustering, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []

    def count(*arguments: Any) -> Any:
        made.append(1)
        return describe_clusters(*arguments)

    monkeypatch.setattr(results, "describe_clusters", count)
    change(api, clustering, "names", {"1": {"merged_into": 3}})
    whole = groups(api, clustering)
    sizes = {each["cluster"]: each["size"] for each in whole["clusters"]}
    assert [groups(api, clustering, offset=at, limit=1)["clusters"][0] for at in range(3)] == whole["clusters"]
    for place, each in enumerate(whole["clusters"]):
        beside = members(api, clustering, each["cluster"])
        assert beside["total"] == sizes[each["cluster"]]
        numbers = [None, *(one["cluster"] for one in whole["clusters"]), None]
        assert (beside["previous"], beside["next"]) == (numbers[place], numbers[place + 2])
    assert len(made) == 1
    change(api, clustering, "names", {"2": {"merged_into": 3}})
    assert groups(api, clustering)["total"] == 2
    assert len(made) == 2


def test_thumbnails_come_as_data_uris(api: TestClient, clustering: Clustering, store: Store) -> None:
    first, second = clustering.scored
    answer = api.get(f"/embeddings/{first}/thumbnails", params={"rows": "7,203,0,7"})
    assert list(answer.json()) == ["7", "203", "0"]
    stored = store.embeddings(first).thumbnails([0, 7, 203])
    for row, uri in answer.json().items():
        kind, _, content = uri.partition(",")
        assert kind == "data:image/webp;base64"
        assert base64.b64decode(content) == stored[int(row)]
    assert api.get(f"/embeddings/{first}/thumbnails", params={"rows": "203,1"}).json()["203"] == answer.json()["203"]
    # The second set was made without.
    assert api.get(f"/embeddings/{second}/thumbnails", params={"rows": "0,1"}).json() == {"0": None, "1": None}


@pytest.mark.parametrize("rows", ["", "a", "-1", "1,", "1,,2", "1 2", "240", "999999999999999", ",".join("0" * 257)])
def test_thumbnails_of_other_rows_are_refused(api: TestClient, clustering: Clustering, rows: str) -> None:
    answer = api.get(f"/embeddings/{clustering.scored[0]}/thumbnails", params={"rows": rows})
    assert answer.status_code == 422
    assert "rows" in answer.text


def test_thumbnails_of_unfinished_sets_are_refused(api: TestClient, make_set: MakeSet, planted: Planted) -> None:
    unfinished = make_set("half", *planted(), thumbnails=True, finish=False)
    answer = api.get(f"/embeddings/{unfinished}/thumbnails", params={"rows": "0"})
    assert code_of(answer) == (409, "embeddings_incomplete")


def test_a_damaged_thumbnail_is_null(api: TestClient, clustering: Clustering, store: Store) -> None:
    found = store.embeddings(clustering.scored[0])
    path = found.layout.folder / found.layout.data_name("thumbs", 1)
    path.write_bytes(path.read_bytes()[:-1])
    answer = api.get(f"/embeddings/{found.id}/thumbnails", params={"rows": "0,100"}).json()
    assert answer["0"] is not None
    assert answer["100"] is None


def test_a_row_has_all_its_metadata(api: TestClient, clustering: Clustering, store: Store) -> None:
    first = clustering.scored[0]
    said = store.embeddings(first).metadata().slice(150, 1).to_pylist()[0]
    assert api.get(f"/embeddings/{first}/rows/150").json() == said
    assert said["row"] == 150
    assert code_of(api.get(f"/embeddings/{first}/rows/240")) == (422, "invalid_request")
