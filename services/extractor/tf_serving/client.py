"""gRPC client of TensorFlow Serving: one channel, deadlines, retries while the server is away, Shoal's errors."""

from __future__ import annotations

import ipaddress
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import structlog
from shoal.errors import JobError, ModelMismatch, ModelNotServed, ServingFailed, ServingRefused, ServingUnavailable
from shoal.settings import Settings

from extractor.tf_serving.protos import (
    GetModelMetadataRequest,
    GetModelStatusRequest,
    ModelServiceStub,
    ModelVersionStatus,
    PredictionServiceStub,
    SignatureDefMap,
)

log = structlog.get_logger(__name__)

FIRST_DELAY_S = 0.1
LONGEST_DELAY_S = 3.0
POLL_S = 0.5
STATUS_DEADLINE_S = 30.0
_RETRYABLE = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED}
_UNTRUSTED = "CERTIFICATE_VERIFY_FAILED"
_LOADING = (ModelVersionStatus.START, ModelVersionStatus.LOADING)
_CHANNEL_OPTIONS = [
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    # Reconnect quickly to a restarted server; gRPC's default backoff grows to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2000),
]


@dataclass(frozen=True)
class Address:
    """Address of a TensorFlow Serving server.

    Attributes
    ----------
    target
        The gRPC target: ``host:port`` or ``unix:/path``.
    tls
        Whether the connection uses TLS and verifies the server's certificate.
    """

    target: str
    tls: bool

    @classmethod
    def of(cls, url: str, ca: Path | None) -> Address:
        """Parse TF_SERVING_URL.

        Raises
        ------
        ServingRefused
            The URL's scheme is not gRPC, for example ``http``: TensorFlow Serving's REST port is not supported.
        """
        scheme, separator, rest = url.partition("://")
        if not separator:
            return cls(url, ca is not None)
        if scheme not in ("grpc", "grpcs", "dns", "unix"):
            raise ServingRefused(
                f"TF_SERVING_URL is {url!r}: give host:port of the gRPC port (8500 by default), or grpcs://host:port "
                "for TLS."
            )
        if scheme in ("dns", "unix"):
            return cls(url, ca is not None)
        return cls(rest.rstrip("/"), scheme == "grpcs" or ca is not None)

    @property
    def local(self) -> bool:
        """Whether the target is a Unix socket or a loopback address."""
        if self.target.startswith("unix:"):
            return True
        host = self.target.rpartition(":")[0].strip("[]")
        try:
            return host == "localhost" or ipaddress.ip_address(host).is_loopback
        except ValueError:
            return False


