"""Digests in shared memory: found by every process that maps it, until they are forgotten."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator

import numpy as np
import pytest
from extractor.images.known import HALF, digests_of, read_known, write_known
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st


def sha256(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()


@pytest.fixture
def descriptor(tmp_path: os.PathLike[str]) -> Iterator[int]:
    opened = os.open(os.path.join(tmp_path, "known"), os.O_RDWR | os.O_CREAT)  # noqa: PTH118 - one expression
    yield opened
    os.close(opened)


@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(numbers=st.lists(st.integers(0, 50), min_size=1, max_size=60), forgotten=st.sets(st.integers(0, 50)))
def test_every_process_finds_the_earliest_usable_entry(
    descriptor: int, numbers: list[int], forgotten: set[int]
) -> None:
    os.ftruncate(descriptor, 0)
    assert read_known(descriptor) is None
    known, order = write_known(descriptor, digests_of([sha256(number) for number in numbers]))
    other = read_known(descriptor)
    assert other is not None
    known.forget(np.isin(np.array(numbers)[order], list(forgotten)))
    for number in range(52):
        places = [known.find(sha256(number)), other.find(sha256(number))]
        if number in numbers and number not in forgotten:
            assert [order[place] for place in places if place is not None] == 2 * [numbers.index(number)]
        else:
            assert places == [None, None]


def test_digests_that_agree_in_their_first_eight_bytes_are_told_apart(descriptor: int) -> None:
    ends = ["a" * 48, "b" * 48, "c" * 48]
    known, order = write_known(descriptor, digests_of(["0" * 16 + end for end in ends[:2]]))
    found = [known.find("0" * 16 + end) for end in ends]
    assert [None if place is None else int(order[place]) for place in found] == [0, 1, None]


def test_a_digest_that_is_no_hex_is_refused() -> None:
    with pytest.raises(ValueError, match="fromhex"):
        digests_of(["x" * HALF])
