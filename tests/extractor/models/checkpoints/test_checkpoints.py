"""Checkpoints as their authors' code writes them: read whole, refused with the key named when anything is off."""

from __future__ import annotations

import argparse
import pickle
import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torchvision
from extractor.models import architectures
from extractor.models.checkpoints.layouts import LAYOUTS
from extractor.models.checkpoints.loading import load_into
from safetensors.torch import save_file
from shoal.errors import WeightsInvalid
from torch import Tensor, nn

State = dict[str, Tensor]
pytestmark = pytest.mark.usefixtures("one_thread")


def randomised(module: nn.Module, seed: int = 0) -> nn.Module:
    """`module` with other values in every tensor, BatchNorm's statistics included."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in module.state_dict().items():
        if name.endswith("num_batches_tracked"):
            tensor.fill_(7)
        elif name.endswith("running_var") or (tensor.ndim == 1 and name.endswith("weight")):
            tensor.copy_(torch.rand(tensor.shape, generator=generator) * 0.5 + 0.5)
        elif tensor.ndim == 1:
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.1)
    return module.eval()


PLANES = (8, 16, 32, 64)


def ours() -> nn.Module:
    """Our network that the checkpoints of these tests are for: a bottleneck ResNet of four narrow blocks."""
    return timm.models.resnet.ResNet(timm.models.resnet.Bottleneck, (1, 1, 1, 1), num_classes=0, channels=PLANES).eval()


class Narrow(torchvision.models.resnet.ResNet):  # type: ignore[misc]
    """The same network as torchvision writes it, which MoCo, DINO and Barlow Twins train and the others copy."""

    def __init__(self) -> None:
        block = torchvision.models.resnet.Bottleneck
        super().__init__(block, [1, 1, 1, 1])
        self.inplanes = 64
        for i, planes in enumerate(PLANES):
            setattr(self, f"layer{i + 1}", self._make_layer(block, planes, 1, stride=1 if i == 0 else 2))
        self.fc = nn.Identity()


@pytest.fixture(scope="module")
def backbone() -> nn.Module:
    torch.manual_seed(0)
    return randomised(Narrow())


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def prefixed(prefix: str, state: State) -> State:
    return {prefix + name: tensor for name, tensor in state.items()}


def mlp(prefix: str, *widths: int, bias: bool = True, norm: bool = False) -> State:
    """A projection head as ``nn.Sequential`` of Linear, (BatchNorm1d,) ReLU names it."""
    layers: list[nn.Module] = []
    for i, (before, after) in enumerate(pairwise(widths)):
        layers.append(nn.Linear(before, after, bias=bias))
        if i < len(widths) - 2:
            layers += [nn.BatchNorm1d(after), nn.ReLU()] if norm else [nn.ReLU()]
    return prefixed(prefix, nn.Sequential(*layers).state_dict())


def pycontrast(b: State) -> Any:
    jigsaw = {**mlp("module.head_jig.fc1.", 8, 8, 4), "module.head_jig.fc2.weight": torch.zeros(4, 36)}
    state = {**prefixed("module.encoder.", b), **mlp("module.head.", 8, 8, 4), **jigsaw}
    return {"opt": 1, "model": state, "contrast": {"memory_1": torch.zeros(4, 8)}, "optimizer": {}, "epoch": 800}


def pycontrast_with_ema(b: State) -> Any:
    return {**pycontrast(b), "model_ema": prefixed("encoder.", {k: v * 0 for k, v in b.items()})}


def moco_v1(b: State) -> Any:
    other = {name: tensor * 0 for name, tensor in b.items()}
    fc = {"module.encoder_q.fc.weight": torch.zeros(4, 8), "module.encoder_q.fc.bias": torch.zeros(4)}
    queue = {"module.queue": torch.zeros(4, 16), "module.queue_ptr": torch.zeros(1, dtype=torch.long)}
    state = {**prefixed("module.encoder_q.", b), **fc, **prefixed("module.encoder_k.", other), **queue}
    return {"epoch": 200, "arch": "resnet50", "state_dict": state, "optimizer": {"state": {}}}


def moco_v2(b: State) -> Any:
    content = moco_v1(b)
    for name in ("weight", "bias"):
        del content["state_dict"][f"module.encoder_q.fc.{name}"]
    content["state_dict"] |= mlp("module.encoder_q.fc.", 8, 8, 4)
    return content


def moco_v3(b: State) -> Any:
    other = {name: tensor * 0 for name, tensor in b.items()}
    state = {
        **prefixed("module.base_encoder.", b),
        **mlp("module.base_encoder.fc.", 8, 8, 4, bias=False, norm=True),
        **prefixed("module.momentum_encoder.", other),
        **mlp("module.predictor.", 4, 8, 4, bias=False, norm=True),
    }
    return {"epoch": 300, "arch": "resnet50", "state_dict": state, "optimizer": {}, "scaler": {}}


def swav(b: State) -> Any:
    heads = mlp("module.projection_head.", 8, 8, 4, norm=True)
    return {**prefixed("module.", b), **heads, "module.prototypes.weight": torch.zeros(3, 4)}


def deepcluster_v2(b: State) -> Any:
    state = swav(b)
    del state["module.prototypes.weight"]
    state |= {f"module.prototypes.prototypes{i}.weight": torch.zeros(3, 4) for i in range(3)}
    return {"epoch": 800, "state_dict": state, "optimizer": {}, "amp": {}}


def simclr_with_convnet(b: State) -> Any:
    fc = {"model.module.convnet.fc.weight": torch.zeros(4, 8), "model.module.convnet.fc.bias": torch.zeros(4)}
    head = {
        "model.module.projection.fc1.weight": torch.zeros(8, 8),
        "model.module.projection.bn1.weight": torch.ones(8),
    }
    state = {**prefixed("model.module.convnet.", b), **fc, **head}
    return {"state_dict": state, "hparams": argparse.Namespace(arch="ResNet50", temperature=0.1)}


def simclr_with_backbone(b: State) -> Any:
    state = {**prefixed("backbone.", b), **mlp("backbone.fc.", 8, 8, 4)}
    return {"epoch": 100, "arch": "resnet50", "state_dict": state, "optimizer": {}}


def dino(b: State) -> Any:
    head = {
        **mlp("head.mlp.", 8, 8, 8, 4),
        "head.last_layer.weight_g": torch.ones(16, 1),
        "head.last_layer.weight_v": torch.zeros(16, 4),
    }
    teacher = {**prefixed("backbone.", b), **head}
    student = prefixed("module.", {name: tensor * 0 for name, tensor in teacher.items()})
    parts = {"student": student, "teacher": teacher, "optimizer": {}, "epoch": 100, "args": argparse.Namespace(lr=0.1)}
    return {**parts, "dino_loss": {"center": torch.zeros(1, 16)}, "fp16_scaler": {}}


def barlow_twins(b: State) -> Any:
    norm = prefixed("module.bn.", nn.BatchNorm1d(4, affine=False).state_dict())
    projector = mlp("module.projector.", 8, 8, 4, bias=False, norm=True)
    return {"epoch": 1000, "model": {**prefixed("module.backbone.", b), **projector, **norm}, "optimizer": {}}


def vicreg(b: State) -> Any:
    projector = mlp("module.projector.", 8, 8, 4, norm=True)
    return {"epoch": 1000, "model": {**prefixed("module.backbone.", b), **projector}, "optimizer": {}}


def torchvision_classifier(b: State) -> Any:
    return {**b, "fc.weight": torch.zeros(4, 8), "fc.bias": torch.zeros(4)}


def lightning(b: State) -> Any:
    state = {**prefixed("model.backbone.", b), **mlp("model.projector.", 8, 4)}
    return {"state_dict": state, "epoch": 1, "global_step": 2, "callbacks": {}, "optimizer_states": [{"state": {}}]}


def ema_only(b: State) -> Any:
    return {"model_ema": b, "epoch": 3}


def other(b: State) -> State:
    """Weights of a copy that must not be taken for the network."""
    return {name: tensor * 0 for name, tensor in b.items()}


def byol_pytorch(b: State) -> Any:
    projector = mlp("online_encoder.projector.", 8, 8, 4, norm=True)
    fc = {"online_encoder.net.fc.weight": torch.zeros(4, 8), "online_encoder.net.fc.bias": torch.zeros(4)}
    online = {**prefixed("online_encoder.net.", b), **fc, **projector}
    target = {name.replace("online", "target"): tensor * 0 for name, tensor in online.items()}
    return {**prefixed("net.", b), **online, **target, **mlp("online_predictor.", 4, 8, 4, norm=True)}


def byol_lightning(b: State) -> Any:
    return {"state_dict": prefixed("learner.", byol_pytorch(b)), "epoch": 1, "loops": {}, "optimizer_states": []}


def byol_with_networks(b: State) -> Any:
    state = {
        **prefixed("module.online_network.encoder.", b),
        **mlp("module.online_network.projetion.net.", 8, 8, 4),
        **prefixed("module.target_network.encoder.", other(b)),
        **mlp("module.predictor.net.", 4, 8, 4),
    }
    return {"model": state, "optimizer": {}, "epoch": 3}


def solo_learn(b: State) -> Any:
    state = {
        **prefixed("backbone.", b),
        **mlp("projector.", 8, 8, 4, norm=True),
        **prefixed("momentum_backbone.", other(b)),
        **mlp("momentum_projector.", 8, 8, 4, norm=True),
        **mlp("predictor.", 4, 8, 4),
        **mlp("classifier.", 8, 4),
        "queue": torch.zeros(2, 4, 8),
    }
    return {"state_dict": state, "epoch": 400, "optimizer_states": [{}], "hyper_parameters": {}}


def lightly(b: State) -> Any:
    state = {
        **prefixed("backbone.", b),
        **mlp("projection_head.layers.", 8, 8, 4, norm=True),
        **mlp("prediction_head.layers.", 4, 8, 4),
        **prefixed("teacher_backbone.", other(b)),
        **mlp("teacher_projection_head.layers.", 8, 8, 4),
        **mlp("online_classifier.linear.", 8, 4),
        "criterion.memory_bank.bank": torch.zeros(8, 8),
    }
    return {"state_dict": state, "epoch": 99}


def lightly_dino(b: State) -> Any:
    heads = {**mlp("teacher_head.layers.", 8, 4), "teacher_head.last_layer.weight_v": torch.zeros(4, 4)}
    state = {**prefixed("student_backbone.", other(b)), **prefixed("teacher_backbone.", b), **heads}
    return {"state_dict": state | {"criterion.center": torch.zeros(1, 1, 4)}}


CHILDREN = {"conv1": 0, "bn1": 1, "layer1": 4, "layer2": 5, "layer3": 6, "layer4": 7}


def numbered(prefix: str, b: State) -> State:
    """As ``nn.Sequential(*list(resnet.children())[:-1])`` names them."""
    return {f"{prefix}{CHILDREN[n.partition('.')[0]]}.{n.partition('.')[2]}": tensor for n, tensor in b.items()}


def lightly_sequential(b: State) -> Any:
    heads = {**mlp("projection_head.layers.", 8, 4), **numbered("backbone_momentum.", other(b))}
    return {"state_dict": {**numbered("backbone.", b), **heads}}


def byol_sequential(b: State) -> Any:
    online = {**numbered("encoder.", b), **mlp("projetion.net.", 8, 8, 4, norm=True)}
    return {
        "online_network_state_dict": online,
        "target_network_state_dict": other(online),
        "optimizer_state_dict": {"state": {0: torch.zeros(3)}},
    }


def vissl(b: State) -> Any:
    head = {"0.clf.0.weight": torch.zeros(4, 8), "0.clf.0.bias": torch.zeros(4)}
    model = {"trunk": prefixed("_feature_blocks.", b), "heads": head}
    base = {
        "model": model,
        "optimizer": {"momentum": torch.zeros(3)},
        "loss": {"queue": torch.zeros(3, 3)},
        "meters": [],
    }
    return {"phase_idx": 1, "iteration": 2, "loss": {}, "classy_state_dict": {"base_model": base, "train_phase_idx": 1}}


def densecl(b: State) -> Any:
    neck = mlp("mlp.", 8, 8, 4)
    state = {
        **prefixed("backbone.", b),
        **prefixed("encoder_q.0.", b),
        **prefixed("encoder_q.1.", neck),
        **prefixed("encoder_k.0.", other(b)),
        **prefixed("encoder_k.1.", neck),
        **{"queue": torch.zeros(4, 8), "queue_ptr": torch.zeros(1), "queue2": torch.zeros(4, 8)},
        "queue2_ptr": torch.zeros(1),
    }
    return {"meta": {"epoch": 200}, "state_dict": state, "optimizer": {"state": {}}}


def compiled(b: State) -> Any:
    """torch.compile inside of DistributedDataParallel inside of a wrapper."""
    return {"model": prefixed("model.module._orig_mod.", b)}


def weight_average(b: State) -> Any:
    return {"state_dict": {**prefixed("module.", b), "n_averaged": torch.tensor(7)}}


WRITERS: dict[str, tuple[str, Callable[[State], Any]]] = {
    "InfoMin, MoCo v2, PIRL, InsDis of PyContrast": ("pycontrast", pycontrast),
    "PyContrast with a momentum encoder beside": ("pycontrast", pycontrast_with_ema),
    "MoCo v1": ("moco", moco_v1),
    "MoCo v2": ("moco", moco_v2),
    "MoCo v3": ("moco_v3", moco_v3),
    "SwAV": ("swav", swav),
    "DeepCluster-v2": ("swav", deepcluster_v2),
    "SimCLR with `convnet`": ("simclr_pytorch", simclr_with_convnet),
    "SimCLR with `backbone`": ("simclr_pytorch", simclr_with_backbone),
    "DINO": ("dino", dino),
    "Barlow Twins": ("barlowtwins", barlow_twins),
    "VICReg": ("vicreg", vicreg),
    "torchvision": ("torchvision", torchvision_classifier),
    "Lightning": ("plain", lightning),
    "EMA": ("ema", ema_only),
    "state dict": ("timm", lambda b: b),
    "BYOL of byol-pytorch": ("byol", byol_pytorch),
    "BYOL of byol-pytorch in Lightning": ("byol", byol_lightning),
    "BYOL with `online_network`": ("byol", byol_with_networks),
    "BYOL with numbered children": ("sequential", byol_sequential),
    "solo-learn": ("solo_learn", solo_learn),
    "lightly": ("lightly", lightly),
    "lightly's DINO": ("lightly", lightly_dino),
    "lightly with numbered children": ("sequential", lightly_sequential),
    "VISSL": ("vissl", vissl),
    "DenseCL": ("densecl", densecl),
    "torch.compile": ("plain", compiled),
    "weight averaging": ("timm", weight_average),
}


def write(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


def embed(module: nn.Module, images: Tensor) -> Tensor:
    with torch.inference_mode():
        return architectures.embedder(module)(images)


@pytest.mark.parametrize("named", [False, True], ids=["auto", "named"])
@pytest.mark.parametrize("kind", WRITERS)
def test_a_published_layout_gives_the_authors_embedding(
    kind: str, named: bool, backbone: nn.Module, images: Tensor, tmp_path: Path
) -> None:
    layout, writer = WRITERS[kind]
    network = ours()
    path = write(tmp_path / "checkpoint.pth", writer(backbone.state_dict()))
    report = load_into(network, path, layout if named else "auto")
    assert report.layout.name == layout
    assert report.filled == len(network.state_dict())
    torch.testing.assert_close(embed(network, images), embed(backbone, images), atol=1e-4, rtol=1e-4)


def test_what_is_left_over_is_named(backbone: nn.Module, tmp_path: Path) -> None:
    report = load_into(ours(), write(tmp_path / "c.pth", pycontrast(backbone.state_dict())))
    assert {key.split(".")[1] for key in report.heads} == {"head", "head_jig"}
    assert set(report.other_parts) == {"opt", "contrast", "optimizer", "epoch"}


def state_of(content: Any) -> State:
    """The tensors of a checkpoint, wherever they are."""
    if isinstance(content, dict) and "classy_state_dict" in content:
        return content["classy_state_dict"]["base_model"]["model"]["trunk"]
    for part in ("state_dict", "model", "teacher", "model_ema", "online_network_state_dict"):
        if isinstance(content, dict) and part in content:
            return content[part]
    return content


READ = re.compile(
    r"(?!.*(momentum|target|student|_k\.|encoder_q\.0|^net\.|learner\.net)).*(layer2|(?<=\.)5)\.0\.conv2\.weight"
)
"""The tensor, under any layout's name, in the network that is read."""


