"""Published TensorFlow models: downloaded, imported and checked in one step, from a server on this machine."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import json
import shutil
import sys
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from extractor.api.routes import build
from extractor.backends import loading
from extractor.models import bucket, catalogue, folders, obtaining
from extractor.models.download import DownloadFailed
from extractor.models.pull import pull
from extractor.pipeline import extract
from fastapi.testclient import TestClient
from PIL import Image
from shoal.errors import ModelNotServed, WeightsInvalid, WeightsMissing
from shoal.jobs.child import JobContext
from shoal.jobs.queue import JobQueue
from shoal.settings import Settings
from shoal.store import Store

from tests.extractor.models.publisher import GOOGLE, Publisher, published

Served = Callable[..., Settings]
PREFIX = f"{GOOGLE}/simclr-checkpoints/simclrv2/pretrained/r50_1x_sk0/hub/"
ZIP = f"{GOOGLE}/simclr-gcs/checkpoints/ResNet50_1x.zip"
TAR = "tfhub.dev/deepmind/bigbigan-resnet50/1"
CATALOGUE = f"""
[models.small]
backend = "tfserving"
architecture = "simclr_small"
embedding = "final_avg_pool"
dim = 128
transform = {{ size = 32, mean = [0.0, 0.0, 0.0], std = [1.0, 1.0, 1.0] }}
published = {{ kind = "gcs-prefix", url = "https://{PREFIX}" }}
"""


@pytest.fixture(scope="module")
def module(builders: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A hub module as SimCLRv2 publishes it, small."""
    folder = tmp_path_factory.mktemp("module") / "hub"
    folder.mkdir()
    builders.simclr_hub(folder)
    return folder


@pytest.fixture
def site(module: Path) -> Iterator[Publisher]:
    with published() as site:
        site.put_folder(PREFIX, module)
        yield site


@pytest.fixture
def models(tmp_path: Path) -> Path:
    root = tmp_path / "models"
    root.mkdir()
    (root / "catalogue.toml").write_text(CATALOGUE)
    return root


