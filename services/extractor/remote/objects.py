"""One try to fetch an image from an object store: S3, or what speaks its protocol.

Credentials, region and endpoint are the worker's own, from its environment, as AWS's tools read them:
``AWS_ACCESS_KEY_ID``, ``AWS_PROFILE``, ``AWS_REGION``, ``AWS_ENDPOINT_URL``, a role of its machine. A list names a
bucket and a key, and nothing else.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from shoal.aws import endpoint, region
from shoal.errors import ImageFetchFailed, ImageMissing, ImageTruncated

from extractor.remote.allowed import Address, Allowed
from extractor.remote.http import Passing, too_large

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

_REFUSED = ("ACCESS_DENIED", "INVALID_ACCESS_KEY_ID", "SIGNATURE_DOES_NOT_MATCH", "HTTP status 403", "HTTP status 400")


class ObjectGetter:
    """Fetches from buckets. Safe in any thread.

    Parameters
    ----------
    allowed
        Buckets that may be fetched from.
    timeout_s
        For connecting.
    max_bytes
        Of an image.
    """

    def __init__(self, allowed: Allowed, *, timeout_s: float, max_bytes: int) -> None:
        self._allowed, self._timeout_s, self._max_bytes = allowed, timeout_s, max_bytes
        self._lock = threading.Lock()
        self._files: FileSystem | None = None

    def get(self, address: Address) -> bytes:
        """The image at an address.

        Raises
        ------
        ImageInvalid
            It cannot be fetched.
        Passing
            It cannot be fetched now.
        """
        self._allowed.require(address)
        try:
            with self._opened().open_input_file(address.host + address.path) as file:
                size: int = file.size()
                if size > self._max_bytes:
                    raise too_large(f"has {size:,} bytes", self._max_bytes)
                data: bytes = file.read(size)
        except FileNotFoundError as error:
            raise ImageMissing(f"The bucket {address.host} has no such object.") from error
        except (OSError, ValueError) as error:  # Arrow's own errors are of these types, too.
            why = ImageFetchFailed(f"The bucket {address.host} cannot be read: {error}.")
            if isinstance(error, PermissionError | ValueError) or any(each in str(error) for each in _REFUSED):
                raise why from error
            raise Passing(why) from error
        if len(data) != size:
            raise Passing(ImageTruncated(f"The bucket {address.host} breaks off its answer."))
        return data

    def close(self) -> None:
        """Nothing to close."""

    def _opened(self) -> FileSystem:
        with self._lock:
            if self._files is None:
                self._files = connect(self._timeout_s)
            return self._files


def connect(timeout_s: float) -> FileSystem:
    """The object store of the worker's environment; without a request to it."""
    from pyarrow import fs  # Half a second, which few jobs need.

    server = endpoint()
    parts = urlsplit(server) if server else None
    return fs.S3FileSystem(
        region=region(),
        scheme=parts.scheme if parts else None,
        endpoint_override=parts.netloc if parts else None,
        connect_timeout=min(10.0, timeout_s),
        request_timeout=timeout_s,
        retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=1),
    )