def conv_key(state: State) -> str:
    found = [key for key in state if READ.fullmatch(key)]
    return next((key for key in found if "teacher" not in key), found[-1])


@pytest.mark.parametrize("kind", WRITERS)
def test_a_missing_key_is_named(kind: str, backbone: nn.Module, tmp_path: Path) -> None:
    content = WRITERS[kind][1](dict(backbone.state_dict()))
    state = state_of(content)
    del state[conv_key(state)]
    with pytest.raises(WeightsInvalid, match=r"layer2\.0\.conv2\.weight") as caught:
        load_into(ours(), write(tmp_path / "c.pth", content))
    assert caught.value.members["missing"] == ["layer2.0.conv2.weight"]
    assert caught.value.members["layouts_tried"]


@pytest.mark.parametrize("kind", WRITERS)
def test_a_renamed_key_is_named(kind: str, backbone: nn.Module, tmp_path: Path) -> None:
    content = WRITERS[kind][1](dict(backbone.state_dict()))
    state = state_of(content)
    key = conv_key(state)
    renamed = key.replace("conv2", "konv2")
    state[renamed] = state.pop(key)
    with pytest.raises(WeightsInvalid) as caught:
        load_into(ours(), write(tmp_path / "c.pth", content))
    assert caught.value.members["missing"] == ["layer2.0.conv2.weight"]
    assert caught.value.members["unexpected"] == [renamed]
    assert renamed in caught.value.detail


