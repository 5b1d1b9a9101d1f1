"""`shoal run`: what it asks for, what it finds again, what it says at its end. tests/contracts runs all of it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console
from shoal import __version__
from shoal.cli import request as requests
from shoal.cli import run, summary
from shoal.cli.request import Source
from shoal.cli.session import Session
from shoal.errors import ClustersInvalid, InvalidRequest, PathNotFound, StoreError
from shoal.importer import import_embeddings
from shoal.jobs.queue import JobQueue
from shoal.jobs.states import JobState
from shoal.store import Store
from shoal.store.clustering import ClusteringWriter
from shoal.store.table_schemas import CLUSTERS_SCHEMA


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "my photos é"
    made.mkdir()
    return made


class TestSource:
    def test_a_folder_is_asked_for_by_its_name_below_its_parent(self, folder: Path) -> None:
        source = Source.of(folder)
        assert (source.root, source.path, source.labels) == (folder.parent, "my photos é", "folder")

    def test_a_folder_of_the_root_is_a_folder_too(self) -> None:
        source = Source.of(Path("/tmp"))
        assert (source.root, source.path) == (Path("/tmp").resolve().parent, Path("/tmp").resolve().name)

    def test_lists_archives_and_patterns_are_sources_too(self, folder: Path) -> None:
        for name in ("list.csv", "set.tar"):
            (folder / name).touch()
            source = Source.of(folder / name, limit=5)
            assert (source.root, source.path, source.chosen) == (folder, name, {"limit": 5})
        source = Source.of(folder / "x-{00..09}.tar")
        assert (source.root, source.path) == (folder, "x-{00..09}.tar")

    @pytest.mark.parametrize("name", ["file.png", "nowhere", "/"])
    def test_what_is_no_folder_of_images_is_refused_with_what_to_do(self, folder: Path, name: str) -> None:
        (folder / "file.png").touch()
        with pytest.raises(
            (PathNotFound, InvalidRequest), match=r"give the folder|The folder .* does not exist"
        ) as caught:
            Source.of(folder / name)
        if name == "file.png":
            assert str(folder) in caught.value.detail

    def test_a_name_that_is_not_utf8_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / os.fsdecode(b"caf\xe9")).mkdir()
        with pytest.raises(InvalidRequest, match=r"caf\\xe9 is not UTF-8"):
            Source.of(tmp_path / os.fsdecode(b"caf\xe9"))

    @pytest.mark.parametrize("where", ["here", "inside", "beside", "far", "home"])
    def test_a_label_file_may_lie_anywhere(
        self, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
    ) -> None:
        bases = {
            "here": tmp_path / "cwd",
            "inside": folder,
            "beside": tmp_path,
            "far": tmp_path / "x/y",
            "home": tmp_path / "h",
        }
        file = bases[where] / "labels.csv"
        (tmp_path / "cwd").mkdir()
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("path,label\n")
        monkeypatch.chdir(tmp_path / "cwd")
        monkeypatch.setenv("HOME", str(tmp_path / "h"))
        named = {"far": str(file), "home": "~/labels.csv"}.get(where, "labels.csv")
        for text, columns in ((named, {}), (f"{named}:p:l", {"path_column": "p", "label_column": "l"})):
            source = Source.of(folder, text)
            assert isinstance(source.labels, dict)
            assert source.root / source.labels["file"] == file
            assert source.root / source.path == folder
            assert source.labels == {"file": source.labels["file"], **columns}

    def test_the_level_of_the_class_folders_can_be_named(self, folder: Path) -> None:
        source = Source.of(folder, "folder:1")
        assert (source.root, source.labels) == (folder.parent, {"folder_level": 1})

    def test_a_label_file_that_is_not_there_is_named_with_the_places(self, folder: Path) -> None:
        with pytest.raises(PathNotFound, match=r"label file l\.csv does not exist in .*my photos"):
            Source.of(folder, "l.csv")


@pytest.mark.parametrize(
    ("facts", "choice"),
    [
        ({"classes": 7, "rows": 200}, {"over": 1.0, "reduce": "auto"}),
        ({"classes": 1, "rows": 200}, {"clusters": "auto", "reduce": "auto"}),
        ({"classes": 0, "rows": 2}, {"clusters": 2}),
        ({"classes": 0, "rows": 72}, {"clusters": 6}),
        ({"classes": 7, "rows": 72}, {"over": 1.0}),
        ({"rows": 5000}, {"clusters": "auto", "reduce": "auto"}),
        ({"classes": 2, "rows": 200, "labelled": 8}, {"clusters": "auto", "reduce": "auto"}),
        ({"classes": 2, "rows": 200, "labelled": 150}, {"over": 1.0, "reduce": "auto"}),
    ],
)
def test_what_a_user_leaves_open_is_classes_or_a_search_and_the_reduction(
    facts: dict[str, Any], choice: dict[str, Any]
) -> None:
    assert requests.choose(facts) == choice


@pytest.mark.parametrize(
    ("asked", "sent"),
    [
        ({}, {"clusters": "auto", "reduce": "auto"}),
        ({"clusters": 7}, {"clusters": 7}),
        ({"over": 2.0}, {"over": 2.0}),
        ({"clusters": 7, "options": {"reduce": "auto"}}, {"clusters": 7, "reduce": "auto"}),
        ({"options": {"reduce": "none"}}, {"clusters": "auto"}),
        ({"options": {"reduce": {"method": "smooth"}}}, {"clusters": "auto", "reduce": {"method": "smooth"}}),
    ],
)
def test_what_a_user_gave_is_sent_as_it_is(folder: Path, asked: dict[str, Any], sent: dict[str, Any]) -> None:
    ask = requests.RunRequest(Source.of(folder), **asked)
    assert ask.body("e", {"clusters": "auto", "reduce": "auto"}) == {"embeddings": "e", **sent}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A store with one labelled set of embeddings, ``toy-…``, and one clustering of it, ``c-old``."""
    rng = np.random.default_rng(0)
    np.save(tmp_path / "v.npy", rng.normal(size=(12, 4)).astype(np.float32))
    np.save(tmp_path / "l.npy", np.array(["cat"] * 8 + ["dog"] * 4))
    store = Store(tmp_path / "store")
    import_embeddings(store, tmp_path / "v.npy", name="toy", labels=tmp_path / "l.npy", split=None)
    return store


