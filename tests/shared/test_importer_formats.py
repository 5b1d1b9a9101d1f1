"""Every format of files of embeddings passes the same tests: rows, labels, ids, and errors that name what is wrong."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from numpy.typing import NDArray
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_torch_file
from shoal.errors import ImportInvalid
from shoal.importer import Keys, import_embeddings, import_sets
from shoal.importer import values as importer_values
from shoal.importer.formats import base, npz, parquet
from shoal.store import EmbeddingSet, Store

X = np.random.default_rng(0).normal(size=(23, 4)).astype(np.float32)
LABELS = np.arange(23) % 3
NAMES = [f"dogs/{row}.jpg" for row in range(23)]

Arrays = Mapping[str, Any]


def _npz(path: Path, arrays: Arrays) -> None:
    np.savez(path, allow_pickle=True, **arrays)


def _npz_compressed(path: Path, arrays: Arrays) -> None:
    np.savez_compressed(path, allow_pickle=True, **arrays)


def _torch(path: Path, arrays: Arrays) -> None:
    torch.save({name: torch.from_numpy(array) if _numeric(array) else array for name, array in arrays.items()}, path)


def _safetensors(path: Path, arrays: Arrays) -> None:
    save_file({name: np.ascontiguousarray(array) for name, array in arrays.items() if _numeric(array)}, path)


def _hdf5(path: Path, arrays: Arrays) -> None:
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file[name] = array


def _hdf5_chunked(path: Path, arrays: Arrays) -> None:
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file.create_dataset(name, data=array, compression="gzip", chunks=(min(7, len(array)), *np.shape(array)[1:]))


def _lists(array: Any) -> Any:
    return pa.array(list(array), pa.list_(pa.from_numpy_dtype(array.dtype))) if _numeric(array) else pa.array(array)


def _fixed_lists(array: Any) -> Any:
    if not _numeric(array):
        return pa.array(array)
    kind = pa.list_(pa.from_numpy_dtype(array.dtype), array.shape[1])
    return pa.array(list(array), kind)


def _parquet(path: Path, arrays: Arrays, column: Callable[[Any], Any] = _lists) -> None:
    columns = {name: column(array) if np.ndim(array) == 2 else pa.array(array) for name, array in arrays.items()}
    pq.write_table(pa.table(columns), path, row_group_size=5)


def _parquet_fixed(path: Path, arrays: Arrays) -> None:
    _parquet(path, arrays, _fixed_lists)


def _numeric(array: Any) -> bool:
    return isinstance(array, np.ndarray) and array.dtype.kind in "biuf"


@dataclass(frozen=True)
class Format:
    """How a format is written, and what it can hold.

    Attributes
    ----------
    damage
        What a truncated file is said to be.
    texts, equal_rows
        Whether it holds text, and whether it forces its arrays to the same number of rows.
    """

    suffix: str
    write: Callable[[Path, Arrays], None]
    noun: str
    damage: str
    texts: bool = True
    equal_rows: bool = False

    def save(self, to: Path, /, **arrays: Any) -> Path:
        file = to.with_suffix(self.suffix)
        self.write(file, arrays)
        return file


FORMATS = {
    "npz": Format(".npz", _npz, "array", "is not an .npz archive, or is damaged"),
    "npz compressed": Format(".npz", _npz_compressed, "array", "is not an .npz archive, or is damaged"),
    "pt": Format(".pt", _torch, "tensor", "is not a file of torch.save, or is damaged"),
    "safetensors": Format(".safetensors", _safetensors, "tensor", "is truncated", texts=False),
    "hdf5": Format(".h5", _hdf5, "dataset", "is not a complete HDF5 file"),
    "hdf5 chunked": Format(".hdf5", _hdf5_chunked, "dataset", "is not a complete HDF5 file"),
    "parquet": Format(".parquet", _parquet, "column", "is not a complete Parquet file", equal_rows=True),
    "parquet fixed": Format(".pq", _parquet_fixed, "column", "is not a complete Parquet file", equal_rows=True),
}

Bring = Callable[..., EmbeddingSet]


@pytest.fixture(autouse=True)
def _quick_and_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is killed here, and every file has several blocks, chunks and shards."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    monkeypatch.setattr(importer_values, "_CHUNK_BYTES", 112)
    monkeypatch.setattr(npz, "_BLOCK_BYTES", 80)
    monkeypatch.setattr(parquet, "_BATCH_BYTES", 64)


@pytest.fixture(params=FORMATS)
def form(request: pytest.FixtureRequest) -> Format:
    return FORMATS[request.param]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def bring(store: Store) -> Bring:
    """Import and open."""

    def call(path: Path, **options: Any) -> EmbeddingSet:
        found = store.embeddings(import_embeddings(store, path, name="mine", **options))
        assert store.verify(found.id).ok
        return found

    return call


def _rows(found: EmbeddingSet) -> NDArray[Any]:
    return found.take(np.arange(found.rows))


def _paths(found: EmbeddingSet) -> list[str]:
    values: list[str] = found.metadata(["image_path"]).column("image_path").to_pylist()
    return values


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_rows_labels_and_paths_are_those_of_the_file(form: Format, bring: Bring, tmp_path: Path, dtype: Any) -> None:
    values = X.astype(dtype)
    texts = {"path": NAMES} if form.texts else {}
    file = form.save(tmp_path / "x", embeddings=values, label=LABELS, **texts)
    found = bring(file, shard_rows=9)
    np.testing.assert_array_equal(_rows(found), values.astype(np.float32))
    assert found.labels() == [str(label) for label in LABELS]
    assert found.plan.transform["imported_dtype"] == np.dtype(dtype).name
    assert _paths(found) == (NAMES if form.texts else [f"{file.name}:embeddings#{row}" for row in range(23)])


def test_ids_are_stable_and_contain_the_content(form: Format, bring: Bring, store: Store, tmp_path: Path) -> None:
    first = bring(form.save(tmp_path / "x", embeddings=X, label=LABELS)).id
    assert bring(form.save(tmp_path / "x", embeddings=X, label=LABELS)).id == first
    (tmp_path / "elsewhere").mkdir()
    assert bring(form.save(tmp_path / "elsewhere" / "x", embeddings=X, label=LABELS)).id == first
    assert bring(form.save(tmp_path / "x", embeddings=X + 1, label=LABELS)).id != first
    assert bring(form.save(tmp_path / "x", embeddings=X, label=LABELS + 1)).id != first
    assert len(store.embeddings_ids()) == 3


def test_the_content_is_hashed_as_that_of_an_npy(form: Format, bring: Bring, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X)
    hashed = bring(tmp_path / "x.npy").plan.transform["content_sha256"]
    assert bring(form.save(tmp_path / "x", embeddings=X)).plan.transform["content_sha256"] == hashed


def test_an_import_that_was_cut_off_goes_on(
    form: Format, bring: Bring, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = form.save(tmp_path / "x", embeddings=X, label=LABELS)
    writer = Store.shard_writer

    def cut_off(self: Store, embeddings_id: str, shard: int, **options: Any) -> Any:
        if shard == 1:
            raise KeyboardInterrupt
        return writer(self, embeddings_id, shard, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Store, "shard_writer", cut_off)
        with pytest.raises(KeyboardInterrupt):
            bring(file, shard_rows=7)
    assert len(store.embeddings(store.embeddings_ids()[0]).missing_shards()) == 3
    np.testing.assert_array_equal(_rows(bring(file, shard_rows=7)), X)


def test_a_folder_of_shards_is_read_in_natural_order(form: Format, bring: Bring, tmp_path: Path) -> None:
    folder = tmp_path / "shards"
    folder.mkdir()
    for at, rows in enumerate(np.array_split(np.arange(23), 12)):
        form.save(folder / f"train-{at}-of-12.x", embeddings=X[rows], label=LABELS[rows])
    (folder / "readme.txt").write_text("x")
    found = bring(folder, shard_rows=5)
    np.testing.assert_array_equal(_rows(found), X)
    assert found.labels() == [str(label) for label in LABELS]


def test_shards_that_differ_are_named(form: Format, bring: Bring, tmp_path: Path) -> None:
    folder = tmp_path / "shards"
    folder.mkdir()
    form.save(folder / "a", embeddings=X, label=LABELS)
    second = form.save(folder / "b", embeddings=X[:, :3], label=LABELS)
    with pytest.raises(ImportInvalid, match=rf"{second.name}, `embeddings` has 3 columns, .* has 4"):
        bring(folder)
    form.save(folder / "b", embeddings=X)
    with pytest.raises(ImportInvalid, match=rf"{second.name}, `embeddings` has no labels, .* has labels"):
        bring(folder)
    form.save(folder / "b", other=X.astype(np.int64))
    with pytest.raises(ImportInvalid, match=rf"{second.name}, \w+ `other`, holds int64"):
        bring(folder)


@pytest.mark.parametrize("keep", [0, 3, 0.5, -1])
def test_a_damaged_file_is_named(form: Format, bring: Bring, store: Store, tmp_path: Path, keep: float) -> None:
    file = form.save(tmp_path / "x", embeddings=np.tile(X, (200, 1)), label=np.tile(LABELS, 200))
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * keep) if keep == 0.5 else int(keep)])
    with pytest.raises(ImportInvalid) as caught:
        bring(file)
    assert str(file) in caught.value.detail
    assert caught.value.members["file"] == str(file)
    if keep in (0.5, -1):
        assert form.damage in caught.value.detail
    assert store.embeddings_ids() == []


def test_the_rows_of_a_damaged_value_are_not_taken(form: Format, bring: Bring, tmp_path: Path) -> None:
    """A flipped bit is found by the checksum of the format, where it has one."""
    file = form.save(tmp_path / "x", embeddings=np.tile(X, (200, 1)), label=np.tile(LABELS, 200))
    content = bytearray(file.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 64] = bytes(64)
    file.write_bytes(content)
    if form.suffix in {".npz", ".pt"}:
        with pytest.raises(ImportInvalid, match=form.damage):
            bring(file)


@pytest.mark.parametrize(("value", "row"), [(np.nan, 17), (np.inf, 0), (-np.inf, 22)])
def test_nan_and_infinity_are_named_with_their_row(
    form: Format, bring: Bring, tmp_path: Path, value: float, row: int
) -> None:
    bad = X.copy()
    bad[row, 2] = value
    file = form.save(tmp_path / "x", embeddings=bad)
    with pytest.raises(ImportInvalid, match=rf"{file.name}, `embeddings`, row {row}: holds NaN or infinity") as caught:
        bring(file)
    assert caught.value.members["row"] == row


def test_arrays_of_another_type_or_shape_are_named(form: Format, bring: Bring, tmp_path: Path) -> None:
    file = form.save(tmp_path / "x", embeddings=X.astype(np.int64), label=LABELS)
    with pytest.raises(ImportInvalid, match=rf"no {form.noun} that may be embeddings: it holds .*`label` \(23,\)"):
        bring(file)
    for keys, message in (
        (Keys("embeddings"), rf"{form.noun} `embeddings`, holds int64; expected float16"),
        (Keys("label"), rf"{form.noun} `label`, has shape \(23,\); expected \(n, dim\)"),
    ):
        with pytest.raises(ImportInvalid, match=message):
            bring(file, keys=keys)


def test_a_missing_key_is_answered_with_those_there_are(form: Format, bring: Bring, tmp_path: Path) -> None:
    file = form.save(tmp_path / "x", embeddings=X, label=LABELS)
    for keys, flag in ((Keys("nothing"), "--key"), (Keys(None, "nothing"), "--label-key")):
        with pytest.raises(
            ImportInvalid,
            match=rf"no {form.noun} `nothing`: it holds .*`embeddings` \(23, 4\) float32.*Choose one .* with {flag}",
        ):
            bring(file, keys=keys)


def test_arrays_are_chosen_by_key(form: Format, bring: Bring, tmp_path: Path) -> None:
    file = form.save(tmp_path / "x", left=X, right=-X, other=LABELS, label=LABELS + 7)
    with pytest.raises(
        ImportInvalid, match=rf"several {form.noun}s that may be the embeddings.*`left`.*`right`.*--key"
    ):
        bring(file)
    found = bring(file, keys=Keys("right", "other"))
    np.testing.assert_array_equal(_rows(found), -X)
    assert found.labels() == [str(label) for label in LABELS]
    assert bring(file, keys=Keys("right", "")).labels() is None


def test_labels_that_may_be_several_are_asked_for(form: Format, bring: Bring, tmp_path: Path) -> None:
    file = form.save(tmp_path / "x", embeddings=X, target=LABELS, category=LABELS)
    with pytest.raises(ImportInvalid, match=r"may be the labels: .*`category`.*--label-key"):
        bring(file)


def test_labels_of_another_length_are_named(form: Format, bring: Bring, tmp_path: Path) -> None:
    if form.equal_rows:
        pytest.skip("all columns of this format have the same length")
    file = form.save(tmp_path / "x", embeddings=X, labels=LABELS[:22])
    with pytest.raises(ImportInvalid, match=rf"{file.name}, `labels`, has 22 rows, `embeddings` has 23"):
        bring(file)


def test_labels_that_are_fractions_are_named(form: Format, bring: Bring, tmp_path: Path) -> None:
    file = form.save(tmp_path / "x", embeddings=X, labels=LABELS + np.where(np.arange(23) == 5, 0.5, 0))
    with pytest.raises(ImportInvalid, match=rf"{file.name}, `labels`, row 5: holds the fraction 2\.5"):
        bring(file)


def test_a_label_file_takes_precedence(form: Format, bring: Bring, tmp_path: Path) -> None:
    np.save(tmp_path / "y.npy", np.arange(23))
    file = form.save(tmp_path / "x", embeddings=X, label=LABELS)
    assert bring(file, labels=tmp_path / "y.npy").labels() == [str(row) for row in range(23)]


def test_several_sets_are_imported_at_once(form: Format, store: Store, tmp_path: Path) -> None:
    if form.equal_rows:
        pytest.skip("a table holds one set")
    file = form.save(
        tmp_path / "resnet50",
        **{"train_embs": X, "train_labs": LABELS, "val_embs": X[:9], "val_labs": LABELS[:9]},
        **{"obj_embs": X[:5], "obj_labs": LABELS[:5]},
    )
    made = import_sets(store, file, name="r50")
    assert set(made) == {"train", "val", "obj"}
    for each, rows in (("train", 23), ("val", 9), ("obj", 5)):
        found = store.embeddings(made[each])
        assert found.id.startswith(f"r50-{each}-")
        np.testing.assert_array_equal(_rows(found), X[:rows])
        assert found.labels() == [str(label) for label in LABELS[:rows]]
        assert set(found.metadata(["split"]).column("split").to_pylist()) == {each}
    assert import_sets(store, file, name="r50") == made
    one = store.embeddings(import_embeddings(store, file, name="one", keys=Keys("val_embs")))
    assert one.labels() == [str(label) for label in LABELS[:9]]
    with pytest.raises(ImportInvalid, match=r"holds the sets `\w+`, `\w+`, `\w+`"):
        import_embeddings(store, file, name="r50")
    with pytest.raises(ImportInvalid, match="a label file is for one"):
        import_sets(store, file, name="r50", labels=tmp_path / "y.csv")


def test_nothing_is_stored_if_one_of_several_sets_is_wrong(form: Format, store: Store, tmp_path: Path) -> None:
    if form.equal_rows:
        pytest.skip("a table holds one set")
    file = form.save(tmp_path / "x", train_embs=X, train_labs=LABELS, val_embs=X, val_labs=LABELS[:9])
    with pytest.raises(ImportInvalid, match=r"`val_labs`, has 9 rows, `val_embs` has 23"):
        import_sets(store, file, name="mine")
    assert store.embeddings_ids() == []


@pytest.mark.timeout(30)
def test_a_pipe_does_not_block(form: Format, bring: Bring, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / f"pipe{form.suffix}")
    with pytest.raises(ImportInvalid, match="it is a named pipe"):
        bring(tmp_path / f"pipe{form.suffix}")


def test_shards_of_several_formats_are_refused(bring: Bring, tmp_path: Path) -> None:
    folder = tmp_path / "shards"
    folder.mkdir()
    for form in (FORMATS["npz"], FORMATS["parquet"]):
        form.save(folder / "x", embeddings=X)
    with pytest.raises(ImportInvalid, match=r"several formats, such as x\.npz and x\.parquet"):
        bring(folder)


def test_hdf5_without_its_library_says_what_to_install(
    bring: Bring, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = FORMATS["hdf5"].save(tmp_path / "x", embeddings=X)
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ImportInvalid, match=r"x\.h5 is an HDF5 file, which needs h5py: .*pip install 'shoal\[hdf5\]'"):
        bring(file)


def test_hdf5_that_points_into_other_files_is_not_followed(bring: Bring, tmp_path: Path) -> None:
    other = FORMATS["hdf5"].save(tmp_path / "other", embeddings=X)
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["linked"] = h5py.ExternalLink(str(other), "embeddings")
    with pytest.raises(ImportInvalid, match="it holds nothing"):
        bring(tmp_path / "x.h5")
    layout = h5py.VirtualLayout((23, 4), np.float32)
    layout[:] = h5py.VirtualSource(str(other), "embeddings", (23, 4))
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_virtual_dataset("embeddings", layout)
        file.create_dataset("raw", (23, 4), np.float32, external=[(str(tmp_path / "raw"), 0, 368)])
    for key in ("embeddings", "raw"):
        with pytest.raises(ImportInvalid, match=f"`{key}`, keeps its values in other files"):
            bring(tmp_path / "x.h5", keys=Keys(key))


def test_bfloat16_is_read_as_float32(bring: Bring, tmp_path: Path) -> None:
    tensor = torch.from_numpy(X).to(torch.bfloat16)
    torch.save({"embeddings": tensor}, tmp_path / "x.pt")
    save_torch_file({"embeddings": tensor}, tmp_path / "x.safetensors")
    for file in ("x.pt", "x.safetensors"):
        found = bring(tmp_path / file)
        np.testing.assert_array_equal(_rows(found), tensor.float().numpy())
        assert found.dtype == np.float32
        assert found.plan.transform["imported_dtype"] == "bfloat16"


@pytest.mark.parametrize(
    "saved",
    [
        torch.from_numpy(X),
        torch.from_numpy(np.ascontiguousarray(X.T)).T,
        torch.from_numpy(np.concatenate([X, X]))[23:],
        torch.nn.Parameter(torch.from_numpy(X)),
        [torch.from_numpy(X), torch.from_numpy(LABELS)],
        {"model": {"embeddings": torch.from_numpy(X)}, "epoch": 3, "name": "x"},
    ],
)
def test_what_torch_saves_is_read_as_torch_reads_it(bring: Bring, tmp_path: Path, saved: Any) -> None:
    torch.save(saved, tmp_path / "x.pt")
    np.testing.assert_array_equal(_rows(bring(tmp_path / "x.pt")), X)


class Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.path),))


@pytest.mark.parametrize("old", [False, True])
def test_no_code_of_a_pt_file_runs(bring: Bring, tmp_path: Path, old: bool) -> None:
    torch.save({"x": Bomb(tmp_path / "exploded")}, tmp_path / "x.pt", _use_new_zipfile_serialization=not old)
    message = "is a plain pickle" if old else r"it names posix\.mkdir, which is not read.*Save tensors and lists"
    with pytest.raises(ImportInvalid, match=message):
        bring(tmp_path / "x.pt")
    assert not (tmp_path / "exploded").exists()


def test_an_array_of_objects_is_named_where_it_is_chosen_only(bring: Bring, tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", allow_pickle=True, embeddings=X, label=np.array(NAMES, dtype=object), other=LABELS)
    with pytest.raises(ImportInvalid, match=r"`label`, is not a complete array of plain values: it holds Python"):
        bring(tmp_path / "x.npz", keys=Keys(None, "label"))
    assert bring(tmp_path / "x.npz", keys=Keys(None, "other")).labels() == [str(label) for label in LABELS]


@pytest.mark.parametrize(
    ("lists", "message"),
    [
        ([[1.0, 2.0], [1.0]], r"column `x`, row 1: holds 1 numbers; expected 2"),
        ([[1.0, 2.0], None], r"column `x`, row 1: holds no list; expected 2"),
        ([[1.0, 2.0], [1.0, None]], r"column `x`, row 1: a number is missing"),
        ([["a"]], r"no column that may be embeddings|holds list<.*>, no numbers"),
    ],
)
def test_lists_that_are_no_vectors_are_named_with_their_row(
    bring: Bring, tmp_path: Path, lists: list[Any], message: str
) -> None:
    pq.write_table(pa.table({"x": lists}), tmp_path / "x.parquet")
    with pytest.raises(ImportInvalid, match=message):
        bring(tmp_path / "x.parquet")


def test_a_table_brings_its_splits_and_sizes(bring: Bring, tmp_path: Path) -> None:
    table = {"emb": list(X), "file_name": NAMES, "class": ["a"] * 23, "split": ["val"] * 23, "width": list(range(23))}
    pq.write_table(pa.table(table), tmp_path / "x.parquet")
    found = bring(tmp_path / "x.parquet").metadata()
    assert found.column("image_path").to_pylist() == NAMES
    assert set(found.column("label").to_pylist()) == {"a"}
    assert set(found.column("split").to_pylist()) == {"val"}
    assert found.column("width").to_pylist() == list(range(23))


def test_a_stream_starts_again_for_an_earlier_row() -> None:
    started = []

    def blocks() -> Any:
        started.append(True)
        for row in range(0, 23, 4):
            yield X[row : row + 4]

    stream = base.Stream(blocks, X[:0])
    for start, stop in ((0, 3), (3, 11), (20, 23), (1, 2), (5, 5), (4, 23)):
        np.testing.assert_array_equal(stream(start, stop), X[start:stop])
    assert len(started) == 3
    stream.close()
