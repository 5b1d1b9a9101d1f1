"""Other places for rows before k-means, from the nearest rows of every row: where groups are clearer.

Start with `reduction`: what a clustering keeps so that new rows are reduced by the train rows nearest to them.
"""

from clusterer.reduce.reduction import Fitted, Reduction
from clusterer.reduce.smooth import SmoothedRows
from clusterer.reduce.spectral import diffusion_coordinates
from clusterer.reduce.umap import umap_coordinates

__all__ = ["Fitted", "Reduction", "SmoothedRows", "diffusion_coordinates", "umap_coordinates"]
