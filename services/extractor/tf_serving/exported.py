"""A model as `import-tf` exports it, whoever runs it: its record in the store, and its signature, checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from shoal.errors import ModelMismatch, WeightsInvalid
from shoal.store import ModelRecord

from extractor.models import folders
from extractor.models.spec import ModelSpec
from extractor.tf_serving.protos import DataType, dtype_name

SIGNATURE = "serving_default"
INPUT = "images"
OUTPUT = "embedding"
_INPUT_DTYPES: dict[int, np.dtype[Any]] = {
    DataType.DT_UINT8: np.dtype(np.uint8),
    DataType.DT_FLOAT: np.dtype(np.float32),
}


@dataclass(frozen=True)
class Exported:
    """A version of a model whose signature was checked against the catalogue.

    Attributes
    ----------
    dtype
        dtype of ``images``: uint8, or float32 from 0 to 255.
    dim
        Width of the embedding.
    """

    name: str
    version: int
    dtype: np.dtype[Any]
    dim: int

    @classmethod
    def of(cls, spec: ModelSpec, version: int, signatures: Mapping[str, Any]) -> Exported:
        """The version whose ``SignatureDef`` protos are `signatures`, by name.

        Raises
        ------
        ModelMismatch
            The signature, its dtypes or its width are not those of the catalogue.
        """
        if SIGNATURE not in signatures:
            there = ", ".join(sorted(signatures)) or "none"
            raise _mismatch(spec, f"has no signature {SIGNATURE!r} (its signatures: {there})")
        signature = signatures[SIGNATURE]
        inputs, outputs = signature.inputs, signature.outputs
        if set(inputs) != {INPUT} or OUTPUT not in outputs:
            raise _mismatch(spec, f"maps {sorted(inputs)} to {sorted(outputs)} instead of {INPUT!r} to {OUTPUT!r}")
        _check_images(spec, inputs[INPUT])
        if outputs[OUTPUT].dtype != DataType.DT_FLOAT:
            raise _mismatch(spec, f"gives {dtype_name(outputs[OUTPUT].dtype)} embeddings, not float32")
        shape = _shape(outputs[OUTPUT])
        if shape is None or len(shape) != 2 or shape[1] < 1:
            raise _mismatch(spec, f"gives embeddings of shape {shape}: expected (N, dim) with a fixed dim")
        if spec.dim not in (None, shape[1]):
            raise _mismatch(spec, f"gives embeddings of width {shape[1]}, but the catalogue says {spec.dim}")
        return cls(spec.name, version, _INPUT_DTYPES[inputs[INPUT].dtype], shape[1])

    def checked(self, embeddings: NDArray[Any], rows: int) -> NDArray[np.float32]:
        """`embeddings`, if they are (rows, dim) float32.

        Raises
        ------
        ModelMismatch
            They are not.
        """
        if embeddings.shape != (rows, self.dim) or embeddings.dtype != np.float32:
            raise ModelMismatch(
                f"{self.name!r} returned {embeddings.dtype} {embeddings.shape} for {rows} images; expected float32 "
                f"{(rows, self.dim)}."
            )
        return embeddings


def record(spec: ModelSpec, models_root: Path, version: int) -> ModelRecord:
    """A version's record in the store.

    The hash of its weights is the one that the import wrote, when `models_root` has that version; its files must still
    have it.

    Raises
    ------
    WeightsInvalid
        The imported files have changed.
    """
    imported = folders.report(models_root / spec.name, version) or {}
    _check_files(models_root / spec.name / str(version), imported.get("weights_sha256"))
    return ModelRecord(
        name=spec.name,
        backend=spec.backend,
        architecture=spec.architecture,
        weights_sha256=imported.get("weights_sha256"),
        weights_file=f"{spec.name}/{version}",
        layout=spec.layout,
        embedding=imported.get("output", spec.embedding),
    )


def version_of(record: ModelRecord) -> int:
    """The version that a record names.

    Raises
    ------
    ModelMismatch
        It names none.
    """
    version = (record.weights_file or "").rpartition("/")[2]
    if not version.isdecimal():
        raise ModelMismatch(
            f"The record of {record.name!r} does not name the version of the served model. Import it again with "
            f"`shoal models import-tf {record.name} SOURCE_DIR`."
        )
    return int(version)


def _check_files(folder: Path, noted: str | None) -> None:
    if noted is not None and (found := folders.fingerprint(folder)) != noted:
        raise WeightsInvalid(
            f"The files in {folder} have changed since they were imported: their sha256 is {found}, and "
            f"{folders.REPORT} says {noted}. Remove the folder and import or pull the model again."
        )


def _check_images(spec: ModelSpec, info: Any) -> None:
    if info.dtype not in _INPUT_DTYPES:
        raise _mismatch(spec, f"takes images of {dtype_name(info.dtype)}; expected uint8 or float32")
    size = spec.transform.size
    shape = _shape(info)
    expected = (-1, size, size, 3)
    if shape is not None and (
        len(shape) != 4
        or any(actual not in (-1, required) for actual, required in zip(shape[1:], expected[1:], strict=True))
    ):
        raise _mismatch(spec, f"takes images of shape {shape}, but the catalogue's preprocessing gives {expected}")


def _shape(info: Any) -> tuple[int, ...] | None:
    return None if info.tensor_shape.unknown_rank else tuple(int(dim.size) for dim in info.tensor_shape.dim)


def _mismatch(spec: ModelSpec, what: str) -> ModelMismatch:
    return ModelMismatch(
        f"The served model {spec.name!r} {what}. Import it again with `shoal models import-tf {spec.name} SOURCE_DIR`.",
        model=spec.name,
    )
