"""What the store's fault tests run, here and in other processes: one attempt at a small plan.

As a script::

    store_attempt.py race-naming ROOT N GO   100 entries, once the file GO is there; prints how many it lost
    store_attempt.py race ROOT OWNER GO      attempts at every shard, once the file GO is there; prints how many it won
    store_attempt.py limit ROOT BYTES        one attempt with files limited to BYTES; prints the error's code and path
"""

from __future__ import annotations

import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from shoal.errors import PreconditionFailed, ShoalError
from shoal.store import ModelRecord, Plan, RowMetadata, Source, Store, image_id

STEPS = ("fsync", "link", "rename", "replace", "mkdir", "unlink", "rmdir")
"""The calls of `os` that change what others see; one may sleep before each."""


def small_plan(count: int = 12, shard_rows: int = 6, dim: int = 4) -> tuple[Plan, pa.Table]:
    paths = [f"{i}.png" for i in range(count)]
    listing = pa.table({"image_id": [image_id(path) for path in paths], "image_path": paths})
    plan = Plan(
        name="small",
        source=Source.of(listing, kind="images", path="x"),
        model=ModelRecord(name="m", backend="torch", architecture="a", embedding="pooled"),
        dim=dim,
        dtype="float32",
        shard_rows=shard_rows,
        thumbnails=True,
    )
    return plan, listing


def vectors(rows: range, dim: int, owner: str) -> Any:
    """Vectors that tell who wrote them."""
    return np.repeat(np.array(rows, np.float32)[:, None], dim, axis=1) + 1000 * len(owner)


def attempt(store: Store, plan: Plan, shard: int, owner: str) -> bool:
    """Write and commit one shard; the last image of each has failed."""
    start, stop = plan.shard_range(shard)
    with store.shard_writer(plan.id, shard, attempt=1, owner=owner) as writer:
        rows = range(start, stop - 1)
        metadata = [RowMetadata(image_id(f"{i}.png"), f"{i}.png", sha256=f"{len(owner):064}") for i in rows]
        writer.append(vectors(rows, plan.dim, owner), metadata, [owner.encode()] * len(rows))
        writer.append_error(image_id(f"{stop - 1}.png"), f"{stop - 1}.png", "bad", owner)
        return writer.commit()


def saving_attempt(store: Store, plan: Plan, shard: int) -> bool:
    """Take up what is saved of one shard, save after every two images, commit; the last image has failed."""
    start, stop = plan.shard_range(shard)
    with store.shard_writer(plan.id, shard, attempt=1, owner="a") as writer:
        writer.resume()
        writer.keep_unsaved()
        for i in range(start + writer.done, stop):
            name = f"{i}.png"
            if i == stop - 1:
                writer.append_error(image_id(name), name, "bad", "a")
            else:
                record = RowMetadata(image_id(name), name, sha256=f"{1:064}")
                writer.append(vectors(range(i, i + 1), plan.dim, "a"), [record], [b"a"])
            segment = writer.take_unsaved() if writer.done % 2 == 0 else None
            if segment is not None:
                writer.save(segment)
        return writer.commit()


def name_cluster(store: Store, cluster: int, name: str) -> None:
    """Add an entry to the journal of the clustering `named`."""
    journal = store.journal("named")
    now = journal.read()
    journal.append(now, now.setting({cluster: {"name": name}}), author=name)


def before_each_step(act: Callable[[], None], patch: Callable[[object, str, object], None] = setattr) -> None:
    """Call ``act`` before every call of `STEPS`."""
    for name in STEPS:
        patch(os, name, _acting(act, getattr(os, name)))


def _acting(act: Callable[[], None], real: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any, **options: Any) -> Any:
        act()
        return real(*args, **options)

    return call


def race(root: str, owner: str, go: str) -> None:
    plan, _ = small_plan(60)
    store = Store(Path(root))
    while not Path(go).exists():
        time.sleep(0.001)
    print(sum(attempt(store, plan, shard, owner) for shard in range(plan.shards)))  # noqa: T201


def race_naming(root: str, name: str, go: str) -> None:
    store = Store(Path(root))
    while not Path(go).exists():
        time.sleep(0.001)
    lost = done = 0
    while done < 100:
        try:
            name_cluster(store, int(name), f"{name}-{done}")
            done += 1
        except PreconditionFailed:
            lost += 1
    print(lost)  # noqa: T201


def limit(root: str, most: str) -> None:
    plan, _ = small_plan(12, 6, 4096)
    store = Store(Path(root))
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(most), int(most)))
    try:
        attempt(store, plan, 0, "limited")
    except ShoalError as error:
        print(error.code, error.problem().get("path"))  # noqa: T201


if __name__ == "__main__":
    command, *arguments = sys.argv[1:]
    if command == "race-naming":
        race_naming(*arguments)
    elif command == "race":
        race(*arguments)
    else:
        limit(*arguments)
