"""The client against a server that does what it is told: no TensorFlow here."""

from __future__ import annotations

import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from extractor.backends.tfserving import TFServingBackend, record_of
from extractor.images.transform import Transform
from extractor.models.spec import ModelSpec, WeightsSource
from extractor.tf_serving.client import Address
from extractor.tf_serving.protos import (
    DataType,
    GetModelMetadataResponse,
    GetModelStatusResponse,
    ModelVersionStatus,
    PredictResponse,
    SignatureDefMap,
    add_ModelServiceServicer_to_server,
    add_PredictionServiceServicer_to_server,
    from_proto,
    to_proto,
)
from shoal.errors import (
    JobError,
    ModelMismatch,
    ModelNotServed,
    ServingFailed,
    ServingRefused,
    ServingUnavailable,
)
from shoal.settings import Settings

SIZE, DIM = 8, 4
SPEC = ModelSpec(
    "toy",
    "tfserving",
    "toy",
    WeightsSource("served", files=("toy",)),
    Transform(size=SIZE),
    dim=DIM,
    embedding="pooled",
)
Failure = tuple[grpc.StatusCode, str]


class Server:
    """A server whose model gives each image's first `DIM` values; tests set what goes wrong."""

    def __init__(self) -> None:
        self.failures: list[Failure] = []
        self.states: list[int] = [ModelVersionStatus.AVAILABLE]
        self.versions = [1]
        self.inputs: dict[str, tuple[Any, tuple[int, ...]]] = {"images": (DataType.DT_UINT8, (-1, SIZE, SIZE, 3))}
        self.outputs = {"embedding": (DataType.DT_FLOAT, (-1, DIM))}
        self.signature = "serving_default"
        self.requests: list[Any] = []
        self.metadata: list[dict[str, str]] = []
        self.answer: Callable[[np.ndarray], np.ndarray] = lambda x: x.reshape(len(x), -1)[:, :DIM].astype(np.float32)
        self.gate = threading.Event()
        self.gate.set()
        self.under_way = self.most_under_way = 0
        self._lock = threading.Lock()
        self._server: grpc.Server | None = None
        self.port = 0

    def start(self, port: int = 0, credentials: Any = None) -> int:
        self._server = grpc.server(ThreadPoolExecutor(16), options=[("grpc.so_reuseport", 0)])
        add_PredictionServiceServicer_to_server(self, self._server)
        add_ModelServiceServicer_to_server(self, self._server)
        address = f"127.0.0.1:{port}"
        if credentials is None:
            self.port = self._server.add_insecure_port(address)
        else:
            self.port = self._server.add_secure_port(f"localhost:{port}", credentials)
        self._server.start()
        return self.port

    def stop(self) -> None:
        self.gate.set()
        if self._server is not None:
            self._server.stop(0).wait()
            self._server = None

    def _fail(self, context: Any) -> None:
        self.metadata.append(dict(context.invocation_metadata()))
        if self.failures:
            context.abort(*self.failures.pop(0))

    def Predict(self, request: Any, context: Any) -> Any:  # noqa: N802
        self._fail(context)
        self.requests.append(request)
        with self._lock:
            self.under_way += 1
            self.most_under_way = max(self.most_under_way, self.under_way)
        self.gate.wait(60)
        with self._lock:
            self.under_way -= 1
        response = PredictResponse()
        response.outputs["embedding"].CopyFrom(to_proto(self.answer(from_proto(request.inputs["images"]))))
        return response

    def GetModelMetadata(self, request: Any, context: Any) -> Any:  # noqa: N802
        self._fail(context)
        signatures = SignatureDefMap()
        definition = signatures.signature_def[self.signature]
        for target, source in ((definition.inputs, self.inputs), (definition.outputs, self.outputs)):
            for name, (dtype, shape) in source.items():
                target[name].dtype = dtype
                for length in shape:
                    target[name].tensor_shape.dim.add(size=length)
        response = GetModelMetadataResponse()
        response.metadata["signature_def"].Pack(signatures)
        return response

    def GetModelStatus(self, request: Any, context: Any) -> Any:  # noqa: N802
        self._fail(context)
        state = self.states.pop(0) if len(self.states) > 1 else self.states[0]
        response = GetModelStatusResponse()
        for version in self.versions:
            status = response.model_version_status.add(version=version, state=state)
            if state == ModelVersionStatus.END:
                status.status.error_message = "no such op"
        return response

    Classify = Regress = MultiInference = PredictStreamed = HandleReloadConfigRequest = Predict


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    made.start()
    yield made
    made.stop()


