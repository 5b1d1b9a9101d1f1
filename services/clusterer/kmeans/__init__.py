"""k-means: one loop (`lloyd`) over interchangeable engines (`engine`), from seeded first centroids (`seeding`)."""

from clusterer.kmeans.engine import Assignment, Engine, NumpyEngine
from clusterer.kmeans.fit import KMeansFit, Run, fit_kmeans, prices_by_seed, sample_rows
from clusterer.kmeans.lloyd import Fit, Iteration, State, lloyd
from clusterer.kmeans.select import needs_faiss, select_engine

__all__ = [
    "Assignment",
    "Engine",
    "Fit",
    "Iteration",
    "KMeansFit",
    "NumpyEngine",
    "Run",
    "State",
    "fit_kmeans",
    "lloyd",
    "needs_faiss",
    "prices_by_seed",
    "sample_rows",
    "select_engine",
]