@pytest.mark.parametrize("kind", WRITERS)
def test_a_wrong_shape_is_named(kind: str, backbone: nn.Module, tmp_path: Path) -> None:
    content = WRITERS[kind][1](dict(backbone.state_dict()))
    state = state_of(content)
    key = conv_key(state)
    state[key] = state[key][:, :, :1, :1]
    with pytest.raises(WeightsInvalid) as caught:
        load_into(ours(), write(tmp_path / "c.pth", content))
    assert f"{key} is 16 x 16 x 1 x 1, needed 16 x 16 x 3 x 3" in caught.value.detail


def test_a_tensor_of_no_known_head_is_refused(backbone: nn.Module, tmp_path: Path) -> None:
    content = swav(backbone.state_dict()) | {"module.surprise.weight": torch.zeros(2)}
    with pytest.raises(WeightsInvalid, match=r"Unexpected \(1\): module\.surprise\.weight"):
        load_into(ours(), write(tmp_path / "c.pth", content), "swav")


def test_an_unknown_part_with_tensors_is_refused(backbone: nn.Module, tmp_path: Path) -> None:
    content = vicreg(backbone.state_dict()) | {"second_network": {"weight": torch.zeros(3)}}
    with pytest.raises(WeightsInvalid, match="second_network"):
        load_into(ours(), write(tmp_path / "c.pth", content))


