"""Groups on the graph of nearest rows, whose number nobody has to say.

Start with `communities` (Leiden) and `density` (HDBSCAN): each takes the `Near` rows of every row and gives labels.
`vote` gives other rows the group of the rows nearest to them.
"""

from clusterer.graph.communities import communities
from clusterer.graph.density import Density, dense_groups
from clusterer.graph.near import Among, Near, among, near_places
from clusterer.graph.vote import GraphStep, GraphTarget, Voters

__all__ = [
    "Among",
    "Density",
    "GraphStep",
    "GraphTarget",
    "Near",
    "Voters",
    "among",
    "communities",
    "dense_groups",
    "near_places",
]
