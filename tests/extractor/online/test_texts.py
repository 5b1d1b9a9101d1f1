"""Texts of many requests: in turns, one at a time, and not at all for those who leave."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future

import numpy as np
import pytest
from extractor.online.texts import TextTurns
from numpy.typing import NDArray
from shoal.errors import InvalidRequest, JobError, Overloaded

Test = Callable[[], Awaitable[None]]


class Model:
    """Embeds a text as its number, when a test says so."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []
        self._futures: list[Future[NDArray[np.float32]]] = []
        self.turns = TextTurns("m", self.submit, most=6)

    def submit(self, texts: Sequence[str]) -> Future[NDArray[np.float32]]:
        self.asked.append(list(texts))
        self._futures.append(Future())
        return self._futures[-1]

    async def finish(self, error: Exception | None = None) -> None:
        """End what it was asked last, and let the others go on."""
        if error is not None:
            self._futures[-1].set_exception(error)
        else:
            self._futures[-1].set_result(np.array([[float(text)] for text in self.asked[-1]], np.float32))
        await settled()

    async def begin(self, *texts: str) -> asyncio.Task[NDArray[np.float32]]:
        """Send a request."""
        task = asyncio.ensure_future(self.turns.embed(texts))
        await settled()
        return task


async def settled() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


def run(test: Test) -> None:
    async def within() -> None:
        async with asyncio.timeout(60):
            await test()

    asyncio.run(within())


def test_requests_take_turns_and_one_text_is_handed_over_at_a_time() -> None:
    async def test() -> None:
        model = Model()
        long, short = await model.begin("1", "2", "3"), await model.begin("7")
        assert model.asked == [["1"]]
        for _ in range(4):
            await model.finish()
        assert model.asked == [["1"], ["2"], ["7"], ["3"]] or model.asked == [["1"], ["7"], ["2"], ["3"]]
        np.testing.assert_array_equal(await long, [[1], [2], [3]])
        np.testing.assert_array_equal(await short, [[7]])
        again = await model.begin("4")
        await model.finish()
        np.testing.assert_array_equal(await again, [[4]])

    run(test)


def test_texts_of_a_request_that_was_given_up_are_not_embedded() -> None:
    async def test() -> None:
        model = Model()
        gone, other = await model.begin("1", "2", "3"), await model.begin("7")
        gone.cancel()
        await settled()
        assert model.turns.waiting == 1
        await model.finish()
        await model.finish()
        np.testing.assert_array_equal(await other, [[7]])
        assert model.asked == [["1"], ["7"]]

    run(test)


def test_a_failure_costs_its_own_request() -> None:
    async def test() -> None:
        model = Model()
        failing, other = await model.begin("1", "2"), await model.begin("7")
        await model.finish(InvalidRequest("none"))
        await model.finish()
        with pytest.raises(InvalidRequest):
            await failing
        np.testing.assert_array_equal(await other, [[7]])
        broken = await model.begin("1")
        await model.finish(RuntimeError("no memory"))
        with pytest.raises(JobError, match="m failed: RuntimeError: no memory"):
            await broken
        assert model.turns.waiting == 0

    run(test)


def test_a_request_beyond_the_queue_is_refused() -> None:
    async def test() -> None:
        model = Model()
        await model.begin("1", "2", "3", "4")
        with pytest.raises(Overloaded, match=r"3 texts wait .* at most 6") as caught:
            await model.turns.embed(["5", "6", "7", "8"])
        assert caught.value.members["retry_after_s"] == 1
        accepted = await model.begin("5", "6", "7")
        assert model.turns.waiting == 6
        assert not accepted.done()

    run(test)
