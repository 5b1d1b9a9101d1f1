"""The flags of groups without a number."""

from __future__ import annotations

import pytest
from shoal.cli import app
from typer.testing import CliRunner

from tests.shared.client.conftest import Script
from tests.shared.client.test_heads_flags import sent_by


@pytest.fixture(autouse=True)
def services(script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SHOAL_CLUSTERER_URL", "SHOAL_EXTRACTOR_URL"):
        monkeypatch.setenv(name, script.url)


def test_a_method_that_counts_groups_itself_needs_no_number(script: Script) -> None:
    options = ["--graph", "min_cluster_size=20", "--graph", "min_samples=5", "--reduce", "umap"]
    body = sent_by(script, ["cluster", "e1", "--method", "hdbscan", *options])
    assert (body["method"], body["graph"]) == ("hdbscan", {"min_cluster_size": 20, "min_samples": 5})
    assert "clusters" not in body
    body = sent_by(script, ["cluster", "e1", "--method", "leiden", "--graph", "resolution=0.5"])
    assert body["graph"] == {"resolution": 0.5}


def test_only_methods_that_take_a_number_need_one_in_a_sweep(script: Script) -> None:
    body = sent_by(script, ["sweep", "e1", "--again", "--method", "leiden,hdbscan"])
    assert body["method"] == ["leiden", "hdbscan"]
    assert "clusters" not in body
    refused = CliRunner().invoke(app, ["sweep", "e1", "--again", "--method", "kmeans,leiden"])
    assert refused.exit_code != 0
    assert "Say how many clusters" in str(refused.exception or refused.output)


def test_without_number_and_method_both_are_named() -> None:
    refused = CliRunner().invoke(app, ["cluster", "e1"])
    assert "or let `--method leiden` find out" in str(refused.exception or refused.output)


def test_an_option_that_is_not_a_number_is_refused() -> None:
    refused = CliRunner().invoke(app, ["cluster", "e1", "--method", "leiden", "--graph", "resolution"])
    assert refused.exit_code == 2
    assert "resolution=0.5" in refused.output


def test_an_option_of_another_method_is_refused_by_its_name() -> None:
    refused = CliRunner().invoke(app, ["cluster", "e1", "--method", "leiden", "--graph", "steps=3"])
    assert refused.exit_code == 2
    assert "min_cluster_size" in refused.output