def publish(
    store: Store,
    clustering_id: str,
    request: dict[str, Any],
    version: str = __version__,
    more: dict[str, Any] | None = None,
) -> None:
    """A clustering with as much in it as the summary reads."""
    [embeddings_id] = store.embeddings_ids()
    with ClusteringWriter(store.layout, clustering_id) as writer:
        layout = writer.layout
        layout.report.mkdir(parents=True, exist_ok=True)
        layout.report_html.write_text("<html>")
        layout.contact_sheet.write_bytes(b"png")
        mean = {"n_labelled": 12, "accuracy": {"hungarian": {"train": 0.75}}, "silhouette": 0.25, "purity": 0.75}
        scored = {
            embeddings_id: {"mean": {**mean, "chance": {"accuracy": 0.4}}, "std": {}, "seeds": {}, "stability": None}
        }
        spec = {
            "request": request,
            "train": embeddings_id,
            "scored": [embeddings_id],
            "n": 12,
            "k": 7,
            "dim": 4,
            "seeds": [0],
            "best_seed": 0,
            "train_classes": 2,
            **(more or {}),
        }
        rows = [
            {
                "embeddings": embeddings_id,
                "cluster": i,
                "size": size,
                "labelled": size,
                "majority": "cat",
                "purity": 0.75,
                "label": "cat",
                "tightness": 1.0,
                "nearest": [i],
                "farthest": [i],
                "borderline": [i],
                "top_classes": [],
            }
            for i, size in enumerate((1, 1, 1, 1, 1, 1, 6))
        ]
        layout.spec.write_text(json.dumps(spec))
        layout.run.write_text(json.dumps({"version": version}))
        layout.metrics.write_text(json.dumps({"scored": scored}))
        pq.write_table(pa.Table.from_pylist(rows, CLUSTERS_SCHEMA), layout.clusters)
        writer.publish()


