"""However attempts at one shard sleep or race, exactly one of them counts, whole, and nothing else is left."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import threading
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from shoal.store import Store

SCRIPT = Path(__file__).with_name("store_attempt.py")
MAX_STEPS = 60
"""More than one attempt and its finish take."""


@pytest.fixture(scope="session")
def attempts() -> ModuleType:
    spec = importlib.util.spec_from_file_location("store_attempt", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _check_whole(store: Store, embeddings_id: str, attempts: ModuleType, owners: tuple[str, ...]) -> None:
    """The set verifies, and each shard's vectors, metadata, pictures and errors are those of its commit's owner."""
    report = store.verify(embeddings_id)
    assert report.ok, report.problems
    found = store.embeddings(embeddings_id)
    start = 0
    for shard, commit in found.commits.items():
        first, stop = found.plan.shard_range(shard)
        assert commit.owner in owners
        expected = attempts.vectors(range(first, stop - 1), found.dim, commit.owner)
        np.testing.assert_array_equal(found.shard(shard), expected)
        rows = range(start, start + commit.rows)
        marks = found.metadata(["sha256"]).column("sha256").to_pylist()
        assert {marks[row] for row in rows} == {f"{len(commit.owner):064}"}
        assert set(found.thumbnails(rows).values()) == {commit.owner.encode()}
        assert found.errors().column("message").to_pylist()[list(found.commits).index(shard)] == commit.owner
        start += commit.rows


def _check_tidy(store: Store, embeddings_id: str) -> None:
    folder = store.layout.embeddings(embeddings_id).folder
    assert list((folder / "work").iterdir()) == []
    found = store.embeddings(embeddings_id)
    committed = {record.path for commit in found.commits.values() for record in commit.files}
    kinds = ("img_emb", "metadata", "errors", "thumbs")
    on_disk = {p.relative_to(folder).as_posix() for kind in kinds for p in (folder / kind).iterdir()}
    assert on_disk == committed
    assert len(list((folder / "commits").iterdir())) == len(found.commits)


@pytest.mark.parametrize("finish", [False, True])
def test_an_attempt_that_sleeps_before_any_of_its_steps_does_no_harm(
    tmp_path: Path, attempts: ModuleType, monkeypatch: pytest.MonkeyPatch, finish: bool
) -> None:
    """Fails without: the link, which fails where the name is taken."""
    plan, listing = attempts.small_plan()
    sleeper = threading.local()
    gate: dict[str, threading.Event] = {}

    def act() -> None:
        sleeper.count = getattr(sleeper, "count", None)
        if sleeper.count is None:
            return
        sleeper.count -= 1
        if sleeper.count == 0:
            gate["asleep"].set()
            assert gate["wake"].wait(120)

    attempts.before_each_step(act, monkeypatch.setattr)
    winners = set()
    for step in range(1, MAX_STEPS):
        store = Store(tmp_path / f"{step:02}")
        store.create_embeddings(plan, listing)
        attempts.attempt(store, plan, 1, "b")
        gate.update(asleep=threading.Event(), wake=threading.Event())
        results: list[bool] = []

        def sleepy(step: int = step, store: Store = store, results: list[bool] = results) -> None:
            sleeper.count = step
            results.append(attempts.attempt(store, plan, 0, "a"))
            gate["asleep"].set()

        thread = threading.Thread(target=sleepy)
        thread.start()
        assert gate["asleep"].wait(120)
        slept = not results
        results.append(attempts.attempt(store, plan, 0, "cc"))
        if finish:
            store.finish_embeddings(plan.id)
        _check_whole(store, plan.id, attempts, ("a", "b", "cc"))
        gate["wake"].set()
        thread.join(120)
        assert sorted(results) == [False, True]
        store.finish_embeddings(plan.id)
        _check_whole(store, plan.id, attempts, ("a", "b", "cc"))
        _check_tidy(store, plan.id)
        winners.add(store.embeddings(plan.id).commits[0].owner)
        if not slept:
            break
    else:
        pytest.fail("the last step was not reached: raise MAX_STEPS")
    assert winners == {"a", "cc"}


def test_of_many_threads_one_commits(tmp_path: Path, attempts: ModuleType) -> None:
    """Fails without: the link, which fails where the name is taken."""
    plan, listing = attempts.small_plan()
    store = Store(tmp_path)
    store.create_embeddings(plan, listing)
    start = threading.Barrier(6)
    won: list[str] = []

    def compete(owner: str) -> None:
        for shard in range(plan.shards):
            start.wait(60)
            if attempts.attempt(store, plan, shard, owner):
                won.append(owner)

    threads = [threading.Thread(target=compete, args=("o" * (i + 1),)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == plan.shards
    store.finish_embeddings(plan.id)
    _check_whole(store, plan.id, attempts, tuple(won))
    _check_tidy(store, plan.id)


def test_of_many_processes_one_commits_each_shard(tmp_path: Path, attempts: ModuleType) -> None:
    """Fails without: the link, which fails where the name is taken."""
    plan, listing = attempts.small_plan(60)
    store = Store(tmp_path / "store")
    store.create_embeddings(plan, listing)
    owners = ["p", "pp", "ppp"]
    racers = [
        subprocess.Popen(
            [sys.executable, SCRIPT, "race", store.root, owner, tmp_path / "go"], stdout=subprocess.PIPE, text=True
        )
        for owner in owners
    ]
    (tmp_path / "go").touch()
    won = [int(racer.communicate(timeout=240)[0]) for racer in racers]
    assert [racer.returncode for racer in racers] == [0, 0, 0]
    assert sum(won) == plan.shards
    store.finish_embeddings(plan.id)
    _check_whole(store, plan.id, attempts, tuple(owners))
    _check_tidy(store, plan.id)
