"""A clustering by a head over two models, over HTTP."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from shoal.store.clustering import Clustering

Planted = Callable[..., tuple[Any, list[str]]]
MakeSet = Callable[..., str]
RunJob = Callable[..., Clustering]


@pytest.fixture
def found(planted: Planted, make_set: MakeSet, run_job: RunJob) -> Clustering:
    vectors, labels = planted(80)
    sets = make_set("mine", vectors, labels), make_set("mine", vectors[:, :5], labels)
    return run_job(sets[0], clusters=4, seed=0, spaces=[sets[1]], method="turtle", heads={"steps": 20})


def test_new_rows_have_all_vectors_and_get_a_probability(api: TestClient, planted: Planted, found: Clustering) -> None:
    vectors, _ = planted(80)
    both = np.concatenate([vectors, vectors[:, :5]], axis=1)
    answers = api.post(f"/clusterings/{found.id}/assign", json={"embeddings": both.tolist()}).json()
    columns = ["cluster", "margin", "probability"]
    stored = found.assignments(columns=columns).to_pylist()
    assert [{name: each[name] for name in columns} for each in answers] == stored
    refused = api.post(f"/clusterings/{found.id}/assign", json={"embeddings": vectors.tolist()})
    assert (refused.status_code, refused.json()["code"]) == (422, "dimension_mismatch")


def test_exports_and_iterations_have_the_columns_of_a_head(api: TestClient, found: Clustering) -> None:
    lines = api.get(f"/clusterings/{found.id}/export", params={"format": "csv"}).text.splitlines()
    assert '"probability"' in lines[0].split(",")
    checks = api.get(f"/clusterings/{found.id}/iterations").json()["iterations"]
    assert [each["iteration"] for each in checks] == list(range(1, 21))
    assert all(each["loss"] is not None and each["inertia"] is None for each in checks)
    facts = api.get(f"/clusterings/{found.id}").json()
    assert facts["heads"]["0"]["steps"] == 20
    assert facts["engine_reason"].startswith("`turtle` on ")


def test_a_request_says_which_field_does_not_fit(api: TestClient, make_set: MakeSet, planted: Planted) -> None:
    vectors, _ = planted(40)
    body = {"embeddings": make_set("mine", vectors), "clusters": 4, "method": "turtle"}
    other = make_set("others", vectors[:, :5])
    answer = api.post("/cluster", json={**body, "spaces": [other]})
    assert (answer.status_code, answer.json()["code"], answer.json()["row"]) == (422, "sets_not_aligned", 0)
    answer = api.post("/cluster", json={**body, "execution": {"engine": "ray"}})
    assert (answer.status_code, answer.json()["field"]) == (422, "method")
    assert api.post("/cluster", json=body).status_code == 202
