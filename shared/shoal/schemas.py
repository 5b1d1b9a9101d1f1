"""The REST contract as pydantic models: requests, jobs, problems.

Requests are strict: an unknown field, a number sent as a string or a value that is not finite is refused, never
converted, so that a typing error in a request of three days shows at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime
from itertools import islice, pairwise, product
from math import prod
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ByteSize,
    ConfigDict,
    Discriminator,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    StringConstraints,
    Tag,
    WithJsonSchema,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticKnownError, core_schema

from shoal.jobs.states import JobState
from shoal.keypatterns import LONGEST, check_ignored, check_pattern, check_replacement

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
NAME_RULE = "Use letters, digits, `.`, `_` and `-` only, and begin with a letter or a digit."
Name = Annotated[str, StringConstraints(min_length=1, max_length=100, pattern=NAME_PATTERN)]
"""A name that may become part of an id and of a file name."""
Id = Annotated[str, StringConstraints(min_length=1, max_length=160, pattern=NAME_PATTERN)]
RelativePath = Annotated[str, StringConstraints(min_length=1, max_length=4096)]
Seed = Annotated[int, Field(ge=0, le=2**31 - 1)]

MAX_CLUSTERS = 1_000_000
DEFAULT_EVALUATION_SEEDS = (0, 1, 2)
MAX_UNKNOWN = 20
"""Unknown fields of one object that are told."""


class Request(BaseModel):
    """Base of everything a client sends."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _few_unknown(cls, sent: Any) -> Any:
        """What was sent with the first unknown fields alone: each is an error, and a body has room for 100,000."""
        if not isinstance(sent, dict) or len(sent) <= MAX_UNKNOWN:
            return sent
        untold = set(islice((name for name in sent if name not in cls.model_fields), MAX_UNKNOWN, None))
        return {name: value for name, value in sent.items() if name not in untold}


class LabelFile(Request):
    """Labels from a file with one row an image."""

    file: RelativePath = Field(
        description="CSV (comma, semicolon, tab or pipe), text with a path and a label a line, JSON Lines or Parquet; "
        "relative to the data root."
    )
    path_column: str = Field(
        "path",
        max_length=300,
        description="Column with the image's path, relative to `images.path`. Where there is no `path`, the obvious "
        "one is taken, such as `filename` or `image`.",
    )
    label_column: str = Field(
        "label",
        max_length=300,
        description="Column with the label. Where there is no `label`, the obvious one is taken, such as `class`, or "
        "the only one beside the paths.",
    )


class FolderLevel(Request):
    """Labels from the folders at one level, whatever they are called."""

    folder_level: int = Field(
        ge=0, le=100, description="0: the first folder below `path` is the class; 1: the folder within it; and so on."
    )


def _labels_kind(value: Any) -> str:
    """Which object is meant, so that what is wrong with it is said of that kind alone."""
    by_level = isinstance(value, FolderLevel) or (
        isinstance(value, dict) and "folder_level" in value and "file" not in value
    )
    return "FolderLevel" if by_level else "LabelFile"


LabelObject = Annotated[
    Annotated[LabelFile, Tag("LabelFile")] | Annotated[FolderLevel, Tag("FolderLevel")], Discriminator(_labels_kind)
]


class ImageSource(Request):
    """Which images to embed."""

    path: RelativePath = Field(description="Folder of images, relative to the configured data root.")
    labels: Literal["folder", "none"] | LabelObject = Field(
        "folder",
        description="`folder`: the first folder below `path` is the class; images beside the folders have none. "
        "Folders such as `train` and `val` are taken for splits, a folder that all images lie in (`images`) is "
        "skipped, and img2dataset's numbered shards are no classes; the result's `source` says what was recognised. "
        '`{"folder_level": n}` takes the folders at that level, whatever they are called.',
    )
    split: Name | None = Field(
        None,
        description="Name written beside every row, such as `train` or `val`. null: the split's folder where `labels` "
        "is `folder` and there are such folders.",
    )


