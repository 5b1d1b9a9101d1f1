"""Small networks in the directory layouts, with the tags, signatures and names, of the published TensorFlow models."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

v1 = tf.compat.v1
GetVariable = Callable[[str, np.ndarray], Any]
BASE = 4
"""Channels of the first stage at width 1; the real networks have 64."""


class Resnet:
    """A residual network of four stages as SimCLR builds it, with selective kernels or without, one block a stage."""

    def __init__(self, get_variable: GetVariable, *, width: int = 1, selective: bool = False, seed: int = 0) -> None:
        self.get = get_variable
        self.base = BASE * width
        self.selective = selective
        self.random = np.random.default_rng(seed)
        self.variables: dict[str, Any] = {}

    def variable(self, name: str, *shape: int, low: float = 0.5, high: float = 1.5) -> Any:
        if name not in self.variables:
            fan_in = int(np.prod(shape[:-1]))
            value = (
                self.random.normal(0, (2 / fan_in) ** 0.5, shape)
                if len(shape) > 1
                else self.random.uniform(low, high, shape)
            )
            self.variables[name] = self.get(name, value.astype(np.float32))
        return self.variables[name]

    def convolve(self, x: Any, name: str, filters: int, kernel: int, stride: int = 1) -> Any:
        weights = self.variable(f"{name}/kernel", kernel, kernel, int(x.shape[-1]), filters)
        return tf.nn.conv2d(x, weights, stride, "SAME")

    def normalise(self, x: Any, name: str, training: bool, relu: bool = True) -> Any:
        channels = int(x.shape[-1])
        gamma, beta = (self.variable(f"{name}/{part}", channels, low=0.1, high=0.4) for part in ("gamma", "beta"))
        mean = self.variable(f"{name}/moving_mean", channels, low=-0.5, high=0.5)
        variance = self.variable(f"{name}/moving_variance", channels)
        if training:
            mean, variance = tf.nn.moments(x, [0, 1, 2])
        x = tf.nn.batch_normalization(x, mean, variance, beta, gamma, 1e-5)
        return tf.nn.relu(x) if relu else x

    def block(self, x: Any, name: str, filters: int, stride: int, training: bool) -> Any:
        shortcut = self.normalise(
            self.convolve(x, f"{name}/shortcut", 4 * filters, 1, stride), f"{name}/bn_0", training, relu=False
        )
        x = self.normalise(self.convolve(x, f"{name}/conv_1", filters, 1), f"{name}/bn_1", training)
        if self.selective:
            streams = tf.split(self.convolve(x, f"{name}/sk", 2 * filters, 3, stride), 2, axis=3)
            pooled = tf.reduce_mean(streams[0] + streams[1], [1, 2], keepdims=True)
            mixing = tf.nn.softmax(
                tf.stack(tf.split(self.convolve(pooled, f"{name}/mixing", 2 * filters, 1), 2, axis=3)), axis=0
            )
            x = streams[0] * mixing[0] + streams[1] * mixing[1]
        else:
            x = self.convolve(x, f"{name}/conv_2", filters, 3, stride)
        x = self.normalise(x, f"{name}/bn_2", training)
        x = self.normalise(self.convolve(x, f"{name}/conv_3", 4 * filters, 1), f"{name}/bn_3", training, relu=False)
        return tf.nn.relu(x + shortcut)

    def __call__(self, images: Any, training: bool) -> dict[str, Any]:
        outputs = {"initial_conv": self.convolve(images, "conv2d", self.base, 7, 2)}
        x = outputs["initial_max_pool"] = tf.nn.max_pool2d(
            self.normalise(outputs["initial_conv"], "bn", training), 3, 2, "SAME"
        )
        for stage in range(4):
            x = self.block(x, f"group{stage}", self.base * 2**stage, 1 if stage == 0 else 2, training)
            outputs[f"block_group{stage + 1}"] = x
        outputs["final_avg_pool"] = tf.reduce_mean(x, [1, 2])
        return outputs


Signatures = Mapping[str, tuple[dict[str, Any], dict[str, Any]]]


def write_hub_module(
    folder: Path, build: Callable[[bool], Signatures], tag_sets: Mapping[tuple[str, ...], bool]
) -> None:
    """A TF1 hub module: one graph for each set of tags, all sharing the variables of the first."""
    proto = SavedModel(saved_model_schema_version=1)
    for index, (tags, training) in enumerate(tag_sets.items()):
        with tf.Graph().as_default() as graph, v1.Session() as session:
            signatures = build(training)
            meta_graph = v1.train.export_meta_graph(graph=graph, strip_default_attrs=True)
            meta_graph.meta_info_def.tags.extend(tags)
            for name, (inputs, outputs) in signatures.items():
                info = v1.saved_model.build_tensor_info
                meta_graph.signature_def[name].CopyFrom(
                    v1.saved_model.signature_def_utils.build_signature_def(
                        {key: info(tensor) for key, tensor in inputs.items()},
                        {key: info(tensor) for key, tensor in outputs.items()},
                        name,
                    )
                )
            proto.meta_graphs.append(meta_graph)
            if index == 0:
                session.run(v1.global_variables_initializer())
                (folder / "variables").mkdir(parents=True)
                v1.train.Saver().save(session, str(folder / "variables" / "variables"), write_meta_graph=False)
                (folder / "variables" / "checkpoint").unlink()
    (folder / "saved_model.pb").write_bytes(proto.SerializeToString())
    (folder / "tfhub_module.pb").write_bytes(b"\x08\x03")


def graph_variable(use_resource: bool, shards: int = 1) -> GetVariable:
    """What makes variables in a TF1 graph: reference variables, as SimCLR's own export has, or resources."""

    def get(name: str, value: np.ndarray) -> Any:
        def part(shape: Any, dtype: Any = None, partition_info: Any = None) -> Any:
            offset = partition_info.var_offset if partition_info is not None else [0] * value.ndim
            return tf.constant(value[tuple(slice(o, o + int(n)) for o, n in zip(offset, shape, strict=True))])

        split = v1.fixed_size_partitioner(shards, axis=value.ndim - 1) if shards > 1 else None
        made = v1.get_variable(name, value.shape, initializer=part, use_resource=use_resource, partitioner=split)
        return tf.convert_to_tensor(made) if shards > 1 else made

    return get


