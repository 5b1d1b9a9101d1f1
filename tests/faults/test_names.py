"""Names are kept in haste: no writer overwrites another's entry."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from shoal.store import Store
from shoal.store.journal import check_journal
from shoal.store.verify import VerifyReport

SCRIPT = Path(__file__).with_name("store_attempt.py")


def _problems(store: Store) -> list[str]:
    report = VerifyReport("named")
    check_journal(store.layout, "named", report, None)
    return [str(each) for each in report.problems]


def test_of_processes_that_append_at_once_each_entry_is_kept(tmp_path: Path) -> None:
    """Fails without: the link, which fails where the name is taken."""
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
