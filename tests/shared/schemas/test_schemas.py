"""What a request may say."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
from pydantic import ValidationError
from shoal.schemas import ClusterRequest, EmbeddingSets, ExtractRequest, Request, SweepRequest


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


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often points are made, and requests or parts of them compared."""
    calls: Counter[str] = Counter()

    def count(owner: type, name: str, called: str) -> None:
        plain: Callable[..., Any] = getattr(owner, name)

        def counting(*values: Any, **named: Any) -> Any:
            calls[called] += 1
            return plain(*values, **named)

        monkeypatch.setattr(owner, name, counting)

    count(ClusterRequest, "__init__", "made")
    count(Request, "__eq__", "compared")
    return calls


def test_the_largest_sweep_is_checked_without_making_or_comparing_its_points(counted: Counter[str]) -> None:
    sets = [{"train": f"a-{each}", "score": [f"b-{number}" for number in range(100)]} for each in range(100)]
    request = SweepRequest.model_validate({"embeddings": sets, "clusters": list(range(2, 22))})
    assert counted["made"] <= 1
    assert len(request.points()) == 2000
    assert counted["made"] <= 2001
    assert counted["compared"] <= 2000


def test_equal_values_of_a_list_are_one_point_in_the_place_of_the_first() -> None:
    mapped = {"train": "a", "score": [{"embeddings": "b", "class_map": {"file": "map.csv"}}]}
    other = {"train": "a", "score": [{"embeddings": "b", "class_map": {"file": "other.csv"}}]}
    plain = {"train": "a", "score": ["a"]}
    request = SweepRequest.model_validate(
        {
            "embeddings": ["a", mapped, plain, mapped, other, "a"],
            "over": [2, 1.0, 2.0, 1],
            "pca": {"components": [None, 4, None], "whiten": [True, True]},
            "normalize": [False, True, False],
        }
    )
    found = [(point.embeddings, point.normalize, point.pca, point.over) for point in request.points()]
    sets = ["a", *(EmbeddingSets.model_validate(each) for each in (mapped, plain, other))]
    pca = [{"components": kept, "whiten": True} for kept in (None, 4)]
    assert [(*each[:2], each[2].model_dump() if each[2] else None, each[3]) for each in found] == list(
        product(sets, [False, True], pca, [2.0, 1.0])
    )


@pytest.mark.parametrize(
    "score",
    [
        [{"embeddings": "b"}, {"embeddings": "b"}],
        ["b", {"embeddings": "b"}],
        [{"embeddings": "b"}, "c", "b"],
        [{"embeddings": "a"}],
    ],
)
def test_a_scored_set_with_a_class_map_is_named_once_and_is_not_the_train_set(score: list[Any]) -> None:
    with pytest.raises(ValidationError, match="class map"):
        EmbeddingSets.model_validate({"train": "a", "score": score})


def test_scored_sets_are_checked_without_comparing_each_with_each(counted: Counter[str]) -> None:
    score = [{"embeddings": f"b-{number}"} if number % 2 else f"b-{number}" for number in range(100)]
    assert len(EmbeddingSets.model_validate({"train": "a", "score": score}).scored) == 100
    assert not counted["compared"]


def test_a_sweep_of_too_many_points_or_of_impossible_ones_is_refused() -> None:
    for fields, said in (
        ({"clusters": list(range(2, 203))}, "200"),
        ({"clusters": list(range(2, 202)), "normalize": [True, False] * 6}, "more than 2000 points"),
        ({"clusters": [2], "over": [1.0]}, "send exactly one of `clusters`"),
        ({"clusters": [2], "seed": 1, "seeds": [1]}, "not both"),
        ({"clusters": [2], "seeds": [1, 1]}, "seeds must differ"),
    ):
        with pytest.raises(ValidationError, match=said):
            SweepRequest.model_validate({"embeddings": "a", **fields})


@pytest.mark.parametrize(
    "fields",
    [
        {"reduce": [None, "smooth"], "method": ["kmeans", "leiden"]},
        {"reduce": [None, "umap"], "kmeans": {"spherical": True}},
    ],
)
def test_a_sweep_is_refused_for_a_reduction_behind_the_first_that_a_method_does_not_take(
    fields: dict[str, Any],
) -> None:
    with pytest.raises(ValidationError, match=r"`reduce`: `(smooth|umap)`"):
        SweepRequest.model_validate({"embeddings": "a", "clusters": [2, 3], **fields})
