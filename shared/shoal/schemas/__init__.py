"""The REST contract as pydantic models: requests, jobs, problems."""

from shoal.schemas.analyses import DuplicatesRequest, QualityRequest
from shoal.schemas.base import MAX_CLUSTERS, NAME_PATTERN, NAME_RULE, Id, JobRequest, Name, RelativePath, Request, Seed
from shoal.schemas.cluster import (
    DEFAULT_EVALUATION_SEEDS,
    MAX_POINTS,
    AssignRequest,
    ClassMap,
    ClusterRequest,
    EmbeddingSets,
    HeadOptions,
    KMeansOptions,
    PcaOptions,
    ScoredSet,
    SpaceSets,
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
    UploadSource,
)
from shoal.schemas.graph import GraphOptions
from shoal.schemas.imports import ImportLabels, ImportRequest
from shoal.schemas.jobs import RESULTS, Callback, FieldError, Job, JobPage, Problem, Progress
from shoal.schemas.reduce import ReduceOptions
from shoal.schemas.where import Where, WhereClusters

__all__ = [
    "DEFAULT_EVALUATION_SEEDS",
    "MAX_CLUSTERS",
    "MAX_POINTS",
    "NAME_PATTERN",
    "NAME_RULE",
    "RESULTS",
    "AssignRequest",
    "Callback",
    "ClassMap",
    "ClusterRequest",
    "CustomModel",
    "DuplicatesRequest",
    "EmbeddingSets",
    "ExtractRequest",
    "FieldError",
    "FolderLevel",
    "GraphOptions",
    "HeadOptions",
    "Id",
    "ImageSource",
    "ImportLabels",
    "ImportRequest",
    "Job",
    "JobPage",
    "JobRequest",
    "KMeansOptions",
    "KeyMapping",
    "LabelFile",
    "Name",
    "PcaOptions",
    "Problem",
    "Progress",
    "QualityRequest",
    "ReduceOptions",
    "RelativePath",
    "Request",
    "ScoredSet",
    "Seed",
    "SpaceSets",
    "SweepPca",
    "SweepRequest",
    "TransformOverride",
    "UploadSource",
    "Where",
    "WhereClusters",
]
