"""EfficientNet-Lite0 as a TensorFlow SavedModel, from the weights of its PyTorch form.

The smallest real model of the catalogue, for those who want to try TensorFlow Serving, and the network on which the two
backends are compared.

References
----------
Tan and Le, EfficientNet, https://arxiv.org/abs/1905.11946
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from shoal.settings import Settings

from extractor.models import catalogue, weights
from extractor.tf_serving.loading import tensorflow

NAME = "tf_efficientnet_lite0"
EPSILON = 1e-3
_STRIDES = (1, 2, 2, 2, 1, 2, 1)
"""Of the first block of each stage."""
State = Mapping[str, NDArray[np.float32]]


def torch_state(settings: Settings) -> State:
    """The PyTorch network's parameters by timm's names.

    Raises
    ------
    WeightsMissing, WeightsInvalid
        The weights are not on this machine, or are damaged.
    """
    import timm

    from extractor.models.checkpoints.loading import load_into

    spec = catalogue.resolve(NAME, settings.models, settings=settings)
    network = timm.create_model(spec.architecture, pretrained=False, num_classes=0)
    path = weights.locate(spec, settings.models)
    if path is not None:
        load_into(network, path, spec.layout)
    return {name: value.numpy() for name, value in network.eval().state_dict().items()}


def save_lite0(state: State, folder: Path) -> None:
    """Write a SavedModel whose call maps images (n, 224, 224, 3) float32 in [0, 1] to (n, 1280).

    Parameters
    ----------
    state
        The result of `torch_state`.
    folder
        The SavedModel directory to write, which `import-tf` reads.
    """
    tf = tensorflow()
    module = tf.Module(name="lite0")
    module.parameters = {
        name: [tf.Variable(value, trainable=False, name=name.replace(".", "_")) for value in pair]
        for name, pair in _folded(state).items()
    }

    def call(images: Any) -> Any:
        return _network(tf, {name: tuple(pair) for name, pair in module.parameters.items()}, images)

    spec = tf.TensorSpec([None, 224, 224, 3], tf.float32, name="images")
    module.embed = tf.function(lambda images: {"final_avg_pool": call(images)}, input_signature=[spec], autograph=False)
    tf.saved_model.save(module, str(folder), signatures={"serving_default": module.embed})


def _folded(state: State) -> dict[str, tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """Kernel in TensorFlow's order and bias of each convolution, its batch normalisation folded in."""
    return {
        convolution: _fold(state[f"{convolution}.weight"], norm, state, depthwise=convolution.endswith("conv_dw"))
        for convolution, norm in _layers(state)
    }


def _fold(
    kernel: NDArray[np.float32], norm: str, state: State, *, depthwise: bool
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    parts = (state[f"{norm}.{part}"].astype(np.float64) for part in ("weight", "bias", "running_mean", "running_var"))
    gamma, beta, mean, variance = parts
    scale = gamma / np.sqrt(variance + EPSILON)
    folded = kernel * scale.reshape(-1, 1, 1, 1)
    # PyTorch: (out, in, h, w). TensorFlow: (h, w, in, out), and (h, w, in, 1) for a depthwise convolution.
    order = (2, 3, 0, 1) if depthwise else (2, 3, 1, 0)
    return folded.transpose(order).astype(np.float32), (beta - mean * scale).astype(np.float32)


def _layers(state: State) -> Iterator[tuple[str, str]]:
    """Each convolution with the batch normalisation that follows it."""
    yield "conv_stem", "bn1"
    yield "conv_head", "bn2"
    for block in sorted({name.rpartition(".conv_dw")[0] for name in state if ".conv_dw." in name}):
        expands = f"{block}.conv_pwl.weight" in state
        order = ("conv_pw", "conv_dw", "conv_pwl") if expands else ("conv_dw", "conv_pw")
        for index, convolution in enumerate(order, start=1):
            yield f"{block}.{convolution}", f"{block}.bn{index}"


def _network(tf: Any, parameters: Mapping[str, tuple[Any, Any]], images: Any) -> Any:
    def convolve(x: Any, name: str, stride: int = 1, *, act: bool = True) -> Any:
        kernel, bias = parameters[name]
        if name.endswith("conv_dw"):
            x = tf.nn.depthwise_conv2d(x, kernel, [1, stride, stride, 1], "SAME")
        else:
            x = tf.nn.conv2d(x, kernel, stride, "SAME")
        x = tf.nn.bias_add(x, bias)
        return tf.nn.relu6(x) if act else x

    x = convolve((images * 255.0 - 127.0) / 128.0, "conv_stem", 2)
    for stage, first_stride in enumerate(_STRIDES):
        for index in range(sum(f"blocks.{stage}.{i}.conv_dw" in parameters for i in range(10))):
            block = f"blocks.{stage}.{index}"
            stride = first_stride if index == 0 else 1
            shortcut = x
            if f"{block}.conv_pwl" in parameters:
                x = convolve(convolve(x, f"{block}.conv_pw"), f"{block}.conv_dw", stride)
                x = convolve(x, f"{block}.conv_pwl", act=False)
            else:
                x = convolve(convolve(x, f"{block}.conv_dw", stride), f"{block}.conv_pw", act=False)
            if index > 0:
                x = x + shortcut
    return tf.reduce_mean(convolve(x, "conv_head"), [1, 2])
