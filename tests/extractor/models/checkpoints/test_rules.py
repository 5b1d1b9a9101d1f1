"""A prefix, renamings and left-over tensors that a model's description names: applied to the letter, and on record."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from extractor.models import catalogue
from extractor.models.checkpoints.loading import load_into
from extractor.models.checkpoints.matching import Match
from extractor.pipeline import extract
from shoal.errors import InvalidRequest, WeightsInvalid
from shoal.jobs.child import JobContext
from shoal.schemas import CustomModel
from shoal.settings import Settings
from shoal.store import Plan, Store
from shoal.store.records import KeyRules, plan_id
from torch import Tensor, nn

from tests.extractor.conftest import Make
from tests.extractor.models.checkpoints.test_checkpoints import embed, moco_v2, ours, prefixed, randomised, write

State = dict[str, Tensor]
IMAGES = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def backbone() -> nn.Module:
    return randomised(ours())


def load(tmp_path: Path, content: Any, **rules: Any) -> tuple[nn.Module, Match]:
    network = ours()
    report = load_into(network, write(tmp_path / "c.pth", content), "auto", KeyRules(**rules))
    return network, report


def test_a_prefix_says_where_the_network_is(backbone: nn.Module, tmp_path: Path) -> None:
    b = dict(backbone.state_dict())
    content = {**prefixed("mine.deep.", b), **prefixed("other.", {k: v * 0 for k, v in b.items()})}
    network, report = load(tmp_path, content, prefix="mine.deep.")
    torch.testing.assert_close(embed(network, IMAGES), embed(backbone, IMAGES))
    assert set(report.ignored) == {f"other.{name}" for name in b}


@pytest.mark.parametrize("prefix", ["model.mine.", "module.mine.", "mine."])
def test_a_prefix_may_name_the_part_of_the_file_and_its_wrapper(
    prefix: str, backbone: nn.Module, tmp_path: Path
) -> None:
    content = {"model": prefixed("module.mine.", dict(backbone.state_dict())), "epoch": 3}
    network, report = load(tmp_path, content, prefix=prefix)
    assert report.container == "model"
    torch.testing.assert_close(embed(network, IMAGES), embed(backbone, IMAGES))


def test_a_prefix_leads_into_a_part_that_no_layout_knows(backbone: nn.Module, tmp_path: Path) -> None:
    content = {"nets": {"online": prefixed("f.", dict(backbone.state_dict())), "target": {"x": torch.zeros(3)}}}
    with pytest.raises(WeightsInvalid, match="nets/target"):
        load(tmp_path, content, prefix="nets.online.f.")
    network, report = load(tmp_path, content, prefix="nets.online.f.", ignore=["target"])
    assert report.container == "nets/online"
    torch.testing.assert_close(embed(network, IMAGES), embed(backbone, IMAGES))


def test_a_prefix_that_no_key_has_is_an_error_that_names_it(backbone: nn.Module, tmp_path: Path) -> None:
    with pytest.raises(WeightsInvalid, match=r"'encoder_x\.'"):
        load(tmp_path, dict(backbone.state_dict()), prefix="encoder_x.")


def test_renamings_apply_one_after_the_other(backbone: nn.Module, tmp_path: Path) -> None:
    content = {}
    for name, tensor in backbone.state_dict().items():
        name = name.replace("layer", "stages.")
        content["trunk." + name.replace("conv", "c").replace("bn", "n")] = tensor
    rename = [("trunk.", ""), (r"^stages\.(\d)\.", r"layer\1."), (r"^(layer\d\.\d\.)?c(\d)", r"\1conv\2")]
    network, report = load(tmp_path, content, rename=[*rename, (r"^(layer\d\.\d\.)?n(\d)", r"\1bn\2")])
    torch.testing.assert_close(embed(network, IMAGES), embed(backbone, IMAGES))
    assert ("trunk.stages.1.0.c1.weight", "layer1.0.conv1.weight") in report.renamed
    assert len(report.renamed) == len(content)


def test_rules_come_before_the_layout(backbone: nn.Module, tmp_path: Path) -> None:
    content = {"state_dict": prefixed("wrapped.", moco_v2(dict(backbone.state_dict()))["state_dict"])}
    network, report = load(tmp_path, content, rename=[("wrapped.", "")])
    assert report.layout.name == "moco"
    torch.testing.assert_close(embed(network, IMAGES), embed(backbone, IMAGES))


def test_what_is_ignored_is_left_over_and_on_record(backbone: nn.Module, tmp_path: Path) -> None:
    content = {**backbone.state_dict(), "aux.weight": torch.zeros(3), "ema.bn.weight": torch.zeros(3)}
    with pytest.raises(WeightsInvalid, match=r"aux\.weight.*`ignore`"):
        load(tmp_path, content)
    _, report = load(tmp_path, content, ignore=["aux.", "*.bn.weight"])
    assert set(report.ignored) == {"aux.weight", "ema.bn.weight"}


def test_ignoring_lets_no_tensor_of_the_network_be_missing(backbone: nn.Module, tmp_path: Path) -> None:
    content = dict(backbone.state_dict())
    network, report = load(tmp_path, content, ignore=["layer", "conv1.weight"])
    assert report.ignored == []
    torch.testing.assert_close(embed(network, IMAGES), embed(backbone, IMAGES))
    content["layer1.0.conv1.wait"] = content.pop("layer1.0.conv1.weight")
    with pytest.raises(WeightsInvalid) as caught:
        load(tmp_path, content, ignore=["layer"])
    assert caught.value.members["missing"] == ["layer1.0.conv1.weight"]
    assert caught.value.members["ignored"] == ["layer1.0.conv1.wait"]


def test_two_keys_of_one_new_name_are_refused(backbone: nn.Module, tmp_path: Path) -> None:
    content = {**backbone.state_dict(), "copy.conv1.weight": torch.zeros(64, 3, 7, 7)}
    with pytest.raises(WeightsInvalid, match=r"Unexpected \(1\): copy\.conv1\.weight"):
        load(tmp_path, content, rename=[("copy.", "")])


def test_a_refusal_names_what_was_renamed_and_which_patterns_fit_nothing(backbone: nn.Module, tmp_path: Path) -> None:
    content = prefixed("a.", dict(backbone.state_dict()))
    with pytest.raises(WeightsInvalid) as caught:
        load(tmp_path, content, rename=[("a.conv1.", "conv1."), ("b.", "")])
    assert "a.conv1.weight to conv1.weight" in caught.value.members["renamed"]
    assert "Patterns of `rename` that fit no key (1): b." in caught.value.detail


def test_a_catalogue_may_hold_rules(tmp_path: Path) -> None:
    (tmp_path / "mine.pth").touch()
    (tmp_path / "catalogue.toml").write_text(
        '[models.mine]\narchitecture = "resnet18"\nfile = "mine.pth"\nprefix = "net."\n'
        'rename = [["a.", "b."]]\nignore = ["queue*"]\n'
        '[models.too]\narchitecture = "resnet18"\nfile = "mine.pth"\nrename = { "a." = "b." }\n'
    )
    spec = catalogue.resolve("mine", tmp_path)
    assert (spec.prefix, spec.rename, spec.ignore) == ("net.", (("a.", "b."),), ("queue*",))
    assert catalogue.resolve("too", tmp_path).rename == (("a.", "b."),)
    (tmp_path / "catalogue.toml").write_text(
        '[models.mine]\narchitecture = "resnet18"\nfile = "mine.pth"\nignore = ["^(a+)+"]\n'
    )
    with pytest.raises(InvalidRequest, match="`ignore"):
        catalogue.resolve("mine", tmp_path)


class TestOnRecord:
    @pytest.fixture
    def model(self, settings: Settings, make: Make) -> dict[str, Any]:
        import timm

        make("a/0.png", 0)
        state = timm.create_model("resnet18", num_classes=0).state_dict()
        content = {"state_dict": {**prefixed("module.encoder_q.", state), "module.extra": torch.zeros(3)}}
        torch.save(content, settings.models / "mine.pth")
        return {"architecture": "resnet18", "weights": "mine.pth", "ignore": ["extra"]}

    @pytest.fixture
    def run(self, settings: Settings) -> Any:
        def run(model: dict[str, Any], **context: Any) -> str:
            body = {"images": {"path": "set"}, "model": model}
            return extract(JobContext.local(body, kind="extract:torch", **context), settings)["embeddings"]

        return run

    def test_the_layout_that_was_found_and_what_was_ignored(
        self, model: dict[str, Any], run: Any, settings: Settings
    ) -> None:
        record = Store(settings.store).embeddings(run(model)).summary()["model"]
        assert record["layout"] == "moco"
        assert record["keys"]["ignore"] == ("extra",) or record["keys"]["ignore"] == ["extra"]
        assert list(record["loaded"]["ignored"]) == ["module.extra"]
        assert (record["loaded"]["asked_layout"], record["loaded"]["container"]) == ("auto", "state_dict")

    def test_the_folder_of_the_file_which_makes_no_other_set(
        self, model: dict[str, Any], run: Any, settings: Settings
    ) -> None:
        store = Store(settings.store)
        assert "file" not in store.embeddings(run(model)).summary()["model"]["loaded"]
        found = run(model)
        store.delete_embeddings(found)
        (settings.models / "runs/7").mkdir(parents=True)
        (settings.models / "mine.pth").rename(settings.models / "runs/7/mine.pth")
        assert run({**model, "weights": "runs/7/mine.pth"}) == found
        assert store.embeddings(found).summary()["model"]["loaded"]["file"] == "runs/7/mine.pth"

    def test_a_set_from_before_is_found_again_and_gone_on_with(
        self, model: dict[str, Any], run: Any, settings: Settings
    ) -> None:
        store = Store(settings.store)
        found = run(model)
        file = store.layout.embeddings(found).plan
        document = Plan.model_validate_json(file.read_text()).model_dump(mode="json")
        del document["model"]["loaded"]
        document["model"]["layout"] = "auto"
        assert plan_id(document) == found
        assert run(model) == found
        assert run(model, checkpoint={"embeddings": found}) == found
        assert store.verify(found).problems == []

    def test_a_record_without_rules_is_as_before(self) -> None:
        from shoal.store import ModelRecord

        record = ModelRecord(name="m", backend="torch", architecture="a", embedding="pooled")
        assert set(record.model_dump()) == {
            *("name", "backend", "architecture", "weights_sha256", "weights_file", "layout", "embedding", "seed")
        }

    def test_other_rules_make_another_set(self, model: dict[str, Any], run: Any) -> None:
        assert run(model) != run({**model, "ignore": ["extra", "none"]})

    def test_a_checkpoint_that_does_not_fit_leaves_no_set_behind(
        self, model: dict[str, Any], run: Any, settings: Settings
    ) -> None:
        with pytest.raises(WeightsInvalid):
            run({**model, "ignore": []})
        assert Store(settings.store).embeddings_ids() == []


def test_a_custom_model_carries_its_rules(tmp_path: Path) -> None:
    (tmp_path / "mine.pth").touch()
    model = CustomModel(architecture="resnet18", weights="mine.pth", prefix="a.", rename={"b": "c"}, ignore=["d"])
    spec = catalogue.resolve(model, tmp_path)
    assert (spec.prefix, spec.rename, spec.ignore) == ("a.", (("b", "c"),), ("d",))
