"""What a report says beside its pictures."""

from __future__ import annotations

import base64
import hashlib
import html
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from clusterer.results.report import page as pages
from clusterer.results.report import size
from clusterer.results.report.contents import (
    choice_table,
    class_table,
    confusions,
    extreme_clusters,
    main_figures,
    metric_table,
)
from clusterer.results.report.page import render_page
from clusterer.results.report.policy import report_policy
from shoal.store import Store
from shoal.store.clustering import Clustering

Planted = Callable[..., tuple[Any, list[str]]]
MakeSet = Callable[..., str]
RunJob = Callable[..., Clustering]


def text_of(clustering: Clustering) -> str:
    """The page as a reader sees it."""
    page = clustering.layout.report_html.read_text()
    body = re.sub(r"<style>.*?</style>", "", page, flags=re.DOTALL)
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", " ", body)))


def test_classes_and_confusions_are_those_of_the_tables(planted: Planted, make_set: MakeSet, run_job: RunJob) -> None:
    vectors, labels = planted(80)
    # Half of the rows around the first corner are called b: cluster a holds both, and b is taken for a.
    labels = ["b" if label == "a" and row % 8 == 0 and row < 40 else label for row, label in enumerate(labels)]
    embeddings = make_set("mine", vectors, labels)
    found = run_job(embeddings, clusters=4, seeds=[0, 1])
    table = class_table(found, embeddings)
    assert table is not None
    assert table["rows"][0]["label"] == "b"
    assert [(each["actual"], each["predicted"]) for each in confusions(found, embeddings)] == [("b", "a")]
    assert confusions(found, embeddings)[0]["share"] == pytest.approx(5 / 25)
    text = text_of(found)
    assert "b for a (20 %)" in text
    assert "Stability 1.000 " in text
    purest, mixed = extreme_clusters(found, embeddings, {0, 1, 2, 3})
    assert (purest[0], mixed[0]) == ("purest", "most mixed")
    majority = {row["cluster"]: row["majority"] for row in found.clusters().to_pylist()}
    assert majority[mixed[1][0]] == "a"
    assert not set(purest[1]) & set(mixed[1])


def test_files_without_an_embedding_are_told(
    planted: Planted, make_set: MakeSet, run_job: RunJob, store: Store
) -> None:
    embeddings = make_set("mine", planted(80)[0], failed=2)
    group = {"suffix": ".heic", "examples": [], "message": "3 .heic files hold HEIC."}
    store.write_notes(
        embeddings,
        {
            "not_taken": [
                {**group, "reason": "unsupported_format", "count": 3},
                {**group, "reason": "empty_folder", "count": 1, "message": "1 folder holds no image: <b>dog</b>."},
            ]
        },
    )
    text = text_of(run_job(embeddings, clusters=2))
    assert "3 files were left out, 2 could not be embedded. 1 folder holds no image: <b>dog</b>." in text


def test_a_report_says_nothing_of_missing_files_where_there_are_none(
    planted: Planted, make_set: MakeSet, run_job: RunJob
) -> None:
    text = text_of(run_job(make_set("mine", planted(80)[0]), clusters=2))
    assert "left out" not in text
    assert "None" not in text


def test_a_search_is_explained_with_every_number_tried(planted: Planted, make_set: MakeSet, run_job: RunJob) -> None:
    found = run_job(make_set("bare", planted(120)[0]), clusters="auto", clusters_range=[2, 6], seeds=[0, 1])
    text = text_of(found)
    assert "Why 4 groups" in text
    for each in found.spec["chosen"]["candidates"]:
        assert f" {each['k']} {each['neighbours_kept']:.3f} {each['stability']:.3f} " in text
    assert "The labels" not in text
    assert "tightest:" in text
    chosen = choice_table(found.spec["chosen"])
    assert chosen is not None
    assert max(each["share"] for each in chosen["candidates"]) == 1.0
    assert choice_table(None) is None


