"""Scored sets whose classes are not the train set's."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clusterer import pipeline
from clusterer.data.transform import Transform
from clusterer.evaluation import contingency
from clusterer.evaluation.class_maps import read_class_index, read_class_map, read_csv_pairs, read_objectnet_pairs
from clusterer.evaluation.contingency import ClassPairs
from pydantic import ValidationError
from shoal.errors import LabelsInvalid, PathNotFound, PathOutsideRoot
from shoal.jobs.child import JobContext
from shoal.schemas import ClassMap, ClusterRequest
from shoal.store.clustering import Clustering

Planted = Callable[..., tuple[Any, list[str]]]
MakeSet = Callable[..., str]
RunJob = Callable[..., Clustering]

CSV = "train_label,scored_label,why\na,cat,\nb,cat,\nb,dog,both\nc,dog,\nzebra,dog,not in train\n"


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "data"
    root.mkdir()
    monkeypatch.setenv("SHOAL_DATA", str(root))
    return root


@pytest.fixture
def evaluated(data: Path, planted: Planted, make_set: MakeSet, run_job: RunJob, settings: Any, store: Any) -> Any:
    """A job on three sets: train, val with four wrong labels of forty, and a third set with three other classes."""
    (data / "map.csv").write_text(CSV)
    train = make_set("train", *planted(240))
    vectors, val_labels = planted(40, seed=1)
    for row in (0, 4, 8, 12):
        val_labels[row] = "b"  # rows of group a
    val = make_set("val", vectors, val_labels)
    vectors, groups = planted(40, seed=2)
    queues: dict[str, list[Any]] = {
        "a": ["dog"] * 2 + ["cat"] * 8,  # 8 right
        "b": ["cat"] * 5 + ["dog"] * 5,  # b is both: 10 right
        "c": ["cat"] * 1 + ["dog"] * 9,  # 9 right
        "d": ["cat"] * 3 + ["fish"] * 6 + [None],  # d is no class of this set: none right; fish is no class of train
    }
    third = make_set("third", vectors, [queues[group].pop(0) for group in groups])
    request = {
        "train": train,
        "score": [val, {"embeddings": third, "class_map": {"file": "map.csv"}}],
    }

    def run() -> tuple[dict[str, Any], dict[str, Any], Clustering]:
        context = JobContext.local(
            {"embeddings": request, "clusters": 4, "pca": {"components": 16}, "normalize": False, "seed": 0}
        )
        found = store.clustering(pipeline.run(context, replace_data(settings, data))["clustering"])
        scored = found.metrics()["scored"]
        return scored[val]["seeds"]["0"], scored[third]["seeds"]["0"], found

    return run


def replace_data(settings: Any, data: Path) -> Any:
    return settings.model_copy(update={"data": data})


def check(val: dict[str, Any], third: dict[str, Any]) -> None:
    """The figures as counted by hand."""
    assert val["accuracy"]["hungarian"]["train"] == pytest.approx(36 / 40)
    assert val["accuracy"]["majority"]["train"] == pytest.approx(36 / 40)
    assert (third["n"], third["n_labelled"], third["n_unmapped"], third["n_unlabelled"]) == (40, 33, 6, 1)
    assert third["classes"] == 2
    for rule in ("hungarian", "majority", "mixed"):
        assert third["accuracy"][rule]["train"] == pytest.approx(27 / 33), rule
    # Its own map: a cat (8 of 10), b either (5), c dog (9), d cat (3).
    assert third["accuracy"]["majority"]["scored"] == pytest.approx((8 + 5 + 9 + 3) / 33)
    assert third["accuracy"]["hungarian"]["scored"] == pytest.approx((8 + 9) / 33)


def test_accuracies_of_a_set_with_other_classes_are_those_counted_by_hand(evaluated: Any) -> None:
    val, third, found = evaluated()
    check(val, third)
    record = found.spec["class_maps"][found.scored[1]]
    assert (record["pairs"], record["ignored_pairs"], record["unmapped"]) == (4, 1, ["fish"])
    rows = found.clusters(found.scored[1]).to_pylist()
    assert {row["label"] for row in rows} == {"a", "b", "c", "d"}
    assert {row["majority"] for row in rows} == {"cat", "dog"}


def test_a_scored_set_that_skips_the_projection_would_be_noticed(
    evaluated: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Transform.view

    def skip(self: Transform, rows: Any, name: str = "the rows") -> Any:
        return real(self, rows, name) if "train" in name else rows

    monkeypatch.setattr(Transform, "view", skip)
    val, third, _ = evaluated()
    with pytest.raises(AssertionError):
        check(val, third)


def test_a_map_that_drops_class_zero_would_be_noticed(evaluated: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def drops_zero(self: ClassPairs, train: Any, scored: Any) -> Any:
        return (train > 0) & np.isin(train * self.scored_classes + scored, self.codes)

    monkeypatch.setattr(contingency.ClassPairs, "right", drops_zero)
    val, third, _ = evaluated()
    with pytest.raises(AssertionError):
        check(val, third)


def test_pairs_are_right_both_ways_and_class_zero_is_a_class() -> None:
    pairs = ClassPairs.of(np.array([0, 1, 1, 2]), np.array([0, 0, 1, 1]), 2)
    table = [[bool(pairs.right(np.array([t]), np.array([s]))[0]) for s in range(2)] for t in range(-1, 4)]
    assert table == [[False, False], [True, False], [True, True], [False, True], [False, False]]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("a,b\n1,2\n", "needs the columns train_label and scored_label"),
        ("", "needs the columns"),
        ("train_label,scored_label\na,\n", "line 2"),
        ("train_label,scored_label\nx,y\n", "No pair of the class map .* has labels that both sets contain"),
        (b"train_label,scored_label\n\xff\xfe,b\n", "cannot be read"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_with_the_reason(data: Path, content: str | bytes, words: str) -> None:
    (data / "map.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(LabelsInvalid, match=words):
        read_class_map(data, ClassMap(file="map.csv"), ["a"], {"a"}, {"cat"})


def test_a_map_of_a_set_without_labels_is_refused_for_that_reason(data: Path) -> None:
    (data / "map.csv").write_text(CSV)
    for train, scored, which in ((set(), {"cat"}, "train"), ({"a"}, set(), "scored")):
        with pytest.raises(LabelsInvalid, match=f"the {which} set has no labels"):
            read_class_map(data, ClassMap(file="map.csv"), ["a"], train, scored)


def test_what_a_refusal_says_has_no_path_of_the_machine(data: Path) -> None:
    (data / "folder").mkdir()
    for request in (ClassMap(file="folder"), ClassMap(file="folder", format="objectnet")):
        with pytest.raises(LabelsInvalid, match="cannot be read") as refused:
            read_class_map(data, request, ["a"], {"a"}, {"cat"})
        assert str(data) not in str(refused.value)


def test_a_class_index_without_objectnets_mappings_is_refused() -> None:
    with pytest.raises(ValidationError, match="`class_index` needs `format`"):
        ClassMap(file="map.csv", class_index="index.json")


def test_a_map_lies_below_the_data_root(data: Path) -> None:
    for file, error in (("../map.csv", PathOutsideRoot), ("/etc/passwd", PathOutsideRoot), ("no.csv", PathNotFound)):
        with pytest.raises(error):
            read_class_map(data, ClassMap(file=file), ["a"], {"a"}, {"cat"})


def test_a_set_is_mapped_once_and_never_the_train_set() -> None:
    mapped = {"embeddings": "b-1", "class_map": {"file": "m.csv"}}
    for train, score in (("a-1", [mapped, "b-1"]), ("a-1", [mapped, mapped]), ("b-1", [mapped])):
        with pytest.raises(ValidationError):
            ClusterRequest.model_validate({"embeddings": {"train": train, "score": score}, "clusters": 3})
    request = ClusterRequest.model_validate({"embeddings": {"train": "a-1", "score": ["a-1", mapped]}, "clusters": 3})
    assert request.scored_ids == ["a-1", "b-1"]
    assert request.class_maps["a-1"] is None


@pytest.fixture
def objectnet(tmp_path: Path) -> Path:
    """ObjectNet's mappings of two classes, in the shapes of the originals."""
    folder = tmp_path / "mappings"
    folder.mkdir()
    files: dict[str, Any] = {
        "objectnet_to_imagenet_1k.json": {"Alarm clock": "analog clock; digital clock", "Bench": "park bench"},
        "folder_to_objectnet_label.json": {
            "alarm_clock": "Alarm clock",
            "bench": "Bench",
            "air_freshener": "Air freshener",
        },
        # Position among the sorted WordNet ids -> number of the line.
        "pytorch_to_imagenet_2012_id.json": {"0": 2, "1": 0, "2": 3, "3": 1},
        "imagenet_class_index.json": {
            "0": ["n001", "park_bench"],
            "1": ["n002", "analog_clock"],
            "2": ["n003", "kite"],
            "3": ["n004", "digital"],
        },
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content))
    (folder / "imagenet_to_label_2012_v2").write_text("analog clock\ndigital clock\npark bench\nkite\n")
    (folder / "LOC_synset_mapping.txt").write_text("n002 analog clock\nn001 park bench\nn004 digital\nn003 kite\n")
    return folder