def test_the_state_of_random_generators_is_training_state(backbone: nn.Module, tmp_path: Path) -> None:
    content = pycontrast(backbone.state_dict()) | {
        "rng_state": torch.get_rng_state(),
        "cuda_rng_states": [torch.ones(9)],
    }
    report = load_into(ours(), write(tmp_path / "c.pth", content), "pycontrast")
    assert {"rng_state", "cuda_rng_states"} <= set(report.other_parts)


def test_averaged_weights_never_stand_in_for_broken_ones(backbone: nn.Module, tmp_path: Path) -> None:
    state = dict(backbone.state_dict())
    del state["layer2.0.conv2.weight"]
    content = {"model": state, "model_ema": backbone.state_dict()}
    with pytest.raises(WeightsInvalid, match=r"layer2\.0\.conv2\.weight"):
        load_into(ours(), write(tmp_path / "c.pth", content))


def test_old_checkpoints_without_counters_load(backbone: nn.Module, images: Tensor, tmp_path: Path) -> None:
    state = {k: v for k, v in backbone.state_dict().items() if not k.endswith("num_batches_tracked")}
    network = ours()
    report = load_into(network, write(tmp_path / "c.pth", state))
    assert all(name.endswith("num_batches_tracked") for name in report.absent_counters)
    assert len(report.absent_counters) == sum(isinstance(m, nn.BatchNorm2d) for m in network.modules())
    torch.testing.assert_close(embed(network, images), embed(backbone, images), atol=1e-4, rtol=1e-4)