class TestReuse:
    def test_a_request_with_its_defaults_is_the_same_as_one_without(self, store: Store) -> None:
        [embeddings_id] = store.embeddings_ids()
        short = {"embeddings": embeddings_id, "clusters": 7, "pca": None}
        publish(store, "c-old", requests.canonical(short) or {})
        assert requests.same_clustering(store, short) == "c-old"
        assert requests.same_clustering(store, {**short, "memory_limit": "4GiB"}) == "c-old"

    @pytest.mark.parametrize(
        "other",
        [{"clusters": 6}, {"embeddings": "toy-2"}, {"pca": {"components": 2}}, {"seed": 5}, {"normalize": False}],
    )
    def test_another_request_is_another_clustering(self, store: Store, other: dict[str, Any]) -> None:
        [embeddings_id] = store.embeddings_ids()
        publish(store, "c-old", {"embeddings": embeddings_id, "clusters": 7})
        assert requests.same_clustering(store, {"embeddings": embeddings_id, "clusters": 7, **other}) is None

    def test_what_another_version_made_is_made_again(self, store: Store) -> None:
        [embeddings_id] = store.embeddings_ids()
        publish(store, "c-old", {"embeddings": embeddings_id, "clusters": 7}, version="0.0.1")
        assert requests.same_clustering(store, {"embeddings": embeddings_id, "clusters": 7}) is None

    def test_a_damaged_clustering_is_no_hindrance(self, store: Store) -> None:
        [embeddings_id] = store.embeddings_ids()
        request = {"embeddings": embeddings_id, "clusters": 7}
        for name in ("c-1", "c-2", "c-3"):
            publish(store, name, request)
        store.clustering("c-3").layout.run.unlink()
        store.clustering("c-2").layout.spec.write_text("{")
        assert requests.same_clustering(store, request) == "c-1"


