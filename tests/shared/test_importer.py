"""Embeddings that people already have become a committed set, or a sentence that says what is wrong with them."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from shoal.errors import ImportInvalid
from shoal.importer import import_embeddings
from shoal.importer import values as importer_values
from shoal.labels import Columns
from shoal.store import EmbeddingSet, Store

RNG = np.random.default_rng(0)
X = RNG.normal(size=(23, 4)).astype(np.float32)


@pytest.fixture(autouse=True)
def _no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is killed here."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def bring(store: Store, tmp_path: Path) -> Callable[..., EmbeddingSet]:
    """Import and open; an array is saved to ``x.npy`` first."""

    def call(what: Any, **options: Any) -> EmbeddingSet:
        if isinstance(what, np.ndarray):
            np.save(tmp_path / "x.npy", what, allow_pickle=True)
            what = tmp_path / "x.npy"
        found = store.embeddings(import_embeddings(store, what, name="mine", **options))
        assert store.verify(found.id).ok
        return found

    return call


@pytest.fixture
def clip_folder(tmp_path: Path) -> Path:
    """As clip-retrieval writes it: 12 files, so that `_10` sorts before `_2` by name."""
    folder = tmp_path / "clip"
    for sub in ("img_emb", "metadata"):
        (folder / sub).mkdir(parents=True)
    for i, rows in enumerate(np.array_split(np.arange(len(X)), 12)):
        np.save(folder / "img_emb" / f"img_emb_{i}.npy", X[rows].astype(np.float16))
        table = pa.table(
            {
                "image_path": [f"{row}.jpg" for row in rows],
                "caption": ["a fox"] * len(rows),
                "label": pa.array([f"c{row % 3}" for row in rows]),
                "width": pa.array([64 + int(row) for row in rows]),
            }
        )
        pq.write_table(table, folder / "metadata" / f"metadata_{i}.parquet")
    return folder


def _labels(found: EmbeddingSet) -> list[str | None]:
    labels = found.labels()
    assert labels is not None
    return labels


def test_one_npy_becomes_a_finished_set(bring: Callable[..., EmbeddingSet]) -> None:
    found = bring(X, shard_rows=10)
    assert (found.complete, found.rows, found.failed, found.dtype) == (True, 23, 0, np.dtype(np.float32))
    np.testing.assert_array_equal(found.take(np.arange(23)), X)
    assert found.labels() is None
    assert found.plan.source.kind == "import"
    assert found.plan.source.path == "x.npy"


@pytest.mark.parametrize(
    ("array", "stored"),
    [
        (X.astype(np.float16), "float16"),
        (X.astype(">f4"), "float32"),
        (np.asfortranarray(X), "float32"),
        (X[:1], "float32"),
    ],
)
def test_any_layout_of_floats_is_taken(
    bring: Callable[..., EmbeddingSet], array: npt.NDArray[Any], stored: str
) -> None:
    found = bring(array)
    assert found.dtype == np.dtype(stored)
    np.testing.assert_array_equal(found.take(np.arange(len(array))), array.astype(np.float32))


def test_float64_is_rounded_and_that_is_said(
    bring: Callable[..., EmbeddingSet], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        found = bring(X.astype(np.float64) + 1e-12)
    assert found.dtype == np.float32
    assert "float64" in caplog.text
    assert found.plan.transform["imported_dtype"] == "float64"


def test_the_type_to_store_can_be_chosen(bring: Callable[..., EmbeddingSet]) -> None:
    assert bring(X, dtype="float16").dtype == np.float16


def test_the_same_content_has_the_same_id_wherever_it_lies(store: Store, tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        np.save(tmp_path / folder / "x.npy", X)
    first, second = (import_embeddings(store, tmp_path / f / "x.npy", name="mine") for f in ("a", "b"))
    assert first == second
    np.save(tmp_path / "b" / "x.npy", X + 1)
    assert import_embeddings(store, tmp_path / "b" / "x.npy", name="mine") != first


def test_chunks_may_be_smaller_than_shards_and_files(
    bring: Callable[..., EmbeddingSet], clip_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importer_values, "_CHUNK_BYTES", 24)
    found = bring(clip_folder, shard_rows=5)
    np.testing.assert_array_equal(found.take(np.arange(23)), X.astype(np.float16).astype(np.float32))


def test_an_import_that_was_cut_off_goes_on(
    store: Store, bring: Callable[..., EmbeddingSet], monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = Store.shard_writer

    def cut_off(self: Store, embeddings_id: str, shard: int, **options: Any) -> Any:
        if shard == 1:
            raise KeyboardInterrupt
        return writer(self, embeddings_id, shard, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Store, "shard_writer", cut_off)
        with pytest.raises(KeyboardInterrupt):
            bring(X, shard_rows=10)
    assert store.embeddings(store.embeddings_ids()[0]).missing_shards() == [1, 2]
    assert bring(X, shard_rows=10).complete
    assert len(store.embeddings_ids()) == 1


def test_a_clip_retrieval_folder_is_read_in_the_order_of_its_numbers(
    bring: Callable[..., EmbeddingSet], clip_folder: Path
) -> None:
    found = bring(clip_folder)
    np.testing.assert_array_equal(found.take(np.arange(23)), X.astype(np.float16).astype(np.float32))
    table = found.metadata()
    assert table.column("image_path").to_pylist() == [f"{row}.jpg" for row in range(23)]
    assert table.column("width").to_pylist() == [64 + row for row in range(23)]
    assert found.labels() == [f"c{row % 3}" for row in range(23)]


def test_a_folder_without_metadata_gets_names_from_its_files(
    bring: Callable[..., EmbeddingSet], clip_folder: Path
) -> None:
    for path in (clip_folder / "metadata").iterdir():
        path.unlink()
    paths = bring(clip_folder).metadata(["image_path"]).column("image_path").to_pylist()
    assert (paths[0], paths[-1]) == ("img_emb_0.npy#0", "img_emb_11.npy#0")


def test_our_own_folder_can_be_imported(bring: Callable[..., EmbeddingSet], store: Store) -> None:
    first = bring(X, split="val", shard_rows=9)
    again = bring(first.layout.folder)
    np.testing.assert_array_equal(again.take(np.arange(23)), X)
    assert set(again.metadata(["split"]).column("split").to_pylist()) == {"val"}


def test_rows_without_a_path_of_their_own_get_one(bring: Callable[..., EmbeddingSet], tmp_path: Path) -> None:
    folder = tmp_path / "laion"
    for sub in ("img_emb", "metadata"):
        (folder / sub).mkdir(parents=True)
    np.save(folder / "img_emb" / "img_emb_0.npy", X[:4])
    pq.write_table(pa.table({"url": ["u/1", "u/1", None, "u/2"]}), folder / "metadata" / "metadata_0.parquet")
    paths = bring(folder).metadata(["image_path"]).column("image_path").to_pylist()
    assert paths == ["u/1", "u/1#1", "img_emb_0.npy#2", "u/2"]


def test_the_split_is_written_beside_every_row(bring: Callable[..., EmbeddingSet]) -> None:
    assert set(bring(X, split="train").metadata(["split"]).column("split").to_pylist()) == {"train"}


NAMES = [f"c{row % 3}" for row in range(23)]


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (np.arange(23, dtype=np.int64), [str(i) for i in range(23)]),
        (np.array(NAMES), NAMES),
        (np.array([name.encode() for name in NAMES]), NAMES),
    ],
)
def test_labels_may_be_an_npy(
    bring: Callable[..., EmbeddingSet], tmp_path: Path, labels: npt.NDArray[Any], expected: list[str]
) -> None:
    np.save(tmp_path / "y.npy", labels)
    assert _labels(bring(X, labels=tmp_path / "y.npy")) == expected


@pytest.mark.parametrize("header", ["label", "class", "id,label", "label,note"])
def test_labels_may_be_a_csv(bring: Callable[..., EmbeddingSet], tmp_path: Path, header: str) -> None:
    rows = [",".join(name if c in {"label", "class"} else "x" for c in header.split(",")) for name in NAMES]
    (tmp_path / "y.csv").write_text("\n".join([header, *rows]) + "\n\n")
    assert _labels(bring(X, labels=tmp_path / "y.csv")) == NAMES


def test_an_empty_field_is_no_label(bring: Callable[..., EmbeddingSet], tmp_path: Path) -> None:
    (tmp_path / "y.csv").write_text("n,label\n" + "".join(f"{i},{'' if i == 3 else 'a'}\n" for i in range(23)))
    assert _labels(bring(X, labels=tmp_path / "y.csv"))[3] is None


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (NAMES, NAMES),
        (pa.array(NAMES).dictionary_encode(), NAMES),
        (list(range(23)), [str(i) for i in range(23)]),
    ],
)
def test_labels_may_be_a_parquet(
    bring: Callable[..., EmbeddingSet], tmp_path: Path, column: object, expected: list[str]
) -> None:
    pq.write_table(pa.table({"label": column, "other": [0.5] * 23}), tmp_path / "y.parquet")
    assert _labels(bring(X, labels=tmp_path / "y.parquet")) == expected


@pytest.mark.parametrize("path_column", ["image_path", "path"])
def test_labels_with_paths_are_joined_by_path(
    bring: Callable[..., EmbeddingSet], clip_folder: Path, tmp_path: Path, path_column: str
) -> None:
    order = [int(i) for i in RNG.permutation(23)]
    lines = [f"{row}.jpg,L{row}" for row in order]
    (tmp_path / "y.csv").write_text("\n".join([f"{path_column},label", *lines, "elsewhere.jpg,x"]))
    assert _labels(bring(clip_folder, labels=tmp_path / "y.csv")) == [f"L{row}" for row in range(23)]


@pytest.mark.parametrize(
    ("name", "header"), [("y.csv", "filename,label"), ("y.csv", "Image;class"), ("y.tsv", "label\tfile_name")]
)
def test_any_column_of_paths_joins(
    bring: Callable[..., EmbeddingSet], clip_folder: Path, tmp_path: Path, name: str, header: str
) -> None:
    delimiter = header.strip("abcdefghijklmnopqrstuvwxyz_I")[0]
    cells = [(f"{row}.jpg", f"L{row}") for row in reversed(range(23))]
    lines = [delimiter.join(pair if header[0] != "l" else pair[::-1]) for pair in cells]
    (tmp_path / name).write_text("\n".join([header, *lines]))
    assert _labels(bring(clip_folder, labels=tmp_path / name)) == [f"L{row}" for row in range(23)]


def test_a_named_column_of_paths_joins(bring: Callable[..., EmbeddingSet], clip_folder: Path, tmp_path: Path) -> None:
    lines = [f"{row}.jpg,x,L{row}" for row in reversed(range(23))]
    (tmp_path / "y.csv").write_text("\n".join(["who,label,what", *lines]))
    found = bring(clip_folder, labels=tmp_path / "y.csv", columns=Columns("who", "what"))
    assert _labels(found) == [f"L{row}" for row in range(23)]


def test_labels_are_joined_by_order_only_where_there_is_no_path_or_it_is_asked_for(
    bring: Callable[..., EmbeddingSet], clip_folder: Path, tmp_path: Path
) -> None:
    np.save(tmp_path / "y.npy", np.arange(23))
    with pytest.raises(ImportInvalid, match=r"no column of paths, but the images have paths, such as '0\.jpg'"):
        bring(clip_folder, labels=tmp_path / "y.npy")
    assert _labels(bring(clip_folder, labels=tmp_path / "y.npy", columns=Columns(""))) == [str(i) for i in range(23)]
    (tmp_path / "y.csv").write_text("filename,label\n" + "".join(f"{row}.jpg,L{row}\n" for row in range(23)))
    with pytest.raises(ImportInvalid, match=r"`filename`, such as '0\.jpg', but the 23 embeddings have no paths"):
        bring(X, labels=tmp_path / "y.csv")
    assert _labels(bring(X, labels=tmp_path / "y.csv", columns=Columns("", "label"))) == [f"L{i}" for i in range(23)]


def test_labels_of_the_metadata_are_cleaned_too(bring: Callable[..., EmbeddingSet], clip_folder: Path) -> None:
    for i, file in enumerate(sorted((clip_folder / "metadata").iterdir())):
        table = pq.read_table(file)
        column = pa.array([None if i == 0 else 1.0] * table.num_rows)
        pq.write_table(table.set_column(table.schema.get_field_index("label"), "label", column), file)
    assert set(_labels(bring(clip_folder)) or []) == {"1", None}


@pytest.mark.timeout(30)
def test_a_pipe_in_place_of_labels_or_metadata_does_not_block(
    bring: Callable[..., EmbeddingSet], tmp_path: Path, clip_folder: Path
) -> None:
    os.mkfifo(tmp_path / "y.csv")
    with pytest.raises(ImportInvalid, match="it is a named pipe"):
        bring(X, labels=tmp_path / "y.csv")
    (clip_folder / "metadata" / "metadata_3.parquet").unlink()
    os.mkfifo(clip_folder / "metadata" / "metadata_3.parquet")
    with pytest.raises(ImportInvalid, match="it is a named pipe"):
        bring(clip_folder)


def test_a_path_without_a_label_is_named(bring: Callable[..., EmbeddingSet], clip_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "y.csv").write_text("path,label\n" + "".join(f"{row}.jpg,L\n" for row in range(15)))
    with pytest.raises(
        ImportInvalid, match=r"8 of 23 images, such as '15\.jpg', '16\.jpg', .* and others\..*rows such as '0\.jpg'"
    ):
        bring(clip_folder, labels=tmp_path / "y.csv")


def test_a_path_with_two_labels_is_named(bring: Callable[..., EmbeddingSet], clip_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "y.csv").write_text("path,label\n1.jpg,a\n1.jpg,b\n")
    with pytest.raises(ImportInvalid, match=r"row for '1\.jpg': its label is 'a' in line 2 and 'b' in line 3"):
        bring(clip_folder, labels=tmp_path / "y.csv")


def _with_nan(row: int, value: float = np.nan) -> np.ndarray:
    bad = X.copy()
    bad[row, 2] = value
    return bad


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (X[:, 0], r"shape \(23,\)"),
        (X[None], r"shape \(1, 23, 4\)"),
        (X[:, :0], "shape"),
        (X[:0], "no embeddings"),
        (np.float32(3), "shape"),
        (np.ones((3, 2), np.int64), "int64"),
        (np.ones((3, 2), np.complex64), "complex64"),
        (np.ones((3, 2), bool), "bool"),
        (np.array([[object()]]), r"x\.npy is not a complete \.npy"),
        (_with_nan(17), "row 17: holds NaN"),
        (_with_nan(0, np.inf), "row 0: holds NaN or infinity"),
        (_with_nan(5).astype(np.float64) * 0 + 1e300, "row 0: holds a value too large for float32"),
    ],
)
def test_arrays_that_are_no_embeddings_are_refused(
    bring: Callable[..., EmbeddingSet], store: Store, array: npt.NDArray[Any], message: str
) -> None:
    with pytest.raises(ImportInvalid, match=message):
        bring(np.nan_to_num(array) if "too large" in message else np.asarray(array))
    assert store.embeddings_ids() == []


def test_too_large_for_float16_is_refused(bring: Callable[..., EmbeddingSet]) -> None:
    with pytest.raises(ImportInvalid, match="row 2: holds a value too large for float16"):
        bring(_with_nan(2, 1e6), dtype="float16")


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY", b"hello", None])
def test_broken_files_are_refused_and_named(
    bring: Callable[..., EmbeddingSet], tmp_path: Path, content: bytes | None
) -> None:
    np.save(tmp_path / "broken.npy", X)
    path = tmp_path / "broken.npy"
    path.write_bytes(path.read_bytes()[:-4] if content is None else content)
    with pytest.raises(ImportInvalid, match=r"broken\.npy") as caught:
        bring(path)
    assert caught.value.members["file"] == str(path)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("(22, 4)", r"its header says \(22, 4\) float32, .* 23 rows instead of 22"),
        ("(24, 4)", r"its header says \(24, 4\) float32, .* 23 rows instead of 24"),
        ("(True, 4)", r"the shape \(True, 4\)"),
        ("(-2, 4)", r"the shape \(-2, 4\)"),
    ],
)
def test_a_header_that_says_other_than_the_file_holds_is_refused(
    bring: Callable[..., EmbeddingSet], store: Store, tmp_path: Path, rows: str, message: str
) -> None:
    np.save(tmp_path / "odd.npy", X)
    content = (tmp_path / "odd.npy").read_bytes()
    changed = content.replace(b"(23, 4), }", f"{rows}, }}".encode(), 1)
    missing = len(content) - len(changed)
    changed = (
        changed.replace(b"}", b"}" + b" " * missing, 1) if missing >= 0 else changed.replace(b" " * -missing, b"", 1)
    )
    assert len(changed) == len(content)
    (tmp_path / "odd.npy").write_bytes(changed)
    with pytest.raises(ImportInvalid, match=rf"odd\.npy is not a complete .*{message}"):
        bring(tmp_path / "odd.npy")
    assert store.embeddings_ids() == []


@pytest.mark.timeout(30)
def test_a_pipe_in_place_of_vectors_does_not_block(
    bring: Callable[..., EmbeddingSet], tmp_path: Path, clip_folder: Path
) -> None:
    os.mkfifo(tmp_path / "pipe.npy")
    (clip_folder / "img_emb" / "img_emb_3.npy").unlink()
    os.mkfifo(clip_folder / "img_emb" / "img_emb_3.npy")
    for path in (tmp_path / "pipe.npy", clip_folder):
        with pytest.raises(ImportInvalid, match="it is a named pipe"):
            bring(path)


def test_an_archive_of_arrays_is_refused(bring: Callable[..., EmbeddingSet], tmp_path: Path) -> None:
    with (tmp_path / "x.npy").open("wb") as file:
        np.savez(file, X)
    with pytest.raises(ImportInvalid, match="is an archive of arrays"):
        bring(tmp_path / "x.npy")


def test_a_pickle_is_not_loaded(bring: Callable[..., EmbeddingSet], tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return (os.mkdir, (str(tmp_path / "exploded"),))

    np.save(tmp_path / "bomb.npy", np.array([[Bomb()]], dtype=object), allow_pickle=True)
    with pytest.raises(ImportInvalid):
        bring(tmp_path / "bomb.npy")
    with pytest.raises(ImportInvalid):
        bring(X, labels=tmp_path / "bomb.npy")
    assert not (tmp_path / "exploded").exists()


def test_places_without_embeddings_are_refused(bring: Callable[..., EmbeddingSet], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.txt").write_text("x")
    for path, message in (("empty", r"img_emb"), ("text.txt", "neither"), ("nowhere.npy", "does not exist")):
        with pytest.raises(ImportInvalid, match=message):
            bring(tmp_path / path)


def test_files_of_different_length_are_named(bring: Callable[..., EmbeddingSet], clip_folder: Path) -> None:
    np.save(clip_folder / "img_emb" / "img_emb_7.npy", np.zeros((2, 5), np.float32))
    with pytest.raises(ImportInvalid, match=r"img_emb_7\.npy has 5 columns"):
        bring(clip_folder)


def test_metadata_that_do_not_fit_are_named(bring: Callable[..., EmbeddingSet], clip_folder: Path) -> None:
    path = clip_folder / "metadata" / "metadata_3.parquet"
    pq.write_table(pq.read_table(path).slice(1), path)
    with pytest.raises(ImportInvalid, match=r"metadata_3\.parquet has 1 rows, img_emb_3\.npy has 2"):
        bring(clip_folder)
    path.write_bytes(b"PAR1 nothing")
    with pytest.raises(ImportInvalid, match=r"metadata_3\.parquet is not a complete Parquet"):
        bring(clip_folder)
    path.unlink()
    with pytest.raises(ImportInvalid, match="12 files in img_emb and 11 in metadata"):
        bring(clip_folder)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("y.csv", "label\na\nb\n", r"2 labels for 23 embeddings.*header"),
        ("y.csv", "", r"y\.csv is empty: it has no columns"),
        ("y.csv", "a,b\n1,2\n", "columns are 'a', 'b'"),
        ("y.csv", "a,label\n1\n", "line 2: 1 fields, but the header has 2"),
        ("y.csv", b"label\n\xff\xfe\n", "UTF-8"),
        ("y.txt", "a", "1 labels for 23 embeddings"),
        ("y.json", "[]", "not a label file"),
        ("y.xlsx", b"PK\3\4\0\0", "not a label file"),
        ("y.parquet", "PAR1", "not a Parquet"),
        ("y.npy", "PAR1", "not a complete .npy"),
        ("nowhere.csv", None, "cannot be read"),
        ("y.npy", np.full(23, 0.5), "float64, and row 0 is the fraction 0.5"),
        ("y.npy", np.zeros((23, 1), int), r"\(23, 1\)"),
        ("y.npy", np.zeros(22, int), "22 labels for 23"),
    ],
)
def test_labels_that_do_not_fit_are_refused(
    bring: Callable[..., EmbeddingSet], tmp_path: Path, name: str, content: Any, message: str
) -> None:
    path = tmp_path / name
    if isinstance(content, np.ndarray):
        np.save(path, content)
    elif content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ImportInvalid, match=message):
        bring(X, labels=path)


def test_labels_may_be_true_or_false(bring: Callable[..., EmbeddingSet], tmp_path: Path) -> None:
    np.save(tmp_path / "y.npy", np.arange(23) > 3)
    assert set(_labels(bring(X, labels=tmp_path / "y.npy")) or []) == {"True", "False"}


def test_labels_that_are_no_names_are_refused(bring: Callable[..., EmbeddingSet], tmp_path: Path) -> None:
    pq.write_table(pa.table({"label": np.linspace(0, 1, 23)}), tmp_path / "y.parquet")
    with pytest.raises(ImportInvalid, match="column `label`: holds double"):
        bring(X, labels=tmp_path / "y.parquet")


@pytest.mark.parametrize("name", ["", "../up", "a b", "x" * 200])
def test_a_name_that_cannot_be_part_of_an_id_is_refused(store: Store, tmp_path: Path, name: str) -> None:
    np.save(tmp_path / "x.npy", X)
    with pytest.raises(ImportInvalid, match=r"`name`: (Use letters|String should have)"):
        import_embeddings(store, tmp_path / "x.npy", name=name)


@pytest.fixture
def four(tmp_path: Path) -> Callable[[Any], Path]:
    """A clip-retrieval folder of four embeddings with these columns of metadata."""

    def call(columns: Any) -> Path:
        folder = tmp_path / "four"
        for sub in ("img_emb", "metadata"):
            (folder / sub).mkdir(parents=True)
        np.save(folder / "img_emb" / "img_emb_0.npy", X[:4])
        table = columns if isinstance(columns, pa.Table) else pa.table(columns)
        pq.write_table(table, folder / "metadata" / "metadata_0.parquet")
        return folder

    return call


PATHS = ["d/a.jpg", "c/b.jpg", "b/c.jpg", "a/d.jpg"]


@pytest.mark.parametrize("name", ["filename", "file", "image", "File Name"])
def test_metadata_with_paths_under_any_usual_name_are_joined_by_path(
    bring: Callable[..., EmbeddingSet], four: Callable[[Any], Path], tmp_path: Path, name: str
) -> None:
    folder = four({name: PATHS})
    (tmp_path / "y.csv").write_text("path,label\n" + "".join(f"{path},{path[-5]}\n" for path in sorted(PATHS)))
    found = bring(folder, labels=tmp_path / "y.csv")
    assert found.metadata(["image_path"]).column("image_path").to_pylist() == PATHS
    assert _labels(found) == ["a", "b", "c", "d"]
    (tmp_path / "y.txt").write_text("a\nb\nc\nd\n")
    with pytest.raises(ImportInvalid, match="the images have paths"):
        bring(folder, labels=tmp_path / "y.txt")


def test_rows_of_one_image_have_its_label(
    bring: Callable[..., EmbeddingSet], four: Callable[[Any], Path], tmp_path: Path
) -> None:
    (tmp_path / "y.csv").write_text("path,label\ny.jpg,Y\n./x.jpg,X\n")
    assert _labels(bring(four({"image_path": ["x.jpg", "y.jpg", "x.jpg", "y.jpg"]}), labels=tmp_path / "y.csv")) == [
        *("X", "Y", "X", "Y")
    ]


def test_a_name_made_for_a_row_is_no_other_rows(
    bring: Callable[..., EmbeddingSet], four: Callable[[Any], Path]
) -> None:
    found = bring(four({"image_path": ["x.jpg", "x.jpg", "x.jpg#1", "x.jpg"]}))
    paths = found.metadata(["image_path"]).column("image_path").to_pylist()
    assert (paths[0], paths[2], len(set(paths))) == ("x.jpg", "x.jpg#1", 4)


def test_a_column_that_comes_twice_is_named(bring: Callable[..., EmbeddingSet], four: Callable[[Any], Path]) -> None:
    with pytest.raises(ImportInvalid, match="2 columns `image_path`"):
        bring(four(pa.table([PATHS, PATHS], names=["image_path", "image_path"])))


def test_metadata_of_another_number_are_never_paired(bring: Callable[..., EmbeddingSet], clip_folder: Path) -> None:
    (clip_folder / "img_emb" / "img_emb_5.npy").unlink()
    (clip_folder / "metadata" / "metadata_4.parquet").unlink()
    with pytest.raises(ImportInvalid, match=r"img_emb_4\.npy .*metadata_5\.parquet have different numbers"):
        bring(clip_folder)
