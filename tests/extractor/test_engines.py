"""Extractions by another engine than eager: what plan and result say, and what continues which."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from extractor import pipeline
from extractor.backends.engines import numerics
from extractor.backends.engines.bf16 import AmpBackend
from extractor.backends.engines.parts import PartsBackend
from extractor.jobs import engine, engine_timing
from extractor.jobs.engine_timing import Timings
from shoal.errors import EngineUnavailable, InvalidRequest
from shoal.jobs.child import JobContext
from shoal.settings import Settings
from shoal.store import EmbeddingSet, Store

Make = Callable[..., Path]
NewJob = Callable[..., JobContext]
MODEL = {"architecture": "test_resnet", "weights": "random", "seed": 0, "transform": {"size": 64}}


def needs_openvino() -> None:
    # Not by importing it, which would also import what reports its use.
    if find_spec("openvino") is None:
        pytest.skip("openvino is not installed")


@pytest.fixture
def images(make: Make) -> None:
    for index in range(12):
        make(f"{'ab'[index % 2]}/{index}.png", seed=index)


def rows(settings: Settings, result: dict[str, Any]) -> np.ndarray:
    assert Store(settings.store).verify(result["embeddings"]).ok
    return np.concatenate([block for _, block in stored(settings, result).iter_batches()])


def stored(settings: Settings, result: dict[str, Any]) -> EmbeddingSet:
    return Store(settings.store).embeddings(result["embeddings"])


@pytest.mark.usefixtures("images")
def test_another_engine_makes_another_set_with_the_same_rows(settings: Settings, job: NewJob) -> None:
    eager = pipeline.run(job(model=MODEL, engine="eager"), settings)
    bf16 = pipeline.run(job(model=MODEL, engine="bf16"), settings)
    assert eager["embeddings"] != bf16["embeddings"]
    assert (stored(settings, eager).plan.engine, stored(settings, bf16).plan.engine) == (None, "bf16")
    a, b = rows(settings, eager), rows(settings, bf16)
    assert a.shape == b.shape == (12, eager["dim"])
    assert ((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)).min() > 0.999


@pytest.mark.usefixtures("images")
def test_the_result_and_the_set_say_which_engine_ran(settings: Settings, job: NewJob) -> None:
    result = pipeline.run(job(model=MODEL, engine="bf16"), settings)
    assert result["engine"] == {
        "name": "bf16",
        "numerics": "bf16",
        "timed": {},
        "proof": None,
        "reason": "The request names the engine.",
    }
    assert stored(settings, result).summary()["engine"] == result["engine"]
    eager = pipeline.run(job(model=MODEL, engine="eager"), settings)
    assert (eager["engine"]["name"], eager["engine"]["numerics"]) == ("eager", "float32")
    assert pipeline.run(job(), settings)["engine"] is None


@pytest.mark.usefixtures("images")
def test_a_job_continues_in_the_numerics_of_its_plan(
    settings: Settings, job: NewJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs_openvino()
    monkeypatch.setattr(numerics, "openvino_types", lambda: frozenset({"FP32"}))
    first = pipeline.run(job(model=MODEL, engine="openvino"), settings)
    assert stored(settings, first).plan.engine == "openvino-f32"
    before = rows(settings, first)
    commit = sorted((settings.store / "embeddings" / first["embeddings"] / "commits").iterdir())[0]
    (commit.parent.parent / "manifest.json").unlink()
    commit.unlink()
    # Another machine, whose processor also has bfloat16.
    monkeypatch.setattr(numerics, "openvino_types", lambda: frozenset({"FP32", "BF16"}))
    checkpoint = {"embeddings": first["embeddings"]}
    resumed = pipeline.run(job(model=MODEL, engine="openvino", checkpoint=checkpoint), settings)
    assert resumed["embeddings"] == first["embeddings"]
    np.testing.assert_array_equal(rows(settings, resumed), before)
    # So does the same request without a checkpoint.
    again = pipeline.run(job(model=MODEL, engine="openvino"), settings)
    assert again["embeddings"] == first["embeddings"]


@pytest.mark.usefixtures("images")
def test_a_plan_whose_engine_is_not_installed_is_not_continued_with_another(
    settings: Settings, job: NewJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs_openvino()
    first = pipeline.run(job(model=MODEL, engine="openvino"), settings)
    monkeypatch.setattr(numerics, "find_spec", lambda name: None)
    with pytest.raises(EngineUnavailable, match=r"openvino is not installed .*shoal\[openvino\]"):
        pipeline.run(job(model=MODEL, engine="openvino", checkpoint={"embeddings": first["embeddings"]}), settings)
    with pytest.raises(EngineUnavailable, match=r"`openvino` does not run here"):
        pipeline.run(job(model=MODEL, engine="openvino"), settings)


@pytest.mark.usefixtures("images")
def test_pixels_have_no_engine(settings: Settings, job: NewJob) -> None:
    with pytest.raises(InvalidRequest, match="`engine` is 'bf16', which runs networks of PyTorch only"):
        pipeline.run(job(engine="bf16"), settings)


@pytest.fixture
def rates(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """What each class seems to take; jobs of 12 images are timed."""
    seem = {"float32": 10.0, "bf16": 20.0, "openvino-f32": 15.0, "openvino-bf16": 18.0}
    monkeypatch.setattr(engine, "FEWEST_TIMED", 12)
    monkeypatch.setattr(numerics, "fast_bf16", lambda settings: True)
    run = engine_timing._run
    monkeypatch.setattr(engine_timing, "_TIMED_S", 0.0)

    def measured(backend: Any, images: np.ndarray) -> tuple[np.ndarray, float]:
        found, _ = run(backend, images)
        name = "float32" if not isinstance(backend, PartsBackend) else backend.numerics
        return found, seem[name]

    monkeypatch.setattr(engine_timing, "_run", measured)
    return seem


@pytest.mark.usefixtures("images")
def test_auto_takes_the_fastest_engine_that_gives_eagers_rows(
    settings: Settings, job: NewJob, rates: dict[str, float]
) -> None:
    result = pipeline.run(job(model=MODEL), settings)
    assert result["engine"]["name"] == result["engine"]["numerics"] == "bf16"
    assert result["engine"]["timed"].items() <= rates.items()
    assert len(result["engine"]["timed"]) >= 2
    assert result["engine"]["proof"]["min_cosine"] >= 0.999
    assert stored(settings, result).summary()["engine"] == result["engine"]
    # The same job later finds its set, whatever is fastest then; another job finds what was timed.
    rates.clear()
    again = pipeline.run(job(model=MODEL), settings)
    assert (again["embeddings"], again["engine"]) == (result["embeddings"], result["engine"])
    other = pipeline.run(job(model=MODEL, name="other"), settings)
    assert other["engine"] == result["engine"]


@pytest.mark.usefixtures("images")
def test_auto_takes_no_engine_with_other_rows(
    settings: Settings, job: NewJob, rates: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    rates.update({"openvino-f32": 1.0, "openvino-bf16": 1.0})
    embed = AmpBackend.submit

    def wrong(self: AmpBackend, pixels: np.ndarray) -> Future[np.ndarray]:
        rows = embed(self, pixels).result().copy()
        rows[-1] = np.abs(rows[-1]) + np.arange(rows.shape[1])
        future: Future[np.ndarray] = Future()
        future.set_result(rows)
        return future

    monkeypatch.setattr(AmpBackend, "submit", wrong)
    result = pipeline.run(job(model=MODEL), settings)
    assert (result["engine"]["name"], result["engine"]["numerics"]) == ("eager", "float32")
    assert stored(settings, result).plan.engine is None


@pytest.mark.usefixtures("images", "rates")
def test_auto_continues_what_eager_began(settings: Settings, job: NewJob) -> None:
    eager = pipeline.run(job(model=MODEL, engine="eager"), settings)
    assert pipeline.run(job(model=MODEL), settings)["embeddings"] == eager["embeddings"]


@pytest.mark.usefixtures("images")
def test_auto_times_nothing_for_a_small_job(settings: Settings, job: NewJob) -> None:
    result = pipeline.run(job(model=MODEL), settings)
    assert result["engine"]["name"] == "eager"
    assert result["engine"]["timed"] == {}


def test_an_engine_must_be_faster_than_eager_by_more_than_noise() -> None:
    assert Timings({"float32": 10, "bf16": 10.3}, {"float32": 1, "bf16": 1}).fastest() is None
    assert Timings({"float32": 10, "bf16": 11, "x": 99}, {"float32": 1, "bf16": 1, "x": 0.99}).fastest() == "bf16"


@pytest.mark.usefixtures("images")
def test_eight_bits_are_taken_when_asked_for(settings: Settings, job: NewJob) -> None:
    needs_openvino()
    if find_spec("nncf") is None:
        pytest.skip("nncf is not installed")
    eager = pipeline.run(job(model=MODEL, engine="eager"), settings)
    int8 = pipeline.run(job(model=MODEL, engine="openvino-int8"), settings)
    assert stored(settings, int8).plan.engine == "openvino-int8"
    a, b = rows(settings, eager), rows(settings, int8)
    assert ((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)).min() > 0.95
    assert not np.array_equal(a, b)
