"""Uploads over HTTP: parts, quota, keys, hostile bodies, and extraction of what was uploaded; servers are real."""

from __future__ import annotations

import io
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from extractor import pipeline
from extractor.api import routes
from extractor.uploads import files as limits
from extractor.uploads import receive
from extractor.uploads.receive import Receiver
from extractor.uploads.unpack import TAR, unpack
from pydantic import SecretStr
from shoal.deadline import Deadline
from shoal.errors import QuotaExceeded
from shoal.gc import find, remove
from shoal.jobs.child import JobContext
from shoal.jobs.queue import JobQueue
from shoal.keys import KeyStore, Scope
from shoal.settings import Settings
from shoal.store import Store
from shoal.store.uploads import DAY_S
from shoal.web.spool import Spooled
from structlog.testing import capture_logs

from tests.conftest import wait_for
from tests.extractor.api.conftest import ServeApp
from tests.extractor.conftest import photo
from tests.extractor.uploads.test_unpack import FORM_TYPE, KINDS, form, tar, zipped

TAR_HEADERS = {"Content-Type": TAR}
Connect = Callable[..., httpx.Client]


def png(seed: int) -> bytes:
    out = io.BytesIO()
    photo(seed).save(out, "PNG")
    return out.getvalue()


PHOTOS = {f"{label}/{number}.png": png(number) for label in ("cat", "dog") for number in range(3)}


@pytest.fixture
def keys(redis_server: str, queue: JobQueue) -> Iterator[KeyStore]:
    store = KeyStore.from_url(redis_server)
    yield store
    store.close()


@pytest.fixture
def connect(
    settings: Settings, queue: JobQueue, keys: KeyStore, redis_server: str, serve_app: ServeApp
) -> Iterator[Connect]:
    """``connect(**settings)``: a client of a server with these settings, which needs keys, and a key of its own."""
    opened: list[httpx.Client] = []
    addresses: dict[str, str] = {}

    def make(scope: Scope = Scope.SUBMIT, **changes: Any) -> httpx.Client:
        changed = settings.model_copy(update={"auth": "required", "redis_url": SecretStr(redis_server), **changes})
        name = str(changes)
        if name not in addresses:
            addresses[name] = serve_app(routes.build(changed, queue, Store(settings.store)))
        token = keys.create("tester", scope)[1]
        headers = {"Authorization": f"Bearer {token}"}
        opened.append(httpx.Client(base_url=addresses[name], headers=headers, timeout=60))
        return opened[-1]

    yield make
    for client in opened:
        client.close()


def begin(client: httpx.Client, **headers: str) -> str:
    answer = client.post("/uploads", headers=headers)
    assert answer.is_success, answer.text
    return str(answer.json()["upload"])


def put(client: httpx.Client, upload: str, number: int, body: bytes, kind: str = TAR) -> httpx.Response:
    return client.put(f"/uploads/{upload}/parts/{number}", content=body, headers={"Content-Type": kind})


def leftovers(settings: Settings) -> list[str]:
    folder = settings.store / ".tmp"
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


@pytest.mark.parametrize("kind", KINDS)
def test_one_body_is_a_whole_upload_that_is_embedded_like_a_folder(
    connect: Connect, settings: Settings, kind: str
) -> None:
    client = connect()
    answer = client.post("/uploads", content=KINDS[kind](PHOTOS), headers={"Content-Type": kind})
    assert answer.status_code == 201
    made = answer.json()
    assert (made["images"], made["bytes"], made["complete"]) == (6, sum(map(len, PHOTOS.values())), True)
    assert answer.headers["Location"] == f"/uploads/{made['upload']}"
    request = {"images": {"upload": made["upload"]}, "model": "raw_pixels"}
    job = client.post("/extract", json=request)
    assert (job.status_code, job.json()["request"]) == (202, request)
    result = pipeline.run(JobContext.local(request, kind="extract:torch"), settings)
    found = Store(settings.store).embeddings(str(result["embeddings"]))
    assert sorted(found.metadata().column("image_path").to_pylist()) == sorted(PHOTOS)
    assert sorted(found.metadata().column("label").to_pylist()) == ["cat"] * 3 + ["dog"] * 3
    assert found.plan.source.path == f"upload:{made['upload']}"
    assert leftovers(settings) == []


