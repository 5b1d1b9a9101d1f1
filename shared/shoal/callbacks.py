"""Webhooks at a job's end: where they may go, what they say, and how they are signed.

The headers and the signature are those of Standard Webhooks.

References
----------
https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import httpx

from shoal.errors import CallbackRefused
from shoal.hosts import ANY, HostEntry
from shoal.schemas import Job
from shoal.settings import Settings, read_secret

PREFIX = "whsec_"
SECRET_BYTES = range(24, 65)
"""Lengths of a secret, as the specification has them."""
MAX_BODY = 64 * 2**10
"""Bytes of a webhook; where the job's result or error is longer, only the job is named."""
STANDARD_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True)
class AllowedHosts:
    """The hosts of SHOAL_CALLBACK_HOSTS, without `shoal.hosts.ANY`; an entry without a port stands for 80 and 443."""

    entries: frozenset[HostEntry]

    @classmethod
    def of(cls, texts: Iterable[str]) -> AllowedHosts:
        """The hosts that ``texts`` name.

        Raises
        ------
        ValueError
            One of them is not a host.
        """
        return cls(frozenset(_entry(text) for text in texts))

    def allows(self, host: str, port: int) -> bool:
        """Whether a webhook may go to a host, named as in its URL."""
        return any(each.covers(host) and _same_port(port, each.port) for each in self.entries)

    def private(self, address: str, port: int) -> bool:
        """Whether it may go to an address that is not public: only where the address itself is listed."""
        return any(each.host == address and _same_port(port, each.port) for each in self.entries)

    def check(self, text: str) -> httpx.URL:
        """The URL of a callback.

        Raises
        ------
        CallbackRefused
            No webhook may be sent there.
        """
        try:
            url = httpx.URL(text)
        except (httpx.InvalidURL, ValueError) as error:
            raise CallbackRefused(f"`callback_url` is not a URL: {error}.", field="callback_url") from None
        host, port = url.raw_host.decode().lower().strip("[]"), url.port or STANDARD_PORTS.get(url.scheme)
        if port is None or not host:
            raise CallbackRefused("`callback_url` must begin with https:// or http://.", field="callback_url")
        if url.userinfo:
            raise CallbackRefused(
                "`callback_url` holds a user name or a password. Leave them out: webhooks are signed.",
                field="callback_url",
            )
        if not self.allows(host, port):
            shown = f"[{host}]" if ":" in host else host
            entry = shown if port in STANDARD_PORTS.values() else f"{shown}:{port}"
            raise CallbackRefused(
                f"Webhooks to {entry} are not allowed. Whoever runs the service allows it by adding {entry} to "
                "SHOAL_CALLBACK_HOSTS.",
                field="callback_url",
                host=host,
            )
        return url


def _entry(text: str) -> HostEntry:
    try:
        entry = HostEntry.parse(text)
        if entry.host != ANY:
            return entry
    except ValueError:
        pass
    raise ValueError(
        f"SHOAL_CALLBACK_HOSTS: {text!r} is not a host: write it as hooks.example.org, .example.org, "
        "10.1.2.3 or [fd00::1], with or without a port, such as hooks.example.org:8443."
    )


def _same_port(port: int, only: int | None) -> bool:
    return port == only if only is not None else port in STANDARD_PORTS.values()


def secrets_of(settings: Settings) -> tuple[bytes, ...]:
    """The secrets that sign webhooks; none where none are set.

    Raises
    ------
    ValueError
        A secret has another form; the message never holds it.
    """
    text = settings.callback_secret.get_secret_value() if settings.callback_secret is not None else ""
    if settings.callback_secret_file is not None:
        text = read_secret(settings.callback_secret_file)
    return tuple(_secret(part) for part in text.split())


def _secret(text: str) -> bytes:
    try:
        secret = base64.b64decode(text.removeprefix(PREFIX), validate=True)
    except ValueError:
        secret = b""
    if not text.startswith(PREFIX) or len(secret) not in SECRET_BYTES:
        raise ValueError(
            "SHOAL_CALLBACK_SECRET is not valid: it is `whsec_` and 24 to 64 random bytes in base64, as "
            "`echo whsec_$(openssl rand -base64 32)` prints it."
        )
    return secret


@dataclass(frozen=True)
class CallbackRules:
    """Where webhooks may go, and the secrets that sign them."""

    hosts: AllowedHosts
    secrets: tuple[bytes, ...]

    @classmethod
    def of(cls, settings: Settings) -> CallbackRules:
        """The rules of the settings.

        Raises
        ------
        ValueError
            A setting is not valid.
        """
        return cls(AllowedHosts.of(settings.callback_hosts), secrets_of(settings))

    def check(self, text: str) -> httpx.URL:
        """The URL of a callback.

        Raises
        ------
        CallbackRefused
            No webhook may be sent there, or none can be signed.
        """
        url = self.hosts.check(text)
        if not self.secrets:
            raise CallbackRefused(
                "Webhooks cannot be signed. Whoever runs the service sets SHOAL_CALLBACK_SECRET.",
                field="callback_url",
            )
        return url


def event_id(job: Job) -> str:
    """What receivers know a webhook by, however often it comes: a job ends once."""
    return f"{job.id}_{job.state.value}"


def payload(job: Job) -> bytes:
    """The body of the webhook of an ended job: the same at every attempt."""
    # Without what was sent: it may be long, and the receiver can ask for it.
    data = job.model_dump(mode="json", exclude={"request", "progress", "callback", "waiting_for", "cancel_requested"})
    body = _body(job, data)
    if len(body) <= MAX_BODY:
        return body
    return _body(job, {**data, "result": None, "error": None, "truncated": True})


def _body(job: Job, data: dict[str, object]) -> bytes:
    ended = data["finished_at"]
    event = {"type": f"job.{job.state.value}", "timestamp": ended, "data": data}
    return json.dumps(event, separators=(",", ":"), allow_nan=False).encode()


def signed_headers(secrets: Sequence[bytes], event: str, timestamp: int, body: bytes) -> dict[str, str]:
    """The headers of a webhook: one signature for each secret.

    Parameters
    ----------
    secrets
        Keys of HMAC-SHA256.
    event
        `event_id`.
    timestamp
        Seconds since the epoch of this attempt.
    """
    text = f"{event}.{timestamp}.".encode() + body
    signatures = (base64.b64encode(hmac.new(secret, text, hashlib.sha256).digest()).decode() for secret in secrets)
    return {
        "webhook-id": event,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(f"v1,{each}" for each in signatures),
    }