class TransformOverride(Request):
    """How an image becomes the network's input, where it differs from the architecture's own."""

    size: int | None = Field(None, ge=8, le=4096, description="Side of the square input, pixels.")
    crop_fraction: float | None = Field(None, gt=0, le=1, description="Side of the centre crop / side after resizing.")
    interpolation: Literal["bilinear", "bicubic", "lanczos", "nearest"] | None = None
    mean: list[Annotated[float, Field(ge=-1000, le=1000)]] | None = Field(
        None, min_length=3, max_length=3, description="Per channel, of values in [0, 1]."
    )
    std: list[Annotated[float, Field(gt=0, le=1000)]] | None = Field(None, min_length=3, max_length=3)


_Replacement = Annotated[str, StringConstraints(max_length=LONGEST)]
_Pattern = Annotated[str, StringConstraints(min_length=1, max_length=LONGEST), AfterValidator(check_pattern)]
_Ignored = Annotated[str, StringConstraints(min_length=1, max_length=LONGEST), AfterValidator(check_ignored)]
_Pair = Annotated[list[_Replacement], Field(min_length=2, max_length=2)]


MAX_PAIRS = 100


def _few_pairs(rename: Any) -> Any:
    # First: each wrong pair is an error, and a body has room for 100,000.
    if isinstance(rename, dict) and len(rename) > MAX_PAIRS:
        context = {"field_type": "Dictionary", "max_length": MAX_PAIRS, "actual_length": len(rename)}
        raise PydanticKnownError("too_long", context)
    return rename


def _pairs(rename: list[list[str]] | dict[str, str]) -> list[list[str]] | dict[str, str]:
    for pattern, replacement in rename.items() if isinstance(rename, dict) else rename:
        if not pattern:
            raise ValueError("an empty pattern fits every key: `^` begins a regular expression")
        check_replacement(check_pattern(pattern), replacement)
    return rename


class KeyMapping(Request):
    """How a checkpoint's keys become the network's, where no known layout says so.

    ``module.`` and ``_orig_mod.`` are taken away first. What is not filled, or left over, is refused as ever.
    """

    prefix: Annotated[str, StringConstraints(min_length=1, max_length=LONGEST)] | None = Field(
        None,
        description="What the network's keys begin with, such as `online_encoder.net.`: it is taken away. Tensors "
        "whose key begins otherwise are set aside, and listed in the model's record.",
    )
    rename: Annotated[
        Annotated[list[_Pair], Field(max_length=MAX_PAIRS)]
        | Annotated[dict[_Pattern, _Replacement], Field(max_length=MAX_PAIRS), BeforeValidator(_few_pairs)],
        AfterValidator(_pairs),
    ] = Field(
        default_factory=list,
        description="Pairs of a pattern and its replacement, applied to each key one after the other, after `prefix`. "
        "A pattern is the plain text that a key begins with, or a regular expression that begins with `^`; the "
        "replacement of the latter may name its groups, as `\\1`.",
    )
    ignore: Annotated[list[_Ignored], Field(max_length=100)] = Field(
        default_factory=list,
        description="Tensors that may be left over: the plain text that a key begins with, a glob such as "
        "`predictor.*`, or a regular expression that begins with `^`.",
    )

    def rename_pairs(self) -> tuple[tuple[str, str], ...]:
        """`rename` as pairs, however it was written."""
        pairs = self.rename.items() if isinstance(self.rename, dict) else self.rename
        return tuple((pattern, replacement) for pattern, replacement in pairs)


class CustomModel(KeyMapping):
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
    shard_rows: int = Field(
        10_000, ge=1, le=1_000_000, description="Images per shard, the unit of which all is committed or nothing."
    )
    thumbnails: bool = Field(True, description="Keep a small WebP of each image for reports.")
    max_failed_fraction: float = Field(0.05, ge=0, le=1, description="The job fails when more images than this do.")


class ClassMap(Request):
    """Which classes of the train set count as right for which classes of a scored set that has others."""

    file: RelativePath = Field(
        description="CSV with the columns `train_label` and `scored_label`, many to many; for `objectnet` the folder "
        "of ObjectNet's mappings. Relative to the data root."
    )
    format: Literal["csv", "objectnet"] = "csv"
    class_index: RelativePath | None = Field(
        None,
        description="For `objectnet`: imagenet_class_index.json or LOC_synset_mapping.txt, which name the train set's "
        "folders. Not needed when the train labels are all 1000 folders, or numbers 0 to 999.",
    )

    @model_validator(mode="after")
    def _index_is_read(self) -> ClassMap:
        if self.class_index is not None and self.format != "objectnet":
            raise ValueError("`class_index` goes with `format`: `objectnet`")
        return self


