"""The ways of changing a store that are struck: small, so that each of their steps can be."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module
from typing import Any

import numpy as np
import pyarrow as pa
from extractor.uploads.receive import Receiver
from shoal.deadline import Deadline
from shoal.errors import NotFound
from shoal.jobs.child import JobContext
from shoal.settings import Settings
from shoal.store import ModelRecord, Plan, RowMetadata, Source, Store, image_id
from shoal.store.analyses import ANALYSES
from shoal.store.journal import Journal, Subject
from shoal.store.uploads import Uploads
from shoal.web.spool import Spooled

from tests.faults import store_attempt as attempts
from tests.faults.steps.striking import CommitPath

ROWS, DIM = 120, 8
KMEANS = {"iterations": 3, "restarts": 1}
JOBS: Mapping[str, Mapping[str, Any]] = {
    "cluster": {"clusters": 4, "seeds": [0, 1], "pca": {"components": 4}, "kmeans": KMEANS},
    "sweep": {"clusters": [2, 3], "seeds": [0], "kmeans": KMEANS},
    "duplicates": {"threshold": 0.999},
    "quality": {"neighbours": 5},
    "assign": {"clustering": "c-made"},
}
"""Requests without their embeddings."""


def _nothing(store: Store) -> None:
    """Begin with an empty store."""


def _create(store: Store) -> Plan:
    plan, listing = attempts.small_plan()
    store.create_embeddings(plan, listing)
    return plan


def _second_shard(store: Store) -> None:
    """A set whose first shard is missing."""
    attempts.attempt(store, _create(store), 1, "a")


def _first_shard(store: Store, write: Callable[[Store, Plan, int], object]) -> None:
    """What an extraction does: open the set, write what is missing, finish."""
    plan = _create(store)
    for shard in store.embeddings(plan.id).missing_shards():
        write(store, plan, shard)
    store.finish_embeddings(plan.id)


def _rows(store: Store) -> list[int]:
    return [
        each for name in store.embeddings_ids() for each in (store.embeddings(name).rows, len(_errors(store, name)))
    ]


def _errors(store: Store, name: str) -> list[str]:
    found: list[str] = store.embeddings(name).errors().column("image_path").to_pylist()
    return found


def _damaged(store: Store) -> None:
    """A finished set, one of whose shards is cut short."""
    _first_shard(store, partial(attempts.attempt, owner="a"))
    [name] = store.embeddings_ids()
    layout = store.layout.embeddings(name)
    file = layout.data("img_emb", 0)
    file.write_bytes(file.read_bytes()[:-1])


def _repair(store: Store) -> None:
    [name] = store.embeddings_ids()
    store.repair(name)
    _first_shard(store, partial(attempts.attempt, owner="a"))


def _delete(store: Store) -> None:
    try:
        for name in store.embeddings_ids():
            store.delete_embeddings(name)
    except NotFound:
        pass


def _name(store: Store) -> None:
    """Name a cluster, unless that has happened."""
    journal = store.journal("c-made")
    now = journal.read()
    if 1 not in now.notes:
        journal.append(now, now.setting({1: {"name": "new"}}), author=None)


def _names(store: Store) -> Any:
    return {cluster: note.name for cluster, note in store.journal("c-made").read().notes.items()}


def _decisions(store: Store) -> Journal:
    return Journal(store.layout, Subject.analysis(store.layout, ANALYSES["duplicates"], "d-made"))


def _decide(store: Store) -> None:
    """Decide about an image, unless that has happened."""
    journal = _decisions(store)
    now = journal.read()
    if 1 not in now.decisions:
        journal.append(now, now.deciding({1: {"action": "drop"}}), author=None)


def _decided(store: Store) -> Any:
    return {row: each.action for row, each in _decisions(store).read().decisions.items()}


BODIES = {0: {"a.png": b"x" * 3000, "in/b.png": b"y" * 10}, 1: {"c.png": b"z" * 5000}}


def _upload(store: Store) -> None:
    """Make an upload of two parts and complete it, as a client does that repeats what was not answered."""
    receiver = Receiver(Settings(store=store.root), store)
    upload, _ = receiver.uploads.create(None, "key")
    for number, files in BODIES.items():
        body = store.root.parent / "body.tar"
        with tarfile.open(body, "w") as archive:
            for name, content in files.items():
                member = tarfile.TarInfo(name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
        digest = hashlib.sha256(body.read_bytes()).hexdigest()
        spooled = Spooled(body, body.stat().st_size, digest)
        receiver.add(upload.id, None, number, spooled, "application/x-tar", Deadline(60))
    upload = receiver.uploads.get(upload.id, None)
    if not upload.complete:
        upload.finish()


def _uploaded(store: Store) -> Any:
    return [[each.images, each.bytes, sorted(each.parts), each.complete] for each in Uploads(store.layout).all()]


def _drop_upload(store: Store) -> None:
    uploads = Uploads(store.layout)
    for each in list(uploads.all()):
        uploads.delete(each)


def _embedded(store: Store) -> None:
    """Rows around four corners, each with a copy that is nearly the same, and a clustering of them."""
    rng = np.random.default_rng(3)
    half = 3 * rng.normal(size=(4, DIM))[np.arange(ROWS // 2) % 4] + 0.4 * rng.normal(size=(ROWS // 2, DIM))
    vectors = np.concatenate([half, half + 1e-3 * rng.normal(size=half.shape)]).astype(np.float32)
    paths = [f"{row:04d}.png" for row in range(ROWS)]
    listing = pa.table({"image_id": [image_id(path) for path in paths], "image_path": paths})
    plan = Plan(
        name="set",
        source=Source.of(listing, kind="images", path="x"),
        model=ModelRecord(name="m", backend="torch", architecture="a", embedding="pixels"),
        dim=DIM,
        dtype="float32",
        shard_rows=ROWS,
        thumbnails=False,
    )
    store.create_embeddings(plan, listing)
    with store.shard_writer(plan.id, 0, attempt=1, owner="a") as writer:
        writer.append(vectors, [RowMetadata(image_id(path), path, "abcd"[int(path[:4]) % 4]) for path in paths])
        writer.commit()
    store.finish_embeddings(plan.id)


def _embedded_and(kind: str, store: Store) -> None:
    """The rows, and what one job has made of them."""
    _embedded(store)
    _job(kind, "made", store)


def _job(kind: str, job_id: str, store: Store) -> None:
    """An attempt at a job."""
    [embeddings] = [each for each in store.embeddings_ids() if each.startswith("set")]
    context = JobContext.local({"embeddings": embeddings, **JOBS[kind]}, kind=kind)
    context.id = job_id
    module = "clusterer.pipeline" if kind == "cluster" else f"clusterer.jobs.{kind}"
    import_module(module).run(context, Settings(store=store.root))


def _points(store: Store) -> Any:
    """The points of the sweep, but for the time that they took."""
    if "s-job" not in store.sweep_ids():
        return None
    return [{**each, "seconds": None} for each in store.sweep("s-job").points()]


def _import_jobs() -> None:
    from clusterer import ahead

    ahead.import_all()


PATHS: Mapping[str, CommitPath] = {
    "create": CommitPath(_nothing, _create),
    "shard": CommitPath(_second_shard, partial(_first_shard, write=partial(attempts.attempt, owner="a")), _rows),
    "parts": CommitPath(_second_shard, partial(_first_shard, write=attempts.saving_attempt), _rows),
    "repair": CommitPath(_damaged, _repair, _rows, damaged=True),
    "delete": CommitPath(_second_shard, _delete),
    "names": CommitPath(partial(_embedded_and, "cluster"), _name, _names),
    "decisions": CommitPath(partial(_embedded_and, "duplicates"), _decide, _decided),
    "upload": CommitPath(_nothing, _upload, _uploaded),
    "drop-upload": CommitPath(_upload, _drop_upload, _uploaded),
    **{
        kind: CommitPath(
            partial(_embedded_and, "cluster") if kind == "assign" else _embedded,
            partial(_job, kind, "job"),
            _points,
            imports=_import_jobs,
        )
        for kind in JOBS
    },
}