def test_safetensors_are_recognised_by_their_content(backbone: nn.Module, images: Tensor, tmp_path: Path) -> None:
    path = tmp_path / "weights.bin"
    save_file(dict(backbone.state_dict()), path)
    network = ours()
    load_into(network, path)
    torch.testing.assert_close(embed(network, images), embed(backbone, images), atol=1e-4, rtol=1e-4)


def test_a_pickle_under_the_name_of_safetensors_is_read(backbone: nn.Module, tmp_path: Path) -> None:
    network = ours()
    load_into(network, write(tmp_path / "weights.safetensors", moco_v2(backbone.state_dict())))
    torch.testing.assert_close(network.conv1.weight, backbone.conv1.weight)


def test_half_precision_is_widened(backbone: nn.Module, tmp_path: Path) -> None:
    half = {k: v.half() if v.is_floating_point() else v for k, v in backbone.state_dict().items()}
    network = ours()
    load_into(network, write(tmp_path / "c.pth", half))
    assert network.conv1.weight.dtype == torch.float32
    torch.testing.assert_close(network.conv1.weight, backbone.conv1.weight, atol=1e-2, rtol=1e-2)


class Runs:
    """An object whose pickle runs a function when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_with_code_is_refused_and_not_run(zipped: bool, backbone: nn.Module, tmp_path: Path) -> None:
    content = {"state_dict": backbone.state_dict(), "extra": Runs(tmp_path / "ran")}
    torch.save(content, tmp_path / "c.pth", _use_new_zipfile_serialization=zipped)
    with pytest.raises(WeightsInvalid, match="only its state dict"):
        load_into(ours(), tmp_path / "c.pth")
    assert not (tmp_path / "ran").exists()


def test_files_that_are_no_checkpoints_are_refused(tmp_path: Path) -> None:
    contents = {
        "empty": b"",
        "text": b"<html>Sign in to download</html>",
        "numpy": np.zeros(3).tobytes(),
        "list": pickle.dumps([1, 2], protocol=2),
        "pickle": pickle.dumps({"a": 1}, protocol=5),
        "safetensors": (40).to_bytes(8, "little") + b'{"a":' + b" " * 100,
    }
    for name, content in contents.items():
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(WeightsInvalid, match=name):
            load_into(ours(), path)


def test_a_file_cut_off_is_refused(backbone: nn.Module, tmp_path: Path) -> None:
    path = write(tmp_path / "c.pth", backbone.state_dict())
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(WeightsInvalid, match="cut off"):
        load_into(ours(), path)


def test_weights_that_are_not_finite_are_refused(backbone: nn.Module, tmp_path: Path) -> None:
    state = dict(backbone.state_dict())
    state["bn1.weight"] = state["bn1.weight"].clone()
    state["bn1.weight"][3] = float("nan")
    with pytest.raises(WeightsInvalid, match=r"bn1\.weight.*NaN"):
        load_into(ours(), write(tmp_path / "c.pth", state))


def test_quantised_weights_are_refused(backbone: nn.Module, tmp_path: Path) -> None:
    state = dict(backbone.state_dict())
    state["conv1.weight"] = state["conv1.weight"].to(torch.int8)
    with pytest.raises(WeightsInvalid, match=r"conv1\.weight.*int8"):
        load_into(ours(), write(tmp_path / "c.pth", state))


def test_an_unknown_layout_lists_the_known_ones(backbone: nn.Module, tmp_path: Path) -> None:
    with pytest.raises(WeightsInvalid, match="pycontrast"):
        load_into(ours(), write(tmp_path / "c.pth", backbone.state_dict()), "infomin")


def test_a_file_without_tensors_says_what_it_holds(tmp_path: Path) -> None:
    with pytest.raises(WeightsInvalid, match="'epoch'"):
        load_into(ours(), write(tmp_path / "c.pth", {"epoch": 3, "weights": {"a": 1}}))


def test_simclr_v2_with_numbered_modules(backbone: nn.Module, images: Tensor, tmp_path: Path) -> None:
    """Separius/SimCLRv2-Pytorch nests `Stem`, `Blocks` and `BottleneckBlock` in unnamed sequences."""
    state: State = {}
    inside = {
        "conv1": "net.0",
        "bn1": "net.1.0",
        "conv2": "net.2",
        "bn2": "net.3.0",
        "conv3": "net.4",
        "bn3": "net.5.0",
    }
    inside |= {"downsample.0": "projection.shortcut", "downsample.1": "projection.bn.0"}
    for name, tensor in backbone.state_dict().items():
        part, _, kind = name.rpartition(".")
        if part in ("conv1", "bn1"):
            state[f"net.0.{'0' if part == 'conv1' else '1.0'}.{kind}"] = tensor
        else:
            layer, number, rest = part.split(".", 2)
            state[f"net.{layer[-1]}.blocks.{number}.{inside[rest]}.{kind}"] = tensor
    state |= {"fc.weight": torch.zeros(4, 8), "fc.bias": torch.zeros(4)}
    content = {"resnet": state, "head": {"layers.0.weight": torch.zeros(8, 8)}}
    network = ours()
    report = load_into(network, write(tmp_path / "c.pth", content))
    assert report.layout.name == "simclrv2_pytorch"
    torch.testing.assert_close(embed(network, images), embed(backbone, images), atol=1e-4, rtol=1e-4)
    state["net.2.blocks.0.net.2.wait"] = state.pop("net.2.blocks.0.net.2.weight")
    with pytest.raises(WeightsInvalid, match=r"net\.2\.blocks\.0\.net\.2\.wait"):
        load_into(ours(), write(tmp_path / "c.pth", content))


def tiny_vit(**options: Any) -> nn.Module:
    """timm's transformer, small; `checkpoint_filter_fn` of its module is timm's own conversion."""
    from timm.models.vision_transformer import VisionTransformer

    return VisionTransformer(img_size=32, patch_size=8, embed_dim=24, depth=2, num_heads=3, num_classes=0, **options)


def test_a_masked_autoencoder_loads_without_its_decoder(tmp_path: Path) -> None:
    reference = randomised(tiny_vit())
    decoder = {
        "mask_token": torch.zeros(1, 1, 8),
        "decoder_pos_embed": torch.zeros(1, 17, 8),
        "decoder_embed.weight": torch.zeros(8, 24),
        "decoder_blocks.0.norm1.weight": torch.zeros(8),
        "decoder_pred.bias": torch.zeros(3),
    }
    network = tiny_vit().eval()
    report = load_into(network, write(tmp_path / "c.pth", {"model": reference.state_dict() | decoder}))
    assert report.layout.name == "mae"
    assert set(decoder) <= set(report.heads)
    x = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(embed(network, x), embed(reference, x))


def test_position_embeddings_of_another_size_are_refused_not_resampled(tmp_path: Path) -> None:
    state = dict(tiny_vit().state_dict())
    state["pos_embed"] = torch.rand(1, 65, 24)
    state["mask_token"] = torch.zeros(1, 24)  # Makes the direct match incomplete, so that timm's conversion is asked.
    with pytest.raises(WeightsInvalid, match="pos_embed is 1 x 65 x 24, needed 1 x 17 x 24"):
        load_into(tiny_vit(), write(tmp_path / "c.pth", state))


def dinov2(state: State) -> State:
    """The same weights as facebookresearch/dinov2 stores them: its token for masked patches is kept."""
    return {**state, "mask_token": torch.zeros(1, 384)}


def test_dinov2_as_published_loads_through_timms_conversion(tmp_path: Path) -> None:
    network = timm.create_model("vit_small_patch14_dinov2", num_classes=0, depth=1, img_size=28)
    report = load_into(network, write(tmp_path / "c.pth", dinov2(network.state_dict())), "timm")
    assert report.filled == len(network.state_dict())
    assert report.merged == ["mask_token"]


def test_dinov2_with_registers_keeps_the_positions_of_its_patches(tmp_path: Path) -> None:
    reference = timm.create_model("vit_small_patch14_reg4_dinov2", num_classes=0, depth=1, img_size=28)
    state = dict(reference.state_dict())
    register = state.pop("reg_token")
    position = torch.rand(1, 1, 384)
    published = dinov2(state) | {
        "register_tokens": register,
        "cls_token": state["cls_token"] - position,
        "pos_embed": torch.cat([position, state["pos_embed"]], dim=1),
    }
    network = timm.create_model("vit_small_patch14_reg4_dinov2", num_classes=0, depth=1, img_size=28)
    load_into(network, write(tmp_path / "c.pth", published), "timm")
    torch.testing.assert_close(network.state_dict(), reference.state_dict())
    published["pos_embed"] = torch.rand(1, 10, 384)
    with pytest.raises(WeightsInvalid, match="pos_embed is 1 x 10 x 384, needed 1 x 4 x 384"):
        load_into(network, write(tmp_path / "c.pth", published), "timm")


@pytest.mark.parametrize(
    "architecture",
    ["mobilenetv4_conv_small", "efficientvit_b0", "convnext_atto", "levit_128s", "deit_tiny_patch16_224"],
)
def test_a_classifier_of_any_timm_architecture_is_known(architecture: str, tmp_path: Path) -> None:
    complete = timm.create_model(architecture, pretrained=False)
    network = architectures.build(architecture)
    report = load_into(network, write(tmp_path / "c.pth", complete.state_dict()))
    assert report.filled == len(network.state_dict())
    assert set(report.heads) == set(complete.state_dict()) - set(network.state_dict())


def test_the_packaged_efficientnet_fits_name_by_name(tmp_path: Path) -> None:
    from extractor.models import catalogue, weights

    spec = catalogue.resolve("tf_efficientnet_lite0", tmp_path)
    path = weights.locate(spec, tmp_path)
    assert path is not None
    network = architectures.build(spec.architecture)
    report = load_into(network, path, spec.layout)
    assert (report.filled, report.heads) == (294, ["_fc.weight", "_fc.bias"])
    state = torch.load(path, weights_only=True)
    torch.testing.assert_close(network.blocks[1][0].conv_pwl.weight, state["_blocks.1._project_conv.weight"])
    state["_blocks.1._project_convolution.weight"] = state.pop("_blocks.1._project_conv.weight")
    with pytest.raises(WeightsInvalid, match="_project_convolution"):
        load_into(network, write(tmp_path / "c.pth", state), spec.layout)


def test_every_layout_has_a_test() -> None:
    tested = {layout for layout, _ in WRITERS.values()} | {"simclrv2_pytorch", "mae", "efficientnet_pytorch"}
    tested |= {"dinov2", "transformers"}  # In test_checkpoints_vit.py.
    assert {layout.name for layout in LAYOUTS} == tested
