"""What the catalogue knows about a model before anything is loaded: data only, no numerical library."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass as pydantic_dataclass

from extractor.images.transform import Transform
from extractor.models import folders

Readiness = Literal["ready", "downloadable", "needs_file"]


@pydantic_dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class PublishedModel:
    """Where a TensorFlow model is published as a whole; also the table ``published`` of a catalogue file.

    Attributes
    ----------
    kind
        ``gcs-prefix``: all objects below a prefix of a Google Cloud Storage bucket. ``zip``, ``tar``: an archive that
        contains the model's folder.
    url
        ``https://storage.googleapis.com/<bucket>/<prefix>/``, or the archive's URL.
    hosts
        Hosts that the publisher may redirect to; ``.example.org`` matches all its subdomains.
    sha256
        Of the archive, in hex, where the publisher states it.
    """

    kind: Literal["gcs-prefix", "zip", "tar"]
    url: Annotated[str, Field(pattern=r"^https?://[^\s#]+$", max_length=2000)]
    hosts: tuple[str, ...] = ()
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{8,64}$")] | None = None

    @model_validator(mode="after")
    def _names_a_prefix(self) -> PublishedModel:
        if self.kind == "gcs-prefix" and not re.fullmatch(r"https?://[^/]+/[^/?]+/[^?]+/", self.url):
            raise ValueError("`url` of a gcs-prefix is https://storage.googleapis.com/<bucket>/<prefix>/")
        return self


@dataclass(frozen=True)
class WeightsSource:
    """Where the numbers of a network come from.

    Attributes
    ----------
    kind
        ``none``: the model has no weights. ``random``: seeded initialisation. ``file``: a file below the models root.
        ``package``: a file inside an installed Python package. ``served``: TensorFlow Serving has them; if it runs on
        this machine, they are in the folder of that name below the models root.
    files
        Accepted names below the models root, in this order; a download is stored under the first.
    url
        Where the first of `files` can be downloaded; None when a person has to put it there.
    sha256
        Of the published file, in hex; None when the publisher does not state it. A prefix of at least 8 digits is
        enough.
    md5
        The same for md5, which some publishers state instead.
    page
        Web page where the publisher offers the file, when the file itself has no URL.
    package, resource
        Python package and the file inside it.
    published
        Where a served model can be downloaded; it is then imported.
    """

    kind: Literal["none", "random", "file", "package", "served"]
    files: tuple[str, ...] = ()
    url: str | None = None
    sha256: str | None = None
    md5: str | None = None
    page: str | None = None
    package: str | None = None
    resource: str | None = None
    published: PublishedModel | None = None

    def packaged_file(self) -> Path | None:
        """The file inside the Python package, None when the package is not installed."""
        if self.package is None or self.resource is None:
            return None
        module = find_spec(self.package)
        for folder in (module.submodule_search_locations or ()) if module else ():
            path = Path(folder) / self.resource
            if path.is_file():
                return path
        return None

    def local_file(self, models_root: Path) -> Path | None:
        """The first accepted file that exists, the one in the package last; None if no file exists."""
        for name in self.files:
            path = models_root / name
            try:
                if self.kind == "served":
                    path = path / str(max(folders.versions(path), default=0)) / "saved_model.pb"
                if path.is_file():
                    return path
            except (OSError, ValueError):  # The name is too long for a file system, or the folder cannot be read.
                continue
        return self.packaged_file()


@dataclass(frozen=True)
class ModelSpec:
    """A model that images can be embedded with.

    Attributes
    ----------
    name
        A catalogue name, ``timm:<name>``, ``open_clip:<name>``, or, for a custom model, a name made of its parts.
    backend
        ``torch`` or ``tfserving``; a job's kind is ``extract:<backend>``.
    architecture
        A name of timm, one of `extractor.models.architectures`, ``pixels`` (no network) or
        ``handler:<module>:<Class>``.
    layout
        Key layout of the checkpoint; ``auto`` tries all.
    prefix, rename, ignore
        Rules for the checkpoint's keys, as in `shoal.schemas.KeyMapping`.
    dim
        Width of the embedding; None when it is known only after loading.
    embedding
        ``pooled``, ``cls``, ``patch_mean`` or the name of a module inside the network.
    handler
        ``module:Class`` of a handler that replaces the network; None for all others.
    reads_text
        Whether the model embeds texts too, into the space of its images.
    linear_probe
        Published top-1 accuracy on ImageNet of a linear classifier on this embedding, percent.
    paper
        arXiv number or URL.
    """

    name: str
    backend: Literal["torch", "tfserving"]
    architecture: str
    weights: WeightsSource
    transform: Transform
    layout: str = "auto"
    prefix: str | None = None
    rename: tuple[tuple[str, str], ...] = ()
    ignore: tuple[str, ...] = ()
    dim: int | None = None
    embedding: str = "pooled"
    seed: int | None = None
    handler: str | None = None
    description: str = ""
    licence: str | None = None
    paper: str | None = None
    linear_probe: float | None = None
    reads_text: bool = False
    options: dict[str, str] = field(default_factory=dict, hash=False)

    @property
    def kind(self) -> str:
        """The kind of this model's jobs."""
        return f"extract:{self.backend}"

    @property
    def slug(self) -> str:
        """The name reduced to letters, digits, ``.``, ``_`` and ``-``, for ids and file names."""
        return re.sub(r"[^A-Za-z0-9._-]+", "-", self.name).strip("-._") or "model"

    def readiness(self, models_root: Path, *, offline: bool = False) -> Readiness:
        """Whether the weights are on this machine, can be downloaded, or must be put below `models_root`."""
        if self.weights.kind in ("none", "random") or self.weights.local_file(models_root) is not None:
            return "ready"
        return "downloadable" if (self.weights.url or self.weights.published) and not offline else "needs_file"

    @property
    def no_texts(self) -> str:
        """Why the model cannot embed texts, and which ones can."""
        return (
            f"The model {self.name!r} embeds images only. Models of OpenCLIP embed texts too, such as "
            "'open_clip:ViT-B-32', but not those whose tokeniser is a download, such as SigLIP's."
        )

    @property
    def has_engines(self) -> bool:
        """Whether other engines than ``eager`` can run the model: it is a network of PyTorch."""
        return self.backend == "torch" and self.handler is None and self.architecture != "pixels"

    def no_engines(self, engine: str) -> str:
        """Why the request's ``engine`` cannot run the model."""
        return (
            f"`engine` is {engine!r}, which runs networks of PyTorch only, and the model {self.name!r} is none: send "
            '`engine`: "eager", or leave it out.'
        )

    def needs(self, *, served_elsewhere: bool) -> str | None:
        """What must be installed to run the model, such as ``shoal[tf]``; None if nothing is missing.

        Parameters
        ----------
        served_elsewhere
            Whether another server runs the TensorFlow models (TF_SERVING_URL is set).
        """
        if self.architecture.startswith("open_clip:") and find_spec("open_clip") is None:
            return "shoal[clip]"
        missing = self.backend == "tfserving" and not served_elsewhere and find_spec("tensorflow") is None
        return "shoal[tf]" if missing else None
