"""The stage that is never idle shows as such."""

from __future__ import annotations

import pytest
from extractor.stream.busy import WINDOW_S, Clock, Stages


class Time:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def time() -> Time:
    return Time()


def test_overlapping_work_counts_once_and_idle_time_not_at_all(time: Time) -> None:
    clock = Clock(time)
    clock.begin()
    time.now += 1
    clock.begin()
    time.now += 1
    clock.end()
    time.now += 1
    assert clock.seconds() == 3
    clock.end()
    time.now += 10
    assert clock.seconds() == 3


def test_work_that_fails_ends_too(time: Time) -> None:
    clock = Clock(time)

    def fail() -> None:
        with clock.work():
            time.now += 2
            raise ValueError("x")

    with pytest.raises(ValueError, match="x"):
        fail()
    time.now += 5
    assert clock.seconds() == 2


def test_fetching_is_a_stage_only_where_something_is_fetched(time: Time) -> None:
    stages = Stages(lambda: 0.0, 1, time)
    time.now += 1
    assert "fetch" not in stages.detail()["busy"]
    with stages.fetch.work():
        time.now += 1
    assert stages.detail()["busy"]["fetch"] == 0.5


def test_fractions_are_of_the_last_seconds(time: Time) -> None:
    decoded = 0.0
    stages = Stages(lambda: decoded, 4, time)
    assert stages.detail() == {"busy": {"decode": 0.0, "network": 0.0, "write": 0.0}}
    for _ in range(10):  # Four decoders, of which one works; the network works half of the time.
        with stages.network.work():
            time.now += WINDOW_S / 2
        time.now += WINDOW_S / 2
        decoded += WINDOW_S
        assert stages.detail() == {"busy": {"decode": 0.25, "network": 0.5, "write": 0.0}}
    for _ in range(3):  # Then all four do, and the network has nothing to do: nothing of before remains.
        time.now += WINDOW_S
        decoded += 4 * WINDOW_S
        latest = stages.detail()
    assert latest == {"busy": {"decode": 1.0, "network": 0.0, "write": 0.0}}
