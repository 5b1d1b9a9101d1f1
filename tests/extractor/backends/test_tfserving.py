"""Whole extractions with a TensorFlow model: from images on disk through a server to the store."""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from clusterer.pipeline import run as cluster
from extractor.api.routes import build
from extractor.pipeline import extract
from extractor.tf_serving.client import ServingClient
from fastapi.testclient import TestClient
from PIL import Image
from shoal.errors import ModelMismatch, ServingUnavailable
from shoal.jobs.child import JobContext
from shoal.jobs.queue import JobQueue
from shoal.schemas import Progress
from shoal.settings import Settings
from shoal.store import EmbeddingSet, Store

from tests.extractor.tf_serving import stand_in

SIZE = 32
GRID = 8


@pytest.fixture
def server(serve: Callable[..., Any], models: Path) -> Any:
    return serve(models)


@pytest.fixture
def settings(server: Any, models: Path, client_settings: Callable[..., Settings]) -> Settings:
    return client_settings(server.port, models=models)


@pytest.fixture
def folder(settings: Settings) -> Path:
    path = settings.data / "set"
    path.mkdir()
    return path


def request(model: str, **fields: Any) -> dict[str, Any]:
    return {"images": {"path": "set"}, "model": model, "batch_size": 4, "shard_rows": 8, **fields}


def run(body: dict[str, Any], settings: Settings, **context: Any) -> EmbeddingSet:
    ctx = JobContext.local(body, kind="extract:tfserving", **context)
    return Store(settings.store).embeddings(extract(ctx, settings)["embeddings"])


def rows_of(embeddings: EmbeddingSet) -> np.ndarray:
    return np.concatenate([batch for _, batch in embeddings.iter_batches()])


def grey(folder: Path, name: str, level: int) -> None:
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    Image.new("RGB", (40, 40), (level, level, level)).save(path)


