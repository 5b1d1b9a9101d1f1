"""The Python client of both services.

>>> from shoal import Client
>>> client = Client()                                                    # doctest: +SKIP
>>> job = client.wait(client.extract("photos", model="tf_efficientnet_lite0"))  # doctest: +SKIP
>>> client.cluster(job.result["embeddings"], clusters=50)                # doctest: +SKIP
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx

from shoal.errors import ShoalError, TooManyRequests, Unavailable, by_code
from shoal.figures import Metrics
from shoal.schemas import Job, JobPage
from shoal.settings import Settings

Json = dict[str, Any]
RETRY_STATUSES = frozenset({429, 502, 503, 504})
"""Statuses of a service that is overloaded or starting, or of a proxy in front of it."""
RETRY_CAP_S = 5.0
PATIENCE_S = 600.0
"""How long `follow` waits for a service that does not answer: longer than an upgrade takes."""


class Client:
    """Talks to the extractor and the clusterer.

    Parameters
    ----------
    extractor_url, clusterer_url, api_key
        From the environment (``SHOAL_EXTRACTOR_URL``, ``SHOAL_CLUSTERER_URL``, ``SHOAL_API_KEY``) when left out.
    timeout_s
        Of one request; jobs are not requests, they may take days.
    retries
        How often a request is repeated when the service is unreachable or overloaded. Repeating a POST is safe, since
        each has an ``Idempotency-Key``.

    Raises
    ------
    ShoalError
        Every method: the service's problem as the exception of that code, or `Unavailable` when nothing answers.
    """

    def __init__(
        self,
        extractor_url: str | None = None,
        clusterer_url: str | None = None,
        api_key: str | None = None,
        *,
        timeout_s: float = 60.0,
        retries: int = 4,
    ) -> None:
        settings = Settings()
        key = api_key or (settings.api_key.get_secret_value() if settings.api_key else None)
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._extractor = _http(extractor_url or settings.extractor_url, headers, timeout_s)
        self._clusterer = _http(clusterer_url or settings.clusterer_url, headers, timeout_s)
        self._retries = retries

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._extractor.close()
        self._clusterer.close()

    def extract(self, path: str, *, model: str | Json, idempotency_key: str | None = None, **options: Any) -> Job:
        """Submit an extraction of the images below ``path`` (relative to the data root).

        ``labels`` and ``split`` go to ``images``; every other option is a field of `POST /extract`.
        """
        images: Json = {"path": path}
        images.update({key: options.pop(key) for key in ("labels", "split") if key in options})
        body = {"images": images, "model": model, **options}
        return Job.model_validate(self._post(self._extractor, "/extract", body, idempotency_key))

    def cluster(self, embeddings: str | Json, *, idempotency_key: str | None = None, **options: Any) -> Job:
        """Submit a clustering of an embeddings id; every option is a field of `POST /cluster`."""
        body = {"embeddings": embeddings, **options}
        return Job.model_validate(self._post(self._clusterer, "/cluster", body, idempotency_key))

    def sweep(
        self, embeddings: str | Json | list[str | Json], *, idempotency_key: str | None = None, **options: Any
    ) -> Job:
        """Submit a sweep over lists of options, and of embeddings where several are given."""
        sets = embeddings[0] if isinstance(embeddings, list) and len(embeddings) == 1 else embeddings
        return Job.model_validate(
            self._post(self._clusterer, "/sweep", {"embeddings": sets, **options}, idempotency_key)
        )

    def sweeps(self) -> list[Json]:
        """All sweeps, newest first."""
        return list(self._get(self._clusterer, "/sweeps")["sweeps"])

    def sweep_facts(self, sweep_id: str) -> Json:
        """One sweep: how far it is, and the ``table`` of its points."""
        return self._get(self._clusterer, f"/sweeps/{sweep_id}")

    def download_sweep(self, sweep_id: str, what: str, target: Path) -> Path:
        """Save ``table.csv``, ``table.parquet``, or a plot such as ``pca.svg`` as the file ``target``."""
        stem, _, extension = what.rpartition(".")
        path = f"/sweeps/{sweep_id}" if stem == "table" else f"/sweeps/{sweep_id}/plots/{what}"
        params = {"format": extension} if stem == "table" else {}
        target.write_bytes(self._send(self._clusterer, "GET", path, params=params).content)
        return target

    def job(self, job_id: str) -> Job:
        """One job; either service knows them all."""
        return Job.model_validate(self._get(self._any(), f"/jobs/{job_id}"))

    def jobs(self, **filters: Any) -> JobPage:
        """A page of jobs, newest first: ``state``, ``kind``, ``limit``, ``cursor``."""
        return JobPage.model_validate(self._get(self._any(), "/jobs", **filters))

    def cancel(self, job_id: str) -> Job:
        """Cancel a job."""
        return Job.model_validate(self._send(self._any(), "DELETE", f"/jobs/{job_id}").json())

    def follow(
        self,
        job: Job | str,
        *,
        poll_s: float = 0.3,
        patience_s: float = PATIENCE_S,
        on_outage: Callable[[ShoalError], None] | None = None,
    ) -> Iterator[Job]:
        """The job at every poll until it has ended; the last one is terminal.

        Parameters
        ----------
        poll_s
            Seconds between two polls.
        patience_s
            How long the service may be unreachable, as during a restart; jobs continue meanwhile.
        on_outage
            Called with the reason at every poll that fails.

        Raises
        ------
        Unavailable
            The service was unreachable for longer than ``patience_s``.
        """
        job_id = job if isinstance(job, str) else job.id
        answered_at = time.monotonic()
        while True:
            try:
                current = self.job(job_id)
            except (Unavailable, TooManyRequests) as error:
                if time.monotonic() - answered_at > patience_s:
                    raise
                if on_outage is not None:
                    on_outage(error)
                time.sleep(poll_s)
                continue
            answered_at = time.monotonic()
            yield current
            if current.state.terminal:
                return
            time.sleep(poll_s)

    def wait(
        self,
        job: Job | str,
        on_progress: Callable[[Job], None] | None = None,
        *,
        patience_s: float = PATIENCE_S,
        on_outage: Callable[[ShoalError], None] | None = None,
    ) -> Job:
        """Wait until the job has ended; `follow` explains ``patience_s`` and ``on_outage``.

        Raises
        ------
        ShoalError
            The job failed: its own problem as the exception of that code. Cancelled: code ``job_cancelled``.
        """
        current: Job | None = None
        for current in self.follow(job, patience_s=patience_s, on_outage=on_outage):
            if on_progress is not None:
                on_progress(current)
        if current is None or current.state != "succeeded":
            raise by_code((current.error if current else None) or {"code": "job_cancelled", "detail": "Cancelled."})
        return current

    def models(self) -> list[Json]:
        """The catalogue."""
        return list(self._get(self._extractor, "/models")["models"])

    def embeddings(self, embeddings_id: str | None = None) -> Any:
        """One embeddings id's facts, or the list of all."""
        if embeddings_id is None:
            return self._get(self._extractor, "/embeddings")["embeddings"]
        return self._get(self._extractor, f"/embeddings/{embeddings_id}")

    def rows(self, embeddings_id: str, *, page_rows: int = 1000) -> Iterator[Json]:
        """The rows of an embeddings set: ``row``, ``image_id``, ``image_path``, ``label``, ``split``, sizes, sha256."""
        cursor: str | None = None
        while True:
            path = f"/embeddings/{embeddings_id}/rows"
            page = self._get(self._extractor, path, limit=page_rows, cursor=cursor)
            yield from page["rows"]
            cursor = page["next_cursor"]
            if cursor is None:
                return

    def assignments(self, clustering_id: str) -> Iterator[Json]:
        """Every row that was clustered: ``row``, ``cluster``, ``distance``, ``margin``, ``image_path``, ``label``, …

        Path and label are None for embeddings that were deleted.
        """
        path = f"/clusterings/{clustering_id}/assignments"
        try:
            with self._clusterer.stream("GET", path, params={"format": "jsonl"}) as response:
                if response.is_error:
                    response.read()
                    raise _problem(response)
                for line in response.iter_lines():
                    yield json.loads(line)
        except httpx.TransportError as error:
            raise Unavailable(f"{self._clusterer.base_url} does not answer, or broke off ({error}).") from error

    def clusterings(self) -> list[Json]:
        """All clusterings, newest first."""
        return list(self._get(self._clusterer, "/clusterings")["clusterings"])

    def clustering(self, clustering_id: str) -> Json:
        """One clustering's facts."""
        return self._get(self._clusterer, f"/clusterings/{clustering_id}")

    def metrics(self, clustering_id: str) -> Metrics:
        """Its metrics.json: a dict that prints as a table."""
        return Metrics(self._get(self._clusterer, f"/clusterings/{clustering_id}/metrics"))

    def clusters(self, clustering_id: str, **options: Any) -> list[Json]:
        """Its clusters: ``sort`` is size, purity or tightness."""
        return list(self._get(self._clusterer, f"/clusterings/{clustering_id}/clusters", **options)["clusters"])

    def download(self, clustering_id: str, what: str, target: Path, **options: Any) -> Path:
        """Save ``assignments``, ``report`` or ``contact-sheet`` of a clustering as the file ``target``."""
        with self._clusterer.stream("GET", f"/clusterings/{clustering_id}/{what}", params=options) as response:
            if response.is_error:
                response.read()
                raise _problem(response)
            with target.open("wb") as file:
                for chunk in response.iter_bytes():
                    file.write(chunk)
        return target

    def ready(self) -> dict[str, Json]:
        """Both services' readiness, by name; a service that does not answer has ``ready: false``."""
        answers: dict[str, Json] = {}
        for name, http in (("extractor", self._extractor), ("clusterer", self._clusterer)):
            try:
                answers[name] = http.get("/readyz").json()
            except (httpx.HTTPError, ValueError) as error:
                answers[name] = {"ready": False, "checks": {"service": f"{http.base_url}: {error}"}}
        return answers

    def _any(self) -> httpx.Client:
        return self._extractor

    def _get(self, http: httpx.Client, path: str, **params: Any) -> Json:
        params = {key: value for key, value in params.items() if value is not None}
        answer: Json = self._send(http, "GET", path, params=params).json()
        return answer

    def _post(self, http: httpx.Client, path: str, body: Json, key: str | None) -> Json:
        headers = {"Idempotency-Key": key or uuid.uuid4().hex}
        body = {name: value for name, value in body.items() if value is not None}
        answer: Json = self._send(http, "POST", path, json=body, headers=headers).json()
        return answer

    def _send(self, http: httpx.Client, method: str, path: str, **options: Any) -> httpx.Response:
        for attempt in range(self._retries + 1):
            last = attempt == self._retries
            try:
                response = http.request(method, path, **options)
            except httpx.TransportError as error:
                if last:
                    raise Unavailable(f"{http.base_url} does not answer ({error}). Is `shoal up` running?") from error
                time.sleep(0.2 * 2**attempt)
                continue
            if response.status_code in RETRY_STATUSES and not last:
                time.sleep(retry_after_s(response.headers.get("Retry-After")))
                continue
            if response.is_error:
                raise _problem(response)
            return response
        raise AssertionError("unreachable")


