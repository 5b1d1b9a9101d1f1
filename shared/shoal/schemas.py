"""The REST contract as pydantic models: requests, jobs, problems.

Requests are strict: an unknown field, a number sent as a string or a value that is not finite is refused, never
converted, so that a typing error in a request of three days shows at once.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator, model_validator

from shoal.jobs.states import JobState

Name = Annotated[str, StringConstraints(min_length=1, max_length=100, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
"""A name that may become part of an id and of a file name."""
Id = Annotated[str, StringConstraints(min_length=1, max_length=160, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
RelativePath = Annotated[str, StringConstraints(min_length=1, max_length=4096)]
Seed = Annotated[int, Field(ge=0, le=2**31 - 1)]

MAX_CLUSTERS = 1_000_000
DEFAULT_EVALUATION_SEEDS = (0, 1, 2)


class Request(BaseModel):
    """Base of everything a client sends."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class LabelFile(Request):
    """Labels from a CSV or Parquet file with one row an image."""

    file: RelativePath = Field(description="CSV or Parquet file, relative to the data root.")
    path_column: str = Field("path", description="Column with the image's path, relative to `images.path`.")
    label_column: str = Field("label", description="Column with the label.")


class ImageSource(Request):
    """Which images to embed."""

    path: RelativePath = Field(description="Folder of images, relative to the configured data root.")
    labels: Literal["folder", "none"] | LabelFile = Field(
        "folder",
        description="`folder`: the first folder below `path` is the class; images beside the folders have none.",
    )
    split: Name | None = Field(None, description="Name written beside every row, such as `train` or `val`.")


class TransformOverride(Request):
    """How an image becomes the network's input, where it differs from the architecture's own."""

    size: int | None = Field(None, ge=8, le=4096, description="Side of the square input, pixels.")
    crop_fraction: float | None = Field(None, gt=0, le=1, description="Side of the centre crop / side after resizing.")
    interpolation: Literal["bilinear", "bicubic", "lanczos", "nearest"] | None = None
    mean: list[float] | None = Field(None, min_length=3, max_length=3, description="Per channel, of values in [0, 1].")
    std: list[Annotated[float, Field(gt=0)]] | None = Field(None, min_length=3, max_length=3)


class CustomModel(Request):
    """A model that is in no catalogue."""

    architecture: str = Field(
        min_length=1, max_length=200, description="A timm architecture or one of the catalogue's."
    )
    weights: str = Field(
        min_length=1,
        max_length=4096,
        description="File relative to the models root, or `random` for seeded random initialisation (a baseline).",
    )
    layout: str = Field("auto", max_length=100, description="Key layout of the checkpoint; `auto` tries all.")
    transform: TransformOverride | None = None
    embedding: str = Field(
        "pooled",
        min_length=1,
        max_length=200,
        description="`pooled`, `cls`, `patch_mean`, or the name of a module inside the network.",
    )
    seed: Seed = Field(0, description="Seed of `random` weights.")


class ExtractRequest(Request):
    """Body of `POST /extract`."""

    images: ImageSource
    model: Annotated[str, StringConstraints(min_length=1, max_length=300)] | CustomModel = Field(
        description="A catalogue name, `timm:<name>`, or a description of a model of your own."
    )
    name: Name | None = Field(None, description="Start of the embeddings' id; the model's name by default.")
    batch_size: int = Field(64, ge=1, le=4096)
    dtype: Literal["float16", "float32"] = "float32"
    shard_rows: int = Field(10_000, ge=1, le=1_000_000, description="Images per shard: what a crash can cost at most.")
    thumbnails: bool = Field(True, description="Keep a small WebP of each image for reports.")
    max_failed_fraction: float = Field(0.05, ge=0, le=1, description="The job fails when more images than this do.")


class EmbeddingSets(Request):
    """Fit on one embeddings id, score others through the same stored transform."""

    train: Id
    score: list[Id] = Field(min_length=1, max_length=100)


