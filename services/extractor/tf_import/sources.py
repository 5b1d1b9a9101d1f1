"""SavedModel directories: their signatures, and the choice of the output that is the embedding."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from google.protobuf.message import DecodeError
from shoal.errors import ImportInvalid
from shoal.userfiles import UserFile

from extractor.tf_serving.protos import SavedModel

Layout = Literal["tf1-hub", "tf1", "tf2"]
CALL = "__call__"
"""Means a call of the loaded object itself, as for SimCLRv2's TF2 directories."""
SUBFOLDERS = ("hub", "saved_model")
"""Where published archives keep the SavedModel beside their checkpoints."""
SWITCH_NAMES = ("is_training", "training", "trainable", "train", "phase_train")
"""Names of inputs that select training or inference."""
_MOST_BYTES = (2 << 30) - 1
"""Largest size of a protocol buffer."""
PREFERRED_SIGNATURES = ("encode", CALL, "serving_default", "default")
PREFERRED_OUTPUTS = ("final_avg_pool", "avepool_feat", "embedding")

Shape = tuple[int | None, ...] | None


@dataclass(frozen=True)
class Signature:
    """One way to call a model.

    Attributes
    ----------
    inputs, outputs
        Shape of each by name; None for an unknown rank, and for an unknown dimension.
    dtypes
        dtypes of the inputs that are not float32.
    """

    name: str
    inputs: Mapping[str, Shape]
    outputs: Mapping[str, Shape]
    dtypes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Choice:
    """Which input and output of which signature are the images and the embedding.

    Attributes
    ----------
    size
        Side of the square input if the graph fixes it, else None.
    dtype
        dtype of the input: float32, scaled by the caller, or uint8, scaled by the graph.
    switches
        Boolean inputs that select training or inference; the import sets them to False.
    """

    signature: str
    input: str
    output: str
    size: int | None
    dtype: str = "float32"
    switches: tuple[str, ...] = ()


@dataclass(frozen=True)
class SavedModelFolder:
    """A SavedModel directory on disk, before its graph is built."""

    path: Path
    layout: Layout
    proto: Any

    @property
    def tag_sets(self) -> list[tuple[str, ...]]:
        """The tags of each graph in it."""
        return [tuple(sorted(graph.meta_info_def.tags)) for graph in self.proto.meta_graphs]

    def inference_graph(self) -> Any:
        """The graph built in inference mode: the one without tags, or tagged ``serve``; never ``train``.

        Raises
        ------
        ImportInvalid
            Every graph in the directory is for training.
        """
        graphs = dict(zip(self.tag_sets, self.proto.meta_graphs, strict=True))
        for tags in ((), ("serve",), *sorted(tags for tags in graphs if "train" not in tags)):
            if tags in graphs:
                return graphs[tags]
        raise ImportInvalid(
            f"{self.path} holds no graph for inference, only {_listed(map(str, graphs))}: in training mode batch "
            "normalisation mixes the images of a batch. Export the model with an inference graph.",
            tags=[list(tags) for tags in graphs],
        )


def read_folder(source: Path) -> SavedModelFolder:
    """The SavedModel in `source`, or the only one in its subfolders `hub`, `saved_model`, or named by a training step.

    Raises
    ------
    ImportInvalid
        The folder holds no model or more than one, or the model's file cannot be read.
    """
    folder = _locate(source)
    proto = SavedModel()
    content = UserFile(folder / "saved_model.pb", error=ImportInvalid).read_bytes(_MOST_BYTES)
    try:
        proto.ParseFromString(content)
    except DecodeError as error:
        raise ImportInvalid(f"{folder / 'saved_model.pb'} is not a SavedModel: {error}.") from error
    if not proto.meta_graphs:
        raise ImportInvalid(f"{folder / 'saved_model.pb'} holds no graph: the file is empty or cut short.")
    if any(graph.HasField("object_graph_def") for graph in proto.meta_graphs):
        return SavedModelFolder(folder, "tf2", proto)
    return SavedModelFolder(folder, "tf1-hub" if (folder / "tfhub_module.pb").is_file() else "tf1", proto)


def _locate(source: Path) -> Path:
    if not source.is_dir():
        raise ImportInvalid(f"{source} is not a folder: give the directory that holds `saved_model.pb`.")
    if _holds_model(source):
        return source
    found = sorted(path for path in _below(source) if _holds_model(path))
    if len(found) == 1:
        return found[0]
    if found:
        listed = _listed(str(path.relative_to(source)) for path in found)
        raise ImportInvalid(f"{source} holds {len(found)} models, {listed}: give one of these folders.")
    below = sorted(path.parent for path in source.glob("*/saved_model.pb"))
    hint = f" Did you mean {_listed(map(str, below[:5]))}?" if below else ""
    raise ImportInvalid(f"{source} holds no `saved_model.pb`.{hint}")