class TestRight:
    @pytest.mark.parametrize("shape", [(500, 375), (375, 500)], ids=["wide", "tall"])
    def test_the_crop_of_a_375_by_500_image_is_its_centred_square(
        self, settings: Settings, folder: Path, shape: tuple[int, int]
    ) -> None:
        width, height = shape
        across, down = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
        picture = np.stack([across, down, np.zeros_like(across)], axis=2).astype(np.uint8)
        Image.fromarray(picture).save(folder / "ramp.png")
        got = rows_of(run(request("grid"), settings)).reshape(GRID, GRID, 3) * 255
        centres = (np.arange(GRID) + 0.5) * 375 / GRID - 0.5
        wanted_across = (centres + (width - 375) / 2) * 255 / (width - 1)
        wanted_down = (centres + (height - 375) / 2) * 255 / (height - 1)
        assert np.abs(got[:, :, 0] - wanted_across).max() < 2
        assert np.abs(got[:, :, 1] - wanted_down[:, None]).max() < 2

    def test_paths_and_labels_stand_beside_their_rows_whatever_the_order_of_the_folder(
        self, settings: Settings, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        levels = {f"{'ab'[i % 2]}/{i:02}.png": 10 * i for i in range(20)}
        for name in random.Random(5).sample(sorted(levels), len(levels)):
            grey(folder, name, levels[name])
        monkeypatch.setattr(os, "scandir", shuffled(os.scandir))
        embeddings = run(request("grid"), settings)
        table = embeddings.metadata().to_pylist()
        assert [row["image_path"] for row in table] == sorted(levels)
        for row, vector in zip(table, rows_of(embeddings), strict=True):
            assert row["label"] == row["image_path"][0]
            assert np.allclose(vector * 255, levels[row["image_path"]], atol=1)

    def test_a_tensorflow_model_goes_to_its_own_queue_and_the_job_says_what_was_served(
        self, settings: Settings, folder: Path, queue: JobQueue
    ) -> None:
        for i in range(10):
            grey(folder, f"{i % 2}/{i}.png", 20 * i)
        api = TestClient(build(settings, queue))
        answer = api.post("/extract", json=request("simclr2"))
        assert answer.status_code == 202, answer.text
        assert answer.json()["kind"] == "extract:tfserving"
        assert queue.claim(["extract:torch", "cluster"], "torch") is None
        claim = queue.claim(["extract:tfserving"], "tf")
        assert claim is not None
        embeddings = run(claim.job.request, settings)
        record = embeddings.plan.model
        assert (embeddings.rows, embeddings.dim, record.weights_file) == (10, 128, "simclr2/1")
        assert re.fullmatch("[0-9a-f]{64}", record.weights_sha256 or "")
        assert Store(settings.store).verify(embeddings.id).ok

    @pytest.mark.parametrize("name", ["simclr1", "simclr2", "bigbigan"])
    def test_each_layout_goes_from_images_to_clusters_as_its_source_embeds_them(
        self, builders: ModuleType, settings: Settings, folder: Path, sources: Path, name: str
    ) -> None:
        pixels = np.random.default_rng(5).integers(0, 256, (8, SIZE, SIZE, 3), dtype=np.uint8)
        (folder / "a").mkdir()
        for i, image in enumerate(pixels):
            Image.fromarray(image).save(folder / "a" / f"{i}.png")
        unit = pixels.astype(np.float32) / 255
        wanted = {
            "simclr1": lambda: builders.session_output(sources / name, "default", "final_avg_pool", unit),
            "simclr2": lambda: builders.call_output(sources / name, "final_avg_pool", unit),
            "bigbigan": lambda: builders.session_output(sources / name, "encode", "avepool_feat", 2 * unit - 1),
        }[name]()
        embeddings = run(request(name), settings)
        assert np.abs(rows_of(embeddings) - wanted).max() <= 1e-4
        assert set(clusters_of(embeddings.id, 3, settings)) == {0, 1, 2}

    def test_the_same_network_gives_the_same_embeddings_and_clusters_in_tensorflow_as_in_pytorch(
        self, settings: Settings, folder: Path
    ) -> None:
        generator = np.random.default_rng(0)
        motifs = generator.integers(0, 256, (6, 6, 6, 3))
        for i in range(60):
            noisy = np.clip(motifs[i % 6] + generator.normal(0, 40, (6, 6, 3)), 0, 255).astype(np.uint8)
            image = Image.fromarray(noisy).resize((260, 230), Image.Resampling.BICUBIC)
            (folder / str(i % 6)).mkdir(exist_ok=True)
            image.save(folder / str(i % 6) / f"{i:02}.png")
        names = "tf_efficientnet_lite0", "lite0"
        sets = [run(request(name, batch_size=16, shard_rows=60), settings) for name in names]
        torch, served = (rows_of(each) for each in sets)
        assert np.abs(torch - served).max() <= 1e-3
        assert np.ptp(torch) > 1
        # More clusters than motifs: borders run within motifs, where rows are near to them.
        torch_clusters, served_clusters = (clusters_of(each.id, 9, settings) for each in sets)
        assert (torch_clusters == served_clusters).all()
        assert len(set(torch_clusters)) == 9


def clusters_of(embeddings_id: str, k: int, settings: Settings) -> np.ndarray:
    body = {"embeddings": embeddings_id, "clusters": k, "seed": 3}
    result = cluster(JobContext.local(body, kind="cluster"), settings)
    return np.asarray(Store(settings.store).clustering(result["clustering"]).assignments().column("cluster"))


def shuffled(scandir: Callable[..., Any]) -> Callable[..., Any]:
    """``os.scandir`` in another order each time."""

    class Entries:
        def __init__(self, *arguments: Any) -> None:
            with scandir(*arguments) as entries:
                self.entries = random.Random(len(str(arguments))).sample(found := list(entries), len(found))

        def __iter__(self) -> Iterator[Any]:
            return iter(self.entries)

        def __enter__(self) -> Entries:
            return self

        def __exit__(self, *_: object) -> None:
            pass

    return Entries


@pytest.fixture
def after_batches(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, Callable[[], object]], None]:
    """``after_batches(n, action)`` calls ``action`` once, when the nth batch has been embedded."""
    predict = ServingClient.predict

    def arm(n: int, action: Callable[[], object]) -> None:
        left = iter([*[lambda: None] * (n - 1), action])

        def counted(client: ServingClient, request: Any) -> Any:
            answer = predict(client, request)
            next(left, lambda: None)()
            return answer

        monkeypatch.setattr(ServingClient, "predict", counted)

    return arm


