"""A worker of a cluster, in this process."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clusterer.data.filerows import FileRows
from clusterer.data.partitions import Partition
from clusterer.data.rows import ArrayRows, MappedRows, StoredRows, l2_normalize
from clusterer.jobs import site
from clusterer.jobs.site import ClusterWorkspace
from clusterer.ray.holder import Holder
from shoal import host
from shoal.jobs.child import Cancelled
from shoal.store import Store

from tests.clusterer.conftest import MakeSet

ROWS = ArrayRows(np.arange(40.0, dtype=np.float32).reshape(10, 4))


@pytest.fixture(autouse=True)
def _cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker limits the cores of its process."""
    monkeypatch.setattr(host, "_share", None)


def test_rows_beyond_the_memory_lie_in_a_file_that_goes_with_them() -> None:
    holder = Holder(1, 0, 4 * 4 * 6)
    before = opened()
    holder.hold("own", ROWS, (0, 5), held=True)
    holder.hold("taken over", ROWS, (5, 10), held=True)
    assert not isinstance(holder.run("own", kind)[0], FileRows)
    assert holder.run("taken over", kind)[0] is FileRows
    assert np.array_equal(holder.take("taken over", np.array([1])), ROWS.array[6:7])
    assert opened() > before
    holder.drop("taken over")
    assert opened() == before
    holder.drop("own")
    holder.hold("next", ROWS, (5, 10), held=True)
    assert holder.run("next", kind)[0] is ArrayRows


def opened() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def kind(partition: Partition, on_rows: Any) -> type:
    return type(partition.rows)


def test_a_worker_tells_of_what_it_reads_itself(store: Store, make_set: MakeSet) -> None:
    vectors = np.ones((20, 4), np.float32)
    vectors[[2, 11, 12]] = 0.0
    stored = StoredRows(store.embeddings(make_set("mine", vectors)), "mine")
    list(stored.batches())
    assert stored.zero_rows == 3
    view = MappedRows(pickle.loads(pickle.dumps(stored)), l2_normalize, 4)
    read = Holder(1, 0, 2**20).hold("later", view, (10, 20), held=True)
    assert read.zeros == 2
    assert read.seconds > 0.0


def test_an_error_while_rows_are_handed_out_stays_the_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def spread(*_: Any, **__: Any) -> None:
        raise Cancelled

    monkeypatch.setattr(site, "spread", spread)
    work = ClusterWorkspace(tmp_path, None)  # type: ignore[arg-type]
    with pytest.raises(Cancelled), work.holding({"": ROWS}, "sample", lambda _: None):
        pass