class ScoredSet(Request):
    """An embeddings id to score whose classes are not the train set's."""

    embeddings: Id
    class_map: ClassMap | None = None


class EmbeddingSets(Request):
    """Fit on one embeddings id, score others through the same stored transform."""

    train: Id
    score: list[Id | ScoredSet] = Field(min_length=1, max_length=100, fail_fast=True)

    @property
    def scored(self) -> dict[str, ClassMap | None]:
        """The embeddings to score, in order, each with its map of classes."""
        return {
            each if isinstance(each, str) else each.embeddings: None if isinstance(each, str) else each.class_map
            for each in self.score
        }

    @model_validator(mode="after")
    def _mapped_once(self) -> EmbeddingSets:
        mapped = [each.embeddings for each in self.score if isinstance(each, ScoredSet)]
        plain = {each for each in self.score if isinstance(each, str)}
        if len(set(mapped)) < len(mapped) or not plain.isdisjoint(mapped):
            raise ValueError("name each scored set with a class map once")
        if self.train in mapped:
            raise ValueError("the train set needs no class map: its classes are the ones that clusters are named by")
        return self


class PcaOptions(Request):
    """Principal component analysis before k-means."""

    components: int | None = Field(None, ge=1, le=100_000, description="null keeps all: without whitening a rotation.")
    whiten: bool = False


class KMeansOptions(Request):
    """How k-means runs, and which kind of it."""

    engine: Literal["auto", "fast", "faiss", "faiss-super"] = Field(
        "auto",
        description="`auto` picks the fastest exact one of this machine. `faiss-super` is faiss's SuperKMeans, whose "
        "passes prune centroids by a statistical test; the assignment that ends a run is exact with it too.",
    )
    init: Literal["k-means++", "random"] = "k-means++"
    iterations: int = Field(50, ge=1, le=10_000, description="At most; stops earlier when the inertia stands still.")
    restarts: int | None = Field(
        None,
        ge=1,
        le=100,
        description="Per seed; the one with the lowest inertia is kept. null: as many as take a second or two, 1 to "
        "16, since a single one often ends in a poor optimum.",
    )
    max_points_per_centroid: int | None = Field(
        None,
        ge=1,
        le=2**31 - 1,
        description="null trains on every row. A number trains on a sample, which the result then states.",
    )
    algorithm: Literal["lloyd", "mini-batch"] = Field(
        "lloyd",
        description="`mini-batch` is scikit-learn's MiniBatchKMeans, a baseline to compare with: `iterations` passes "
        "over the rows, all of which are run.",
    )
    spherical: bool = Field(
        False,
        description="Scale rows to unit length after the projection, and centroids after every iteration: rows go to "
        "the centroid of largest cosine.",
    )
    balanced: float | None = Field(
        None,
        gt=1,
        le=1000,
        description="The most rows of a cluster as a multiple of n / k, such as 1.2; null does not bound them. Holds "
        "for the train set; the result says whether it could be kept.",
    )
    levels: list[Annotated[int, Field(ge=2, le=MAX_CLUSTERS)]] | None = Field(
        None,
        min_length=1,
        max_length=20,
        description="Numbers of groups, falling, of a hierarchy above the clusters: each level is k-means on the "
        "centroids of the level below.",
    )

    @model_validator(mode="after")
    def _makes_sense(self) -> KMeansOptions:
        if self.algorithm == "mini-batch" and (self.spherical or self.balanced is not None):
            raise ValueError("mini-batch is a plain baseline: it is neither `spherical` nor `balanced`")
        if self.balanced is not None and self.max_points_per_centroid is not None:
            raise ValueError(
                "`balanced` bounds clusters of all rows: with `max_points_per_centroid` it would see a sample only"
            )
        if self.levels is not None and any(above >= below for below, above in pairwise(self.levels)):
            raise ValueError("`levels` must fall: each has fewer groups than the one before")
        return self