class TestAway:
    @pytest.fixture
    def images(self, folder: Path) -> None:
        for i in range(40):
            grey(folder, f"{i:02}.png", 6 * i)

    def test_a_restarted_server_lets_the_job_go_on(
        self,
        server: Any,
        serve: Callable[..., Any],
        models: Path,
        settings: Settings,
        images: None,
        after_batches: Callable[..., None],
    ) -> None:
        def restart() -> None:
            server.stop(grace_s=0)
            serve(models, server.port)

        after_batches(3, restart)
        embeddings = run(request("grid"), settings.model_copy(update={"tf_serving_in_flight": 1}))
        assert embeddings.rows == 40
        assert np.allclose(rows_of(embeddings)[:, 0] * 255, np.arange(40) * 6, atol=1)

    def test_a_server_that_stays_away_fails_the_job_which_goes_on_when_it_is_back(
        self,
        server: Any,
        serve: Callable[..., Any],
        models: Path,
        settings: Settings,
        images: None,
        after_batches: Callable[..., None],
    ) -> None:
        impatient = settings.model_copy(update={"tf_serving_in_flight": 1, "tf_serving_gone_s": 2.0})
        after_batches(6, lambda: server.stop(grace_s=0))
        with pytest.raises(ServingUnavailable, match="Committed shards are kept"):
            run(request("grid"), impatient)
        store = Store(settings.store)
        (embeddings_id,) = store.embeddings_ids()
        kept = store.embeddings(embeddings_id)
        committed = set(range(5)) - set(kept.missing_shards())
        assert committed
        assert not kept.complete
        serve(models, server.port)
        finished = run(request("grid"), settings)
        assert finished.id == embeddings_id
        assert finished.rows == 40
        assert all(finished.commits[shard] == kept.commits[shard] for shard in committed)

    def test_a_model_of_another_width_is_refused_before_the_first_image(
        self, settings: Settings, models: Path, images: None
    ) -> None:
        own = settings.store.parent / "catalogue.toml"
        row = '[models.grid]\nbackend = "tfserving"\narchitecture = "grid"\ndim = 99\ntransform = {size = 32}\n'
        own.write_text(row)
        stages: list[Progress] = []
        with pytest.raises(ModelMismatch, match="width 192, but the catalogue says 99"):
            run(request("grid"), settings.model_copy(update={"catalogue": own}), on_progress=stages.append)
        assert "embed" not in [progress.stage for progress in stages]


# TensorFlow is imported twice, one after the other.
@pytest.mark.timeout(300)
def test_a_job_survives_that_its_server_is_killed(
    models: Path, client_settings: Callable[..., Settings], after_batches: Callable[..., None]
) -> None:
    restarted: list[subprocess.Popen[str]] = []
    command = [sys.executable, stand_in.__file__, str(models), "--port"]
    process = subprocess.Popen([*command, "0"], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        port = int(process.stdout.readline().removeprefix("port="))
        settings = client_settings(port, models=models, tf_serving_gone_s=200.0, tf_serving_in_flight=1)
        (settings.data / "set").mkdir()
        for i in range(40):
            grey(settings.data / "set", f"{i:02}.png", 6 * i)

        def restart() -> None:
            process.kill()
            process.wait()
            restarted.append(subprocess.Popen([*command, str(port)], text=True, stdout=subprocess.DEVNULL))

        after_batches(3, restart)
        embeddings = run(request("grid"), settings)
        assert embeddings.rows == 40
    finally:
        for each in (process, *restarted):
            each.kill()
            each.wait()
        if process.stdout is not None:
            process.stdout.close()
