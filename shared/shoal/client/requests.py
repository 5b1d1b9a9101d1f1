"""What is sent to a service, which failures are sent again, and what an answer that is an error means."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import httpx

from shoal import outbound
from shoal.errors import ShoalError, by_code

Service = Literal["extractor", "clusterer"]
Query = Mapping[str, str | int | float | bool | None]
"""Query parameters; those that are None are left out."""

RETRY_STATUSES = frozenset({429, 502, 503, 504})
"""Statuses of a service that is overloaded or starting, or of a proxy in front of it."""
RETRY_CAP_S = 5.0


@dataclass(frozen=True, slots=True)
class Request:
    """One request.

    Attributes
    ----------
    json, content
        The body, as a document or as bytes.
    """

    service: Service
    method: str
    path: str
    query: Query = field(default_factory=dict)
    json: object = None
    content: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    def build(self, http: httpx.Client | httpx.AsyncClient) -> httpx.Request:
        """The request as ``http`` sends it."""
        return http.build_request(
            self.method,
            self.path,
            params={name: value for name, value in self.query.items() if value is not None},
            json=self.json,
            content=self.content,
            headers=self.headers,
        )


def pause_s(attempt: int) -> float:
    """Seconds to wait for a service that does not answer, before the try after number ``attempt``."""
    return 0.2 * 2.0**attempt


def retry_after_s(value: str | None) -> float:
    """Seconds to wait before the next try, from a ``Retry-After`` header in seconds or with a date.

    A missing or malformed header counts as one second; the wait is at most 5 seconds.
    """
    asked = outbound.retry_after_s(value)
    return 1.0 if asked is None else min(asked, RETRY_CAP_S)


def problem(response: httpx.Response) -> ShoalError:
    """The exception of an answer that is an error."""
    try:
        body = response.json()
    except ValueError:
        body = {}
    if not isinstance(body, dict) or "code" not in body:
        # A proxy's answer while the service behind it starts.
        code = "unavailable" if response.status_code in {502, 503, 504} else ShoalError.code
        body = {"code": code, **(body if isinstance(body, dict) else {})}
    body.pop("message", None)  # `detail` once more, for OpenAI's clients.
    return by_code({"detail": f"{response.url} answered {response.status_code}.", **body})
