"""Which image of a group of duplicates to keep, and why."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from clusterer.cleaning.links import Groups
from clusterer.data.rows import IntArray

Flags = NDArray[np.bool_]
FILE, PIXELS, NEAR = "file", "pixels", "near"
"""How a row is a copy of the kept one: the same file; the same pixels, as far as is known; a similar image."""
COPIES = (FILE, PIXELS, NEAR)
AS_SHARP = 0.8
"""An image is as sharp as another if it has so much of its sharpness: compression changes it by less."""


@dataclass(frozen=True)
class Facts:
    """What is known of the rows of some groups, in the order of `Groups.rows`.

    Attributes
    ----------
    table
        ``image_path``, ``width``, ``height``, ``bytes``, ``sha256``, ``sharpness``, ``pixel_hash`` of each; null where
        it is not known.
    reference
        ``(m,)``: whether the row is of the set that stays as it is.
    reference_name
        That set's id.
    """

    table: pa.Table
    reference: Flags
    reference_name: str | None = None

    def number(self, column: str) -> IntArray:
        """``(m,)`` values of a column; -1 where it is null."""
        return np.asarray(self.table.column(column).cast(pa.int64()).fill_null(-1).to_numpy(), np.int64)

    @property
    def pixels(self) -> IntArray:
        """``(m,)`` width times height; -1 where it is not known."""
        width, height = self.number("width"), self.number("height")
        return np.where((width < 0) | (height < 0), -1, width * height)

    @property
    def sharpness(self) -> NDArray[np.float64]:
        """``(m,)`` variance of the Laplacian; NaN where it is not known."""
        return np.asarray(self.table.column("sharpness").cast(pa.float64()).to_numpy(), np.float64)

    @property
    def path_rank(self) -> IntArray:
        """``(m,)``: the place of each path among all, by code point."""
        ranked = pc.rank(self.table.column("image_path").combine_chunks(), sort_keys="ascending", tiebreaker="dense")
        return np.asarray(ranked.to_numpy(), np.int64)


def best_first(groups: Groups, facts: Facts) -> IntArray:
    """``(m,)``: positions in ``groups.rows``, group by group, the row to keep first.

    Of two rows, that of the reference set is better; then the one with more pixels; then the one that is not
    `blurred`; then the one of more bytes; then the one whose path sorts first.
    """
    rank, least, most = facts.path_rank, blurred(groups, facts), -facts.pixels
    keys = (rank, -facts.number("bytes"), least, most, ~facts.reference, groups.numbers)
    return np.lexsort((groups.rows, *keys))


def blurred(groups: Groups, facts: Facts) -> Flags:
    """``(m,)``: whether a row's image is less sharp than the sharpest with as many pixels in its group and set.

    Less sharp is below `AS_SHARP` of it. Where a sharpness is not known, nothing is said.
    """
    sharpness = facts.sharpness
    alike = np.stack([groups.numbers, facts.reference, facts.pixels])
    _, of = np.unique(alike, axis=1, return_inverse=True)
    sharpest = np.full(len(sharpness), -np.inf)
    np.fmax.at(sharpest, of.reshape(-1), sharpness)
    found: Flags = sharpness < AS_SHARP * sharpest[of.reshape(-1)]
    return found


def reasons(groups: Groups, facts: Facts, order: IntArray, copies: list[str | None]) -> list[str]:
    """``(m,)`` sentences, in ``order``: why the first row of each group is kept, and each other is not.

    Parameters
    ----------
    copies
        In ``order``: how each row is a copy of the kept one; None for the kept one.
    """
    paths: list[str] = facts.table.column("image_path").take(pa.array(order)).to_pylist()
    widths, heights, sizes = (facts.number(name)[order].tolist() for name in ("width", "height", "bytes"))
    pixels, reference = facts.pixels[order].tolist(), facts.reference[order].tolist()
    sharpness, less_sharp = facts.sharpness[order].tolist(), blurred(groups, facts)[order].tolist()

    def said(kept: int, other: int, *, of_kept: bool) -> str:
        """What decides between the kept row and another: as a reason for the one, or against the other."""
        at = kept if of_kept else other
        if pixels[kept] != pixels[other]:
            named = f"{widths[at]} x {heights[at]} pixels" if pixels[at] >= 0 else "an unknown number of pixels"
            return f"most pixels: {named}" if of_kept else f"fewer pixels: {named}"
        if less_sharp[kept] != less_sharp[other]:
            named = f"variance of the Laplacian {sharpness[at]:,.0f}"
            return f"as many pixels, sharpest: {named}" if of_kept else f"as many pixels, less sharp: {named}"
        if sizes[kept] != sizes[other]:
            named = f"{sizes[at]:,} bytes" if sizes[at] >= 0 else "an unknown number of bytes"
            return f"as many pixels, most bytes: {named}" if of_kept else f"as many pixels, fewer bytes: {named}"
        return "path sorts first among equals" if of_kept else f"equal to {paths[kept]}, whose path sorts first"

    found = []
    for start, stop in zip(groups.starts[:-1].tolist(), groups.starts[1:].tolist(), strict=True):
        for at in range(start, stop):
            if reference[at]:
                found.append(f"in {facts.reference_name}, which stays as it is")
            elif reference[start]:
                found.append(f"in {facts.reference_name} too: {paths[start]}")
            elif at == start:
                found.append(said(start, start + 1, of_kept=True))
            else:
                same = "same file, " if copies[at] == FILE else ""
                found.append(same + said(start, at, of_kept=False))
    return found
