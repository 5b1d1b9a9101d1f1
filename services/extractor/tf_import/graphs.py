"""The network in a SavedModel: a TF1 graph with the values of its variables, or a TF2 object that is called.

A TF1 graph is not loaded through TensorFlow's own TF1-in-TF2 loader: reference variables (what `tf.layers` made in
TF1) run there but are lost, without an error, when the result is saved again; and frozen into constants, the larger
models pass the 2 GB that a graph may have.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from shoal.errors import ImportInvalid

from extractor.tf_import.sources import CALL, Choice, SavedModelFolder, Shape, Signature
from extractor.tf_import.switches import check_no_switches, resolve_switches
from extractor.tf_serving.loading import tensorflow
from extractor.tf_serving.protos import dtype_name

_REFERENCE_VARIABLES = ("Variable", "VariableV2")
_RESOURCE_VARIABLE = "VarHandleOp"
_STATE = ("HashTable", "HashTableV2", "MutableHashTableV2", "IteratorV2", "LookupTableFindV2")


@dataclass(frozen=True)
class Network:
    """A network ready to be exported.

    Attributes
    ----------
    call
        Maps a tensor of images (n, size, size, 3), of the choice's dtype and scaled as the network wants it, to
        (n, dim).
    tracked
        Holds the variables; the exported module keeps it as an attribute.
    """

    call: Callable[[Any], Any]
    tracked: Any


class Reader(Protocol):
    """Reads a SavedModel of one layout."""

    def signatures(self) -> list[Signature]:
        """The signatures of the model: every way to call it."""

    def network(self, choice: Choice) -> Network:
        """The part of the model between the chosen input and the chosen output."""

    def reference(self, choice: Choice, images: NDArray[Any]) -> NDArray[np.float32]:
        """The chosen output as the SavedModel itself computes it; the export is compared with it."""


def reader(folder: SavedModelFolder) -> Reader:
    """The reader for the layout of `folder`."""
    return _Tf2Reader(folder) if folder.layout == "tf2" else _Tf1Reader(folder)


def _shape(proto: Any) -> Shape:
    if proto.unknown_rank:
        return None
    return tuple(None if dim.size < 0 else int(dim.size) for dim in proto.dim)


class _Tf1Reader:
    """Reads TF1 hub modules and TF1 SavedModels: graphs with signatures, and variables in a checkpoint."""

    def __init__(self, folder: SavedModelFolder) -> None:
        self.tf = tensorflow()
        self.folder = folder
        self.meta_graph = folder.inference_graph()

    def signatures(self) -> list[Signature]:
        return [
            Signature(
                name,
                {key: _shape(info.tensor_shape) for key, info in definition.inputs.items()},
                {key: _shape(info.tensor_shape) for key, info in definition.outputs.items()},
                {key: dtype_name(info.dtype) for key, info in definition.inputs.items()},
            )
            for name, definition in sorted(self.meta_graph.signature_def.items())
        ]

    def network(self, choice: Choice) -> Network:
        tf = self.tf
        source, sink = self._tensors(choice)
        graph = self._inference_part(choice, sink.partition(":")[0])
        variables = self._variables(graph)
        removed = {source.partition(":")[0], *variables}
        kept = [node for node in graph.node if node.name not in removed]
        for node in kept:
            # Colocation names nodes that are gone, and devices are those of the machine that exported the graph.
            node.attr.pop("_class", None)
            node.device = ""
        del graph.node[:]
        graph.node.extend(kept)

        def call(images: Any) -> Any:
            here = tf.compat.v1.get_default_graph()
            fed = {source: images}
            for name, (variable, by_handle) in variables.items():
                fed[f"{name}:0"] = here.capture(variable.handle) if by_handle else variable.read_value()
            (output,) = tf.graph_util.import_graph_def(graph, input_map=fed, return_elements=[sink], name="")
            return output

        return Network(call, [variable for variable, _ in variables.values()])

    def reference(self, choice: Choice, images: NDArray[Any]) -> NDArray[np.float32]:
        tf = self.tf
        source, sink = self._tensors(choice)
        with tf.Graph().as_default(), tf.compat.v1.Session() as session:
            tf.compat.v1.saved_model.loader.load(
                session, list(self.meta_graph.meta_info_def.tags), str(self.folder.path)
            )
            return np.asarray(session.run(sink, {source: images, **dict.fromkeys(self._switches(choice), False)}))

    def _inference_part(self, choice: Choice, sink: str) -> Any:
        extract = self.tf.compat.v1.graph_util.extract_sub_graph
        graph = extract(self.meta_graph.graph_def, [sink])
        resolve_switches(graph, frozenset(name.partition(":")[0] for name in self._switches(choice)))
        graph = extract(graph, [sink])
        check_no_switches(graph)
        return graph

    def _switches(self, choice: Choice) -> list[str]:
        inputs = self.meta_graph.signature_def[choice.signature].inputs
        return [inputs[name].name for name in choice.switches]

    def _tensors(self, choice: Choice) -> tuple[str, str]:
        definition = self.meta_graph.signature_def[choice.signature]
        return definition.inputs[choice.input].name, definition.outputs[choice.output].name

    def _variables(self, graph: Any) -> dict[str, tuple[Any, bool]]:
        """Each variable of `graph` by its node's name, with its saved value, and whether the graph takes its handle."""
        tf = self.tf
        nodes = {node.name: node for node in graph.node}
        for node in nodes.values():
            if node.op in _STATE:
                raise ImportInvalid(
                    f"The graph has the node {node.name!r} of type {node.op}; tables and iterators cannot be imported."
                )
        named = {n: node for n, node in nodes.items() if node.op in (*_REFERENCE_VARIABLES, _RESOURCE_VARIABLE)}
        if not named:
            return {}
        checkpoint = self._checkpoint()
        definitions = self._definitions()
        variables = {}
        for name, node in named.items():
            value = _saved_value(checkpoint, name, node, definitions.get(name))
            variables[name] = (tf.Variable(value, trainable=False, name=name), node.op == _RESOURCE_VARIABLE)
        return variables

    def _checkpoint(self) -> Any:
        prefix = self.folder.path / "variables" / "variables"
        try:
            return self.tf.train.load_checkpoint(str(prefix))
        except (self.tf.errors.OpError, ValueError) as error:
            raise ImportInvalid(f"The variables in {prefix.parent} cannot be read: {error}.") from error

    def _definitions(self) -> dict[str, Any]:
        from tensorflow.core.framework.variable_pb2 import VariableDef

        found = {}
        for collection in self.meta_graph.collection_def.values():
            for raw in collection.bytes_list.value:
                definition = VariableDef()
                with contextlib.suppress(ValueError, TypeError):
                    definition.ParseFromString(raw)
                    found[definition.variable_name.partition(":")[0]] = definition
        return found