class _OrAuto:
    """Accepts `auto` beside a number of clusters; what is wrong with anything else is said as of a number."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        number = core_schema.int_schema(strict=True, ge=2, le=MAX_CLUSTERS)
        as_it_is = core_schema.plain_serializer_function_ser_schema(lambda value: value)
        return core_schema.no_info_wrap_validator_function(_auto_or, number, serialization=as_it_is)

    def __get_pydantic_json_schema__(
        self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        number = {"type": "integer", "minimum": 2, "maximum": MAX_CLUSTERS}
        return {"anyOf": [number, {"const": "auto", "type": "string"}]}


def _auto_or(value: Any, check: Callable[[Any], Any]) -> Any:
    return value if value == "auto" else check(value)


MemoryLimit = Annotated[
    ByteSize,
    Field(ge=2**28, le=2**50),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "integer", "minimum": 2**28, "maximum": 2**50},
                {"type": "string", "pattern": r"^[1-9][0-9]{0,5} ?([KMGT]i?B)$", "maxLength": 10},
            ]
        }
    ),
]
"""Bytes, or a text with a unit such as `4GiB`."""


class ClusterRequest(Request):
    """Body of `POST /cluster`."""

    embeddings: Id | EmbeddingSets
    clusters: Annotated[int | Literal["auto"], _OrAuto()] | None = Field(
        None, description="k, or `auto` to search for it. Exactly one of `clusters` and `over`."
    )
    clusters_range: list[Annotated[int, Field(ge=2, le=MAX_CLUSTERS)]] | None = Field(
        None, min_length=2, max_length=2, description="With `auto`: the fewest and the most clusters to try."
    )
    over: float | None = Field(None, gt=0, le=1000, description="k as a multiple of the number of classes.")
    pca: PcaOptions | None = None
    normalize: bool = Field(True, description="Scale each embedding to unit L2 norm first.")
    kmeans: KMeansOptions = Field(default_factory=lambda: KMeansOptions())
    seed: Seed | None = None
    seeds: list[Seed] | None = Field(None, min_length=1, max_length=100)
    label_map: Literal["train", "scored"] = Field(
        "train", description="Where the cluster-to-class map behind `accuracy_one_to_one` and `label` is learnt."
    )
    memory_limit: MemoryLimit | None = Field(
        None,
        description="Bytes that the job's process may take, its libraries (about 270 MiB) included, or a text such as "
        "`4GiB`; by default the worker's SHOAL_MEMORY_LIMIT, or else a quarter of its machine. Where the rows do not "
        "fit they lie in a file: the result is the same. A limit that cannot be kept fails the job before it begins, "
        "with the smallest one that can.",
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
        if self.clusters_range is not None:
            if self.clusters != "auto":
                raise ValueError("`clusters_range` needs `clusters`: `auto`")
            if self.clusters_range[0] >= self.clusters_range[1]:
                raise ValueError("`clusters_range` is the fewest and the most clusters to try, in this order")
        if self.kmeans.levels is not None and self.clusters == "auto":
            raise ValueError("`kmeans.levels` needs a number of clusters to be smaller than, not `auto`")
        return self

    @property
    def train_id(self) -> str:
        """The embeddings that k-means is fitted on."""
        return self.embeddings if isinstance(self.embeddings, str) else self.embeddings.train

    @property
    def scored_ids(self) -> list[str]:
        """The embeddings whose assignments are scored."""
        return list(self.class_maps)

    @property
    def class_maps(self) -> dict[str, ClassMap | None]:
        """The embeddings whose assignments are scored, in order, each with its map of classes."""
        return {self.embeddings: None} if isinstance(self.embeddings, str) else self.embeddings.scored


MAX_POINTS = 2000
Clusters = Annotated[int, Field(ge=2, le=MAX_CLUSTERS)]
Over = Annotated[float, Field(gt=0, le=1000)]
Components = Annotated[int, Field(ge=1, le=100_000)] | None


class SweepPca(Request):
    """`PcaOptions` with lists."""

    components: Components | Annotated[list[Components], Field(min_length=1, max_length=200)] = None
    whiten: bool | Annotated[list[bool], Field(min_length=1, max_length=200)] = False


class SweepRequest(Request):
    """Body of `POST /sweep`: `POST /cluster` with lists; every combination is one point."""

    embeddings: Id | EmbeddingSets | Annotated[list[Id | EmbeddingSets], Field(min_length=1, max_length=100)]
    clusters: Clusters | Annotated[list[Clusters], Field(min_length=1, max_length=200)] | None = None
    over: Over | Annotated[list[Over], Field(min_length=1, max_length=200)] | None = None
    pca: SweepPca | None = None
    normalize: bool | Annotated[list[bool], Field(min_length=1, max_length=200)] = True
    kmeans: KMeansOptions = Field(default_factory=lambda: KMeansOptions())
    seed: Seed | None = None
    seeds: list[Seed] | None = Field(None, min_length=1, max_length=100)
    label_map: Literal["train", "scored"] = "train"
    memory_limit: MemoryLimit | None = Field(None, description="As of `POST /cluster`, for the whole sweep.")
    linear_probe: bool = Field(False, description="Also fit a linear classifier on each model's embeddings.")
    reference: Literal["pca-ablation", "over-clustering", "models"] | None = Field(
        None, description="Which figures of arXiv 2008.10312 to draw beside ours."
    )

    @model_validator(mode="after")
    def _points_are_requests(self) -> SweepRequest:
        if self.kmeans.levels is not None:
            raise ValueError("a sweep compares clusterings, not hierarchies: send `kmeans.levels` to `POST /cluster`")
        # Counted before they are made: the product of a few long lists would fill the memory.
        if prod(len(_listed(each)) for each in self._fields()) > MAX_POINTS:
            raise ValueError(f"this is more than {MAX_POINTS} points: send several sweeps")
        next(
            self._combinations()
        )  # What a point may break beside its own values is the same in all: one stands for all.
        return self

    def points(self) -> list[ClusterRequest]:
        """Every combination once: models first, then normalisation, components, whitening, number of clusters."""
        return list(self._combinations())

    def _fields(self) -> tuple[Any, ...]:
        """What may be a list, in the order of the points."""
        whiten, components = (self.pca.whiten, self.pca.components) if self.pca else (False, None)
        return self.embeddings, self.normalize, components, whiten, self.over, self.clusters

    def _combinations(self) -> Iterator[ClusterRequest]:
        # Without repeated values there are no repeated combinations.
        axes = (_once(_listed(each)) for each in self._fields())
        for sets, normalize, kept, white, over, clusters in product(*axes):
            yield ClusterRequest(
                embeddings=sets,
                clusters=clusters,
                over=over,
                pca=PcaOptions(components=kept, whiten=white) if self.pca else None,
                normalize=normalize,
                kmeans=self.kmeans,
                seed=self.seed,
                seeds=self.seeds,
                label_map=self.label_map,
            )


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _once(values: list[Any]) -> list[Any]:
    """The first of equal values each, in order."""
    found: dict[Any, Any] = {}
    for value in values:
        found.setdefault(_as_key(value), value)
    return list(found.values())


def _as_key(value: Any) -> Any:
    """A value that can be hashed and is equal for equal values: `EmbeddingSets` hold a list."""
    return (EmbeddingSets, value.train, *value.score) if isinstance(value, EmbeddingSets) else value


class Progress(BaseModel):
    """How far a running job is."""

    stage: str = Field(description="What it does now, such as `embed` or `kmeans`.")
    done: int = 0
    total: int | None = None
    unit: str = "items"
    rate: float | None = Field(None, description="Units a second.")
    eta_s: float | None = Field(None, description="Seconds left of this stage.")
    detail: dict[str, Any] | None = Field(
        None,
        description="What the stage has to say; of `kmeans`, the last iteration: its inertia, the rows that moved.",
    )


class Job(BaseModel):
    """A job as the API shows it."""

    id: str
    kind: str = Field(description="`extract:torch`, `extract:tfserving`, `cluster` or `sweep`.")
    state: JobState
    created_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None
    attempt: int = 0
    cancel_requested: bool = False
    progress: Progress | None = None
    waiting_for: str | None = Field(None, description="Of a queued job: why no worker will take it as things are.")
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
