"""`shoal compare` against a server that answers as scripted."""

from __future__ import annotations

import json

import pytest
from shoal.cli import app
from typer.testing import CliRunner

from tests.shared.client.conftest import Script

FOUND = {
    "a": {"clustering": "c1", "k": 3, "filled": 3, "kept": 1, "dissolved": 1},
    "b": {"clustering": "c2", "k": 4, "filled": 4, "kept": 1, "dissolved": 2},
    "matched_by": "image_id",
    "embeddings": [],
    "rows": 1200,
    "ari": 0.5,
    "ami": 0.25,
    "nmi_arithmetic": 0.125,
    "same": False,
    "split": {
        "total": 1,
        "clusters": [
            {
                "cluster": 2,
                "label": "cat",
                "size": 400,
                "parts": [
                    {"cluster": 0, "label": None, "rows": 300, "share": 0.75},
                    {"cluster": 3, "label": "cat", "rows": 100, "share": 0.25},
                ],
            }
        ],
    },
    "merged": {"total": 0, "clusters": []},
    "clusters": [
        {
            "cluster": 2,
            "label": "cat",
            "size": 400,
            "best": 0,
            "best_label": None,
            "jaccard": 0.7,
            "shared": 300,
            "share": 0.75,
            "share_of_best": 0.9,
            "parts": 2,
        }
    ],
    "cells": [],
    "total_cells": 9,
    "limits": {"kept": 0.75, "dissolved": 0.5, "part": 0.1},
}


def test_what_changed_is_shown(script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOAL_CLUSTERER_URL", script.url)
    script.answers = [(200, FOUND)]
    done = CliRunner().invoke(app, ["compare", "c1", "c2", "--limit", "5"])
    assert done.exit_code == 0, done.output
    assert script.seen[0][1] == "/clusterings/c1/compare/c2?limit=5"
    lines = done.stdout.splitlines()
    assert lines[0] == "1,200 rows in both, matched by image: ARI 0.5000, AMI 0.2500, NMI 0.1250"
    assert lines[2].startswith("b c2: 4 clusters, 1 kept")
    text = " ".join(done.stdout.split())
    assert "2 400 0 0.700 75 % 90 % cat" in text
    assert "clusters of a that were split: 1" in text
    assert "2 400 0 (75 %), 3 (25 %)" in text
    assert "made of several" not in text
    again = CliRunner().invoke(app, ["compare", "c1", "c2", "--json"])
    assert json.loads(again.stdout) == FOUND
