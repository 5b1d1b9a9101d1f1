"""Transformers under the names of other libraries: DINOv2's chunks, Hugging Face's layers, iBOT's teachers."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from extractor.models.checkpoints.loading import load_into
from shoal.errors import WeightsInvalid
from torch import Tensor, nn

from tests.extractor.models.checkpoints.test_checkpoints import embed, randomised, tiny_vit, write

State = dict[str, Tensor]
pytestmark = pytest.mark.usefixtures("one_thread")


def plain() -> nn.Module:
    return tiny_vit().eval()


def scaled() -> nn.Module:
    """DINOv2's: with layer scale."""
    return tiny_vit(init_values=0.1).eval()


def with_registers() -> nn.Module:
    return tiny_vit(init_values=0.1, reg_tokens=4, no_embed_class=True).eval()


def swiglu() -> nn.Module:
    from timm.layers import SwiGLUPacked

    return tiny_vit(init_values=0.1, mlp_layer=SwiGLUPacked, act_layer=nn.SiLU).eval()


def split(state: State, names: tuple[str, ...]) -> State:
    """`state` with the fused projection taken apart."""
    out: State = {}
    for key, tensor in state.items():
        if ".attn.qkv." in key:
            for name, part in zip(names, tensor.chunk(3), strict=True):
                out[key.replace("attn.qkv", name)] = part.clone()
        else:
            out[key] = tensor
    return out


COMMON = {
    r"^cls_token": "embeddings.cls_token",
    r"^pos_embed": "embeddings.position_embeddings",
    r"^patch_embed\.proj\.": "embeddings.patch_embeddings.projection.",
    r"^norm\.": "layernorm.",
    r"^mask_token": "embeddings.mask_token",
    r"^register_tokens": "embeddings.register_tokens",
}
VIT = {
    r"^blocks\.(\d+)\.norm1\.": r"encoder.layer.\1.layernorm_before.",
    r"^blocks\.(\d+)\.norm2\.": r"encoder.layer.\1.layernorm_after.",
    r"^blocks\.(\d+)\.attn\.proj\.": r"encoder.layer.\1.attention.output.dense.",
    r"^blocks\.(\d+)\.attention\.": r"encoder.layer.\1.attention.",
    r"^blocks\.(\d+)\.mlp\.fc1\.": r"encoder.layer.\1.intermediate.dense.",
    r"^blocks\.(\d+)\.mlp\.fc2\.": r"encoder.layer.\1.output.dense.",
}
DINOV2 = {
    r"^blocks\.(\d+)\.attn\.proj\.": r"encoder.layer.\1.attention.output.dense.",
    r"^blocks\.(\d+)\.ls([12])\.gamma": r"encoder.layer.\1.layer_scale\2.lambda1",
    r"^blocks\.(\d+)\.": r"encoder.layer.\1.",
}
SEPARATE = tuple(f"attention.attention.{name}" for name in ("query", "key", "value"))


def renamed(state: State, table: dict[str, str]) -> State:
    out = {}
    for key, tensor in state.items():
        for pattern, replacement in {**COMMON, **table}.items():
            key, found = re.subn(pattern, replacement, key)
            if found:
                break
        out[key] = tensor
    return out


def hf(state: State, table: dict[str, str], prefix: str = "") -> State:
    return {prefix + key: tensor for key, tensor in renamed(split(state, SEPARATE), table).items()}


def hf_vit(state: State) -> Any:
    head = {"classifier.weight": torch.zeros(4, 24), "classifier.bias": torch.zeros(4)}
    return hf(state, VIT, "vit.") | head


def hf_vit_model(state: State) -> Any:
    return hf(state, VIT) | {"pooler.dense.weight": torch.zeros(24, 24), "pooler.dense.bias": torch.zeros(24)}


def hf_mae(state: State) -> Any:
    decoder = {"decoder.decoder_layers.0.attention.attention.query.weight": torch.zeros(8, 8)}
    return hf(state, VIT, "vit.") | decoder | {"decoder.mask_token": torch.zeros(1, 1, 8)}


def hf_version_5(state: State) -> Any:
    table = {
        r"^blocks\.(\d+)\.norm1\.": r"layers.\1.layernorm_before.",
        r"^blocks\.(\d+)\.norm2\.": r"layers.\1.layernorm_after.",
        r"^blocks\.(\d+)\.attn\.proj\.": r"layers.\1.attention.o_proj.",
        r"^blocks\.(\d+)\.": r"layers.\1.",
    }
    names = ("attention.q_proj", "attention.k_proj", "attention.v_proj")
    return {"model." + key: tensor for key, tensor in renamed(split(state, names), table).items()}


