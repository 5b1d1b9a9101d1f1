"""Requests of the clusterer: `POST /cluster` and `POST /sweep`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise, product
from math import prod
from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    field_validator,
    model_validator,
)
from pydantic_core import core_schema

from shoal.schemas.base import MAX_CLUSTERS, Id, JobRequest, RelativePath, Request, Seed
from shoal.schemas.execution import EXECUTION_TEXT, Execution, MemoryLimit
from shoal.schemas.graph import GRAPH_METHODS, GRAPH_TEXT, OF_HDBSCAN, OF_LEIDEN, GraphOptions
from shoal.schemas.reduce import AUTO_REDUCE_TEXT, REDUCE_TEXT, OptionsOrAuto, ReduceOptions
from shoal.schemas.where import WHERE_TEXT, Where

MAX_POINTS = 2000
DEFAULT_EVALUATION_SEEDS = (0, 1, 2)


class ClassMap(Request):
    """How the classes of the train set map to those of a scored set that has other classes."""

    file: RelativePath = Field(
        description="Path, relative to the data root, of a CSV file with the columns `train_label` and `scored_label` "
        "(many to many) or, for `objectnet`, of the folder of ObjectNet's mappings."
    )
    format: Literal["csv", "objectnet"] = Field("csv", description="Format of `file`.")
    class_index: RelativePath | None = Field(
        None,
        description="For `objectnet`: imagenet_class_index.json or LOC_synset_mapping.txt, which list the folders of "
        "the train set. Optional if the train labels are all 1000 folder names, or the numbers 0 to 999.",
    )

    @model_validator(mode="after")
    def _index_is_read(self) -> ClassMap:
        if self.class_index is not None and self.format != "objectnet":
            raise ValueError("`class_index` needs `format`: `objectnet`")
        return self


class ScoredSet(Request):
    """Embeddings to score whose classes differ from those of the train set."""

    embeddings: Id = Field(description="Id of the embeddings.")
    class_map: ClassMap | None = Field(None, description="How their classes match those of the train set.")


class EmbeddingSets(Request):
    """Embeddings to fit on, and embeddings to assign and score with the same transform and centroids."""

    train: Id = Field(description="Id of the embeddings that PCA and k-means are fitted on.")
    score: list[Id | ScoredSet] = Field(
        min_length=1,
        max_length=100,
        fail_fast=True,
        description="Embeddings to score: ids, or objects with a class map where the classes differ.",
    )

    @property
    def scored(self) -> dict[str, ClassMap | None]:
        """The ids of the embeddings to score, in order, each with its class map."""
        return {
            each if isinstance(each, str) else each.embeddings: None if isinstance(each, str) else each.class_map
            for each in self.score
        }

    @model_validator(mode="after")
    def _mapped_once(self) -> EmbeddingSets:
        mapped = [each.embeddings for each in self.score if isinstance(each, ScoredSet)]
        plain = {each for each in self.score if isinstance(each, str)}
        if len(set(mapped)) < len(mapped) or not plain.isdisjoint(mapped):
            raise ValueError("list each scored set with a class map once")
        if self.train in mapped:
            raise ValueError("the train set cannot have a class map: its classes are the reference")
        return self


class PcaOptions(Request):
    """Principal component analysis before k-means."""

    components: int | None = Field(
        None, ge=1, le=100_000, description="Number of components to keep; null keeps all (a rotation)."
    )
    whiten: bool = Field(False, description="Whether to scale each component to unit variance.")


class KMeansOptions(Request):
    """Options of k-means."""

    engine: Literal["auto", "fast", "faiss", "faiss-super"] = Field(
        "auto",
        description="Implementation. `auto` picks the fastest exact one on this machine. `faiss-super` is faiss's "
        "SuperKMeans, which prunes centroids by a statistical test during iterations; its final assignment is exact.",
    )
    init: Literal["k-means++", "random"] = Field("k-means++", description="How the initial centroids are chosen.")
    iterations: int = Field(
        50, ge=1, le=10_000, description="Maximum number of iterations; a run stops earlier once it has converged."
    )
    restarts: int | None = Field(
        None,
        ge=1,
        le=100,
        description="Runs per seed, of which the one with the lowest inertia is kept. If null, 1 to 16 runs, as many "
        "as take a second or two: a single run often ends in a poor local optimum.",
    )
    max_points_per_centroid: int | None = Field(
        None,
        ge=1,
        le=2**31 - 1,
        description="Fit on a sample of at most this number of rows per cluster; null fits on all rows. The result "
        "states the size of the sample.",
    )
    algorithm: Literal["lloyd", "mini-batch"] = Field(
        "lloyd",
        description="`mini-batch` is scikit-learn's MiniBatchKMeans, a baseline for comparisons; it always makes "
        "`iterations` passes over the rows.",
    )
    spherical: bool = Field(
        False,
        description="Cluster by cosine similarity: rows are scaled to unit length after PCA, and centroids after "
        "every iteration.",
    )
    balanced: float | None = Field(
        None,
        gt=1,
        le=1000,
        description="Maximum size of a cluster of the train set as a multiple of n / k, such as 1.2; null for no "
        "maximum. The result says whether it was kept.",
    )
    levels: list[Annotated[int, Field(ge=2, le=MAX_CLUSTERS)]] | None = Field(
        None,
        min_length=1,
        max_length=20,
        description="Numbers of groups, in descending order, of a hierarchy above the clusters. Each level is k-means "
        "on the centroids of the level below.",
    )

    @model_validator(mode="after")
    def _compatible(self) -> KMeansOptions:
        if self.algorithm == "mini-batch" and (self.spherical or self.balanced is not None):
            raise ValueError("`algorithm`: `mini-batch` supports neither `spherical` nor `balanced`")
        if self.balanced is not None and self.max_points_per_centroid is not None:
            raise ValueError("`balanced` needs all rows, not a sample: leave `max_points_per_centroid` out")
        if self.levels is not None and any(above >= below for below, above in pairwise(self.levels)):
            raise ValueError("`levels` must descend: each level needs fewer groups than the one before")
        return self


Method = Literal["kmeans", "turtle", "temi", "leiden", "hdbscan"]
HEAD_METHODS = ("turtle", "temi")
METHOD_TEXT = (
    "How rows are clustered: `kmeans`, or by a network trained on the embeddings: `turtle` (the labelling that linear "
    "classifiers learn best) or `temi` (images and their nearest neighbours). `turtle` and `temi` need PyTorch; their "
    "assignments have a `probability`. `leiden` and `hdbscan` find the number of groups themselves, from the nearest "
    "rows of every row: do not send `clusters` or `over`. With `hdbscan` rows far from others are noise, cluster -1."
)
HEADS_TEXT = "Options of `method`: `turtle` and `temi`; null for their defaults."
SPACES_TEXT = (
    "Embeddings of the same images by other models, in the same order. Each entry has the form of `embeddings`: an id, "
    "or `train` and one `score` for each scored set. Rows are then the vectors of all models beside each other."
)
OF_TURTLE, OF_TEMI = ("entropy", "inner_steps"), ("heads", "neighbours", "beta", "temperature")


class _OrAuto:
    """Accepts `auto` besides a number; errors of other values are those of a number.

    Parameters
    ----------
    number, schema
        How pydantic and JSON Schema describe the number.
    """

    def __init__(self, number: core_schema.CoreSchema, schema: dict[str, object]) -> None:
        self._number, self._schema = number, schema

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        unchanged = core_schema.plain_serializer_function_ser_schema(lambda value: value)
        return core_schema.no_info_wrap_validator_function(_auto_or, self._number, serialization=unchanged)

    def __get_pydantic_json_schema__(
        self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return {"anyOf": [self._schema, {"const": "auto", "type": "string"}]}


def _auto_or(value: object, check: Callable[[object], object]) -> object:
    return value if value == "auto" else check(value)


_CLUSTERS_OR_AUTO = _OrAuto(
    core_schema.int_schema(strict=True, ge=2, le=MAX_CLUSTERS),
    {"type": "integer", "minimum": 2, "maximum": MAX_CLUSTERS},
)
_ENTROPY_OR_AUTO = _OrAuto(
    core_schema.float_schema(strict=True, allow_inf_nan=False, ge=0, le=10_000),
    {"type": "number", "minimum": 0, "maximum": 10_000},
)
_BETA_OR_AUTO = _OrAuto(
    core_schema.float_schema(strict=True, allow_inf_nan=False, gt=0, le=1),
    {"type": "number", "exclusiveMinimum": 0, "maximum": 1},
)
AUTO_TEXT = "`auto` trains each seed up to five times and keeps the run whose clusters agree best with nearest rows."


class HeadOptions(Request):
    """Options of heads, the networks of `method`: `turtle` and `temi`."""

    steps: int | None = Field(
        None,
        ge=1,
        le=1_000_000,
        description="Maximum number of steps. If null, 6000 with `turtle`; with `temi` as many as 100 passes over the "
        "rows, at least 1000.",
    )
    batch_rows: int | None = Field(
        None, ge=2, le=1_000_000, description="Rows of a batch. If null, 10,000 with `turtle` and 1024 with `temi`."
    )
    learning_rate: float | None = Field(
        None, gt=0, le=10, description="Step size of Adam. If null, 0.001 with `turtle` and 0.0004 with `temi`."
    )
    early_stop: bool = Field(
        True, description="Whether to stop once rows no longer change their cluster and the loss is flat."
    )
    entropy: Annotated[float | Literal["auto"], _ENTROPY_OR_AUTO] | None = Field(
        None,
        description=f"`turtle`: weight of the entropy of the mean labels: less lets clusters differ in size. "
        f"`auto` if null; 10 in the paper. {AUTO_TEXT}",
    )
    inner_steps: int | None = Field(
        None, ge=1, le=1000, description="`turtle`: steps of the classifiers in each step; 10 if null."
    )
    heads: int | None = Field(
        None, ge=1, le=200, description="`temi`: heads trained beside each other, of which one is used; 16 if null."
    )
    neighbours: int | None = Field(
        None, ge=1, le=1000, description="`temi`: nearest rows of a row that it is paired with; 50 if null."
    )
    beta: Annotated[float | Literal["auto"], _BETA_OR_AUTO] | None = Field(
        None,
        description=f"`temi`: exponent of the probabilities in the loss: more lets clusters differ in size. "
        f"0.6 if null. {AUTO_TEXT}",
    )
    temperature: float | None = Field(
        None, gt=0, le=100, description="`temi`: by which outputs are divided; 0.1 if null."
    )

    def of(self, method: Method) -> HeadOptions:
        """These options without those of the other method."""
        others = OF_TEMI if method == "turtle" else OF_TURTLE
        return self.model_copy(update=dict.fromkeys(others))


_OWN_OPTIONS = (
    ("turtle", "heads", OF_TURTLE),
    ("temi", "heads", OF_TEMI),
    ("leiden", "graph", OF_LEIDEN),
    ("hdbscan", "graph", OF_HDBSCAN),
)


class SpaceSets(Request):
    """Embeddings by another model: of the images to fit on, and of those to score."""

    train: Id = Field(description="Id of the embeddings of the images that are fitted on.")
    score: list[Id] = Field(
        min_length=1, max_length=100, description="An id for each of the scored sets, in their order."
    )


class AssignRequest(JobRequest):
    """Body of `POST /assign`."""

    clustering: Id = Field(description="Id of the clustering.")
    embeddings: Id = Field(description="Id of the embeddings to assign, of the model whose embeddings were clustered.")
    outlier_quantile: float = Field(
        0.99,
        gt=0,
        lt=1,
        description="A row is an outlier if it is farther from its centroid than this share of the train set's rows "
        "are from theirs.",
    )
    memory_limit: MemoryLimit | None = Field(
        None,
        description="Maximum memory of the job's process, as in `POST /cluster`.",
    )
    # Left out where it is not sent, as `where`.
    execution: Execution | None = Field(None, exclude_if=lambda sent: sent is None, description=EXECUTION_TEXT)
    spaces: list[Id] | None = Field(
        None,
        min_length=1,
        max_length=15,
        exclude_if=lambda sent: sent is None,
        description="Ids of embeddings of the same images by the other models of the clustering's `spaces`, in their "
        "order.",
    )


class ClusterRequest(JobRequest):
    """Body of `POST /cluster`."""

    embeddings: Id | EmbeddingSets = Field(
        description="Id of the embeddings to cluster, or an object with embeddings to fit on and embeddings to score."
    )
    # Left out where it is not sent, so that specs of requests without it stay as they were.
    where: Where | None = Field(None, exclude_if=lambda where: where is None, description=WHERE_TEXT)
    clusters: Annotated[int | Literal["auto"], _CLUSTERS_OR_AUTO] | None = Field(
        None,
        description="Number of clusters k, or `auto` to search for it. Send either `clusters` or `over`; neither with "
        "`method`: `leiden` or `hdbscan`.",
    )
    clusters_range: list[Annotated[int, Field(ge=2, le=MAX_CLUSTERS)]] | None = Field(
        None, min_length=2, max_length=2, description="With `auto`: smallest and largest number of clusters to try."
    )
    over: float | None = Field(
        None, gt=0, le=1000, description="Number of clusters as a multiple of the number of classes."
    )
    pca: PcaOptions | None = Field(None, description="PCA before k-means; null for none.")
    normalize: bool = Field(True, description="Whether to scale each embedding to unit L2 norm first.")
    # Left out where it is not sent, as `where`.
    reduce: Annotated[ReduceOptions | Literal["auto"], OptionsOrAuto()] | None = Field(
        None, exclude_if=lambda sent: sent is None, description=f"{REDUCE_TEXT} {AUTO_REDUCE_TEXT}"
    )
    kmeans: KMeansOptions = Field(default_factory=lambda: KMeansOptions(), description="Options of k-means.")
    # Left out where they are not sent, as `where`.
    method: Method = Field("kmeans", exclude_if=lambda sent: sent == "kmeans", description=METHOD_TEXT)
    heads: HeadOptions | None = Field(None, exclude_if=lambda sent: sent is None, description=HEADS_TEXT)
    graph: GraphOptions | None = Field(None, exclude_if=lambda sent: sent is None, description=GRAPH_TEXT)
    spaces: list[Id | SpaceSets] | None = Field(
        None, min_length=1, max_length=15, exclude_if=lambda sent: sent is None, description=SPACES_TEXT
    )
    seed: Seed | None = Field(None, description="Random seed. Send either `seed` or `seeds`.")
    seeds: list[Seed] | None = Field(
        None,
        min_length=1,
        max_length=100,
        description="Random seeds; each is a run of its own. By default 0, 1 and 2 if the embeddings have "
        "labels, else 0.",
    )
    label_map: Literal["train", "scored"] = Field(
        "train",
        description="Set on which the map from clusters to classes is learnt. `accuracy_one_to_one` and `label` use "
        "that map.",
    )
    memory_limit: MemoryLimit | None = Field(
        None,
        description="Maximum memory of the job's process, including its libraries (about 270 MiB): bytes, or a text "
        "such as `4GiB`. By default the worker's SHOAL_MEMORY_LIMIT, or a quarter of the machine's memory. Rows that "
        "do not fit are kept in a file; the result is the same. If the limit is too small, the job fails at its start, "
        "and the error names the smallest limit that works.",
    )
    # Left out where it is not sent, as `where`.
    execution: Execution | None = Field(None, exclude_if=lambda sent: sent is None, description=EXECUTION_TEXT)

    @field_validator("seeds")
    @classmethod
    def _distinct(cls, seeds: list[int] | None) -> list[int] | None:
        if seeds is not None and len(set(seeds)) != len(seeds):
            raise ValueError("seeds must differ from each other")
        return seeds

    @model_validator(mode="after")
    def _exactly_one(self) -> ClusterRequest:
        if self.method in GRAPH_METHODS:
            for name in ("clusters", "clusters_range", "over"):
                if getattr(self, name) is not None:
                    raise ValueError(f"`method`: `{self.method}` finds the number of groups itself: leave `{name}` out")
        elif (self.clusters is None) == (self.over is None):
            raise ValueError(
                "send exactly one of `clusters` (the number k) and `over` (k as a multiple of the number of classes)"
            )
        if self.seed is not None and self.seeds is not None:
            raise ValueError("send `seed` or `seeds`, not both")
        if self.clusters_range is not None:
            if self.clusters != "auto":
                raise ValueError("`clusters_range` needs `clusters`: `auto`")
            if self.clusters_range[0] >= self.clusters_range[1]:
                raise ValueError("`clusters_range` must ascend: send the smallest, then the largest number of clusters")
        if self.kmeans.spherical and isinstance(self.reduce, ReduceOptions) and self.reduce.method == "umap":
            raise ValueError("`kmeans.spherical` compares directions, which places by `reduce`: `umap` do not have")
        if self.kmeans.levels is not None and self.clusters == "auto":
            raise ValueError("`kmeans.levels` needs a fixed number of clusters, not `auto`")
        if self.kmeans.levels is not None and self.method == "hdbscan":
            raise ValueError("`kmeans.levels` has no group for noise: leave it out with `method`: `hdbscan`")
        return self

    @model_validator(mode="after")
    def _of_one_method(self) -> ClusterRequest:
        if self.heads is not None and self.method not in HEAD_METHODS:
            raise ValueError("`heads` needs `method`: `turtle` or `temi`")
        if self.graph is not None and self.method not in GRAPH_METHODS:
            raise ValueError("`graph` needs `method`: `leiden` or `hdbscan`")
        if self.method != "kmeans" and self.reduce == "auto":
            raise ValueError(
                f"`reduce`: `auto` compares options of k-means: name one, or leave `method`: `{self.method}` out"
            )
        smooth = isinstance(self.reduce, ReduceOptions) and self.reduce.method == "smooth"
        if self.method in GRAPH_METHODS and smooth:
            raise ValueError(
                f"`method`: `{self.method}` reads the neighbours itself that `reduce`: `smooth` averages: send "
                "`spectral` or `umap`, or leave `reduce` out"
            )
        if self.method == "kmeans":
            return self
        for method, kind, names in _OWN_OPTIONS:
            for name in names if self.method != method else ():
                if getattr(getattr(self, kind), name, None) is not None:
                    raise ValueError(f"`{kind}.{name}` needs `method`: `{method}`")
        # Options that were sent but for those of the levels, and the engine that groups centroids into them.
        sent = self.kmeans.model_dump(exclude={"engine", "levels"}, exclude_defaults=True)
        if sent:
            raise ValueError(f"`kmeans.{min(sent)}` needs `method`: `kmeans`")
        return self

    @model_validator(mode="after")
    def _spaces_match(self) -> ClusterRequest:
        if self.spaces is not None and self.pca is not None:
            raise ValueError("`pca` would mix the models of `spaces`: leave one of them out")
        if self.spaces is not None and self.method in GRAPH_METHODS:
            raise ValueError(f"`method`: `{self.method}` takes the rows of one model: leave `spaces` out")
        if self.spaces is not None and self.reduce is not None:
            raise ValueError("`reduce` takes the rows of one model: leave it or `spaces` out")
        for each in self.spaces or ():
            if isinstance(each, str) != isinstance(self.embeddings, str):
                raise ValueError("each of `spaces` must have the form of `embeddings`: an id, or `train` and `score`")
            if isinstance(each, SpaceSets) and len(each.score) != len(self.class_maps):
                raise ValueError(f"each of `spaces` must have {len(self.class_maps)} in `score`, one per scored set")
        return self

    def aligned_with(self, embeddings_id: str) -> tuple[str, ...]:
        """The ids of one of the sets: its own, then those of the other models."""
        place = self.scored_ids.index(embeddings_id) if embeddings_id != self.train_id else None
        others = (
            each if isinstance(each, str) else each.train if place is None else each.score[place]
            for each in self.spaces or ()
        )
        return (embeddings_id, *others)

    @property
    def train_id(self) -> str:
        """The id of the embeddings that k-means is fitted on."""
        return self.embeddings if isinstance(self.embeddings, str) else self.embeddings.train

    @property
    def scored_ids(self) -> list[str]:
        """The ids of the embeddings whose assignments are scored."""
        return list(self.class_maps)

    @property
    def class_maps(self) -> dict[str, ClassMap | None]:
        """The ids of the embeddings whose assignments are scored, in order, each with its class map."""
        return {self.embeddings: None} if isinstance(self.embeddings, str) else self.embeddings.scored


Clusters = Annotated[int, Field(ge=2, le=MAX_CLUSTERS)]
Over = Annotated[float, Field(gt=0, le=1000)]
Components = Annotated[int, Field(ge=1, le=100_000)] | None


class SweepPca(Request):
    """`PcaOptions` with lists."""

    components: Components | Annotated[list[Components], Field(min_length=1, max_length=200)] = Field(
        None, description="Numbers of components to keep; null keeps all."
    )
    whiten: bool | Annotated[list[bool], Field(min_length=1, max_length=200)] = Field(
        False, description="Whether to scale each component to unit variance."
    )


class SweepRequest(JobRequest):
    """Body of `POST /sweep`: that of `POST /cluster` with lists. Every combination of their values is one point."""

    embeddings: Id | EmbeddingSets | Annotated[list[Id | EmbeddingSets], Field(min_length=1, max_length=100)] = Field(
        description="Embeddings to cluster, as in `POST /cluster`, or a list of them."
    )
    where: Where | None = Field(None, exclude_if=lambda where: where is None, description=WHERE_TEXT)
    clusters: Clusters | Annotated[list[Clusters], Field(min_length=1, max_length=200)] | None = Field(
        None, description="Numbers of clusters, for the methods that take one. Send either `clusters` or `over`."
    )
    over: Over | Annotated[list[Over], Field(min_length=1, max_length=200)] | None = Field(
        None, description="Numbers of clusters as multiples of the number of classes."
    )
    pca: SweepPca | None = Field(None, description="PCA before k-means; null for none.")
    normalize: bool | Annotated[list[bool], Field(min_length=1, max_length=200)] = Field(
        True, description="Whether to scale each embedding to unit L2 norm first."
    )
    reduce: ReduceOptions | Annotated[list[ReduceOptions | None], Field(min_length=1, max_length=20)] | None = Field(
        None,
        exclude_if=lambda sent: sent is None,
        description="How rows change before k-means, as in `POST /cluster`, or a list.",
    )
    kmeans: KMeansOptions = Field(
        default_factory=lambda: KMeansOptions(),
        description="Options of k-means, the same for all points with `method`: `kmeans`.",
    )
    # Left out where they are not sent, as `where`.
    method: Method | Annotated[list[Method], Field(min_length=1, max_length=5)] = Field(
        "kmeans", exclude_if=lambda sent: sent == "kmeans", description=METHOD_TEXT
    )
    heads: HeadOptions | None = Field(
        None, exclude_if=lambda sent: sent is None, description=f"{HEADS_TEXT} Those of one method count for it alone."
    )
    graph: GraphOptions | None = Field(
        None, exclude_if=lambda sent: sent is None, description=f"{GRAPH_TEXT} Those of one method count for it alone."
    )
    seed: Seed | None = Field(None, description="Random seed. Send either `seed` or `seeds`.")
    seeds: list[Seed] | None = Field(
        None, min_length=1, max_length=100, description="Random seeds of every point, as in `POST /cluster`."
    )
    label_map: Literal["train", "scored"] = Field(
        "train", description="Set on which the map from clusters to classes is learnt, as in `POST /cluster`."
    )
    memory_limit: MemoryLimit | None = Field(
        None, description="Maximum memory of the job's process, as in `POST /cluster`, for the whole sweep."
    )
    # Left out where it is not sent, as `where`.
    execution: Execution | None = Field(None, exclude_if=lambda sent: sent is None, description=EXECUTION_TEXT)
    linear_probe: bool = Field(
        False, description="Whether to fit a linear classifier on each set of embeddings for comparison."
    )
    reference: Literal["pca-ablation", "over-clustering", "models"] | None = Field(
        None, description="Figures of arXiv 2008.10312 to draw next to the results of this sweep."
    )

    @model_validator(mode="before")
    @classmethod
    def _numbers_are_given(cls, sent: object) -> object:
        fields = sent if isinstance(sent, dict) else {}
        for name in ("clusters", "reduce"):
            if "auto" in _as_list(fields.get(name)):
                raise ValueError(f"a sweep does not support `{name}`: `auto`: list values, or send it to `/cluster`")
        return sent

    @model_validator(mode="after")
    def _points_are_requests(self) -> SweepRequest:
        if self.kmeans.levels is not None:
            raise ValueError("a sweep does not support `kmeans.levels`: send them to `POST /cluster`")
        # Counted before they are created: the product of a few long lists would fill the memory.
        if prod(len(_as_list(each)) for each in self._axes()) > MAX_POINTS:
            raise ValueError(f"the lists make more than {MAX_POINTS} points: send several sweeps")
        methods = set(_as_list(self.method))
        for kind, users in (("heads", HEAD_METHODS), ("graph", GRAPH_METHODS)):
            if getattr(self, kind) is not None and methods.isdisjoint(users):
                raise ValueError(f"`{kind}` needs `method`: `{users[0]}` or `{users[1]}`")
        if methods <= set(GRAPH_METHODS):
            for name in ("clusters", "over"):
                if getattr(self, name) is not None:
                    raise ValueError(f"`{name}` needs `method`: `kmeans`, `turtle` or `temi`: leave it out")
        # Rules across fields fail for all points of a method and a reduction, or for none.
        *firsts, reductions, over, clusters, _ = (_once(_as_list(each)) for each in self._axes())
        for reduce, method in product(reductions, _once(_as_list(self.method))):
            self._point(*(each[0] for each in firsts), reduce, over[0], clusters[0], method)
        return self

    def points(self) -> list[ClusterRequest]:
        """Every combination once: models first, then normalisation, components, whitening, reduction, number of
        clusters, method. A method that finds the number itself has one point for all of them."""
        return list(self._combinations())

    def _axes(self) -> tuple[Any, ...]:
        """The fields that may be lists, in the order of the points."""
        whiten, components = (self.pca.whiten, self.pca.components) if self.pca else (False, None)
        return self.embeddings, self.normalize, components, whiten, self.reduce, self.over, self.clusters, self.method

    def _combinations(self) -> Iterator[ClusterRequest]:
        axes = (_once(_as_list(each)) for each in self._axes())
        first_over, first_clusters = _as_list(self.over)[0], _as_list(self.clusters)[0]
        for *others, over, clusters, method in product(*axes):
            if method in GRAPH_METHODS and (over, clusters) != (first_over, first_clusters):
                continue
            yield self._point(*others, over, clusters, method)

    def _point(self, *values: Any) -> ClusterRequest:
        """The request with one value of each of `_axes`."""
        sets, normalize, kept, white, reduce, over, clusters, method = values
        by_head, by_graph = method in HEAD_METHODS, method in GRAPH_METHODS
        return ClusterRequest(
            embeddings=sets,
            where=self.where,
            clusters=None if by_graph else clusters,
            over=None if by_graph else over,
            pca=PcaOptions(components=kept, whiten=white) if self.pca else None,
            normalize=normalize,
            reduce=reduce,
            kmeans=self.kmeans if method == "kmeans" else KMeansOptions(engine=self.kmeans.engine),
            method=method,
            heads=self.heads.of(method) if self.heads is not None and by_head else None,
            graph=self.graph.of(method) if self.graph is not None and by_graph else None,
            seed=self.seed,
            seeds=self.seeds,
            label_map=self.label_map,
        )


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _once(values: list[Any]) -> list[Any]:
    """The values in order, without repetitions."""
    found: dict[object, Any] = {}
    for value in values:
        found.setdefault(_as_key(value), value)
    return list(found.values())


def _as_key(value: object) -> object:
    """A hashable stand-in for a value: `EmbeddingSets` contain a list."""
    return (EmbeddingSets, value.train, *value.score) if isinstance(value, EmbeddingSets) else value
