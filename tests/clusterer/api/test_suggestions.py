"""`POST /clusterings/{id}/names/suggestions`: words for clusters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from shoal.store import Store
from shoal.store.clustering import Clustering

from tests.clusterer.api.test_images import Extractor, answer_of, code_of, extractor

__all__ = ["extractor"]  # a fixture
Planted = Callable[..., tuple[Any, list[str]]]


def directions(store: Store, clustering: Clustering, embeddings: str) -> tuple[Any, list[int]]:
    """The mean embedding of each cluster, and the clusters."""
    vectors = np.concatenate([block for _, block in store.embeddings(embeddings).iter_batches()])
    of = clustering.assignments(embeddings).sort_by("row")["cluster"].to_numpy()
    numbers = sorted(set(of.tolist()))
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.stack([units[of == number].mean(axis=0) for number in numbers]), numbers


def test_each_cluster_gets_the_word_of_its_images(
    api: TestClient, store: Store, clustering: Clustering, extractor: Extractor
) -> None:
    for embeddings in clustering.scored:
        means, numbers = directions(store, clustering, embeddings)
        sent = extractor(200, answer_of(means))
        words = [f"word {number}" for number in numbers]
        answer = api.post(
            f"/clusterings/{clustering.id}/names/suggestions",
            json={"words": words, "template": "this is {}!", "embeddings": embeddings, "most": 2},
        )
        assert answer.status_code == 200, answer.text
        found = answer.json()
        assert found["embeddings"] == embeddings
        assert [each["cluster"] for each in found["clusters"]] == numbers
        for each in found["clusters"]:
            best, second = each["suggestions"]
            assert best["name"] == f"word {each['cluster']}"
            assert best["votes"] > 0.9
            assert best["similarity"] > second["similarity"]
            assert 1 <= each["images"] <= 50
        assert sent[0]["input"] == [f"this is {word}!" for word in words]


def test_many_words_are_embedded_in_several_requests(
    api: TestClient, clustering: Clustering, extractor: Extractor
) -> None:
    sent = extractor(200, answer_of(np.ones((64, 16), np.float32)))
    body = {"words": [f"w{number}" for number in range(128)], "images": 1}
    answer = api.post(f"/clusterings/{clustering.id}/names/suggestions", json=body)
    assert answer.status_code == 200
    assert [len(each["input"]) for each in sent] == [64, 64]
    assert {each["images"] for each in answer.json()["clusters"]} == {1}


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"words": []}, 422, "out_of_range"),
        ({"words": [""]}, 422, "out_of_range"),
        ({"words": ["a"] * 1001}, 422, "out_of_range"),
        ({"words": ["a"], "template": "no place"}, 422, "invalid_value"),
        ({"words": ["a"], "template": "{} {}"}, 422, "invalid_value"),
        ({"words": ["a"], "embeddings": "other"}, 404, "not_found"),
        ({"words": ["a"], "more": 1}, 422, "unknown_field"),
    ],
)
def test_wrong_bodies_are_refused(
    api: TestClient, clustering: Clustering, body: dict[str, Any], status: int, code: str
) -> None:
    answer = api.post(f"/clusterings/{clustering.id}/names/suggestions", json=body)
    assert code_of(answer) == (status, code), answer.text


def test_a_model_without_a_text_tower_is_named(api: TestClient, clustering: Clustering, extractor: Extractor) -> None:
    refusal = {"code": "invalid_request", "detail": "`input` 0 is no URI. The model embeds images.", "field": "input"}
    extractor(422, refusal)
    answer = api.post(f"/clusterings/{clustering.id}/names/suggestions", json={"words": ["a"]})
    assert code_of(answer) == (422, "invalid_request")
    assert answer.json()["field"] == "words"
    extractor(200, answer_of(np.zeros((1, 16), np.float32)))
    answer = api.post(f"/clusterings/{clustering.id}/names/suggestions", json={"words": ["a"]})
    assert code_of(answer) == (422, "not_finite")