def test_parts_come_in_any_order_and_again_without_a_difference(connect: Connect, settings: Settings) -> None:
    client = connect()
    upload = begin(client)
    parts = [tar({name: content}) for name, content in PHOTOS.items()]
    for number in (3, 0, 1, 0, 2, 3):
        answer = put(client, upload, number, parts[number])
        assert (answer.status_code, answer.json()["part"], answer.json()["images"]) == (200, number, 1)
    state = client.get(f"/uploads/{upload}").json()
    assert [part["part"] for part in state["parts"]] == [0, 1, 2, 3]
    assert (state["images"], state["complete"]) == (4, False)
    incomplete = client.post("/extract", json={"images": {"upload": upload}, "model": "raw_pixels"})
    assert (incomplete.status_code, incomplete.json()["code"]) == (409, "upload_incomplete")
    assert put(client, upload, 1, parts[4]).json()["code"] == "upload_conflict"
    for _ in range(2):
        assert client.post(f"/uploads/{upload}/complete").json()["complete"] is True
    assert put(client, upload, 9, parts[4]).json()["code"] == "upload_complete"
    assert put(client, upload, 1, parts[1]).status_code == 200
    folder = settings.store / "uploads" / upload / "images"
    assert {path.relative_to(folder).as_posix() for path in folder.rglob("*.png")} == set(list(PHOTOS)[:4])


def test_a_key_of_idempotency_finds_its_upload_again(connect: Connect) -> None:
    client, other = connect(), connect()
    first = client.post("/uploads", headers={"Idempotency-Key": "photos"})
    again = client.post("/uploads", headers={"Idempotency-Key": "photos"})
    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json()["upload"] == again.json()["upload"]
    assert begin(other, **{"Idempotency-Key": "photos"}) != first.json()["upload"]
    assert begin(client) != begin(client)


def test_two_keys_do_not_see_each_other_s_uploads(connect: Connect) -> None:
    mine, other = connect(), connect(scope=Scope.ADMIN)
    upload = begin(mine)
    body = tar(PHOTOS)
    assert put(mine, upload, 0, body).status_code == 200
    mine.post(f"/uploads/{upload}/complete")
    refused = [
        other.get(f"/uploads/{upload}"),
        other.delete(f"/uploads/{upload}"),
        other.post(f"/uploads/{upload}/complete"),
        put(other, upload, 1, body),
        other.post("/extract", json={"images": {"upload": upload}, "model": "raw_pixels"}),
    ]
    assert [(answer.status_code, answer.json()["code"]) for answer in refused] == [(404, "upload_not_found")] * 5
    assert other.get("/uploads").json() == {"uploads": []}
    assert [each["upload"] for each in mine.get("/uploads").json()["uploads"]] == [upload]
    assert connect(scope=Scope.READ).post("/uploads").status_code == 403


