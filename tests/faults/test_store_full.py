"""A disk that fills up costs the shard being written, never what was committed, and says what to do."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from shoal.errors import StoreFull
from shoal.store import Store

SCRIPT = Path(__file__).with_name("store_attempt.py")


@pytest.fixture(scope="session")
def attempts() -> ModuleType:
    spec = importlib.util.spec_from_file_location("store_attempt", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("most", [100, 600, 50_000])
def test_a_write_that_the_system_refuses_is_store_full(tmp_path: Path, attempts: ModuleType, most: int) -> None:
    """Fails without: the errors of a full disk being told from others."""
    plan, listing = attempts.small_plan(12, 6, 4096)
    store = Store(tmp_path)
    store.create_embeddings(plan, listing)
    attempts.attempt(store, plan, 1, "before")
    run = subprocess.run(
        [sys.executable, "-W", "error", SCRIPT, "limit", tmp_path, str(most)],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    code, path = run.stdout.split()
    assert code == "store_full"
    assert Path(path).is_relative_to(store.layout.embeddings(plan.id).folder)
    assert run.stderr == ""
    found = store.embeddings(plan.id)
    assert (found.missing_shards(), store.verify(plan.id).ok) == ([0], True)
    assert list((found.layout.folder / "work").iterdir()) == []
    assert attempts.attempt(store, plan, 0, "after")
    assert store.finish_embeddings(plan.id).rows == 10


def test_freeing_space_on_a_full_disk_is_all_it_takes(tiny_disk: Path, attempts: ModuleType) -> None:
    """Fails without: the errors of a full disk being told from others."""
    plan, listing = attempts.small_plan(24, 6, 4096)
    store = Store(tiny_disk)
    store.create_embeddings(plan, listing)
    ballast = tiny_disk / "ballast"
    ballast.write_bytes(b"x" * 250_000)
    with pytest.raises(StoreFull, match="Free space"):
        _write_missing(store, plan.id, attempts)
    committed = store.embeddings(plan.id)
    assert 0 < committed.rows < 20
    assert store.verify(plan.id).ok
    ballast.unlink()
    _write_missing(store, plan.id, attempts)
    assert store.finish_embeddings(plan.id).rows == 20
    assert store.verify(plan.id).ok


def _write_missing(store: Store, embeddings_id: str, attempts: ModuleType) -> None:
    found = store.embeddings(embeddings_id)
    for shard in found.missing_shards():
        attempts.attempt(store, found.plan, shard, "o")