def retry_after_s(value: str | None) -> float:
    """Seconds to wait before the next try, from a ``Retry-After`` header in seconds or with a date.

    A missing or malformed header counts as one second; the wait is at most 5 seconds.
    """
    text = (value or "").strip()
    if text.isdecimal() and len(text) < 10:
        return min(float(text), RETRY_CAP_S)
    try:
        at = parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError, OverflowError):
        return 1.0
    at = at if at.tzinfo is not None else at.replace(tzinfo=UTC)
    return min(max((at - datetime.now(UTC)).total_seconds(), 0.0), RETRY_CAP_S)


def _http(url: str, headers: dict[str, str], timeout_s: float) -> httpx.Client:
    # Not through a proxy: for this machine, localhost would be the proxy itself.
    host = httpx.URL(url).host
    local = host == "localhost" or host.startswith("127.") or host == "::1"
    return httpx.Client(base_url=url, headers=headers, timeout=timeout_s, trust_env=not local)


def _problem(response: httpx.Response) -> ShoalError:
    try:
        body = response.json()
    except ValueError:
        body = {}
    if not isinstance(body, dict) or "code" not in body:
        # A proxy's answer while the service behind it starts.
        code = "unavailable" if response.status_code in {502, 503, 504} else ShoalError.code
        body = {"code": code, **(body if isinstance(body, dict) else {})}
    return by_code({"detail": f"{response.url} answered {response.status_code}.", **body})