def test_the_mixed_rule_is_shown_where_clusters_are_left_over(
    planted: Planted, make_set: MakeSet, run_job: RunJob
) -> None:
    train, val = make_set("train", *planted(80)), make_set("val", *planted(40, seed=1))
    for k, there in ((4, False), (6, True)):
        found = run_job({"train": train, "score": [val, train]}, clusters=k, seed=0)
        scored = found.metrics()["scored"]
        own, same = (
            {row[0] for row in metric_table(each, scored[each], itself=each == train)["rows"]} for each in (val, train)
        )
        assert ("Accuracy, mixed" in own) is there
        assert "Accuracy, one to one" in own
        assert "Accuracy, one to one" not in same
        assert "Stability" not in own


def test_a_set_with_other_classes_has_no_confusions(
    planted: Planted, make_set: MakeSet, run_job: RunJob, settings: Any, tmp_path: Path
) -> None:
    (tmp_path / "map.csv").write_text("train_label,scored_label\na,x\nb,x\nc,y\n")
    vectors, labels = planted(40, seed=2)
    third = make_set("third", vectors, ["x" if label in "ab" else "y" for label in labels])
    request = {
        "train": make_set("train", *planted(80)),
        "score": [{"embeddings": third, "class_map": {"file": "map.csv"}}],
    }
    settings.__dict__["data"] = tmp_path
    found = run_job(request, clusters=4, seed=0)
    assert confusions(found, third) == []
    table = class_table(found, third)
    assert table is not None
    assert {row["label"]: row["accuracy_majority"] for row in table["rows"]} == {"x": 1.0, "y": 0.5}


def test_a_page_shows_less_of_each_cluster_and_then_fewer_clusters(
    planted: Planted, make_set: MakeSet, run_job: RunJob, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    embeddings = make_set("mine", *planted(400, groups=6, spread=1.0), thumbnails=True)
    found = run_job(embeddings, clusters=40, seed=0)
    whole, _ = render_page(found, store.embeddings(embeddings))
    assert "too large to mail" not in whole
    assert "fewer images" not in whole
    pictures = []
    limits = [each * len(whole) // 100 for each in (95, 60, 30)]
    monkeypatch.setattr(size, "PAGE", 30_000)
    for limit in limits:
        monkeypatch.setattr(size, "MOST_BYTES", limit)
        monkeypatch.setattr(pages, "MOST_BYTES", limit)
        page, _ = render_page(found, store.embeddings(embeddings))
        assert len(page.encode()) <= limit
        pictures.append(page.count("<img "))
    assert whole.count("<img ") > pictures[0] > pictures[1] > pictures[2] > 0
    assert "largest of 40 groups: more would make it too large to mail." in page
    assert "it shows fewer images of each" in page


def test_a_page_runs_its_own_script_only(clustered: Clustering) -> None:
    page = clustered.layout.report_html.read_bytes()
    policy = report_policy(clustered.layout.report_html)
    assert policy is not None
    for tag in (b"script", b"style"):
        text = re.findall(rb"<%s>(.*?)</%s>" % (tag, tag), page, re.DOTALL)
        assert len(text) == 1
        digest = base64.b64encode(hashlib.sha256(text[0]).digest())
        assert b"%s-src 'sha256-%s'" % (tag, digest) in page
        assert f"{tag.decode()}-src 'sha256-{digest.decode()}'" in policy
    assert b" style=" not in page
    assert b" onclick=" not in page


def test_a_page_without_a_script_has_no_policy_of_its_own(tmp_path: Path) -> None:
    page = tmp_path / "index.html"
    page.write_text(f"<!doctype html>{' ' * 1000}script-src 'sha256-{'a' * 44}'; style-src 'sha256-{'a' * 44}'")
    assert report_policy(page) is None


def test_figures_come_with_their_chance_level(clustered: Clustering) -> None:
    scored = clustered.metrics()["scored"][clustered.scored[0]]
    figures = main_figures(scored["mean"], scored["std"])
    assert [each["name"] for each in figures][:2] == ["Purity", "Adjusted mutual information"]
    assert figures[0]["chance"] != ""
    assert figures[1]["chance"] == "0.000"
    assert len(figures) == 4
