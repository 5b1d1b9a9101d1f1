"""The extractor's API at the address of the pages: a real server behind it, which says what it got."""

from __future__ import annotations

from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest
from clusterer.api.clusterings import build
from fastapi.testclient import TestClient
from shoal.jobs.queue import JobQueue
from shoal.settings import Settings
from shoal.store import Store


class Extractor(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/moved":
            self.send_response(302)
            self.send_header("Location", "http://127.0.0.1:1/elsewhere")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        body = f"{self.command} {self.path} {self.headers.get('X-Secret')} {self.headers.get('Authorization')}"
        body += f" {len(self.rfile.read(int(self.headers.get('Content-Length', 0))))}"
        self.send_response(203)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Set-Cookie", "a=b")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    do_POST = do_PUT = do_DELETE = do_GET

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


@pytest.fixture
def pages(settings: Settings, queue: JobQueue, store: Store) -> Iterator[TestClient]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Extractor)
    Thread(target=server.serve_forever, daemon=True).start()
    changed = settings.model_copy(update={"extractor_url": f"http://127.0.0.1:{server.server_port}"})
    with TestClient(build(changed, queue, store), raise_server_exceptions=False, follow_redirects=False) as client:
        yield client
    server.shutdown()
    server.server_close()


def test_path_query_and_body_arrive_as_they_were_sent(pages: TestClient) -> None:
    answer = pages.put(
        "/ui/extractor/uploads/a%2Fb/parts/0?x=1&y=%20", content=b"0" * 100_000, headers={"X-Secret": "no"}
    )
    assert (answer.status_code, answer.text) == (203, "PUT /uploads/a%2Fb/parts/0?x=1&y=%20 None None 100000")
    assert "set-cookie" not in answer.headers
    sent = pages.get("/ui/extractor/models", headers={"Authorization": "Bearer k"})
    assert sent.text == "GET /models None Bearer k 0"


def test_no_other_host_is_asked(pages: TestClient) -> None:
    assert pages.get("/ui/extractor/moved").status_code == 302
    for path in ("//127.0.0.1:1/x", "/@127.0.0.1:1/x", "/../../x", "/%3F/%23"):
        answer = pages.get("/ui/extractor" + path)
        assert answer.status_code in (200, 203, 404), path
        assert "127.0.0.1:1/x" not in answer.headers.get("location", "")


@pytest.mark.parametrize(
    "path",
    [
        "/ui/extractor%2F@127.0.0.1:9/x",
        "/ui%2Fextractor/models",
        "/%75%69/extractor/models",
        "/ui/extractor/%2e%2e/models",
        "/ui/extractor%2f..%2f..//x",
        "/ui/extractor/uploads/..%2f..",
    ],
)
def test_a_path_that_is_written_otherwise_leads_nowhere(pages: TestClient, path: str) -> None:
    request = pages.build_request("GET", "/")
    request.url = request.url.copy_with(raw_path=path.encode())
    answer = pages.send(request)
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


def test_an_extractor_that_is_away_is_named(settings: Settings, queue: JobQueue, store: Store) -> None:
    changed = settings.model_copy(update={"extractor_url": "http://127.0.0.1:9"})
    with TestClient(build(changed, queue, store)) as client:
        answer = client.get("/ui/extractor/models")
    assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
    assert "http://127.0.0.1:9" in answer.json()["detail"]


def test_a_page_of_another_site_changes_nothing(pages: TestClient) -> None:
    foreign = {"Origin": "https://elsewhere.example"}
    answer = pages.post("/ui/extractor/uploads", content=b"", headers=foreign)
    assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")
    assert pages.post("/ui/extractor/uploads", content=b"", headers={"Origin": "http://testserver"}).status_code == 203
