"""API keys on a real server: what a token opens, how fast, and for how long."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from shoal.cli import app as cli
from shoal.errors import InvalidRequest, NotAuthenticated, NotFound, QueueUnavailable, RateLimited
from shoal.keys import KeyStore, Scope
from shoal.settings import Settings
from typer.testing import CliRunner


@pytest.fixture
def store(redis_server: str, redis_client: redis.Redis) -> Iterator[KeyStore]:
    keys = KeyStore.from_url(redis_server)
    yield keys
    keys.close()


def test_a_token_says_who_asks(store: KeyStore) -> None:
    key, token = store.create("photo team", Scope.SUBMIT)
    caller = store.admit(token, rate=100)
    assert (caller.key_id, caller.name, caller.scope) == (key.id, "photo team", Scope.SUBMIT)


def test_the_server_never_holds_what_opens_it(store: KeyStore, redis_client: redis.Redis) -> None:
    _, token = store.create("ops", Scope.ADMIN)
    secret = token.split("_", 2)[2].encode()
    for name in redis_client.scan_iter():
        kept = redis_client.hgetall(name) if redis_client.type(name) == b"hash" else redis_client.dump(name)
        assert secret not in repr(kept).encode()


def test_a_revoked_key_is_refused_at_the_next_request(store: KeyStore) -> None:
    key, token = store.create("intern", Scope.READ)
    store.admit(token, rate=100)
    assert store.any_live()
    store.revoke(key.id)
    with pytest.raises(NotAuthenticated):
        store.admit(token, rate=100)
    assert not store.any_live()
    first = store.list()[0].revoked_at
    assert first is not None
    assert store.revoke(key.id).revoked_at == first


@pytest.mark.parametrize(
    "wrong",
    [
        "",
        "secret",
        "shoal_000000000000_" + "A" * 43,
        "shoal_*_" + "A" * 43,
        "shoal_000000000000_" + "A" * 4300,
        "shoal_00000000000\n_" + "A" * 43,
    ],
)
def test_what_is_no_key_opens_nothing(store: KeyStore, wrong: str) -> None:
    store.create("ops", Scope.ADMIN)
    with pytest.raises(NotAuthenticated):
        store.admit(wrong, rate=100)


def test_one_key_s_secret_does_not_open_another(store: KeyStore) -> None:
    _, one = store.create("one", Scope.READ)
    two, _ = store.create("two", Scope.ADMIN)
    with pytest.raises(NotAuthenticated):
        store.admit(f"shoal_{two.id}_{one.split('_', 2)[2]}", rate=100)


def test_a_key_that_asks_too_fast_is_told_when_to_come_back(store: KeyStore) -> None:
    _, token = store.create("loop", Scope.READ, rate=0.5)
    store.admit(token, rate=100)
    with pytest.raises(RateLimited) as caught:
        store.admit(token, rate=100)
    assert 1 <= caught.value.members["retry_after_s"] <= 3


def test_guesses_cost_the_key_s_owner_nothing(store: KeyStore) -> None:
    key, token = store.create("busy", Scope.READ, rate=0.5)
    for _ in range(20):
        with pytest.raises(NotAuthenticated):
            store.admit(f"shoal_{key.id}_{'A' * 43}", rate=100)
    store.admit(token, rate=100)


@pytest.mark.parametrize("name", ["", "a\nb", "x" * 81, "<script>", " x"])
def test_a_name_that_could_forge_a_log_line_is_refused(store: KeyStore, name: str) -> None:
    with pytest.raises(InvalidRequest):
        store.create(name, Scope.READ)


def test_revoking_what_is_not_there_says_so(store: KeyStore) -> None:
    with pytest.raises(NotFound):
        store.revoke("000000000000")


def test_no_server_lets_nobody_in() -> None:
    store = KeyStore.from_url("unix:///nowhere/valkey.sock")
    with pytest.raises(QueueUnavailable):
        store.admit("shoal_000000000000_" + "A" * 43, rate=1)


def test_scopes_include_the_ones_below() -> None:
    assert Scope.ADMIN.includes(Scope.READ)
    assert Scope.SUBMIT.includes(Scope.READ)
    assert not Scope.READ.includes(Scope.SUBMIT)
    assert not Scope.SUBMIT.includes(Scope.ADMIN)


def test_the_command_line_makes_lists_and_revokes(
    redis_server: str, store: KeyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDIS_URL", redis_server)
    run = CliRunner().invoke
    made = run(cli, ["keys", "create", "--name", "ops", "--scope", "admin"])
    token = made.stdout.strip()
    key_id = str(store.admit(token, rate=100).key_id)
    listed = json.loads(run(cli, ["keys", "list", "--json"]).stdout)
    assert [(key["id"], key["name"], key["scope"]) for key in listed] == [(key_id, "ops", "admin")]
    assert token not in run(cli, ["keys", "list"]).stdout
    assert run(cli, ["keys", "revoke", key_id]).exit_code == 0
    assert store.list()[0].revoked_at is not None


@pytest.mark.parametrize(
    ("url", "full"),
    [
        ("redis://redis:6379/0", "redis://:p%40ss%2F@redis:6379/0"),
        ("rediss://user@redis:6379/0", "rediss://user:p%40ss%2F@redis:6379/0"),
        ("redis://:old@redis:6379/0", "redis://:p%40ss%2F@redis:6379/0"),
        ("unix:///run/valkey.sock", "unix://:p%40ss%2F@/run/valkey.sock"),
    ],
)
def test_a_password_comes_from_its_file_and_is_never_shown(tmp_path: Path, url: str, full: str) -> None:
    (tmp_path / "password").write_text("p@ss/\n")
    settings = Settings(redis_url=url, redis_password_file=tmp_path / "password")
    assert settings.redis_url.get_secret_value() == full
    assert "p%40ss" not in repr(settings)
    assert redis.Redis.from_url(full).connection_pool.connection_kwargs["password"] == "p@ss/"


def test_a_missing_password_file_stops_the_start(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nothing-here"):
        Settings(redis_password_file=tmp_path / "nothing-here")
