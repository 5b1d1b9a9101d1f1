"""Rows on a Ray cluster: every worker of a job is an actor that holds a range of them and runs the steps on it.

A worker that is lost takes nothing with it that the store does not have: the others read its rows again, and the step
under way is repeated for these rows alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from clusterer.data.partitions import OnRows, PartitionedRows, Partitions, Step
from clusterer.data.rows import Array, ChosenRows, Float32Array, IntArray, MappedRows, Rows
from clusterer.ray.holder import Read, stored_rows
from clusterer.ray.pool import Piece, Pool, Reference

T = TypeVar("T")


@dataclass(frozen=True)
class SpreadRows(PartitionedRows):
    """Rows on a cluster.

    Attributes
    ----------
    partitions
        Where they are.
    view
        What they are computed from.
    """

    partitions: RayPartitions
    view: Rows


def spread(pool: Pool, view: Rows, *, held: bool, on_rows: OnRows | None = None) -> SpreadRows:
    """The rows of a view as partitions of a pool's workers.

    Parameters
    ----------
    view
        Rows of the store, or a function or a choice of them.
    held
        Whether they are computed once; otherwise in each pass.
    """
    view = origin(view)
    partitions = RayPartitions(pool, view, held=held)
    partitions.place(on_rows)
    return SpreadRows(view.n, view.dim, partitions, view)


def release(rows: Rows) -> None:
    """Free what workers hold of some rows."""
    if isinstance(rows, SpreadRows):
        rows.partitions.release()


def origin(rows: Rows) -> Rows:
    """The same rows without those that workers hold: they are computed from the store instead."""
    if isinstance(rows, SpreadRows):
        return rows.view
    if isinstance(rows, MappedRows | ChosenRows):
        return replace(rows, source=origin(rows.source))
    return rows


class RayPartitions(Partitions):
    """Partitions that the workers of a pool hold."""

    def __init__(self, pool: Pool, view: Rows, *, held: bool) -> None:
        self._pool = pool
        self._n = view.n
        self._dim = view.dim
        self._held = held
        self._stored = stored_rows(view)
        self._view = pool.put(view)
        self._pieces: list[Piece] = []

    def place(self, on_rows: OnRows | None) -> None:
        """Give every worker its range of the rows."""
        self._load(list(self._pool.cut(0, self._n, self._n)), on_rows)

    def run(self, step: Step[T], *arrays: Array, on_rows: OnRows | None = None) -> list[T]:
        sent = self._pool.put(step)
        found: dict[tuple[int, int], T] = {}
        reads: list[Read] = []

        def keep(piece: Piece, result: tuple[T, Read]) -> None:
            found[piece.first, piece.stop], read = result
            reads.append(read)
            self._note(piece, read)

        while left := [piece for piece in self._whole() if not _covered(piece, found)]:
            calls = {
                self._pool.call(piece, "run", sent, *(each[piece.first : piece.stop] for each in arrays)): piece
                for piece in left
            }
            self._collect(calls, keep, on_rows)
        self._took(reads)
        return [found[each] for each in sorted(found)]

    def take(self, rows: IntArray) -> Float32Array:
        taken = np.empty((len(rows), self._dim), dtype=np.float32)
        left = np.ones(len(rows), dtype=bool)

        def keep(piece: Piece, values: Float32Array) -> None:
            inside = (rows >= piece.first) & (rows < piece.stop)
            taken[inside], left[inside] = values, False

        while left.any():
            calls = {}
            for piece in self._whole():
                inside = left & (rows >= piece.first) & (rows < piece.stop)
                if inside.any():
                    calls[self._pool.call(piece, "take", rows[inside] - piece.first)] = piece
            self._collect(calls, keep, None)
        return taken

    def release(self) -> None:
        """Free what the workers hold."""
        for piece in self._pieces:
            if self._pool.has(piece.worker):
                self._pool.call(piece, "drop")
        self._pieces = []

    def _whole(self) -> list[Piece]:
        """All pieces, after those of lost workers have been given to others."""
        while lost := [piece for piece in self._pieces if not self._pool.has(piece.worker)]:
            self._pieces = [piece for piece in self._pieces if piece not in lost]
            self._load([new for piece in lost for new in self._pool.cut(piece.first, piece.stop, self._n)], None)
        return list(self._pieces)

    def _load(self, pieces: list[Piece], on_rows: OnRows | None) -> None:
        """Let workers hold some pieces; those that are lost meanwhile are given to others later."""
        self._pieces = sorted([*self._pieces, *pieces], key=lambda piece: piece.first)
        calls = {
            self._pool.call(piece, "hold", self._view, (piece.first, piece.stop), held=self._held): piece
            for piece in pieces
        }
        reads: list[Read] = []

        def keep(piece: Piece, read: Read) -> None:
            reads.append(read)
            self._note(piece, read)

        self._collect(calls, keep, on_rows)
        self._took(reads)

    def _collect(self, calls: dict[Reference, Piece], keep: Callable[[Piece, T], None], on_rows: OnRows | None) -> None:
        """Wait for calls. One whose worker is lost has no result."""
        rows = 0
        while calls:
            for each in self._pool.wait(calls):
                piece = calls.pop(each)
                held = sum(other.stop - other.first for other in self._pieces if other.worker == piece.worker)
                answered, value = self._pool.result(each, piece.worker, held)
                if answered:
                    keep(piece, value)
                    rows += piece.stop - piece.first
            if on_rows is not None:
                on_rows(rows)

    def _note(self, piece: Piece, read: Read) -> None:
        if self._stored is not None and read.zeros is not None:
            self._stored.note(piece.first, piece.stop, read.zeros)

    def _took(self, reads: list[Read]) -> None:
        """Add the time of the slowest worker: they read at the same time."""
        if self._stored is not None:
            self._stored.read_s += max((read.seconds for read in reads), default=0.0)


def _covered(piece: Piece, found: Mapping[tuple[int, int], object]) -> bool:
    """Whether there are results of a range that includes the piece: its worker was lost after it had answered."""
    return any(first <= piece.first and piece.stop <= stop for first, stop in found)
