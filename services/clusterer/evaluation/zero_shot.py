"""Names for clusters from a list of words, by a model that embeds images and texts into one space.

References
----------
Radford et al., *Learning Transferable Visual Models From Natural Language Supervision*, arXiv 2103.00020, section 3.1:
an image gets the class whose text has the largest cosine with it. Here the mean of a cluster's images takes the place
of an image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

from clusterer.data.rows import Float32Array, IntArray

BLOCK_ROWS = 4096


@dataclass(frozen=True)
class NamedCluster:
    """What fits a cluster.

    Attributes
    ----------
    cluster
        Its number.
    images
        How many of its images were compared.
    words
        Numbers of the words that fit best, the best first.
    similarities
        Mean cosines of these words and the images.
    votes
        Shares of the images, 0 to 1, whose own best word it is.
    """

    cluster: int
    images: int
    words: list[int] = field(default_factory=list)
    similarities: list[float] = field(default_factory=list)
    votes: list[float] = field(default_factory=list)


def typical_rows(clusters: IntArray, distances: Float32Array, most: int) -> tuple[IntArray, IntArray]:
    """The rows of each cluster that are nearest to its centroid.

    Parameters
    ----------
    clusters, distances
        ``(n,)``: of each row.
    most
        How many of each cluster.

    Returns
    -------
    rows, clusters : ``(m,) int64``
        Ascending rows, and the cluster of each.
    """
    order = np.lexsort((distances, clusters))
    ordered = clusters[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]]) if len(ordered) else np.empty(0, np.int64)
    rank = np.arange(len(ordered)) - np.repeat(starts, np.diff(np.r_[starts, len(ordered)]))
    rows = np.sort(order[rank < most]).astype(np.int64)
    return rows, clusters[rows].astype(np.int64)


def name_clusters(
    take: Callable[[IntArray], Float32Array], rows: IntArray, clusters: IntArray, words: Float32Array, most: int
) -> Iterator[list[NamedCluster]]:
    """Compare the images of clusters with words, block by block.

    Parameters
    ----------
    take
        Vectors ``(m, dim)`` of ascending rows.
    rows, clusters
        Of `typical_rows`.
    words
        ``(w, dim) float32``, of length 1.
    most
        How many words of each cluster.

    Yields
    ------
    list of NamedCluster
        Empty but for the last one, which has all clusters with images, by number. Images without a direction, of zeros,
        are left out.
    """
    numbers, place = np.unique(clusters, return_inverse=True)
    sums = np.zeros((len(numbers), len(words)))
    votes = np.zeros((len(numbers), len(words)), np.int64)
    counts = np.zeros(len(numbers), np.int64)
    for first in range(0, len(rows), BLOCK_ROWS):
        vectors = take(rows[first : first + BLOCK_ROWS])
        norms = np.linalg.norm(vectors, axis=1)
        good = np.flatnonzero(np.isfinite(norms) & (norms > 0))
        cosines = (vectors[good] / norms[good, None]) @ words.T
        at = place[first : first + BLOCK_ROWS][good]
        np.add.at(sums, at, cosines)
        np.add.at(votes, (at, cosines.argmax(axis=1)), 1)
        counts += np.bincount(at, minlength=len(counts))
        yield []
    found = []
    for number, total, vote, count in zip(numbers.tolist(), sums, votes, counts.tolist(), strict=True):
        if count:
            best = np.argsort(-total, kind="stable")[:most]
            similarities = [round(each, 4) for each in (total[best] / count).tolist()]
            shares = [round(each, 4) for each in (vote[best] / count).tolist()]
            found.append(NamedCluster(number, count, best.tolist(), similarities, shares))
    yield found
