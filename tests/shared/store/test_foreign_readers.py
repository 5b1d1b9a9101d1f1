"""Other programs read the folder as it stands."""

from __future__ import annotations

from collections.abc import Callable

import duckdb
import numpy as np
import pytest
from embedding_reader import EmbeddingReader

from tests.shared.store.conftest import Toy


@pytest.fixture
def toy(make_toy: Callable[..., Toy]) -> Toy:
    """A set with a shard without vectors in the middle and a dead attempt's files in `work`."""
    toy = make_toy(count=35, dim=6, fails=[3, *range(10, 20)])
    toy.create()
    dead = toy.folder / "work" / "00001-1-dead"
    dead.mkdir()
    (dead / ".img_emb_00001.npy.tmp").write_bytes(b"half")
    for shard in range(4):
        toy.write(shard)
    return toy


def test_embedding_reader_reads_the_vectors(toy: Toy) -> None:
    reader = EmbeddingReader(str(toy.folder / "img_emb"), file_format="npy")
    assert (reader.count, reader.dimension) == (24, 6)
    batches = [batch for batch, _ in reader(batch_size=5, show_progress=False)]
    np.testing.assert_array_equal(np.concatenate(batches), toy.kept)


def test_embedding_reader_joins_vectors_and_metadata(toy: Toy) -> None:
    reader = EmbeddingReader(
        str(toy.folder / "img_emb"),
        metadata_folder=str(toy.folder / "metadata"),
        file_format="parquet_npy",
        meta_columns=["image_path", "label"],
    )
    batches = list(reader(batch_size=7, show_progress=False))
    np.testing.assert_array_equal(np.concatenate([batch for batch, _ in batches]), toy.kept)
    paths = [path for _, table in batches for path in table["image_path"]]
    assert paths == toy.store.embeddings(toy.id).metadata(["image_path"]).column("image_path").to_pylist()


def test_numpy_reads_a_shard(toy: Toy) -> None:
    np.testing.assert_array_equal(np.load(toy.folder / "img_emb" / "img_emb_00003.npy"), toy.kept[-5:])


def test_duckdb_reads_the_metadata(toy: Toy) -> None:
    files = f"{toy.folder}/metadata/*.parquet"
    with duckdb.connect() as connection:
        assert connection.execute(f"select count(*) from '{files}'").fetchone() == (24,)
        rows = connection.execute(f"select label, count(*) from '{files}' group by label order by label").fetchall()
        assert sum(count for _, count in rows) == 24
        assert connection.execute(f"select code from '{toy.folder}/errors/*.parquet'").fetchall()[0] == (
            "image_truncated",
        )