def hf_dinov2(state: State) -> Any:
    return hf(state | {"mask_token": torch.zeros(1, 24)}, DINOV2)


def hf_dinov2_classifier(state: State) -> Any:
    head = {"classifier.weight": torch.zeros(4, 48), "classifier.bias": torch.zeros(4)}
    return {"dinov2." + key: tensor for key, tensor in hf_dinov2(state).items()} | head


def hf_swiglu(state: State) -> Any:
    content = hf_dinov2(state)
    return {k.replace("mlp.fc1", "mlp.weights_in").replace("mlp.fc2", "mlp.weights_out"): v for k, v in content.items()}


def with_position_of_the_class(state: State) -> State:
    """The published form of a network with registers: its class token's position is kept apart."""
    position = torch.rand(1, 1, 24)
    out = dict(state)
    out["register_tokens"] = out.pop("reg_token")
    out["cls_token"] = out["cls_token"] - position
    out["pos_embed"] = torch.cat([position, out["pos_embed"]], dim=1)
    return out


def hf_dinov2_with_registers(state: State) -> Any:
    return hf_dinov2(with_position_of_the_class(state))


def chunked(state: State) -> State:
    """Blocks 0 and 1 in a chunk of their own each, as FSDP wants them; numbers go on from chunk to chunk."""
    return {re.sub(r"^blocks\.(\d+)\.", r"blocks.\1.\1.", key): tensor for key, tensor in state.items()}


def dinov2_chunks(state: State) -> Any:
    return chunked(state) | {"mask_token": torch.zeros(1, 24)}


def dinov2_chunks_with_registers(state: State) -> Any:
    return dinov2_chunks(with_position_of_the_class(state))


def dinov2_teacher(state: State) -> Any:
    heads = {"dino_head.mlp.0.weight": torch.zeros(8, 24), "ibot_head.last_layer.weight_v": torch.zeros(8, 8)}
    return {"teacher": {"backbone." + key: tensor for key, tensor in dinov2_chunks(state).items()} | heads}


def dinov2_student_and_teacher(state: State) -> Any:
    content = dinov2_chunks(state)
    teacher = {"teacher.backbone." + key: tensor for key, tensor in content.items()}
    student = {"student.backbone." + key: tensor * 0 for key, tensor in content.items()}
    heads = {f"{who}.dino_head.mlp.0.weight": torch.zeros(8, 24) for who in ("teacher", "student")}
    return {"model": {**student, **teacher, **heads}, "optimizer": {"state": {}}, "iteration": 9}


def ibot(state: State) -> Any:
    head = {
        "head.mlp.0.weight": torch.zeros(8, 24),
        "head.last_layer.weight_v": torch.zeros(8, 8),
        "head.last_layer2.weight_v": torch.zeros(8, 8),
    }
    teacher = {"backbone." + key: tensor for key, tensor in state.items()} | head
    student = {"module." + key: tensor * 0 for key, tensor in teacher.items()}
    student["module.backbone.masked_embed"] = torch.zeros(1, 24)
    parts = {"student": student, "teacher": teacher, "optimizer": {}, "args": argparse.Namespace(lr=0.1)}
    return {**parts, "ibot_loss": {"center": torch.zeros(1, 8), "center2": torch.zeros(1, 1, 8)}}


def moco_v3(state: State) -> Any:
    base = {"module.base_encoder." + key: tensor for key, tensor in state.items()}
    momentum = {"module.momentum_encoder." + key: tensor * 0 for key, tensor in state.items()}
    head = {"module.base_encoder.head.0.weight": torch.zeros(8, 24), "module.predictor.0.weight": torch.zeros(8, 8)}
    return {"state_dict": {**base, **momentum, **head}}


def mae(state: State) -> Any:
    return {"model": state | {"mask_token": torch.zeros(1, 1, 8), "decoder_embed.weight": torch.zeros(8, 24)}}


