"""The same version folders, run by TensorFlow in this process and by a server over gRPC."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import psutil
import pytest
from extractor.backends.base import Backend
from extractor.backends.loading import open_backend, record_of
from extractor.images.transform import Transform
from extractor.models import catalogue
from extractor.models.spec import ModelSpec, WeightsSource
from extractor.pipeline import extract
from extractor.tf_import.export import write_warm_up
from PIL import Image
from shoal.errors import JobError, ModelMismatch, ModelNotServed
from shoal.host import available_cores
from shoal.jobs.child import JobContext
from shoal.jobs.queue import JobQueue
from shoal.settings import Settings
from shoal.store import EmbeddingSet, Store

SIZE = 8
TRANSFORM = Transform(size=SIZE)


def spec_of(name: str, **changes: Any) -> ModelSpec:
    fields = {"transform": TRANSFORM, "dim": 3, **changes}
    return ModelSpec(name, "tfserving", "toy", WeightsSource("served", files=(name,)), **fields)


SPEC = spec_of("mean")


@pytest.fixture(scope="module")
def root(tf: Any, builders: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``mean`` gives the mean colour, in version 10 a hundredfold; ``strict`` refuses images that hold a 0.

    ``broken`` is a damaged file.
    """
    path = tmp_path_factory.mktemp("served")
    builders.plain_tf2(path / "mean" / "9", lambda x: tf.reduce_mean(x, [1, 2]), size=SIZE)
    builders.plain_tf2(path / "mean" / "10", lambda x: 100 * tf.reduce_mean(x, [1, 2]), size=SIZE)
    builders.plain_tf2(path / "floats" / "1", lambda x: tf.reduce_max(x, [1, 2]), dtype="float32")
    builders.plain_tf2(path / "strict" / "1", lambda x: positive(tf, x), size=SIZE)
    (path / "broken" / "1").mkdir(parents=True)
    (path / "broken" / "1" / "saved_model.pb").write_bytes(b"\xff\xff")
    return path


def positive(tf: Any, x: Any) -> Any:
    """The largest colour of each image, if all values are positive."""
    with tf.control_dependencies([tf.debugging.assert_positive(x)]):
        return tf.reduce_max(x, [1, 2])


@pytest.fixture(params=["in process", "gRPC"])
def settings(
    request: pytest.FixtureRequest, serve: Callable[..., Any], root: Path, client_settings: Callable[..., Settings]
) -> Settings:
    if request.param == "gRPC":
        return client_settings(serve(root).port, models=root)
    return client_settings(0, models=root, tf_serving_url=None)


@pytest.fixture
def here(client_settings: Callable[..., Settings], root: Path) -> Settings:
    return client_settings(0, models=root, tf_serving_url=None)


def opened(settings: Settings, spec: ModelSpec = SPEC) -> Backend:
    return open_backend(spec, settings, record_of(spec, settings))


def images(n: int) -> np.ndarray:
    return np.random.default_rng(n).integers(1, 256, (n, SIZE, SIZE, 3), dtype=np.uint8)


class TestBothWays:
    def test_rows_are_the_networks(self, settings: Settings) -> None:
        batches = [images(n) for n in (64, 1, 64, 17)]
        with closing(opened(settings)) as backend:
            running = [backend.submit(pixels) for pixels in batches]
            for pixels, future in zip(batches, running, strict=True):
                assert np.allclose(future.result(60), 100 * pixels.mean(axis=(1, 2)), rtol=1e-5)
        assert (backend.dim, backend.record.weights_file) == (3, "mean/10")

    def test_float_models_get_floats_of_the_same_values(self, settings: Settings) -> None:
        with closing(opened(settings, spec_of("floats"))) as backend:
            assert (backend.submit(images(5)).result(60) == images(5).max(axis=(1, 2))).all()

    def test_a_new_version_is_taken_without_a_restart_and_does_not_disturb_who_uses_the_old_one(
        self, root: Path, settings: Settings
    ) -> None:
        with closing(opened(settings)) as backend:
            shutil.copytree(root / "mean" / "9", root / "mean" / "11")
            try:
                assert record_of(SPEC, settings).weights_file == "mean/11"
                assert np.allclose(backend.submit(images(2)).result(60), 100 * images(2).mean(axis=(1, 2)), rtol=1e-5)
            finally:
                shutil.rmtree(root / "mean" / "11")

    def test_images_that_the_network_refuses_fail_their_batch_alone(self, settings: Settings) -> None:
        with closing(opened(settings, spec_of("strict"))) as backend:
            black = backend.submit(np.zeros_like(images(2)))
            with pytest.raises(ModelMismatch, match="refuses"):
                black.result(60)
            assert (backend.submit(images(2)).result(60) == images(2).max(axis=(1, 2))).all()

    @pytest.mark.parametrize(
        ("spec", "error", "message"),
        [
            (spec_of("mean", dim=5), ModelMismatch, "width 3, but the catalogue says 5"),
            (spec_of("mean", transform=Transform(size=16)), ModelMismatch, "shape"),
            (spec_of("nobody"), ModelNotServed, "shoal models import-tf nobody"),
            (spec_of("broken"), ModelNotServed, "cannot be loaded"),
        ],
        ids=lambda value: value.name if isinstance(value, ModelSpec) else None,
    )
    def test_a_model_that_is_not_what_the_catalogue_says(
        self, settings: Settings, spec: ModelSpec, error: type[JobError], message: str
    ) -> None:
        with pytest.raises(error, match=message):
            opened(settings, spec)