@pytest.mark.parametrize("index", ["imagenet_class_index.json", "LOC_synset_mapping.txt"])
def test_objectnets_mappings_lead_to_imagenets_folders(objectnet: Path, index: str) -> None:
    found = read_objectnet_pairs(objectnet, objectnet / index, {"n001", "n002", "n003", "n004"})
    folders = {(train, scored) for train, scored in found if train.startswith("n") and scored.islower()}
    # Position 0 (park bench) is a class like any other.
    assert folders == {("n002", "alarm_clock"), ("n004", "alarm_clock"), ("n001", "bench")}
    assert ("n001", "Bench") in found
    assert not any(scored == "air_freshener" for _, scored in found)


def test_numbered_train_labels_need_no_class_index(objectnet: Path) -> None:
    found = read_objectnet_pairs(objectnet, None, {"0", "1", "2", "3"})
    assert {train for train, scored in found if scored == "bench"} == {"0"}
    assert {train for train, scored in found if scored == "alarm_clock"} == {"1", "3"}
    with pytest.raises(LabelsInvalid, match="class_index"):
        read_objectnet_pairs(objectnet, None, {"n001", "n002"})


def test_a_broken_mapping_says_what_is_wrong(objectnet: Path) -> None:
    (objectnet / "imagenet_to_label_2012_v2").write_text("analog clock\n")
    with pytest.raises(LabelsInvalid, match=r"clock|bench"):
        read_objectnet_pairs(objectnet, None, {"0"})
    (objectnet / "pytorch_to_imagenet_2012_id.json").write_text('{"0": "n01440764"}')
    with pytest.raises(LabelsInvalid, match=r"must map numbers to numbers\. Use the file as it is published\."):
        read_objectnet_pairs(objectnet, None, {"0"})
    (objectnet / "pytorch_to_imagenet_2012_id.json").write_text("[" * 100_000)
    with pytest.raises(LabelsInvalid, match="cannot be read"):
        read_objectnet_pairs(objectnet, None, {"0"})
    (objectnet / "pytorch_to_imagenet_2012_id.json").write_text("{}")
    (objectnet / "objectnet_to_imagenet_1k.json").write_text("[]")
    with pytest.raises(LabelsInvalid, match=r"is not a JSON object\. Use the file as it is published\."):
        read_objectnet_pairs(objectnet, None, {"0"})
    (objectnet / "folder_to_objectnet_label.json").unlink()
    (objectnet / "objectnet_to_imagenet_1k.json").write_text("{}")
    with pytest.raises(LabelsInvalid, match=r"folder_to_objectnet_label\.json cannot be read"):
        read_objectnet_pairs(objectnet, None, {"0"})
    (objectnet / "imagenet_class_index.json").write_text('{"0": "n01"}')
    with pytest.raises(LabelsInvalid, match="is not an ImageNet class index"):
        read_class_index(objectnet / "imagenet_class_index.json")


