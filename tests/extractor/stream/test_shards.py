"""A worker among others at the same set: which shards it embeds, and what it makes of theirs."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from extractor import pipeline
from extractor.stream.shards import Shards
from shoal.errors import JobError, TooManyFailures
from shoal.jobs import child
from shoal.jobs.child import JobContext
from shoal.jobs.claims import Taken
from shoal.jobs.protocol import ChildJob, Event, Progressed, Wanted, encode_news
from shoal.settings import Settings
from shoal.store import EmbeddingSet, Store

from tests.extractor.conftest import Make, request

Answers = Callable[[Wanted], Taken]


class Line:
    """The line between a child and its worker, whose end the test holds."""

    def __init__(self) -> None:
        self.ends = os.pipe()
        self.events: list[Event] = []
        self.answers: Answers = lambda wanted: Taken(wanted.missing[0])

    def emit(self, event: Event) -> None:
        self.events.append(event)
        if isinstance(event, Wanted):
            self.tell(self.answers(event))

    def tell(self, news: Taken | dict[int, int]) -> None:
        os.write(self.ends[1], encode_news(news))

    def wanted(self) -> list[tuple[int, ...]]:
        return [event.missing for event in self.events if isinstance(event, Wanted)]

    def child(self, *, helper: bool = False, checkpoint: str | None = None, **fields: object) -> JobContext:
        kept = {"embeddings": checkpoint} if checkpoint else None
        job = ChildJob("id", "extract:torch", 1, "here.1", request(**fields), kept, helper)
        return JobContext(job, self.emit, answers=self.ends[0])


@pytest.fixture
def line() -> Iterator[Line]:
    made = Line()
    yield made
    for end in made.ends:
        os.close(end)


@pytest.fixture
def found(settings: Settings, make: Make) -> EmbeddingSet:
    """A complete set of four shards with five images each, by worker `local`."""
    for i in range(20):
        make(f"{i:02d}.png", i)
    result = pipeline.run(JobContext.local(request(), kind="extract:torch"), settings)
    return Store(settings.store).embeddings(result["embeddings"])


@pytest.fixture
def lack(settings: Settings, found: EmbeddingSet, tmp_path: Path) -> Callable[..., EmbeddingSet]:
    """``lack(1, 2)``: the set as it was before these shards were committed; ``lack.back(1)`` commits one."""

    def take_away(*shards: int) -> EmbeddingSet:
        found.layout.manifest.unlink()
        for shard in shards:
            found.layout.commit(shard).rename(tmp_path / f"commit-{shard}")
        return Store(settings.store).embeddings(found.id)

    return take_away


def give_back(found: EmbeddingSet, shard: int, tmp_path: Path) -> None:
    shutil.copyfile(tmp_path / f"commit-{shard}", found.layout.commit(shard))


def test_shards_that_others_commit_meanwhile_are_passed_over_and_counted(
    line: Line, lack: Callable[..., EmbeddingSet], tmp_path: Path
) -> None:
    embeddings = lack(1, 2, 3)
    failed: list[int] = []
    shards = Shards(line.child(), embeddings, 7, failed.append)
    assert shards.take() == 1

    def late(wanted: Wanted) -> Taken:
        line.answers = lambda wanted: Taken(wanted.missing[0])
        give_back(embeddings, 2, tmp_path)
        return Taken(2)

    line.answers = late
    assert shards.take() == 3
    assert line.wanted() == [(1, 2, 3), (2, 3), (3,)]
    assert (shards.done, failed, shards.workers) == (5, [0], 2)
    assert shards.take() is None
    assert {event.most for event in line.events if isinstance(event, Wanted)} == {7}


def test_a_worker_waits_for_the_last_shards_of_others_and_takes_those_of_the_dead(
    line: Line, lack: Callable[..., EmbeddingSet], tmp_path: Path
) -> None:
    embeddings = lack(2, 3)
    shards = Shards(line.child(), embeddings, None, lambda failed: None)
    line.answers = lambda wanted: Taken(held=True)
    reports: list[int] = []

    def report() -> None:
        reports.append(shards.done)
        if len(reports) == 1:
            give_back(embeddings, 2, tmp_path)
        else:
            line.answers = lambda wanted: Taken(wanted.missing[0])

    assert shards.wait(report)
    assert (shards.take(), reports) == (3, [0, 5])
    give_back(embeddings, 3, tmp_path)
    assert not shards.wait(report)


def test_a_worker_goes_on_alone_while_nobody_can_say(line: Line, lack: Callable[..., EmbeddingSet]) -> None:
    shards = Shards(line.child(), lack(1, 3), None, lambda failed: None)
    line.answers = lambda wanted: Taken(alone=True)
    assert [shards.take() for _ in range(3)] == [1, 3, None]


def test_images_under_way_are_those_of_shards_that_others_have_not_committed(
    line: Line, lack: Callable[..., EmbeddingSet], tmp_path: Path
) -> None:
    embeddings = lack(0, 1, 2)
    shards = Shards(line.child(), embeddings, None, lambda failed: None)
    assert shards.take() == 0
    line.tell({0: 1, 1: 3, 2: 4})
    assert shards.under_way() == 7
    give_back(embeddings, 1, tmp_path)
    shards.look(at_once=True)
    assert (shards.done, shards.under_way()) == (5, 4)


def test_a_helper_embeds_its_shards_and_ends_nothing(
    settings: Settings, line: Line, lack: Callable[..., EmbeddingSet], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(child, "PROGRESS_INTERVAL_S", 0.0)
    found = lack(1, 2, 3)
    line.answers = lambda wanted: Taken(2) if 2 in wanted.missing else Taken(held=True)
    ctx = line.child(helper=True, checkpoint=found.id)
    assert pipeline.run(ctx, settings) == {"embeddings": found.id}
    after = Store(settings.store).embeddings(found.id)
    assert (after.missing_shards(), after.complete, after.commits[2].owner) == ([1, 3], False, "here.1")
    detail = [event.progress.detail or {} for event in line.events if isinstance(event, Progressed)]
    assert {"2": 4} in [each.get("open") for each in detail]


def test_a_helper_that_cannot_read_the_images_commits_none(
    settings: Settings, line: Line, lack: Callable[..., EmbeddingSet], folder: Path
) -> None:
    found = lack(1, 2, 3)
    folder.rename(folder.with_name("elsewhere"))
    folder.mkdir()
    # Of all images, the five of a shard would be few enough.
    ctx = line.child(helper=True, checkpoint=found.id, max_failed_fraction=0.5)
    with pytest.raises(TooManyFailures):
        pipeline.run(ctx, settings)
    assert Store(settings.store).embeddings(found.id).missing_shards() == [1, 2, 3]


def test_nobody_helps_before_there_is_a_plan(settings: Settings, line: Line, make: Make) -> None:
    make("0.png")
    with pytest.raises(JobError, match="no plan"):
        pipeline.run(line.child(helper=True), settings)
    assert Store(settings.store).embeddings_ids() == []


def test_failures_in_shards_of_others_count(
    settings: Settings, line: Line, found: EmbeddingSet, make: Make, tmp_path: Path, folder: Path
) -> None:
    other = folder / "00.png"
    other.write_bytes(b"no image")
    result = pipeline.run(JobContext.local(request(), kind="extract:torch"), settings)
    store = Store(settings.store)
    bad = store.embeddings(result["embeddings"])
    assert bad.commits[0].failed == 1
    bad.layout.manifest.unlink()
    bad.layout.commit(0).rename(tmp_path / "commit-0")
    bad.layout.commit(1).rename(tmp_path / "commit-1")

    def answer(wanted: Wanted) -> Taken:
        give_back(bad, 0, tmp_path)
        return Taken(1)

    line.answers = answer
    with pytest.raises(TooManyFailures):
        pipeline.run(line.child(checkpoint=bad.id, max_failed_fraction=0.01), settings)