class TestSummary:
    def text(self, store: Store, **fields: Any) -> str:
        [embeddings_id] = store.embeddings_ids()
        publish(store, "c-old", {"embeddings": embeddings_id, "clusters": 7}, more=fields.pop("spec", {}))
        made = summary.RunSummary(
            folder=Path("/photos/[red] cats"),
            embeddings=embeddings_id,
            clustering="c-old",
            extraction=fields.pop("extraction", {}),
            reused=fields.pop("reused", False),
            files=run.result_files(store, "c-old", None, None),
            seconds="9 s",
            again="shoal run cats",
        )
        console = Console(width=100, record=True)
        with console.capture() as captured:
            summary.print_summary(console, store, made)
        return captured.get()

    def test_it_names_groups_quality_files_ids_and_what_is_next(self, store: Store) -> None:
        text = self.text(store)
        assert "[red] cats: 12 images in 7 groups" in text
        assert "cat (75%)" in text
        assert "2 smaller groups" in text
        assert "0.750" in text
        assert "chance 0.400" in text
        assert str(store.root / "clusterings/c-old/report/index.html") in text
        assert str(store.root / "clusterings/c-old/report/contact-sheet.png") in text
        assert "shoal show c-old" in text
        assert "--again" not in text

    def test_it_says_why_what_was_left_open_is_so(self, store: Store) -> None:
        why = {"chosen": {"why": "7 has the largest score."}, "picked": {"why": "Groups of smooth keep the most."}}
        text = self.text(store, spec=why)
        assert "7 has the largest score." in text
        assert "Groups of smooth keep the most." in text
        assert "--reduce" not in text

    def test_it_says_of_which_rows_figures_are(self, store: Store) -> None:
        assert "those after `umap`" in self.text(store, spec={"reduce": {"method": "umap"}})

    def test_it_says_what_was_reused(self, store: Store) -> None:
        text = self.text(store, reused=True, extraction={"resumed_rows": 5, "reused_rows": 7})
        assert "reused 12 of 12 embeddings" in text
        assert "c-old  (reused" in text
        assert "shoal run cats --again" in text

    def test_it_says_what_was_left_out_and_why(self, store: Store) -> None:
        extraction = {
            "failed_by_code": [
                {"code": "image_too_large", "count": 3, "examples": [{"image_path": "a.png", "message": "Too many."}]}
            ],
            "not_taken": [
                {
                    "reason": "no_decoder",
                    "suffix": ".heic",
                    "count": 2,
                    "examples": ["b.heic"],
                    "message": "No decoder.",
                },
                {"reason": "hidden", "suffix": None, "count": 1, "examples": [], "message": "Hidden."},
            ],
            "source": {"message": "The first folder below `path` is the class."},
        }
        text = self.text(store, extraction=extraction)
        assert "3 images could not be read" in text
        assert "image_too_large  a.png: Too many." in text
        assert "3 files skipped" in text
        assert ".heic   No decoder. Such as b.heic" in text
        assert "The first folder below `[red] cats` is the class." in text

    def test_it_speaks_of_flags_and_not_of_fields(self, store: Store) -> None:
        told = 'Send `images.labels` as {"folder_level": n} to take the nth folder below `path`, from 0, or "none".'
        text = " ".join(self.text(store, extraction={"source": {"message": told}}).split())
        assert "Give `--labels` as `folder:n` to take the nth folder below `[red] cats`, from 0, or `none`." in text

    def test_it_names_every_kind_of_file_that_was_left_out(self, store: Store) -> None:
        def group(reason: str, suffix: str | None, count: int) -> dict[str, Any]:
            return {"reason": reason, "suffix": suffix, "count": count, "examples": ["x"], "message": f"{suffix}!"}

        others = [group("not_an_image", f".{name}", 1) for name in ("json", "mp4", "psd", "txt", "zip")]
        extraction = {
            "not_taken": [
                *others,
                group("not_an_image", None, 2),
                group("link_repeats", None, 1),
                group("empty_folder", None, 2),
                group("unsupported_format", ".cr2", 1),
            ],
            "source": {"system_entries": 6},
        }
        text = self.text(store, extraction=extraction)
        assert "8 files, 2 folders, 1 link skipped" in text
        assert "7 files are not images: .json 1, .mp4 1, .psd 1, .txt 1, .zip 1, no extension 2." in text
        assert ".cr2!" in text
        assert "6 hidden or system entries were skipped" in text

    def test_it_says_how_many_images_the_figures_count(self, store: Store) -> None:
        assert "have a class" not in self.text(store)
        clusters = pa.table({"labelled": [5, 3, 0]})
        assert summary._partly(clusters, 46).startswith("8 of 46 images have a class")

    @pytest.mark.parametrize(("k", "rows", "other"), [(2, 46, 20), (20, 46, 10), (2, 3, 3), (3, 3, 2), (1, 2, 2)])
    def test_the_number_of_groups_in_its_hint_can_be_asked_for(self, k: int, rows: int, other: int) -> None:
        assert summary._other(k, rows) == other


def test_too_few_images_say_what_was_not_taken(store: Store) -> None:
    [embeddings_id] = store.embeddings_ids()
    extraction = {
        "not_taken": [{"reason": "unsupported_format", "suffix": ".heic", "count": 2, "message": "2 .heic: convert."}]
    }
    with pytest.raises(ClustersInvalid, match=r"Only 1 image .* Skipped: 2 files\. 2 \.heic: convert\."):
        run._require_images({"id": embeddings_id, "rows": 1}, Source(Path("/x/y"), Path("/x")), store, extraction)


