"""The server over real TensorFlow, asked by the client and by plain gRPC."""

from __future__ import annotations

import queue
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import grpc
import numpy as np
import pytest
from extractor.backends.tfserving import TFServingBackend, record_of
from extractor.images.transform import Transform
from extractor.models.spec import ModelSpec, WeightsSource
from extractor.tf_serving.batching import BatchLimits
from extractor.tf_serving.protos import (
    GetModelMetadataRequest,
    GetModelStatusRequest,
    ModelServiceStub,
    ModelVersionStatus,
    PredictionServiceStub,
    PredictRequest,
    SignatureDefMap,
    from_proto,
    to_proto,
)
from grpc_health.v1 import health_pb2, health_pb2_grpc
from shoal.errors import ModelMismatch, ModelNotServed
from shoal.settings import Settings

SIZE = 8
SPEC = ModelSpec("mean", "tfserving", "toy", WeightsSource("served", files=("mean",)), Transform(size=SIZE), dim=3)


@pytest.fixture(scope="module")
def root(tf: Any, builders: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``mean`` gives the mean colour, in version 10 a hundredfold; ``broken`` is a damaged file."""
    path = tmp_path_factory.mktemp("served")
    builders.plain_tf2(path / "mean" / "9", lambda x: tf.reduce_mean(x, [1, 2]), size=SIZE)
    builders.plain_tf2(path / "mean" / "10", lambda x: 100 * tf.reduce_mean(x, [1, 2]), size=SIZE)
    builders.plain_tf2(path / "floats" / "1", lambda x: tf.reduce_max(x, [1, 2]), dtype="float32")
    (path / "broken" / "1").mkdir(parents=True)
    (path / "broken" / "1" / "saved_model.pb").write_bytes(b"\xff\xff")
    return path


@pytest.fixture(scope="module")
def server(tf: Any, root: Path) -> Iterator[Any]:
    from extractor.tf_serving.server import SavedModelServer

    made = SavedModelServer(root, limits=BatchLimits(rows=16))
    made.start()
    yield made
    made.stop(grace_s=0)


@pytest.fixture
def settings(server: Any, client_settings: Callable[..., Settings]) -> Settings:
    return client_settings(server.port, tf_serving_in_flight=4)


@pytest.fixture
def channel(server: Any) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(f"127.0.0.1:{server.port}") as opened:
        yield opened


def images(n: int) -> np.ndarray:
    return np.random.default_rng(n).integers(0, 256, (n, SIZE, SIZE, 3), dtype=np.uint8)


def predict(channel: grpc.Channel, pixels: np.ndarray, name: str = "mean", **fields: Any) -> Any:
    request = PredictRequest(output_filter=fields.get("outputs", []))
    request.model_spec.name = name
    request.model_spec.signature_name = fields.get("signature", "")
    if "version" in fields:
        request.model_spec.version.value = fields["version"]
    request.inputs[fields.get("input", "images")].CopyFrom(to_proto(pixels))
    return PredictionServiceStub(channel).Predict(request, timeout=60)


def refused(code: grpc.StatusCode, call: Callable[[], Any]) -> str:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    assert caught.value.code() == code
    return str(caught.value.details())


class TestPredict:
    def test_the_highest_version_answers_unless_another_is_named(self, channel: grpc.Channel) -> None:
        pixels = images(3)
        latest = predict(channel, pixels)
        assert np.allclose(from_proto(latest.outputs["embedding"]), 100 * pixels.mean(axis=(1, 2)), rtol=1e-5)
        assert latest.model_spec.version.value == 10
        older = predict(channel, pixels, version=9)
        assert np.allclose(from_proto(older.outputs["embedding"]), pixels.mean(axis=(1, 2)), rtol=1e-5)
        assert older.model_spec.version.value == 9

    def test_the_answer_is_bytes(self, channel: grpc.Channel) -> None:
        assert predict(channel, images(2)).outputs["embedding"].tensor_content

    def test_requests_at_the_same_time_get_their_own_rows(self, channel: grpc.Channel) -> None:
        batches = [images(n) for n in (1, 2, 3, 1, 5, 40, 1, 1, 2, 7)]
        with ThreadPoolExecutor(len(batches)) as threads:
            answers = list(threads.map(lambda pixels: predict(channel, pixels, version=9), batches))
        for pixels, answer in zip(batches, answers, strict=True):
            assert np.allclose(from_proto(answer.outputs["embedding"]), pixels.mean(axis=(1, 2)), rtol=1e-5)

    @pytest.mark.parametrize(
        ("fields", "code", "message"),
        [
            ({"name": "nobody"}, grpc.StatusCode.NOT_FOUND, "nobody"),
            ({"name": "../served/mean"}, grpc.StatusCode.NOT_FOUND, "not found"),
            ({"version": 8}, grpc.StatusCode.NOT_FOUND, "mean, 8"),
            ({"signature": "classify"}, grpc.StatusCode.INVALID_ARGUMENT, "serving_default"),
            ({"input": "pixels"}, grpc.StatusCode.INVALID_ARGUMENT, "images"),
            ({"outputs": ["logits"]}, grpc.StatusCode.INVALID_ARGUMENT, "embedding"),
            ({"name": "broken"}, grpc.StatusCode.FAILED_PRECONDITION, "cannot be loaded"),
        ],
    )
    def test_what_cannot_be_answered(
        self, channel: grpc.Channel, fields: dict[str, Any], code: grpc.StatusCode, message: str
    ) -> None:
        assert message in refused(code, lambda: predict(channel, images(1), **fields))

    @pytest.mark.parametrize(
        ("pixels", "message"),
        [
            (np.zeros((1, SIZE, SIZE, 3), np.float32), "float32, not uint8"),
            (np.zeros((1, SIZE, SIZE + 1, 3), np.uint8), "[1, 8, 9, 3]"),
            (np.zeros((SIZE, SIZE, 3), np.uint8), "shape"),
            (np.zeros((0, SIZE, SIZE, 3), np.uint8), "no rows"),
        ],
    )
    def test_inputs_that_do_not_fit(self, channel: grpc.Channel, pixels: np.ndarray, message: str) -> None:
        assert message in refused(grpc.StatusCode.INVALID_ARGUMENT, lambda: predict(channel, pixels))

    def test_too_much_at_once_is_for_later(self, serve: Callable[..., Any], root: Path) -> None:
        server = serve(root, limits=BatchLimits(waiting_rows=1, threads=0))  # Nobody works, so everything waits.
        with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            request = PredictRequest()
            request.model_spec.name = "mean"
            request.inputs["images"].CopyFrom(to_proto(images(1)))
            done: queue.SimpleQueue[Any] = queue.SimpleQueue()
            for _ in range(2):
                PredictionServiceStub(channel).Predict.future(request, timeout=60).add_done_callback(done.put)
            assert done.get(timeout=60).code() == grpc.StatusCode.RESOURCE_EXHAUSTED


class TestDescriptions:
    def test_metadata(self, channel: grpc.Channel) -> None:
        request = GetModelMetadataRequest(metadata_field=["signature_def"])
        request.model_spec.name = "mean"
        response = PredictionServiceStub(channel).GetModelMetadata(request, timeout=60)
        found = SignatureDefMap()
        assert response.metadata["signature_def"].Unpack(found)
        assert response.model_spec.version.value == 10
        assert list(found.signature_def) == ["serving_default"]
        shape = found.signature_def["serving_default"].inputs["images"].tensor_shape
        assert [dim.size for dim in shape.dim] == [-1, SIZE, SIZE, 3]

    def test_only_signatures_are_described(self, channel: grpc.Channel) -> None:
        request = GetModelMetadataRequest(metadata_field=["weights"])
        request.model_spec.name = "mean"
        stub = PredictionServiceStub(channel)
        refused(grpc.StatusCode.INVALID_ARGUMENT, lambda: stub.GetModelMetadata(request, timeout=60))

    def status(self, channel: grpc.Channel, name: str) -> Any:
        request = GetModelStatusRequest()
        request.model_spec.name = name
        (status,) = ModelServiceStub(channel).GetModelStatus(request, timeout=60).model_version_status
        return status

    def test_status_of_a_model(self, channel: grpc.Channel, wait_until: Callable[..., None]) -> None:
        wait_until(lambda: self.status(channel, "floats").state == ModelVersionStatus.AVAILABLE)
        assert self.status(channel, "floats").version == 1

    def test_status_of_a_model_that_cannot_be_loaded(
        self, channel: grpc.Channel, wait_until: Callable[..., None]
    ) -> None:
        wait_until(lambda: self.status(channel, "broken").state == ModelVersionStatus.END)
        assert "cannot be loaded" in self.status(channel, "broken").status.error_message

    def test_status_of_a_model_that_is_not_there(self, channel: grpc.Channel) -> None:
        refused(grpc.StatusCode.NOT_FOUND, lambda: self.status(channel, "nobody"))

    @pytest.mark.parametrize("service", ["", "tensorflow.serving.PredictionService"])
    def test_health(self, channel: grpc.Channel, service: str) -> None:
        answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=service), timeout=30)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING


class TestBackend:
    def test_rows_are_the_networks(self, settings: Settings) -> None:
        backend = TFServingBackend(SPEC, settings, record_of(SPEC, settings))
        batches = [images(n) for n in (64, 64, 64, 17)]
        running = [backend.submit(pixels) for pixels in batches]
        for pixels, future in zip(batches, running, strict=True):
            assert np.allclose(future.result(60), 100 * pixels.mean(axis=(1, 2)), rtol=1e-5)
        backend.close()
        assert (backend.dim, backend.record.weights_file) == (3, "mean/10")

    def test_a_new_version_is_served_without_a_restart_and_does_not_disturb_who_uses_the_old_one(
        self, root: Path, settings: Settings
    ) -> None:
        backend = TFServingBackend(SPEC, settings, record_of(SPEC, settings))
        shutil.copytree(root / "mean" / "9", root / "mean" / "11")
        try:
            assert record_of(SPEC, settings).weights_file == "mean/11"
            assert np.allclose(backend.submit(images(2)).result(60), 100 * images(2).mean(axis=(1, 2)), rtol=1e-5)
        finally:
            backend.close()
            shutil.rmtree(root / "mean" / "11")

    @pytest.mark.parametrize(
        ("changes", "error", "message"),
        [
            ({"dim": 5}, ModelMismatch, "width 3, but the catalogue says 5"),
            ({"transform": Transform(size=16)}, ModelMismatch, "shape"),
            ({"name": "nobody"}, ModelNotServed, "nobody"),
            ({"name": "broken"}, ModelNotServed, "cannot be loaded"),
        ],
    )
    def test_a_model_that_is_not_what_the_catalogue_says(
        self, settings: Settings, changes: dict[str, Any], error: type[Exception], message: str
    ) -> None:
        spec = ModelSpec(**{**vars(SPEC), **changes})
        with pytest.raises(error, match=message):
            TFServingBackend(spec, settings, record_of(spec, settings))