def _below(source: Path) -> Iterator[Path]:
    """Where exports put a model: below `hub` or `saved_model`, and below that a folder for the training step."""
    for folder in (source, *(source / name for name in SUBFOLDERS)):
        if folder is not source:
            yield folder
        if folder.is_dir():
            yield from (path for path in folder.iterdir() if path.name.isdecimal())


def _holds_model(folder: Path) -> bool:
    return (folder / "saved_model.pb").is_file()


def choose(signatures: Sequence[Signature], signature: str | None, output: str | None) -> Choice:
    """The requested signature and output, or the ones that published models use for their embedding.

    Without a wish, BigBiGAN's ``encode`` comes before ``default`` (which is a sample of its latent), and a pooled
    feature before any other output.

    Raises
    ------
    ImportInvalid
        The signature or output does not exist, or the choice is ambiguous; the message lists those available.
    """
    chosen = _signature({s.name: s for s in signatures}, signature)
    images = _image_input(chosen)
    shape = chosen.inputs[images]
    height, width = (shape[1], shape[2]) if shape is not None else (None, None)
    if height != width:
        raise ImportInvalid(
            f"The input {images!r} of {chosen.name!r} is {height} x {width} pixels: only square inputs are served."
        )
    dtype = chosen.dtypes.get(images, "float32")
    if dtype not in ("float32", "uint8"):
        raise ImportInvalid(f"The input {images!r} of {chosen.name!r} is {dtype}; expected float32 or uint8.")
    return Choice(chosen.name, images, _output(chosen, output), height, dtype, _switches(chosen))


def _signature(named: Mapping[str, Signature], wish: str | None) -> Signature:
    if wish is not None:
        if wish not in named:
            raise ImportInvalid(
                f"The model has no signature {wish!r}. Its signatures: {_listed(named)}.", signatures=sorted(named)
            )
        return named[wish]
    for name in PREFERRED_SIGNATURES:
        if name in named:
            return named[name]
    if len(named) == 1:
        return next(iter(named.values()))
    raise ImportInvalid(
        f"Name the signature to use with --signature. The model's signatures: {_listed(named)}.",
        signatures=sorted(named),
    )


def _image_input(signature: Signature) -> str:
    off = _switches(signature)
    images = [n for n, shape in signature.inputs.items() if n not in off and (shape is None or len(shape) == 4)]
    if len(images) != 1 or len(signature.inputs) != 1 + len(off):
        inputs = _listed(f"{name} {_shown(shape)}" for name, shape in signature.inputs.items())
        raise ImportInvalid(
            f"The signature {signature.name!r} takes {inputs or 'nothing'}; expected one input of shape (N, H, W, 3).",
            inputs=sorted(signature.inputs),
        )
    return images[0]


def _switches(signature: Signature) -> tuple[str, ...]:
    return tuple(
        name
        for name, shape in sorted(signature.inputs.items())
        if name in SWITCH_NAMES and not shape and signature.dtypes.get(name) == "bool"
    )


def _output(signature: Signature, wish: str | None) -> str:
    outputs = signature.outputs
    listed = _listed(f"{name} {_shown(shape)}" for name, shape in sorted(outputs.items()))
    if wish is not None and wish not in outputs:
        raise ImportInvalid(
            f"The signature {signature.name!r} has no output {wish!r}. Its outputs: {listed}.",
            signature=signature.name,
            outputs=sorted(outputs),
        )
    name = wish or next((name for name in PREFERRED_OUTPUTS if name in outputs), None)
    if name is None and len(outputs) == 1:
        name = next(iter(outputs))
    if name is None and "default" in outputs:
        name = "default"
    if name is None:
        raise ImportInvalid(
            f"Name the output of {signature.name!r} that is the embedding with --output. Its outputs: {listed}.",
            signature=signature.name,
            outputs=sorted(outputs),
        )
    shape = outputs[name]
    if shape is not None and len(shape) != 2:
        raise ImportInvalid(
            f"The output {name!r} of {signature.name!r} has the shape {_shown(shape)}; expected (N, dim). "
            f"The outputs: {listed}.",
            outputs=sorted(outputs),
        )
    return name


def _shown(shape: Shape) -> str:
    return "(?)" if shape is None else f"({', '.join('N' if n is None else str(n) for n in shape)})"


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names)