def test_files_are_copied_where_one_says(store: Store, tmp_path: Path) -> None:
    [embeddings_id] = store.embeddings_ids()
    publish(store, "c-old", {"embeddings": embeddings_id, "clusters": 7})
    files = run.result_files(store, "c-old", tmp_path / "new/groups.png", tmp_path)
    assert files == {"report": tmp_path / "index.html", "contact sheet": tmp_path / "new/groups.png"}
    assert files["contact sheet"].read_bytes() == b"png"
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match=r"cannot be written to .*file/x\.png.* It is at .*contact-sheet\.png"):
        run.result_files(store, "c-old", tmp_path / "file/x.png", None)


class TestLeftovers:
    """What an earlier command left in the queue, before a worker runs."""

    @pytest.fixture
    def ask(self, folder: Path) -> requests.RunRequest:
        return requests.RunRequest(Source(folder.parent / "v.npy", folder.parent), clusters=7)

    def test_the_same_clustering_goes_on_at_once_and_the_rest_is_dropped(
        self, store: Store, queue: JobQueue, redis_server: str, ask: requests.RunRequest, tmp_path: Path
    ) -> None:
        [embeddings_id] = store.embeddings_ids()
        wanted, _ = queue.submit("cluster", {"embeddings": embeddings_id, "clusters": 7})
        claim = queue.claim(["cluster"], "worker")  # Whose command was killed: the lease has 30 seconds left.
        assert claim is not None
        other, _ = queue.submit("cluster", {"embeddings": embeddings_id, "clusters": 8})
        extract, _ = queue.submit("extract:torch", {"images": {"path": "elsewhere"}, "model": "raw_pixels"})
        running, _ = queue.submit("extract:torch", {"images": {"path": "elsewhere"}, "model": "m"})
        session = Session(tmp_path, tmp_path, store.root, command="shoal run", keep=lambda job: ask.same_as(job, store))
        session._settle(redis_server)
        assert [job.id for job in session.kept] == [wanted.id]
        assert {job.id for job in session.dropped} == {other.id, extract.id, running.id}
        assert queue.get(wanted.id).state is JobState.QUEUED
        assert {queue.get(job.id).state for job in session.dropped} == {JobState.CANCELLED}

    def test_a_k_that_is_chosen_later_is_any_k(self, store: Store, queue: JobQueue, ask: requests.RunRequest) -> None:
        [embeddings_id] = store.embeddings_ids()
        job, _ = queue.submit("cluster", {"embeddings": embeddings_id, "over": 1.0})
        assert not ask.same_as(job, store)
        assert requests.RunRequest(ask.source).same_as(job, store)
        tried, _ = queue.submit("cluster", {"embeddings": embeddings_id, "clusters": "auto", "reduce": "auto"})
        assert requests.RunRequest(ask.source).same_as(tried, store)
        assert not requests.RunRequest(ask.source, options={"reduce": "none"}).same_as(tried, store)
        assert not requests.RunRequest(ask.source, options={"pca": {"components": 2}}).same_as(job, store)
        assert not requests.RunRequest(Source(Path("/x/y"), Path("/x"))).same_as(job, store)

    def test_a_damaged_set_ends_neither_a_start_nor_a_stop(
        self, store: Store, queue: JobQueue, ask: requests.RunRequest
    ) -> None:
        [embeddings_id] = store.embeddings_ids()
        job, _ = queue.submit("cluster", {"embeddings": embeddings_id, "clusters": 7})
        other = store.layout.embeddings("other-0123456789ab").folder
        other.mkdir()
        assert ask.same_as(job, store)
        assert "images are embedded and kept" in run._kept(ask.source, store, "shoal run x")
        (store.layout.embeddings(embeddings_id).folder / "plan.json").write_text("{")
        assert not ask.same_as(job, store)

    def test_each_data_root_has_a_queue_of_its_own(self, store: Store, tmp_path: Path) -> None:
        queues = {
            Session(root, tmp_path, store.root, command="shoal run").stack.queue_data for root in (tmp_path, Path("/"))
        }
        assert len(queues) == 2
