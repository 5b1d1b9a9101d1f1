"""A map: a place in the plane for every row, so that rows that are near in many dimensions are near on it.

Start with `layout`: some rows, the landmarks, are laid out by t-SNE; every other row is placed by the landmarks nearest
to it (`place`).
"""

from clusterer.map.landmarks import MOST_LANDMARKS, choose_landmarks
from clusterer.map.layout import Layout, lay_out
from clusterer.map.place import Placer

__all__ = ["MOST_LANDMARKS", "Layout", "Placer", "choose_landmarks", "lay_out"]
