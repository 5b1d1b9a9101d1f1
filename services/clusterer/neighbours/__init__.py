"""Exact neighbours among stored rows: the nearest rows of every row, and all pairs above a similarity.

Start with `search`: a pair is compared exactly only if the bound of its similarity reaches what is sought (`bounds`);
`similarity` defines the exact value. So the answer does not depend on how the bounds are found, only its time does.
"""

from clusterer.neighbours.among import Among
from clusterer.neighbours.connected import connected
from clusterer.neighbours.copies import Copies, Equals
from clusterer.neighbours.found import Nearest, Pairs
from clusterer.neighbours.search import nearest_rows, pairs_above, pairs_between
from clusterer.neighbours.work import Options

__all__ = [
    "Among",
    "Copies",
    "Equals",
    "Nearest",
    "Options",
    "Pairs",
    "connected",
    "nearest_rows",
    "pairs_above",
    "pairs_between",
]
