"""`GET /clusterings/{id}/export?format=imagefolder`: a tar archive of the images, a folder a class."""

from __future__ import annotations

import io
import json
import os
import shutil
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from clusterer.api.clusterings import build
from clusterer.results import imagefolder
from clusterer.results.imagefolder import LEFT_OUT, ImageFiles
from clusterer.results.tools import Export
from fastapi.testclient import TestClient
from shoal.cli import app as cli
from shoal.errors import InvalidRequest, PathNotFound, UploadNotFound
from shoal.jobs.queue import JobQueue
from shoal.keys import KeyStore, Scope
from shoal.settings import Settings
from shoal.store import EmbeddingSet, Store
from shoal.store.clustering import Clustering
from shoal.store.uploads import Uploads
from typer.testing import CliRunner

ROWS = 240
HOSTILE = "../..\u202e=cmd|'/c'!A0"
FOLDER = "_.._=cmd_'_c'!A0"


def content(row: int) -> bytes:
    """Files of all lengths around a tar block, and one of several pieces."""
    return bytes([row]) * (700_000 if row == 3 else row * 7)


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data root with the files of the set `train`, whose source is the folder `train`."""
    folder = tmp_path / "data" / "train" / "train"
    folder.mkdir(parents=True)
    for row in range(ROWS):
        (folder / f"{row:05d}.png").write_bytes(content(row))
    monkeypatch.setenv("SHOAL_DATA", str(tmp_path / "data"))
    return folder


@pytest.fixture
def served(data: Path, store: Store, queue: JobQueue) -> Iterator[TestClient]:
    with TestClient(build(Settings(store=store.root), queue, store), raise_server_exceptions=False) as client:
        yield client


@pytest.fixture
def named(store: Store, clustering: Clustering) -> Clustering:
    """Clusters 0 and 1 are one with a hostile name, of 2 and 3 nothing is said; row 5 was moved to 2."""
    journal = store.journal(clustering.id)
    now = journal.append(
        journal.read(), journal.read().setting({0: {"name": HOSTILE}, 1: {"merged_into": 0}}), author=None
    )
    journal.append(now, now.moving(clustering.scored[0], {5: 2}), author=None)
    return clustering


def archive(api: TestClient, clustering: Clustering, **query: str) -> dict[str, bytes]:
    """The members of the archive in their order; every one is a plain file."""
    answer = api.get(f"/clusterings/{clustering.id}/export", params={"format": "imagefolder", **query})
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/x-tar"
    with tarfile.open(fileobj=io.BytesIO(answer.content)) as opened:
        members = opened.getmembers()
        assert all(each.isreg() and each.mode == 0o644 for each in members)
        found = {each.name: (opened.extractfile(each) or io.BytesIO()).read() for each in members}
    assert len(found) == len(members)
    return found


def expected(clustering: Clustering) -> dict[str, bytes]:
    clusters = clustering.assignments(clustering.scored[0]).column("cluster").to_pylist()
    folders = {0: FOLDER, 1: FOLDER, 2: "cluster 2", 3: "cluster 3"}
    of = {row: "cluster 2" if row == 5 else folders[cluster] for row, cluster in enumerate(clusters)}
    return {f"{of[row]}/train/{row:05d}.png": content(row) for row in range(ROWS)}


def test_the_archive_has_every_image_in_the_folder_of_its_class(served: TestClient, named: Clustering) -> None:
    assert archive(served, named) == expected(named)


def test_it_unpacks_where_archives_are_not_trusted(served: TestClient, named: Clustering, tmp_path: Path) -> None:
    content = served.get(f"/clusterings/{named.id}/export?format=imagefolder").content
    with tarfile.open(fileobj=io.BytesIO(content)) as opened:
        opened.extractall(tmp_path / "out", filter="data")
    assert len(list((tmp_path / "out").rglob("*.png"))) == ROWS


def test_what_is_not_there_or_not_as_embedded_is_left_out_and_listed(
    served: TestClient,
    named: Clustering,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (data / "00007.png").unlink()
    (data / "00008.png").unlink()
    (data / "00008.png").mkdir()
    (tmp_path / "secret.png").write_bytes(content(9))
    (data / "00009.png").unlink()
    (data / "00009.png").symlink_to(tmp_path / "secret.png")
    (data / "00010.png").unlink()
    os.mkfifo(data / "00010.png")
    (data / "00011.png").unlink()
    (data / "00011.png").symlink_to(data / "00012.png")
    found = archive(served, named)
    assert list(found)[-1] == LEFT_OUT
    left = [json.loads(line) for line in found.pop(LEFT_OUT).splitlines()]
    why = {7: "missing", 8: "missing", 9: "outside", 10: "missing"}
    assert left == [{"row": row, "image_path": f"train/{row:05d}.png", "why": each} for row, each in why.items()]
    paths = {name.partition("/")[2]: name for name in expected(named)}
    kept = {name: each for name, each in expected(named).items() if int(name[-9:-4]) not in why}
    assert found == {**kept, paths["train/00011.png"]: content(12)}
    monkeypatch.setattr(imagefolder, "LISTED", 3)
    assert archive(served, named)[LEFT_OUT].splitlines()[3:] == [b'{"more":1}']


def test_an_image_of_another_size_is_not_the_one_that_was_embedded(
    served: TestClient, named: Clustering, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = Export.images

    def sized(self: Any) -> Iterator[Any]:
        for image in images(self):
            yield image.__class__(**{**vars(image), "bytes": len(content(image.row))})

    monkeypatch.setattr(Export, "images", sized)
    assert archive(served, named) == expected(named)
    (data / "00020.png").write_bytes(b"another one")
    left = archive(served, named)[LEFT_OUT]
    assert json.loads(left) == {"row": 20, "image_path": "train/00020.png", "why": "changed"}


def test_what_cannot_be_exported_says_why(served: TestClient, named: Clustering, data: Path, store: Store) -> None:
    def refused(**query: str) -> tuple[int, str, str]:
        problem = served.get(f"/clusterings/{named.id}/export", params={"format": "imagefolder", **query}).json()
        return problem["status"], problem["code"], problem["detail"]

    assert refused(root="/photos")[:2] == (422, "invalid_request")
    # The source of the second set is not there.
    status, code, detail = refused(embeddings=named.scored[1])
    assert (status, code) == (422, "path_not_found")
    assert "'val', which is not below the data root any more" in detail
    shutil.rmtree(data)
    assert "None of the images" in refused()[2]
    shutil.rmtree(store.layout.embeddings(named.scored[0]).folder)
    assert refused()[:2] == (404, "embeddings_not_found")


def test_only_the_files_of_the_source_are_read(tmp_path: Path, store: Store) -> None:
    def files(kind: str, path: str, owner: str | None = None) -> ImageFiles:
        found = SimpleNamespace(id="e1", plan=SimpleNamespace(source=SimpleNamespace(kind=kind, path=path)))
        return ImageFiles.of(store, cast(EmbeddingSet, found), tmp_path, owner)

    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "some.csv").touch()
    assert files("images", "lists/some.csv").folders == (tmp_path / "lists", tmp_path)
    assert files("images", ".").folders == (tmp_path,)
    upload, _ = Uploads(store.layout).create("ann", None)
    inside = upload.layout.images / "photos"
    inside.mkdir()
    assert files("images", f"upload:{upload.id}/photos", "ann") == ImageFiles(upload.layout.images, (inside,))
    for path in (f"upload:{upload.id}/../../..", "../secret", "/etc", "gone"):
        with pytest.raises(PathNotFound, match="not below the data root"):
            files("images", path, "ann")
    with pytest.raises(UploadNotFound):
        files("images", f"upload:{upload.id}", "bob")
    with pytest.raises(InvalidRequest, match="were imported"):
        files("import", ".")


def test_images_are_for_those_who_submit(
    data: Path, store: Store, queue: JobQueue, named: Clustering, redis_server: str
) -> None:
    keys = KeyStore.from_url(redis_server)
    tokens = {scope: keys.create(f"key of {scope}", scope)[1] for scope in (Scope.READ, Scope.SUBMIT)}
    keys.close()
    locked = Settings(store=store.root, auth="required", redis_url=redis_server)
    with TestClient(build(locked, queue, store), raise_server_exceptions=False) as api:
        for scope, status in ((Scope.READ, 403), (Scope.SUBMIT, 200)):
            headers = {"Authorization": f"Bearer {tokens[scope]}"}
            answer = api.get(f"/clusterings/{named.id}/export?format=imagefolder", headers=headers)
            assert answer.status_code == status
            assert api.get(f"/clusterings/{named.id}/export?format=csv", headers=headers).status_code == 200


def test_the_command_saves_the_archive(
    serve: Callable[..., int],
    data: Path,
    queue: JobQueue,
    store: Store,
    named: Clustering,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    port = serve(build(Settings(store=store.root), queue, store))
    monkeypatch.setenv("SHOAL_CLUSTERER_URL", f"http://127.0.0.1:{port}")
    file = tmp_path / "groups.tar"
    done = CliRunner().invoke(cli, ["export", named.id, "--format", "imagefolder", "--to", str(file)])
    assert done.exit_code == 0, done.output
    with tarfile.open(file) as opened:
        assert set(opened.getnames()) == set(expected(named))
