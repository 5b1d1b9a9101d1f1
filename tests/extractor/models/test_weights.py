"""Downloads from a server that misbehaves in every way we could think of: the file is whole and right, or not there."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from extractor.backends.loading import record_of
from extractor.images.transform import Transform
from extractor.models import obtaining, weights
from extractor.models.download import Checksums, DownloadFailed, download
from extractor.models.fetch import Route
from extractor.models.pull import pull
from extractor.models.spec import ModelSpec, WeightsSource
from extractor.models.weights import note_of
from shoal.errors import WeightsInvalid, WeightsMissing
from shoal.settings import Settings

BODY = bytes(range(256)) * 8192
SHA256 = hashlib.sha256(BODY).hexdigest()
MD5 = hashlib.md5(BODY, usedforsecurity=False).hexdigest()


@dataclass
class Site:
    """What the server has and how it behaves."""

    body: bytes = BODY
    etag: str | None = '"v1"'
    ranges: bool = True
    stop_after: list[int | None] = field(default_factory=list)
    """Bytes after which each answer breaks off, in order; the server is well when the list is used up."""
    stall: bool = False
    """Go silent instead of breaking off."""
    statuses: list[int] = field(default_factory=list)
    """Answers to give before any content."""
    asked: list[str | None] = field(default_factory=list)
    """The Range header of each request."""
    woken: threading.Event = field(default_factory=threading.Event)
    url: str = ""


def _handler(site: Site) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            site.asked.append(self.headers.get("Range"))
            if site.statuses:
                self.send_error(site.statuses.pop(0))
                return
            start = self._start()
            part = site.body[start:]
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(part)))
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(site.body) - 1}/{len(site.body)}")
            if site.etag:
                self.send_header("ETag", site.etag)
            self.end_headers()
            stop = site.stop_after.pop(0) if site.stop_after else None
            with suppress(OSError):
                self.wfile.write(part if stop is None else part[:stop])
                self.wfile.flush()
            if stop is not None and site.stall:
                site.woken.wait(60)

        def _start(self) -> int:
            asked = self.headers.get("Range")
            if not asked or not site.ranges or self.headers.get("If-Range") != site.etag:
                return 0
            return int(asked.removeprefix("bytes=").rstrip("-"))

        def log_message(self, *_args: object) -> None:
            pass

    return Handler


@pytest.fixture
def site() -> Iterator[Site]:
    site = Site()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(site))
    site.url = f"http://127.0.0.1:{server.server_port}/model.pth"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield site
    site.woken.set()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "models" / "model.pth"


def spec_of(url: str | None, *, page: str | None = None) -> ModelSpec:
    source = WeightsSource("file", files=("model.pth",), url=url, page=page)
    return ModelSpec("mine", "torch", "resnet18", source, Transform())


@pytest.fixture
def pauses() -> list[float]:
    return []


def test_a_file_comes_whole_and_with_its_checksum(site: Site, target: Path) -> None:
    heard: list[tuple[int, int | None]] = []
    digest = download(site.url, target, on_progress=lambda *now: heard.append(now))
    assert target.read_bytes() == BODY
    assert digest == SHA256
    assert note_of(target).read_text() == f"{SHA256}  model.pth\n"
    assert (heard[0], heard[-1]) == ((0, len(BODY)), (len(BODY), len(BODY)))
    assert {p.name for p in target.parent.iterdir()} == {"model.pth", "model.pth.sha256", ".model.pth.lock"}


def test_a_broken_connection_is_taken_up_where_it_broke(site: Site, target: Path, pauses: list[float]) -> None:
    site.stop_after = [500_000, 300_000]
    download(site.url, target, checksums=Checksums(sha256=SHA256), pause=pauses.append)
    assert target.read_bytes() == BODY
    assert site.asked == [None, "bytes=500000-", "bytes=800000-"]


def test_a_stopped_process_is_gone_on_with(site: Site, target: Path) -> None:
    class Stopped(BaseException):
        pass

    def stop(done: int, _total: int | None) -> None:
        if done:
            raise Stopped

    with pytest.raises(Stopped):
        download(site.url, target, on_progress=stop)
    assert not target.exists()
    download(site.url, target)
    assert target.read_bytes() == BODY
    assert site.asked[1] is not None


def test_a_server_without_ranges_sends_all_again(site: Site, target: Path, pauses: list[float]) -> None:
    site.ranges, site.stop_after = False, [500_000]
    download(site.url, target, pause=pauses.append)
    assert target.read_bytes() == BODY


def test_a_server_without_versions_is_not_resumed(site: Site, target: Path, pauses: list[float]) -> None:
    site.etag, site.stop_after = None, [500_000]
    download(site.url, target, pause=pauses.append)
    assert target.read_bytes() == BODY
    assert site.asked == [None, None]


def test_two_versions_are_never_mixed(site: Site, target: Path) -> None:
    site.stop_after = [500_000]

    def replaced(_seconds: float) -> None:
        site.body, site.etag = BODY[::-1], '"v2"'

    download(site.url, target, pause=replaced)
    assert target.read_bytes() == BODY[::-1]


def test_a_silent_server_is_given_up_and_asked_again(site: Site, target: Path, pauses: list[float]) -> None:
    site.stall, site.stop_after = True, [500_000]
    download(site.url, target, timeout_s=1.0, pause=pauses.append)
    assert target.read_bytes() == BODY
    assert pauses


def test_a_server_that_stays_silent_ends_in_an_error(site: Site, target: Path, pauses: list[float]) -> None:
    site.stall, site.stop_after = True, [0] * 20
    with pytest.raises(DownloadFailed, match="cannot be read"):
        download(site.url, target, timeout_s=0.1, pause=pauses.append)
    assert not target.exists()
    assert pauses == sorted(pauses)


def test_a_busy_server_is_asked_again(site: Site, target: Path, pauses: list[float]) -> None:
    site.statuses = [503, 429, 500]
    download(site.url, target, pause=pauses.append)
    assert target.read_bytes() == BODY


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_a_refusal_is_final(status: int, site: Site, target: Path, pauses: list[float]) -> None:
    site.statuses = [status]
    with pytest.raises(DownloadFailed, match="was refused"):
        download(site.url, target, pause=pauses.append)
    assert pauses == []
    assert not target.exists()


def test_a_wrong_checksum_leaves_nothing_behind(site: Site, target: Path) -> None:
    for wrong in (Checksums(sha256="0" * 64), Checksums(sha256="3e41cc8a"), Checksums(md5="b251726a")):
        with pytest.raises(WeightsInvalid, match="expected"):
            download(site.url, target, checksums=wrong)
        assert [p.name for p in target.parent.iterdir()] == [".model.pth.lock"]


def test_first_digits_are_enough(site: Site, target: Path) -> None:
    assert download(site.url, target, checksums=Checksums(sha256=SHA256[:8], md5=MD5[:6])) == SHA256


def test_a_corrupted_part_is_thrown_away_and_all_is_fetched_again(site: Site, target: Path) -> None:
    site.stop_after = [500_000]

    def corrupt(_seconds: float) -> None:
        part = target.with_name("model.pth.part")
        part.write_bytes(b"x" * part.stat().st_size)

    download(site.url, target, checksums=Checksums(sha256=SHA256), pause=corrupt)
    assert target.read_bytes() == BODY


def test_a_later_download_must_agree_with_the_first(site: Site, target: Path) -> None:
    download(site.url, target)
    target.unlink()
    site.body = BODY[::-1]
    with pytest.raises(WeightsInvalid, match="first download"):
        download(site.url, target)


def test_one_process_fetches_and_the_others_find(site: Site, target: Path) -> None:
    digests: list[str] = []
    threads = [threading.Thread(target=lambda: digests.append(download(site.url, target))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert digests == [SHA256] * 4
    assert len(site.asked) == 1


def test_a_disk_without_room_is_seen_before_the_first_byte(
    site: Site, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Usage:
        free = 1000

    monkeypatch.setattr("extractor.models.download.shutil.disk_usage", lambda _path: Usage)
    with pytest.raises(DownloadFailed, match="left"):
        download(site.url, target)


def test_obtain_downloads_once(site: Site, target: Path) -> None:
    for _ in range(2):
        assert obtaining.obtain(spec_of(site.url), target.parent) == target
    assert len(site.asked) == 1


def problems(call: Callable[[], object]) -> WeightsMissing:
    with pytest.raises(WeightsMissing) as caught:
        call()
    return caught.value


def test_every_way_to_miss_a_file_names_url_file_and_folder(site: Site, tmp_path: Path) -> None:
    site.statuses = [404]
    spec = spec_of(site.url)
    for error in (
        problems(lambda: obtaining.obtain(spec, tmp_path, offline=True)),
        problems(lambda: obtaining.obtain(spec, tmp_path)),
        problems(lambda: weights.locate(spec, tmp_path)),
    ):
        for part in (site.url, "model.pth", str(tmp_path)):
            assert part in error.detail
        assert error.members["files"] == ["model.pth"]


def test_offline_never_asks(site: Site, tmp_path: Path) -> None:
    error = problems(lambda: obtaining.obtain(spec_of(site.url), tmp_path, offline=True))
    assert "SHOAL_OFFLINE" in error.detail
    assert site.asked == []


def test_a_file_for_people_names_the_page(tmp_path: Path) -> None:
    error = problems(lambda: obtaining.obtain(spec_of(None, page="https://example.org/zoo"), tmp_path))
    assert "https://example.org/zoo" in error.detail


def test_a_mirror_is_asked_in_place_of_the_publisher(site: Site, tmp_path: Path) -> None:
    spec = spec_of("https://example.org/model.pth")
    assert obtaining.obtain(spec, tmp_path, mirror=site.url.removesuffix("/model.pth")) == tmp_path / "model.pth"
    assert (tmp_path / "model.pth").read_bytes() == BODY


def test_a_route_goes_through_the_mirror_and_keeps_to_its_hosts() -> None:
    route = Route.to("https://a.org/x?y=1", mirror="http://mirror.house/m/", hosts=["b.org", ".c.org"])
    assert route.url == "http://mirror.house/m/a.org/x?y=1"
    assert route.trusted == {"mirror.house"}
    allowed = {host: route.allows(host) for host in ("mirror.house", "b.org", "d.c.org", "c.org", "xb.org", "evil.org")}
    assert allowed == {
        **dict.fromkeys(("mirror.house", "b.org", "d.c.org"), True),
        "c.org": False,
        "xb.org": False,
        "evil.org": False,
    }
    assert Route("https://a.org").allows("anywhere.org")


def test_a_downloaded_file_that_changed_is_refused_when_it_is_used(site: Site, tmp_path: Path) -> None:
    spec, settings = spec_of(site.url), Settings(models=tmp_path)
    path = obtaining.obtain(spec, tmp_path)
    assert path is not None
    assert record_of(spec, settings).weights_sha256 == SHA256
    path.write_bytes(BODY[:-1] + b"x")
    with pytest.raises(WeightsInvalid, match="changed since it was downloaded"):
        record_of(spec, settings)
    note_of(path).unlink()
    assert record_of(spec, settings).weights_sha256 != SHA256


def test_a_random_baseline_is_offered_only_where_one_can_run(tmp_path: Path) -> None:
    network = ModelSpec("a", "torch", "resnet18", WeightsSource("file", files=("a.pth",)), Transform())
    served = ModelSpec("a", "tfserving", "simclr_x", WeightsSource("served", files=("a",)), Transform())
    assert '"weights": "random"' in weights.missing(network, tmp_path).detail
    assert "random" not in weights.missing(served, tmp_path).detail
    assert "shoal models import-tf a FOLDER" in weights.missing(served, tmp_path).detail


def test_models_without_weights_need_no_file(tmp_path: Path) -> None:
    spec = ModelSpec("r", "torch", "resnet18", WeightsSource("random"), Transform(), seed=0)
    assert obtaining.obtain(spec, tmp_path) is None


def test_pull_fetches_a_model_of_the_users_catalogue(
    site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "catalogue.toml").write_text(
        f'[models.mine]\narchitecture = "resnet18"\nfile = "m.pth"\nurl = "{site.url}"\nsha256 = "{SHA256[:8]}"\n'
    )
    settings = Settings(models=tmp_path)
    assert pull("mine", settings) == 0
    assert (tmp_path / "m.pth").read_bytes() == BODY
    assert capsys.readouterr().out == f"{tmp_path / 'm.pth'}\nsha256 {SHA256}\n"
    assert pull("resnet50_infomin", settings) == 1
    assert "InfoMin_800.pth" in capsys.readouterr().err
    assert pull("raw_pixels", settings) == 0
