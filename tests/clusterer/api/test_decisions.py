"""Decisions about duplicates and quality checks: kept, listed, exported, undone, and safe from each other."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from clusterer.api.clusterings import build
from clusterer.jobs import duplicates, quality
from clusterer.jobs.subset import subset_of
from fastapi.testclient import TestClient
from shoal import Client
from shoal.cli import app as cli
from shoal.errors import PreconditionFailed
from shoal.gc import find
from shoal.jobs.child import JobContext
from shoal.jobs.queue import JobQueue
from shoal.schemas import Where
from shoal.settings import Settings
from shoal.store import Store
from shoal.store.verify_results import verify_all, verify_any
from typer.testing import CliRunner

MakeSet = Callable[..., str]
LABELS = ["cat", "cat", "dog", "dog", None, "=cmd()", "dog", "cat"]


@pytest.fixture
def api(settings: Settings, queue: JobQueue, store: Store) -> Iterator[TestClient]:
    with TestClient(build(settings, queue, store), raise_server_exceptions=False) as client:
        yield client


@pytest.fixture
def embeddings(make_set: MakeSet) -> str:
    """Rows 0, 1 and 2 are equal, and so are 3 and 4; the others stand alone."""
    vectors = np.eye(16, dtype=np.float32)[[0, 0, 0, 1, 1, 2, 3, 4]]
    return make_set("pets", vectors, LABELS)


@pytest.fixture
def found(embeddings: str, settings: Settings) -> str:
    context = JobContext.local({"embeddings": embeddings}, kind="duplicates")
    return f"/duplicates/{duplicates.run(context, settings)['duplicates']}"


@pytest.fixture
def checked(embeddings: str, settings: Settings) -> str:
    context = JobContext.local({"embeddings": embeddings, "neighbours": 2}, kind="quality")
    return f"/quality/{quality.run(context, settings)['quality']}"


def decide(api: TestClient, base: str, body: dict[str, Any]) -> Any:
    tag = api.get(f"{base}/decisions", params={"limit": 0}).headers["ETag"]
    return api.patch(f"{base}/decisions", json=body, headers={"If-Match": tag})


def test_decisions_are_kept_listed_and_exported(api: TestClient, found: str) -> None:
    assert api.get(f"{found}/decisions").json() == {}
    answer = decide(api, found, {"0": {"action": "drop"}, "1": {"action": "keep"}, "4": {"action": "drop"}})
    assert (answer.status_code, answer.json()["1"]) == (200, {"action": "keep", "label": None})
    assert sorted(api.get(f"{found}/decisions").json()) == ["0", "1", "4"]
    rows = {row["row"]: row["decision"] for each in api.get(f"{found}/groups").json()["groups"] for row in each["rows"]}
    assert (rows[0], rows[2]) == ({"action": "drop", "label": None}, None)
    assert api.get(f"{found}/decisions/summary").json() == {"decided": 3, "keep": 1, "drop": 2, "labels": 0, "drops": 3}
    paths = api.get(f"{found}/decisions/export", params={"format": "txt"})
    assert paths.text.split() == ["pets/00000.png", "pets/00002.png", "pets/00004.png"]
    assert paths.headers["Content-Disposition"].endswith('-decisions.txt"')
    only = api.get(f"{found}/decisions/export", params={"format": "txt", "decided": True})
    assert only.text.split() == ["pets/00000.png", "pets/00004.png"]
    table = pq.read_table(io.BytesIO(api.get(f"{found}/decisions/export", params={"format": "parquet"}).content))
    listed = [(each["row"], each["suggested"], each["decided"], each["action"]) for each in table.to_pylist()]
    assert listed == [
        (0, "keep", "drop", "drop"),
        (1, "drop", "keep", "keep"),
        (2, "drop", None, "drop"),
        (4, "drop", "drop", "drop"),
    ]


def test_a_choice_of_rows_follows_the_decisions(api: TestClient, found: str, embeddings: str, store: Store) -> None:
    where = Where(not_duplicates_of=found.split("/")[2])

    def chosen() -> list[int]:
        rows = subset_of(store, store.embeddings(embeddings), where).chosen
        assert rows is not None
        return rows.tolist()

    assert chosen() == [0, 3, 5, 6, 7]
    decide(api, found, {"0": {"action": "drop"}, "2": {"action": "keep"}})
    assert chosen() == [2, 3, 5, 6, 7]


def test_of_two_writers_the_second_is_told_so(api: TestClient, found: str) -> None:
    tag = api.get(f"{found}/decisions").headers["ETag"]
    assert api.patch(f"{found}/decisions", json={"0": {"action": "keep"}}).status_code == 428
    first = api.patch(f"{found}/decisions", json={"0": {"action": "keep"}}, headers={"If-Match": tag})
    second = api.patch(f"{found}/decisions", json={"0": {"action": "drop"}}, headers={"If-Match": tag})
    assert (first.status_code, second.status_code, second.json()["code"]) == (200, 412, "precondition_failed")
    assert "decisions were changed" in second.json()["detail"]


def test_a_decision_is_undone(api: TestClient, found: str, store: Store) -> None:
    decide(api, found, {"0": {"action": "drop"}})
    tag = decide(api, found, {"0": {"action": "keep"}, "1": {"action": "keep"}}).headers["ETag"]
    undone = api.post(f"{found}/decisions/undo", headers={"If-Match": tag})
    assert (undone.json()["undoes"], undone.json()["decisions"][0]["after"]["action"]) == (2, "drop")
    assert sorted(api.get(f"{found}/decisions").json()) == ["0"]
    assert api.post(f"{found}/decisions/undo", headers={"If-Match": undone.headers["ETag"]}).json()["undoes"] == 1
    tag = api.get(f"{found}/decisions").headers["ETag"]
    nothing = api.post(f"{found}/decisions/undo", headers={"If-Match": tag})
    assert (nothing.status_code, "history` lists" in nothing.json()["detail"]) == (409, True)
    history = api.get(f"{found}/decisions/history", params={"limit": 1}).json()
    assert (history["total"], history["entries"][0]["entry"]) == (4, 4)
    assert verify_any(store.layout, found.split("/")[2]).problems == []


def test_groups_are_chosen_by_what_is_decided_and_by_what_they_show(api: TestClient, found: str) -> None:
    def groups(**params: Any) -> list[int]:
        return [each["group"] for each in api.get(f"{found}/groups", params=params).json()["groups"]]

    decide(api, found, {"3": {"action": "keep"}, "4": {"action": "drop"}, "0": {"action": "keep"}})
    assert (groups(decided=True), groups(decided=False)) == ([1], [0])
    assert (groups(q="00001.PNG"), groups(label="dog"), groups(q="nothing")) == ([0], [0, 1], [])
    assert (groups(least=1), groups(most=0.9), groups(sort="doubtful")) == ([0, 1], [], [0, 1])


def test_labels_are_decided_of_a_quality_check_only(api: TestClient, found: str, checked: str) -> None:
    answer = decide(api, checked, {"5": {"action": "drop", "label": "=cmd()"}, "0": {"label": "dog"}})
    assert answer.json()["0"] == {"action": None, "label": "dog"}
    assert decide(api, checked, {"5": {"action": None}}).json()["5"] == {"action": None, "label": "=cmd()"}
    assert decide(api, checked, {"5": None}).json() == {}
    rows = api.get(f"{checked}/labels", params={"all": True, "decided": True, "counts": True}).json()
    assert [(each["row"], each["decision"]["label"]) for each in rows["rows"]] == [(0, "dog")]
    text = api.get(f"{checked}/decisions/export", params={"format": "csv"}).text
    assert text.splitlines()[1].endswith('"pets/00000.png","cat",,"dog"')
    assert api.get(f"{checked}/decisions/export", params={"format": "txt"}).text == ""
    refused = decide(api, found, {"0": {"label": "dog"}})
    assert (refused.status_code, refused.json()["field"]) == (422, "0.label")


@pytest.mark.parametrize(
    "body", [{"5": {"action": "drop"}}, {"-1": None}, {"0": {"action": "burn"}}, {"99": None}, {"0": {"colour": "red"}}]
)
def test_what_cannot_be_decided_is_refused(api: TestClient, found: str, body: dict[str, Any]) -> None:
    assert decide(api, found, body).status_code == 422
    assert api.get(f"{found}/decisions").json() == {}


def test_a_row_that_a_set_does_not_have_is_refused(api: TestClient, checked: str) -> None:
    assert "rows 0 to 7" in decide(api, checked, {"8": {"action": "drop"}}).json()["detail"]
    assert api.get("/quality/q-none/decisions").json()["code"] == "quality_not_found"


def test_decisions_go_with_their_result(api: TestClient, found: str, store: Store, embeddings: str) -> None:
    decide(api, found, {"0": {"action": "keep"}})
    folder = store.layout.annotations(found.split("/")[2]).folder
    assert [each.kind for each in find(store, None, work_age_s=-1)] == []
    assert [each.problems for each in verify_all(store.layout) if each.kind == "annotations"] == []
    assert api.delete(found).status_code == 204
    assert not folder.exists()


def test_clients_and_the_command_line_decide(
    serve: Callable[..., int],
    settings: Settings,
    queue: JobQueue,
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    found: str,
    checked: str,
) -> None:
    address = f"http://127.0.0.1:{serve(build(settings, queue, store))}"
    monkeypatch.setenv("SHOAL_CLUSTERER_URL", address)
    result, check = found.split("/")[2], checked.split("/")[2]

    def shoal(*words: str) -> int:
        return CliRunner().invoke(cli, list(words)).exit_code

    with Client(clusterer_url=address) as client:
        now = client.decide("duplicates", result, {0: {"action": "drop"}})
        assert now.rows == {0: {"action": "drop", "label": None}}
        with pytest.raises(PreconditionFailed):
            client.decide("duplicates", result, {0: None}, etag='"0"')
        drops = tmp_path / "drops.txt"
        assert shoal("duplicates", result, "--keep", "1", "--drop", "2,4", "--export", str(drops)) == 0
        assert drops.read_text().split() == ["pets/00000.png", "pets/00002.png", "pets/00004.png"]
        assert shoal("duplicates", result, "--undo") == 0
        assert client.decisions("duplicates", result).rows == now.rows
        assert shoal("duplicates", result, "--keep", "one") == 2
        assert shoal("duplicates", result, "--keep", "1", "--drop", "1") == 2
        assert shoal("duplicates", result, "--export", "drops.doc") == 2
        assert shoal("quality", check, "--relabel", "0=dog", "--drop", "5") == 0
        assert client.decision_summary("quality", check)["labels"] == 1