def test_a_table_of_pairs_reads_quotes_and_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "map.csv"
    path.write_text('\ufeffscored_label,train_label\n"tea, pot",n1\n')
    assert read_csv_pairs(path) == {("n1", "tea, pot")}


def test_quotes_in_a_table_of_pairs_may_follow_blanks(tmp_path: Path) -> None:
    path = tmp_path / "map.csv"
    path.write_text('"scored_label", "train_label"\n"dog", "n1, tench"\n')
    assert read_csv_pairs(path) == {("n1, tench", "dog")}


@pytest.mark.parametrize(
    ("delimiter", "encoding"), [(",", "utf-8"), (";", "utf-8-sig"), ("\t", "utf-16"), ("|", "utf-16-le")]
)
def test_a_table_of_pairs_may_have_any_delimiter_and_unicode(tmp_path: Path, delimiter: str, encoding: str) -> None:
    rows = [["train_label ", "why", "scored_label"], ["1.0", "a, b", " Käse "], ["2", "", "dog"]]
    (tmp_path / "map.csv").write_text("\n\n".join(delimiter.join(f'"{f}"' for f in row) for row in rows), encoding)
    assert read_csv_pairs(tmp_path / "map.csv") == {("1", "Käse"), ("2", "dog")}


OBJECTNET_FILES = (
    "objectnet_to_imagenet_1k.json",
    "folder_to_objectnet_label.json",
    "pytorch_to_imagenet_2012_id.json",
    "imagenet_to_label_2012_v2",
)