WRITERS: dict[str, tuple[str, Callable[[], nn.Module], Callable[[State], Any]]] = {
    "ViTForImageClassification": ("transformers", plain, hf_vit),
    "ViTModel": ("transformers", plain, hf_vit_model),
    "ViTMAE": ("transformers", plain, hf_mae),
    "ViT of version 5": ("transformers", plain, hf_version_5),
    "Dinov2Model": ("transformers", scaled, hf_dinov2),
    "Dinov2ForImageClassification": ("transformers", scaled, hf_dinov2_classifier),
    "Dinov2Model, giant": ("transformers", swiglu, hf_swiglu),
    "Dinov2WithRegisters": ("transformers", with_registers, hf_dinov2_with_registers),
    "DINOv2 in chunks": ("dinov2", scaled, dinov2_chunks),
    "DINOv2 in chunks, with registers": ("dinov2", with_registers, dinov2_chunks_with_registers),
    "DINOv2's teacher": ("dinov2", scaled, dinov2_teacher),
    "DINOv2's student and teacher": ("dinov2", scaled, dinov2_student_and_teacher),
    "iBOT": ("dino", plain, ibot),
    "MoCo v3": ("moco_v3", plain, moco_v3),
    "MAE": ("mae", plain, mae),
}


def state_of(content: Any) -> State:
    for part in ("teacher", "model", "state_dict"):
        if part in content:
            return content[part]
    return content


def last_bias(state: State) -> str:
    """The bias of the second block's second layer, in the network that is read."""
    names = r"(?!.*(student|momentum|decoder)).*\.1\.(mlp\.fc2|output\.dense|mlp\.weights_out)\.bias"
    return next(key for key in state if re.fullmatch(names, key))


@pytest.mark.parametrize("named", [False, True], ids=["auto", "named"])
@pytest.mark.parametrize("kind", WRITERS)
def test_the_embedding_is_that_of_the_network_that_was_written(kind: str, named: bool, tmp_path: Path) -> None:
    layout, build, writer = WRITERS[kind]
    torch.manual_seed(0)
    reference, network = randomised(build()), build()
    path = write(tmp_path / "c.pth", writer(dict(reference.state_dict())))
    report = load_into(network, path, layout if named else "auto")
    assert report.layout.name == layout
    assert report.filled == len(network.state_dict())
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(embed(network, x), embed(reference, x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", WRITERS)
def test_a_missing_a_renamed_and_a_misshaped_tensor_are_named(kind: str, tmp_path: Path) -> None:
    _, build, writer = WRITERS[kind]
    for fault in ("missing", "renamed", "misshaped"):
        content = writer(dict(build().state_dict()))
        state = state_of(content)
        key = last_bias(state)
        tensor = state.pop(key)
        wanted = key.replace(".bias", ".buyers") if fault == "renamed" else key
        if fault != "missing":
            state[wanted] = tensor[:-1] if fault == "misshaped" else tensor
        with pytest.raises(WeightsInvalid) as caught:
            load_into(build(), write(tmp_path / "c.pth", content))
        members = caught.value.members
        assert (members["missing"] == ["blocks.1.mlp.fc2.bias"]) == (fault != "misshaped")
        assert (members["unexpected"] == [wanted]) == (fault == "renamed")
        assert any(wanted in line for line in members["misshaped"]) == (fault == "misshaped")


def test_a_query_without_its_key_is_refused_by_name(tmp_path: Path) -> None:
    content = hf_vit(dict(plain().state_dict()))
    del content["vit.encoder.layer.1.attention.attention.key.weight"]
    with pytest.raises(WeightsInvalid) as caught:
        load_into(plain(), write(tmp_path / "c.pth", content))
    assert caught.value.members["missing"] == ["blocks.1.attn.qkv.weight"]
    left = [f"vit.encoder.layer.1.attention.attention.{name}.weight" for name in ("query", "value")]
    assert caught.value.members["unexpected"] == left


def test_a_network_of_another_depth_is_refused(tmp_path: Path) -> None:
    from timm.models.vision_transformer import VisionTransformer

    deeper = VisionTransformer(img_size=32, patch_size=8, embed_dim=24, depth=3, num_heads=3, num_classes=0)
    for writer in (hf_vit, dinov2_chunks):
        with pytest.raises(WeightsInvalid, match=r"2\.(layernorm_before|2\.norm1|norm1)"):
            load_into(plain(), write(tmp_path / "c.pth", writer(dict(deeper.state_dict()))))


def test_efficientnets_nested_blocks_are_not_taken_for_chunks(tmp_path: Path) -> None:
    reference = timm.create_model("efficientnet_lite0", num_classes=0)
    network = timm.create_model("efficientnet_lite0", num_classes=0)
    report = load_into(network, write(tmp_path / "c.pth", reference.state_dict()))
    assert report.layout.name == "timm"
    torch.testing.assert_close(network.state_dict(), reference.state_dict())
