"""Writing a shard: what is refused, what is discarded, what counts."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from shoal.errors import DimensionMismatch, EmbeddingsNotFound, NotFinite, StoreError

from tests.shared.store.conftest import Toy


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_vector_that_is_not_finite_is_refused_with_its_image(make_toy: Callable[..., Toy], bad: float) -> None:
    toy = make_toy()
    toy.create()
    toy.vectors[3, 1] = bad
    with (
        toy.store.shard_writer(toy.id, 0, attempt=1, owner="t") as writer,
        pytest.raises(NotFinite, match=r"class0/0003\.png"),
    ):
        writer.append(toy.vectors[:5], toy.metadata(range(5)))
    assert list((toy.folder / "work").iterdir()) == []


def test_a_value_beyond_float16_is_refused(make_toy: Callable[..., Toy]) -> None:
    toy = make_toy(dtype="float16")
    toy.create()
    with toy.store.shard_writer(toy.id, 0, attempt=1, owner="t") as writer:
        with pytest.raises(NotFinite, match="float16"):
            writer.append(np.full((1, 4), 1e6, np.float32), toy.metadata([0]))
        assert writer.rows == 0


@pytest.mark.parametrize("shape", [(5, 3), (4, 4), (5,), (5, 4, 1)])
def test_vectors_of_another_shape_are_refused(make_toy: Callable[..., Toy], shape: tuple[int, ...]) -> None:
    toy = make_toy()
    toy.create()
    with toy.store.shard_writer(toy.id, 0, attempt=1, owner="t") as writer, pytest.raises(DimensionMismatch):
        writer.append(np.zeros(shape, np.float32), toy.metadata(range(5)))


def test_a_refused_batch_leaves_the_writer_as_it_was(make_toy: Callable[..., Toy]) -> None:
    toy = make_toy(count=10)
    toy.create()
    with toy.store.shard_writer(toy.id, 0, attempt=1, owner="t") as writer:
        writer.append(toy.vectors[:4], toy.metadata(range(4)))
        with pytest.raises(StoreError, match="was appended twice"):
            writer.append(toy.vectors[3:6][::-1], toy.metadata([5, 4, 3]))
        writer.append(toy.vectors[4:], toy.metadata(range(4, 10)))
        assert writer.commit()
    np.testing.assert_array_equal(toy.store.embeddings(toy.id).shard(0), toy.vectors)


def test_images_of_other_shards_are_refused(make_toy: Callable[..., Toy]) -> None:
    toy = make_toy()
    toy.create()
    with toy.store.shard_writer(toy.id, 0, attempt=1, owner="t") as writer:
        with pytest.raises(StoreError, match="not part of the shard"):
            writer.append(toy.vectors[10:11], toy.metadata([10]))
        with pytest.raises(StoreError, match="not part of the shard"):
            writer.append_error("f" * 16, "x", "code", "message")


def test_a_shard_with_images_missing_cannot_be_committed(make_toy: Callable[..., Toy]) -> None:
    toy = make_toy()
    toy.create()
    with toy.store.shard_writer(toy.id, 0, attempt=1, owner="t") as writer:
        writer.append(toy.vectors[:9], toy.metadata(range(9)))
        with pytest.raises(StoreError, match="lacks 1 of its 10"):
            writer.commit()
    assert toy.store.embeddings(toy.id).missing_shards() == [0, 1, 2]


def test_what_is_not_committed_does_not_count_and_is_discarded(make_toy: Callable[..., Toy]) -> None:
    toy = make_toy()
    toy.create()
    with toy.store.shard_writer(toy.id, 0, attempt=1, owner="t") as writer:
        writer.append(toy.vectors[:10], toy.metadata(range(10)), [b"x"] * 10)
    assert toy.store.embeddings(toy.id).rows == 0
    assert [path for path in toy.folder.rglob("*") if path.is_file() and path.parent != toy.folder] == []
    with pytest.raises(StoreError, match="committed or discarded"):
        writer.append(toy.vectors[:1], toy.metadata([0]))


def test_until_the_commit_nothing_lies_where_other_programs_look(make_toy: Callable[..., Toy]) -> None:
    toy = make_toy()
    toy.create()
    with toy.store.shard_writer(toy.id, 0, attempt=1, owner="t") as writer:
        writer.append(toy.vectors[:10], toy.metadata(range(10)))
        assert not list((toy.folder / "img_emb").iterdir())
        assert not list((toy.folder / "metadata").iterdir())


def test_the_second_to_commit_loses_and_leaves_nothing(make_toy: Callable[..., Toy]) -> None:
    toy = make_toy(count=10)
    toy.create()
    assert toy.write(0, owner="first")
    assert not toy.write(0, owner="second", scale=2.0)
    found = toy.store.embeddings(toy.id)
    assert found.commits[0].owner == "first"
    np.testing.assert_array_equal(found.shard(0), toy.vectors)
    assert list((toy.folder / "work").iterdir()) == []


def test_a_late_attempt_at_a_finished_set_loses_even_when_its_files_were_swept(make_toy: Callable[..., Toy]) -> None:
    toy = make_toy(count=10)
    toy.create()
    with toy.store.shard_writer(toy.id, 0, attempt=1, owner="late") as late:
        late.append(toy.vectors * 2, toy.metadata(range(10)))
        toy.write_all()
        assert not late.commit()
    assert toy.store.verify(toy.id).ok
    assert list((toy.folder / "work").iterdir()) == []


def test_a_writer_of_deleted_embeddings_says_so(make_toy: Callable[..., Toy]) -> None:
    toy = make_toy(count=10)
    toy.create()
    with toy.store.shard_writer(toy.id, 0, attempt=1, owner="t") as writer:
        writer.append(toy.vectors, toy.metadata(range(10)))
        toy.store.delete_embeddings(toy.id)
        with pytest.raises(EmbeddingsNotFound, match="deleted"):
            writer.commit()
    with pytest.raises(EmbeddingsNotFound):
        toy.store.shard_writer(toy.id, 0, attempt=1, owner="t")
