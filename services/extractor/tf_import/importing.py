"""Import of a TensorFlow model: from a SavedModel directory to a version folder for TensorFlow Serving.

The result has one signature, ``images`` (N, H, W, 3) uint8 or float32 of 0 to 255 to ``embedding`` (N, dim) float32,
with the model's own scaling inside the graph.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError
from shoal.errors import ImportInvalid, UnknownModel
from shoal.schemas import Name, TransformOverride

from extractor.images.transform import Transform
from extractor.models import catalogue, folders
from extractor.models.spec import ModelSpec
from extractor.tf_import.checks import Checks, check_export, sample_images
from extractor.tf_import.export import InputDtype, Scaling, publish, save, write_configs, write_warm_up
from extractor.tf_import.graphs import Network, Reader, reader
from extractor.tf_import.sources import Choice, SavedModelFolder, choose, read_folder
from extractor.tf_serving.exported import INPUT, OUTPUT, SIGNATURE
from extractor.tf_serving.loading import tensorflow

DEFAULT_SIZE = 224
BIGBIGAN = Transform(256, 1.0, "bicubic", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
SIMCLR = Transform(DEFAULT_SIZE, 0.875, "bicubic", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


@dataclass(frozen=True)
class ImportReport:
    """What was imported and what the checks measured.

    Attributes
    ----------
    folder
        The version folder.
    layout
        ``tf1-hub``, ``tf1`` or ``tf2``.
    signature, input, output
        The signature or function used; ``__call__`` means the object itself.
    transform
        How images are to be prepared; mean and std are inside the graph.
    dtype
        Of ``images``.
    weights_sha256
        Of the version folder's graph and variables.
    """

    name: str
    version: int
    folder: str
    source: str
    layout: str
    signature: str
    input: str
    output: str
    dim: int
    dtype: InputDtype
    transform: dict[str, Any]
    weights_sha256: str
    checks: Checks
    tensorflow: str

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON values."""
        return asdict(self)


def import_savedmodel(
    name: str,
    source: Path,
    models_root: Path,
    signature: str | None = None,
    output: str | None = None,
    *,
    dtype: InputDtype = "uint8",
    transform: Mapping[str, Any] | None = None,
) -> ImportReport:
    """Export the model in `source` as ``<models_root>/<name>/<version>`` after checking it.

    Parameters
    ----------
    name
        A catalogue name, whose preprocessing and dimension then apply, or a new name, which requests can then use.
    source
        Directory of a TF1 hub module, a TF1 SavedModel or a TF2 SavedModel.
    signature, output
        By default those that published models use for their embedding.
    dtype
        Of the exported input. uint8 is lossless and a quarter of the bytes.
    transform
        Fields of `Transform` that differ from the default, for a name that is not in the catalogue. The default is
        BigBiGAN's for the signature ``encode``, SimCLR's for all others.

    Raises
    ------
    ImportInvalid
        The directory, signature or output does not exist, or a check failed. No file is left.
    """
    spec = _catalogued(name, models_root)
    found = read_folder(source)
    read = reader(found)
    choice = choose(read.signatures(), signature, output or _output_of(spec))
    export = _Export(name, choice, _transform(name, spec, choice, transform or {}), dtype)
    images = sample_images(export.size, dtype)
    reference = _reference(read, export, images)
    dim = _checked_dim(reference, spec, choice)
    folder = models_root / name
    with _temporary_folder(folder) as temporary:
        _write(temporary, export, read.network(choice), dim)
        checks = check_export(_served(temporary), reference, images, random_allowed=output is not None)
        report = _describe(temporary, export, found, dim, checks)
        temporary.chmod(0o755)
        version = publish(temporary, folder)
    write_configs(models_root)
    return replace(report, version=version, folder=str(folder / str(version)))


@contextmanager
def _temporary_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder in `folder`, which is created, and removed again if it stays empty."""
    folder.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=".import-", dir=folder))
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if not any(folder.iterdir()):
            folder.rmdir()


@dataclass(frozen=True)
class _Export:
    """What is exported: an output of the source, and its input."""

    name: str
    choice: Choice
    transform: Transform
    dtype: InputDtype

    @property
    def size(self) -> int:
        """Side of the input, pixels."""
        if self.choice.size not in (None, self.transform.size):
            raise ImportInvalid(
                f"The graph takes {self.choice.size} x {self.choice.size} pixels, but the model's preprocessing gives "
                f"{self.transform.size}."
            )
        return self.transform.size

    @property
    def scaling(self) -> Scaling | None:
        """The export's scaling of pixels; None when the source scales them."""
        return Scaling(self.transform.mean, self.transform.std) if self.choice.dtype == "float32" else None


