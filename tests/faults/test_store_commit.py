"""However attempts at one shard die, sleep or race, exactly one of them counts, whole, and nothing else is left."""

from __future__ import annotations

import importlib.util
import os
import shutil
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


def test_an_attempt_killed_before_any_of_its_steps_is_made_good_by_the_next(
    tmp_path: Path, attempts: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, listing = attempts.small_plan()
    base = Store(tmp_path / "base")
    base.create_embeddings(plan, listing)
    attempts.attempt(base, plan, 1, "b")
    roots = [tmp_path / f"{n:02}" for n in range(MAX_STEPS)]
    for root in roots:
        shutil.copytree(base.root, root)
    run = subprocess.run(
        [sys.executable, SCRIPT, "kill", *map(str, roots)], stdout=subprocess.PIPE, text=True, check=True, timeout=240
    )
    signals = [int(line) for line in run.stdout.split()]
    assert signals[-1] == 0, "the last step was not reached: raise MAX_STEPS"
    assert set(signals[:-1]) == {9}
    committed_by_the_dead = 0
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    for root, code in zip(roots, signals, strict=False):
        store = Store(root)
        _check_whole(store, plan.id, attempts, ("a", "b"))
        committed_by_the_dead += 0 in store.embeddings(plan.id).commits and code == 9
        for shard in store.embeddings(plan.id).missing_shards():
            attempts.attempt(store, plan, shard, "cc")
        manifest = store.finish_embeddings(plan.id)
        assert (manifest.rows, manifest.failed) == (10, 2)
        _check_whole(store, plan.id, attempts, ("a", "b", "cc"))
        _check_tidy(store, plan.id)
    assert 0 < committed_by_the_dead < signals.count(9), "deaths before and after the commit were both met"


def test_an_attempt_killed_while_it_saves_parts_is_taken_up_from_the_last_whole_one(
    tmp_path: Path, attempts: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, listing = attempts.small_plan()
    base = Store(tmp_path / "base")
    base.create_embeddings(plan, listing)
    attempts.attempt(base, plan, 1, "b")
    roots = [tmp_path / f"{n:02}" for n in range(2 * MAX_STEPS)]
    for root in roots:
        shutil.copytree(base.root, root)
    command = [sys.executable, str(SCRIPT), "kill-saving", *map(str, roots)]
    run = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=240)
    signals = [int(line) for line in run.stdout.split()]
    assert signals[-1] == 0, "the last step was not reached: raise MAX_STEPS"
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    saved = []
    for root, _ in zip(roots, signals, strict=False):
        store = Store(root)
        if store.embeddings(plan.id).missing_shards():
            saved.append(store.saved_images(plan.id) - 6)
            with store.shard_writer(plan.id, 0, attempt=2, owner="a") as writer:
                writer.resume()
                assert writer.done == saved[-1]
            attempts.saving_attempt(store, plan, 0)
        store.finish_embeddings(plan.id)
        _check_whole(store, plan.id, attempts, ("a", "b"))
        _check_tidy(store, plan.id)
        assert not (store.layout.embeddings(plan.id).folder / "parts").exists()
    assert saved == sorted(saved)
    assert set(saved) == {0, 2, 4, 6}


@pytest.mark.parametrize("finish", [False, True])
def test_an_attempt_that_sleeps_before_any_of_its_steps_does_no_harm(
    tmp_path: Path, attempts: ModuleType, monkeypatch: pytest.MonkeyPatch, finish: bool
) -> None:
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