class PcaOptions(Request):
    """Principal component analysis before k-means."""

    components: int | None = Field(None, ge=1, le=100_000, description="null keeps all: without whitening a rotation.")
    whiten: bool = False


class KMeansOptions(Request):
    """How k-means runs."""

    engine: Literal["auto", "fast", "faiss"] = Field("auto", description="auto picks the fastest of this machine.")
    init: Literal["k-means++", "random"] = "k-means++"
    iterations: int = Field(50, ge=1, le=10_000, description="At most; stops earlier when the inertia stands still.")
    restarts: int = Field(1, ge=1, le=100, description="Per seed; the one with the lowest inertia is kept.")
    max_points_per_centroid: int | None = Field(
        None, ge=1, description="null trains on every row. A number trains on a sample, which the result then states."
    )


class ClusterRequest(Request):
    """Body of `POST /cluster`."""

    embeddings: Id | EmbeddingSets
    clusters: int | None = Field(None, ge=2, le=MAX_CLUSTERS, description="k. Exactly one of `clusters` and `over`.")
    over: float | None = Field(None, gt=0, le=1000, description="k as a multiple of the number of classes.")
    pca: PcaOptions | None = None
    normalize: bool = Field(True, description="Scale each embedding to unit L2 norm first.")
    kmeans: KMeansOptions = Field(default_factory=lambda: KMeansOptions())
    seed: Seed | None = None
    seeds: list[Seed] | None = Field(None, min_length=1, max_length=100)
    label_map: Literal["train", "scored"] = Field(
        "train", description="Where the cluster-to-class map behind `accuracy_one_to_one` and `label` is learnt."
    )

    @field_validator("seeds")
    @classmethod
    def _distinct(cls, seeds: list[int] | None) -> list[int] | None:
        if seeds is not None and len(set(seeds)) != len(seeds):
            raise ValueError("seeds must differ from each other")
        return seeds

    @model_validator(mode="after")
    def _exactly_one(self) -> ClusterRequest:
        if (self.clusters is None) == (self.over is None):
            raise ValueError(
                "send exactly one of `clusters` (the number k) and `over` (k as a multiple of the classes)"
            )
        if self.seed is not None and self.seeds is not None:
            raise ValueError("send `seed` or `seeds`, not both")
        return self

    @property
    def train_id(self) -> str:
        """The embeddings that k-means is fitted on."""
        return self.embeddings if isinstance(self.embeddings, str) else self.embeddings.train

    @property
    def scored_ids(self) -> list[str]:
        """The embeddings whose assignments are scored."""
        return [self.embeddings] if isinstance(self.embeddings, str) else list(self.embeddings.score)


class Progress(BaseModel):
    """How far a running job is."""

    stage: str = Field(description="What it does now, such as `embed` or `kmeans`.")
    done: int = 0
    total: int | None = None
    unit: str = "items"
    rate: float | None = Field(None, description="Units a second.")
    eta_s: float | None = Field(None, description="Seconds left of this stage.")


class Job(BaseModel):
    """A job as the API shows it."""

    id: str
    kind: str = Field(description="`extract:torch`, `extract:tfserving` or `cluster`.")
    state: JobState
    created_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None
    attempt: int = 0
    cancel_requested: bool = False
    progress: Progress | None = None
    request: dict[str, Any]
    result: dict[str, Any] | None = None
    error: dict[str, Any] | None = Field(None, description="An RFC 9457 problem.")
    links: dict[str, str] = Field(default_factory=dict)


class JobPage(BaseModel):
    """A page of `GET /jobs`, newest first."""

    jobs: list[Job]
    next_cursor: str | None = None


class FieldError(BaseModel):
    """One field of a refused request."""

    field: str
    code: str
    message: str


class Problem(BaseModel):
    """An error as RFC 9457 `application/problem+json`."""

    model_config = ConfigDict(extra="allow")

    type: str
    title: str
    status: int
    detail: str
    code: str
    errors: list[FieldError] | None = Field(None, description="With `invalid_request`: each field that is wrong.")
