"""Embeddings of clients: sent in parts and pieces, imported by a job, within limits; servers are real."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import h5py
import httpx
import numpy as np
import pytest
from extractor.api import routes
from extractor.jobs import importing
from shoal import AsyncClient, Client
from shoal.cli import app as cli
from shoal.client import uploads
from shoal.embedding_files import EMBEDDING_SUFFIXES, piece_name
from shoal.errors import ImportInvalid, PathNotFound, PathOutsideRoot, UploadNotFound
from shoal.importer.formats import is_supported
from shoal.jobs.child import JobContext
from shoal.jobs.queue import JobQueue
from shoal.schemas import Job
from shoal.settings import Settings
from shoal.store import Store
from typer.testing import CliRunner

from tests.extractor.api.conftest import ServeApp
from tests.extractor.uploads.test_unpack import tar

ROWS = np.random.default_rng(0).normal(size=(100, 8)).astype(np.float32)
Run = Callable[[Job], dict[str, Any]]


@pytest.fixture
def client(settings: Settings, queue: JobQueue, serve_app: ServeApp) -> Iterator[Client]:
    url = serve_app(routes.build(settings, queue, Store(settings.store)))
    with Client(url, url) as opened:
        yield opened


@pytest.fixture
def run(settings: Settings) -> Run:
    """``run(job)``: as a worker does."""
    return lambda job: importing.run(JobContext.local(job.request, kind="import"), settings)


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "PART_BYTES", 1000)


def send(client: Client, files: dict[str, bytes]) -> str:
    url = client._calls._services.urls["extractor"]
    answer = httpx.post(f"{url}/uploads", content=tar(files), headers={"Content-Type": "application/x-tar"})
    assert answer.status_code == 201, answer.text
    return f"upload:{answer.json()['upload']}"


def npy(values: Any) -> bytes:
    out = io.BytesIO()
    np.save(out, values)
    return out.getvalue()


def test_what_is_sent_is_what_is_imported() -> None:
    assert all(is_supported(suffix) for suffix in EMBEDDING_SUFFIXES)
    assert not any(is_supported(suffix) for suffix in (".csv", ".pkl", ".piece-000000-of-000002"))


@pytest.mark.usefixtures("small_parts")
def test_a_file_in_pieces_has_the_id_of_a_local_import(
    client: Client, run: Run, settings: Settings, tmp_path: Path
) -> None:
    from shoal.importer import import_embeddings

    np.save(tmp_path / "features.npy", ROWS)
    (tmp_path / "labels.csv").write_text("label\n" + "".join(f"{'cat' if row % 2 else 'dog'}\n" for row in range(100)))
    labels = {"file": str(tmp_path / "labels.csv"), "path_column": ""}
    seen: list[tuple[int, int]] = []
    job = client.import_embeddings(
        tmp_path / "features.npy",
        name="mine",
        labels=labels,
        split="val",
        on_progress=lambda done, total: seen.append((done, total)),
    )
    assert (job.kind, len(seen) > 3, seen[-1][0] == seen[-1][1]) == ("import", True, True)
    result = run(job)
    found = Store(settings.store).embeddings(result["embeddings"])
    assert result == {"embeddings": found.id, "rows": 100, "dim": 8}
    rows = found.metadata()
    assert rows.column("label").to_pylist()[:2] == ["dog", "cat"]
    assert set(rows.column("split").to_pylist()) == {"val"}
    assert np.array_equal(np.concatenate([np.load(each) for each in found.layout.folder.glob("img_emb/*.npy")]), ROWS)
    from shoal.labels import Columns

    here = import_embeddings(
        Store(tmp_path / "other"),
        tmp_path / "features.npy",
        name="mine",
        labels=tmp_path / "labels.csv",
        columns=Columns("", None),
        split="val",
    )
    assert here == found.id
    assert not (settings.store / ".work").exists() or not list((settings.store / ".work").iterdir())
    again = client.import_embeddings(tmp_path / "features.npy", name="mine", labels=labels, split="val")
    assert again.request["upload"] == job.request["upload"]


def test_a_folder_and_several_sets(client: Client, run: Run, settings: Settings, tmp_path: Path) -> None:
    folder = tmp_path / "labels"
    folder.mkdir()
    for part in range(3):
        np.savez(folder / f"part-{part}.npz", train_embs=ROWS, train_labs=np.arange(100), val_embs=ROWS[:5])
    (folder / "notes.txt").write_text("not sent")
    (tmp_path / "l.csv").write_text("label\n" + "a\n" * 15)
    result = run(client.import_embeddings(folder, name="paper"))
    assert (result["rows"], result["dim"], list(result["sets"])) == (300, 8, ["train", "val"])
    assert result["embeddings"] == result["sets"]["train"]
    assert Store(settings.store).embeddings(result["sets"]["val"]).rows == 15

    async def ask() -> Job:
        async with AsyncClient(*client._calls._services.urls.values()) as other:
            return await other.import_embeddings(
                folder, name="paper", key="val_embs", labels={"file": tmp_path / "l.csv", "path_column": ""}
            )

    job = anyio.run(ask)
    assert job.request["labels"]["file"] == "label-file/l.csv"
    found = Store(settings.store).embeddings(run(job)["embeddings"])
    assert (found.rows, set(found.metadata().column("label").to_pylist())) == (15, {"a"})


def test_paths_and_uploads_that_are_not_there_are_refused(client: Client) -> None:
    upload = send(client, {"a.npy": npy(ROWS), piece_name("b.npy", 0, 1): npy(ROWS)})
    for path, error in (("../a.npy", PathOutsideRoot), ("c.npy", PathNotFound), ("b", PathNotFound)):
        with pytest.raises(error):
            client.import_embeddings(f"{upload}/{path}", name="x")
    with pytest.raises(PathOutsideRoot):
        client.import_embeddings(f"{upload}/a.npy", name="x", labels="/etc/passwd")
    with pytest.raises(UploadNotFound) as caught:
        client.import_embeddings("upload:u-0/a.npy", name="x")
    assert caught.value.members["field"] == "upload"
    assert client.import_embeddings(f"{upload}/b.npy", name="x").request["path"] == "b.npy"


def external(tmp_path: Path) -> bytes:
    (tmp_path / "secret").write_bytes(bytes(320))
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("embeddings", (10, 8), "f4", external=[(str(tmp_path / "secret"), 0, 320)])
    return (tmp_path / "x.h5").read_bytes()


def endless(tmp_path: Path) -> bytes:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("embeddings", (10**12, 8), "f4", chunks=(100, 8))
    return (tmp_path / "x.h5").read_bytes()


def declared(_: Path) -> bytes:
    return npy(ROWS).replace(b"(100, 8)", b"(10**9,)"[:8]).replace(b"(10**9,)", b"(99999,)")


def bomb(_: Path) -> bytes:
    out = io.BytesIO()
    np.savez_compressed(out, embeddings=np.zeros((1_000_000, 8), np.float32))
    return out.getvalue()


HOSTILE: dict[str, tuple[Callable[[Path], bytes], str]] = {
    "external.h5": (external, "other files"),
    "endless.h5": (endless, "declares 1,000,000,000,000 rows"),
    "declared.npy": (declared, ""),
    "bomb.npz": (bomb, "declares 1,000,000 rows"),
    "nan.npy": (lambda _: npy(np.full((3, 2), np.nan)), "row 0: holds NaN"),
    "objects.npy": (lambda _: npy(np.array([[{}]], dtype=object)), ""),
    "pickle.pt": (lambda _: pickle.dumps(print), ""),
    "text.txt": (lambda _: b"hello", "neither a folder nor a file of embeddings"),
    piece_name("lost.npy", 1, 2): (lambda _: npy(ROWS), "piece 0 of 2 is missing"),
    piece_name("many.npy", 0, 999_999): (lambda _: npy(ROWS), "piece 1 of 999999 is missing"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_refused_by_name(
    client: Client, run: Run, settings: Settings, tmp_path: Path, name: str
) -> None:
    make, text = HOSTILE[name]
    shown = name.partition(".piece")[0]
    job = client.import_embeddings(f"{send(client, {name: make(tmp_path)})}/{shown}", name="x")
    with pytest.raises(ImportInvalid) as caught:
        run(job)
    assert text in caught.value.detail
    assert shown in caught.value.detail
    assert f"/{shown}" not in caught.value.detail
    assert str(settings.store) not in str(caught.value.problem())
    assert Store(settings.store).embeddings_ids() == []


def test_the_command_sends_to_a_service_of_another_machine(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from shoal.cli import maintenance

    np.save(tmp_path / "features.npy", ROWS)
    sent: list[tuple[Any, ...]] = []

    def pretend(*arguments: Any) -> dict[str, str]:
        sent.append(arguments)
        return {"": "mine-1"}

    monkeypatch.setattr(maintenance, "import_elsewhere", pretend)
    monkeypatch.setenv("SHOAL_EXTRACTOR_URL", "http://far.example:8001")
    words = ["import", str(tmp_path / "features.npy"), "--name", "mine"]
    for more, times in (([], 1), (["--no-upload", "--store", str(tmp_path / "s")], 1), (["--upload"], 2)):
        monkeypatch.delenv("SHOAL_STORE", raising=False)
        ran = CliRunner().invoke(cli, [*words, *more])
        assert ran.exit_code == 0, ran.output
        assert len(sent) == times
    monkeypatch.setenv("SHOAL_STORE", str(tmp_path / "t"))
    assert CliRunner().invoke(cli, words).exit_code == 0
    assert len(sent) == 2


def test_embeddings_that_a_queued_import_may_be_filling_are_not_deleted(
    client: Client, run: Run, settings: Settings, tmp_path: Path
) -> None:
    np.save(tmp_path / "features.npy", ROWS)
    job = client.import_embeddings(tmp_path / "features.npy", name="mine")
    made = run(job)["embeddings"]
    url = f"{client._calls._services.urls['extractor']}/embeddings/{made}"
    manifest = Store(settings.store).embeddings(made).layout.folder / "manifest.json"
    kept = manifest.read_bytes()
    manifest.unlink()
    refused = httpx.delete(url)
    assert (refused.status_code, refused.json()["code"]) == (409, "embeddings_in_use")
    manifest.write_bytes(kept)
    assert httpx.delete(url).status_code == 204
