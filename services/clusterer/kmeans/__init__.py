"""k-means: one loop (`lloyd`) over interchangeable engines (`engine`), from seeded first centroids (`seeding`)."""

from clusterer.kmeans.engine import Assignment, Engine, NumpyEngine
from clusterer.kmeans.fit import (
    KMeansFit,
    Level,
    Run,
    build_levels,
    fit_kmeans,
    groups_of,
    needs_faiss,
    prices_by_seed,
    sample_rows,
    select_engine,
)
from clusterer.kmeans.lloyd import Fit, FitOptions, Iteration, State, lloyd

__all__ = [
    "Assignment",
    "Engine",
    "Fit",
    "FitOptions",
    "Iteration",
    "KMeansFit",
    "Level",
    "NumpyEngine",
    "Run",
    "State",
    "build_levels",
    "fit_kmeans",
    "groups_of",
    "lloyd",
    "needs_faiss",
    "prices_by_seed",
    "sample_rows",
    "select_engine",
]
