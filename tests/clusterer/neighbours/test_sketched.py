"""Every compiled kernel, thread count, memory limit and order of rows gives the same bits; bounds are of use."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clusterer.data.rows import ArrayRows, l2_normalize
from clusterer.kmeans.fast.kernel import Kernel
from clusterer.native.build import LIBRARIES
from clusterer.native.library import JOIN, available, open_library
from clusterer.neighbours import (
    Nearest,
    Options,
    Pairs,
    coarse,
    nearest_rows,
    pairs_above,
    pairs_between,
    prepare,
    work,
)
from clusterer.neighbours.copies import Copies
from clusterer.neighbours.kernel import JoinKernel, open_join
from clusterer.neighbours.parts import SHORT, Groups
from clusterer.neighbours.prepare import prepared
from clusterer.neighbours.similarity import lengths, similarities
from clusterer.neighbours.sketched import SketchedBounds, most_similar

pytestmark = pytest.mark.skipif(not available(), reason="no compiled kernel runs on this processor")
SEARCH: dict[str, object] = {"search": "test"}


def grouped(n: int, dim: int, spread: float = 0.3, seed: int = 0) -> Any:
    """Groups in a decaying spectrum, with near copies, equal rows and zeros."""
    rng = np.random.default_rng(seed)
    scale = (np.arange(dim) + 3.0) ** -0.6
    rows = (rng.normal(size=(n // 40, dim))[rng.integers(0, n // 40, n)] + spread * rng.normal(size=(n, dim))) * scale
    rows[7::50] = rows[3::50][: len(rows[7::50])] + 1e-3 * scale * rng.normal(size=(len(rows[7::50]), dim))
    rows[11::90] = rows[11]
    rows[13::200] = 0
    return rows.astype(np.float32)


@pytest.fixture
def many_centres(monkeypatch: pytest.MonkeyPatch) -> None:
    """A coarse clustering also of few rows."""
    monkeypatch.setattr(coarse, "ROWS_PER_CENTRE", 50)


def bytes_of(found: Nearest) -> tuple[bytes, bytes]:
    return found.rows.tobytes(), found.similarity.tobytes()


def pair_bytes(blocks: Iterator[Any]) -> list[bytes]:
    parts = [Pairs(*(np.empty(0, np.int64),) * 2, np.empty(0, np.float32)), *blocks]
    return [np.concatenate([getattr(part, name) for part in parts]).tobytes() for name in ("i", "j", "similarity")]


@pytest.fixture(scope="module")
def wanted() -> dict[str, Any]:
    """Answers of the plain bounds."""
    rows = ArrayRows(grouped(1500, 300))
    plain = Options(kernel=work.PLAIN)
    return {
        "rows": rows,
        "nearest": bytes_of(nearest_rows(rows, 10, plain)),
        "pairs": pair_bytes(pairs_above(rows, 0.95, plain)),
        "many": pair_bytes(pairs_above(rows, 0.2, plain)),
    }


def check(wanted: dict[str, Any], options: Options) -> None:
    rows = wanted["rows"]
    assert bytes_of(nearest_rows(rows, 10, options)) == wanted["nearest"]
    assert pair_bytes(pairs_above(rows, 0.95, options)) == wanted["pairs"]
    assert pair_bytes(pairs_above(rows, 0.2, options)) == wanted["many"]


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("variant", available())
@pytest.mark.usefixtures("many_centres")
def test_every_kernel_and_number_of_threads_gives_the_same_bits(
    variant: str, threads: int, wanted: dict[str, Any]
) -> None:
    check(wanted, Options(kernel=variant, threads=threads, block=400))


@pytest.mark.usefixtures("many_centres")
def test_the_tiles_of_amx_give_the_same_bits(monkeypatch: pytest.MonkeyPatch, emulated_amx: Kernel) -> None:
    rows = ArrayRows(grouped(400, 300))
    monkeypatch.setattr(prepare, "open_join", lambda *_, **__: JoinKernel(emulated_amx))
    join = prepared(rows, None, Options(), SEARCH)
    assert isinstance(join.bounds, SketchedBounds)
    found, pairs = nearest_rows(rows, 5, Options(block=250)), pair_bytes(pairs_above(rows, 0.9, Options(block=250)))
    monkeypatch.undo()
    assert bytes_of(found) == bytes_of(nearest_rows(rows, 5))
    assert pairs == pair_bytes(pairs_above(rows, 0.9))


@pytest.mark.usefixtures("many_centres")
@pytest.mark.parametrize("folder", [False, True], ids=["memory", "folder"])
def test_without_memory_rows_are_read_again_and_sketches_lie_in_files(
    folder: bool, tmp_path: Path, wanted: dict[str, Any]
) -> None:
    options = Options(memory_limit=0, block=400, folder=tmp_path / "work" if folder else None)
    join = prepared(wanted["rows"], None, options, SEARCH)
    assert join.left.held is None
    assert isinstance(join.bounds, SketchedBounds)
    assert not join.bounds.in_memory
    check(wanted, options)


def test_more_pairs_than_a_call_returns_come_in_parts(monkeypatch: pytest.MonkeyPatch, wanted: dict[str, Any]) -> None:
    monkeypatch.setattr("clusterer.neighbours.kernel.CAPACITY", 192 * 700)
    rows = ArrayRows(grouped(700, 300))
    found = pair_bytes(pairs_above(rows, -1.0, Options(block=700)))
    assert found == pair_bytes(pairs_above(rows, -1.0, Options(kernel=work.PLAIN)))
    check(wanted, Options())


def test_float16_rows_are_compared_as_float32(wanted: dict[str, Any]) -> None:
    half = wanted["rows"].array.astype(np.float16)
    found = nearest_rows(ArrayRows(half), 5)
    assert bytes_of(found) == bytes_of(nearest_rows(ArrayRows(half.astype(np.float32)), 5))
    assert bytes_of(found) == bytes_of(nearest_rows(ArrayRows(half), 5, Options(kernel=work.PLAIN)))


def test_pairs_between_sets_of_other_sizes(wanted: dict[str, Any]) -> None:
    left, right = ArrayRows(wanted["rows"].array[:333]), ArrayRows(wanted["rows"].array[300:])
    for threshold in (0.3, 0.95):
        found = pair_bytes(pairs_between(left, right, threshold, Options(block=250)))
        assert found == pair_bytes(pairs_between(left, right, threshold, Options(kernel=work.PLAIN)))


def adversarial(kind: str, n: int = 300) -> Any:
    rng = np.random.default_rng(5)
    base = rng.normal(size=(1, 320))
    made: dict[str, Callable[[], Any]] = {
        # The similarities of these differ by less than the bounds can tell.
        "near": lambda: base + 1e-4 * rng.normal(size=(n, 320)),
        "nearer": lambda: base + 1e-7 * rng.normal(size=(n, 320)),
        "opposite": lambda: np.where(rng.random((n, 1)) < 0.5, 1, -1) * (base + 1e-3 * rng.normal(size=(n, 320))),
        "line": lambda: rng.normal(size=(n, 1)) * base,
        "spikes": lambda: np.eye(320)[rng.integers(0, 320, n)] + 1e-3 * rng.normal(size=(n, 320)),
        "sparse": lambda: rng.normal(size=(n, 320)) * (rng.random((n, 320)) < 0.01),
        "scales": lambda: rng.normal(size=(n, 320)) * 10.0 ** rng.integers(-30, 30, (n, 1)),
        "ulps": lambda: np.float32(1) + rng.integers(0, 2, (n, 320)) * np.float32(2**-23),
    }
    return made[kind]().astype(np.float32)


@pytest.mark.usefixtures("many_centres")
@pytest.mark.parametrize("kind", ["near", "nearer", "opposite", "line", "spikes", "sparse", "scales", "ulps"])
def test_data_on_which_the_bounds_are_tight(kind: str) -> None:
    rows = ArrayRows(adversarial(kind))
    plain, fast = Options(kernel=work.PLAIN), Options(block=140)
    found = nearest_rows(rows, 7, fast)
    assert bytes_of(found) == bytes_of(nearest_rows(rows, 7, plain))
    for threshold in (0.95, float(found.similarity[0, 3]), float(found.similarity[:, 0].max())):
        assert pair_bytes(pairs_above(rows, threshold, fast)) == pair_bytes(pairs_above(rows, threshold, plain))


def bounds_of(rows: Any, variant: str | None = None) -> tuple[SketchedBounds, Any]:
    join = prepared(ArrayRows(rows), None, Options(kernel=variant, block=700), SEARCH)
    assert isinstance(join.bounds, SketchedBounds)
    return join.bounds, join


@pytest.mark.parametrize("variant", available())
def test_few_pairs_are_left_to_compare(variant: str) -> None:
    rows = grouped(1400, 300)
    bounds, join = bounds_of(rows, variant)
    first, second = join.blocks
    floors = np.full(700, 0.95, np.float32)
    left = sum(len(i) for i, _ in bounds.reaching(first, second, floors, floors))
    reached = sum(len(block) for block in pairs_above(ArrayRows(rows), 0.95))
    assert left < 5 * reached + 1000
    assert left < 700 * 700 / 20


@pytest.mark.parametrize("variant", available())
def test_a_floor_is_reached_by_enough_rows(variant: str) -> None:
    rows = grouped(700, 300)
    bounds, join = bounds_of(rows, variant)
    (block,) = join.blocks
    table = join.left.held
    norms = lengths(table)
    exact = np.stack(
        [similarities(np.repeat(x[None], 700, 0), table, np.repeat(norms[i], 700), norms) for i, x in enumerate(table)]
    )
    np.fill_diagonal(exact, -np.inf)
    for k in (1, 10, 90, 699, 700):
        floors = bounds.floors(block, k)
        assert ((exact >= floors[:, None]).sum(axis=1) >= min(k, 699)).all()
    assert np.isneginf(bounds.floors(block, 700)).all()
    assert (np.sort(exact, axis=1)[:, -10] - bounds.floors(block, 10)).max() < 0.2, "floors are of use"


@pytest.mark.parametrize("variant", available())
def test_short_sketches_leave_out_no_pair_that_lies_beside_their_directions(variant: str) -> None:
    rng = np.random.default_rng(9)
    rows = rng.normal(size=(400, 320))
    rows[200:] = rows[rng.permutation(200)] + 0.2 * rng.normal(size=(200, 320))
    found = list(pairs_above(ArrayRows(rows.astype(np.float32)), 0.95, Options(kernel=variant)))
    assert sum(len(block) for block in found) == 200


def test_no_pair_of_groups_exceeds_its_bound() -> None:
    for kind in ("near", "nearer", "opposite", "spikes", "scales"):
        units = l2_normalize(adversarial(kind, 130))
        left, right = Groups.of(units[:50], 16), Groups.of(units[50:], 32)
        most = most_similar(left, right)
        exact = units[:50].astype(np.float64) @ units[50:].T
        for g in range(4):
            for h in range(3):
                assert exact[16 * g : 16 * g + 16, 32 * h : 32 * h + 32].max() <= most[g, h]


@pytest.mark.usefixtures("many_centres")
def test_groups_of_distant_rows_are_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(2)
    centres = rng.normal(size=(10, 128))
    rows = (np.repeat(centres, 200, axis=0) + 0.05 * rng.normal(size=(2000, 128)))[rng.permutation(2000)]
    calls = []
    reaching = JoinKernel.reaching
    monkeypatch.setattr(
        JoinKernel, "reaching", lambda *given, **more: calls.append(given[4]) or reaching(*given, **more)
    )
    found = sum(len(block) for block in pairs_above(ArrayRows(rows.astype(np.float32)), 0.9, Options(block=192)))
    assert found > 10 * 200 * 199 // 2 * 0.9
    assert len(calls) < 11 * 12 // 2, "some blocks are skipped whole"


def test_equal_rows_are_compared_once() -> None:
    rng = np.random.default_rng(3)
    rows = np.concatenate(
        [np.tile(rng.normal(size=(1, 20)), (3000, 1)), rng.normal(size=(40, 20)), np.zeros((2000, 20))]
    )
    rows = rows[rng.permutation(len(rows))].astype(np.float32)
    copies = Copies.of(ArrayRows(rows))
    assert copies is not None
    assert len(copies.firsts) == 42
    assert copies.own.sum() == 41
    found = nearest_rows(ArrayRows(rows), 6)
    for i in rng.integers(0, len(rows), 40).tolist():
        norms = lengths(rows)
        exact = similarities(np.repeat(rows[i : i + 1], len(rows), 0), rows, np.repeat(norms[i], len(rows)), norms)
        order = np.lexsort((np.arange(len(rows)), -exact))
        assert found.rows[i].tolist() == order[order != i][:6].tolist()
    assert Copies.of(ArrayRows(rng.normal(size=(50, 4)).astype(np.float32))) is None


def test_rows_with_the_same_digest_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = ArrayRows(grouped(120, 16))
    wanted = bytes_of(nearest_rows(rows, 5))
    monkeypatch.setattr("clusterer.neighbours.copies.xxhash.xxh3_128_digest", lambda _: bytes(16))
    assert bytes_of(nearest_rows(rows, 5)) == wanted


@pytest.mark.usefixtures("many_centres")
def test_the_next_attempt_keeps_the_order_of_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = ArrayRows(grouped(900, 64))
    options = Options(folder=tmp_path / "work", block=300, save_every_s=0.0)

    def killed(_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        nearest_rows(rows, 4, replace(options, on_rows=killed))

    def not_again(*_: object) -> Any:
        raise AssertionError("clustered again")

    monkeypatch.setattr(prepare, "similar_together", not_again)
    done: list[int] = []
    found = nearest_rows(rows, 4, replace(options, on_rows=done.append))
    assert len(done) == 2
    assert bytes_of(found) == bytes_of(nearest_rows(rows, 4, Options(kernel=work.PLAIN)))


def test_a_kernel_of_older_sources_leaves_the_plain_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = ArrayRows(grouped(300, 16))
    wanted = bytes_of(nearest_rows(rows, 3))
    monkeypatch.setattr("clusterer.neighbours.kernel.JOIN", ("shoal_join_not_there",))
    assert not isinstance(prepared(rows, None, Options(), SEARCH).bounds, SketchedBounds)
    assert bytes_of(nearest_rows(rows, 3)) == wanted


def test_the_library_has_every_function() -> None:
    loaded = open_library(LIBRARIES[available()[0]])
    assert all(hasattr(loaded, name) for name in JOIN)
    assert isinstance(open_join().fast, Kernel)
    assert SHORT % 64 == 0