@pytest.fixture
def settings(server: Server, client_settings: Callable[..., Settings]) -> Settings:
    return client_settings(server.port)


@pytest.fixture
def backend(settings: Settings) -> Iterator[TFServingBackend]:
    made = opened(settings)
    yield made
    made.close()


def opened(settings: Settings, spec: ModelSpec = SPEC) -> TFServingBackend:
    return TFServingBackend(spec, settings, record_of(spec, settings))


def images(n: int) -> np.ndarray:
    return np.random.default_rng(n).integers(0, 256, (n, SIZE, SIZE, 3), dtype=np.uint8)


def wanted(pixels: np.ndarray) -> np.ndarray:
    return pixels.reshape(len(pixels), -1)[:, :DIM].astype(np.float32)


class TestRequests:
    def test_embeddings_come_back_row_by_row(self, backend: TFServingBackend) -> None:
        batches = [images(n) for n in (1, 7, 3, 5, 2)]
        futures = [backend.submit(pixels) for pixels in batches]
        for pixels, future in zip(batches, futures, strict=True):
            assert (future.result(30) == wanted(pixels)).all()

    def test_a_request_names_version_signature_and_output_and_carries_bytes(
        self, server: Server, settings: Settings
    ) -> None:
        server.versions = [3, 12, 7]
        backend = opened(settings)
        backend.submit(images(2)).result(30)
        backend.close()
        (request,) = server.requests
        assert (request.model_spec.name, request.model_spec.version.value) == ("toy", 12)
        assert request.model_spec.signature_name == "serving_default"
        assert list(request.output_filter) == ["embedding"]
        assert request.inputs["images"].tensor_content == images(2).tobytes()
        assert backend.record.weights_file == "toy/12"

    def test_float_models_get_floats_of_the_same_values(self, server: Server, settings: Settings) -> None:
        server.inputs = {"images": (DataType.DT_FLOAT, (-1, -1, -1, 3))}
        backend = opened(settings)
        backend.submit(images(2)).result(30)
        backend.close()
        assert (from_proto(server.requests[0].inputs["images"]) == images(2).astype(np.float32)).all()

    def test_large_batches_are_sent_in_parts(
        self, server: Server, settings: Settings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("extractor.backends.tfserving.MAX_REQUEST_BYTES", 3 * SIZE * SIZE * 3)
        backend = opened(settings)
        assert (backend.submit(images(8)).result(30) == wanted(images(8))).all()
        backend.close()
        assert [len(from_proto(r.inputs["images"])) for r in server.requests] == [3, 3, 2]

    def test_requests_under_way_are_bounded(
        self, server: Server, client_settings: Callable[..., Settings], wait_until: Callable[..., None]
    ) -> None:
        backend = opened(client_settings(server.port, tf_serving_in_flight=2))
        server.gate.clear()
        futures = [backend.submit(images(1)) for _ in range(6)]
        wait_until(lambda: server.under_way == 2)
        server.gate.set()
        for future in futures:
            future.result(30)
        backend.close()
        assert server.most_under_way == 2

    def test_closing_ends_requests_under_way(
        self, server: Server, settings: Settings, wait_until: Callable[..., None]
    ) -> None:
        backend = opened(settings)
        server.gate.clear()
        future = backend.submit(images(1))
        wait_until(lambda: server.under_way == 1)
        backend.close()
        with pytest.raises(JobError):
            future.result(30)


class TestAway:
    @pytest.mark.parametrize("code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED])
    def test_a_busy_server_is_asked_again(
        self, server: Server, backend: TFServingBackend, code: grpc.StatusCode
    ) -> None:
        server.failures = [(code, "busy")] * 3
        assert (backend.submit(images(2)).result(60) == wanted(images(2))).all()

    def test_a_restarted_server_is_found_again(self, server: Server, backend: TFServingBackend) -> None:
        """Fails without: calls being repeated while the server is away."""
        port = server.port
        backend.submit(images(1)).result(30)
        server.stop()
        future = backend.submit(images(2))
        with pytest.raises(TimeoutError):
            future.result(0.5)
        server.start(port)
        assert (future.result(60) == wanted(images(2))).all()

    def test_a_server_that_stays_away_ends_the_job_so_that_it_can_go_on_later(
        self, server: Server, client_settings: Callable[..., Settings]
    ) -> None:
        """Fails without: the limit of time for which calls are repeated."""
        backend = opened(client_settings(server.port, tf_serving_gone_s=0.5))
        server.stop()
        begun = time.monotonic()
        with pytest.raises(ServingUnavailable, match="start it and submit the same request again") as caught:
            backend.submit(images(1)).result(60)
        backend.close()
        assert time.monotonic() - begun > 0.5
        assert caught.value.retryable
        assert caught.value.code == "serving_unavailable"

    def test_nobody_listens_at_the_start(self, server: Server, client_settings: Callable[..., Settings]) -> None:
        server.stop()
        with pytest.raises(ServingUnavailable):
            record_of(SPEC, client_settings(server.port, tf_serving_gone_s=0.3))

    def test_a_batch_that_takes_too_long(self, server: Server, client_settings: Callable[..., Settings]) -> None:
        backend = opened(client_settings(server.port, tf_serving_deadline_s=1.5))
        server.gate.clear()
        with pytest.raises(ServingUnavailable, match="smaller `batch_size`, or raise TF_SERVING_DEADLINE_S"):
            backend.submit(images(1)).result(60)
        backend.close()

    @pytest.mark.parametrize(
        ("code", "message", "error"),
        [
            (grpc.StatusCode.RESOURCE_EXHAUSTED, "Received message larger than max (9 vs. 4)", ServingFailed),
            (grpc.StatusCode.INTERNAL, "exploded", ServingFailed),
            (grpc.StatusCode.INVALID_ARGUMENT, "bad shape", ModelMismatch),
            (grpc.StatusCode.NOT_FOUND, "Servable not found", ModelNotServed),
            (grpc.StatusCode.UNAUTHENTICATED, "who are you", ServingRefused),
        ],
    )
    def test_what_will_not_pass_is_not_tried_again(
        self, server: Server, backend: TFServingBackend, code: grpc.StatusCode, message: str, error: type[JobError]
    ) -> None:
        server.failures = [(code, message)]
        with pytest.raises(error) as caught:
            backend.submit(images(1)).result(60)
        assert not caught.value.retryable
        assert server.requests == []


class TestBeforeTheFirstImage:
    def refused(self, settings: Settings, server: Server, match: str, error: type[JobError] = ModelMismatch) -> None:
        with pytest.raises(error, match=match):
            opened(settings)
        assert server.requests == []

    def test_another_width(self, server: Server, settings: Settings) -> None:
        server.outputs = {"embedding": (DataType.DT_FLOAT, (-1, DIM + 1))}
        self.refused(settings, server, "width 5, but the catalogue says 4")

    def test_another_signature(self, server: Server, settings: Settings) -> None:
        server.signature = "predict"
        self.refused(settings, server, r"no signature 'serving_default' \(its signatures: predict\)")

    def test_other_names(self, server: Server, settings: Settings) -> None:
        server.inputs = {"input_1": (DataType.DT_UINT8, (-1, SIZE, SIZE, 3))}
        self.refused(settings, server, "input_1")

    def test_other_dtypes(self, server: Server, settings: Settings) -> None:
        server.inputs = {"images": (DataType.DT_STRING, (-1,))}
        self.refused(settings, server, "images of string")
        server.inputs = {"images": (DataType.DT_UINT8, (-1, SIZE, SIZE, 3))}
        server.outputs = {"embedding": (DataType.DT_INT64, (-1, DIM))}
        self.refused(settings, server, "int64 embeddings")

    def test_another_size(self, server: Server, settings: Settings) -> None:
        server.inputs = {"images": (DataType.DT_UINT8, (-1, 99, 99, 3))}
        self.refused(settings, server, "99")

    def test_a_width_that_nobody_knows(self, server: Server, settings: Settings) -> None:
        server.outputs = {"embedding": (DataType.DT_FLOAT, (-1, -1))}
        self.refused(settings, server, "fixed dim")

    def test_a_model_that_is_not_there(self, server: Server, settings: Settings) -> None:
        server.failures = [(grpc.StatusCode.NOT_FOUND, "Could not find any versions of model toy")]
        self.refused(settings, server, "shoal models import-tf toy SOURCE_DIR", ModelNotServed)

    def test_a_model_that_could_not_be_loaded(self, server: Server, settings: Settings) -> None:
        server.states = [ModelVersionStatus.END]
        self.refused(settings, server, "no such op", ModelNotServed)

    def test_a_model_that_is_being_loaded_is_waited_for(self, server: Server, settings: Settings) -> None:
        server.states = [ModelVersionStatus.START, ModelVersionStatus.LOADING, ModelVersionStatus.AVAILABLE]
        opened(settings).close()

    def test_no_address(self, client_settings: Callable[..., Settings]) -> None:
        with pytest.raises(ModelNotServed, match="TF_SERVING_URL is not set"):
            record_of(SPEC, client_settings(1, tf_serving_url=None))

    def test_the_answer_is_checked_as_well(self, server: Server, backend: TFServingBackend) -> None:
        server.answer = lambda x: np.zeros((len(x), DIM + 1), np.float32)
        with pytest.raises(ModelMismatch, match="expected float32"):
            backend.submit(images(2)).result(30)


class TestSecurity:
    @pytest.mark.parametrize(
        ("url", "target", "tls", "local"),
        [
            ("serving:8500", "serving:8500", False, False),
            ("grpc://serving:8500", "serving:8500", False, False),
            ("grpcs://serving:8500/", "serving:8500", True, False),
            ("127.0.0.1:8500", "127.0.0.1:8500", False, True),
            ("[::1]:8500", "[::1]:8500", False, True),
            ("localhost:8500", "localhost:8500", False, True),
            ("unix:///run/tf.sock", "unix:///run/tf.sock", False, True),
        ],
    )
    def test_addresses(self, url: str, target: str, tls: bool, local: bool) -> None:
        address = Address.of(url, None)
        assert (address.target, address.tls, address.local) == (target, tls, local)

    def test_the_rest_port_is_not_grpc(self, client_settings: Callable[..., Settings]) -> None:
        with pytest.raises(ServingRefused, match="gRPC port"):
            record_of(SPEC, client_settings(1, tf_serving_url="http://serving:8501"))

    def test_the_token_is_sent_with_every_call(self, server: Server, client_settings: Callable[..., Settings]) -> None:
        backend = opened(client_settings(server.port, tf_serving_token="s3cret"))
        backend.submit(images(1)).result(30)
        backend.close()
        assert len(server.metadata) == 3
        assert {call.get("authorization") for call in server.metadata} == {"Bearer s3cret"}

    def test_the_token_never_travels_unencrypted(self, client_settings: Callable[..., Settings]) -> None:
        with pytest.raises(ServingRefused, match="unencrypted"):
            record_of(SPEC, client_settings(1, tf_serving_url="10.0.0.1:8500", tf_serving_token="s3cret"))

    def test_tls_with_an_authority_of_ones_own(self, tmp_path: Path, client_settings: Callable[..., Settings]) -> None:
        if shutil.which("openssl") is None:
            pytest.skip("needs openssl to make a certificate")
        key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
        names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
        command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *names]
        subprocess.run([*command, "-keyout", key, "-out", certificate], check=True, capture_output=True)
        server = Server()
        server.start(credentials=grpc.ssl_server_credentials([(key.read_bytes(), certificate.read_bytes())]))
        url = f"grpcs://localhost:{server.port}"
        backend = opened(client_settings(0, tf_serving_url=url, tf_serving_ca=certificate, tf_serving_token="s3cret"))
        assert (backend.submit(images(2)).result(30) == wanted(images(2))).all()
        backend.close()
        with pytest.raises(ServingRefused, match="TF_SERVING_CA"):
            record_of(SPEC, client_settings(0, tf_serving_url=url))
        server.stop()
