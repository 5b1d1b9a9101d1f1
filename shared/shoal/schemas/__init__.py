"""The REST contract as pydantic models: requests, jobs, problems."""

from shoal.schemas.base import NAME_PATTERN, NAME_RULE, Id, Name, RelativePath, Request, Seed
from shoal.schemas.cluster import (
    DEFAULT_EVALUATION_SEEDS,
    MAX_CLUSTERS,
    MAX_POINTS,
    ClassMap,
    ClusterRequest,
    EmbeddingSets,
    KMeansOptions,
    PcaOptions,
    ScoredSet,
    SweepPca,
    SweepRequest,
)
from shoal.schemas.extract import (
    CustomModel,
    ExtractRequest,
    FolderLevel,
    ImageSource,
    KeyMapping,
    LabelFile,
    TransformOverride,
)
from shoal.schemas.jobs import FieldError, Job, JobPage, Problem, Progress

__all__ = [
    "DEFAULT_EVALUATION_SEEDS",
    "MAX_CLUSTERS",
    "MAX_POINTS",
    "NAME_PATTERN",
    "NAME_RULE",
    "ClassMap",
    "ClusterRequest",
    "CustomModel",
    "EmbeddingSets",
    "ExtractRequest",
    "FieldError",
    "FolderLevel",
    "Id",
    "ImageSource",
    "Job",
    "JobPage",
    "KMeansOptions",
    "KeyMapping",
    "LabelFile",
    "Name",
    "PcaOptions",
    "Problem",
    "Progress",
    "RelativePath",
    "Request",
    "ScoredSet",
    "Seed",
    "SweepPca",
    "SweepRequest",
    "TransformOverride",
]
