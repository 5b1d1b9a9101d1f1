"""Names are kept through death and haste: an entry counts whole or not at all, and no writer overwrites another."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from shoal.store import Store
from shoal.store.journal import check_journal
from shoal.store.verify import VerifyReport

SCRIPT = Path(__file__).with_name("store_attempt.py")
MAX_STEPS = 20
"""More than one entry takes."""


def _problems(store: Store) -> list[str]:
    report = VerifyReport("named")
    check_journal(store.layout, "named", report, None)
    return [str(each) for each in report.problems]


def _killed(tmp_path: Path, base: Store) -> list[Store]:
    """One store for each step that a writer of an entry died before, and last one of a writer that lived."""
    roots = [tmp_path / f"{n:02}" for n in range(MAX_STEPS)]
    for root in roots:
        shutil.copytree(base.root, root)
    run = subprocess.run(
        [sys.executable, SCRIPT, "kill-naming", *map(str, roots)],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=120,
    )
    signals = [int(line) for line in run.stdout.split()]
    assert signals[-1] == 0, "the last step was not reached: raise MAX_STEPS"
    assert set(signals[:-1]) == {9}
    return [Store(root) for root in roots[: len(signals)]]


def test_names_survive_a_kill_before_any_step_of_a_write(tmp_path: Path) -> None:
    for known in (0, 2):
        base = Store(tmp_path / f"base{known}")
        base.layout.clustering("named").folder.mkdir(parents=True)
        for entry in range(known):
            journal = base.journal("named")
            now = journal.read()
            journal.append(now, now.setting({0: {"name": f"kept-{entry}"}}), author=None)
        stores = _killed(tmp_path / f"killed{known}", base)
        counted = []
        for store in stores:
            journal = store.journal("named")
            now = journal.read()
            names = {cluster: note.name for cluster, note in now.notes.items()}
            kept = {0: f"kept-{known - 1}"} if known else {}
            assert names in (kept, {**kept, 1: "killed"})
            counted.append(now.number - known)
            assert _problems(store) == []
            # The next writer goes on from what counts.
            after = journal.append(now, now.setting({1: {"name": "next"}}), author="next")
            assert journal.read() == after
            assert _problems(store) == []
        assert counted == sorted(counted), "an entry that counted does so whatever follows"
        assert 0 in counted
        assert counted.count(1) >= 2, "the writer dies after the entry counts, too"


def test_of_processes_that_append_at_once_each_entry_is_kept(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    store.layout.clustering("named").folder.mkdir(parents=True)
    go = tmp_path / "go"
    writers = [
        subprocess.Popen(
            [sys.executable, SCRIPT, "race-naming", str(store.root), str(n), str(go)], stdout=subprocess.PIPE, text=True
        )
        for n in range(2)
    ]
    go.touch()
    lost = [int(writer.communicate(timeout=120)[0]) for writer in writers]
    now = store.journal("named").read()
    assert now.number == 200, "each entry that was said to be written is there"
    assert {cluster: note.name for cluster, note in now.notes.items()} == {0: "0-99", 1: "1-99"}
    assert _problems(store) == []
    written = {(each.author, each.token) for each in store.journal("named").entries(200)}
    assert len(written) == 200
    assert all(each >= 0 for each in lost)
