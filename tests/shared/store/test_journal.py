"""Annotations: merges follow chains, undo takes back one entry, and a damaged or foreign entry is named."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from shoal.errors import ClusteringNotFound, MergeCycle, PreconditionFailed, StoreCorrupt, UndoConflict
from shoal.gc import find
from shoal.store import Store
from shoal.store.annotations import Annotations, Changes, Note
from shoal.store.journal import Journal, check_journal
from shoal.store.verify import VerifyReport
from shoal.store.verify_results import verify_all

K = 6


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "store")
    store.layout.clustering("named").folder.mkdir(parents=True)
    return store


@pytest.fixture
def journal(store: Store) -> Journal:
    return store.journal("named")


def write(journal: Journal, fields: dict[int, Any], author: str | None = None) -> Annotations:
    now = journal.read()
    return journal.append(now, now.setting(fields), author=author)


def test_a_merge_follows_the_chain(journal: Journal) -> None:
    now = write(journal, {3: {"name": "shoes"}, 4: {"merged_into": 3, "name": "boots"}, 5: {"merged_into": 4}})
    assert now.roots(K).tolist() == [0, 1, 2, 3, 3, 3]
    assert now.of_root(5).name == "shoes"
    assert write(journal, {4: {"merged_into": None}}).roots(K).tolist() == [0, 1, 2, 3, 4, 4]


def test_each_merge_of_a_long_chain_is_followed_once() -> None:
    asked = []

    class Counted(dict[int, Note]):
        def get(self, cluster: int, default: Any = None) -> Any:
            asked.append(cluster)
            return super().get(cluster, default)

    chain = Annotations(notes=Counted({each: Note(merged_into=each + 1) for each in range(2000)}))
    assert set(chain.roots(2001).tolist()) == {2000}
    assert len(asked) <= 2 * 2000


def test_a_circle_of_many_merges_is_named_in_short() -> None:
    ring = Annotations(notes={each: Note(merged_into=(each + 1) % 3000) for each in range(3000)})
    with pytest.raises(MergeCycle, match=r"^The merges 0 → 1 → .* → 19 → … → 0 go round in a circle"):
        ring.roots(3000)


def test_merges_in_a_circle_are_refused_and_leave_no_entry(journal: Journal) -> None:
    now = write(journal, {1: {"merged_into": 2}})
    for fields in ({2: {"merged_into": 1}}, {2: {"merged_into": 3}, 3: {"merged_into": 1}}, {4: {"merged_into": 4}}):
        with pytest.raises(MergeCycle, match="go round in a circle"):
            write(journal, fields)
    assert journal.read() == now


def test_of_two_writers_of_one_state_the_second_is_told(journal: Journal) -> None:
    before = journal.read()
    first = journal.append(before, before.setting({0: {"name": "a"}}), author="ann")
    with pytest.raises(PreconditionFailed, match="Another writer"):
        journal.append(before, before.setting({1: {"name": "b"}}), author="ben")
    assert journal.read() == first
    assert len({before.version, first.version}) == 2


def test_a_change_of_nothing_writes_nothing(journal: Journal) -> None:
    now = write(journal, {0: {"name": "a"}})
    assert write(journal, {0: {"name": "a"}}) == now
    assert now.replacing({0: Note(name="a")}) == Changes()


def test_undo_goes_back_entry_by_entry_and_erases_none(journal: Journal) -> None:
    write(journal, {0: {"name": "a"}})
    write(journal, {0: {"name": "b"}, 1: {"flag": "review"}})
    now = journal.undo(journal.read(), None, author="ann")
    assert dict(now.notes) == {0: Note(name="a")}
    now = journal.undo(now, None, author="ann")
    assert dict(now.notes) == {}
    with pytest.raises(UndoConflict, match="no change is left"):
        journal.undo(now, None, author="ann")
    assert [(each.number, each.undoes) for each in journal.entries(4)] == [(4, 1), (3, 2), (2, None), (1, None)]
    # An undo can be undone: the change counts again, and can be undone once more.
    now = journal.undo(now, 4, author="ann")
    assert dict(now.notes) == {0: Note(name="a")}
    assert not now.undone(1)
    assert dict(journal.undo(now, None, author="ann").notes) == {}


def test_undo_overwrites_no_later_change(journal: Journal) -> None:
    write(journal, {0: {"name": "a"}})
    now = write(journal, {0: {"name": "b"}})
    with pytest.raises(UndoConflict, match="changed again by a later entry"):
        journal.undo(now, 1, author=None)
    with pytest.raises(UndoConflict, match="no entry 9"):
        journal.undo(now, 9, author=None)


def test_moves_are_kept_by_set_and_taken_back(journal: Journal) -> None:
    now = journal.read()
    now = journal.append(now, now.moving("train", {7: 2, 9: 3}), author=None)
    now = journal.append(now, now.moving("val", {7: 1}), author=None)
    assert now.moves == {"train": {7: 2, 9: 3}, "val": {7: 1}}
    now = journal.append(now, now.moving("val", {7: None}), author=None)
    assert journal.read().moves == {"train": {7: 2, 9: 3}}
    assert journal.undo(now, None, author=None).moves["val"] == {7: 1}


@given(
    st.lists(
        st.one_of(
            st.none(),
            st.dictionaries(
                st.integers(0, K - 1),
                st.fixed_dictionaries(
                    {},
                    optional={
                        "name": st.none() | st.sampled_from(["a", "b"]),
                        "merged_into": st.none() | st.integers(0, K - 1),
                    },
                ),
                max_size=3,
            ),
        ),
        max_size=12,
    )
)
def test_any_history_reads_back_as_it_was_written(steps: list[Any]) -> None:
    state, states, entries = Annotations(), [Annotations()], 0
    for step in steps:
        if step is None:  # Take back the last step.
            state = states.pop() if len(states) > 1 else state
            continue
        changes = state.setting(step)
        after = state.changed(changes)
        assert after.holds(changes)
        assert dict(after.changed(changes.reverted()).notes) == dict(state.notes)
        try:
            roots = after.roots(K)
        except MergeCycle:
            continue
        assert (roots[roots] == roots).all()
        states.append(state)
        state, entries = after, entries + 1


def _damaged(journal: Journal, number: int, **fields: object) -> None:
    path = journal.layout.entry(number)
    document = json.loads(path.read_bytes())
    path.write_text(json.dumps({**document, **fields}))


def test_a_damaged_entry_is_named_and_nothing_is_read_past_it(store: Store) -> None:
    for how in ("changed", "cut", "gone"):
        clustering = f"named-{how}"
        store.layout.clustering(clustering).folder.mkdir()
        journal = store.journal(clustering)
        for name in "abc":
            write(journal, {0: {"name": name}})
        path = journal.layout.entry(2)
        if how == "changed":
            _damaged(journal, 2, author="somebody else")
        elif how == "cut":
            path.write_bytes(path.read_bytes()[:40])
        else:
            path.unlink()
        fresh = store.layout.annotations(clustering).folder.rename(store.layout.annotations_folder / f"{clustering}-2")
        store.layout.clustering(f"{clustering}-2").folder.mkdir()
        with pytest.raises(StoreCorrupt, match=r"annotations/.*/000002\.json"):
            store.journal(fresh.name).read()
        report = VerifyReport(fresh.name)
        check_journal(store.layout, fresh.name, report, K)
        assert [each.file for each in report.problems] == [f"annotations/{fresh.name}/000002.json"]


def test_verify_names_clusters_that_do_not_exist_and_files_that_do_not_belong(store: Store, journal: Journal) -> None:
    write(journal, {K: {"name": "beyond"}})
    report = VerifyReport("named")
    check_journal(store.layout, "named", report, K)
    assert "names a cluster that the clustering does not have" in str(report.problems[0])
    (journal.layout.folder / "notes.txt").write_text("mine")
    report = VerifyReport("named")
    check_journal(store.layout, "named", report, None)
    assert [each.file for each in report.problems] == ["annotations/named/notes.txt"]


def test_a_deleted_clustering_takes_its_names_along(store: Store, journal: Journal) -> None:
    now = write(journal, {0: {"name": "a"}})
    store.delete_clustering("named")
    assert not journal.layout.folder.exists()
    with pytest.raises(ClusteringNotFound):
        journal.append(now, now.setting({0: {"name": "b"}}), author=None)
    with pytest.raises(ClusteringNotFound):
        store.journal("named")
    # Made again, it has no names, although this process remembers those of before.
    store.layout.clustering("named").folder.mkdir(parents=True)
    assert store.journal("named").read() == Annotations()
    assert write(store.journal("named"), {1: {"name": "c"}}).notes == {1: Note(name="c")}


def test_names_without_their_clustering_are_reported_and_then_garbage(store: Store, journal: Journal) -> None:
    write(journal, {0: {"name": "a"}})
    assert [each.kind for each in find(store, None, work_age_s=0.0)] == []
    store.layout.clustering("named").folder.rmdir()
    assert [(each.id, each.kind, each.ok) for each in verify_all(store.layout)] == [("named", "annotations", False)]
    assert list(find(store, None)) == [], "it may be just being deleted"
    old = time.time() - 10 * 86_400
    for each in (journal.layout.folder, *journal.layout.folder.iterdir()):
        os.utime(each, (old, old))
    assert [(each.kind, each.path) for each in find(store, None)] == [("annotations", journal.layout.folder)]