@pytest.fixture
def settings(models: Path, site: Publisher, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.delenv("TF_SERVING_URL", raising=False)
    return Settings(models=models, mirror=site.url, offline=False)


@pytest.fixture(params=["in process", "gRPC"])
def served(
    request: pytest.FixtureRequest, serve: Callable[..., Any], client_settings: Callable[..., Settings]
) -> Served:
    """``served(models, **fields)``: settings of a job that runs the models of this folder, itself or by a server."""

    def make(models: Path, **fields: Any) -> Settings:
        way = {"tf_serving_url": None} if request.param == "in process" else {}
        return client_settings(0 if way else serve(models).port, models=models, **way, **fields)

    return make


@pytest.fixture
def not_imported(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Stands in for TensorFlow where a test is about the download: what it was given, and an empty version of it."""
    given: list[Path] = []

    def take(name: str, source: Path, models_root: Path, _report: object) -> Path:
        given.append(source)
        folder = models_root / name / "1"
        shutil.copytree(source, folder)
        return folder

    monkeypatch.setattr(obtaining, "_import", take)
    return given


def obtain(settings: Settings, name: str = "small", **options: Any) -> Path:
    spec = catalogue.resolve(name, settings.models, settings=settings)
    return obtaining.obtain_published(spec, settings.models, mirror=settings.mirror, **options)


def content(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def pulled(module: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The models root after one real pull."""
    root = tmp_path_factory.mktemp("models")
    (root / "catalogue.toml").write_text(CATALOGUE)
    with published() as site:
        site.put_folder(PREFIX, module)
        assert pull("small", Settings(models=root, mirror=site.url, offline=False)) == 0
    return root


class TestWhole:
    """With TensorFlow: one import, which the tests share."""

    def test_pull_downloads_imports_and_checks(self, pulled: Path, module: Path) -> None:
        root = pulled
        report = folders.latest_report(root, "small")
        assert report is not None
        assert (report["output"], report["dim"], report["layout"]) == ("final_avg_pool", 128, "tf1-hub")
        assert report["checks"]["deterministic"]
        assert not (root / obtaining.DOWNLOADS / "small").exists()
        record = json.loads((root / "small" / obtaining.RECORD).read_text())
        wanted = {name: hashlib.sha256(data).hexdigest() for name, data in content(module).items()}
        assert {file["path"]: file["sha256"] for file in record["files"]} == wanted
        assert record["url"] == f"https://{PREFIX}"

    def test_it_is_then_ready_and_pulled_no_more(self, pulled: Path, capsys: pytest.CaptureFixture[str]) -> None:
        root = pulled
        settings = Settings(models=root, offline=True)
        assert catalogue.resolve("small", root, settings=settings).readiness(root, offline=True) == "ready"
        assert pull("small", settings) == 0
        assert (
            capsys.readouterr().out == f"{root / 'small' / '1'}\nsha256 {folders.fingerprint(root / 'small' / '1')}\n"
        )

    def test_a_job_embeds_with_it_and_refuses_files_that_changed(self, pulled: Path, served: Served) -> None:
        root = pulled
        settings = served(root)
        (settings.data / "set").mkdir()
        for i in range(3):
            Image.new("RGB", (40, 40), (80 * i, 9, 200)).save(settings.data / "set" / f"{i}.png")
        body = {"images": {"path": "set"}, "model": "small"}
        result = extract(JobContext.local(body, kind="extract:tfserving"), settings)
        embeddings = Store(settings.store).embeddings(result["embeddings"])
        assert (embeddings.rows, embeddings.dim) == (3, 128)
        assert np.isfinite(np.concatenate([rows for _, rows in embeddings.iter_batches()])).all()
        path = root / "small" / "1" / "saved_model.pb"
        kept = path.read_bytes()
        try:
            path.write_bytes(kept + b"\x00")
            with pytest.raises(WeightsInvalid, match="changed since they were imported"):
                extract(JobContext.local(body, kind="extract:tfserving"), settings)
        finally:
            path.write_bytes(kept)


def test_the_first_use_in_a_job_downloads_and_imports(
    site: Publisher, models: Path, module: Path, pulled: Path, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    def import_again(name: str, _source: Path, root: Path, _report: object) -> Path:
        return Path(shutil.copytree(pulled / name / "1", root / name / "1"))

    monkeypatch.setattr(obtaining, "_import", import_again)
    settings = served(models, mirror=site.url, offline=False)
    spec = catalogue.resolve("small", models, settings=settings)
    stages: list[str] = []
    bytes_seen: list[int] = []
    record = loading.record_of(spec, settings, lambda done, _total: bytes_seen.append(done), stages.append)
    assert record.weights_file == "small/1"
    assert record.weights_sha256 == folders.fingerprint(pulled / "small" / "1")
    assert stages == ["download weights", "import model"]
    assert max(bytes_seen) == sum(len(data) for data in content(module).values())


def test_offline_and_without_tensorflow_a_job_says_what_to_do(
    site: Publisher, models: Path, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = catalogue.resolve("small", models)
    with pytest.raises(
        ModelNotServed, match=r"SHOAL_OFFLINE.*gsutil -m cp -r gs://simclr-checkpoints/.*import-tf small"
    ):
        loading.record_of(spec, served(models, mirror=site.url, offline=True))
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(ModelNotServed, match=r"pip install 'shoal\[tf\]'"):
        loading.record_of(spec, served(models, mirror=site.url, offline=False))
    assert site.asked == []


class TestDownload:
    def test_every_file_comes_over_all_pages(
        self, site: Publisher, settings: Settings, module: Path, not_imported: list[Path]
    ) -> None:
        seen: list[tuple[int, int | None]] = []
        folder = obtain(settings, on_progress=lambda *now: seen.append(now))
        assert content(folder) == content(module)
        total = sum(len(data) for data in content(module).values())
        assert seen[-1] == (total, total)
        assert [done for done, _ in seen] == sorted(done for done, _ in seen)

    def test_a_stopped_pull_goes_on_file_by_file(
        self, site: Publisher, settings: Settings, module: Path, not_imported: list[Path]
    ) -> None:
        class Stopped(BaseException):
            pass

        largest = max(content(module), key=lambda name: len(content(module)[name]))

        def stop(done: int, _total: int | None) -> None:
            if any(path == PREFIX + largest for path, _ in site.asked) and done:
                raise Stopped

        with pytest.raises(Stopped):
            obtain(settings, on_progress=stop)
        before = [path for path, _ in site.asked]
        site.asked.clear()
        site.break_once.add(PREFIX + largest)
        assert content(obtain(settings)) == content(module)
        assert set(before[:-1]).isdisjoint(path for path, _ in site.asked)
        assert site.asked[0][0] == PREFIX + largest

    def test_a_file_that_is_not_what_the_listing_says_is_refused(
        self, site: Publisher, settings: Settings, not_imported: list[Path]
    ) -> None:
        site.lie[PREFIX + "saved_model.pb"] = "AAAAAAAAAAAAAAAAAAAAAA=="
        with pytest.raises(WeightsInvalid, match="md5"):
            obtain(settings)
        assert not_imported == []
        assert folders.versions(settings.models / "small") == []

    def test_a_later_download_must_be_the_first_one(
        self, site: Publisher, settings: Settings, not_imported: list[Path]
    ) -> None:
        shutil.rmtree(obtain(settings))
        site.objects[PREFIX + "tfhub_module.pb"] += b"x"
        with pytest.raises(WeightsInvalid, match="sha256"):
            obtain(settings)
        site.objects[PREFIX + "tfhub_module.pb"] = site.objects[PREFIX + "tfhub_module.pb"][:-1]
        site.objects[PREFIX + "more.pb"] = b"more"
        with pytest.raises(WeightsInvalid, match="no longer holds the files"):
            obtain(settings)
        del site.objects[PREFIX + "more.pb"]
        assert obtain(settings) == settings.models / "small" / "1"

    def test_a_file_that_was_damaged_between_two_tries_is_fetched_again(
        self, site: Publisher, settings: Settings, module: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(*_: object) -> Path:
            raise WeightsInvalid("it cannot be imported")

        monkeypatch.setattr(obtaining, "_import", fail)
        with pytest.raises(WeightsInvalid, match="cannot be imported"):
            obtain(settings)
        source = settings.models / obtaining.DOWNLOADS / "small" / obtaining.SOURCE
        (source / "saved_model.pb").write_bytes(b"x" * (source / "saved_model.pb").stat().st_size)
        (source / "stray").write_bytes(b"x")
        site.asked.clear()
        with pytest.raises(WeightsInvalid, match="cannot be imported"):
            obtain(settings)
        assert [path for path, _ in site.asked] == [PREFIX + "saved_model.pb"]
        assert content(source) == content(module)

    def test_two_pulls_at_once_download_once(
        self, site: Publisher, settings: Settings, not_imported: list[Path], module: Path
    ) -> None:
        found: list[Path] = []
        threads = [threading.Thread(target=lambda: found.append(obtain(settings))) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert found == [settings.models / "small" / "1"] * 3
        assert len(not_imported) == 1
        assert len(site.asked) == len(content(module))

    def test_names_that_lead_out_of_the_folder_are_refused(
        self, site: Publisher, settings: Settings, not_imported: list[Path]
    ) -> None:
        site.objects[PREFIX + "../../evil"] = b"evil"
        with pytest.raises(WeightsInvalid, match="leads out of it"):
            obtain(settings)
        assert site.asked == []

    def test_an_import_that_fails_publishes_nothing(
        self, site: Publisher, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        program = tmp_path / "python"
        program.write_text("#!/bin/sh\necho 'The output is random.' >&2\nexit 1\n")
        program.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(program))
        with pytest.raises(
            WeightsInvalid, match=r"small was downloaded but cannot be imported: The output is random\."
        ):
            obtain(settings)
        spec = catalogue.resolve("small", settings.models)
        assert spec.readiness(settings.models) == "downloadable"

    def test_a_disk_without_room_is_seen_before_the_first_file(
        self, site: Publisher, settings: Settings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        class Usage:
            free = 100

        monkeypatch.setattr("extractor.models.download.shutil.disk_usage", lambda _path: Usage)
        with pytest.raises(DownloadFailed, match="left"):
            obtain(settings)
        assert site.asked == []


class TestArchives:
    def test_simclrs_zip_file(
        self, site: Publisher, settings: Settings, module: Path, not_imported: list[Path]
    ) -> None:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr("ResNet50_1x/model.ckpt-225206.index", b"index")
            for name, data in content(module).items():
                archive.writestr(f"ResNet50_1x/hub/{name}", data)
        site.objects[ZIP] = buffer.getvalue()
        assert content(obtain(settings, "resnet50_simclr")) == content(module)
        record = json.loads((settings.models / "resnet50_simclr" / obtaining.RECORD).read_text())
        assert record["files"][0]["sha256"] == hashlib.sha256(buffer.getvalue()).hexdigest()

    def tar(self, module: Path) -> bytes:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
            archive.add(module, arcname=".")
        return buffer.getvalue()

    def test_bigbigans_tar_file_by_way_of_another_host(
        self, site: Publisher, settings: Settings, module: Path, not_imported: list[Path]
    ) -> None:
        site.redirects[TAR] = f"{site.url}/storage.googleapis.com/signed/model.tar.gz?X-Goog-Signature=abc"
        site.objects["storage.googleapis.com/signed/model.tar.gz"] = self.tar(module)
        site.break_once.add("storage.googleapis.com/signed/model.tar.gz")
        assert content(obtain(settings, "resnet50_bigbigan")) == content(module)

    @pytest.mark.parametrize("to", ["http://example.org/m.tar.gz", "http://localhost:1/m", "file:///etc/passwd"])
    def test_a_redirect_to_any_other_host_is_refused(
        self, to: str, site: Publisher, settings: Settings, not_imported: list[Path]
    ) -> None:
        site.redirects[TAR] = to
        with pytest.raises(DownloadFailed, match="cannot be read"):
            obtain(settings, "resnet50_bigbigan")

    def test_a_login_page_in_its_place_is_refused_and_fetched_again_later(
        self, site: Publisher, settings: Settings, module: Path, not_imported: list[Path]
    ) -> None:
        site.objects[TAR] = b"<html>Sign in</html>" * 50
        with pytest.raises(WeightsInvalid, match="cannot be unpacked as a tar file"):
            obtain(settings, "resnet50_bigbigan")
        site.objects[TAR] = self.tar(module)
        assert content(obtain(settings, "resnet50_bigbigan")) == content(module)


@pytest.mark.parametrize("name", ["resnet50_simclr", "resnet50_simclr2", "resnet50_bigbigan", "revnet50x4_bigbigan"])
def test_what_cannot_be_had_is_said_with_what_to_fetch_and_how_to_import_it(
    name: str, site: Publisher, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    site.objects.clear()
    spec = catalogue.resolve(name, settings.models, settings=settings)
    assert spec.weights.published is not None
    offline = settings.model_copy(update={"offline": True})
    for tried, why in ((settings, "The download failed"), (offline, "SHOAL_OFFLINE")):
        assert pull(name, tried) == 1
        said = capsys.readouterr().err
        for part in (why, spec.weights.published.url, f"shoal models import-tf {name} FOLDER"):
            assert part in said
        assert "random" not in said
    with pytest.raises(WeightsMissing) as caught:
        obtaining.obtain(spec, settings.models, offline=True)
    assert caught.value.members["url"] == spec.weights.published.url


def test_the_catalogue_says_that_they_can_be_downloaded(models: Path, tmp_path: Path) -> None:
    for spec in catalogue.all_models(tmp_path / "none"):
        if spec.backend == "tfserving":
            assert spec.readiness(models) == "downloadable", spec.name
            assert spec.readiness(models, offline=True) == "needs_file"


def test_the_service_says_what_has_to_be_installed(
    settings: Settings, queue: JobQueue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("extractor.models.spec.find_spec", lambda _name: None)
    with TestClient(build(settings, queue, Store(tmp_path / "store"))) as client:
        rows = {row["name"]: row for row in client.get("/models").json()["models"]}
        assert rows["small"]["needs"] == client.get("/models/small").json()["needs"] == "shoal[tf]"
        assert rows["resnet50_swav"]["needs"] is None
        queue.beat("w", ["extract:tfserving"])
        assert client.get("/models/small").json()["needs"] is None


@pytest.mark.parametrize("body", [b"<html>", b'{"items": 3}', b'{"items": [{"size": "1"}]}'])
def test_a_listing_that_is_none_is_refused(body: bytes, site: Publisher, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Publisher, "page", lambda *_: body)
    with pytest.raises(DownloadFailed, match="did not send the listing"):
        bucket.list_files(f"https://{PREFIX}", mirror=site.url)


def test_an_empty_listing_is_no_model(site: Publisher) -> None:
    with pytest.raises(DownloadFailed, match="nothing is published"):
        bucket.list_files(f"https://{GOOGLE}/other/none/", mirror=site.url)


def test_a_listing_without_end_is_refused(site: Publisher, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Publisher, "page", lambda *_: b'{"nextPageToken": "again"}')
    with pytest.raises(WeightsInvalid, match=r"has more than .* pages"):
        bucket.list_files(f"https://{PREFIX}", mirror=site.url)


def test_a_server_that_is_away_is_asked_again_and_then_given_up() -> None:
    pauses: list[float] = []
    with pytest.raises(DownloadFailed, match="cannot be read"):
        bucket.list_files(f"https://{PREFIX}", mirror="http://127.0.0.1:1", pause=pauses.append)
    assert len(pauses) == 4