@pytest.mark.timeout(30)
@pytest.mark.parametrize("kind", ["pipe", "device", "huge"])
@pytest.mark.parametrize("name", ["map.csv", "index.json", "index.txt", *OBJECTNET_FILES])
def test_no_file_of_a_map_blocks_or_fills_the_memory(data: Path, objectnet: Path, name: str, kind: str) -> None:
    mappings = objectnet.rename(data / "mappings")
    (mappings / "map.csv").write_text(CSV)
    path = mappings / name
    path.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        path.write_bytes(b"")
        os.truncate(path, 1_500_000_000)
    index = f"mappings/{name}" if name.startswith("index") else "mappings/LOC_synset_mapping.txt"
    request = (
        ClassMap(file="mappings/map.csv")
        if name == "map.csv"
        else ClassMap(file="mappings", format="objectnet", class_index=index)
    )
    with pytest.raises((LabelsInvalid, PathOutsideRoot)) as refused:
        read_class_map(data, request, ["a"], {"a"}, {"cat"})
    if kind != "device":
        assert name in refused.value.detail
        assert refused.value.members["field"] == (
            "class_map.class_index" if name.startswith("index") else "class_map.file"
        )


def test_a_mapping_that_is_a_symlink_out_of_the_root_is_not_read(data: Path, objectnet: Path, tmp_path: Path) -> None:
    mappings = objectnet.rename(data / "mappings")
    (mappings / "imagenet_to_label_2012_v2").rename(tmp_path / "secret")
    (mappings / "imagenet_to_label_2012_v2").symlink_to(tmp_path / "secret")
    with pytest.raises(PathOutsideRoot):
        read_class_map(data, ClassMap(file="mappings", format="objectnet"), ["0"], {"0"}, {"bench"})


@pytest.mark.parametrize("content", ['{"9' + "9" * 5000 + '": ["n1"]}', '{"0": [["n1"]]}', '{"0": []}'])
def test_a_class_index_of_anything_else_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "index.json").write_text(content)
    with pytest.raises(LabelsInvalid, match=r"index\.json is not an ImageNet class index"):
        read_class_index(tmp_path / "index.json")
