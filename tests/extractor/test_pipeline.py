"""From a folder of images to committed embeddings: whole, resumed, with failures, with nothing to do."""

from __future__ import annotations

import errno
import os
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from extractor import pipeline
from extractor.backends import loading
from extractor.backends.pixels import PixelsBackend
from extractor.jobs.extract import Failure
from extractor.stream.sink import ShardSink
from shoal.errors import (
    EmbeddingsNotFound,
    JobError,
    NoImages,
    ShoalError,
    StoreFull,
    TooManyFailures,
    UnknownModel,
    WeightsInvalid,
)
from shoal.jobs.child import Cancelled, JobContext
from shoal.schemas import Progress
from shoal.settings import Settings
from shoal.store import EmbeddingSet, ShardWriter, Store

Make = Callable[..., Path]
NewJob = Callable[..., JobContext]


def done(settings: Settings, result: dict[str, Any]) -> EmbeddingSet:
    """The finished set of ``result``, every checksum of it verified."""
    store = Store(settings.store)
    report = store.verify(result["embeddings"])
    assert report.ok, report
    embeddings = store.embeddings(result["embeddings"])
    assert embeddings.complete
    assert (result["rows"], result["failed"], result["dim"]) == (embeddings.rows, embeddings.failed, embeddings.dim)
    return embeddings


def vectors(embeddings: EmbeddingSet) -> np.ndarray:
    return np.concatenate([block for _, block in embeddings.iter_batches()])


class Wrapped(PixelsBackend):
    """Raw pixels, through a hook that may change or refuse a batch's embeddings."""

    hook: Callable[[np.ndarray], np.ndarray] = staticmethod(lambda vectors: vectors)

    def submit(self, pixels: np.ndarray) -> Future[np.ndarray]:
        future: Future[np.ndarray] = Future()
        try:
            future.set_result(type(self).hook(super().submit(pixels).result()))
        except Exception as error:
            future.set_exception(error)
        return future


@pytest.fixture
def hooked(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[np.ndarray], np.ndarray]], None]:
    """``hooked(f)``: every batch's embeddings go through ``f``."""

    def install(hook: Callable[[np.ndarray], np.ndarray]) -> None:
        kind = type("Hooked", (Wrapped,), {"hook": staticmethod(hook)})
        monkeypatch.setattr(loading, "open_backend", lambda spec, settings, record: kind(spec, record))

    return install


def test_a_folder_becomes_committed_embeddings_in_the_order_of_its_paths(
    settings: Settings, make: Make, job: NewJob
) -> None:
    for i in range(13):
        make(f"{'ab'[i % 2]}/{i:02d}.png", i)
    embeddings = done(settings, pipeline.run(job(), settings))
    table = embeddings.metadata()
    paths = table.column("image_path").to_pylist()
    assert paths == sorted(f"{'ab'[i % 2]}/{i:02d}.png" for i in range(13))
    assert table.column("label").to_pylist() == [path[0] for path in paths]
    assert (embeddings.rows, embeddings.failed, embeddings.plan.shards) == (13, 0, 3)
    assert set(table.column("width").to_pylist()) == {60}
    assert len(embeddings.thumbnails(np.arange(13))) == 13


def test_every_row_belongs_to_its_image(settings: Settings, make: Make, job: NewJob) -> None:
    for i in range(11):
        make(f"{i:02d}.png", i)
    together = vectors(done(settings, pipeline.run(job(batch_size=4), settings)))
    for i in range(11):
        for other in settings.data.glob("one/*"):
            other.unlink()
        (settings.data / "one").mkdir(exist_ok=True)
        (settings.data / "one" / "x.png").write_bytes((settings.data / "set" / f"{i:02d}.png").read_bytes())
        if i in (0, 4, 5, 10):  # First, and on both sides of a batch's and a shard's border.
            alone = pipeline.run(job(images={"path": "one"}, name=f"one{i}"), settings)
            np.testing.assert_allclose(vectors(done(settings, alone))[0], together[i], atol=1e-6)


