"""The clients send folders to a real server, through a line that breaks, and go on where they were."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from urllib.parse import urlsplit

import anyio
import httpx
import pytest
from extractor import pipeline
from extractor.api import routes
from shoal import AsyncClient, Client
from shoal.cli import app as cli
from shoal.client import calls, uploads
from shoal.client.uploads import Outgoing
from shoal.errors import NoImages, PathNotFound, QuotaExceeded
from shoal.jobs.child import JobContext
from shoal.jobs.queue import JobQueue
from shoal.settings import Settings
from shoal.store import Store
from typer.testing import CliRunner

from tests.extractor.api.conftest import ServeApp
from tests.extractor.conftest import photo

Serve = Callable[..., str]


@pytest.fixture
def address(settings: Settings, queue: JobQueue, serve_app: ServeApp) -> Serve:
    """``address(**settings)``: of a server with these settings."""
    return lambda **changes: serve_app(routes.build(settings.model_copy(update=changes), queue, Store(settings.store)))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder that no data root holds: two classes of three images, and what is not sent."""
    folder = tmp_path / "mine" / "photos"
    for label in ("cat", "dog"):
        (folder / label).mkdir(parents=True)
        for number in range(3):
            photo(number).save(folder / label / f"{number}.png")
    (folder / ".hidden").write_bytes(b"1")
    return folder


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "PART_FILES", 1)
    monkeypatch.setattr(uploads, "WORKERS", 1)
    monkeypatch.setattr(uploads, "PAUSE_S", 0.01)


class Line:
    """A connection to a server that breaks after so many bytes, once."""

    def __init__(self, url: str, breaks_after: int) -> None:
        where = urlsplit(url)
        self._to = (where.hostname, where.port)
        self._left = breaks_after
        self.sent = 0
        self.broken = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near = self._listener.accept()[0]
                far = socket.create_connection(self._to)
                for one, other, counted in ((near, far, True), (far, near, False)):
                    threading.Thread(target=self._copy, args=(one, other, counted), daemon=True).start()

    def _copy(self, one: socket.socket, other: socket.socket, counted: bool) -> None:
        with suppress(OSError):
            while data := one.recv(1000):
                if counted:
                    self.sent += len(data)
                    if not self.broken and self.sent > self._left:
                        self.broken += 1
                        break
                other.sendall(data)
        for each in (one, other):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()


@pytest.fixture
def line() -> Iterator[Callable[[str, int], Line]]:
    made: list[Line] = []

    def connect(url: str, breaks_after: int) -> Line:
        made.append(Line(url, breaks_after))
        return made[-1]

    yield connect
    for each in made:
        each.close()


def names(settings: Settings, upload: str) -> list[str]:
    folder = settings.store / "uploads" / upload / "images"
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


ALL = [f"{label}/{number}.png" for label in ("cat", "dog") for number in range(3)]


@pytest.mark.usefixtures("small_parts")
def test_a_line_that_breaks_costs_one_part(
    address: Serve, photos: Path, settings: Settings, line: Callable[[str, int], Line]
) -> None:
    through = line(address(), 40_000)
    seen: list[tuple[int, int]] = []
    with Client(through.url, through.url) as client:
        found = client.upload(photos, on_progress=lambda done, total: seen.append((done, total)))
    assert through.broken == 1
    assert (found["images"], found["complete"], names(settings, found["upload"])) == (6, True, ALL)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1][0] == seen[-1][1] == found["bytes"]


@pytest.mark.usefixtures("small_parts")
def test_a_client_that_was_killed_sends_only_what_is_missing(
    address: Serve, photos: Path, settings: Settings, line: Callable[[str, int], Line]
) -> None:
    class Killed(BaseException):
        pass

    def kill(done: int, total: int) -> None:
        if done > total / 2:
            raise Killed

    url = address()
    with Client(url, url) as client:
        with pytest.raises(Killed):
            client.upload(photos, on_progress=kill)
        [begun] = httpx.get(f"{url}/uploads").json()["uploads"]
        assert 0 < begun["images"] < 6
    through = line(url, 10**9)
    with Client(through.url, through.url) as client:
        found = client.upload(photos)
        again = through.sent
        assert client.upload(photos) == {**found, "expires_at": client.upload(photos)["expires_at"]}
    assert (found["upload"], names(settings, found["upload"])) == (begun["upload"], ALL)
    assert again < sum(len(part.body()) for part in Outgoing.of(photos, {}).parts) / 2