def test_a_broken_connection_leaves_nothing_and_the_part_is_sent_again(
    connect: Connect, settings: Settings, wait_until: Callable[..., None]
) -> None:
    client = connect()
    upload = begin(client)
    body = tar(PHOTOS)
    where = urlsplit(str(client.base_url))
    with closing(socket.create_connection((where.hostname, where.port or 80))) as broken:
        head = f"PUT /uploads/{upload}/parts/0 HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
        head += f"Content-Type: {TAR}\r\nAuthorization: {client.headers['authorization']}\r\n\r\n"
        broken.sendall(head.encode() + body[: len(body) // 2])
        wait_until(lambda: leftovers(settings))
    wait_until(lambda: not leftovers(settings))
    assert client.get(f"/uploads/{upload}").json()["parts"] == []
    assert put(client, upload, 0, body).json()["images"] == 6


def test_the_quota_of_a_key_bounds_its_uploads_together(connect: Connect, settings: Settings) -> None:
    client, other = (connect(upload_quota=20_000) for _ in range(2))
    first = begin(client)
    assert put(client, first, 0, tar({"a.png": bytes(15_000)})).status_code == 200
    second = begin(client)
    refused = put(client, second, 0, tar({"b.png": bytes(6_000)}))
    assert (refused.status_code, refused.json()["code"]) == (413, "quota_exceeded")
    packed = put(client, second, 0, zipped({"b.png": bytes(6_000)}), "application/zip")
    assert (packed.status_code, packed.json()["code"]) == (413, "quota_exceeded")
    assert put(other, begin(other), 0, tar({"b.png": bytes(6_000)})).status_code == 200
    assert client.delete(f"/uploads/{first}").status_code == 204
    assert put(client, second, 0, tar({"b.png": bytes(6_000)})).status_code == 200
    assert leftovers(settings) == []


def test_parts_that_arrive_at_once_share_the_quota(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limited = settings.model_copy(update={"upload_quota": 20_000})
    receiver = Receiver(limited, Store(settings.store))
    upload, _ = receiver.uploads.create(None, None)

    def send(number: int) -> None:
        body = tmp_path / f"{number}.tar"
        body.write_bytes(tar({f"{number}.png": bytes(15_000)}))
        spooled = Spooled(body, body.stat().st_size, f"{number:064}")
        receiver.add(upload.id, None, number, spooled, TAR, Deadline(60))

    def unpack_late(*given: Any) -> None:
        unpack(*given)
        monkeypatch.setattr(receive, "unpack", unpack)
        send(1)  # It arrives while the first is being unpacked.

    monkeypatch.setattr(receive, "unpack", unpack_late)
    with pytest.raises(QuotaExceeded):
        send(0)
    assert list(receiver.uploads.get(upload.id, None).parts) == [1]
    assert [path.name for path in upload.layout.images.iterdir()] == ["1.png"]


def test_a_body_larger_than_a_part_is_refused_however_it_is_sent(connect: Connect, settings: Settings) -> None:
    client = connect(max_part_bytes=4096)
    upload = begin(client)
    body = tar({"a.png": bytes(20_000)})
    declared = put(client, upload, 0, body)
    pieces = (body[at : at + 1000] for at in range(0, len(body), 1000))
    chunked = client.put(f"/uploads/{upload}/parts/0", content=pieces, headers=TAR_HEADERS)
    assert [(each.status_code, each.json()["code"]) for each in (declared, chunked)] == [(413, "body_too_large")] * 2
    assert leftovers(settings) == []


def test_a_zip_bomb_and_hostile_names_are_refused_and_leave_nothing(
    connect: Connect, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "FREE_BYTES", 1 << 20)
    client = connect()
    upload = begin(client)
    bomb = put(client, upload, 0, zipped({"a.png": bytes(40 << 20)}), "application/zip")
    names = [put(client, upload, 0, tar({name: b"1"})) for name in ("../a.png", "/etc/a.png")]
    assert [(each.status_code, each.json()["code"]) for each in (bomb, *names)] == [(422, "upload_invalid")] * 3
    whole = client.post("/uploads", content=form({"../a.png": b"1"}), headers={"Content-Type": FORM_TYPE})
    assert (whole.status_code, whole.json()["code"]) == (422, "upload_invalid")
    assert client.get(f"/uploads/{upload}").json()["parts"] == []
    assert len(client.get("/uploads").json()["uploads"]) == 1
    assert leftovers(settings) == []
    assert not list(settings.store.parent.rglob("a.png"))


def test_only_so_many_bodies_of_a_key_arrive_at_once(
    connect: Connect, settings: Settings, wait_until: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(receive, "AT_ONCE", 1)
    client = connect()
    upload = begin(client)
    where = urlsplit(str(client.base_url))
    with closing(socket.create_connection((where.hostname, where.port or 80))) as slow:
        head = f"PUT /uploads/{upload}/parts/0 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n"
        head += f"Content-Type: {TAR}\r\nAuthorization: {client.headers['authorization']}\r\n\r\n"
        slow.sendall(head.encode())
        wait_until(lambda: leftovers(settings))
        refused = put(client, upload, 1, tar(PHOTOS))
        assert (refused.status_code, refused.json()["code"]) == (429, "too_many_uploads")


def test_an_upload_in_use_stays_and_one_that_expired_is_collected(
    connect: Connect, settings: Settings, queue: JobQueue
) -> None:
    client = connect()
    made = client.post("/uploads", content=tar(PHOTOS), headers=TAR_HEADERS).json()["upload"]
    job = client.post("/extract", json={"images": {"upload": made}, "model": "raw_pixels"}).json()["id"]
    in_use = client.delete(f"/uploads/{made}")
    assert (in_use.status_code, in_use.json()["code"], in_use.json()["job"]) == (409, "upload_in_use", job)
    store = Store(settings.store)
    age_upload(settings, made, 8 * DAY_S)
    assert list(find(store, queue, upload_days=7)) == []
    client.delete(f"/jobs/{job}")
    assert list(find(store, queue, upload_days=9)) == []
    assert list(find(store, None, upload_days=7)) == []
    [garbage] = find(store, queue, upload_days=7)
    assert (garbage.kind, garbage.path.name) == ("upload", made)
    assert remove(store, garbage) > 0
    assert client.get(f"/uploads/{made}").json()["code"] == "upload_not_found"


def test_using_an_upload_lets_it_expire_later(connect: Connect, settings: Settings, queue: JobQueue) -> None:
    client = connect()
    made = client.post("/uploads", content=tar(PHOTOS), headers=TAR_HEADERS).json()["upload"]
    age_upload(settings, made, 8 * DAY_S)
    pipeline.run(JobContext.local({"images": {"upload": made}, "model": "raw_pixels"}, kind="extract:torch"), settings)
    assert list(find(Store(settings.store), queue, upload_days=7)) == []


def age_upload(settings: Settings, upload: str, seconds: float) -> None:
    at = time.time() - seconds
    os.utime(settings.store / "uploads" / upload / "upload.json", (at, at))


def test_a_folder_within_an_upload_and_a_label_file_of_it(connect: Connect, settings: Settings) -> None:
    client = connect()
    rows = "\n".join(f"{number}.png,{'odd' if number % 2 else 'even'}" for number in range(3))
    sent = {**PHOTOS, "labels.csv": f"path,label\n{rows}\n".encode()}
    made = client.post("/uploads", content=tar(sent), headers=TAR_HEADERS).json()["upload"]
    images = {"upload": made, "path": "cat", "labels": {"file": "labels.csv"}, "split": "val"}
    result = pipeline.run(JobContext.local({"images": images, "model": "raw_pixels"}, kind="extract:torch"), settings)
    found = Store(settings.store).embeddings(str(result["embeddings"]))
    assert found.metadata().column("label").to_pylist() == ["even", "odd", "even"]
    assert (set(found.metadata().column("split").to_pylist()), found.plan.source.path) == (
        {"val"},
        f"upload:{made}/cat",
    )
    for path in ("../..", "/etc", "../../" + made):
        refused = client.post("/extract", json={"images": {"upload": made, "path": path}, "model": "raw_pixels"})
        assert refused.json()["code"] in {"path_outside_root", "path_not_found"}, path


def test_an_upload_without_files_cannot_be_completed(connect: Connect) -> None:
    client = connect()
    upload = begin(client)
    assert client.post(f"/uploads/{upload}/complete").json()["code"] == "no_images"


def test_what_is_no_archive_is_refused_before_it_arrives(connect: Connect) -> None:
    client = connect()
    upload = begin(client)
    for kind in ("application/json", "image/png", "application/gzip"):
        assert put(client, upload, 0, b"{}", kind).json()["code"] == "unsupported_media_type"
    assert client.put(f"/uploads/{upload}/parts/x", content=b"", headers=TAR_HEADERS).status_code == 422
    assert put(client, "u-unknown", 0, b"").json()["code"] == "upload_not_found"


def test_a_page_of_another_site_uploads_nothing(connect: Connect) -> None:
    client = connect()
    for headers in ({}, {"Content-Type": FORM_TYPE}):
        sent = {"Origin": "https://elsewhere.example", **headers}
        content = form({"a.png": b"1"}) if headers else b""
        assert client.post("/uploads", content=content, headers=sent).json()["code"] == "forbidden"


def test_the_audit_log_names_uploads(connect: Connect) -> None:
    with capture_logs() as lines:
        target = f"/uploads/{begin(connect())}"
        # The server writes the line after its answer.
        wait_for(lambda: any(line.get("target") == target for line in lines))
    [line] = [line for line in lines if line.get("target") == target]
    assert (line["event"], line["action"]) == ("audit", "upload")


def test_a_line_that_a_crash_cut_off_does_not_count(connect: Connect, settings: Settings) -> None:
    client = connect()
    upload = begin(client)
    put(client, upload, 0, tar({"a.png": b"1"}))
    with (settings.store / "uploads" / upload / "parts.jsonl").open("ab") as file:
        file.write(b'\n{"part": 7, "ima')
    put(client, upload, 1, tar({"b.png": b"1"}))
    assert [part["part"] for part in client.get(f"/uploads/{upload}").json()["parts"]] == [0, 1]
