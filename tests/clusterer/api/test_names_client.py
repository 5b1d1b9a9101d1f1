"""`Client`, `AsyncClient` and `shoal names` against a real server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from clusterer.api import suggestions
from clusterer.api.clusterings import build
from clusterer.api.vectors import Vectors
from shoal import AsyncClient, Client
from shoal.cli import app as cli
from shoal.client import naming
from shoal.errors import MergeCycle, PreconditionFailed, UndoConflict
from shoal.jobs.queue import JobQueue
from shoal.settings import Settings
from shoal.store import Store
from shoal.store.clustering import Clustering
from typer.testing import CliRunner, Result

from tests.clusterer.api.test_suggestions import directions


@pytest.fixture
def url(
    serve: Callable[..., int], settings: Settings, queue: JobQueue, store: Store, monkeypatch: pytest.MonkeyPatch
) -> str:
    address = f"http://127.0.0.1:{serve(build(settings, queue, store))}"
    monkeypatch.setenv("SHOAL_CLUSTERER_URL", address)
    return address


@pytest.fixture
def client(url: str) -> Iterator[Client]:
    with Client(clusterer_url=url) as client:
        yield client


def printed(done: Result) -> str:
    """What a command prints, without the log of the server, which runs in the same process."""
    assert done.exit_code == 0, done.output
    return "\n".join(line for line in done.stdout.splitlines() if " [info " not in line)


@pytest.fixture
def names(url: str, clustering: Clustering) -> Callable[..., Result]:
    """``names(*words)``: `shoal names` of the clustering."""
    return lambda *words: CliRunner().invoke(cli, ["names", clustering.id, *words])


def test_suggested_words_name_the_clusters_without_a_name(
    monkeypatch: pytest.MonkeyPatch,
    client: Client,
    clustering: Clustering,
    store: Store,
    names: Callable[..., Result],
    tmp_path: Path,
) -> None:
    centres, _ = directions(store, clustering, clustering.scored[0])

    async def embedded(texts: list[str], *_: object) -> Vectors:
        return Vectors(np.stack([centres[int(text.split()[-1])] for text in texts]).astype(np.float32))

    monkeypatch.setattr(suggestions, "embed_inputs", embedded)
    (tmp_path / "words.txt").write_text("0\n\n 1\n2\n3\n3\n")
    shown = printed(names("--suggest", str(tmp_path / "words.txt")))
    assert "0 (100%)" in shown
    assert client.names(clustering.id).clusters == {}
    client.name(clustering.id, {2: {"name": "mine"}})
    printed(names("--suggest", str(tmp_path / "words.txt"), "--accept", "--flag", "1=review"))
    assert client.names(clustering.id).clusters == {
        0: {"name": "0"},
        1: {"name": "1", "flag": "review"},
        2: {"name": "mine"},
        3: {"name": "3"},
    }
    assert client.suggest_names(clustering.id, ["1"], most=1)[2]["suggestions"][0]["name"] == "1"
    assert names("--accept").exit_code == 2
    (tmp_path / "empty.txt").write_text("\n")
    assert names("--suggest", str(tmp_path / "empty.txt")).exit_code == 2


def test_a_client_changes_names_without_losing_anybody_elses(client: Client, clustering: Clustering) -> None:
    mine = client.names(clustering.id)
    assert (mine.clusters, mine.etag) == ({}, '"0"')
    theirs = client.name(clustering.id, {1: {"name": "theirs"}})
    with pytest.raises(PreconditionFailed):
        client.put_names(clustering.id, {0: {"name": "mine"}}, etag=mine.etag)
    with pytest.raises(PreconditionFailed):
        client.name(clustering.id, {0: {"name": "mine"}}, etag=mine.etag)
    # Without a version the change is made on top of theirs.
    assert client.name(clustering.id, {0: {"name": "mine"}}).clusters == {0: {"name": "mine"}, **theirs.clusters}
    now = client.names(clustering.id)
    assert client.put_names(clustering.id, {2: {"flag": "review"}}, etag=now.etag).clusters == {2: {"flag": "review"}}
    with pytest.raises(MergeCycle):
        client.name(clustering.id, {1: {"merged_into": 1}})


def test_a_change_that_others_are_faster_than_is_sent_again(
    client: Client, clustering: Clustering, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, other, turns = naming.Naming.names, Client(clusterer_url=url), iter(range(3))

    async def then_overtaken(self: naming.Naming, clustering_id: str) -> naming.Names:
        found = await read(self, clustering_id)
        for turn in turns:
            version = {"etag": found.etag}
            other.put_names(clustering_id, {**found.clusters, 3: {"name": f"theirs {turn}"}}, **version)
            break
        return found

    monkeypatch.setattr(naming.Naming, "names", then_overtaken)
    assert client.name(clustering.id, {0: {"name": "mine"}}).clusters == {0: {"name": "mine"}, 3: {"name": "theirs 2"}}
    other.close()


def test_moves_undo_and_history(client: Client, clustering: Clustering) -> None:
    _, val = clustering.scored
    assert client.move(clustering.id, {5: 2, 6: 1}) == {5: 2, 6: 1}
    assert client.move(clustering.id, {7: 0}, embeddings=val) == {7: 0}
    assert client.move(clustering.id, {6: None}) == {5: 2} == client.moves(clustering.id)
    assert client.undo_names(clustering.id)["undoes"] == 3
    assert client.moves(clustering.id) == {5: 2, 6: 1}
    assert client.undo_names(clustering.id, entry=1)["undoes"] == 1
    assert client.moves(clustering.id) == {}
    with pytest.raises(UndoConflict):
        client.undo_names(clustering.id, entry=1)
    assert [each["entry"] for each in client.names_history(clustering.id, limit=2)] == [5, 4]
    assert [each["entry"] for each in client.names_history(clustering.id, before=3)] == [2, 1]


def test_an_event_loop_has_the_same_methods(url: str, clustering: Clustering) -> None:
    async def both() -> tuple[naming.Names, naming.Names]:
        async with AsyncClient(clusterer_url=url) as client:
            written = await client.name(clustering.id, {0: {"name": "a"}})
            return written, await client.names(clustering.id)

    written, read = asyncio.run(both())
    assert written == read == naming.Names({0: {"name": "a"}}, read.etag)


def test_the_command_names_merges_moves_and_undoes(
    names: Callable[..., Result], client: Client, clustering: Clustering
) -> None:
    done = names("--set", "3=shoes & bags", "--set", "1=hats", "--merge", "0:3", "--flag", "1=review", "--move", "9:2")
    assert [line.split() for line in printed(done).splitlines()] == [
        ["cluster", "name", "flag", "merged", "into"],
        ["0", "3"],
        ["1", "hats", "review"],
        ["3", "shoes", "&", "bags"],
        ["1", "image", "moved", "to", "another", "cluster."],
    ]
    assert json.loads(printed(names("--undo", "--json")))["moves"] == {}
    done = names("--clear", "1", "--set", "1=caps", "--clear", "0", "--json")
    assert json.loads(printed(done))["names"] == {"1": {"name": "caps"}, "3": {"name": "shoes & bags"}}
    history = printed(names("--history"))
    assert "undo of 2; row 9: 2 → nothing" in history
    assert len(client.names_history(clustering.id)) == 4


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["--set", "shoes"], "'shoes' is not valid: write --set 3=shoes"),
        (["--set", "3="], "'3=' is not valid"),
        (["--merge", "3:x"], "'3:x' is not valid: write --merge 4:3"),
        (["--move", "a:3"], "'a:3' is not valid: write --move 17:3"),
        (["--undo", "--set", "3=a"], "it stands alone"),
        (["--entry", "3"], "give it with --undo"),
    ],
)
def test_a_value_that_is_no_change_is_refused(names: Callable[..., Result], words: list[str], problem: str) -> None:
    done = names(*words)
    assert done.exit_code == 2
    assert problem in " ".join(done.output.replace("│", " ").split())