TOLERANCE = 1e-5
"""Of the largest value. A server computes whole batches, for which TensorFlow chooses other kernels."""
MODELS = ("grid", "simclr1", "simclr2", "bigbigan", "lite0")


class TestHere:
    def test_a_version_that_is_gone_is_not_replaced_by_another(self, root: Path, here: Settings) -> None:
        record = record_of(SPEC, here).model_copy(update={"weights_file": "mean/8"})
        with pytest.raises(ModelNotServed, match=r"Version 8 of 'mean' .* cannot be loaded"):
            open_backend(SPEC, here, record)

    def test_the_requests_of_the_export_are_run_before_the_first_image(
        self, root: Path, tmp_path: Path, here: Settings
    ) -> None:
        spec = spec_of("strict")
        own = here.model_copy(update={"models": tmp_path / "own"})
        shutil.copytree(root / "strict", own.models / "strict")
        opened(own, spec).close()
        write_warm_up(own.models / "strict" / "1", "strict", size=SIZE, dtype="uint8")  # Its images are black.
        with pytest.raises(ModelNotServed, match="cannot be loaded"):
            opened(own, spec)

    def test_closing_cancels_the_batches_that_wait(self, here: Settings) -> None:
        backend = opened(here)
        futures = [backend.submit(images(64)) for _ in range(200)]
        backend.close()
        assert all(future.done() for future in futures)
        with pytest.raises(RuntimeError):
            backend.submit(images(1))

    @pytest.mark.parametrize(
        ("device", "message"),
        [("cuda:99", "TensorFlow finds"), ("cuda:x", "set it to"), ("tpu", "set it to auto")],
    )
    def test_a_device_that_does_not_exist(self, here: Settings, device: str, message: str) -> None:
        with pytest.raises(JobError, match=message):
            opened(here.model_copy(update={"device": device}))

    # TensorFlow is imported by another process.
    @pytest.mark.timeout(300)
    def test_a_fresh_process_computes_with_all_of_its_cores_and_no_gpu_where_the_device_is_the_cpu(self) -> None:
        program = """
from extractor.backends.savedmodel import started
tf = started("cpu")
tf.constant(1)
threading = tf.config.threading
print(threading.get_intra_op_parallelism_threads(), threading.get_inter_op_parallelism_threads())
print(tf.config.list_logical_devices("GPU"))
"""
        out = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout
        assert out.splitlines() == [f"{available_cores()} {available_cores()}", "[]"]


