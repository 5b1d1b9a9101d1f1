"""Models by name: ours, the user's, timm's, custom ones; all without torch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from extractor.models import catalogue, published, weights
from extractor.models.checkpoints.layouts import LAYOUT_NAMES
from shoal.errors import InvalidRequest, PathNotFound, PathOutsideRoot, UnknownModel, WeightsMissing
from shoal.schemas import CustomModel, TransformOverride
from shoal.settings import Settings

PAPER = {
    "resnet50_infomin": ("InfoMin_800.pth", 2048),
    "resnext152_infomin": ("InfoMin_resnext152v1_e200.pth", 2048),
    "resnet50_mocov2": ("MoCov2.pth", 2048),
    "resnet50_swav": ("swav_800ep_pretrain.pth.tar", 2048),
    "tf_efficientnet_l2_ns_475": ("tf_efficientnet_l2.ns_jft_in1k_475.safetensors", 5504),
    "gluon_resnet152_v1s": ("resnet152s.gluon_in1k.safetensors", 2048),
    "ig_resnext101_32x48d": ("ig_resnext101_32x48-3e41cc8a.pth", 2048),
}


def write_catalogue(root: Path, text: str) -> None:
    (root / "catalogue.toml").write_text(text, encoding="utf-8")


def test_no_library_is_loaded_to_find_a_model() -> None:
    code = (
        "import sys; from pathlib import Path; from extractor.models import catalogue; "
        "catalogue.resolve('timm:resnet50', Path('none')); catalogue.all_models(Path('none')); "
        "sys.exit(bool({'torch', 'timm', 'torchvision', 'numpy'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=120).returncode == 0


@pytest.mark.parametrize("name", PAPER)
def test_the_papers_models_are_there(name: str, tmp_path: Path) -> None:
    spec = catalogue.resolve(name, tmp_path)
    assert (spec.weights.files[0], spec.dim) == PAPER[name]
    assert spec.kind == "extract:torch"


def test_the_papers_large_model_keeps_its_own_input(tmp_path: Path) -> None:
    transform = catalogue.resolve("tf_efficientnet_l2_ns_475", tmp_path).transform
    assert (transform.size, transform.crop_fraction, transform.interpolation) == (475, 0.936, "bicubic")


def test_every_row_says_what_a_user_chooses_by(tmp_path: Path) -> None:
    for spec in catalogue.all_models(tmp_path):
        assert spec.description, spec.name
        assert spec.licence, spec.name
        assert spec.dim, spec.name
        assert spec.layout in LAYOUT_NAMES, spec.name
        assert spec.weights.kind == "none" or spec.weights.files, spec.name
        assert spec.readiness(tmp_path) in ("ready", "downloadable", "needs_file")
        assert catalogue.resolve(spec.name, tmp_path) == spec


def test_no_two_models_share_a_file_of_different_weights(tmp_path: Path) -> None:
    seen: dict[str, str] = {}
    for spec in catalogue.all_models(tmp_path):
        for file in spec.weights.files:
            assert seen.setdefault(file, spec.name) == spec.name


def test_the_authors_own_file_is_as_good_as_timms(tmp_path: Path) -> None:
    for name, file in {
        "vit_small16_dino": "dino_deitsmall16_pretrain.pth",
        "vit_base_mae": "mae_pretrain_vit_base.pth",
    }.items():
        spec = catalogue.resolve(name, tmp_path)
        assert (spec.readiness(tmp_path), spec.layout) == ("downloadable", "auto")
        assert spec.weights.files[0].endswith(".safetensors")
        assert "huggingface" in (spec.weights.url or "")
        (tmp_path / file).touch()
        assert weights.locate(spec, tmp_path) == tmp_path / file


def test_a_file_of_ones_own_is_never_downloaded_from_timm(tmp_path: Path) -> None:
    write_catalogue(tmp_path, '[models.mine]\ntimm = "resnet50.a1_in1k"\nfile = "mine.pth"\n')
    spec = catalogue.resolve("mine", tmp_path)
    assert (spec.weights.files[0], spec.weights.url, spec.weights.sha256) == ("mine.pth", None, None)


def test_readiness_follows_the_files(tmp_path: Path) -> None:
    by_hand, by_url = (catalogue.resolve(n, tmp_path) for n in ("resnet50_infomin", "resnet50_swav"))
    assert (by_hand.readiness(tmp_path), by_url.readiness(tmp_path)) == ("needs_file", "downloadable")
    assert by_url.readiness(tmp_path, offline=True) == "needs_file"
    for file in ("InfoMin_800.pth", "swav_800ep_pretrain.pth.tar"):
        (tmp_path / file).touch()
    assert {by_hand.readiness(tmp_path), by_url.readiness(tmp_path)} == {"ready"}
    assert catalogue.resolve("raw_pixels", tmp_path).readiness(tmp_path) == "ready"
    assert catalogue.resolve("tf_efficientnet_lite0", tmp_path).readiness(tmp_path) == "ready"


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("resnet50_infomim", "resnet50_infomin"),
        ("dinov2_smal", "dinov2_small"),
        ("resnet50d", "timm:resnet50d"),
        ("timm:resnet5O", "timm:resnet50"),
        ("timm:resnet50.a1_in2k", "timm:resnet50.a1_in1k"),
    ],
)
def test_an_unknown_name_brings_near_ones(name: str, near: str, tmp_path: Path) -> None:
    with pytest.raises(UnknownModel) as caught:
        catalogue.resolve(name, tmp_path)
    assert near in caught.value.members["near"]
    assert near in caught.value.detail


@pytest.mark.parametrize("name", ["", "timm:", "timm:../resnet50", "handler:", "..", "nothing like it"])
def test_nonsense_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest):
        catalogue.resolve(name, tmp_path)


@pytest.mark.parametrize(
    "name",
    ["x" * 300, "x" * 100_000, "é" * 200, "a\0b", "../x", "a/b", "x/" * 150, "timm:" + "y" * 290, "\ud800", "\n"],
)
def test_a_name_that_no_disk_can_hold_is_an_unknown_model(name: str, tmp_path: Path) -> None:
    with pytest.raises(UnknownModel) as caught:
        catalogue.resolve(name, tmp_path)
    assert len(caught.value.detail) < 800
    with pytest.raises(UnknownModel):
        catalogue.resolve(CustomModel.model_construct(architecture=name, weights="random"), tmp_path)


@pytest.mark.parametrize("path", ["x" * 300, "x/" * 2000, "a\0b", "é" * 200])
def test_weights_of_a_name_that_no_disk_can_hold_are_not_found(path: str, tmp_path: Path) -> None:
    with pytest.raises((PathNotFound, PathOutsideRoot)) as caught:
        catalogue.resolve(CustomModel(architecture="resnet18", weights=path), tmp_path)
    assert str(tmp_path) not in caught.value.detail


def test_a_catalogue_may_name_a_file_that_no_disk_can_hold(tmp_path: Path) -> None:
    write_catalogue(tmp_path, f'[models.a]\narchitecture = "resnet18"\nfile = "{"x" * 300}"\n')
    assert catalogue.resolve("a", tmp_path).readiness(tmp_path) == "needs_file"


def test_any_timm_model_has_a_name(tmp_path: Path) -> None:
    spec = catalogue.resolve("timm:convnext_tiny.in12k", tmp_path)
    assert (spec.dim, spec.transform.crop_fraction, spec.layout) == (768, 0.95, "timm")
    assert spec.weights.url == "https://huggingface.co/timm/convnext_tiny.in12k/resolve/main/model.safetensors"
    assert spec.slug == "timm-convnext_tiny.in12k"
    assert len(published.timm_names()) > 2500


def test_missing_weights_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(WeightsMissing) as caught:
        weights.locate(catalogue.resolve("timm:resnet18.a1_in1k", tmp_path), tmp_path)
    for part in ("resnet18.a1_in1k.safetensors", str(tmp_path), "https://", '"weights": "random"'):
        assert part in caught.value.detail


def test_random_weights_are_a_baseline(tmp_path: Path) -> None:
    spec = catalogue.resolve(CustomModel(architecture="resnet18", weights="random", seed=3), tmp_path)
    assert (spec.seed, spec.dim, spec.weights.kind) == (3, 512, "random")
    assert weights.locate(spec, tmp_path) is None


def test_a_custom_model_takes_over_what_it_leaves_out(tmp_path: Path) -> None:
    (tmp_path / "mine.pth").touch()
    override = TransformOverride(size=96, mean=[0.5, 0.5, 0.5])
    for architecture in ("resnext152_32x4d", "resnext152_infomin"):
        spec = catalogue.resolve(
            CustomModel(architecture=architecture, weights="mine.pth", transform=override, embedding="layer3"), tmp_path
        )
        assert spec.architecture == "resnext152_32x4d"
        assert (spec.transform.size, spec.transform.mean) == (96, (0.5, 0.5, 0.5))
        assert (spec.transform.interpolation, spec.transform.crop_fraction) == ("bilinear", 0.875)
        assert (spec.embedding, spec.dim, spec.layout) == ("layer3", None, "auto")
        assert weights.locate(spec, tmp_path) == tmp_path / "mine.pth"


def test_raw_pixels_may_have_another_size(tmp_path: Path) -> None:
    model = CustomModel(architecture="raw_pixels", weights="random", transform=TransformOverride(size=16))
    assert catalogue.resolve(model, tmp_path).dim == 3 * 16 * 16


def test_custom_weights_stay_below_the_models_root(tmp_path: Path) -> None:
    root = tmp_path / "models"
    (root / "folder").mkdir(parents=True)
    (tmp_path / "secret.pth").touch()
    (root / "link.pth").symlink_to(tmp_path / "secret.pth")
    refused = {
        "../secret.pth": PathOutsideRoot,
        "/etc/passwd": PathOutsideRoot,
        "link.pth": PathOutsideRoot,
        "absent.pth": PathNotFound,
        "folder": InvalidRequest,
    }
    for path, error in refused.items():
        with pytest.raises(error):
            catalogue.resolve(CustomModel(architecture="resnet18", weights=path), root)


def test_a_custom_model_with_an_unknown_part_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnknownModel, match="resnet18"):
        catalogue.resolve(CustomModel(architecture="resnet18x", weights="random"), tmp_path)
    with pytest.raises(InvalidRequest, match="pycontrast"):
        catalogue.resolve(CustomModel(architecture="resnet18", weights="random", layout="pycontras"), tmp_path)


def test_a_users_catalogue_is_merged_over_ours(tmp_path: Path) -> None:
    write_catalogue(
        tmp_path,
        """
        [models.mine]
        architecture = "resnet18"
        file = "runs/mine.pth"
        layout = "moco"
        dim = 512
        transform = { size = 96 }

        [models.resnet50_swav]
        timm = "resnet50.a1_in1k"
        description = "another one of this name"
        """,
    )
    models = {spec.name: spec for spec in catalogue.all_models(tmp_path)}
    assert models["mine"].transform.size == 96
    assert models["resnet50_swav"].description == "another one of this name"
    assert models["resnet50_infomin"].layout == "pycontrast"
    assert catalogue.resolve("mine", tmp_path).weights.files == ("runs/mine.pth",)


def test_a_changed_catalogue_is_read_again(tmp_path: Path) -> None:
    write_catalogue(tmp_path, '[models.mine]\ntimm = "resnet18"\n')
    assert catalogue.resolve("mine", tmp_path).dim == 512
    write_catalogue(tmp_path, '[models.mine]\ntimm = "resnet50.a1_in1k"\n')
    assert catalogue.resolve("mine", tmp_path).dim == 2048


def test_the_environment_may_name_the_catalogue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "elsewhere.toml"
    monkeypatch.setenv("SHOAL_CATALOGUE", str(file))
    with pytest.raises(InvalidRequest, match="SHOAL_CATALOGUE"):
        catalogue.all_models(tmp_path)
    file.write_text('[models.mine]\ntimm = "resnet18"\n')
    assert catalogue.resolve("mine", tmp_path).dim == 512


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[models.a", "not valid TOML"),
        ("[model.a]\nx = 1", "`model`"),
        ('[models.a]\narchitecture = "resnet18"', "give `file`"),
        ('[models.a]\nfile = "x.pth"', "set `architecture`, `timm` or `handler`"),
        ('[models.a]\narchitecture = "resnet18"\nfile = "../x.pth"', "below the models root"),
        ('[models.a]\narchitecture = "resnet18"\nfile = "x.pth"\nsize = 3', "`size`"),
        ('[models.a]\narchitecture = "resnet18"\nfile = "x.pth"\nlayout = "mocov"', "`layout`"),
        ('[models.a]\narchitecture = "resnet18"\nfile = "x.pth"\ndim = "512"', "`dim`"),
        ('[models.a]\narchitecture = "resnet18"\nfile = "x.pth"\ntransform = { mean = [1.0] }', "`transform.mean`"),
        ('[models.a]\ntimm = "resnet18000"', "timm has no model 'resnet18000'"),
        ('[models.a]\narchitecture = "resnet18"\nfile = "x"\nsha256 = "guess"', "`sha256`"),
        ('[models.a]\nhandler = "no class"', "`handler`"),
    ],
)
def test_a_wrong_catalogue_is_refused_with_its_place(text: str, message: str, tmp_path: Path) -> None:
    write_catalogue(tmp_path, text)
    with pytest.raises(InvalidRequest) as caught:
        catalogue.all_models(tmp_path)
    assert message in caught.value.detail
    assert "catalogue.toml" in caught.value.detail


def test_a_handler_needs_the_operators_word(tmp_path: Path) -> None:
    name = "my_models.handlers:Plankton"
    with pytest.raises(InvalidRequest, match="SHOAL_HANDLERS"):
        catalogue.resolve(f"handler:{name}", tmp_path)
    allowed = Settings(handlers=frozenset({name}))
    spec = catalogue.resolve(f"handler:{name}", tmp_path, settings=allowed)
    assert (spec.handler, spec.readiness(tmp_path)) == (name, "ready")
    write_catalogue(tmp_path, f'[models.plankton]\nhandler = "{name}"\ndim = 8\ntransform = {{ size = 64 }}\n')
    assert catalogue.resolve("plankton", tmp_path, settings=allowed).transform.size == 64
    with pytest.raises(InvalidRequest, match="SHOAL_HANDLERS"):
        catalogue.resolve("plankton", tmp_path)
    assert "plankton" in {spec.name for spec in catalogue.all_models(tmp_path)}


def test_the_environment_lists_handlers_with_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOAL_HANDLERS", "a:A, b.c:B ,")
    assert Settings().handlers == {"a:A", "b.c:B"}


@pytest.mark.timeout(30)
def test_a_pipe_or_a_huge_file_in_place_of_a_catalogue_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "catalogue.toml")
    with pytest.raises(InvalidRequest, match=r"catalogue\.toml cannot be read: it is a named pipe"):
        catalogue.all_models(tmp_path)
    (tmp_path / "catalogue.toml").unlink()
    write_catalogue(tmp_path, "")
    os.truncate(tmp_path / "catalogue.toml", 2 << 30)
    with pytest.raises(InvalidRequest, match=r"catalogue\.toml is too large"):
        catalogue.all_models(tmp_path)


@pytest.mark.timeout(30)
def test_weights_that_are_no_file_are_refused_for_what_they_are(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.pth")
    (tmp_path / "folder").mkdir()
    for name, kind in (("pipe.pth", "a named pipe"), ("folder", "a folder")):
        with pytest.raises(InvalidRequest, match=f"`weights` is '{name}': it is {kind}"):
            catalogue.resolve(CustomModel(architecture="resnet18", weights=name), tmp_path)