def _saved_value(checkpoint: Any, name: str, node: Any, definition: Any) -> NDArray[Any]:
    """The value of a variable in a checkpoint; for a part of a partitioned variable, its slice."""
    shared = node.attr["shared_name"].s.decode()
    slice_info = definition.save_slice_info_def if definition is not None else None
    full_name = slice_info.full_name if slice_info is not None and slice_info.full_name else None
    for key in (full_name, name, shared):
        if key and checkpoint.has_tensor(key):
            value = np.asarray(checkpoint.get_tensor(key))
            if key != full_name or slice_info is None:
                return value
            places = zip(slice_info.var_offset, slice_info.var_shape, strict=True)
            return value[tuple(slice(start, start + length) for start, length in places)]
    raise ImportInvalid(
        f"The variable {name!r} of the graph is not in the checkpoint: the folder is incomplete. Fetch the model again."
    )


class _Tf2Reader:
    """Reads TF2 SavedModels: an object that can be called, or has signatures."""

    def __init__(self, folder: SavedModelFolder) -> None:
        self.tf = tensorflow()
        try:
            self.loaded = self.tf.saved_model.load(str(folder.path))
        except (OSError, ValueError, KeyError, self.tf.errors.OpError) as error:
            raise ImportInvalid(f"TensorFlow cannot load {folder.path}: {error}.") from error
        self.callable = _inference_function(self.loaded)

    def signatures(self) -> list[Signature]:
        functions = dict(sorted(self.loaded.signatures.items()))
        if self.callable is not None:
            functions[CALL] = self.callable
        return [
            Signature(
                name,
                {key: _known_shape(spec) for key, spec in _specs(f.structured_input_signature)},
                {key: _known_shape(spec) for key, spec in _specs(f.structured_outputs)},
                {key: spec.dtype.name for key, spec in _specs(f.structured_input_signature)},
            )
            for name, f in functions.items()
        ]

    def network(self, choice: Choice) -> Network:
        tf = self.tf
        if choice.signature != CALL:
            function = self.loaded.signatures[choice.signature]
            off = dict.fromkeys(choice.switches, tf.constant(False))
            return Network(lambda images: function(**{choice.input: images}, **off)[choice.output], self.loaded)
        args, kwargs = self.callable.structured_input_signature

        def call(images: Any) -> Any:
            def fill(value: Any) -> Any:
                return images if isinstance(value, tf.TensorSpec) else value

            result = self.loaded(*[fill(value) for value in args], **{key: fill(v) for key, v in kwargs.items()})
            return dict(_leaves(result))[choice.output]

        return Network(call, self.loaded)

    def reference(self, choice: Choice, images: NDArray[Any]) -> NDArray[np.float32]:
        return np.asarray(self.network(choice).call(self.tf.constant(images)))