def _write(folder: Path, export: _Export, network: Network, dim: int) -> None:
    tf = tensorflow()
    try:
        save(network, export.scaling, folder, size=export.choice.size, dim=dim, dtype=export.dtype)
    except (tf.errors.OpError, ValueError, TypeError, AttributeError) as error:
        raise ImportInvalid(f"TensorFlow cannot export this graph: {_first_line(error)}.") from error
    write_warm_up(folder, export.name, size=export.size, dtype=export.dtype)


def _describe(folder: Path, export: _Export, source: SavedModelFolder, dim: int, checks: Checks) -> ImportReport:
    """The report, a copy of which is kept in `folder`."""
    report = ImportReport(
        name=export.name,
        version=0,
        folder="",
        source=str(source.path),
        layout=source.layout,
        signature=export.choice.signature,
        input=export.choice.input,
        output=export.choice.output,
        dim=dim,
        dtype=export.dtype,
        transform=export.transform.record(),
        weights_sha256=folders.fingerprint(folder),
        checks=checks,
        tensorflow=tensorflow().__version__,
    )
    document = {key: value for key, value in report.as_dict().items() if key not in ("version", "folder")}
    (folder / folders.REPORT).write_text(json.dumps(document, indent=2), encoding="utf-8")
    return report


def _check_name(name: str) -> None:
    try:
        TypeAdapter(Name).validate_python(name)
    except ValidationError:
        raise ImportInvalid(f"{name!r} is not a model name: use letters, digits, `.`, `_` and `-`.") from None


def _catalogued(name: str, models_root: Path) -> ModelSpec | None:
    _check_name(name)
    try:
        spec = catalogue.resolve(name, models_root, imported=False)
    except UnknownModel:
        return None
    if spec.backend != "tfserving":
        raise ImportInvalid(f"{name!r} is a model of the {spec.backend} backend: choose another name.")
    return spec


def _output_of(spec: ModelSpec | None) -> str | None:
    return spec.embedding if spec is not None and spec.embedding != "pooled" else None


def _transform(name: str, spec: ModelSpec | None, choice: Choice, changes: Mapping[str, Any]) -> Transform:
    if spec is not None:
        if changes:
            raise ImportInvalid(f"The catalogue fixes the preprocessing of {name}: omit {', '.join(changes)}.")
        return spec.transform
    family = BIGBIGAN if choice.signature == "encode" else SIMCLR
    default = {**vars(family), "size": choice.size or family.size}
    try:
        TransformOverride.model_validate({k: list(v) if isinstance(v, tuple) else v for k, v in changes.items()})
    except ValidationError as error:
        raise ImportInvalid(f"The preprocessing is not valid: {error.errors()[0]['msg']}.") from error
    return Transform(**{**default, **changes})


def _checked_dim(reference: NDArray[np.float32], spec: ModelSpec | None, choice: Choice) -> int:
    if reference.ndim != 2:
        raise ImportInvalid(f"The output {choice.output!r} has {reference.ndim} axes: an embedding is (N, dim).")
    dim = int(reference.shape[1])
    if spec is not None and spec.dim not in (None, dim):
        raise ImportInvalid(
            f"The output {choice.output!r} has {dim} dimensions, but {spec.name} has {spec.dim}: choose another "
            "output with --output, or import the model under a new name.",
            dim=dim,
            expected=spec.dim,
        )
    return dim


def _reference(read: Reader, export: _Export, images: NDArray[Any]) -> NDArray[np.float32]:
    tf = tensorflow()
    if export.scaling is None:
        prepared = images.astype(np.uint8)
    else:
        prepared = np.asarray(export.scaling.apply(images.astype(np.float32)), np.float32)
    try:
        return read.reference(export.choice, prepared)
    except (tf.errors.OpError, ValueError, TypeError) as error:
        raise ImportInvalid(f"The source cannot embed images of {images.shape[1:]}: {_first_line(error)}.") from error


def _served(folder: Path) -> Any:
    tf = tensorflow()
    function = tf.saved_model.load(str(folder)).signatures[SIGNATURE]
    return lambda images: function(**{INPUT: tf.constant(images)})[OUTPUT].numpy()


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
