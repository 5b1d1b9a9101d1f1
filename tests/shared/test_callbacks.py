"""Where webhooks may go, what they say, and how they are signed."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
from shoal.callbacks import AllowedHosts, payload, secrets_of, signed_headers
from shoal.errors import CallbackRefused
from shoal.schemas import ClusterRequest, Job
from shoal.settings import Settings

from tests.shared.web.conftest import SECRET, verified


@pytest.mark.parametrize(
    ("entries", "url", "allowed"),
    [
        ("hooks.example.org", "https://hooks.example.org/a", True),
        ("hooks.example.org", "https://HOOKS.example.org/a", True),
        ("Hooks.Example.org", "http://hooks.example.org:80/", True),
        ("hooks.example.org", "https://hooks.example.org:8443/", False),
        ("hooks.example.org:8443", "https://hooks.example.org:8443/", True),
        ("hooks.example.org:8443", "https://hooks.example.org/", False),
        (".example.org", "https://a.b.example.org/", True),
        (".example.org", "https://example.org/", False),
        (".example.org", "https://badexample.org/", False),
        ("example.org", "https://a.example.org/", False),
        ("example.org", "https://example.org.evil.net/", False),
        ("example.org", "https://example.org@evil.net/", False),
        ("example.org", "https://evil.net\\@example.org/", False),
        ("example.org", "https://evil.net#@example.org/", False),
        ("10.1.2.3:9000", "http://10.1.2.3:9000/", True),
        ("10.1.2.3:9000", "http://10.1.2.3/", False),
        ("10.1.2.3", "http://0xa.1.2.3/", False),
        ("[fd00::1]:90", "http://[fd00::1]:90/", True),
        ("example.org", "ftp://example.org/", False),
        ("example.org", "https:///example.org", False),
        ("", "https://example.org/", False),
    ],
)
def test_only_listed_hosts_are_allowed(entries: str, url: str, allowed: bool) -> None:
    hosts = AllowedHosts.of([each for each in entries.split(",") if each])
    if allowed:
        hosts.check(url)
    else:
        with pytest.raises(CallbackRefused):
            hosts.check(url)


def test_a_refusal_says_how_to_allow_the_host() -> None:
    with pytest.raises(CallbackRefused, match=r"adding hooks\.example:8443 to SHOAL_CALLBACK_HOSTS"):
        AllowedHosts.of(["example.org"]).check("https://hooks.example:8443/a")


@pytest.mark.parametrize(
    "entry", ["https://example.org", "example.org/path", "me@example.org", "a b", "a:0", "a:70000"]
)
def test_an_entry_that_is_no_host_is_refused(entry: str) -> None:
    with pytest.raises(ValueError, match="SHOAL_CALLBACK_HOSTS"):
        AllowedHosts.of([entry])


@pytest.mark.parametrize(
    "secret", ["plain", "whsec_", "whsec_c2hvcnQ=", "whsec_!!!", "c2hvYWwgd2ViaG9va3Mgc2VjcmV0IDEy"]
)
def test_a_weak_secret_is_refused_and_not_shown(secret: str) -> None:
    with pytest.raises(ValueError, match="openssl rand") as refused:
        secrets_of(Settings(callback_secret=secret))
    assert secret in {"plain", "whsec_"} or secret not in str(refused.value)


def test_a_secret_may_stand_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(f"{SECRET}\n")
    assert secrets_of(Settings(callback_secret_file=tmp_path / "secret")) == secrets_of(
        Settings(callback_secret=SECRET)
    )


def test_the_signature_is_that_of_the_specification() -> None:
    # The example of the reference implementations.
    secrets = secrets_of(Settings(callback_secret="whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"))
    headers = signed_headers(secrets, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
    assert headers["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


@pytest.mark.parametrize("change", ["body", "id", "timestamp", "old"])
def test_what_was_changed_or_replayed_does_not_verify(change: str) -> None:
    secrets = secrets_of(Settings(callback_secret=SECRET))
    now = int(time.time()) - (3600 if change == "old" else 0)
    headers, body = signed_headers(secrets, "a_failed", now, b'{"a":1}'), b'{"a":1}'
    body = b'{"a":2}' if change == "body" else body
    headers |= {"webhook-id": "b_failed"} if change == "id" else {}
    headers |= {"webhook-timestamp": str(now + 1)} if change == "timestamp" else {}
    with pytest.raises(ValueError, match=r"signature|old"):
        verified(headers, body, SECRET)


def test_a_long_result_is_left_out_of_the_body() -> None:
    job = Job(
        id="a",
        kind="work",
        state="succeeded",
        created_at=datetime.now(UTC),
        finished_at=datetime.now(UTC),
        request={},
        result={"a": "x" * 100_000},
    )
    event = json.loads(payload(job))
    assert (event["data"]["id"], event["data"]["result"], event["data"]["truncated"]) == ("a", None, True)


def test_no_plan_depends_on_the_callback() -> None:
    with_one = ClusterRequest(embeddings="e", clusters=3, callback_url="https://example.org/")
    assert with_one.model_dump() == ClusterRequest(embeddings="e", clusters=3).model_dump()
