"""Batches of many requests: who goes with whom, in which order, and what becomes of those who leave."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future

import numpy as np
import pytest
from extractor.backends.base import Backend
from extractor.images.child import Decoded, Undecodable
from extractor.images.processes import Item
from extractor.images.transform import Transform
from extractor.online.batching import Batcher
from extractor.online.metrics import HostMetrics
from extractor.online.pending import Decoder, Limits
from numpy.typing import NDArray
from shoal.errors import ImageTruncated, JobError, ModelNotServed, NotFinite, Overloaded, ServingUnavailable
from shoal.store import ModelRecord

LIMITS = Limits(batch=4, wait_s=3600.0, queue=1000, slots=64)
Embedding = asyncio.Task[NDArray[np.float32]]


class Pool:
    """Decodes an image, which is one byte, into a pixel of that value: at once, or when a test says so."""

    workers = 2

    def __init__(self, *, at_once: bool = True) -> None:
        self.at_once = at_once
        self.asked: list[tuple[int, Future[Item]]] = []
        self.held = 0
        self.most_held = 0

    def submit(self, image: bytes) -> Future[Item]:
        future: Future[Item] = Future()
        self.asked.append((image[0], future))
        self.held += 1
        self.most_held = max(self.most_held, self.held)
        if self.at_once:
            self.decode(len(self.asked) - 1)
        return future

    def decode(self, number: int) -> None:
        """Answer the image that came as ``number``."""
        value, future = self.asked[number]
        outcome = Decoded(0, 1, 1, 1, "", None)
        future.set_result(Item(0, outcome, np.full((1, 1, 3), value, np.uint8), number))

    def refuse(self, number: int) -> None:
        """Answer that it is damaged."""
        self.held -= 1
        self.asked[number][1].set_result(Item(0, Undecodable(0, "image_truncated", "It ends."), None, None))

    def release(self, item: Item) -> None:
        self.held -= 1


class Model:
    """Embeds a pixel as its value: at once, or when a test says so. 200 becomes NaN; 201 fails its batch."""

    dim = 1
    max_in_flight = 2
    record = ModelRecord(name="m", backend="torch", architecture="a", embedding="pooled")
    transform = Transform(size=1)

    def __init__(self, *, at_once: bool = True) -> None:
        self.at_once = at_once
        self.batches: list[list[int]] = []
        self.futures: list[Future[NDArray[np.float32]]] = []
        self.error: Exception = JobError("no")

    def submit(self, pixels: NDArray[np.uint8]) -> Future[NDArray[np.float32]]:
        self.batches.append(pixels[:, 0, 0, 0].tolist())
        self.futures.append(Future())
        if self.at_once:
            self.finish(len(self.futures) - 1)
        return self.futures[-1]

    def finish(self, number: int) -> None:
        """End a batch."""
        values = np.array(self.batches[number], np.float32)
        if 201 in values:
            self.futures[number].set_exception(self.error)
        else:
            values[values == 200] = np.nan
            self.futures[number].set_result(values[:, None])

    def close(self) -> None: ...


class Bench:
    """A batcher between a pool and a model."""

    def __init__(self, pool: Pool, model: Model, limits: Limits = LIMITS) -> None:
        self.pool, self.model = pool, model
        self.metrics = HostMetrics()
        self.batcher = Batcher("m", model, pool, limits, self.metrics.of("m"))

    def begin(self, *values: int) -> Embedding:
        """Send a request."""
        return asyncio.ensure_future(self.batcher.embed([bytes([value]) for value in values]))

    def dropped(self) -> float:
        value = self.metrics.registry.get_sample_value(
            "shoal_online_images_total", {"model": "m", "outcome": "dropped"}
        )
        return value or 0.0


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def within() -> None:
        async with asyncio.timeout(60):
            await test()

    asyncio.run(within())


async def until(condition: Callable[[], object]) -> None:
    """Let the event loop and its threads go on until ``condition`` holds."""
    while not condition():
        await asyncio.sleep(0.001)


async def settle(bench: Bench) -> None:
    """Until nothing waits, runs or holds a slot."""
    await until(lambda: not bench.batcher.waiting and not bench.batcher._running)
    assert bench.pool.held == 0
    assert bench.batcher._held == bench.batcher._ready == bench.batcher._decoding == 0
    assert not bench.batcher._active
    assert not bench.batcher._decoded
    assert not bench.batcher._undecoded
    await bench.batcher.close()


def values(rows: NDArray[np.float32]) -> list[float]:
    return rows[:, 0].tolist()


def test_rows_come_in_the_order_of_their_images_however_they_are_decoded() -> None:
    async def test() -> None:
        bench = Bench(Pool(at_once=False), Model())
        request = bench.begin(5, 6, 7)
        await until(lambda: len(bench.pool.asked) == 3)
        for number in (2, 0, 1):
            bench.pool.decode(number)
        assert values(await request) == [5, 6, 7]
        await settle(bench)

    run(test)


def test_what_comes_while_a_batch_runs_goes_with_the_next() -> None:
    async def test() -> None:
        bench = Bench(Pool(), Model(at_once=False))
        requests = [bench.begin(1)]
        await until(lambda: bench.model.batches == [[1]])
        requests += [bench.begin(value) for value in (2, 3, 4)]
        await until(lambda: bench.batcher._ready == 3)
        assert bench.model.batches == [[1]]
        bench.model.finish(0)
        await until(lambda: len(bench.model.batches) == 2)
        assert bench.model.batches[1] == [2, 3, 4]
        bench.model.finish(1)
        assert [values(await request) for request in requests] == [[1], [2], [3], [4]]
        await settle(bench)

    run(test)


def test_a_full_batch_is_handed_over_while_another_runs_but_no_third() -> None:
    async def test() -> None:
        bench = Bench(Pool(), Model(at_once=False))
        request = bench.begin(*range(20))
        await until(lambda: len(bench.model.batches) == 2)
        await until(lambda: bench.batcher._ready == 12)
        assert bench.model.batches == [[0, 1, 2, 3], [4, 5, 6, 7]]
        for number in range(5):
            await until(lambda number=number: len(bench.model.batches) > number)  # type: ignore[misc]
            bench.model.finish(number)
        assert values(await request) == list(range(20))
        await settle(bench)

    run(test)


def test_a_batch_waits_for_images_that_are_being_decoded_and_not_for_ever() -> None:
    async def test() -> None:
        bench = Bench(Pool(at_once=False), Model(), Limits(batch=4, wait_s=0.05, queue=9, slots=9))
        both = [bench.begin(1), bench.begin(2)]
        await until(lambda: len(bench.pool.asked) == 2)
        bench.pool.decode(0)
        bench.pool.decode(1)
        assert [values(await request) for request in both] == [[1], [2]]
        assert bench.model.batches == [[1, 2]]
        late = [bench.begin(3), bench.begin(4)]
        await until(lambda: len(bench.pool.asked) == 4)
        bench.pool.decode(2)
        assert values(await late[0]) == [3]
        bench.pool.decode(3)
        assert values(await late[1]) == [4]
        assert bench.model.batches == [[1, 2], [3], [4]]
        await settle(bench)

    run(test)


def test_a_lone_image_waits_for_nothing() -> None:
    async def test() -> None:
        bench = Bench(Pool(), Model(), Limits(batch=4, wait_s=3600.0, queue=9, slots=9))
        assert values(await bench.begin(1)) == [1]
        await settle(bench)

    run(test)


def test_requests_take_turns_so_that_a_large_one_delays_a_single_image_by_a_batch() -> None:
    async def test() -> None:
        bench = Bench(Pool(), Model(at_once=False), Limits(batch=4, wait_s=3600.0, queue=1000, slots=8))
        large = bench.begin(*range(64))
        await until(lambda: len(bench.model.batches) == 2)
        single = bench.begin(99)
        for number in range(17):
            await until(lambda number=number: len(bench.model.batches) > number)  # type: ignore[misc]
            bench.model.finish(number)
        assert values(await large) == list(range(64))
        assert values(await single) == [99]
        assert next(number for number, batch in enumerate(bench.model.batches) if 99 in batch) <= 3
        await settle(bench)

    run(test)


def test_requests_share_each_batch_image_by_image() -> None:
    async def test() -> None:
        bench = Bench(Pool(), Model(at_once=False))
        both = [bench.begin(*range(8)), bench.begin(*range(10, 18))]
        await until(lambda: len(bench.model.batches) == 2 and bench.batcher._ready == 8)
        for number in range(4):
            await until(lambda number=number: len(bench.model.batches) > number)  # type: ignore[misc]
            bench.model.finish(number)
        assert [values(await request) for request in both] == [list(range(8)), list(range(10, 18))]
        assert 0 < sum(value < 10 for value in bench.model.batches[2]) < 4
        await settle(bench)

    run(test)


def test_a_large_request_leaves_slots_for_others() -> None:
    async def test() -> None:
        bench = Bench(Pool(), Model(at_once=False), Limits(batch=2, wait_s=3600.0, queue=1000, slots=12))
        large = bench.begin(*range(64))
        await until(lambda: len(bench.model.batches) == 2 and bench.batcher._held == 6)
        small = bench.begin(99)
        await until(lambda: bench.batcher._held == 7)
        assert bench.pool.most_held <= 12
        large.cancel()
        bench.model.at_once = True
        bench.model.finish(0)
        bench.model.finish(1)
        assert values(await small) == [99]
        await settle(bench)
        assert bench.dropped() == 60

    run(test)


def test_who_leaves_is_not_computed() -> None:
    async def test() -> None:
        bench = Bench(Pool(), Model(at_once=False))
        stays, leaves = bench.begin(1), bench.begin(2, 3)
        await until(lambda: bench.model.batches)
        first = bench.model.batches[0]
        more = bench.begin(7, 8)
        await until(lambda: bench.batcher._ready >= 2)
        leaves.cancel()
        more.cancel()
        await until(lambda: leaves.done() and more.done())
        bench.model.finish(0)
        bench.model.at_once = True
        assert values(await stays) == [1]
        await settle(bench)
        computed = [value for batch in bench.model.batches for value in batch]
        assert 7 not in computed
        assert 8 not in computed
        assert computed == first

    run(test)


def test_who_leaves_while_images_are_being_decoded_gives_their_slots_back() -> None:
    async def test() -> None:
        bench = Bench(Pool(at_once=False), Model())
        request = bench.begin(*range(10))
        await until(lambda: len(bench.pool.asked) == 4)
        request.cancel()
        await until(request.done)
        for number in range(4):
            bench.pool.decode(number)
        await until(lambda: bench.batcher._decoding == 0)
        assert bench.model.batches == []
        assert bench.dropped() == 10
        await settle(bench)

    run(test)


@pytest.mark.parametrize("bad", [200, 201])
def test_an_image_that_the_model_fails_on_costs_its_own_request(bad: int) -> None:
    async def test() -> None:
        bench = Bench(Pool(), Model(at_once=False))
        begun = [bench.begin(0)]
        await until(lambda: bench.model.batches)
        bench.model.at_once = True
        begun += [bench.begin(1), bench.begin(2, bad), bench.begin(3)]
        await until(lambda: len(bench.model.batches) > 1)
        bench.model.finish(0)
        error = (await asyncio.gather(begun[2], return_exceptions=True))[0]
        assert isinstance(error, NotFinite if bad == 200 else JobError)
        assert [values(await begun[number]) for number in (0, 1, 3)] == [[0], [1], [3]]
        assert sorted(bench.model.batches[1]) == [1, 2, 3, bad]
        assert bench.batcher.broken is None
        await settle(bench)

    run(test)


@pytest.mark.parametrize(
    ("error", "broken", "tries"),
    [(ServingUnavailable("gone"), False, 1), (ModelNotServed("old"), True, 3), (RuntimeError("CUDA"), True, 3)],
)
def test_a_model_that_fails_altogether_fails_every_request(error: Exception, broken: bool, tries: int) -> None:
    async def test() -> None:
        bench = Bench(Pool(at_once=False), Model())
        bench.model.error = error
        both = [bench.begin(201), bench.begin(201)]
        await until(lambda: len(bench.pool.asked) == 2)
        bench.pool.decode(0)
        bench.pool.decode(1)
        raised = await asyncio.gather(*both, return_exceptions=True)
        expected = JobError if isinstance(error, RuntimeError) else type(error)
        assert [type(each) for each in raised] == [expected] * 2
        assert (bench.batcher.broken is not None, len(bench.model.batches)) == (broken, tries)
        await settle(bench)

    run(test)


def test_a_damaged_image_is_named_and_the_rest_of_its_request_dropped() -> None:
    async def test() -> None:
        bench = Bench(Pool(at_once=False), Model())
        request = bench.begin(*range(9))
        await until(lambda: len(bench.pool.asked) == 4)
        bench.pool.refuse(1)
        with pytest.raises(ImageTruncated) as caught:
            await request
        assert caught.value.members["input"] == 1
        for number in (0, 2, 3):
            bench.pool.decode(number)
        await until(lambda: bench.batcher._decoding == 0)
        await settle(bench)
        assert bench.model.batches == []
        assert bench.dropped() == 8

    run(test)


def test_decoders_that_fail_fail_the_request_and_no_other() -> None:
    async def test() -> None:
        bench = Bench(Pool(at_once=False), Model())
        first, second = bench.begin(1), bench.begin(2)
        await until(lambda: len(bench.pool.asked) == 2)
        bench.pool.held -= 1
        bench.pool.asked[0][1].set_exception(JobError("The decode processes do not start."))
        bench.pool.decode(1)
        with pytest.raises(JobError, match="do not start"):
            await first
        assert values(await second) == [2]
        await settle(bench)

    run(test)


def test_a_batch_that_cannot_be_copied_fails_its_requests_and_gives_their_slots_back() -> None:
    async def test() -> None:
        bench = Bench(Pool(at_once=False), Model())
        bad, good = bench.begin(1, 2), bench.begin(3)
        await until(lambda: len(bench.pool.asked) == 3)
        outcome = Decoded(0, 1, 1, 1, "", None)
        # Of another shape than the others: `np.stack` fails, as it does without memory.
        bench.pool.asked[0][1].set_result(Item(0, outcome, np.zeros((2, 2, 3), np.uint8), 0))
        bench.pool.decode(1)
        bench.pool.decode(2)
        for request in (bad, good):
            with pytest.raises(JobError, match="shape"):
                await request
        assert values(await _decoded(bench, 4)) == [4]
        await settle(bench)

    run(test)


async def _decoded(bench: Bench, value: int) -> NDArray[np.float32]:
    bench.pool.at_once = True
    return await bench.begin(value)


def test_a_full_queue_says_when_to_come_again() -> None:
    async def test() -> None:
        bench = Bench(Pool(), Model(at_once=False), Limits(batch=1, wait_s=0.0, queue=3, slots=9))
        begun = [bench.begin(value) for value in range(2)]
        await until(lambda: len(bench.model.batches) == 2)
        begun += [bench.begin(value) for value in range(3)]
        await until(lambda: bench.batcher.waiting == 3)
        with pytest.raises(Overloaded) as caught:
            await bench.begin(9)
        assert caught.value.members["retry_after_s"] >= 1
        bench.model.at_once = True
        bench.model.finish(0)
        bench.model.finish(1)
        await asyncio.gather(*begun)
        await bench.begin(*range(20))  # An empty queue takes any request.
        await settle(bench)

    run(test)


def _conforms(pool: Pool, model: Model) -> Sequence[Decoder | Backend]:
    decoder: Decoder = pool
    backend: Backend = model
    return [decoder, backend]