def simclr_hub(
    folder: Path, *, width: int = 1, selective: bool = False, use_resource: bool = False, shards: int = 1
) -> None:
    """SimCLR's and SimCLRv2's hub module: graphs without tags and tagged ``train``, one signature ``default``."""

    def build(training: bool) -> Signatures:
        images = v1.placeholder(tf.float32, [None, None, None, 3])
        with v1.variable_scope("base_model"):
            net = Resnet(graph_variable(use_resource, shards), width=width, selective=selective)
            outputs = net(images, training)
        with v1.variable_scope("head_supervised"):
            outputs["logits_sup"] = outputs["final_avg_pool"] @ net.variable("kernel", 32 * net.base, 10)
        return {"default": ({"images": images}, {**outputs, "default": outputs["final_avg_pool"]})}

    write_hub_module(folder, build, {(): False, ("train",): True})


def bigbigan_hub(folder: Path, *, tag_sets: Mapping[tuple[str, ...], bool] | None = None, size: int = 256) -> None:
    """BigBiGAN's hub module: ``default`` and ``encode``, whose default output is a sample of the latent."""

    def build(training: bool) -> Signatures:
        x = v1.placeholder(tf.float32, [None, size, size, 3], name="x")
        z = v1.placeholder(tf.float32, [None, 8], name="z")
        with v1.variable_scope("encoder"):
            net = Resnet(graph_variable(True), seed=1)
            pooled = net(x, training)["final_avg_pool"]
            mean = pooled @ net.variable("mean", 32 * BASE, 8)
            deviation = tf.nn.softplus(pooled @ net.variable("stdev", 32 * BASE, 8))
        sample = mean + deviation * tf.random.normal(tf.shape(mean))
        features = {
            "avepool_feat": pooled,
            "bn_crelu_feat": tf.nn.relu(tf.concat([pooled, -pooled], 1)),
            "z_mean": mean,
            "z_stdev": deviation,
            "z_sample": sample,
            "default": sample,
        }
        with v1.variable_scope("generator"):
            image = tf.reshape(z @ net.variable("image", 8, 12), [-1, 2, 2, 3])
        return {
            "default": ({"x": x}, {"default": sample}),
            "encode": ({"x": x}, features),
            "generate": ({"z": z}, {"default": image}),
        }

    write_hub_module(folder, build, tag_sets or {(): False, ("train",): True})


