from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from extractor.models import catalogue
from extractor.tf_import.export import write_configs
from extractor.tf_import.importing import ImportReport, import_savedmodel
from extractor.tf_serving.protos import PredictionLog
from google.protobuf import text_format
from shoal.errors import ImportInvalid
from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

SIZE = 32


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return tmp_path / "source"


@pytest.fixture(scope="module")
def simclr(builders: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SimCLR's hub module."""
    path = tmp_path_factory.mktemp("simclr") / "hub"
    builders.simclr_hub(path)
    return path


@pytest.fixture(scope="module")
def bigbigan(builders: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """BigBiGAN's hub module."""
    path = tmp_path_factory.mktemp("bigbigan") / "hub"
    builders.bigbigan_hub(path, size=SIZE)
    return path


@pytest.fixture(scope="module")
def report(bigbigan: Path, tmp_path_factory: pytest.TempPathFactory) -> ImportReport:
    """BigBiGAN imported as ``mine`` into a models root of its own."""
    return import_savedmodel("mine", bigbigan, tmp_path_factory.mktemp("models"))


@pytest.fixture
def models(tmp_path: Path) -> Path:
    path = tmp_path / "models"
    path.mkdir()
    return path


@pytest.fixture
def pixels() -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (5, SIZE, SIZE, 3), dtype=np.uint8)


def served(tf: Any, report: ImportReport, pixels: np.ndarray) -> np.ndarray:
    signature = tf.saved_model.load(report.folder).signatures["serving_default"]
    return signature(images=tf.constant(pixels))["embedding"].numpy()


class TestLayouts:
    """Each layout gives, from pixels of 0 to 255, what its source gives from images scaled as its publisher says."""

    @pytest.mark.parametrize(
        "options",
        [
            {},
            {"width": 3, "selective": True},
            {"use_resource": True},
            {"shards": 2},
        ],
        ids=["reference variables", "wide, selective kernels", "resource variables", "partitioned variables"],
    )
    def test_simclr_hub_module(
        self, tf: Any, builders: ModuleType, source: Path, models: Path, pixels: np.ndarray, options: dict[str, Any]
    ) -> None:
        builders.simclr_hub(source, **options)
        report = import_savedmodel("mine", source, models, transform={"size": SIZE})
        wanted = builders.session_output(source, "default", "final_avg_pool", pixels.astype(np.float32) / 255)
        got = served(tf, report, pixels)
        assert got.dtype == np.float32
        assert np.abs(got - wanted).max() <= 1e-4
        assert np.ptp(got) > 0.1
        assert (report.layout, report.signature, report.output) == ("tf1-hub", "default", "final_avg_pool")

    @pytest.mark.parametrize("options", [{}, {"width": 3, "selective": True}], ids=["sk0", "sk1, wide"])
    def test_simclr2_tf2_directory(
        self, tf: Any, builders: ModuleType, source: Path, models: Path, pixels: np.ndarray, options: dict[str, Any]
    ) -> None:
        builders.simclr_tf2(source, **options)
        report = import_savedmodel("mine", source, models, transform={"size": SIZE})
        wanted = builders.call_output(source, "final_avg_pool", pixels.astype(np.float32) / 255)
        assert np.abs(served(tf, report, pixels) - wanted).max() <= 1e-4
        assert (report.layout, report.signature, report.output) == ("tf2", "__call__", "final_avg_pool")

    @pytest.mark.parametrize("output", [None, "z_mean"])
    def test_bigbigan_hub_module(
        self, tf: Any, builders: ModuleType, bigbigan: Path, models: Path, pixels: np.ndarray, output: str | None
    ) -> None:
        report = import_savedmodel("mine", bigbigan, models, output=output)
        scaled = pixels.astype(np.float32) / 127.5 - 1
        wanted = builders.session_output(bigbigan, "encode", output or "avepool_feat", scaled)
        assert np.abs(served(tf, report, pixels) - wanted).max() <= 1e-4
        assert report.signature == "encode"
        assert report.dim == wanted.shape[1]

    @pytest.mark.parametrize("use_resource", [True, False], ids=["resource variables", "reference variables"])
    @pytest.mark.parametrize("in_signature", [True, False], ids=["input", "default"])
    def test_a_graph_with_a_switch_for_training(
        self,
        tf: Any,
        builders: ModuleType,
        source: Path,
        models: Path,
        pixels: np.ndarray,
        use_resource: bool,
        in_signature: bool,
    ) -> None:
        builders.switched_tf1(source, use_resource=use_resource, in_signature=in_signature)
        report = import_savedmodel("mine", source, models, transform={"size": SIZE})
        projected = (pixels[:, ::2, ::2] / 255) @ (np.eye(3, 6) + 0.1)
        wanted = np.maximum((projected - 0.1) / np.sqrt(0.8 + 1e-3), 0).mean(axis=(1, 2))
        assert np.abs(served(tf, report, pixels) - wanted).max() <= 1e-4
        assert (report.layout, report.signature, report.output) == ("tf1", "features", "features")

    def test_a_signature_of_a_tf2_directory(
        self, tf: Any, builders: ModuleType, source: Path, models: Path, pixels: np.ndarray
    ) -> None:
        builders.plain_tf2(source, lambda x: tf.reduce_mean(x, [1, 2]), dtype="float32")
        report = import_savedmodel("mine", source, models, transform={"size": SIZE})
        assert np.abs(served(tf, report, pixels) - pixels.mean(axis=(1, 2)) / 255).max() <= 1e-5

    def test_a_model_that_scales_its_pixels_itself_is_left_to_it(
        self, tf: Any, builders: ModuleType, source: Path, models: Path, pixels: np.ndarray
    ) -> None:
        builders.plain_tf2(source, lambda x: tf.reduce_max(x, [1, 2]), size=SIZE)
        report = import_savedmodel("mine", source, models)
        assert (served(tf, report, pixels) == pixels.max(axis=(1, 2))).all()

    def test_float32_holds_the_same_pixel_values(
        self, tf: Any, builders: ModuleType, simclr: Path, models: Path, pixels: np.ndarray
    ) -> None:
        report = import_savedmodel("mine", simclr, models, dtype="float32", transform={"size": SIZE})
        wanted = builders.session_output(simclr, "default", "default", pixels.astype(np.float32) / 255)
        assert np.abs(served(tf, report, pixels.astype(np.float32)) - wanted).max() <= 1e-4


class TestFolder:
    @pytest.fixture
    def root(self, report: ImportReport) -> Path:
        return Path(report.folder).parents[1]

    def test_one_signature_that_says_what_it_takes_and_gives(self, tf: Any, report: ImportReport) -> None:
        loaded = tf.saved_model.load(report.folder)
        assert list(loaded.signatures) == ["serving_default"]
        signature = loaded.signatures["serving_default"]
        assert signature.structured_input_signature[1] == {
            "images": tf.TensorSpec([None, SIZE, SIZE, 3], tf.uint8, name="images")
        }
        assert signature.structured_outputs["embedding"].shape.as_list() == [None, report.dim]

    def test_warm_up_requests_are_what_the_signature_takes(self, tf: Any, report: ImportReport) -> None:
        path = Path(report.folder) / "assets.extra" / "tf_serving_warmup_requests"
        logs = [PredictionLog.FromString(r.numpy()) for r in tf.data.TFRecordDataset(str(path))]
        assert logs
        signature = tf.saved_model.load(report.folder).signatures["serving_default"]
        for log in logs:
            request = log.predict_log.request
            assert request.model_spec.name == "mine"
            assert signature(images=tf.make_ndarray(request.inputs["images"]))["embedding"].shape[1] == report.dim

    def test_the_server_is_told_of_every_model(self, report: ImportReport, root: Path) -> None:
        shutil.copytree(root / "mine", root / "other")
        write_configs(root)
        config = text_format.Parse((root / "model.config").read_text(), ModelServerConfig())
        assert [(c.name, c.base_path, c.model_platform) for c in config.model_config_list.config] == [
            ("mine", "/models/mine", "tensorflow"),
            ("other", "/models/other", "tensorflow"),
        ]
        assert (root / "batching.config").is_file()

    def test_the_model_can_be_asked_for_by_its_name(self, report: ImportReport, root: Path) -> None:
        spec = catalogue.resolve("mine", root)
        assert (spec.kind, spec.dim, spec.embedding) == ("extract:tfserving", report.dim, "avepool_feat")
        assert spec.transform.size == SIZE
        assert spec.transform.mean == (0.5, 0.5, 0.5)
        assert spec.transform.crop_fraction == 1.0
        assert spec.readiness(root) == "ready"
        assert "mine" in [each.name for each in catalogue.all_models(root)]

    def test_a_second_import_is_the_next_version_and_may_be_another_model(
        self, report: ImportReport, bigbigan: Path, root: Path
    ) -> None:
        again = import_savedmodel("mine", bigbigan, root, output="z_mean", transform={"crop_fraction": 0.5})
        assert (report.version, again.version) == (1, 2)
        assert sorted(p.name for p in (root / "mine").iterdir()) == ["1", "2"]
        spec = catalogue.resolve("mine", root)
        assert (spec.dim, spec.embedding, spec.transform.crop_fraction) == (8, "z_mean", 0.5)


class TestRefused:
    """What is wrong is said, and nothing is left in the models root."""

    @pytest.fixture
    def refused(self, models: Path) -> Callable[..., ImportInvalid]:
        def run(source: Path, match: str, name: str = "mine", **options: Any) -> ImportInvalid:
            with pytest.raises(ImportInvalid, match=match) as caught:
                import_savedmodel(name, source, models, **options)
            assert [path for path in models.rglob("*") if path.name != "__pycache__"] == []
            return caught.value

        return run

    def test_wishes_that_cannot_be_met(self, simclr: Path, refused: Callable[..., ImportInvalid]) -> None:
        error = refused(simclr, "Its signatures: default", signature="encode")
        assert error.members["signatures"] == ["default"]
        error = refused(simclr, "final_avg_pool", output="avepool_feat", transform={"size": SIZE})
        assert "final_avg_pool" in error.members["outputs"]
        refused(simclr, r"expected \(N, dim\)", output="block_group4")
        refused(simclr, "greater than or equal to 8", transform={"size": 1})

    def test_a_random_output_unless_it_is_asked_for_by_name(
        self, bigbigan: Path, models: Path, refused: Callable[..., ImportInvalid]
    ) -> None:
        refused(bigbigan, "random", signature="default")
        report = import_savedmodel("mine", bigbigan, models, output="z_sample")
        assert not report.checks.deterministic

    def test_a_model_for_training_only(
        self, builders: ModuleType, source: Path, refused: Callable[..., ImportInvalid]
    ) -> None:
        builders.bigbigan_hub(source, tag_sets={("train",): True}, size=SIZE)
        refused(source, "for inference, only")

    def test_a_loop_that_cannot_be_carried_over(
        self, tf: Any, builders: ModuleType, source: Path, refused: Callable[..., ImportInvalid]
    ) -> None:
        builders.looping_tf1(source)
        refused(source, "branches or loops", transform={"size": SIZE})

    def test_a_graph_in_training_mode(
        self, tf: Any, builders: ModuleType, source: Path, refused: Callable[..., ImportInvalid]
    ) -> None:
        builders.bigbigan_hub(source, tag_sets={(): True}, size=SIZE)
        error = refused(source, "training mode")
        assert error.members["batch_difference"] > 0.01

    def test_embeddings_that_are_not_finite(
        self, tf: Any, builders: ModuleType, source: Path, refused: Callable[..., ImportInvalid]
    ) -> None:
        builders.plain_tf2(source, lambda x: tf.math.log(-tf.reduce_mean(x, [1, 2]) - 1), dtype="float32")
        refused(source, "not finite", transform={"size": SIZE})

    def test_another_width_than_the_catalogues(self, simclr: Path, refused: Callable[..., ImportInvalid]) -> None:
        error = refused(simclr, "has 128 dimensions, but resnet50_simclr has 2048", name="resnet50_simclr")
        assert (error.members["dim"], error.members["expected"]) == (128, 2048)

    def test_another_size_than_the_catalogues(self, bigbigan: Path, refused: Callable[..., ImportInvalid]) -> None:
        refused(bigbigan, "32 x 32 pixels", name="resnet50_bigbigan")

    def test_names_that_cannot_be(self, simclr: Path, refused: Callable[..., ImportInvalid]) -> None:
        refused(simclr, "is not a model name", name="../mine")
        refused(simclr, "torch backend", name="raw_pixels")

    def test_missing_and_damaged_variables(
        self, simclr: Path, source: Path, refused: Callable[..., ImportInvalid]
    ) -> None:
        shutil.copytree(simclr, source)
        data = source / "variables" / "variables.data-00000-of-00001"
        data.write_bytes(data.read_bytes()[:1000])
        refused(source, "embed|read", transform={"size": SIZE})
        (source / "variables" / "variables.index").unlink()
        refused(source, "embed|read", transform={"size": SIZE})


def test_bigbigan_resnets_of_the_catalogue_are_fed_as_their_publisher_feeds_them(models: Path) -> None:
    for name, dim in (("resnet50_bigbigan", 2048), ("revnet50x4_bigbigan", 8192)):
        spec = catalogue.resolve(name, models)
        assert (spec.transform.size, spec.dim, spec.embedding) == (256, dim, "avepool_feat")
        # (pixels / 255 - 0.5) / 0.5 is in [-1, 1].
        assert (spec.transform.mean, spec.transform.std) == ((0.5,) * 3, (0.5,) * 3)


@pytest.mark.parametrize(
    ("name", "dim"),
    [
        ("resnet50_simclr", 2048),
        ("resnet50x4_simclr", 8192),
        ("resnet50_simclr2", 2048),
        ("resnet152_simclr2", 2048),
        ("resnet152x3_simclr2", 6144),
    ],
)
def test_simclrs_of_the_catalogue(models: Path, name: str, dim: int) -> None:
    spec = catalogue.resolve(name, models)
    assert (spec.transform.size, spec.dim, spec.embedding, spec.kind) == (
        224,
        dim,
        "final_avg_pool",
        "extract:tfserving",
    )
    assert (spec.transform.mean, spec.transform.std, spec.transform.crop_mode) == ((0.0,) * 3, (1.0,) * 3, "center")
    assert (spec.readiness(models), spec.readiness(models, offline=True)) == ("downloadable", "needs_file")