class TestEveryLayout:
    @pytest.fixture
    def settings(self, models: Path, client_settings: Callable[..., Settings]) -> Settings:
        return client_settings(0, models=models, tf_serving_url=None)

    @pytest.mark.parametrize("name", MODELS)
    def test_an_image_has_the_same_bits_whatever_else_is_in_its_batch(self, settings: Settings, name: str) -> None:
        spec = catalogue.resolve(name, settings.models, settings=settings)
        pixels = np.random.default_rng(7).integers(0, 256, (64, *[spec.transform.size] * 2, 3), dtype=np.uint8)
        with closing(opened(settings, spec)) as backend:
            whole = backend.submit(pixels).result(120)
            for n in (1, 2, 7):
                parts = [backend.submit(pixels[at : at + n]) for at in range(0, 64, n)]
                assert (np.concatenate([part.result(120) for part in parts]) == whole).all()
            order = np.random.default_rng(8).permutation(64)
            assert (backend.submit(pixels[order]).result(120) == whole[order]).all()

    @pytest.mark.parametrize("name", MODELS)
    def test_a_job_makes_the_same_set_as_through_a_server(
        self, settings: Settings, serve: Callable[..., Any], tmp_path: Path, name: str
    ) -> None:
        pictures(settings.data / "set", 20)
        there = {"tf_serving_url": f"127.0.0.1:{serve(settings.models).port}", "store": tmp_path / "other"}
        here, grpc = (run(name, each) for each in (settings, settings.model_copy(update=there)))
        assert (here.id, here.plan.model, here.rows) == (grpc.id, grpc.plan.model, 20)
        rows, expected = (np.concatenate([batch for _, batch in each.iter_batches()]) for each in (here, grpc))
        assert np.abs(rows - expected).max() <= TOLERANCE * np.abs(expected).max()
        assert np.ptp(expected, axis=0).max() > 0.01

    def test_a_version_imported_between_two_attempts_is_refused(
        self, settings: Settings, models: Path, tmp_path: Path
    ) -> None:
        pictures(settings.data / "set", 3)
        shutil.copytree(models / "grid", tmp_path / "own" / "grid")
        own = settings.model_copy(update={"models": tmp_path / "own"})
        first = run("grid", own)
        shutil.copytree(own.models / "grid" / "1", own.models / "grid" / "2")
        with pytest.raises(JobError, match="has changed since"):
            run("grid", own, checkpoint={"embeddings": first.id})
        assert run("grid", own).plan.model.weights_file == "grid/2"


def pictures(folder: Path, n: int) -> None:
    """``n`` smooth pictures."""
    folder.mkdir()
    for i in range(n):
        small = np.random.default_rng(i).integers(0, 256, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(small).resize((60, 40), Image.Resampling.BICUBIC).save(folder / f"{i:03}.png")


def run(model: str, settings: Settings, **context: Any) -> EmbeddingSet:
    body = {"images": {"path": "set"}, "model": model, "batch_size": 7, "shard_rows": 20}
    result = extract(JobContext.local(body, kind="extract:tfserving", **context), settings)
    return Store(settings.store).embeddings(result["embeddings"])


# TensorFlow is imported by two children, one after the other.
@pytest.mark.timeout(300)
def test_a_job_goes_on_after_its_child_was_killed(
    models: Path, tmp_path: Path, queue: JobQueue, redis_server: str, wait_until: Callable[..., None]
) -> None:
    env = {
        "SHOAL_DATA": str(tmp_path),
        "SHOAL_STORE": str(tmp_path / "store"),
        "SHOAL_MODELS": str(models),
        "SHOAL_DECODE_WORKERS": "1",
        "SHOAL_DEVICE": "cpu",
        "TF_SERVING_URL": "",
        "REDIS_URL": redis_server,
    }
    pictures(tmp_path / "set", 200)
    body = {"images": {"path": "set"}, "model": "grid", "batch_size": 5, "shard_rows": 5, "thumbnails": False}
    job, _ = queue.submit("extract:tfserving", body)
    command = [sys.executable, "-m", "extractor", "worker", "--backend", "tfserving"]
    worker = subprocess.Popen(command, env={**os.environ, **env})
    try:
        wait_until(lambda: len(commits(tmp_path)) >= 2, what="commits", deadline_s=120)
        (child,) = psutil.Process(worker.pid).children()
        child.kill()
        kept = len(commits(tmp_path))
        assert kept < 40
        wait_until(lambda: queue.get(job.id).state.terminal, what="end of the job", deadline_s=120)
    finally:
        worker.kill()
        worker.wait()
    done = queue.get(job.id)
    assert done.result is not None, done.error
    assert (done.attempt, done.result["rows"], done.result["failed"]) == (2, 200, 0)
    assert done.result["resumed_rows"] >= 5 * kept
    assert Store(tmp_path / "store").verify(done.result["embeddings"]).ok


def commits(root: Path) -> list[Path]:
    return list((root / "store").glob("embeddings/*/commits/*.json"))
