"""Requests that cannot work are refused before a job begins, in words that name what there is and what to do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from clusterer.jobs.grid import plan_points
from clusterer.jobs.plan import make_plan
from shoal.errors import ClustersInvalid, InvalidRequest, LabelsRequired, ShoalError
from shoal.schemas import ClusterRequest, SweepRequest
from shoal.store import Store

Planted = Callable[..., tuple[Any, list[str]]]
MakeSet = Callable[..., str]
Refused = Callable[..., ShoalError]


@pytest.fixture
def refused(store: Store) -> Refused:
    """``refused(embeddings, **fields)``: the error that `POST /cluster`, and `POST /sweep` too, answers with."""

    def make(embeddings: Any, **fields: Any) -> ShoalError:
        body = {"embeddings": embeddings, **fields}
        with pytest.raises(ShoalError) as caught:
            make_plan(store, ClusterRequest.model_validate(body), deadline=None)
        if fields.get("clusters") != "auto" and "levels" not in fields.get("kmeans", {}):
            with pytest.raises(type(caught.value)) as again:
                plan_points(store, SweepRequest.model_validate(body), deadline=None)
            assert str(again.value) == str(caught.value)
        return caught.value

    return make


@pytest.mark.parametrize("fields", [{"clusters": 2}, {"clusters": "auto"}, {"over": 1.0}, {"pca": {}, "clusters": 3}])
def test_one_image_is_too_few_whatever_is_asked(
    planted: Planted, make_set: MakeSet, refused: Refused, fields: dict[str, Any]
) -> None:
    vectors, labels = planted()
    alone = refused(make_set("alone", vectors[:1], labels[:1]), **fields)
    assert isinstance(alone, ClustersInvalid)
    assert "have 1 row; clustering needs at least 2. Embed more images" in str(alone)
    torn = make_set("torn", vectors[:1], labels[:1], failed=12)
    why = str(refused(torn, **fields))
    assert why.startswith(f"Only 1 of 13 images of embeddings {torn!r} could be read; clustering needs at least 2")
    assert f"GET /embeddings/{torn}/errors" in why


def test_embeddings_of_no_image_at_all_are_neither_clustered_nor_scored(
    planted: Planted, make_set: MakeSet, refused: Refused
) -> None:
    vectors, labels = planted()
    none = make_set("none", vectors[:0], [], failed=3)
    assert "Only 0 of 3 images" in str(refused(none, clusters=2))
    scored = refused({"train": make_set("mine", vectors, labels), "score": [none]}, clusters=2)
    assert isinstance(scored, InvalidRequest)
    assert scored.members["field"] == "embeddings.score"
    assert "scoring needs at least 1" in str(scored)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"clusters": 21}, "`clusters` is 21, but embeddings {id!r} have 20 rows. Send `clusters` from 2 to 20."),
        ({"over": 0.3}, "`over` 0.3 times 4 classes is 1 cluster, but embeddings {id!r} have 20 rows. Send `over`"),
        ({"over": 6.0}, "Send `over` from 0.375 to 5, or `clusters` from 2 to 20."),
        ({"clusters": 2, "pca": {"components": 20}}, "`pca.components` is 20, but the 20 rows of 16 dimensions"),
        ({"clusters": 2, "kmeans": {"levels": [2]}}, "there are 2 clusters to group. Leave `kmeans.levels` out."),
        ({"clusters": 5, "kmeans": {"levels": [5]}}, "there are 5 clusters to group. Start with 2 to 4."),
        ({"clusters": "auto", "clusters_range": [3, 21]}, "have 20 rows. End it at 20 or lower."),
        ({"clusters": "auto", "clusters_range": [20, 21]}, "Start it below 20 and end it at 20 or lower, or send the"),
    ],
)
def test_numbers_that_cannot_be_are_refused_with_those_that_can(
    planted: Planted, make_set: MakeSet, refused: Refused, fields: dict[str, Any], words: str
) -> None:
    embeddings = make_set("mine", *planted(20))
    said = refused(embeddings, **fields)
    assert words.format(id=embeddings) in str(said)
    assert said.members["field"].partition(".")[0] in fields


def test_the_range_of_over_that_is_proposed_works_at_both_ends(
    planted: Planted, make_set: MakeSet, store: Store
) -> None:
    vectors, _ = planted(23)
    embeddings = make_set("mine", vectors, [f"label {row % 7}" for row in range(23)])
    for over, k in ((0.215, 2), (3.285, 23)):
        assert make_plan(store, ClusterRequest(embeddings=embeddings, over=over), deadline=None).k == k


def test_images_that_were_not_read_are_named_where_rows_are_too_few(
    planted: Planted, make_set: MakeSet, refused: Refused
) -> None:
    torn = make_set("torn", *planted(20), failed=1)
    assert f"have 20 rows (1 image could not be read: see `GET /embeddings/{torn}/errors`). Send" in str(
        refused(torn, clusters=21)
    )


def test_a_search_beyond_the_sample_that_it_looks_at_is_refused(
    planted: Planted, make_set: MakeSet, refused: Refused, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clusterer.jobs.plan.SEARCHED_ROWS", 50)
    embeddings = make_set("mine", *planted(100))
    why = str(refused(embeddings, clusters="auto", clusters_range=[60, 80]))
    assert "`auto` searches a sample of 50 of the 100 rows. Start it below 50" in why
    assert (
        make_plan(
            store, ClusterRequest(embeddings=embeddings, clusters="auto", clusters_range=[2, 50]), deadline=None
        ).k
        == 50
    )


def test_one_class_is_a_class(planted: Planted, make_set: MakeSet, refused: Refused) -> None:
    vectors, _ = planted(20)
    one = make_set("one", vectors, ["only"] * 20)
    assert "`over` 1 times 1 class is 1 cluster" in str(refused(one, over=1.0))
    assert isinstance(refused(make_set("bare", vectors), over=1.0), LabelsRequired)