def _inference_function(loaded: Any) -> Any:
    """The concrete function of ``loaded(...)`` with all switches (``trainable``, ``training``) off; None if none is.

    Of several, the one whose input has the fewest fixed dimensions.
    """
    function = getattr(loaded, CALL, None)
    tf = tensorflow()
    found = []
    for concrete in getattr(function, "concrete_functions", ()):
        values = tf.nest.flatten(concrete.structured_input_signature)
        tensors = [value for value in values if isinstance(value, tf.TensorSpec)]
        if len(tensors) == 1 and not any(value for value in values if not isinstance(value, tf.TensorSpec)):
            found.append(concrete)
    return min(found, key=_fixed_lengths, default=None)


def _fixed_lengths(concrete: Any) -> int:
    tf = tensorflow()
    (spec,) = (s for s in tf.nest.flatten(concrete.structured_input_signature) if isinstance(s, tf.TensorSpec))
    return 0 if spec.shape.rank is None else sum(length is not None for length in spec.shape.as_list())


def _specs(structure: Any) -> Iterator[tuple[str, Any]]:
    tf = tensorflow()
    for name, value in _leaves(structure):
        if isinstance(value, tf.TensorSpec) or tf.is_tensor(value):
            yield name, value


def _known_shape(spec: Any) -> Shape:
    return None if spec.shape.rank is None else tuple(spec.shape.as_list())


def _leaves(structure: Any, name: str = "output") -> Iterator[tuple[str, Any]]:
    """The tensors in a nested structure by name: the dictionary's key, else the tensor's own name, else ``output``."""
    if isinstance(structure, dict):
        for key, value in structure.items():
            yield from _leaves(value, str(key))
    elif isinstance(structure, list | tuple):
        for index, value in enumerate(structure):
            inner = getattr(value, "name", None) if hasattr(value, "dtype") and not hasattr(value, "numpy") else None
            yield from _leaves(value, inner or (name if len(structure) == 1 else f"{name}_{index}"))
    else:
        yield name, structure
