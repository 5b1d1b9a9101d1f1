"""Embeddings in a bucket: committed shard by shard, read through copies, repaired and deleted, on a local S3 server."""

from __future__ import annotations

import errno
import os
import pickle
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from shoal.cli import app as cli
from shoal.errors import (
    EmbeddingsNotFound,
    ShoalError,
    StoreCorrupt,
    StoreError,
    StoreFull,
    StoreReadOnly,
    StoreUnavailable,
)
from shoal.gc import find, remove
from shoal.settings import Settings
from shoal.store import EmbeddingSet, Store
from shoal.store.copies import Copies
from shoal.store.objects import Found, Objects
from shoal.store.remote import RemoteSets
from typer.testing import CliRunner

from tests.s3 import client_of, empty_bucket, s3_server
from tests.shared.store.conftest import Toy

BUCKET, URL = "sets", "s3://sets/below/here"


@pytest.fixture(scope="module")
def server() -> Iterator[dict[str, str]]:
    with s3_server() as environment:
        yield environment


@dataclass
class Bucket:
    """A bucket seen from beside the store."""

    client: Any

    @property
    def keys(self) -> list[str]:
        found = self.client.list_objects_v2(Bucket=BUCKET).get("Contents", [])
        return [each["Key"] for each in found]

    def read(self, key: str) -> bytes:
        content: bytes = self.client.get_object(Bucket=BUCKET, Key=key)["Body"].read()
        return content

    def write(self, key: str, content: bytes) -> None:
        self.client.put_object(Bucket=BUCKET, Key=key, Body=content)

    def delete(self, key: str) -> None:
        self.client.delete_object(Bucket=BUCKET, Key=key)


@pytest.fixture(scope="module")
def client(server: dict[str, str]) -> Any:
    return client_of(server)


