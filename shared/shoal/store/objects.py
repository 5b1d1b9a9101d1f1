"""Objects below a prefix of a bucket: S3, or what speaks its protocol.

What the store needs of it: a PUT that fails where the name is taken (``If-None-Match: *``), GET, HEAD, LIST, COPY and
DELETE, each of which sees what was written before. Credentials, region and endpoint are those of the process's
environment, as AWS's tools read them.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO
from urllib.parse import urlsplit

from shoal.aws import endpoint, region
from shoal.errors import ShoalError, StoreError, StoreReadOnly, StoreUnavailable

if TYPE_CHECKING:
    from botocore.client import BaseClient

CONNECT_S, READ_S = 10.0, 60.0
ATTEMPTS = 6
"""How often a request is sent while the server is away or overloaded; ``AWS_MAX_ATTEMPTS`` wins."""
CONNECTIONS = 16
CHUNK = 1 << 20
PAUSE_S = 0.2
_DELETED_AT_ONCE = 1000
_AWAY = {"SlowDown", "RequestTimeout", "InternalError", "ServiceUnavailable", "Throttling", "RequestTimeTooSkewed"}
_REFUSED = {"AccessDenied", "AllAccessDisabled", "401", "403", "Forbidden"}
_CREDENTIALS = {"InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken", "AuthFailure"}
_ABSENT = {"NoSuchKey", "404", "NotFound"}
_lock = threading.Lock()


@dataclass(frozen=True, slots=True)
class Found:
    """An object in a listing.

    Attributes
    ----------
    version
        Its ETag: differs between two contents.
    changed
        When it was written, in seconds since 1970.
    """

    bytes: int
    version: str
    changed: float


class Objects:
    """The objects below ``s3://bucket/prefix``; keys are relative to it. Safe in any thread.

    Every method raises `StoreUnavailable` where the server is away, and `StoreError` where it refuses.

    Parameters
    ----------
    url
        ``s3://bucket`` or ``s3://bucket/prefix``.
    pause
        Waits some seconds before a request is repeated.
    """

    def __init__(self, url: str, pause: Callable[[float], None] = time.sleep) -> None:
        parts = urlsplit(url)
        self.bucket = parts.netloc
        self._prefix = f"{parts.path.strip('/')}/".lstrip("/")
        self._pause = pause

    def address(self, key: str = "") -> str:
        """The URL of an object."""
        return f"s3://{self.bucket}/{self._prefix}{key}"

    @cached_property
    def _client(self) -> BaseClient:
        try:
            import boto3
            from botocore.config import Config
        except ImportError as error:
            raise StoreError(
                "SHOAL_EMBEDDINGS_STORE needs boto3: install `shoal[s3]` on every machine that reads embeddings."
            ) from error
        server = endpoint()
        options = Config(
            connect_timeout=CONNECT_S,
            read_timeout=READ_S,
            max_pool_connections=CONNECTIONS,
            retries={"mode": "standard", "total_max_attempts": int(os.environ.get("AWS_MAX_ATTEMPTS") or ATTEMPTS)},
            # The name of a bucket is no host that a server of one's own answers to.
            s3={"addressing_style": "path" if server else "auto"},
        )
        with _lock, self._errors(""):  # Only clients may be shared, and making one is not safe in threads.
            return boto3.session.Session().client("s3", endpoint_url=server, region_name=region(), config=options)

    def listed(self, prefix: str = "") -> dict[str, Found]:
        """The objects whose keys begin with ``prefix``, by key, sorted as S3 does."""
        found = {}
        with self._errors(prefix):
            pages = self._client.get_paginator("list_objects_v2")
            for page in pages.paginate(Bucket=self.bucket, Prefix=self._prefix + prefix):
                for each in page.get("Contents", ()):
                    key = each["Key"].removeprefix(self._prefix)
                    found[key] = Found(each["Size"], each["ETag"], each["LastModified"].timestamp())
        return found

    def folders(self, prefix: str) -> list[str]:
        """Names of what looks like folders directly below ``prefix``, which ends with a slash."""
        found = []
        with self._errors(prefix):
            pages = self._client.get_paginator("list_objects_v2")
            for page in pages.paginate(Bucket=self.bucket, Prefix=self._prefix + prefix, Delimiter="/"):
                found += [each["Prefix"] for each in page.get("CommonPrefixes", ())]
        return [each.removeprefix(self._prefix + prefix).rstrip("/") for each in found]

    def find(self, key: str) -> Found | None:
        """One object; None if there is none."""
        try:
            with self._errors(key):
                head = self._client.head_object(Bucket=self.bucket, Key=self._prefix + key)
        except FileNotFoundError:
            return None
        return Found(head["ContentLength"], head["ETag"], head["LastModified"].timestamp())

    def download(self, key: str, version: str, target: Path) -> None:
        """Write the content of one version of an object into a new file.

        Raises
        ------
        FileNotFoundError
            The object is gone, or is another version.
        OSError
            The file cannot be written.
        """
        for attempt in range(ATTEMPTS):
            try:
                with self._errors(key), target.open("wb") as file:
                    answer = self._client.get_object(Bucket=self.bucket, Key=self._prefix + key, IfMatch=version)
                    for chunk in answer["Body"].iter_chunks(CHUNK):
                        file.write(chunk)
                return
            except StoreUnavailable:  # The library repeats requests, not answers that break off.
                if attempt == ATTEMPTS - 1:
                    raise
                self._pause(PAUSE_S * 2**attempt)

    def create(self, key: str, body: bytes) -> Found | None:
        """Write an object unless there is one; None if there is, which stays.

        Raises
        ------
        StoreError
            The server knows no conditional PUT.
        """
        for attempt in range(ATTEMPTS):
            with self._errors(key, writing=True):
                try:
                    return self._put(key, body, len(body), IfNoneMatch="*")
                except self._client.exceptions.ClientError as error:
                    if _code(error) in {"PreconditionFailed", "412"}:
                        return None
                    if _code(error) == "NotImplemented":
                        raise self._no_conditions() from error
                    # Another conditional PUT of the same name is under way.
                    if _code(error) not in {"ConditionalRequestConflict", "409"} or attempt == ATTEMPTS - 1:
                        raise
            self._pause(PAUSE_S * 2**attempt)
        raise AssertionError("unreachable")

    def require_conditions(self, key: str, body: bytes) -> None:
        """Raise `StoreError` if the server overwrites an object that exists; ``body`` is what it holds."""
        if self.create(key, body):
            self.remove([key])
            raise self._no_conditions()

    def _no_conditions(self) -> StoreError:
        return StoreError(
            f"The server of {self.address()} overwrites objects although `If-None-Match: *` forbids it, so that two "
            "workers could write one shard. Use AWS S3, or a server that supports conditional PUT, such as MinIO.",
            url=self.address(),
        )

    def put(self, key: str, body: bytes) -> Found:
        """Write an object, in place of the one that is there."""
        with self._errors(key, writing=True):
            return self._put(key, body, len(body))

    def upload(self, key: str, file: Path) -> Found:
        """Write a file of at most 5 GiB as an object."""
        with self._errors(key, writing=True), file.open("rb") as body:
            return self._put(key, body, file.stat().st_size)

    def _put(self, key: str, body: bytes | BinaryIO, size: int, **condition: str) -> Found:
        answer = self._client.put_object(Bucket=self.bucket, Key=self._prefix + key, Body=body, **condition)
        return Found(size, answer["ETag"], time.time())

    def copy(self, source: str, target: str) -> str:
        """Copy an object of at most 5 GiB within the bucket; the version of the copy.

        Raises
        ------
        FileNotFoundError
            There is no ``source``.
        """
        with self._errors(source, writing=True):
            answer = self._client.copy_object(
                Bucket=self.bucket,
                Key=self._prefix + target,
                CopySource={"Bucket": self.bucket, "Key": self._prefix + source},
            )
        version: str = answer["CopyObjectResult"]["ETag"]
        return version

    def remove(self, keys: Iterable[str]) -> None:
        """Delete objects; those that are not there do not matter."""
        names = list(keys)
        for first in range(0, len(names), _DELETED_AT_ONCE):
            some = names[first : first + _DELETED_AT_ONCE]
            with self._errors(some[0], writing=True):
                named = [{"Key": self._prefix + key} for key in some]
                answer = self._client.delete_objects(Bucket=self.bucket, Delete={"Objects": named, "Quiet": True})
            for each in answer.get("Errors", ()):
                raise self._refused(each["Code"], each["Key"].removeprefix(self._prefix), each["Message"], True)

    @contextmanager
    def _errors(self, key: str, *, writing: bool = False) -> Iterator[None]:
        """The library's errors as `FileNotFoundError` or Shoal's own."""
        import botocore.exceptions as library

        try:
            yield
        except library.ClientError as error:
            code, status = _code(error), error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
            if code in _ABSENT or (code in {"PreconditionFailed", "412"} and not writing):
                raise FileNotFoundError(2, "No such object", self.address(key)) from error
            if code in _AWAY or status >= 500 or status == 429:
                raise self._away(key, f"it answers {code}") from error
            raise self._refused(code, key, error.response["Error"].get("Message", ""), writing) from error
        except (library.NoCredentialsError, library.PartialCredentialsError, library.CredentialRetrievalError) as error:
            raise StoreError(
                f"There are no credentials for {self.address(key)}. Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
                "or AWS_PROFILE, or give the machine a role.",
                url=self.address(key),
            ) from error
        except (library.HTTPClientError, library.ConnectionError, library.IncompleteReadError) as error:
            raise self._away(key, " ".join(str(error).split())) from error
        except library.BotoCoreError as error:
            raise StoreError(f"{self.address(key)} cannot be used: {error}.", url=self.address(key)) from error

    def _away(self, key: str, why: str) -> StoreUnavailable:
        server = endpoint() or "AWS S3"
        return StoreUnavailable(
            f"{self.address(key)} cannot be reached at {server}: {why.rstrip('.')}. Check that the server runs and "
            "that this machine reaches it; committed shards stay.",
            url=self.address(key),
        )

    def _refused(self, code: str, key: str, message: str, writing: bool) -> ShoalError:
        url = self.address(key)
        if code == "NoSuchBucket":
            return StoreError(
                f"There is no bucket {self.bucket!r}. Create it, or correct SHOAL_EMBEDDINGS_STORE.", url=url
            )
        if code in _CREDENTIALS:
            return StoreError(f"The credentials for {url} are refused ({code}). Correct or renew them.", url=url)
        if code in _REFUSED and writing:
            return StoreReadOnly(
                f"{url} may not be written ({code}). Allow these credentials s3:PutObject, s3:GetObject and "
                f"s3:DeleteObject on {self.address('*')}.",
                url=url,
            )
        if code in _REFUSED:
            return StoreError(
                f"{url} may not be read ({code}). Allow these credentials s3:ListBucket on the bucket {self.bucket!r} "
                f"and s3:GetObject on {self.address('*')}.",
                url=url,
            )
        return StoreError(f"{url} cannot be {'written' if writing else 'read'} ({code}): {message}", url=url)


def _code(error: Exception) -> str:
    return str(getattr(error, "response", {}).get("Error", {}).get("Code", ""))
