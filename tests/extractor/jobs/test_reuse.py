"""Rows of earlier embeddings are taken over exactly where content, model, transform and precision are the same."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from extractor import pipeline
from extractor.backends import loading
from extractor.backends.base import Backend
from extractor.jobs.reuse import differences
from PIL import Image
from shoal.errors import EmbeddingsNotFound, InvalidRequest
from shoal.jobs.child import Cancelled, JobContext
from shoal.settings import Settings
from shoal.store import EmbeddingSet, Store

Make = Callable[..., Path]
NewJob = Callable[..., JobContext]
NETWORK = {"architecture": "resnet18", "weights": "random", "transform": {"size": 32}}
COUNT = 23


class Computed:
    """The batches that a network was given.

    Attributes
    ----------
    sizes
        Images of each.
    most
        One more raises an error.
    """

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.most: int | None = None

    def watch(self, backend: Backend) -> Backend:
        submit = backend.submit

        def counted(pixels: np.ndarray) -> Future[np.ndarray]:
            if len(self.sizes) == self.most:
                raise RuntimeError("enough")
            self.sizes.append(len(pixels))
            return submit(pixels)

        backend.submit = counted  # type: ignore[method-assign]
        return backend


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> Computed:
    found = Computed()
    open_backend = loading.open_backend
    monkeypatch.setattr(loading, "open_backend", lambda *given: found.watch(open_backend(*given)))
    return found


@pytest.fixture
def embed(settings: Settings, job: NewJob, computed: Computed) -> Callable[..., tuple[EmbeddingSet, int, int]]:
    """``embed(**fields)``: the finished set, every checksum verified; how many rows it reused; how many it computed."""

    def run(**fields: Any) -> tuple[EmbeddingSet, int, int]:
        computed.sizes.clear()
        result = pipeline.run(job(**fields), settings)
        store = Store(settings.store)
        assert store.verify(result["embeddings"]).ok
        return store.embeddings(result["embeddings"]), result["reused_rows"], sum(computed.sizes)

    return run


Embed = Callable[..., tuple[EmbeddingSet, int, int]]


@pytest.fixture
def filled(make: Make) -> None:
    for i in range(COUNT):
        make(f"{'ab'[i % 2]}/{i:02d}.png", i)


def by_content(embeddings: EmbeddingSet) -> dict[str, tuple[bytes, bytes]]:
    """Vector and thumbnail of each content."""
    rows = np.arange(embeddings.rows)
    thumbnails = embeddings.thumbnails(rows)
    digests = embeddings.metadata(["sha256"])["sha256"].to_pylist()
    vectors = np.concatenate([embeddings.shard(shard) for shard in range(embeddings.plan.shards)])
    return {
        digest: (vector.tobytes(), thumbnails.get(row, b""))
        for row, (digest, vector) in enumerate(zip(digests, vectors, strict=True))
    }


@pytest.mark.usefixtures("filled")
def test_a_folder_that_has_grown_costs_what_is_new(embed: Embed, make: Make) -> None:
    before, _, _ = embed(model=NETWORK)
    for i in range(7):
        make(f"{'abc'[i % 3]}/{i:02d}-new.png", 100 + i)
    after, reused, computed = embed(model=NETWORK)
    assert (after.rows, reused, computed) == (COUNT + 7, COUNT, 7)
    old, new = by_content(before), by_content(after)
    assert {digest: new[digest] for digest in old} == old
    whole, reused, computed = embed(model=NETWORK, reuse=None, name="whole")
    assert (reused, computed) == (0, COUNT + 7)
    assert by_content(whole) == new
    assert whole.metadata().equals(after.metadata())


@pytest.mark.usefixtures("filled")
def test_images_that_moved_keep_their_rows_and_get_new_labels(embed: Embed, settings: Settings, folder: Path) -> None:
    before, _, _ = embed()
    folder.rename(settings.data / "moved")
    (settings.data / "moved" / "a").rename(settings.data / "moved" / "z")
    after, reused, computed = embed(images={"path": "moved", "split": "val"})
    assert (reused, computed) == (COUNT, 0)
    assert by_content(after) == by_content(before)
    assert set(after.labels() or ()) == {"b", "z"}
    assert set(after.metadata(["split"])["split"].to_pylist()) == {"val"}


@pytest.mark.usefixtures("filled")
def test_a_file_that_has_changed_is_embedded(embed: Embed, make: Make) -> None:
    before, _, _ = embed()
    make("a/04.png", 99)
    after, reused, computed = embed()
    assert (reused, computed) == (COUNT - 1, 1)
    assert len(set(by_content(after)) - set(by_content(before))) == 1


@pytest.mark.usefixtures("filled")
@pytest.mark.parametrize(
    "fields",
    [
        {"model": {**NETWORK, "seed": 1}},
        {"model": {**NETWORK, "embedding": "layer2"}},
        {"model": {**NETWORK, "transform": {"size": 32, "interpolation": "nearest"}}},
    ],
)
def test_rows_of_another_model_or_transform_are_not_reused(embed: Embed, fields: dict[str, Any]) -> None:
    embed(model=NETWORK)
    assert embed(**fields)[1:] == (0, COUNT)


@pytest.mark.usefixtures("filled")
def test_rows_are_reused_at_the_same_or_a_lower_precision(embed: Embed) -> None:
    rough, _, _ = embed(dtype="float16")
    exact, *counts = embed()
    assert counts == [0, COUNT]
    again, *counts = embed(dtype="float16", name="again", reuse=exact.id)
    assert counts == [COUNT, 0]
    third, *counts = embed(dtype="float16", name="third", reuse=rough.id)
    assert counts == [COUNT, 0]
    assert by_content(rough) == by_content(again) == by_content(third)


def test_rows_of_other_numerics_are_not_reused(embed: Embed, make: Make) -> None:
    make("0.png")
    plan = embed()[0].plan
    assert differences(plan, plan) == []
    other = plan.model_copy(update={"engine": "bf16"})
    assert differences(plan, other) == differences(other, plan) == ["engine"]
    assert differences(other, other) == []
    quantised = plan.model_copy(update={"engine": "openvino-int8"})
    assert differences(quantised, quantised) == ["engine"]


@pytest.mark.usefixtures("filled")
def test_rows_without_thumbnails_serve_only_a_set_without(embed: Embed) -> None:
    embed(thumbnails=False)
    assert embed(name="shown")[1:] == (0, COUNT)
    assert embed(name="hidden", thumbnails=False)[1:] == (COUNT, 0)


@pytest.mark.usefixtures("filled")
def test_an_unfinished_set_gives_what_it_has(embed: Embed, computed: Computed) -> None:
    computed.most = 3
    with pytest.raises(RuntimeError, match="enough"):
        embed(name="begun")
    computed.most = None
    # Three batches of 4 fill two shards of 5.
    assert embed(shard_rows=9)[1:] == (10, COUNT - 10)


@pytest.mark.usefixtures("filled")
@pytest.mark.parametrize(
    ("kind", "lost"),
    [
        *(("img_emb", True), ("img_emb", False), ("metadata", False), ("thumbs", False)),
        *(("commits", False), ("plan.json", True), ("manifest.json", True)),
    ],
)
def test_a_damaged_set_is_not_used(embed: Embed, kind: str, lost: bool) -> None:
    damaged, _, _ = embed()
    expected = by_content(damaged)
    path = damaged.layout.folder / kind
    for file in sorted(path.iterdir()) if path.is_dir() else [path]:
        if lost:
            file.unlink()
        else:
            file.write_bytes(bytes(file.stat().st_size))
    after, reused, computed = embed(name="after")
    if kind == "manifest.json" and lost:  # An unfinished set.
        assert (reused, computed) == (COUNT, 0)
    else:
        assert reused + computed == COUNT
        assert reused == 0
    assert by_content(after) == expected
    again, *counts = embed(name="again")
    assert counts == [COUNT, 0]
    assert by_content(again) == expected


@pytest.mark.usefixtures("filled")
def test_of_a_set_with_one_damaged_shard_the_rows_before_it_are_used(embed: Embed) -> None:
    damaged, _, _ = embed()
    expected = by_content(damaged)
    path = damaged.layout.folder / damaged.layout.data_name("img_emb", 3)
    path.write_bytes(bytes(path.stat().st_size))
    after, reused, computed = embed(name="after", batch_size=1)
    assert reused + computed == COUNT
    assert by_content(after) == expected


@pytest.mark.usefixtures("filled")
def test_one_set_can_be_named(embed: Embed, settings: Settings) -> None:
    first, _, _ = embed(model=NETWORK)
    assert embed(model=NETWORK, name="second", reuse=first.id)[1:] == (COUNT, 0)
    with pytest.raises(InvalidRequest, match=r"differ in transform. Send `reuse`: null"):
        embed(model={**NETWORK, "transform": {"size": 40}}, reuse=first.id)
    with pytest.raises(EmbeddingsNotFound):
        embed(model=NETWORK, name="third", reuse="none-0123456789ab")


def test_content_that_its_name_explains_is_decoded(embed: Embed, folder: Path) -> None:
    # TGA has no signature: the same bytes under another name are no image.
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(folder / "a.tga")
    embed()
    (folder / "b.jpg").write_bytes((folder / "a.tga").read_bytes())
    after, reused, computed = embed(max_failed_fraction=1)
    assert (after.rows, after.failed, reused, computed) == (1, 1, 0, 1)


@pytest.mark.usefixtures("filled")
def test_damaged_and_new_images_between_stored_ones_cost_only_themselves(
    embed: Embed, folder: Path, make: Make
) -> None:
    before, _, _ = embed()
    for i in range(0, 2 * COUNT, 3):
        if i % 2:
            make(f"a/{i:02d}-new.png", 200 + i)
        else:
            (folder / "b" / f"{i:02d}.png").write_bytes(b"broken")
    after, reused, computed = embed(max_failed_fraction=1, shard_rows=7)
    found = by_content(after)
    assert (reused, computed) == (len(found.keys() & by_content(before).keys()), len(found) - reused)
    assert {digest: found[digest] for digest in by_content(before) if digest in found}.items() <= by_content(
        before
    ).items()


def test_a_counter_names_reused_rows(settings: Settings, job: NewJob, make: Make) -> None:
    for i in range(6):
        make(f"{i}.png", i)
    pipeline.run(job(), settings)
    make("6.png", 6)
    context = job()
    counted: dict[str, int] = {}

    def count(**outcomes: int) -> None:
        for outcome, number in outcomes.items():
            counted[outcome] = counted.get(outcome, 0) + number

    context.count = count  # type: ignore[method-assign]
    pipeline.run(context, settings)
    assert counted == {"embedded": 1, "reused": 6, "failed": 0}


def test_reused_rows_of_all_attempts_and_of_saved_parts_count(settings: Settings, job: NewJob, make: Make) -> None:
    for i in range(14):
        make(f"{i:02d}.png", i)
    pipeline.run(job(), settings)
    make("99.png", 99)
    stopped = job(shard_rows=6, batch_size=1)
    counted = 0

    def stop_in_the_second_shard(**outcomes: int) -> None:
        nonlocal counted
        counted += sum(outcomes.values())
        if counted >= 8:
            stopped.stop()

    stopped.count = stop_in_the_second_shard  # type: ignore[method-assign]
    with pytest.raises(Cancelled):
        pipeline.run(stopped, settings)
    result = pipeline.run(job(shard_rows=6, checkpoint=stopped.checkpoint), settings)
    assert 6 < result["resumed_rows"] < 12
    assert (result["rows"], result["reused_rows"]) == (15, 14)
    assert pipeline.run(job(shard_rows=6), settings)["reused_rows"] == 14