@pytest.fixture
def bucket(server: dict[str, str], client: Any, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    for name, value in server.items():
        monkeypatch.setenv(name, value)
    empty_bucket(client, BUCKET)
    return Bucket(client)


@pytest.fixture
def remote(bucket: Bucket, tmp_path: Path) -> RemoteSets:
    return RemoteSets(URL, tmp_path / "cache", 2**30)


@pytest.fixture
def toy(remote: RemoteSets, tmp_path: Path, make_toy: Callable[..., Toy]) -> Toy:
    made = make_toy(25, fails=(3, 17))
    made.store = Store(tmp_path / "store", remote)
    return made


def key(toy: Toy, name: str) -> str:
    return f"below/here/embeddings/{toy.id}/{name}"


def elsewhere(toy: Toy, folder: Path) -> Store:
    """The same bucket on a machine with no copies yet."""
    return Store(folder / "store", RemoteSets(URL, folder / "cache", 2**30))


class TestASetInABucket:
    def test_it_is_read_on_another_machine_as_it_was_written(self, toy: Toy, tmp_path: Path) -> None:
        toy.write_all()
        found = elsewhere(toy, tmp_path / "b").embeddings(toy.id)
        assert (found.complete, found.rows, found.failed) == (True, 23, 2)
        np.testing.assert_array_equal(found.take(np.arange(23)), toy.kept)
        assert found.metadata().column("image_path").to_pylist()[0] == "class0/0000.png"
        assert found.errors().num_rows == 2
        assert found.thumbnails([1]) == {1: b"RIFF1"}
        assert found.listing(24).num_rows == 1
        assert isinstance(found.shard(0), np.memmap)
        assert not (tmp_path / "store").exists()

    def test_its_objects_are_a_folder_s_files(self, toy: Toy, bucket: Bucket, make_toy: Callable[..., Toy]) -> None:
        toy.write_all()
        folder = make_toy(25, fails=(3, 17))
        folder.write_all()
        files = {path.relative_to(folder.folder).as_posix() for path in folder.folder.rglob("*") if path.is_file()}
        assert set(bucket.keys) == {key(toy, name) for name in files}
        for name in ("img_emb/img_emb_00000.npy", "metadata/metadata_00002.parquet", "plan.json"):
            assert bucket.read(key(toy, name)) == (folder.folder / name).read_bytes()

    def test_a_shard_has_the_files_of_the_first_to_commit_it(self, toy: Toy, tmp_path: Path) -> None:
        toy.create()
        other = Toy(elsewhere(toy, tmp_path / "b"), toy.plan, toy.listing, toy.vectors, toy.fails)
        with toy.store.shard_writer(toy.id, 0, attempt=1, owner="slow") as slow:
            rows = [i for i in range(10) if i != 3]
            slow.append(toy.vectors[rows] * 2, toy.metadata(rows))
            slow.append_error(toy.metadata([3])[0].image_id, "class0/0003.png", "image_truncated", "cut off")
            assert other.write(0, owner="fast")
            assert not slow.commit()
        found = toy.store.embeddings(toy.id)
        assert found.commits[0].owner == "fast"
        np.testing.assert_array_equal(found.take(np.arange(9)), toy.vectors[rows])
        assert not toy.store.layout.embeddings(toy.id).files_below(found.layout.work)

    def test_a_commit_whose_answer_was_lost_counts(self, toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
        toy.create()
        create = Objects.create

        def lost(objects: Objects, name: str, body: bytes) -> Found | None:
            created = create(objects, name, body)
            return create(objects, name, body) if "commits/" in name else created

        monkeypatch.setattr(Objects, "create", lost)
        assert toy.write(0)

    def test_a_killed_attempt_leaves_nothing_that_counts(self, toy: Toy, bucket: Bucket, tmp_path: Path) -> None:
        toy.create()
        writer = toy.store.shard_writer(toy.id, 0, attempt=1, owner="killed")
        rows = [i for i in range(10) if i != 3]
        writer.append(toy.vectors[rows] * 3, toy.metadata(rows))
        writer.append_error(toy.metadata([3])[0].image_id, "class0/0003.png", "image_truncated", "cut off")
        writer._stage()  # Sent, and then killed before its commit.
        assert any(each.startswith(key(toy, "work/")) for each in bucket.keys)
        other = Toy(elsewhere(toy, tmp_path / "b"), toy.plan, toy.listing, toy.vectors, toy.fails)
        assert other.store.embeddings(toy.id).missing_shards() == [0, 1, 2]
        found = other.write_all()
        np.testing.assert_array_equal(found.take(np.arange(23)), toy.kept)
        assert not any(each.startswith(key(toy, "work/")) for each in bucket.keys)

    def test_a_winner_killed_before_it_promoted_is_read_and_completed(
        self, toy: Toy, bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        toy.create()
        with monkeypatch.context() as patched:
            patched.setattr("shoal.store.commits.promote", lambda layout, commit: None)
            toy.write(0)
        assert key(toy, "img_emb/img_emb_00000.npy") not in bucket.keys
        store = elsewhere(toy, tmp_path / "b")
        np.testing.assert_array_equal(store.embeddings(toy.id).take(np.arange(3)), toy.kept[:3])
        for shard in (1, 2):
            toy.write(shard)
        store.finish_embeddings(toy.id)
        assert key(toy, "img_emb/img_emb_00000.npy") in bucket.keys
        assert store.verify(toy.id).ok

    def test_saved_parts_are_continued_on_another_machine(self, toy: Toy, bucket: Bucket, tmp_path: Path) -> None:
        toy.create()
        with toy.store.shard_writer(toy.id, 1, attempt=1, owner="first") as writer:
            writer.keep_unsaved()
            writer.append(toy.vectors[10:14], toy.metadata(range(10, 14)))
            segment = writer.take_unsaved()
            assert segment is not None
            writer.save(segment)
        other = Toy(elsewhere(toy, tmp_path / "b"), toy.plan, toy.listing, toy.vectors, toy.fails)
        assert other.store.saved_images(toy.id) == 4
        with other.store.shard_writer(toy.id, 1, attempt=2, owner="second") as writer:
            assert writer.resume() == []
            rows = [14, 15, 16, 18, 19]
            writer.append(toy.vectors[rows], toy.metadata(rows))
            writer.append_error(toy.metadata([17])[0].image_id, "class2/0017.png", "image_truncated", "cut off")
            assert writer.commit()
        np.testing.assert_array_equal(other.store.embeddings(toy.id).take(np.arange(4)), toy.vectors[10:14])
        assert not any("/parts/" in each for each in bucket.keys)

    def test_more_objects_than_one_page_lists_are_all_seen(
        self, toy: Toy, bucket: Bucket, remote: RemoteSets, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        toy.write_all()
        pages = remote.objects._client.get_paginator("list_objects_v2")

        class Small:
            def paginate(self, **options: Any) -> Any:
                return pages.paginate(**options, PaginationConfig={"PageSize": 3})

        monkeypatch.setattr(remote.objects._client, "get_paginator", lambda name: Small())
        assert toy.store.embeddings(toy.id).rows == 23
        assert toy.store.verify(toy.id).ok
        monkeypatch.setattr("shoal.store.objects._DELETED_AT_ONCE", 4)
        toy.store.delete_embeddings(toy.id)
        assert bucket.keys == []

    def test_its_notes_are_replaced(self, toy: Toy, tmp_path: Path) -> None:
        toy.create()
        for notes in ({"source": 1}, {"source": 2}):
            toy.store.write_notes(toy.id, notes)
            assert elsewhere(toy, tmp_path / "b").embeddings(toy.id).notes == notes

    def test_a_set_is_sent_to_another_process_without_its_connections(self, toy: Toy, tmp_path: Path) -> None:
        sent = pickle.dumps(toy.write_all())
        found: EmbeddingSet = pickle.loads(sent)
        np.testing.assert_array_equal(found.take(np.arange(23)), toy.kept)
        toy.store.delete_embeddings(toy.id)
        with pytest.raises(StoreError, match=rf"{socket.gethostname()} finds no embeddings at {URL}"):
            pickle.loads(sent).take(np.arange(1))


class TestDamage:
    def test_verify_reads_the_objects_and_not_the_copies(self, toy: Toy, bucket: Bucket, remote: RemoteSets) -> None:
        toy.write_all().take(np.arange(23))
        for copy in (remote.copies.folder / "copies").glob("*.npy"):
            copy.write_bytes(b"x" * copy.stat().st_size)
        assert toy.store.verify(toy.id).ok
        name = "img_emb/img_emb_00001.npy"
        content = bucket.read(key(toy, name))
        bucket.write(key(toy, name), content[:-1] + bytes([content[-1] ^ 1]))
        [problem] = toy.store.verify(toy.id).problems
        assert (problem.file, "committed checksum" in problem.problem) == (name, True)
        with pytest.raises(StoreCorrupt, match=name):
            toy.store.embeddings(toy.id).shard(1)

    def test_a_damaged_copy_is_fetched_again(self, toy: Toy, remote: RemoteSets) -> None:
        toy.write_all().shard(0)
        [copy] = (remote.copies.folder / "copies").glob("*-img_emb_00000.npy")
        copy.write_bytes(b"x" * copy.stat().st_size)
        np.testing.assert_array_equal(toy.store.embeddings(toy.id).take(np.arange(9)), toy.kept[:9])

    def test_repair_takes_damaged_shards_out_and_restores_exchanged_ones(self, toy: Toy, bucket: Bucket) -> None:
        toy.write_all()
        names = [key(toy, f"img_emb/img_emb_0000{shard}.npy") for shard in range(3)]
        first, second, _ = map(bucket.read, names)
        bucket.write(names[0], second)
        bucket.write(names[1], first)
        bucket.delete(names[2])
        report = toy.store.repair(toy.id)
        assert (sorted(report.restored), report.removed) == (
            ["img_emb/img_emb_00000.npy", "img_emb/img_emb_00001.npy"],
            [2],
        )
        found = toy.store.embeddings(toy.id)
        assert (found.complete, found.missing_shards()) == (False, [2])
        toy.write(2)
        toy.store.finish_embeddings(toy.id)
        np.testing.assert_array_equal(toy.store.embeddings(toy.id).take(np.arange(23)), toy.kept)
        assert any(each.startswith("below/here/.trash/") for each in bucket.keys)

    def test_a_set_that_is_created_again_finds_its_shards(self, toy: Toy, bucket: Bucket) -> None:
        toy.create()
        toy.write(0)
        bucket.delete(key(toy, "listing.parquet"))
        bucket.write(key(toy, "img_emb/img_emb_00007.npy"), b"of nobody")
        found = toy.create()
        assert found.missing_shards() == [1, 2]
        assert found.listing().num_rows == 25
        assert key(toy, "img_emb/img_emb_00007.npy") not in bucket.keys


class TestDeletion:
    def test_a_deleted_set_is_gone_and_writing_to_it_fails(self, toy: Toy, bucket: Bucket) -> None:
        toy.create()
        toy.write(0)
        rows = list(range(20, 25))
        with toy.store.shard_writer(toy.id, 2, attempt=1, owner="late") as writer:
            writer.append(toy.vectors[rows], toy.metadata(rows))
            toy.store.delete_embeddings(toy.id)
            with pytest.raises(EmbeddingsNotFound):
                writer.commit()
        assert toy.store.embeddings_ids() == []
        with pytest.raises(EmbeddingsNotFound):
            toy.store.embeddings(toy.id)
        with pytest.raises(EmbeddingsNotFound):
            toy.store.delete_embeddings(toy.id)

    def test_a_reader_of_a_deleted_set_is_told_so(self, toy: Toy) -> None:
        found = toy.write_all()
        mapped = found.shard(0)
        toy.store.delete_embeddings(toy.id)
        with pytest.raises(EmbeddingsNotFound):
            found.metadata()
        np.testing.assert_array_equal(mapped, toy.kept[:9])

    def test_gc_removes_what_killed_attempts_deletions_and_repairs_left(self, toy: Toy, bucket: Bucket) -> None:
        toy.write_all()
        bucket.write(key(toy, "work/00000-1-dead/img_emb_00000.npy"), b"sent, and killed")
        bucket.write("below/here/embeddings/gone-0123456789ab/img_emb/img_emb_00000.npy", b"of a deleted set")
        bucket.write("below/here/.trash/toy.1/img_emb/img_emb_00000.npy", b"of a repair")
        assert toy.store.embeddings_ids() == [toy.id]
        assert list(find(toy.store, None)) == []
        found = list(find(toy.store, None, work_age_s=-1.0))
        assert [each.address for each in found] == [
            f"s3://{BUCKET}/{key(toy, 'work/00000-1-dead')}",
            "embeddings/gone-0123456789ab/",
            ".trash/toy.1/",
        ]
        assert sum(remove(toy.store, each) for each in found) == sum(each.bytes for each in found) > 0
        assert list(find(toy.store, None, work_age_s=-1.0)) == []
        assert toy.store.verify(toy.id).ok

    def test_abandoned_embeddings_are_removed(self, toy: Toy, bucket: Bucket, queue: Any) -> None:
        toy.create()
        [found] = find(toy.store, queue, incomplete_age_s=-1.0)
        assert (found.kind, found.address) == ("incomplete", f"{URL}/embeddings/{toy.id}")
        remove(toy.store, found)
        assert bucket.keys == []


def test_the_commands_work_on_the_bucket(
    toy: Toy, bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy.write_all()
    monkeypatch.setenv("SHOAL_EMBEDDINGS_STORE", URL + "/")
    monkeypatch.setenv("SHOAL_EMBEDDINGS_CACHE", str(tmp_path / "cache"))

    def ran(*words: str) -> tuple[int, str]:
        done = CliRunner().invoke(cli, [*words, "--store", str(tmp_path / "results")])
        return done.exit_code, done.output

    assert toy.id in ran("ls")[1]
    assert ran("verify") == (0, f"{toy.id}: ok\n")
    bucket.delete(key(toy, "metadata/metadata_00000.parquet"))
    assert ran("verify", toy.id)[0] == 1
    assert "removed: shard 0" in ran("repair", toy.id)[1]
    assert ran("rm", toy.id)[0] == 0
    assert [each for each in bucket.keys if "/embeddings/" in each] == []


class TestCopies:
    def test_those_used_least_recently_are_removed_and_fetched_again(self, toy: Toy, tmp_path: Path) -> None:
        toy.write_all()
        small = Store(tmp_path / "store", RemoteSets(URL, tmp_path / "small", 700))
        found = small.embeddings(toy.id)
        mapped = [found.shard(shard) for shard in range(3)]
        kept = list((tmp_path / "small/copies").iterdir())
        assert sum(path.stat().st_size for path in kept) <= 700
        np.testing.assert_array_equal(np.concatenate(mapped), toy.kept)  # Removed copies stay mapped.
        np.testing.assert_array_equal(found.take(np.arange(23)[::-1]), toy.kept[::-1])
        assert found.metadata().num_rows == 23
        assert small.verify(toy.id).ok

    def test_the_last_use_counts(self, bucket: Bucket, tmp_path: Path) -> None:
        copies, objects = Copies(tmp_path, 25), Objects(URL)
        found = {}
        for name in ("a", "b", "c"):
            bucket.write(f"below/here/{name}", b"x" * 10)
            found[name] = objects.listed(name)[name]
        for name in ("a", "b"):
            os.utime(copies.get(objects, name, found[name]), (1000 + ord(name), 1000))
        copies.get(objects, "a", found["a"])
        copies.get(objects, "c", found["c"])
        left = {name for name in found if copies.path(objects, name, found[name]).exists()}
        assert left == {"a", "c"}

    def test_a_download_that_breaks_off_leaves_no_copy(
        self, bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        bucket.write("below/here/a", b"content")
        objects, pauses = Objects(URL, pause=lambda seconds: pauses.append(seconds)), list[float]()
        from botocore.exceptions import IncompleteReadError

        class Broken:
            def iter_chunks(self, size: int) -> Iterator[bytes]:
                yield b"con"
                raise IncompleteReadError(actual_bytes=3, expected_bytes=7)

        whole = objects.listed("a")["a"]
        get = objects._client.get_object
        answers = iter([{"Body": Broken()}])
        monkeypatch.setattr(objects._client, "get_object", lambda **asked: next(answers, None) or get(**asked))
        assert Copies(tmp_path, 100).get(objects, "a", whole).read_bytes() == b"content"
        assert len(pauses) == 1
        answers = iter([{"Body": Broken()} for _ in range(10)])
        with pytest.raises(StoreUnavailable, match="s3://sets/below/here/a"):
            Copies(tmp_path / "b", 100).get(objects, "a", whole)
        assert list((tmp_path / "b/copies").iterdir()) == []

    @pytest.mark.parametrize(("number", "error"), [(errno.ENOSPC, StoreFull), (errno.EACCES, StoreError)])
    def test_a_folder_that_cannot_be_written_is_named_with_its_setting(
        self, bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, error: type[ShoalError]
    ) -> None:
        bucket.write("below/here/a", b"content")
        found = Objects(URL).listed("a")["a"]

        def fail(self: Path, target: Path) -> None:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(Path, "replace", fail)
        with pytest.raises(error, match=rf"{tmp_path}.*SHOAL_EMBEDDINGS_CACHE") as raised:
            Copies(tmp_path, 100).get(Objects(URL), "a", found)
        assert raised.type is error
        assert list((tmp_path / "copies").iterdir()) == []

    def test_only_their_user_may_enter_their_folder(self, toy: Toy, remote: RemoteSets) -> None:
        toy.write_all()
        assert remote.copies.folder.stat().st_mode & 0o777 == 0o700

    def test_another_version_is_not_taken_for_the_one_asked_for(self, bucket: Bucket, tmp_path: Path) -> None:
        bucket.write("below/here/a", b"new")
        with pytest.raises(FileNotFoundError):
            Copies(tmp_path, 100).get(Objects(URL), "a", Found(3, '"0123"', 0.0))


class TestErrors:
    @pytest.fixture
    def refusing(self, bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, int, str], Objects]:
        from botocore.exceptions import ClientError

        def made(code: str, status: int, call: str) -> Objects:
            objects = Objects(URL, pause=lambda seconds: None)
            answer: Any = {"Error": {"Code": code, "Message": "no"}, "ResponseMetadata": {"HTTPStatusCode": status}}

            def refuse(**options: Any) -> None:
                raise ClientError(answer, call)

            monkeypatch.setattr(objects._client, call, refuse)
            return objects

        return made

    @pytest.mark.parametrize(
        ("code", "status", "error", "words"),
        [
            ("AccessDenied", 403, StoreReadOnly, "s3:PutObject"),
            ("InvalidAccessKeyId", 403, StoreError, "credentials for s3://sets/below/here/a are refused"),
            ("SlowDown", 503, StoreUnavailable, "s3://sets/below/here/a cannot be reached"),
            ("InternalError", 500, StoreUnavailable, "answers InternalError"),
            ("NotImplemented", 501, StoreError, "If-None-Match"),
            ("ConditionalRequestConflict", 409, StoreError, "ConditionalRequestConflict"),
            ("EntityTooLarge", 400, StoreError, "cannot be written .EntityTooLarge.: no"),
        ],
    )
    def test_a_refused_write_says_why(
        self, refusing: Callable[..., Objects], code: str, status: int, error: type[ShoalError], words: str
    ) -> None:
        with pytest.raises(error, match=words) as raised:
            refusing(code, status, "put_object").create("a", b"")
        assert raised.type is error

    def test_a_refused_read_says_which_permission_is_missing(self, refusing: Callable[..., Objects]) -> None:
        with pytest.raises(StoreError, match="s3:GetObject on s3://sets/below/here/"):
            refusing("403", 403, "head_object").find("a")

    def test_a_missing_bucket_is_named(self, bucket: Bucket, tmp_path: Path) -> None:
        store = Store(tmp_path, RemoteSets("s3://absent/a", tmp_path, 1))
        with pytest.raises(StoreError, match=r"no bucket 'absent'. Create it, or correct SHOAL_EMBEDDINGS_STORE"):
            store.embeddings_ids()

    def test_missing_credentials_are_named(
        self, bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.delenv(name)
        monkeypatch.setenv("HOME", str(tmp_path))
        with pytest.raises(StoreError, match=r"no credentials for s3://sets/below/here/a. Set AWS_ACCESS_KEY_ID"):
            Objects(URL).find("a")

    def test_a_server_that_is_away_is_worth_another_attempt(self, toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        with pytest.raises(StoreUnavailable, match=r"cannot be reached at http://127\.0\.0\.1:9") as raised:
            toy.store.embeddings(toy.id)
        assert raised.value.retryable

    def test_a_server_that_ignores_the_condition_is_refused(
        self, toy: Toy, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        objects = toy.store.layout.remote.objects if toy.store.layout.remote else Objects(URL)
        put = objects._client.put_object
        monkeypatch.setattr(objects._client, "put_object", lambda IfNoneMatch=None, **options: put(**options))
        with pytest.raises(StoreError, match="overwrites objects"):
            toy.create()
        assert toy.store.embeddings_ids() == []


@pytest.mark.parametrize("value", ["s3:/sets", "sets", "s3://UPPER/a", "https://sets/a", "s3://sets/a b"])
def test_a_bucket_that_is_none_is_refused(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOAL_EMBEDDINGS_STORE", value)
    with pytest.raises(ValueError, match="is not s3://BUCKET/PREFIX"):
        Settings()


def test_without_a_bucket_embeddings_are_in_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOAL_EMBEDDINGS_STORE", "")
    monkeypatch.setenv("SHOAL_EMBEDDINGS_CACHE", "")
    store = Store.of(Settings(), tmp_path)
    assert (store.root, store.layout.remote) == (tmp_path, None)


def test_a_set_that_is_opened_where_its_folder_is_not_says_what_to_do(make_toy: Callable[..., Toy]) -> None:
    toy = make_toy()
    sent = pickle.dumps(toy.write_all())
    toy.store.delete_embeddings(toy.id)
    with pytest.raises(StoreError, match="Mount the store under the same path on all nodes"):
        pickle.loads(sent).take(np.arange(1))
