"""`POST /assign` and the routes of assignments."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import pyarrow as pa
import pyarrow.ipc as ipc
import pyarrow.parquet as pq
import pytest
from clusterer.jobs import assign as assigning
from fastapi.testclient import TestClient
from shoal.jobs.child import JobContext
from shoal.settings import Settings
from shoal.store import Store
from shoal.store.clustering import Clustering


@pytest.fixture
def assigned(clustering: Clustering, store: Store, settings: Settings) -> str:
    """The clustering's second scored set, assigned by a job."""
    request = {"clustering": clustering.id, "embeddings": clustering.scored[1]}
    return str(assigning.run(JobContext.local(request, kind="assign"), settings)["assignments"])


def test_a_request_is_checked_and_queued(api: TestClient, clustering: Clustering) -> None:
    body = {"clustering": clustering.id, "embeddings": clustering.scored[1]}
    answer = api.post("/assign", json=body)
    assert answer.status_code == 202, answer.text
    assert (answer.json()["kind"], answer.json()["request"]) == ("assign", body)

    def code(**other: Any) -> tuple[int, str]:
        refused = api.post("/assign", json={**body, **other})
        return refused.status_code, refused.json()["code"]

    assert code(clustering="c-none") == (404, "clustering_not_found")
    assert code(embeddings="none") == (404, "embeddings_not_found")
    assert code(outlier_quantile=1) == (422, "out_of_range")
    assert code(where={}) == (422, "unknown_field")


def test_facts_clusters_and_deletion(api: TestClient, clustering: Clustering, assigned: str) -> None:
    [listed] = api.get("/assignments").json()["assignments"]
    facts = api.get(f"/assignments/{assigned}").json()
    assert listed["id"] == facts["id"] == assigned
    assert (facts["clustering"], facts["embeddings"], facts["rows"]) == (clustering.id, clustering.scored[1], 40)
    assert facts["drift"]["train"] == {"embeddings": clustering.scored[0], "rows": 240}
    assert listed["drift"]["sizes"]["psi"] == facts["drift"]["sizes"]["psi"]

    clusters = api.get(facts["links"]["clusters"], params={"sort": "grown", "limit": 3}).json()
    assert clusters["total"] == 4
    change = [each["share"] - each["train_share"] for each in clusters["clusters"]]
    assert len(change) == 3
    assert change == sorted(change, reverse=True)
    every = api.get(facts["links"]["clusters"]).json()["clusters"]
    assert sum(each["size"] for each in every) == 40
    assert {each["label"] for each in every} == {"a", "b", "c", "d"}

    assert api.delete(f"/assignments/{assigned}").status_code == 204
    gone = api.get(f"/assignments/{assigned}")
    assert (gone.status_code, gone.json()["code"]) == (404, "assignments_not_found")


def test_the_rows_come_in_every_format(api: TestClient, clustering: Clustering, store: Store, assigned: str) -> None:
    def download(format_: str) -> bytes:
        answer = api.get(f"/assignments/{assigned}/rows", params={"format": format_})
        assert answer.status_code == 200, answer.text
        assert answer.headers["content-disposition"] == f'attachment; filename="{assigned}-rows.{format_}"'
        return answer.content

    rows = pq.read_table(io.BytesIO(download("parquet"))).to_pylist()
    assert [each["row"] for each in rows] == list(range(40))
    assert rows[3]["image_path"] == "val/00003.png"
    scored = clustering.assignments(clustering.scored[1]).to_pylist()
    assert [{name: row[name] for name in scored[0]} for row in rows] == scored
    labels = clustering.clusters().column("label").to_pylist()
    assert [each["cluster_label"] for each in rows] == [labels[each["cluster"]] for each in scored]
    assert [json.loads(line)["cluster"] for line in download("jsonl").splitlines()] == [r["cluster"] for r in scored]
    assert ipc.open_stream(download("arrow")).read_all().column("is_outlier").type == pa.bool_()
    assert download("csv").count(b"\n") == 41

    journal = store.journal(clustering.id)
    now = journal.read()
    journal.append(now, now.setting({0: {"merged_into": 1}, 1: {"name": "shoes"}}), author=None)
    named = pq.read_table(io.BytesIO(download("parquet"))).to_pylist()
    merged = [1 if each["cluster"] == 0 else each["cluster"] for each in scored]
    assert [each["merged_cluster"] for each in named] == merged
    assert [each["name"] for each in named] == ["shoes" if each == 1 else None for each in merged]

    now = journal.read()
    journal.append(now, now.setting({1: {"name": "=1+1"}}), author=None)
    cells = {each["name"] for each in csv.DictReader(io.StringIO(download("csv").decode()))}
    assert "'=1+1" in cells
    assert "=1+1" not in cells

    store.delete_embeddings(clustering.scored[1])
    answer = api.get(f"/assignments/{assigned}/rows", params={"format": "jsonl"})
    assert answer.headers["shoal-deleted-embeddings"] == clustering.scored[1]
    assert json.loads(answer.content.splitlines()[0])["image_path"] is None


def test_no_cell_of_a_csv_file_is_a_formula(api: TestClient, clustering: Clustering, assigned: str) -> None:
    names = {"If-Match": api.get(f"/clusterings/{clustering.id}/names").headers["ETag"]}
    said = {str(cluster): {"name": "=1+1"} for cluster in range(clustering.k)}
    assert api.put(f"/clusterings/{clustering.id}/names", json=said, headers=names).status_code == 200
    csv = api.get(f"/assignments/{assigned}/rows", params={"format": "csv"}).text
    assert "'=1+1" in csv
    assert '"=1+1' not in csv.replace("\"'=1+1", "")
    table = api.get(f"/assignments/{assigned}/rows", params={"format": "jsonl"}).text
    assert '"=1+1"' in table


def test_clusterings_are_compared(api: TestClient, clustering: Clustering) -> None:
    found = api.get(f"/clusterings/{clustering.id}/compare/{clustering.id}", params={"limit": 2, "sort": "size"})
    assert found.status_code == 200, found.text
    assert (found.json()["rows"], found.json()["ami"], len(found.json()["clusters"])) == (280, 1, 2)
    absent = api.get(f"/clusterings/{clustering.id}/compare/c-none")
    assert (absent.status_code, absent.json()["code"]) == (404, "clustering_not_found")