class ServingClient:
    """Thread-safe client of one TensorFlow Serving server.

    Parameters
    ----------
    settings
        Address, certificate, token, deadlines.

    Raises
    ------
    ModelNotServed
        No address is configured.
    """

    def __init__(self, settings: Settings) -> None:
        if not settings.tf_serving_url:
            raise ModelNotServed("TF_SERVING_URL is not set: set it to host:port of TensorFlow Serving's gRPC API.")
        self.address = Address.of(settings.tf_serving_url, settings.tf_serving_ca)
        self._gone_s = settings.tf_serving_gone_s
        self._deadline_s = settings.tf_serving_deadline_s
        self._metadata = _metadata(settings, self.address)
        self._channel = _channel(self.address, settings.tf_serving_ca)
        self._predict = PredictionServiceStub(self._channel)
        self._models = ModelServiceStub(self._channel)
        self._closed = threading.Event()
        self._answered_at = 0.0

    def served_version(self, name: str) -> int:
        """The highest version of a model that is available; waits while one is being loaded.

        Raises
        ------
        ModelNotServed
            The server has no such model, or could not load it.
        ServingUnavailable, ServingRefused, ServingFailed
            See `call`.
        """
        request = GetModelStatusRequest()
        request.model_spec.name = name
        deadline = time.monotonic() + self._deadline_s
        while True:
            try:
                status = self.call(self._models.GetModelStatus, request, deadline_s=STATUS_DEADLINE_S)
            except _NotFound as error:
                raise self._not_served(name) from error
            versions = {int(v.version): v for v in status.model_version_status}
            available = [n for n, v in versions.items() if v.state == ModelVersionStatus.AVAILABLE]
            if available:
                return max(available)
            if not any(v.state in _LOADING for v in versions.values()):
                raise self._not_served(name, "; ".join(v.status.error_message for v in versions.values()))
            if time.monotonic() > deadline:
                raise ServingUnavailable(
                    f"{self.address.target} has been loading {name!r} for {self._deadline_s:.0f} s: submit the job "
                    "again when it is done, or raise TF_SERVING_DEADLINE_S."
                )
            self._pause(POLL_S)

    def signatures(self, name: str, version: int) -> dict[str, Any]:
        """The ``SignatureDef`` of each signature of a model.

        Raises
        ------
        ModelNotServed
            This version is not served.
        ServingUnavailable, ServingRefused, ServingFailed
            See `call`.
        """
        request = GetModelMetadataRequest(metadata_field=["signature_def"])
        request.model_spec.name = name
        request.model_spec.version.value = version
        try:
            response = self.call(self._predict.GetModelMetadata, request, deadline_s=self._deadline_s)
        except _NotFound as error:
            raise self._not_served(name, f"version {version} is gone") from error
        found = SignatureDefMap()
        if not response.metadata["signature_def"].Unpack(found):
            raise ServingFailed(f"{self.address.target} sent a signature of {name!r} that cannot be read.")
        return dict(found.signature_def)

    def predict(self, request: Any) -> Any:
        """Run a ``PredictRequest``.

        Raises
        ------
        ModelNotServed
            The server no longer serves the model or its version.
        ModelMismatch
            The server rejects the request because it does not fit the model.
        ServingUnavailable, ServingRefused, ServingFailed
            See `call`.
        """
        try:
            return self.call(self._predict.Predict, request, deadline_s=self._deadline_s)
        except _NotFound as error:
            spec = request.model_spec
            raise self._not_served(spec.name, f"version {spec.version.value} is gone") from error

    def call(self, method: Callable[..., Any], request: Any, *, deadline_s: float) -> Any:
        """Call until it succeeds, or until the server has answered no call for TF_SERVING_GONE_S.

        Raises
        ------
        ServingUnavailable
            The server is unreachable, overloaded, or exceeds the deadline. A retry may succeed.
        ServingRefused
            The server rejects the token, or its certificate is not trusted.
        ModelMismatch
            The server rejects the request.
        ServingFailed
            The call failed with an error that a retry does not fix.
        """
        first_failure: float | None = None
        delay = FIRST_DELAY_S
        while True:
            try:
                response = method(request, timeout=deadline_s, metadata=self._metadata)
            except grpc.RpcError as error:
                failure = error
            else:
                self._answered_at = time.monotonic()
                return response
            now = time.monotonic()
            first_failure = now if first_failure is None else first_failure
            if self._closed.is_set() or not _is_transient(failure):
                raise self._translated(failure, deadline_s)
            if now - max(first_failure, self._answered_at) > self._gone_s:
                raise self._gone(failure)
            if first_failure == now:
                log.warning("waiting for TensorFlow Serving", target=self.address.target, reason=failure.details())
            self._pause(delay * random.uniform(0.5, 1.0))  # jitter; not security-sensitive
            delay = min(2 * delay, LONGEST_DELAY_S)

    def close(self) -> None:
        """Cancel calls in flight and close the channel."""
        self._closed.set()
        self._channel.close()

    def _pause(self, seconds: float) -> None:
        if self._closed.wait(seconds):
            raise ServingFailed("The client was closed.")

    def _translated(self, error: Any, deadline_s: float) -> Exception:
        code, details, target = error.code(), error.details() or "", self.address.target
        if code == grpc.StatusCode.NOT_FOUND:
            return _NotFound(details)
        if _UNTRUSTED in details:
            return ServingRefused(
                f"The certificate of {target} is not trusted: set TF_SERVING_CA to the certificate of its authority."
            )
        if code in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED):
            return ServingRefused(f"{target} refuses the client ({details}): check TF_SERVING_TOKEN and TF_SERVING_CA.")
        if code in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.FAILED_PRECONDITION):
            return ModelMismatch(f"{target} refuses the request: {details}.")
        if code == grpc.StatusCode.DEADLINE_EXCEEDED:
            return ServingUnavailable(
                f"{target} did not answer within {deadline_s:.0f} s. Committed shards are kept. Set a smaller "
                "`batch_size`, or raise TF_SERVING_DEADLINE_S."
            )
        if code == grpc.StatusCode.RESOURCE_EXHAUSTED:
            return ServingFailed(f"The batch is too large for {target} ({details}): set a smaller `batch_size`.")
        return ServingFailed(f"{target} failed with {code.name}: {details}.")

    def _gone(self, error: Any) -> JobError:
        return ServingUnavailable(
            f"TensorFlow Serving at {self.address.target} has not answered for {self._gone_s:.0f} s "
            f"({error.details()}). Committed shards are kept: start it and submit the same request again, which "
            "continues from there.",
            target=self.address.target,
        )

    def _not_served(self, name: str, why: str = "") -> ModelNotServed:
        return ModelNotServed(
            f"{self.address.target} does not serve {name!r}{f' ({why})' if why else ''}. Import it with `shoal models "
            f"import-tf {name} SOURCE_DIR` into the folder that the server reads, and add it to the server's "
            "model.config.",
            model=name,
        )


class _NotFound(Exception):
    """The server does not serve this model or version."""


def _is_transient(error: Any) -> bool:
    # A retry fixes neither a message over the server's size limit nor an untrusted certificate.
    lasting = ("larger than max", _UNTRUSTED)
    return error.code() in _RETRYABLE and not any(text in (error.details() or "") for text in lasting)


def _metadata(settings: Settings, address: Address) -> list[tuple[str, str]]:
    if settings.tf_serving_token is None:
        return []
    if not address.tls and not address.local:
        raise ServingRefused(
            f"TF_SERVING_TOKEN would be sent unencrypted to {address.target}: use grpcs:// in TF_SERVING_URL, or set "
            "TF_SERVING_CA."
        )
    return [("authorization", f"Bearer {settings.tf_serving_token.get_secret_value()}")]


def _channel(address: Address, ca: Path | None) -> Any:
    if not address.tls:
        return grpc.insecure_channel(address.target, options=_CHANNEL_OPTIONS)
    try:
        roots = ca.read_bytes() if ca is not None else None
    except OSError as error:
        raise ServingRefused(f"TF_SERVING_CA names {ca}, which cannot be read: {error}.") from error
    return grpc.secure_channel(address.target, grpc.ssl_channel_credentials(roots), options=_CHANNEL_OPTIONS)
