"""The flags of `shoal cluster` and `shoal sweep` that say which rows are clustered."""

from __future__ import annotations

import pytest
from shoal.cli import app
from typer.testing import CliRunner

from tests.shared.client.conftest import Script

JOB = {
    "id": "j1",
    "kind": "cluster",
    "state": "queued",
    "created_at": "2026-01-01T00:00:00Z",
    "attempt": 0,
    "cancel_requested": False,
    "request": {},
}
FLAGS = ["--where-label", "cat", "--where-label", "dog", "--where-path", "train/**", "--where-clusters", "c-1:3,17"]


@pytest.mark.parametrize("command", ["cluster", "sweep"])
def test_conditions_become_the_field_where(script: Script, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    for name in ("SHOAL_CLUSTERER_URL", "SHOAL_EXTRACTOR_URL"):
        monkeypatch.setenv(name, script.url)
    script.answers = [(202, JOB)]
    words = [command, "e1", "-k", "5", "--no-wait"]
    for more, where in (
        ([], None),
        (["--where-no-duplicates", "d-1"], {"not_duplicates_of": "d-1"}),
        (
            FLAGS,
            {
                "labels": ["cat", "dog"],
                "paths": ["train/**"],
                "clusters": {"clustering": "c-1", "clusters": [3, 17]},
            },
        ),
    ):
        again = ["--again"] if command == "sweep" else []
        done = CliRunner().invoke(app, [*words, *again, *more])
        assert done.exit_code == 0, done.output
        sent = [each for each in script.seen if each[0] == "POST"][-1][3]
        assert sent.get("where") == where
    refused = CliRunner().invoke(app, [*words, "--where-clusters", "c-1"])
    assert refused.exit_code == 2
    assert "CLUSTERING:N,N" in " ".join(refused.output.split())
