from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from extractor.tf_serving.batching import Arrays, Batcher, BatchLimits, QueueFull


class Network:
    """Doubles what it gets; waits at a gate, and remembers how many rows each call had."""

    def __init__(self) -> None:
        self.calls: list[int] = []
        self.gate = threading.Event()
        self.entered = threading.Event()

    def __call__(self, inputs: Arrays) -> Arrays:
        self.calls.append(len(inputs["x"]))
        self.entered.set()
        if not self.gate.wait(30):
            raise TimeoutError
        if inputs["x"].ndim > 2:
            raise ValueError("too deep")
        return {"y": inputs["x"] * 2}


@pytest.fixture
def network() -> Network:
    return Network()


@pytest.fixture
def batcher(network: Network) -> Iterator[Batcher]:
    made = Batcher(network, BatchLimits(rows=8, wait_s=0.01, waiting_rows=20, threads=1))
    yield made
    network.gate.set()
    made.close()


def rows(*values: float) -> dict[str, Any]:
    return {"x": np.array(values, np.float32).reshape(-1, 1)}


def occupy(batcher: Batcher, network: Network) -> Any:
    """A request that holds the only thread, so that the next ones wait."""
    first = batcher.submit(rows(0))
    assert network.entered.wait(30)
    return first


def test_requests_that_wait_together_run_together_and_get_their_own_rows(batcher: Batcher, network: Network) -> None:
    first = occupy(batcher, network)
    others = [batcher.submit(rows(i, i + 0.5)) for i in range(1, 4)]
    network.gate.set()
    assert first.result(30)["y"].tolist() == [[0]]
    assert [other.result(30)["y"].ravel().tolist() for other in others] == [[2, 3], [4, 5], [6, 7]]
    assert network.calls == [1, 6]


def test_a_batch_ends_at_the_limit(batcher: Batcher, network: Network) -> None:
    occupy(batcher, network)
    futures = [batcher.submit(rows(*range(3))) for _ in range(4)]
    network.gate.set()
    for future in futures:
        future.result(30)
    assert network.calls == [1, 6, 6]


def test_a_request_over_the_limit_runs_alone(batcher: Batcher, network: Network) -> None:
    occupy(batcher, network)
    large, small = batcher.submit(rows(*range(10))), batcher.submit(rows(1))
    network.gate.set()
    assert len(large.result(30)["y"]) == 10
    assert len(small.result(30)["y"]) == 1
    assert network.calls == [1, 10, 1]


def test_other_shapes_and_dtypes_are_not_mixed(batcher: Batcher, network: Network) -> None:
    occupy(batcher, network)
    futures = [
        batcher.submit({"x": value})
        for value in (np.ones((1, 2), np.float32), np.ones((1, 3), np.float32), np.ones((1, 3), np.uint8))
    ]
    network.gate.set()
    assert [future.result(30)["y"].dtype for future in futures] == [np.float32, np.float32, np.uint8]
    assert network.calls == [1, 1, 1, 1]


def test_an_error_reaches_those_it_concerns_and_the_next_ones_run(batcher: Batcher, network: Network) -> None:
    network.gate.set()
    with pytest.raises(ValueError, match="too deep"):
        batcher.submit({"x": np.ones((1, 1, 1))}).result(30)
    assert batcher.submit(rows(4)).result(30)["y"].tolist() == [[8]]


def test_too_many_waiting_rows_are_refused(batcher: Batcher, network: Network) -> None:
    occupy(batcher, network)
    batcher.submit(rows(*range(15)))
    with pytest.raises(QueueFull):
        batcher.submit(rows(*range(6)))


def test_closing_finishes_what_waits(network: Network) -> None:
    batcher = Batcher(network, BatchLimits(rows=1, wait_s=0, threads=1))
    futures = [batcher.submit(rows(i)) for i in range(3)]
    network.gate.set()
    batcher.close()
    assert [future.result(0)["y"].item() for future in futures] == [0, 2, 4]
    with pytest.raises(QueueFull):
        batcher.submit(rows(1))


def test_a_cancelled_request_does_not_run(batcher: Batcher, network: Network) -> None:
    occupy(batcher, network)
    gone = batcher.submit(rows(1))
    assert gone.cancel()
    network.gate.set()
    assert batcher.submit(rows(2)).result(30)["y"].item() == 4
    assert sum(network.calls) == 2


def test_an_output_that_is_not_one_row_an_image_is_an_error() -> None:
    gate = threading.Event()

    def total(inputs: Arrays) -> Arrays:
        gate.wait(30)
        return {"y": inputs["x"].sum(axis=0)}

    batcher = Batcher(total, BatchLimits(rows=8, wait_s=0.05, threads=1))
    futures = [batcher.submit(rows(1, 2)) for _ in range(3)]
    gate.set()
    with pytest.raises(ValueError, match="shape"):
        futures[-1].result(30)
    batcher.close()