def test_real_weights_tell_pictures_apart(settings: Settings, make: Make, job: NewJob) -> None:
    for i in range(3):
        make(f"{i}.png", i, (300, 200))
    (settings.data / "set" / "3.png").write_bytes((settings.data / "set" / "0.png").read_bytes())
    result = pipeline.run(job(model="tf_efficientnet_lite0", shard_rows=100), settings)
    embeddings = done(settings, result)
    rows = vectors(embeddings)
    assert result["dim"] == 1280
    np.testing.assert_allclose(rows[0], rows[3], atol=1e-5)
    assert np.abs(rows[0] - rows[1]).max() > 0.1
    assert str(embeddings.plan.model.weights_sha256).startswith("57934424")


def test_a_model_whose_width_nobody_states_is_asked(settings: Settings, make: Make, job: NewJob) -> None:
    make("0.png")
    model = {"architecture": "resnet18", "weights": "random", "embedding": "layer2", "transform": {"size": 32}}
    assert pipeline.run(job(model=model), settings)["dim"] == 128


class TestFailures:
    @pytest.fixture
    def half_bad(self, folder: Path, make: Make) -> None:
        for i in range(10):
            make(f"{i}.png", i)
        for i in (1, 5, 6):
            (folder / f"{i}.png").write_bytes(b"not an image")

    def test_they_become_rows_of_errors(self, settings: Settings, job: NewJob, half_bad: None) -> None:
        result = pipeline.run(job(max_failed_fraction=0.3), settings)
        embeddings = done(settings, result)
        errors = embeddings.errors().to_pylist()
        assert [(row["image_path"], row["code"]) for row in errors] == [
            (f"{i}.png", "image_unrecognised") for i in (1, 5, 6)
        ]
        assert (result["rows"], result["failed"]) == (7, 3)
        paths = embeddings.metadata(["image_path"]).column("image_path").to_pylist()
        assert paths == [f"{i}.png" for i in (0, 2, 3, 4, 7, 8, 9)]

    def test_too_many_fail_the_job_and_keep_what_is_committed(
        self, settings: Settings, job: NewJob, half_bad: None
    ) -> None:
        with pytest.raises(TooManyFailures, match=r"3 of 10 images \(30.0%\).*1\.png \(image_unrecognised\)") as caught:
            pipeline.run(job(max_failed_fraction=0.2, batch_size=1), settings)
        embeddings = Store(settings.store).embeddings(caught.value.members["embeddings"])
        assert list(embeddings.commits) == [0]
        # The larger fraction is the same plan: it goes on from there.
        result = pipeline.run(job(max_failed_fraction=0.3), settings)
        assert (result["embeddings"], result["resumed_rows"]) == (embeddings.id, 4)

    def test_a_finished_set_is_held_to_the_new_requests_fraction(
        self, settings: Settings, job: NewJob, half_bad: None
    ) -> None:
        pipeline.run(job(max_failed_fraction=1.0), settings)
        with pytest.raises(TooManyFailures):
            pipeline.run(job(max_failed_fraction=0.1), settings)

    def test_a_job_stops_as_soon_as_it_cannot_recover(
        self, settings: Settings, folder: Path, make: Make, job: NewJob, hooked: Callable[..., None]
    ) -> None:
        for i in range(40):
            make(f"{i:02d}.png", i)
        for i in range(8):
            (folder / f"{i:02d}.png").write_bytes(b"")
        embedded: list[int] = []
        hooked(lambda rows: (embedded.append(len(rows)), rows)[1])
        with pytest.raises(TooManyFailures):
            pipeline.run(job(max_failed_fraction=0.1), settings)
        assert sum(embedded) < 20

    def test_every_image_may_fail_when_one_says_so(self, settings: Settings, folder: Path, job: NewJob) -> None:
        for i in range(7):
            (folder / f"{i}.png").write_bytes(b"")
        result = pipeline.run(job(max_failed_fraction=1.0), settings)
        assert (result["rows"], result["failed"]) == (0, 7)
        done(settings, result)

    def test_an_output_that_is_not_finite_costs_only_its_image(
        self, settings: Settings, make: Make, job: NewJob, hooked: Callable[..., None]
    ) -> None:
        for i in range(4):
            make(f"{i}.png", i)

        def spoil(rows: np.ndarray) -> np.ndarray:
            rows[2, 5] = np.nan
            return rows

        hooked(spoil)
        embeddings = done(settings, pipeline.run(job(max_failed_fraction=0.5), settings))
        (error,) = embeddings.errors().to_pylist()
        assert (error["image_path"], error["code"]) == ("2.png", "image_not_finite")

    def test_a_value_too_large_for_float16_says_so(
        self, settings: Settings, make: Make, job: NewJob, hooked: Callable[..., None]
    ) -> None:
        make("0.png")
        make("1.png", 1)
        hooked(lambda rows: rows + np.array([[0], [1e6]], np.float32))
        embeddings = done(settings, pipeline.run(job(max_failed_fraction=0.5, dtype="float16"), settings))
        (error,) = embeddings.errors().to_pylist()
        assert "float32" in error["message"]
        assert vectors(embeddings).shape == (1, 3072)

    def test_a_model_that_loses_rows_is_named(
        self, settings: Settings, make: Make, job: NewJob, hooked: Callable[..., None]
    ) -> None:
        make("0.png")
        hooked(lambda rows: rows[:, :7])
        with pytest.raises(JobError, match=r"raw_pixels returned shape \(1, 7\); expected \(1, 3072\)"):
            pipeline.run(job(), settings)

    def test_a_model_of_another_width_than_stated_is_refused(
        self, settings: Settings, make: Make, job: NewJob, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        make("0.png")

        class Wide(PixelsBackend):
            def __init__(self, spec: Any, record: Any) -> None:
                super().__init__(spec, record)
                self.dim += 1

        monkeypatch.setattr(loading, "open_backend", lambda spec, settings, record: Wide(spec, record))
        with pytest.raises(WeightsInvalid, match="width 3073"):
            pipeline.run(job(), settings)


class TestResume:
    @pytest.fixture(autouse=True)
    def _images(self, make: Make) -> None:
        for i in range(20):
            make(f"{i:02d}.png", i)

    def stop_in(self, shard: int, hooked: Callable[..., None], error: BaseException) -> None:
        seen = [0]

        def fail(rows: np.ndarray) -> np.ndarray:
            seen[0] += len(rows)
            if seen[0] > 5 * shard + 2:
                raise error
            return rows

        hooked(fail)

    def test_only_what_is_missing_is_embedded_again(
        self, settings: Settings, job: NewJob, hooked: Callable[..., None]
    ) -> None:
        self.stop_in(2, hooked, RuntimeError("power cut"))
        first = job()
        with pytest.raises(RuntimeError, match="power cut"):
            pipeline.run(first, settings)
        embedded: list[int] = []
        hooked(lambda rows: (embedded.append(len(rows)), rows)[1])
        result = pipeline.run(job(checkpoint=first.checkpoint), settings)
        assert result["resumed_rows"] == 10
        assert sum(embedded) == 10
        whole = pipeline.run(job(name="whole", reuse=None), settings)
        assert sum(embedded) == 30
        np.testing.assert_array_equal(vectors(done(settings, result)), vectors(done(settings, whole)))

    def test_a_retry_keeps_to_the_frozen_listing(
        self, settings: Settings, make: Make, job: NewJob, hooked: Callable[..., None]
    ) -> None:
        self.stop_in(1, hooked, RuntimeError("power cut"))
        first = job()
        with pytest.raises(RuntimeError):
            pipeline.run(first, settings)
        make("00-new.png", 99)
        (settings.data / "set" / "19.png").unlink()
        hooked(lambda rows: rows)
        result = pipeline.run(job(checkpoint=first.checkpoint), settings)
        embeddings = done(settings, result)
        assert first.checkpoint == {"embeddings": embeddings.id}
        assert (result["rows"], result["failed"]) == (19, 1)
        assert embeddings.errors().column("code").to_pylist() == ["image_removed"]
        # A new request sees the new files.
        assert pipeline.run(job(), settings)["embeddings"] != embeddings.id

    def test_a_file_edited_between_attempts_is_an_error_never_a_mixture(
        self, settings: Settings, make: Make, job: NewJob, hooked: Callable[..., None]
    ) -> None:
        """Fails without: the stamp of the listing, which the open file must have."""
        self.stop_in(1, hooked, RuntimeError("power cut"))
        first = job()
        with pytest.raises(RuntimeError):
            pipeline.run(first, settings)
        make("17.png", 99)
        hooked(lambda rows: rows)
        result = pipeline.run(job(checkpoint=first.checkpoint), settings)
        (error,) = done(settings, result).errors().to_pylist()
        assert (error["image_path"], error["code"]) == ("17.png", "image_changed")
        assert "Submit the request again" in error["message"]
        # A new request sees the file as it is now.
        again = done(settings, pipeline.run(job(), settings))
        assert (again.failed, again.id == result["embeddings"]) == (0, False)

    def test_a_file_replaced_while_the_job_runs_is_an_error(
        self, settings: Settings, make: Make, job: NewJob, hooked: Callable[..., None]
    ) -> None:
        """Fails without: the stamp of the listing, which the open file must have."""

        def replace(rows: np.ndarray) -> np.ndarray:
            other = make("other.png", 98)
            other.replace(settings.data / "set" / "19.png")
            hooked(lambda rows: rows)
            return rows

        before = make("18.png", 18).stat()
        hooked(replace)
        # So few at once that the last file is read after the first batch is embedded.
        result = pipeline.run(job(batch_size=1, images={"path": "set"}), settings)
        errors = done(settings, result).errors().to_pylist()
        assert [(row["image_path"], row["code"]) for row in errors] == [("19.png", "image_changed")]
        assert before.st_mtime_ns == (settings.data / "set" / "18.png").stat().st_mtime_ns

    def test_the_same_request_again_returns_at_once(
        self, settings: Settings, job: NewJob, hooked: Callable[..., None]
    ) -> None:
        first = pipeline.run(job(), settings)

        def refuse(rows: np.ndarray) -> np.ndarray:
            raise AssertionError("nothing is left to embed")

        hooked(refuse)
        again = pipeline.run(job(), settings)
        assert again == {**first, "resumed_rows": 20}

    def test_a_set_deleted_between_attempts_is_made_anew(self, settings: Settings, job: NewJob) -> None:
        first = pipeline.run(job(), settings)
        Store(settings.store).delete_embeddings(first["embeddings"])
        again = pipeline.run(job(checkpoint={"embeddings": first["embeddings"]}), settings)
        assert again == first

    def test_weights_exchanged_between_attempts_are_refused(
        self, settings: Settings, job: NewJob, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first = pipeline.run(job(), settings)
        record = loading.record_of
        monkeypatch.setattr(
            loading, "record_of", lambda *args: record(*args).model_copy(update={"weights_sha256": "0" * 64})
        )
        with pytest.raises(JobError, match="has changed since"):
            pipeline.run(job(checkpoint={"embeddings": first["embeddings"]}), settings)

    def test_cancelling_keeps_the_committed_shards(self, settings: Settings, job: NewJob) -> None:
        context = job(batch_size=1)
        seen: list[Progress] = []
        report = context.progress

        def progress(
            stage: str, done: int = 0, total: int | None = None, unit: str = "items", detail: Any = None
        ) -> None:
            seen.append(Progress(stage=stage, done=done, total=total, unit=unit))
            if done >= 7:
                context.stop()
            report(stage, done, total, unit, detail)

        context.progress = progress  # type: ignore[method-assign]
        with pytest.raises(Cancelled):
            pipeline.run(context, settings)
        assert context.checkpoint is not None
        embeddings = Store(settings.store).embeddings(context.checkpoint["embeddings"])
        assert list(embeddings.commits) == [0]
        assert [each.stage for each in seen][:3] == ["list", "load model", "embed"]
        assert not list(embeddings.layout.work.iterdir())

    @pytest.mark.parametrize("stops_at", [1, 9, 14])
    def test_a_stopped_job_goes_on_with_the_very_next_image(
        self, settings: Settings, job: NewJob, folder: Path, hooked: Callable[..., None], stops_at: int
    ) -> None:
        """In the middle of a shard too, and what comes out has the bytes of a job that was never stopped."""
        (folder / "06.png").write_bytes(b"no image")
        fields = {"batch_size": 3, "shard_rows": 8, "max_failed_fraction": 0.5}
        expected = done(
            settings.model_copy(update={"store": settings.store / "other"}),
            pipeline.run(job(**fields), settings.model_copy(update={"store": settings.store / "other"})),
        )
        context = job(**fields)
        embedded: list[int] = []

        def stop(rows: np.ndarray) -> np.ndarray:
            embedded.append(len(rows))
            if sum(embedded) >= stops_at:
                context.stop()
            return rows

        hooked(stop)
        with pytest.raises(Cancelled):
            pipeline.run(context, settings)
        assert context.checkpoint is not None
        kept = Store(settings.store).saved_images(context.checkpoint["embeddings"])
        again: list[int] = []
        hooked(lambda rows: (again.append(len(rows)), rows)[1])
        result = pipeline.run(job(**fields), settings)
        resumed = result["resumed_rows"]
        assert resumed + sum(again) == 19
        assert resumed == kept - (kept > 6)
        files = [record for commit in done(settings, result).commits.values() for record in commit.files]
        assert files == [record for commit in expected.commits.values() for record in commit.files]

    def test_what_was_saved_of_a_shard_outlives_an_error_and_counts_its_failures(
        self, settings: Settings, job: NewJob, folder: Path, hooked: Callable[..., None]
    ) -> None:
        (folder / "00.png").write_bytes(b"no image")
        settings = settings.model_copy(update={"save_s": 1e-9})
        self.stop_in(2, hooked, RuntimeError("power cut"))
        with pytest.raises(RuntimeError, match="power cut"):
            pipeline.run(job(batch_size=2, shard_rows=100), settings)
        with pytest.raises(TooManyFailures, match=r"00\.png"):
            pipeline.run(job(batch_size=2, shard_rows=100, max_failed_fraction=0.01), settings)
        hooked(lambda rows: rows)
        result = pipeline.run(job(batch_size=2, shard_rows=100), settings)
        assert result["resumed_rows"] >= 8
        assert (done(settings, result).rows, result["failed"]) == (19, 1)

    def test_a_full_disk_is_reported_as_such_and_the_job_can_go_on(
        self, settings: Settings, job: NewJob, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from shoal.store import commits

        publish = commits.publish_commit

        def full(layout: Any, commit: Any) -> bool:
            if commit.shard == 2:
                raise StoreFull(os.strerror(errno.ENOSPC))
            return publish(layout, commit)

        with monkeypatch.context() as patch:
            patch.setattr(commits, "publish_commit", full)
            with pytest.raises(StoreFull):
                pipeline.run(job(), settings)
        result = pipeline.run(job(), settings)
        assert result["resumed_rows"] >= 10
        done(settings, result)


@pytest.mark.parametrize("batch_size", [1, 3, 10])
def test_no_more_than_a_shard_is_neither_committed_nor_saved(
    settings: Settings, make: Make, job: NewJob, monkeypatch: pytest.MonkeyPatch, batch_size: int
) -> None:
    """Commits come to an end only once they are waited for. Fails without: the wait for commits under way."""
    from shoal.store import commits

    for i in range(40):
        make(f"{i:02d}.png", i)
    waited_for, at_risk = threading.Event(), []
    publish, finish, write = commits.publish_commit, ShardSink._finish_write, ShardSink._write

    def slow(*arguments: Any) -> bool:
        assert waited_for.wait(60)
        waited_for.clear()
        return publish(*arguments)

    def finish_one(sink: ShardSink) -> None:
        waited_for.set()
        finish(sink)

    def count(sink: ShardSink, shard: Any, outcomes: Any, *arguments: Any) -> list[Failure]:
        at_risk.append(sink.at_risk + len(outcomes))
        return write(sink, shard, outcomes, *arguments)

    monkeypatch.setattr(commits, "publish_commit", slow)
    monkeypatch.setattr(ShardSink, "_finish_write", finish_one)
    monkeypatch.setattr(ShardSink, "_write", count)
    done(settings, pipeline.run(job(batch_size=batch_size, shard_rows=5), settings))
    assert max(at_risk) == 5


@pytest.mark.parametrize(("saves", "kept"), [(True, 4), (False, 0)])
def test_half_a_shard_is_saved_before_its_time_and_counts_only_if_it_is(
    settings: Settings,
    make: Make,
    job: NewJob,
    hooked: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    saves: bool,
    kept: int,
) -> None:
    for i in range(8):
        make(f"{i}.png", i)
    sinks: list[ShardSink] = []
    add = ShardSink.add

    def stop_at_seven(sink: ShardSink, batch: Any) -> list[Failure]:
        failures = add(sink, batch)
        while sink._writes:
            sink._finish_write()
        sinks.append(sink)
        if sink.done == 7:
            raise RuntimeError("power cut")
        return failures

    def refuse(*segment: Any) -> None:
        raise StoreFull(os.strerror(errno.ENOSPC))

    monkeypatch.setattr("extractor.stream.sink.LEAST_SAVED", 1)
    with monkeypatch.context() as patch:
        patch.setattr(ShardSink, "add", stop_at_seven)
        if not saves:
            patch.setattr(ShardWriter, "save", refuse)
        with pytest.raises(RuntimeError, match="power cut"):
            pipeline.run(job(batch_size=1, shard_rows=8), settings)
    assert (sinks[-1].kept, sinks[-1].at_risk) == (kept, 7 - kept)
    result = pipeline.run(job(batch_size=1, shard_rows=8), settings)
    assert result["resumed_rows"] == kept
    done(settings, result)


def test_a_failed_commit_leaves_no_open_shard_behind(
    settings: Settings, make: Make, job: NewJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    from extractor.stream import sink
    from shoal.store import commits

    for i in range(8):
        make(f"{i}.png", i)

    def full(layout: Any, commit: Any) -> bool:
        raise StoreFull(os.strerror(errno.ENOSPC))

    monkeypatch.setattr(sink, "WRITES_WAITING", 1)
    monkeypatch.setattr(commits, "publish_commit", full)
    with pytest.raises(StoreFull):
        pipeline.run(job(batch_size=1, shard_rows=2), settings)
    [embeddings_id] = Store(settings.store).embeddings_ids()
    assert not list(Store(settings.store).embeddings(embeddings_id).layout.work.iterdir())


class TestAccount:
    """The result says what became of every file."""

    @pytest.fixture(autouse=True)
    def _files(self, folder: Path, make: Make) -> None:
        for i in range(8):
            make(f"images/train/{'ab'[i % 2]}/{i}.png", i)
        (folder / "images/train/a/layers.jpg").write_bytes(b"8BPS\0\x01" + bytes(99))
        (folder / "images/train/a/text.jpg").write_text("text")
        (folder / "images/train/a/gone.jpg").write_text("more text")
        (folder / "layers.psd").write_bytes(b"8BPS\0\x01" + bytes(99))
        (folder / "images/train/c").mkdir()

    def test_what_failed_what_was_not_taken_and_what_was_recognised(self, settings: Settings, job: NewJob) -> None:
        result = pipeline.run(job(max_failed_fraction=1.0), settings)
        done(settings, result)
        assert [(group["code"], group["count"]) for group in result["failed_by_code"]] == [
            ("image_unrecognised", 2),
            ("image_unsupported", 1),
        ]
        (example,) = result["failed_by_code"][1]["examples"]
        assert example["image_path"] == "images/train/a/layers.jpg"
        assert "PSD, which is not supported: convert it to JPEG or PNG" in example["message"]
        assert [(group["reason"], group["suffix"], group["count"]) for group in result["not_taken"]] == [
            ("empty_folder", None, 1),
            ("unsupported_format", ".psd", 1),
        ]
        assert result["source"]["wrapper"] == "images"
        assert result["source"]["splits"] == ["train"]

    def test_a_job_that_fails_for_them_says_what_to_do_with_the_first(self, settings: Settings, job: NewJob) -> None:
        (settings.data / "set/images/train/a/gone.jpg").unlink()
        with pytest.raises(TooManyFailures, match=r"layers\.jpg: The file holds PSD, which is not supported: convert"):
            pipeline.run(job(max_failed_fraction=0.0), settings)

    def test_a_resumed_and_a_repeated_job_say_the_same(self, settings: Settings, folder: Path, job: NewJob) -> None:
        first = job(max_failed_fraction=1.0)
        result = pipeline.run(first, settings)
        again = pipeline.run(job(max_failed_fraction=1.0, checkpoint=first.checkpoint), settings)
        assert {**again, "resumed_rows": 0} == result
        (folder / "layers.psd").unlink()
        assert pipeline.run(job(max_failed_fraction=1.0, checkpoint=first.checkpoint), settings) == again
        # What was not taken is no part of the plan; a new listing says what is true now.
        repeated = pipeline.run(job(max_failed_fraction=1.0), settings)
        assert repeated["embeddings"] == result["embeddings"]
        assert [group["reason"] for group in repeated["not_taken"]] == ["empty_folder"]
        summary = Store(settings.store).embeddings(result["embeddings"]).summary()
        assert summary["not_taken"] == repeated["not_taken"]
        assert summary["recognised"] == repeated["source"]

    def test_a_set_of_an_older_version_has_nothing_noted(self, settings: Settings, job: NewJob) -> None:
        first = job(max_failed_fraction=1.0)
        embeddings = Store(settings.store).embeddings(pipeline.run(first, settings)["embeddings"])
        embeddings.layout.notes.unlink()
        again = pipeline.run(job(max_failed_fraction=1.0, checkpoint=first.checkpoint), settings)
        assert (again["not_taken"], again["source"]["labels"]) == ([], None)
        assert embeddings.summary()["not_taken"] is None


def test_links_out_of_the_root_are_embedded_where_the_user_asks(
    settings: Settings, folder: Path, make: Make, job: NewJob, tmp_path: Path
) -> None:
    make("cat/0.png")
    make("dog/1.png", 1)
    (folder / "dog").rename(tmp_path / "dog")
    (folder / "dog").symlink_to(tmp_path / "dog")
    (folder / "cat/2.png").symlink_to(tmp_path / "dog/1.png")
    result = pipeline.run(job(max_failed_fraction=1.0), settings)
    assert (result["rows"], result["failed_by_code"][0]["code"]) == (1, "image_outside_root")
    assert [group["reason"] for group in result["not_taken"]] == ["link_leaves_root"]
    result = pipeline.run(job(), settings.model_copy(update={"follow_links": True}))
    assert (result["rows"], result["failed"], result["not_taken"]) == (3, 0, [])


def test_batches_cross_shards(settings: Settings, make: Make, job: NewJob, hooked: Callable[..., None]) -> None:
    for i in range(10):
        make(f"{i}.png", i)
    sizes: list[int] = []
    hooked(lambda rows: (sizes.append(len(rows)), rows)[1])
    done(settings, pipeline.run(job(batch_size=4, shard_rows=3), settings))
    assert sizes == [4, 4, 2]


def test_progress_counts_images(settings: Settings, make: Make) -> None:
    for i in range(6):
        make(f"{i}.png", i)
    seen: list[Progress] = []
    request = {"images": {"path": "set"}, "model": "raw_pixels", "batch_size": 2}
    pipeline.run(JobContext.local(request, kind="extract:torch", on_progress=seen.append), settings)
    assert (seen[-1].stage, seen[-1].done, seen[-1].total, seen[-1].unit) == ("embed", 6, 6, "images")
    busy = (seen[-1].detail or {})["busy"]
    assert list(busy) == ["decode", "network", "write"]
    assert all(0 <= fraction <= 1 for fraction in busy.values()), busy


def test_what_became_of_each_image_is_counted_for_the_worker(
    settings: Settings, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    for i in range(5):
        make(f"{i}.png", i)
    (make("broken.png", 0)).write_bytes(b"no image")
    counted: Counter[str] = Counter()
    monkeypatch.setattr(JobContext, "count", lambda self, **outcomes: counted.update(outcomes))
    request = {"images": {"path": "set"}, "model": "raw_pixels", "batch_size": 2, "max_failed_fraction": 0.5}
    pipeline.run(JobContext.local(request, kind="extract:torch"), settings)
    assert counted == {"embedded": 5, "failed": 1}


def test_an_attempt_says_how_much_is_kept_and_the_next_one_starts_from_there(
    settings: Settings, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    for i in range(6):
        make(f"{i}.png", i)
    marks: list[int] = []
    request = {"images": {"path": "set"}, "model": "raw_pixels", "batch_size": 1, "shard_rows": 2}
    context = JobContext.local(request, kind="extract:torch")

    def advance(self: JobContext, mark: int) -> None:
        marks.append(mark)
        if self is context and len(marks) == 5:
            self.stop()

    monkeypatch.setattr(JobContext, "advance", advance)
    with pytest.raises(Cancelled):
        pipeline.run(context, settings)
    assert marks == sorted(marks)
    assert set(marks) <= {0, 2, 4}
    reached = max(marks)
    marks.clear()
    again = JobContext.local(request, kind="extract:torch", attempt=2)
    pipeline.run(again, settings)
    assert min(marks) >= reached
    assert marks[-1] == 6


@pytest.mark.parametrize(
    ("fields", "error"),
    [({"model": "resnet5"}, UnknownModel), ({"images": {"path": "."}}, NoImages)],
)
def test_a_request_that_can_never_work_fails_with_its_code(
    settings: Settings, job: NewJob, fields: dict[str, Any], error: type[ShoalError]
) -> None:
    with pytest.raises(error):
        pipeline.run(job(**fields), settings)
    assert Store(settings.store).embeddings_ids() == []


def test_the_plan_says_what_was_done(settings: Settings, make: Make, job: NewJob) -> None:
    make("a/0.png")
    (settings.data / "labels.csv").write_text("path,label\na/0.png,cat\n")
    images = {"path": "set", "labels": {"file": "labels.csv"}, "split": "val"}
    result = pipeline.run(job(images=images, name="mine", thumbnails=False, dtype="float16"), settings)
    embeddings = done(settings, result)
    plan = embeddings.plan
    assert result["embeddings"].startswith("mine-")
    assert plan.source.path == "set"
    assert plan.source.labels == {"file": "labels.csv", "path_column": "path", "label_column": "label"}
    assert plan.transform["size"] == 32
    assert (plan.dtype, plan.thumbnails, plan.source.split) == ("float16", False, "val")
    assert embeddings.labels() == ["cat"]
    assert embeddings.thumbnails(np.array([0])) == {}
    assert isinstance(embeddings.listing(), pa.Table)


def test_deleting_the_set_under_a_running_job_is_an_error_not_a_crash(
    settings: Settings, make: Make, job: NewJob, hooked: Callable[..., None]
) -> None:
    for i in range(12):
        make(f"{i:02d}.png", i)
    store = Store(settings.store)

    def delete(rows: np.ndarray) -> np.ndarray:
        for each in store.embeddings_ids():
            store.delete_embeddings(each)
        return rows

    hooked(delete)
    with pytest.raises((EmbeddingsNotFound, ShoalError)):
        pipeline.run(job(), settings)
