"""Which models stay loaded: one load for all who wait, the least recently used out, none while it is in use."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
from extractor.backends.pixels import PixelsBackend
from extractor.images.child import DecoderConfig
from extractor.images.pool import DecodePool
from extractor.models.spec import ModelSpec
from extractor.online import loading, models
from extractor.online.entries import WarmModel
from extractor.online.loading import Identified, Loaded
from extractor.online.metrics import HostMetrics
from extractor.online.models import WarmModels
from shoal.errors import InvalidRequest, MemoryLimitTooSmall, ModelLoading, UnknownModel, WeightsInvalid
from shoal.settings import Settings
from shoal.store import ModelRecord

MIB = 2**20
NAMES = ("a", "b", "c", "d")


class Recorded(Loaded):
    """A model that says when it is closed."""

    def close(self) -> None:
        Loads.closed.append(self.backend.record.name)
        super().close()


class Loads:
    """What is loaded, in place of `extractor.online.loading.load`."""

    closed: list[str]

    def __init__(self) -> None:
        Loads.closed = []
        self.begun: list[str] = []
        self.sizes: dict[str, int] = {}
        self.least: dict[str, int] = {}
        self.stamps: dict[str, str] = {}
        self.errors: dict[str, Exception] = {}
        self.go = threading.Event()
        self.go.set()
        self.at_once = 0
        self.most_at_once = 0

    def least_bytes(self, spec: ModelSpec, settings: Settings) -> int:
        return self.least.get(spec.name, 100 * MIB)

    def load(self, known: Identified, settings: Settings) -> Loaded:
        spec = known.spec
        self.begun.append(spec.name)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        self.go.wait(60)
        self.at_once -= 1
        if spec.name in self.errors:
            raise self.errors[spec.name]
        record = ModelRecord(name=spec.name, backend="torch", architecture="pixels", embedding="pooled")
        config = DecoderConfig(Path("/"), Path("/"), spec.transform, 1, thumbnails=False)
        pool = DecodePool(config, workers=1, slots=4)
        size = self.sizes.get(spec.name, 100 * MIB)
        return Recorded(PixelsBackend(spec, record), pool, self.stamps.get(spec.name), size, 4)


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> Loads:
    fake = Loads()
    monkeypatch.setattr(models, "load", fake.load)
    monkeypatch.setattr(models, "LOOK_S", 0.0)
    monkeypatch.setattr(models, "least_bytes", fake.least_bytes)
    monkeypatch.setattr(models, "stamp_of", lambda spec, root: fake.stamps.get(spec.name))
    return fake


@pytest.fixture
def limited(settings: Settings, loads: Loads) -> Settings:
    """Room for two models of 100 MiB."""
    rows = [f'[models.{name}]\narchitecture = "pixels"\nweights = "none"\ndim = 1\n' for name in NAMES]
    (settings.models / "catalogue.toml").write_text("\n".join(rows))
    return settings.model_copy(update={"online_memory": 250 * MIB})


def run(settings: Settings, test: Callable[[WarmModels], Awaitable[None]]) -> None:
    async def within() -> None:
        async with asyncio.timeout(60):
            warm = WarmModels("torch", settings, HostMetrics())
            try:
                await test(warm)
            finally:
                await warm.close()

    asyncio.run(within())


@asynccontextmanager
async def using(warm: WarmModels, name: str) -> AsyncIterator[WarmModel]:
    async with warm.use(name, asyncio.get_running_loop().time() + 60) as model:
        yield model


async def touch(warm: WarmModels, *names: str) -> None:
    for name in names:
        async with using(warm, name):
            pass


async def until(condition: Callable[[], object]) -> None:
    while not condition():
        await asyncio.sleep(0.001)


def names(warm: WarmModels) -> set[str]:
    return {str(row["name"]) for row in warm.describe()}


def test_the_least_recently_used_model_makes_room(limited: Settings, loads: Loads) -> None:
    async def test(warm: WarmModels) -> None:
        await touch(warm, "a", "b", "a", "c")
        assert names(warm) == {"a", "c"}
        assert loads.closed == ["b"]
        await touch(warm, "b")
        assert names(warm) == {"c", "b"}
        assert loads.begun == ["a", "b", "c", "b"]

    run(limited, test)


def test_an_idle_model_goes_before_one_in_use(limited: Settings, loads: Loads) -> None:
    async def test(warm: WarmModels) -> None:
        async with using(warm, "a"):
            await touch(warm, "b", "c")
            assert names(warm) == {"a", "c"}
        assert loads.closed == ["b"]

    run(limited, test)


def test_a_model_in_use_goes_when_its_requests_have_ended(limited: Settings, loads: Loads) -> None:
    async def test(warm: WarmModels) -> None:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(using(warm, "a"))
            async with using(warm, "b"):
                third = asyncio.ensure_future(touch(warm, "c"))
                await until(lambda: any(row["state"] == "leaving" for row in warm.describe()))
                assert loads.closed == []
                await stack.aclose()
                await third
            assert loads.closed == ["a"]
        assert names(warm) == {"b", "c"}

    run(limited, test)


def test_a_request_that_does_not_end_delays_no_load_that_fits(limited: Settings, loads: Loads) -> None:
    async def test(warm: WarmModels) -> None:
        loads.sizes["a"] = 150 * MIB
        loads.sizes["b"] = loads.least["b"] = 200 * MIB
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(using(warm, "a"))
            waiting = asyncio.ensure_future(touch(warm, "b"))
            await until(lambda: any(row["state"] == "leaving" for row in warm.describe()))
            await touch(warm, "c")
            assert (loads.begun, loads.closed, waiting.done()) == (["a", "c"], [], False)
            await stack.aclose()
            await waiting
        assert loads.closed == ["a", "c"]
        assert names(warm) == {"b"}

    run(limited, test)


def test_idle_models_go_before_a_load_waits_for_one_that_leaves(limited: Settings, loads: Loads) -> None:
    async def test(warm: WarmModels) -> None:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(using(warm, "a"))
            async with using(warm, "b"):
                loads.least["c"] = 10 * MIB
                # Both were in use, so that one of them is leaving now.
                await touch(warm, "c")
            assert {row["state"] for row in warm.describe() if row["name"] == "a"} == {"leaving"}
            await touch(warm, "d")
            assert loads.begun == ["a", "b", "c", "d"]
            assert "a" not in loads.closed

    run(limited, test)


def test_a_model_that_takes_more_than_it_seemed_makes_room_afterwards(limited: Settings, loads: Loads) -> None:
    async def test(warm: WarmModels) -> None:
        loads.sizes["c"] = 200 * MIB
        await touch(warm, "a", "b", "c")
        assert names(warm) == {"c"}
        assert loads.closed == ["a", "b"]

    run(limited, test)


def test_a_model_larger_than_the_limit_is_refused_with_one_that_would_do(limited: Settings, loads: Loads) -> None:
    async def test(warm: WarmModels) -> None:
        loads.sizes["a"] = 400 * MIB
        await touch(warm, "b")
        for _ in range(2):
            with pytest.raises(MemoryLimitTooSmall, match="500MiB") as caught:
                await touch(warm, "a")
        assert caught.value.members["needed_bytes"] == 500 * MIB
        assert loads.begun == ["b", "a"]
        assert loads.closed == ["a"]
        assert names(warm) == {"b"}

    run(limited, test)


def test_a_load_that_nobody_waits_for_at_its_turn_is_left_out(limited: Settings, loads: Loads) -> None:
    async def test(warm: WarmModels) -> None:
        loads.go.clear()
        first = asyncio.ensure_future(touch(warm, "a"))
        await until(lambda: loads.begun == ["a"])
        with pytest.raises(ModelLoading):
            async with warm.use("b", asyncio.get_running_loop().time() + 0.01):
                pass
        loads.go.set()
        await first
        await until(lambda: names(warm) == {"a"})
        assert loads.begun == ["a"]
        await touch(warm, "b")
        assert loads.begun == ["a", "b"]

    run(limited, test)


def test_a_load_that_fails_fails_all_who_wait_and_is_tried_again_later(limited: Settings, loads: Loads) -> None:
    async def test(warm: WarmModels) -> None:
        loads.errors["a"] = WeightsInvalid("torn")
        loads.go.clear()
        waiting = [asyncio.ensure_future(touch(warm, "a")) for _ in range(5)]
        await until(lambda: loads.begun)
        loads.go.set()
        raised = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(error) for error in raised] == [WeightsInvalid] * 5
        with pytest.raises(WeightsInvalid):
            await touch(warm, "a")
        assert loads.begun == ["a"]
        for entry in warm._entries.values():
            entry.failed_until = 0.0
        del loads.errors["a"]
        await touch(warm, "a")
        assert loads.begun == ["a", "a"]

    run(limited, test)


def test_models_load_one_after_another(limited: Settings, loads: Loads) -> None:
    async def test(warm: WarmModels) -> None:
        loads.go.clear()
        both = [asyncio.ensure_future(touch(warm, name)) for name in ("a", "b")]
        await until(lambda: len(warm.describe()) == 2 and loads.begun)
        loads.go.set()
        await asyncio.gather(*both)
        assert sorted(loads.begun) == ["a", "b"]
        assert loads.most_at_once == 1

    run(limited, test)


def test_a_load_goes_on_when_nobody_waits_any_more(limited: Settings, loads: Loads) -> None:
    async def test(warm: WarmModels) -> None:
        loads.go.clear()
        first = asyncio.ensure_future(touch(warm, "a"))
        await until(lambda: loads.begun)
        first.cancel()
        await until(first.done)
        with pytest.raises(ModelLoading):
            async with warm.use("a", asyncio.get_running_loop().time()):
                pass
        loads.go.set()
        await touch(warm, "a")
        assert loads.begun == ["a"]

    run(limited, test)


def test_weights_that_were_replaced_are_loaded_and_the_old_ones_let_go_at_their_last_request(
    limited: Settings, loads: Loads
) -> None:
    async def test(warm: WarmModels) -> None:
        loads.stamps["a"] = "1"
        async with using(warm, "a") as old:
            loads.stamps["a"] = "2"
            async with using(warm, "a") as new:
                assert (old.loaded.stamp, new.loaded.stamp) == ("1", "2")
            assert loads.closed == []
        await until(lambda: loads.closed == ["a"])
        await touch(warm, "a")
        assert loads.begun == ["a", "a"]

    run(limited, test)


def test_a_model_that_broke_is_loaded_anew(limited: Settings, loads: Loads) -> None:
    async def test(warm: WarmModels) -> None:
        async with using(warm, "a") as model:
            model.batcher.broken = RuntimeError("CUDA")
        await touch(warm, "a")
        assert loads.begun == ["a", "a"]
        await until(lambda: loads.closed == ["a"])

    run(limited, test)


def test_models_that_cannot_be_are_refused_and_leave_nothing(limited: Settings, loads: Loads) -> None:
    async def test(warm: WarmModels) -> None:
        with pytest.raises(UnknownModel):
            await touch(warm, "nothing")
        with pytest.raises(InvalidRequest, match="runs with tfserving; this host runs torch"):
            await touch(warm, "resnet50_simclr")
        assert warm.describe() == []

    run(limited, test)


def test_a_download_keeps_no_request_for_a_loaded_model_waiting(
    limited: Settings, loads: Loads, monkeypatch: pytest.MonkeyPatch
) -> None:
    downloaded, begun = threading.Event(), threading.Event()

    def identify(spec: ModelSpec, settings: Settings) -> Identified:
        if spec.name == "b":
            begun.set()
            downloaded.wait(60)
        return loading.identify(spec, settings)

    monkeypatch.setattr(models, "THREADS", 1)
    monkeypatch.setattr(models, "identify", identify)

    async def test(warm: WarmModels) -> None:
        await touch(warm, "a")
        slow = asyncio.create_task(touch(warm, "b"))
        await until(begun.is_set)
        try:
            async with asyncio.timeout(20):
                await touch(warm, "a")
        finally:
            downloaded.set()
        await slow

    run(limited, test)
