"""`shoal import`: what it prints, and what it says of a file that it cannot import."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from shoal import cli
from shoal.errors import ImportInvalid
from shoal.store import Store
from typer.testing import CliRunner, Result

X = np.eye(6, 4, dtype=np.float32)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def run(store: Store, *words: str) -> Result:
    return CliRunner().invoke(cli.app, ["import", *words, "--store", str(store.root)])


def test_one_set_is_one_line(store: Store, tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", embeddings=X, labels=np.arange(6))
    done = run(store, str(tmp_path / "x.npz"), "--name", "mine")
    assert done.stdout.splitlines() == store.embeddings_ids()
    assert done.stderr == ""


def test_several_sets_are_a_line_each_and_the_command_that_scores_them(store: Store, tmp_path: Path) -> None:
    sets = {f"{each}_{what}": value for each in ("train", "val") for what, value in (("embs", X), ("labs", range(6)))}
    np.savez(tmp_path / "x.npz", allow_pickle=True, **{name: np.asarray(value) for name, value in sets.items()})
    done = run(store, str(tmp_path / "x.npz"), "--name", "mine")
    train, val = done.stdout.splitlines()
    assert (train[:11], val[:9]) == ("mine-train-", "mine-val-")
    assert f"shoal cluster {train} --score {val} --over 1" in done.stderr


def test_keys_are_flags(store: Store, tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", a=X, b=-X, who=np.array(list("uvwxyz")), what=np.arange(6))
    path = str(tmp_path / "x.npz")
    done = run(store, path, "--name", "mine", "--key", "b", "--label-key", "what", "--path-key", "who")
    found = store.embeddings(done.stdout.strip())
    np.testing.assert_array_equal(found.take(np.arange(6)), -X)
    assert found.labels() == list("012345")
    assert found.metadata(["image_path"]).column("image_path").to_pylist() == list("uvwxyz")
    error = run(store, path, "--name", "mine").exception
    assert isinstance(error, ImportInvalid)
    assert error.detail.endswith("`who` (6,) text, `what` (6,) int64. Choose the one of shape (n, dim) with --key.")