def switched_tf1(folder: Path, *, use_resource: bool, in_signature: bool) -> None:
    """A TF1 SavedModel that trains as well: `tf.cond` on ``is_training``, one half of which updates its statistics."""
    with tf.Graph().as_default(), v1.Session() as session:
        images = v1.placeholder(tf.float32, [None, None, None, 3], name="pixels")
        switch = v1.placeholder(tf.bool, []) if in_signature else v1.placeholder_with_default(False, [])
        get = graph_variable(use_resource)
        x = tf.nn.conv2d(images, get("kernel", np.eye(3, 6, dtype=np.float32).reshape(1, 1, 3, 6) + 0.1), 2, "SAME")
        kept = [get(name, np.full(6, value, np.float32)) for name, value in (("mean", 0.1), ("variance", 0.8))]

        def train() -> list[Any]:
            fresh = tf.nn.moments(x, [0, 1, 2])
            with tf.control_dependencies([v1.assign(old, new) for old, new in zip(kept, fresh, strict=True)]):
                return [tf.identity(new) for new in fresh]

        v1.disable_control_flow_v2()
        mean, variance = v1.cond(tf.identity(switch), train, lambda: [tf.identity(value) for value in kept])
        v1.enable_control_flow_v2()
        pooled = tf.reduce_mean(tf.nn.relu(tf.nn.batch_normalization(x, mean, variance, None, None, 1e-3)), [1, 2])
        session.run(v1.global_variables_initializer())
        info = v1.saved_model.build_tensor_info
        inputs = {"pixels": info(images), **({"is_training": info(switch)} if in_signature else {})}
        signature = v1.saved_model.signature_def_utils.build_signature_def(inputs, {"features": info(pooled)}, "any")
        builder = v1.saved_model.Builder(str(folder))
        builder.add_meta_graph_and_variables(session, ["serve"], {"features": signature})
        builder.save()


def looping_tf1(folder: Path) -> None:
    """A TF1 SavedModel whose number of steps depends on its input."""
    with tf.Graph().as_default(), v1.Session() as session:
        images = v1.placeholder(tf.float32, [None, None, None, 3])
        v1.disable_control_flow_v2()
        start = [tf.reduce_mean(images, [1, 2])]
        pooled = v1.while_loop(lambda x: tf.reduce_max(x) < 10, lambda x: 2 * x + 1, start)
        v1.enable_control_flow_v2()
        v1.saved_model.simple_save(session, str(folder), {"images": images}, {"features": pooled})


class SimclrModule(tf.Module):  # type: ignore[misc]
    """What SimCLRv2's TF2 code saves: called with ``trainable``, it returns its endpoints by name; no signatures."""

    def __init__(self, *, width: int = 1, selective: bool = False) -> None:
        super().__init__()
        self.made: list[Any] = []
        self.net = Resnet(self._make, width=width, selective=selective)
        self.net(tf.zeros([1, 32, 32, 3]), training=False)

    def _make(self, name: str, value: np.ndarray) -> Any:
        self.made.append(tf.Variable(value, name=name))
        return self.made[-1]

    @tf.function  # type: ignore[untyped-decorator]
    def __call__(self, inputs: Any, trainable: bool) -> dict[str, Any]:
        outputs = self.net(inputs, trainable)
        return {**outputs, "proj_head_input": outputs["final_avg_pool"]}


def simclr_tf2(folder: Path, *, width: int = 1, selective: bool = False) -> None:
    """SimCLRv2's TF2 directory."""
    module = SimclrModule(width=width, selective=selective)
    spec = tf.TensorSpec([None, None, None, 3], tf.float32)
    for trainable in (True, False):
        module.__call__.get_concrete_function(spec, trainable=trainable)
    tf.saved_model.save(module, str(folder))


def plain_tf2(folder: Path, embed: Callable[[Any], Any], *, size: int | None = None, dtype: str = "uint8") -> None:
    """A model as TensorFlow Serving takes it: ``images`` to ``embedding``."""
    module = tf.Module()
    spec = tf.TensorSpec([None, size, size, 3], dtype, name="images")
    module.serve = tf.function(lambda images: {"embedding": embed(tf.cast(images, tf.float32))}, input_signature=[spec])
    tf.saved_model.save(module, str(folder), signatures={"serving_default": module.serve})


def session_output(folder: Path, signature: str, output: str, images: np.ndarray) -> np.ndarray:
    """What a TF1 module itself gives, by TF1's own loader."""
    with tf.Graph().as_default(), v1.Session() as session:
        meta_graph = v1.saved_model.loader.load(session, [], str(folder))
        definition = meta_graph.signature_def[signature]
        (source,) = definition.inputs.values()
        return session.run(definition.outputs[output].name, {source.name: images})


def call_output(folder: Path, output: str, images: np.ndarray) -> np.ndarray:
    """What a TF2 directory itself gives, called as SimCLRv2's examples do."""
    return tf.saved_model.load(str(folder))(tf.constant(images), trainable=False)[output].numpy()
