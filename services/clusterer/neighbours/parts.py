"""Sketches and groups of a range of rows, in one buffer: of memory, or of a file that any process maps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

from clusterer.data.rows import Float32Array, Float64Array
from clusterer.kmeans.fast.guide import leading_directions
from clusterer.kmeans.fast.kernel import Frame, Projection, Sketch
from clusterer.neighbours.kernel import GROUP_COLUMNS, GROUP_ROWS, JoinKernel, Sketches

SHORT: Final = 64
"""Values of a short sketch; rows of less than four times as many columns have none."""
ROUNDING: Final = 1e-5
"""More than the rounding of the bounds of groups in float32."""
ALIGNED: Final = 64
PART_BLOCKS: Final = 16
"""Blocks whose sketches lie together."""

STATS: Final = ("scale", "norm", "error", "rest", "base")

Bytes = NDArray[np.uint8]
Arrays = Mapping[str, NDArray[np.generic]]


@dataclass(frozen=True)
class Groups:
    """Consecutive rows with their centres and radii, of rows of length 1.

    Attributes
    ----------
    centres, radii
        ``(g, d)`` and ``(g,) float32``: every row of a group is at most its radius away from its centre.
    """

    centres: Float32Array
    radii: Float32Array

    def __getitem__(self, part: slice) -> Groups:
        return Groups(self.centres[part], self.radii[part])

    @classmethod
    def of(cls, units: Float32Array, size: int) -> Groups:
        """The groups of a block of rows of length 1 (or 0): ``size`` each, the last one maybe fewer."""
        whole = len(units) // size * size
        parts = [units[:whole].reshape(-1, size, units.shape[1])]
        if whole < len(units):
            parts.append(units[None, whole:])
        centres = [part.mean(axis=1, dtype=np.float32) for part in parts]
        squares = [
            np.square(part - centre[:, None]).sum(axis=2).max(axis=1)
            for part, centre in zip(parts, centres, strict=True)
        ]
        radii = np.sqrt(np.concatenate(squares)) * np.float32(1 + ROUNDING)
        return cls(np.concatenate(centres), radii)

    def fill(self, part: slice, groups: Groups) -> None:
        """Take over the groups of a block."""
        self.centres[part], self.radii[part] = groups.centres, groups.radii


@dataclass(frozen=True)
class Shared:
    """What all sketches that are compared share.

    Attributes
    ----------
    frame
        Of full sketches.
    projection
        Of short ones; None where they would save nothing.
    """

    frame: Frame
    projection: Projection | None

    @classmethod
    def of(cls, kernel: JoinKernel, sample: Float32Array, directed: int) -> Shared:
        """From a sample of rows of length 1, of which about ``directed`` give the directions of short sketches."""
        frame = Frame.around(sample.mean(axis=0, dtype=np.float64).astype(np.float32))
        if len(frame.signs) < 4 * SHORT:
            return cls(frame, None)
        rotated = kernel.fast.rotate(sample[:: max(1, len(sample) // directed)], frame)
        found = kernel.fast.projection(leading_directions(rotated, rotated, SHORT)) if rotated.any() else None
        return cls(frame, found)

    @classmethod
    def from_arrays(cls, arrays: Arrays) -> Shared:
        """What `arrays` gave."""
        frame = Frame.around(np.asarray(arrays["mean"], np.float32))
        if "matrix" not in arrays:
            return cls(frame, None)
        matrix, scale = (np.asarray(arrays[name], np.float32) for name in ("matrix", "scale"))
        return cls(frame, Projection.over(matrix, np.asarray(arrays["packed"], np.uint8), scale))

    def arrays(self) -> Arrays:
        """The same bits for other processes."""
        found: dict[str, NDArray[np.generic]] = {"mean": self.frame.mean}
        if self.projection is not None:
            packed, scale = self.projection.arrays
            found |= {"matrix": self.projection.matrix, "packed": packed, "scale": scale}
        return found


@dataclass(frozen=True)
class Shape:
    """The sizes of the sketches of a range of rows.

    Attributes
    ----------
    rows, dim
        Of the range.
    dims, short
        Bytes of a full and of a short sketch; 0 without short ones.
    block
        Rows that are compared together.
    """

    rows: int
    dim: int
    dims: int
    short: int
    block: int

    def groups(self, size: int) -> list[int]:
        """Where the groups of each block start, and how many there are in all."""
        blocks = [min(self.block, self.rows - first) for first in range(0, self.rows, self.block)]
        return [0, *accumulate(-(-each // size) for each in blocks)]

    def fields(self) -> dict[str, tuple[str, tuple[int, ...]]]:
        """The arrays, in their order in the buffer."""
        found: dict[str, tuple[str, tuple[int, ...]]] = {"lengths": ("<f8", (self.rows,))}
        for side, width in (("full", self.dims), ("brief", self.short)):
            if width:
                found[f"{side}.q"] = ("|i1", (self.rows, width))
                found[f"{side}.sum"] = ("<i4", (self.rows,))
                found |= {
                    f"{side}.{name}": ("<f4", (self.rows,)) for name in ("scale", "norm", "error", "rest", "base")
                }
        for side, size in (("rows", GROUP_ROWS), ("columns", GROUP_COLUMNS)):
            count = self.groups(size)[-1]
            found |= {f"{side}.centres": ("<f4", (count, self.dim)), f"{side}.radii": ("<f4", (count,))}
        return found

    @property
    def size(self) -> int:
        """Bytes of the buffer."""
        return sum(_padded(dtype, shape) for dtype, shape in self.fields().values())


@dataclass(frozen=True)
class Ranges:
    """The ranges of blocks whose sketches lie together.

    Attributes
    ----------
    n, dim
        Of all rows.
    kept
        What all sketches share, as `Shared.arrays`.
    block
        Rows of a block.
    """

    n: int
    dim: int
    kept: Arrays
    block: int

    @cached_property
    def shared(self) -> Shared:
        """What all sketches share."""
        return Shared.from_arrays(self.kept)

    @property
    def rows(self) -> int:
        """Rows of each range but the last."""
        return PART_BLOCKS * self.block

    def __len__(self) -> int:
        return -(-self.n // self.rows)

    @property
    def size(self) -> int:
        """Bytes of all sketches."""
        return sum(self.shape(number).size for number in range(len(self)))

    def of(self, number: int) -> slice:
        """The rows of a range."""
        return slice(number * self.rows, min((number + 1) * self.rows, self.n))

    def shape(self, number: int) -> Shape:
        """The sizes of a range."""
        own = self.of(number)
        dims, short = -(-self.dim // 64) * 64, self.kept["matrix"].shape[1] if "matrix" in self.kept else 0
        return Shape(own.stop - own.start, self.dim, dims, short, self.block)

    def blocks(self, number: int) -> list[tuple[slice, slice]]:
        """The blocks of a range: among all rows, and in it."""
        own = self.of(number)
        found = [slice(first, min(first + self.block, own.stop)) for first in range(own.start, own.stop, self.block)]
        return [(each, slice(each.start - own.start, each.stop - own.start)) for each in found]


def _padded(dtype: str, shape: tuple[int, ...]) -> int:
    return -(-int(np.prod(shape)) * np.dtype(dtype).itemsize // ALIGNED) * ALIGNED


class Part:
    """The sketches and groups of a range of rows.

    Parameters
    ----------
    shape
        Its sizes.
    buffer
        ``(shape.size,) uint8``.

    Attributes
    ----------
    lengths
        ``(n,) float64`` of the rows; see `similarity`.
    full, brief
        Their sketches.
    """

    def __init__(self, shape: Shape, buffer: Bytes) -> None:
        if buffer.shape != (shape.size,):
            raise ValueError(f"the sketches have {len(buffer)} bytes instead of {shape.size}")
        arrays, at = {}, 0
        for name, (dtype, sizes) in shape.fields().items():
            count = int(np.prod(sizes)) * np.dtype(dtype).itemsize
            arrays[name] = buffer[at : at + count].view(dtype).reshape(sizes)
            at += _padded(dtype, sizes)
        self.shape, self.buffer = shape, buffer
        self.lengths: Float64Array = arrays["lengths"]
        names = Sketches.__dataclass_fields__
        self.full = Sketches(*(arrays[f"full.{name}"] for name in names))
        self.brief = Sketches(*(arrays[f"brief.{name}"] for name in names)) if shape.short else None
        self._rows = Groups(arrays["rows.centres"], arrays["rows.radii"])
        self.columns = Groups(arrays["columns.centres"], arrays["columns.radii"])
        self._row_groups, self._column_groups = (
            [slice(*each) for each in pairwise(shape.groups(size))] for size in (GROUP_ROWS, GROUP_COLUMNS)
        )

    def fill(self, kernel: JoinKernel, shared: Shared, block: slice, rows: Float32Array, lengths: Float64Array) -> None:
        """Sketch the rows ``(b, d)`` of a block, with their lengths."""
        units = kernel.units(rows, lengths)
        middle = shared.frame.mean.astype(np.float64)
        self.lengths[block] = lengths
        sketch = Sketch(self.full.q[block], np.empty(len(units), kernel.stats))
        kernel.fast.sketch_into(units, shared.frame, sketch)
        self.full.base[block] = units @ middle - middle @ middle / 2
        self.full.fill(block, sketch)
        if shared.projection is not None and self.brief is not None:
            brief = Sketch(self.brief.q[block], np.empty(len(units), kernel.stats))
            kernel.fast.project_into(sketch, shared.projection, brief)
            self.brief.fill(block, brief)
            self.brief.base[block], self.brief.norm[block] = self.full.base[block], self.full.norm[block]
        number = block.start // self.shape.block
        self._rows.fill(self._row_groups[number], Groups.of(units, GROUP_ROWS))
        self.columns.fill(self._column_groups[number], Groups.of(units, GROUP_COLUMNS))

    def row_groups(self, block: slice) -> Groups:
        """The groups of rows of a block."""
        return self._rows[self._row_groups[block.start // self.shape.block]]

    def columns_of(self, block: slice) -> slice:
        """Where the groups of columns of a block lie among those of the range."""
        found: slice = self._column_groups[block.start // self.shape.block]
        return found