def test_the_asynchronous_client_uploads_files(address: Serve, photos: Path, settings: Settings) -> None:
    url = address()

    async def send() -> str:
        async with AsyncClient(url, url) as client:
            return str((await client.upload(sorted(photos.glob("cat/*.png"))))["upload"])

    assert names(settings, anyio.run(send)) == ["0.png", "1.png", "2.png"]


def test_extract_on_another_machine_uploads_what_the_service_does_not_see(
    address: Serve, photos: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = address()
    (photos.parent / "labels.csv").write_text("path,label\n" + "".join(f"{name},{name[:3]}s\n" for name in ALL))
    with Client(url, url) as client:
        with pytest.raises(PathNotFound):
            client.extract("photos", model="raw_pixels")
        monkeypatch.setattr(calls, "is_local", lambda url: False)
        monkeypatch.chdir(photos.parent)
        job = client.extract("photos", model="raw_pixels", labels={"file": "labels.csv"}, split="val")
        assert set(job.request["images"]) == {"upload", "labels", "split"}
        assert client.extract(photos, model="raw_pixels").request["images"].keys() == {"upload"}
        named = client.extract(f"upload:{job.request['images']['upload']}/cat", model="raw_pixels")
        assert named.request["images"]["path"] == "cat"
        (settings.data / "photos").mkdir()
        photo(1).save(settings.data / "photos" / "1.png")
        assert client.extract("photos", model="raw_pixels").request["images"] == {"path": "photos"}
    result = pipeline.run(JobContext.local(job.request, kind="extract:torch"), settings)
    rows = Store(settings.store).embeddings(str(result["embeddings"])).metadata()
    assert sorted(set(rows.column("label").to_pylist())) == ["cats", "dogs"]


def test_the_command_prints_what_extract_takes(
    address: Serve, photos: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHOAL_EXTRACTOR_URL", address())
    ran = CliRunner().invoke(cli, ["upload", str(photos)])
    assert ran.exit_code == 0, ran.output
    upload = ran.stdout.strip().splitlines()[-1]
    assert names(settings, upload.removeprefix("upload:")) == ALL
    job = CliRunner().invoke(cli, ["extract", upload, "--model", "raw_pixels", "--no-wait"])
    assert job.exit_code == 0, job.output
    sent = CliRunner().invoke(cli, ["extract", str(photos), "--upload", "--model", "raw_pixels", "--no-wait"])
    assert sent.exit_code == 0, sent.output


def test_a_full_quota_is_told_at_once(address: Serve, photos: Path) -> None:
    url = address(upload_quota=100)
    with Client(url, url) as client, pytest.raises(QuotaExceeded):
        client.upload(photos)


def test_a_folder_makes_the_same_parts_at_every_try(photos: Path, tmp_path: Path) -> None:
    one, two = (Outgoing.of(photos, {}) for _ in range(2))
    assert (one.key, [part.body() for part in one.parts]) == (two.key, [part.body() for part in two.parts])
    (photos / "cat" / "0.png").write_bytes(b"changed")
    assert Outgoing.of(photos, {}).key != one.key
    with pytest.raises(NoImages):
        Outgoing.of([], {})
    with pytest.raises(PathNotFound):
        Outgoing.of(tmp_path / "none", {})
    with closing(socket.socket(socket.AF_UNIX)) as pipe:
        pipe.bind(str(photos / "s"))
        assert all(entry.name != "s" for part in Outgoing.of(photos, {}).parts for entry in part.entries)
