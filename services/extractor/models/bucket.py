"""What lies below a prefix of a bucket of Google Cloud Storage, by its public JSON API."""

from __future__ import annotations

import base64
import binascii
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Annotated
from urllib.parse import quote, urlencode, urlsplit

import httpx
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from shoal.errors import WeightsInvalid

from extractor.models.download import ATTEMPTS, REFUSED, DownloadFailed
from extractor.models.fetch import Route, public_client

MAX_FILES = 1000
MAX_BYTES = 32 * 2**30
"""The largest published model has 3.2 GB."""
MAX_PAGES = 50
MAX_PAGE_BYTES = 8 * 2**20


@dataclass(frozen=True)
class RemoteFile:
    """One file of a published model.

    Attributes
    ----------
    path
        Relative to the model's folder, with forward slashes.
    md5
        Hex; None for the objects that the publisher put together from parts.
    """

    path: str
    url: str
    bytes: int
    md5: str | None


class _Object(BaseModel):
    model_config = ConfigDict(extra="ignore")

    name: str = Field(max_length=1024)
    size: Annotated[int, Field(ge=0)]
    md5: str | None = Field(None, alias="md5Hash")


class _Page(BaseModel):
    model_config = ConfigDict(extra="ignore")

    items: list[_Object] = Field(default_factory=list)
    next_page: str | None = Field(None, alias="nextPageToken")


def list_files(
    url: str, *, mirror: str | None = None, timeout_s: float = 30.0, pause: Callable[[float], None] = time.sleep
) -> list[RemoteFile]:
    """The files below ``https://<host>/<bucket>/<prefix>/``, by path.

    Raises
    ------
    DownloadFailed
        The listing cannot be fetched, or is empty.
    WeightsInvalid
        A name in it leads out of the folder, or there is more than any model has.
    """
    parts = urlsplit(url)
    bucket, _, prefix = parts.path.lstrip("/").partition("/")
    files = []
    for item in _objects(f"{parts.scheme}://{parts.netloc}", bucket, prefix, mirror, timeout_s, pause):
        path = item.name.removeprefix(prefix)
        if not path or path.endswith("/"):  # An empty object that marks a folder.
            continue
        if not item.name.startswith(prefix) or not is_safe(path):
            raise WeightsInvalid(f"{url} lists {item.name!r}, which leads out of it. Nothing was downloaded.")
        place = f"{parts.scheme}://{parts.netloc}/{bucket}/{quote(item.name)}"
        files.append(RemoteFile(path, place, item.size, _hex(item.md5)))
        if len(files) > MAX_FILES or sum(file.bytes for file in files) > MAX_BYTES:
            raise WeightsInvalid(
                f"{url} holds more than {MAX_FILES} files or {MAX_BYTES / 1e9:.0f} GB, the limit for a model."
            )
    if not files:
        raise DownloadFailed(f"nothing is published below {url}")
    return sorted(files, key=lambda file: file.path)


def is_safe(path: str) -> bool:
    """Whether `path` stays in the folder that it is taken relative to, and can be a name on any disk."""
    pure = PurePosixPath(path)
    parts = path.split("/")
    odd = any(part in ("", ".", "..") or len(part.encode()) > 255 for part in parts)
    return not (pure.is_absolute() or odd or "\\" in path or any(ord(char) < 32 for char in path)) and len(path) < 1024


def _objects(
    host: str, bucket: str, prefix: str, mirror: str | None, timeout_s: float, pause: Callable[[float], None]
) -> Iterator[_Object]:
    token = None
    fields = "nextPageToken,items(name,size,md5Hash)"
    for _ in range(MAX_PAGES):
        query = {"prefix": prefix, "fields": fields, **({"pageToken": token} if token else {})}
        url = f"{host}/storage/v1/b/{quote(bucket, safe='')}/o?{urlencode(query)}"
        page = _page(Route.to(url, mirror=mirror, hosts=()), timeout_s, pause)
        yield from page.items
        token = page.next_page
        if not token:
            return
    raise WeightsInvalid(f"The listing of {host}/{bucket}/{prefix} has more than {MAX_PAGES} pages.")


def _page(route: Route, timeout_s: float, pause: Callable[[float], None]) -> _Page:
    timeout = httpx.Timeout(timeout_s, connect=min(timeout_s, 10.0))
    with public_client(route, timeout=timeout) as client:
        for attempt in range(ATTEMPTS):
            try:
                return _read(client, route.url)
            except httpx.TransportError as error:
                if attempt == ATTEMPTS - 1:
                    raise DownloadFailed(f"{route.url} cannot be read: {type(error).__name__} {error}") from error
            except httpx.HTTPError as error:
                raise DownloadFailed(f"{route.url} cannot be read: {error}") from error
            pause(min(0.5 * 2**attempt, 10.0))
    raise AssertionError("unreachable")


def _read(client: httpx.Client, url: str) -> _Page:
    with client.stream("GET", url) as response:
        if response.status_code == 429 or response.status_code >= 500:
            raise httpx.ReadError(f"the server answers {response.status_code}")
        if response.status_code != 200:
            why = REFUSED.get(response.status_code, f"it answers {response.status_code}")
            raise DownloadFailed(f"{url} was refused: {why}")
        content = b""
        for chunk in response.iter_bytes():
            content += chunk
            if len(content) > MAX_PAGE_BYTES:
                raise DownloadFailed(
                    f"{url} sent more than {MAX_PAGE_BYTES:,} bytes, the limit for a page of a listing"
                )
    try:
        return _Page.model_validate_json(content)
    except ValidationError as error:
        raise DownloadFailed(f"{url} did not send the listing of a bucket") from error


def _hex(md5: str | None) -> str | None:
    try:
        return base64.b64decode(md5, validate=True).hex() if md5 else None
    except binascii.Error:
        return None
