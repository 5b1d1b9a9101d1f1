"""`shoal keys` reaches the keys that the store's own services will ask for, before these run and while they do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from shoal.cli import app as cli
from shoal.embedded import open_queue
from shoal.keys import KeyStore, Scope
from typer.testing import CliRunner


def test_a_key_is_made_before_anything_runs_and_is_known_when_it_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("REDIS_URL", raising=False)
    store = tmp_path / "store"
    made = CliRunner().invoke(cli, ["keys", "create", "--name", "ops", "--scope", "admin", "--store", str(store)])
    assert made.exit_code == 0, made.output
    with open_queue(store, "a test") as url:
        keys = KeyStore.from_url(str(url))
        who = keys.admit(made.stdout.strip(), rate=10)
        assert (who.name, who.scope) == ("ops", Scope.ADMIN)
        listed = CliRunner().invoke(cli, ["keys", "list", "--json", "--store", str(store)])
        [row] = json.loads(listed.stdout)
        assert row["name"] == "ops"
        CliRunner().invoke(cli, ["keys", "revoke", row["id"], "--store", str(store)])
        assert not keys.any_live()
        keys.close()
