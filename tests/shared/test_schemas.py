"""What a request may say."""

from __future__ import annotations

import math
from typing import Any

import pytest
from pydantic import ValidationError
from shoal.schemas import ClusterRequest, ExtractRequest


def test_the_smallest_requests_take_defaults() -> None:
    extract = ExtractRequest.model_validate({"images": {"path": "photos"}, "model": "tf_efficientnet_lite0"})
    assert (extract.images.labels, extract.dtype) == ("folder", "float32")
    cluster = ClusterRequest.model_validate({"embeddings": "a-1", "clusters": 2})
    assert (cluster.train_id, cluster.scored_ids, cluster.normalize) == ("a-1", ["a-1"], True)
    assert cluster.kmeans.max_points_per_centroid is None


def test_train_and_scored_sets_are_told_apart() -> None:
    request = ClusterRequest.model_validate({"embeddings": {"train": "a", "score": ["b", "c"]}, "over": 1.5})
    assert (request.train_id, request.scored_ids) == ("a", ["b", "c"])


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"clusters": 1}, "clusters"),
        ({"clusters": "10"}, "clusters"),
        ({"clusters": 10.5}, "clusters"),
        ({"clusters": True}, "clusters"),
        ({"over": 1.0}, ""),
        ({"clusters": None}, ""),
        ({"clusters": None, "over": math.nan}, "over"),
        ({"clusters": None, "over": math.inf}, "over"),
        ({"clusters": None, "over": -1.0}, "over"),
        ({"embeddings": "../etc"}, "embeddings"),
        ({"embeddings": {"train": "a", "score": []}}, "embeddings"),
        ({"pca": {"components": 0}}, "pca.components"),
        ({"kmeans": {"engine": "magic"}}, "kmeans.engine"),
        ({"seeds": []}, "seeds"),
        ({"seeds": [1, 1]}, "seeds"),
        ({"seeds": [-1]}, "seeds"),
        ({"seed": 1, "seeds": [1]}, ""),
        ({"cluster": 3}, "cluster"),
    ],
)
def test_a_wrong_cluster_request_names_its_field(change: dict[str, Any], field: str) -> None:
    with pytest.raises(ValidationError) as caught:
        ClusterRequest.model_validate({"embeddings": "a", "clusters": 10, **change})
    assert any(".".join(map(str, error["loc"])).startswith(field) for error in caught.value.errors())
