"""Where the object store is: region and endpoint from the environment, as AWS's tools read them."""

from __future__ import annotations

import os


def endpoint() -> str | None:
    """The server of ``AWS_ENDPOINT_URL_S3`` or ``AWS_ENDPOINT_URL``; None for AWS itself."""
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or None


def region() -> str | None:
    """The region of ``AWS_REGION`` or ``AWS_DEFAULT_REGION``; None if neither names one."""
    return os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or None
