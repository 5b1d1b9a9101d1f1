"""`shoal verify` and `repair`, and what commands say of a store that cannot be written: as a person runs them."""

from __future__ import annotations

import ctypes
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from shoal.cli.jobs import parse_labels
from shoal.cli.maintenance import remake_command
from shoal.importer import import_embeddings
from shoal.store import Store

GOLDEN = Path(__file__).parent / "store" / "golden"
TOY, CLUSTERING = "toy-9a06910a2f2d", "c-0002"
CAP_DAC_OVERRIDE, PR_CAPBSET_DROP = 1, 24


@pytest.fixture
def store(tmp_path: Path) -> Store:
    shutil.copytree(GOLDEN, tmp_path / "store")
    return Store(tmp_path / "store")


def _obey_permissions() -> None:
    """Take from root the right to write where it may not."""
    ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, CAP_DAC_OVERRIDE, 0, 0, 0)


def shoal(store: Store, *words: str) -> tuple[int, str, str]:
    """Exit status, output and errors of a command."""
    environment = {key: value for key, value in os.environ.items() if key != "REDIS_URL"}
    done = subprocess.run(
        [sys.executable, "-m", "shoal.cli", *words],
        env={**environment, "SHOAL_STORE": str(store.root), "COLUMNS": "400"},
        preexec_fn=_obey_permissions,
        capture_output=True,
        text=True,
        timeout=120,
    )
    return done.returncode, done.stdout, done.stderr


def test_everything_is_verified_and_every_damage_named(store: Store) -> None:
    status, output, _ = shoal(store, "verify")
    assert status == 0
    assert output.splitlines() == [f"{TOY}: ok", "c-0001: ok", f"{CLUSTERING}: ok"]
    (store.layout.clustering(CLUSTERING).folder / "metrics.json").write_text("x")
    (store.layout.embeddings_folder / "empty-1").mkdir()
    status, output, errors = shoal(store, "verify")
    assert status == 1
    assert f"{CLUSTERING}: 1 problem" in output.splitlines()
    assert f"{CLUSTERING}: metrics.json: has 1 bytes" in errors
    assert f"{CLUSTERING}: Cluster again, and remove this clustering with `shoal rm {CLUSTERING}`." in errors
    assert "empty-1: plan.json: is missing" in errors
    assert "empty-1: Extract or import the same images" in errors
    assert shoal(store, "verify", TOY)[0] == 0
    status, _, errors = shoal(store, "verify", "nothing")
    assert (status, "Traceback" in errors, "'nothing'" in errors) == (1, False, True)


def test_repair_says_what_it_took_out_and_what_writes_it_again(store: Store) -> None:
    path = store.layout.embeddings(TOY).folder / "img_emb" / "img_emb_00001.npy"
    path.write_bytes(bytes(path.stat().st_size))
    assert f"{TOY}: Repair the set with `shoal repair {TOY}`." in shoal(store, "verify", TOY)[2].splitlines()
    status, output, _ = shoal(store, "repair", TOY)
    assert status == 0
    assert "shard 1" in output
    assert "shoal extract animals --model tiny --name toy --dtype float16 --shard-rows 2 --labels" in output
    assert store.embeddings(TOY).missing_shards() == [1]
    assert shoal(store, "repair", TOY)[1] == f"{TOY}: ok, nothing to repair\n"
    assert shoal(store, "verify", TOY)[1] == f"{TOY}: ok (1 shard is not written yet)\n"


def test_repair_says_what_it_cannot_mend(store: Store, tmp_path: Path) -> None:
    np.save(tmp_path / "mine.npy", np.eye(4, dtype=np.float32))
    mine = import_embeddings(store, tmp_path / "mine.npy", name="mine")
    (store.layout.embeddings(mine).folder / "img_emb" / "img_emb_00000.npy").unlink()
    status, output, errors = shoal(store, "repair", mine)
    assert (status, "import the same file" in output, "shard 0: is damaged" in errors) == (1, True, True)
    (store.layout.embeddings(TOY).folder / "plan.json").write_text("{")
    status, output, errors = shoal(store, "repair", TOY)
    assert (status, "extract request" in output, "plan.json" in errors) == (1, True, True)
    (store.layout.clustering(CLUSTERING).folder / "centroids.npy").unlink()
    status, _, errors = shoal(store, "repair", CLUSTERING)
    assert (status, errors.startswith("store_corrupt: "), "computed again" in errors) == (1, True, True)
    for each in ("nothing", "../embeddings"):
        assert shoal(store, "repair", each)[0] == 1


def test_a_store_that_cannot_be_written_can_be_read(store: Store, tmp_path: Path) -> None:
    np.save(tmp_path / "mine.npy", np.eye(4, dtype=np.float32))
    damaged = store.layout.embeddings(TOY).folder / "img_emb" / "img_emb_00001.npy"
    damaged.write_bytes(bytes(damaged.stat().st_size))
    folders = [store.root, *(path for path in store.root.rglob("*") if path.is_dir())]
    for folder in folders:
        folder.chmod(0o555)
    try:
        assert shoal(store, "verify", "c-0001", CLUSTERING)[0] == 0
        for reading in (["ls"], ["show", CLUSTERING]):
            assert shoal(store, *reading)[0] == 0
        for writing in (
            ["import", str(tmp_path / "mine.npy"), "--name", "mine"],
            ["repair", TOY],
            ["keys", "list"],
            ["up", "--data", str(tmp_path)],
        ):
            status, _, errors = shoal(store, *writing)
            assert status == 1, writing
            assert "Traceback" not in errors
            assert errors.strip().splitlines()[-1].startswith(f"store_read_only: {store.root}"), (writing, errors)
    finally:
        for folder in folders:
            folder.chmod(0o755)


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ("none", ["--labels", "none"]),
        ({"folder_level": 1}, ["--labels", "folder:1"]),
        ({"file": "l.csv", "path_column": "p", "label_column": "l"}, ["--labels", "l.csv:p:l"]),
    ],
)
def test_the_command_that_embeds_again_names_the_labels_as_its_flag_takes_them(
    store: Store, labels: str | dict[str, str | int], words: list[str]
) -> None:
    plan = store.embeddings(TOY).plan
    plan = plan.model_copy(update={"source": plan.source.model_copy(update={"labels": labels})})
    command = shlex.split(remake_command(plan))
    at = command.index("--labels")
    assert command[at : at + 2] == words
    assert parse_labels(words[1]) == labels
